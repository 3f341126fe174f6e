"""Worker processes: real ones, by HTTP and behind a real Mongrel2. What they bear under load is in worker_faults.py."""

from __future__ import annotations

import base64
import collections
import contextlib
import os
import pty
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import zmq
from support import (
    SENDER,
    Mongrel2,
    behind_mongrel2,
    environment,
    free_port,
    is_running,
    listens,
    output,
    process,
    wait_for,
)
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from brubeck_lite import parse_arguments

DOORS = ["http", "mongrel2"]
GET = "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n"
COMMAND = [sys.executable, "-m", "brubeck_lite"]
HELLO = """\
import os
from brubeck_lite import Brubeck
app = Brubeck()
@app.route("/")
def index(request):
    return "{}"
"""


class Served:
    """A parent with workers: its ports by the names of doors, its log, its workers."""

    def __init__(self, child: subprocess.Popen[str], ports: dict[str, int]) -> None:
        self.child, self.ports = child, ports

    def log(self) -> str:
        return output(self.child)

    def workers(self) -> list[int]:
        """Those that are ready, the oldest first."""
        return [pid for pid in map(int, re.findall(r"worker (\d+) is ready", self.log())) if is_running(pid)]

    def wait_for_workers(self, count: int, but: Sequence[int] = ()) -> None:
        """Until there are so many, all of them others than those."""
        wait_for(lambda: len(self.workers()) == count and not {*but} & {*self.workers()},
                 what=lambda: f"workers: {self.log()}")  # fmt: skip

    def wait_to_log(self, text: str, times: int = 1) -> None:
        wait_for(lambda: len(re.findall(text, self.log())) >= times, what=lambda: f"{text!r} in the log: {self.log()}")


class Peer:
    """Plays Mongrel2."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.requests, self.replies = self.context.socket(zmq.PUSH), self.context.socket(zmq.SUB)
        self.replies.subscribe(b"")
        ports = self.requests.bind_to_random_port("tcp://127.0.0.1"), self.replies.bind_to_random_port("tcp://127.0.0.1")
        self.pull, self.pub = (f"tcp://127.0.0.1:{port}" for port in ports)
        self.port = 0

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.context.destroy(0)

    def ask(self, conn_id: int, path: str, fields: str = "{}") -> None:
        self.requests.send(f"{SENDER} {conn_id} {path} {len(fields)}:{fields},0:,".encode())

    def answers(self, conn_id: int, path: str) -> bytes:
        """The answer to this one."""
        self.ask(conn_id, path, '{"METHOD":"GET"}')
        while self.replies.poll(60_000):
            if (reply := self.replies.recv()).startswith(f"{SENDER} {len(str(conn_id))}:{conn_id}, HTTP".encode()):
                return reply
        raise AssertionError("no answer")


@contextlib.contextmanager
def serving(
    program: str, *options: str, workers: str = "2", mongrel2s: Sequence[Mongrel2 | Peer] = (), ready: int = 2,
    **settings: Any,
) -> Iterator[Served]:
    """The command line with workers, by HTTP and behind these; until so many are ready."""
    port = free_port()
    command = [*COMMAND, program, "--workers", workers, "--bind", f"127.0.0.1:{port}"]
    for mongrel2 in mongrel2s:
        command += ["--mongrel2", mongrel2.pull, mongrel2.pub]
    with process([*command, *options], **settings) as child:
        served = Served(child, {"http": port, **({"mongrel2": mongrel2s[0].port} if mongrel2s else {})})
        served.wait_for_workers(ready)

        def is_connected() -> bool:
            for peer in mongrel2s:
                if isinstance(peer, Peer):
                    peer.replies.poll(1)  # it tells its subscription when it is asked for something
            return served.log().count("connected to Mongrel2") == len(mongrel2s)

        wait_for(lambda: not ready or is_connected(), what="Mongrel2s")
        yield served
        if any(isinstance(each, Peer) for each in mongrel2s):  # which does not let itself be left
            child.terminate()
            served.wait_to_log("requests are to be finished")
            child.terminate()


@pytest.fixture(scope="module")
def mongrel2() -> Iterator[Mongrel2]:
    with Mongrel2() as mongrel2:
        yield mongrel2


@pytest.fixture
def own() -> Iterator[Mongrel2]:
    """A Mongrel2 without other handlers."""
    with Mongrel2() as own:
        yield own


@pytest.fixture(scope="module")
def served(mongrel2: Mongrel2) -> Iterator[Served]:
    """Two workers with program_workers.py, by HTTP and behind a Mongrel2."""
    stats = free_port()
    settings = {"env": {**environment(), "UPLOAD_STORE": str(mongrel2.folder / "tmp")}}
    options = ["--stats", f"127.0.0.1:{stats}", "--max-body", str(8 << 20)]
    with serving("program_workers:app", *options, mongrel2s=[mongrel2], **settings) as served:
        served.ports["stats"] = stats
        yield served
        assert served.child.poll() is None, served.log()
        assert "Traceback" not in served.log()


class Client:
    """A connection that is kept."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()
        self.socket.close()

    def ask(self, *targets: str) -> None:
        self.socket.sendall("".join(map(GET.format, targets)).encode())

    def answer(self) -> tuple[int, bytes]:
        """Status and body; OSError where that is not whole."""
        line, fields = self.file.readline(), {}
        while (field := self.file.readline()).strip():
            name, _, value = field.partition(b":")
            fields[name.lower()] = value.strip()
        if not line or not field:
            raise ConnectionError(f"no answer: {line!r}")
        size = int(fields[b"content-length"])
        if len(body := self.file.read(size)) < size:
            raise ConnectionError("a part of an answer")
        return int(line.split()[1]), body

    def get(self, target: str) -> bytes:
        self.ask(target)
        status, body = self.answer()
        assert status == 200, (status, body)
        return body


def get(port: int, target: str = "/") -> bytes:
    """The body of an answer with status 200."""
    with Client(port) as client:
        return client.get(target)


def answers(port: int, expected: bytes) -> Callable[[], bool]:
    """Whether / has this answer."""

    def ask() -> bool:
        with contextlib.suppress(OSError):
            return get(port) == expected
        return False

    return ask


def all_are_read(port: int) -> bool:
    """Whether who listens at this port has read what its clients sent."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return all(row[4].endswith(":00000000") for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01")


def run(*arguments: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """A command to its end."""
    settings = {"env": environment(), **settings}
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=120, **settings)


def figures(served: Served) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{served.ports['stats']}/", timeout=60) as answer:
        lines = [line for line in answer.read().decode().split("\n") if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def answered(served: Served, route: str) -> float:
    """How many requests to a route were."""
    told = figures(served).items()
    return sum(value for name, value in told if name.startswith(f'brubeck_lite_requests_total{{route="{route}"'))


@pytest.fixture
def program(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """Writes a program of this text as changing:app, and gives the settings of a process that finds it."""

    def write(text: str) -> dict[str, Any]:
        written = tmp_path / "written"
        written.write_text(text)
        written.rename(tmp_path / "changing.py")
        path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
        # Within a second and of one size, Python would take what it compiled before.
        return {"env": {**environment(), "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}, "cwd": tmp_path}

    return write


# What they serve


def count_by_worker(served: Served, door: str) -> collections.Counter[bytes]:
    """How many of twenty connections, or of the requests that are outstanding at once on them, each worker has."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(served.ports[door])) for _ in range(20)]
        if door == "http":
            return collections.Counter(client.get("/pid") for client in clients)
        for client in clients:
            client.ask("/wait/0.1", "/pid")
        counts = collections.Counter(body for each in clients for _, body in [each.answer(), each.answer()])
        counts.pop(b"waited 0.1")
        return counts


@pytest.mark.parametrize("door", DOORS)
def test_all_workers_serve_and_connections_are_spread(served: Served, door: str) -> None:
    seen = set[int]()

    def are_spread() -> bool:
        counts = count_by_worker(served, door)
        seen.update(map(int, counts))
        return len(counts) == 2 and min(counts.values()) >= 5  # on a busy machine one may come late

    assert any(are_spread() for _ in range(5))
    assert seen == {*served.workers()}


def test_a_websocket_talks_with_one_worker_over_many_frames(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        address = f"ws://127.0.0.1:{served.ports['mongrel2']}/echo"
        clients = [stack.enter_context(connect(address, compression=None, open_timeout=60)) for _ in range(4)]
        echoed: list[list[str]] = [[] for _ in clients]
        for number in range(200):
            for client in clients:
                client.send(f"{number}")
            for client, received in zip(clients, echoed, strict=True):
                received.append(str(client.recv(60)))
    for received in echoed:
        assert len({each.split()[0] for each in received}) == 1
        assert [each.split()[1] for each in received] == [str(number) for number in range(200)]
    assert {int(received[0].split()[0]) for received in echoed} == {*served.workers()}


@pytest.mark.parametrize("door", DOORS)
def test_pipelined_requests_are_answered_in_their_order(served: Served, door: str) -> None:
    names = [f"name{number}" for number in range(40)]
    with Client(served.ports[door]) as client:
        client.ask("/wait/0.2", *(f"/text/{name}" for name in names))
        assert client.answer() == (200, b"waited 0.2")
        assert [client.answer()[1].decode() for _ in names] == [f"Take five, {name}!" for name in names]


def test_large_answers_to_one_connection_come_whole_whichever_worker_gives_them(served: Served) -> None:
    """The parent knows the credit of each connection: credits go to the worker that answered."""
    workers, size = set(), 3_000_000
    with contextlib.ExitStack() as stack:
        client, busy = (stack.enter_context(Client(served.ports["mongrel2"])) for _ in range(2))
        for number in range(12):
            if number % 2:
                busy.ask("/wait/0.2")
            assert client.get(f"/large/{size}") == b"0123456789" * (size // 10)
            workers.add(client.get("/pid"))
            if number % 2:
                assert busy.answer()[0] == 200
    assert len(workers) == 2


def test_an_upload_to_mongrel2s_store_is_read_by_one_of_them(served: Served) -> None:
    size = 2_000_000
    for _ in range(4):
        with Client(served.ports["mongrel2"]) as client:
            head = f"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
            client.socket.sendall(head.encode() + b"x" * size)
            assert client.answer() == (200, str(size).encode())


def test_message_sockets_are_heard(served: Served) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(served.ports["mongrel2"])) for _ in range(4)]
        for number in range(20):
            for client in clients:
                client.socket.sendall(f'@chat {{"a": {number}}}\0'.encode())
            for client in clients:
                expected = base64.b64encode(f'heard {{"a": {number}}}'.encode())
                received = client.file.read(len(expected))
                if received.startswith(b"\0"):  # which ended the one before
                    received = received[1:] + client.file.read(1)
                assert received == expected


def test_several_mongrel2s_and_http_are_served_at_once() -> None:
    with (
        Mongrel2() as one,
        Mongrel2("tnetstring") as two,
        serving("program_workers:app", mongrel2s=[one, two]) as served,
    ):
        for _ in range(10):
            for port in (one.port, two.port, served.ports["http"]):
                assert get(port, "/text/Dave") == b"Take five, Dave!"


def test_a_script_that_runs_its_application_has_workers_too(program: Callable[[str], dict[str, Any]]) -> None:
    port = free_port()
    run = f'\nif __name__ == "__main__":\n    app.run(bind="127.0.0.1:{port}", workers=2)\n'
    settings = program(HELLO.format("Take five!") + run)
    with process([sys.executable, "changing.py"], **settings) as child:
        served = Served(child, {})
        served.wait_for_workers(2)
        assert get(port) == b"Take five!"
        child.terminate()
        assert child.wait(60) == 0


@pytest.mark.parametrize("cores", [1, None])
def test_auto_is_one_for_each_core_that_may_be_used(cores: int | None) -> None:
    may_use = sorted(os.sched_getaffinity(0))[:cores]
    program = "from brubeck_lite import count_workers; print(count_workers('auto'))"
    ended = run(sys.executable, "-c", program, preexec_fn=lambda: os.sched_setaffinity(0, may_use))
    assert ended.stdout == f"{len(may_use)}\n"


def test_what_a_platform_lacks_is_done_without(program: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\ndel os.memfd_create, os.sched_getaffinity\n")  # as macOS
    with serving("changing:app", workers="auto", ready=os.cpu_count() or 1, **program(HELLO.format("a"))) as served:
        assert get(served.ports["http"]) == b"a"


def test_connections_of_each_address_are_spread(program: Callable[[str], dict[str, Any]]) -> None:
    ports = [free_port(), free_port()]
    both = ", ".join(f'HTTPConnection("127.0.0.1:{port}")' for port in ports)
    text = HELLO.replace("Brubeck()", f"Brubeck([{both}])").replace("import Brubeck", "import Brubeck, HTTPConnection")
    text = text.replace('"{}"', "str(os.getpid())")
    with process([*COMMAND, "changing:app", "--workers", "2"], **program(text)) as child:
        Served(child, {}).wait_for_workers(2)
        with contextlib.ExitStack() as stack:
            for port in (*ports, ports[0]):
                clients = [stack.enter_context(Client(port)) for _ in range(12)]
                counts = collections.Counter(client.get("/") for client in clients)
                assert len(counts) == 2 and min(counts.values()) >= 3, counts


def test_a_worker_that_computes_holds_up_no_connection(
    program: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    text = HELLO + '''
@app.route("/compute")
def compute(request):
    while not os.path.exists("enough"):
        pass
    return "done"
'''
    settings = program(text.replace("{}", "a"))
    with serving("changing:app", **settings) as served, Client(served.ports["http"]) as busy:
        busy.ask("/compute")
        for _ in range(20):
            assert get(served.ports["http"]) == b"a"
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(served.ports["http"])) for _ in range(100)]
            assert {client.get("/") for client in clients} == {b"a"}
        assert not select.select([busy.socket], [], [], 0)[0]
        (tmp_path / "enough").touch()
        assert busy.answer() == (200, b"done")


# Where they are started


def make_release(folder: Path, name: str) -> None:
    """A release of changing:app, which is also a script with workers, that answers with its name; it is the current."""
    release = folder / "releases" / name
    release.mkdir(parents=True)
    run = '\nif __name__ == "__main__":\n    app.run(bind=f"127.0.0.1:{os.environ[\'PORT\']}", workers=2)\n'
    (release / "changing.py").write_text(HELLO.format(name) + run)
    (folder / "next").symlink_to(release)
    (folder / "next").rename(folder / "current")


@pytest.mark.parametrize(
    "how", ["in the link", "--chdir", "--chdir from a release", "a script", "a script in the link"]
)
def test_sighup_starts_what_a_link_to_a_release_leads_to_by_now(tmp_path: Path, how: str) -> None:
    port, current = free_port(), tmp_path / "current"
    options = ["changing:app", "--workers", "2", "--bind", f"127.0.0.1:{port}"]
    folder, command = {
        "in the link": (current, [*COMMAND, *options]),
        "--chdir": (tmp_path, [*COMMAND, *options, "--chdir", "current"]),
        "--chdir from a release": (tmp_path / "releases" / "one", [*COMMAND, *options, "--chdir", str(current)]),
        "a script": (tmp_path, [sys.executable, "current/changing.py"]),
        "a script in the link": (current, [os.path.relpath(sys.executable, tmp_path / "releases/one"), "changing.py"]),
    }[how]
    make_release(tmp_path, "one")
    settings = {"PWD": str(folder), "PORT": str(port), "PYTHONDONTWRITEBYTECODE": "1"}
    with process(command, cwd=folder, env={**environment(), **settings}) as child:
        served = Served(child, {"http": port})
        served.wait_for_workers(2)
        assert get(port) == b"one"
        for name, former in (("two", "one"), ("three", "two")):
            make_release(tmp_path, name)
            shutil.rmtree(tmp_path / "releases" / former)
            before = served.workers()
            child.send_signal(signal.SIGHUP)
            served.wait_for_workers(2, but=before)
            assert get(port) == name.encode()
        shutil.rmtree(tmp_path / "releases")
        before = served.workers()
        child.send_signal(signal.SIGHUP)
        served.wait_to_log("before it was ready; another starts after|no worker can be started for now")
        assert get(port) == b"three" and served.workers() == before
        assert "Traceback" not in served.log()


@pytest.mark.parametrize("script", ["app/changing.py", "./app/../app/changing.py"])
def test_a_script_may_go_to_another_folder_than_it_was_started_in(tmp_path: Path, script: str) -> None:
    (tmp_path / "app").mkdir()
    text = "import os\nos.chdir(os.path.dirname(os.path.abspath(__file__)))\n" + HELLO
    text += f'if __name__ == "__main__":\n    app.run(bind="127.0.0.1:{free_port()}", workers=2)\n'
    (tmp_path / "app" / "changing.py").write_text(text)
    with process([sys.executable, script], cwd=tmp_path) as child:
        served = Served(child, {})
        served.wait_for_workers(2)
        before = served.workers()
        child.send_signal(signal.SIGHUP)
        served.wait_for_workers(2, but=before)


def test_a_folder_that_was_removed_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    for workers in ("", "--workers 2"):
        command = f"exec {sys.executable} -m brubeck_lite hello:app {workers}"
        script = f"mkdir -p gone && cd gone && rmdir ../gone && {command}"
        ended = run("sh", "-c", script, cwd=tmp_path)
        assert ended.returncode == 2
        assert re.fullmatch(r"brubeck_lite: the folder that this was started in was removed: .+\n", ended.stderr)


@pytest.mark.parametrize("option", ["workers=2", "reload=True"])
def test_a_program_that_is_not_in_a_file_is_told_in_one_line(option: str) -> None:
    text = HELLO.format("hello") + f"app.run(port={free_port()}, {option})\n"
    ended = run(sys.executable, input=text)
    told = "brubeck_lite: workers and reload start the program again: put it into a file\n"
    assert (ended.returncode, ended.stderr) == (2, told)


@pytest.mark.parametrize("kept", ["an empty", "no", "a long"])
def test_temporary_files_may_be_cleaned_while_it_serves(tmp_path: Path, kept: str) -> None:
    folder = tmp_path / ("x" * 120 if kept == "a long" else "x")
    folder.mkdir()
    settings = {"env": {**environment(), "TMPDIR": str(folder)}}
    with Mongrel2() as own, serving("program_workers:app", mongrel2s=[own], **settings) as served:
        assert [*folder.iterdir()] == []
        if kept == "no":
            folder.rmdir()
        before = served.workers()
        served.child.send_signal(signal.SIGHUP)
        served.wait_for_workers(2, but=before)
        for port in served.ports.values():
            for _ in range(10):
                assert get(port, "/text/Dave") == b"Take five, Dave!"
    assert not folder.exists() or [*folder.iterdir()] == []


# When they cannot start


@pytest.mark.parametrize("program", ["nowhere:app", "program_workers:nothing"])
def test_a_first_worker_that_cannot_start_says_so_once(program: str) -> None:
    ended = run(*COMMAND, program, "--workers", "2", "--bind", f"127.0.0.1:{free_port()}")
    assert ended.returncode == 2
    assert re.fullmatch(r"brubeck_lite: .+\n", ended.stderr)


def test_an_address_that_is_taken_is_said_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run(*COMMAND, "program_workers:app", "--workers", "2", "--bind", address)
    assert ended.returncode == 2
    assert re.fullmatch(rf"brubeck_lite: cannot listen at {address}: Address already in use .+\n", ended.stderr)


@pytest.mark.parametrize("count", ["0", "-1", "many", ""])
def test_a_number_of_workers_that_is_none_is_refused(count: str) -> None:
    ended = run(*COMMAND, "program_workers:app", f"--workers={count}")
    assert ended.returncode == 2 and "is not a number of at least 1, nor auto" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("value", ["nonsense", "", "99", "1", "-1", "99999999999999999999"])
@pytest.mark.parametrize("options", [[], ["--workers", "2"]], ids=["alone", "workers"])
def test_the_variable_that_tells_workers_set_by_accident_is_one_line(value: str, options: list[str]) -> None:
    settings = {"env": {**environment(), "BRUBECK_LITE_WORKER": value}}
    ended = run(*COMMAND, "program_workers:app", *options, **settings)
    assert ended.returncode == 2
    assert re.fullmatch(r"brubeck_lite: BRUBECK_LITE_WORKER is set to '.*': unset it, .+\n", ended.stderr)


def test_a_program_that_raises_is_started_again_later_and_later(program: Callable[[str], dict[str, Any]]) -> None:
    settings = program("raise RuntimeError('not yet')")
    with serving("changing:app", ready=0, **settings) as served:
        served.wait_to_log(r"ended with exit status 1 before it was ready; another starts after [\d.]+ seconds", 2)
        delays = re.findall(r"another starts after ([\d.]+) seconds", served.log())
        assert float(delays[0]) < float(delays[1])
        assert "RuntimeError: not yet" in served.log()
        program(HELLO.format("now"))
        wait_for(answers(served.ports["http"], b"now"), what="the program")


# Signals


def test_sighup_brings_fresh_code_and_broken_code_leaves_the_old_serving(
    program: Callable[[str], dict[str, Any]],
) -> None:
    with serving("changing:app", **program(HELLO.format("old"))) as served:
        assert get(served.ports["http"]) == b"old"
        old = served.workers()
        program(HELLO.format("new"))
        served.child.send_signal(signal.SIGHUP)
        served.wait_for_workers(2, old)
        assert get(served.ports["http"]) == b"new"
        new = served.workers()
        program("this is no program")
        served.child.send_signal(signal.SIGHUP)
        served.wait_to_log("before it was ready")
        assert "SyntaxError" in served.log()
        assert served.workers() == new
        assert get(served.ports["http"]) == b"new"


SLOW_TO_FAIL = """
import os, time
from pathlib import Path
Path("started").touch()
while not Path("fail").exists():
    time.sleep(0.01)
raise SystemExit("this version cannot start")
"""


def test_a_sighup_while_the_version_before_is_about_to_fail_still_brings_the_new_one(
    program: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    with serving("changing:app", **program(HELLO.format("old"))) as served:
        old = served.workers()
        program(SLOW_TO_FAIL)
        served.child.send_signal(signal.SIGHUP)
        wait_for((tmp_path / "started").exists, what=served.log)
        program(HELLO.format("new"))
        served.child.send_signal(signal.SIGHUP)
        served.wait_to_log("replacing [23] workers", 2)
        (tmp_path / "fail").touch()
        served.wait_for_workers(2, old)
        assert get(served.ports["http"]) == b"new"


def test_a_worker_that_asks_for_its_sockets_after_a_signal_to_the_parent_gets_none(
    program: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    deaf = """
import signal, time
from pathlib import Path
signal.signal(signal.SIGTERM, signal.SIG_IGN)
Path("started").touch()
while not Path("go").exists():
    time.sleep(0.01)
"""
    with serving("changing:app", **program(HELLO.format("old"))) as served:
        program(deaf + HELLO.format("new"))
        served.child.send_signal(signal.SIGHUP)
        wait_for((tmp_path / "started").exists, what=served.log)
        served.child.terminate()
        served.wait_to_log("has ended")
        (tmp_path / "go").touch()
        assert served.child.wait(60) == 0
        assert "Traceback" not in served.log()


MOVING = HELLO.format("{text}") + """
import time
from brubeck_lite import Mongrel2Connection
@app.route("/slow")
def slow(request):
    open("asked", "a").close()
    time.sleep(1)
    return "finished"
if __name__ == "__main__":
    app.run({addresses}, workers=2)
"""


def test_sighup_leaves_the_addresses_that_the_program_has_no_longer(own: Mongrel2, tmp_path: Path) -> None:
    script, before, after = tmp_path / "moving.py", free_port(), free_port()
    connection = f"Mongrel2Connection({own.pull!r}, {own.pub!r})"
    script.write_text(MOVING.format(text="old", addresses=f"[{before}, {connection}]"))
    with process([sys.executable, str(script)], cwd=tmp_path) as child, Client(own.port) as client:
        served = Served(child, {})
        served.wait_for_workers(2)
        old = served.workers()
        assert get(before) == get(own.port) == b"old"
        script.write_text(MOVING.format(text="new", addresses=after))
        client.ask("/slow")
        wait_for((tmp_path / "asked").exists, what=served.log)
        child.send_signal(signal.SIGHUP)
        served.wait_for_workers(2, old)
        assert client.answer() == (200, b"finished")
        wait_for(lambda: not listens(before), what="the address to be left")
        served.wait_to_log("has ended", 2)
        client.ask("/")
        with behind_mongrel2("moving:app", own, "--chdir", str(tmp_path)):
            assert client.answer() == (200, b"new")
        assert get(after) == b"new"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ends_before_it_is_replaced_holds_up_no_other(number: signal.Signals) -> None:
    with serving("program_workers:app") as served:
        old = served.workers()
        served.child.send_signal(signal.SIGHUP)
        served.wait_to_log("replacing 2 workers")
        os.kill(old[0], number)
        served.wait_for_workers(2, but=old)
        assert "Traceback" not in served.log()


def end_by(served: Served, how: str) -> None:
    """End it as `kill`, a terminal or systemd does."""
    if how == "SIGTERM":
        served.child.terminate()
    else:
        os.killpg(served.child.pid, signal.SIGINT if how == "Ctrl-C" else signal.SIGTERM)


@pytest.mark.parametrize("how", ["SIGTERM", "Ctrl-C", "SIGTERM to all"])
def test_what_is_asked_is_answered_before_the_end(mongrel2: Mongrel2, how: str, tmp_path: Path) -> None:
    settings = {"env": {**environment(), "TMPDIR": str(tmp_path)}, "start_new_session": True}
    with Mongrel2() as own, serving("program_workers:app", mongrel2s=[own], **settings) as served:
        workers = served.workers()
        with contextlib.ExitStack() as stack:
            idle = stack.enter_context(Client(served.ports["http"]))
            assert idle.get("/pid")
            slow = [stack.enter_context(Client(port)) for port in served.ports.values() for _ in range(3)]
            for client in slow:
                client.ask("/wait/1.0")
            end_by(served, how)
            for client in slow:
                assert client.answer() == (200, b"waited 1.0")
            assert idle.file.read() == b""  # it keeps nobody
            assert served.child.wait(60) == 0
        assert not any(map(is_running, workers))
        assert [*tmp_path.glob("brubeck_lite-*")] == []
        assert "Traceback" not in served.log() and "not finished in time" not in served.log()


def test_a_mongrel2_that_comes_back_during_a_stop_is_left_to_the_next_handler() -> None:
    with (
        Mongrel2() as own,
        serving("program_workers:app", mongrel2s=[own]) as served,
        Client(served.ports["http"]) as slow,
    ):
        own.kill()
        served.wait_to_log("is gone")
        slow.ask("/wait/3.0")
        wait_for(lambda: all_are_read(served.ports["http"]), what="the request to be read")
        served.child.terminate()
        served.wait_to_log("requests are to be finished")
        own.start()
        with Client(own.port) as client:
            client.ask("/text/Dave")
            assert slow.answer() == (200, b"waited 3.0")
            assert served.child.wait(60) == 0
            assert served.log().count("connected to Mongrel2") == 1
            with behind_mongrel2("program_workers:app", own):
                assert client.answer() == (200, b"Take five, Dave!")


def test_a_second_signal_ends_at_once() -> None:
    with serving("program_workers:app") as served:
        workers = served.workers()
        with Client(served.ports["http"]) as client:
            client.ask("/wait/9.0")
            served.child.terminate()
            served.wait_to_log("requests are to be finished")
            served.child.terminate()
            assert served.child.wait(60) == 0
            assert client.file.read() == b""  # nobody waited for the answer
        wait_for(lambda: not any(map(is_running, workers)), what="the end of the workers")


@pytest.mark.parametrize("door", DOORS)
def test_sigterm_to_one_worker_replaces_it_and_loses_nothing(served: Served, door: str) -> None:
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Client(served.ports[door])) for _ in range(8)]
        for client in slow:
            client.ask("/wait/0.5")
        old = served.workers()
        os.kill(old[0], signal.SIGTERM)
        for _ in range(20):
            assert get(served.ports[door], "/text/Dave") == b"Take five, Dave!"
        for client in slow:
            assert client.answer() == (200, b"waited 0.5")
    served.wait_for_workers(2, old[:1])


def test_workers_are_replaced_after_so_many_requests() -> None:
    with serving("program_workers:app", "--max-requests", "20") as served:
        old = served.workers()
        port = served.ports["http"]
        wait_for(lambda: get(port, "/pid") and not {*old} & {*served.workers()}, what="new workers")
        served.wait_to_log(r"worker \d+ has ended", 2)
        assert "Traceback" not in served.log() and "before it was ready" not in served.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP], ids=["its end", "other workers"])
def test_an_upload_that_is_on_its_way_is_answered(number: signal.Signals) -> None:
    """Before the parent leaves Mongrel2; or by another worker, where it takes longer than a worker has to end."""
    with Mongrel2() as own:
        store = own.folder / "tmp"
        settings = {"env": {**environment(), "UPLOAD_STORE": str(store)}}
        with serving("program_workers:app", mongrel2s=[own], **settings) as served, Client(own.port) as client:
            old = served.workers()
            head = b"POST /body HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            client.socket.sendall(head + b"5\r\nhello\r\n")
            wait_for(lambda: [*store.iterdir()], what="the file of the upload")
            get(own.port, "/pid")  # behind the message with which the upload began
            served.child.send_signal(number)
            if number == signal.SIGHUP:
                wait_for(lambda: not any(map(is_running, old)), what="the end of the former workers")
            else:
                served.wait_to_log("requests are to be finished", 2)
                time.sleep(1)  # in which it would have left
            client.socket.sendall(b"5\r\nworld\r\n0\r\n\r\n")
            assert client.answer() == (200, b"10")
            wait_for(lambda: not [*store.iterdir()], what="the file to be removed")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_large_answer_to_what_was_asked_before_a_stop_comes_whole(workers: str) -> None:
    with Mongrel2() as own, behind_mongrel2("program_workers:app", own, "--workers", workers) as child:
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(get, own.port, "/late/2.0/2000000")
            wait_for(lambda: get(own.port, "/text/Dave"), what="an answer")
            time.sleep(0.5)
            child.terminate()
            assert len(answer.result()) == 2_000_000
        assert child.wait(60) == 0


def test_a_parent_that_stops_deals_nothing_to_a_worker_that_was_told_that_no_more_will_come() -> None:
    with Mongrel2() as own:
        store = own.folder / "tmp"
        settings = {"env": {**environment(), "UPLOAD_STORE": str(store)}}
        with (
            serving("program_workers:app", workers="1", ready=1, mongrel2s=[own], **settings) as served,
            Client(own.port) as upload,
        ):
            get(own.port, "/spawn/8.0")
            served.child.send_signal(signal.SIGHUP)
            served.wait_to_log("is ready", 2)
            served.wait_to_log("requests are to be finished")
            time.sleep(0.5)  # in which the former worker is told so: it only waits for what it has spawned
            upload.socket.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            wait_for(lambda: [*store.iterdir()], what="the file of the upload")
            current = served.workers()[-1]
            served.child.terminate()
            served.wait_to_log("requests are to be finished", 2)
            assert {get(own.port, "/pid") for _ in range(4)} == {str(current).encode()}
            upload.socket.sendall(b"0\r\n\r\n")
            assert upload.answer() == (200, b"0")


# Workers that die


def test_http_clients_of_a_worker_that_dies_see_the_connection_end(served: Served) -> None:
    old = served.workers()
    with Client(served.ports["http"]) as client, pytest.raises(ConnectionError):
        client.get("/die")
    wait_for(lambda: len({*old} & {*served.workers()}) == 1, what="the worker's end")
    served.wait_for_workers(2)


def test_mongrel2s_clients_of_a_worker_that_dies_get_502_at_once(served: Served) -> None:
    with Client(served.ports["mongrel2"]) as client:
        client.ask("/die")
        assert client.answer() == (502, b"502 Bad Gateway\n")
        assert client.file.read() == b""
    served.wait_for_workers(2)


def test_a_worker_that_dies_under_load_costs_its_own_clients_their_answers_and_nobody_else(served: Served) -> None:
    port, statuses, dying = served.ports["mongrel2"], collections.Counter[int](), threading.Event()

    def ask() -> None:
        while True:
            with Client(port) as client:
                client.socket.settimeout(30)
                status = 200
                while status == 200:
                    if dying.is_set() and statuses[200] > 1500:
                        return
                    client.ask("/wait/0.02")
                    status = client.answer()[0]
                    statuses[status] += 1

    with ThreadPoolExecutor(40) as pool:
        asking = [pool.submit(ask) for _ in range(40)]
        wait_for(lambda: statuses[200] > 400, what="answers")
        os.kill(served.workers()[0], signal.SIGKILL)
        dying.set()
        for each in asking:
            each.result()
    assert {*statuses} <= {200, 502}, statuses
    assert statuses[502] <= 40
    served.wait_for_workers(2)


def test_what_came_as_a_worker_died_is_dealt_to_others(served: Served) -> None:
    """The parent stands still meanwhile. Of a worker that began after the parent was connected to Mongrel2 it mostly
    reads the requests first, and hears of the death later: so there are three."""
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(served.ports["mongrel2"])) for _ in range(50)]
            served.child.send_signal(signal.SIGSTOP)
            for client in clients:
                client.ask("/wait/0.01")
            wait_for(lambda: all_are_read(served.ports["mongrel2"]), what="Mongrel2 to read them")
            dying = served.workers()[-1]
            os.kill(dying, signal.SIGKILL)
            wait_for(lambda dying=dying: not is_running(dying), what="its end")  # type: ignore[misc]
            served.child.send_signal(signal.SIGCONT)
            statuses = collections.Counter(client.answer()[0] for client in clients)
        assert 503 not in statuses and statuses[200] >= 25, statuses
        served.wait_for_workers(2, but=[dying])


def test_what_no_worker_is_left_to_answer_is_502_when_the_parent_ends(
    own: Mongrel2, program: Callable[[str], dict[str, Any]]
) -> None:
    with serving("changing:app", mongrel2s=[own], **program(HELLO.format("old"))) as served:
        program("this is no program")
        for pid in served.workers():
            os.kill(pid, signal.SIGKILL)
        served.wait_to_log("before it was ready")
        with Client(own.port) as client:
            client.ask("/", "/")
            wait_for(lambda: all_are_read(own.port), what="Mongrel2 to read it")
            served.child.terminate()
            assert client.answer()[0] == 502
        assert served.child.wait(60) == 0


def test_what_is_asked_before_any_worker_was_ready_waits_in_mongrel2_for_the_next_handler(
    own: Mongrel2, program: Callable[[str], dict[str, Any]]
) -> None:
    broken = HELLO.format("new") + "@app.on_start\ndef start():\n    raise OSError('no database')\n"
    with Client(own.port) as client:
        with serving("changing:app", mongrel2s=[own], ready=0, **program(broken)) as served:
            client.ask("/")
            served.wait_to_log("before it was ready", 2)
        with serving("changing:app", mongrel2s=[own], **program(HELLO.format("new"))):
            assert client.answer() == (200, b"new")


def talk(port: int, path: str) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{port}{path}", compression=None, open_timeout=60)


def test_a_websocket_of_a_worker_that_dies_is_closed(served: Served) -> None:
    with talk(served.ports["mongrel2"], "/die-in-a-websocket") as client:
        client.send("now")
        with pytest.raises(ConnectionClosed):
            client.recv(60)
    served.wait_for_workers(2)


@pytest.mark.parametrize("door", DOORS)
def test_a_stream_of_a_worker_that_dies_is_no_whole_answer(served: Served, door: str) -> None:
    with Client(served.ports[door]) as client:
        client.ask("/die-in-a-stream")
        received = client.file.read()
    assert received.endswith(b"\r\n\r\n5\r\nbegun\r\n")  # without the last chunk, nor a 502 behind it
    served.wait_for_workers(2)


def test_children_that_a_worker_leaves_do_not_hide_its_end(served: Served) -> None:
    old = served.workers()
    with Client(served.ports["mongrel2"]) as client:
        client.ask("/leave-children")
        assert client.answer()[0] == 502
    served.wait_to_log(r"left behind: \d+ \d+\.")
    children = [int(pid) for pid in re.findall(r"left behind: (\d+) (\d+)\.", served.log())[-1]]
    assert all(map(is_running, children))
    for child in children:
        os.kill(child, signal.SIGKILL)
    served.wait_for_workers(2)
    assert {*old} != {*served.workers()}


def test_what_a_handler_starts_does_not_keep_the_port_of_its_server(
    program: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    text = HELLO.replace('"{}"', 'str(os.system("sleep 60 & echo $! > started"))')
    with serving("changing:app", **program(text)) as served:
        assert get(served.ports["http"]) == b"0"
    started = int((tmp_path / "started").read_text())
    assert is_running(started)
    socket.create_server(("127.0.0.1", served.ports["http"])).close()
    os.kill(started, signal.SIGKILL)


def test_a_worker_that_closes_all_its_descriptors_is_replaced(served: Served) -> None:
    old = served.workers()
    with Client(served.ports["mongrel2"]) as client:
        client.ask("/close-all")
        assert client.answer()[0] == 502
    served.wait_for_workers(2)
    assert {*old} != {*served.workers()}


def test_workers_whose_parent_is_gone_leave_its_address_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with process([*COMMAND, "program_workers:app", "--workers", "1", "--bind", f"unix:{path}"]) as child:
        served = Served(child, {})
        served.wait_for_workers(1)
        (worker,) = served.workers()
        os.kill(worker, signal.SIGSTOP)
        child.kill()
        path.unlink()
        with socket.socket(socket.AF_UNIX) as following:
            following.bind(str(path))
            os.kill(worker, signal.SIGCONT)
            wait_for(lambda: not is_running(worker), what="its end")
            assert path.exists()


DIES_UNREAD = """\
import os, signal, socket
from brubeck_lite import Brubeck
from eventlet import patcher
app = Brubeck()

@app.route("/die")
def die(request):
    '''Tell the parent figures, and die with its answer unread: nothing else of this process runs meanwhile.'''
    for number in range(3, 64):
        try:
            with patcher.original("socket").socket(fileno=os.dup(number)) as own:
                if own.family == socket.AF_UNIX and own.type == socket.SOCK_STREAM and own.getpeername() == "":
                    own.send(b'{"stats": {}}\\n')
        except OSError:
            pass
    patcher.original("time").sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_worker_that_dies_with_something_unread_is_replaced_and_no_error(
    program: Callable[[str], dict[str, Any]],
) -> None:
    with serving("changing:app", workers="1", ready=1, **program(DIES_UNREAD)) as served:
        for _ in range(2):
            before = served.workers()
            with Client(served.ports["http"]) as client, contextlib.suppress(OSError):
                client.ask("/die")
                client.answer()
            served.wait_for_workers(1, but=before)
        assert served.log().count("was ended by SIGKILL") == 2
        assert "Traceback" not in served.log() and "went wrong" not in served.log()


def test_a_worker_has_more_to_tell_than_goes_at_once(program: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    """The names of all templates, which are more than the socket to the parent holds."""
    templates = tmp_path / "templates"
    templates.mkdir()
    names = [templates / f"{number:04}{'x' * 200}" for number in range(2000)]
    for name in names:
        name.touch()
    limit = int(Path("/proc/sys/net/core/wmem_default").read_text())
    assert sum(len(str(name)) for name in names) > 2 * limit
    text = HELLO.replace("import Brubeck", "import Brubeck, jinja2_templates").format("one")
    text = text.replace("app = Brubeck()", f"app = Brubeck()\napp.templates = jinja2_templates({str(templates)!r})")
    with serving("changing:app", "--reload", workers="1", ready=1, **program(text)) as served:
        in_order = next(os.walk(templates))[2]
        for file in (templates / in_order[0], templates / in_order[-1]):
            before, count = served.workers(), served.log().count("the program has changed")

            def is_noticed(file: Path = file, count: int = count) -> bool:
                if time.time() - file.stat().st_mtime > 3:
                    file.touch()
                return served.log().count("the program has changed") > count

            wait_for(is_noticed, what=served.log)
            served.wait_for_workers(1, but=before)
        assert get(served.ports["http"]) == b"one"
        assert "Traceback" not in served.log()


# Figures


def test_figures_of_all_are_told_together_and_do_not_fall_when_one_dies(served: Served) -> None:
    before = answered(served, "text")
    for _ in range(20):
        get(served.ports["http"], "/text/a")
        get(served.ports["mongrel2"], "/text/a")
    wait_for(lambda: answered(served, "text") == before + 40, what="all to be counted")
    restarts = figures(served)["brubeck_lite_worker_restarts_total"]
    os.kill(served.workers()[0], signal.SIGKILL)
    seen = set()

    def is_replaced() -> bool:
        seen.add(answered(served, "text"))
        return figures(served)["brubeck_lite_worker_restarts_total"] == restarts + 1 and len(served.workers()) == 2

    wait_for(is_replaced, what="another")
    assert seen == {before + 40}
    wait_for(lambda: figures(served)["brubeck_lite_workers"] == 2, what="both to tell")


def test_figures_have_what_a_worker_answered_just_before_it_ended(served: Served) -> None:
    before, workers = answered(served, "text"), served.workers()
    for _ in range(40):
        get(served.ports["http"], "/text/a")
    for pid in workers:
        os.kill(pid, signal.SIGTERM)
    for pid in workers:
        served.wait_to_log(f"worker {pid} has ended")
    assert answered(served, "text") == before + 40
    served.wait_for_workers(2)


# What a parent bears


def test_an_answer_to_a_client_of_a_mongrel2_that_is_gone_is_counted() -> None:
    stats = free_port()
    options = ["--stats", f"127.0.0.1:{stats}"]
    with Mongrel2() as own, serving("program_workers:app", *options, mongrel2s=[own]) as served:
        served.ports["stats"] = stats
        with Client(own.port) as client:
            client.ask("/wait/3.0")
            get(own.port, "/pid")  # behind it
            own.kill()
        own.start()
        get(own.port, "/pid")
        wait_for(lambda: figures(served)["brubeck_lite_dropped_answers_total"] == 1, what="the figure")


def test_replies_that_are_none_are_dropped_with_a_line_and_the_parent_goes_on(served: Served) -> None:
    assert get(served.ports["mongrel2"], "/odd-replies") == b"said"
    served.wait_to_log("dropped a message of a worker that is no reply: b'no sender 1:1, x'")
    assert get(served.ports["mongrel2"], "/text/Dave") == b"Take five, Dave!"


def test_a_program_that_prints_much_is_read(served: Served) -> None:
    assert get(served.ports["http"], "/print/1000000") == b"printed"
    assert get(served.ports["mongrel2"], "/print/1000000") == b"printed"


def test_messages_that_are_none_do_not_end_the_parent() -> None:
    with Peer() as peer, serving("program_workers:app", mongrel2s=[peer]) as served:
        peer.ask(1, "/wait/1.0", '{"METHOD":"GET"}')  # of the first client something is outstanding
        for rest in (b"", b"nothing", b":,", b"-1:{},0:,", b"9" * 5000 + b":{},0:,", b"x:{},0:,", b"99:{},0:,"):
            for conn_id in (b"1", b"2", b"", b"1 2", b"9" * 5000):
                for path in (b"/", b"@*", b"", b"@chat"):
                    peer.requests.send(b" ".join([SENDER.encode(), conn_id, path, rest]))
        credits = '{"METHOD":"JSON","DOWNLOAD_CREDITS":"%s"}'
        peer.requests.send(f'{SENDER} 1 @* 5041:{credits % ("9" * 5000)},18:{{"type":"credits"}},'.encode())
        peer.requests.send(b"")
        assert peer.answers(77, "/text/Dave").endswith(b"Take five, Dave!")
        assert served.child.poll() is None and "Traceback" not in served.log()


def test_what_mongrel2_has_no_room_for_is_held_and_sent_later() -> None:
    stats, count = free_port(), 6000
    with Peer() as peer, serving("program_workers:app", "--stats", f"127.0.0.1:{stats}", mongrel2s=[peer]) as served:
        served.ports["stats"] = stats
        assert peer.answers(1, "/text/a")
        for number in range(count):  # of 10 KB: more than ZeroMQ and the system hold on the way
            peer.ask(number + 10, "/large/10000", '{"METHOD":"GET"}')
        wait_for(lambda: figures(served)['brubeck_lite_queue_length{queue="replies"}'] > 0, what="replies to be held")
        received, others = set(), []
        while len(received) < count:
            assert peer.replies.poll(60_000), f"{count - len(received)} are missing: {others} {served.log()}"
            head, _, answer = peer.replies.recv().partition(b", ")
            if answer.startswith(b"HTTP/1.1 200"):
                received.add(head)
            elif not head.partition(b":")[2].startswith(b"X "):  # but for what keeps connections alive
                others.append(head + answer[:100])
        assert served.child.poll() is None


def test_the_last_reply_of_all_is_sent_later_too_though_no_other_comes_behind_it() -> None:
    stats, count = free_port(), 1900  # fewer than ZeroMQ holds on the way
    with Peer() as peer, serving("program_workers:app", "--stats", f"127.0.0.1:{stats}", mongrel2s=[peer]) as served:
        served.ports["stats"] = stats
        for number in range(count):
            peer.ask(number, "/large/20000", '{"METHOD":"GET"}')
        wait_for(lambda: figures(served)['brubeck_lite_queue_length{queue="dealt"}'] == 0, what="the replies")
        while not figures(served)['brubeck_lite_queue_length{queue="replies"}']:  # one by one, until it is held
            peer.ask(count, "/large/20000", '{"METHOD":"GET"}')
            count += 1
            time.sleep(0.02)
        received = set[bytes]()
        while len(received) < count:
            assert peer.replies.poll(60_000), f"{count - len(received)} of {count} are missing"
            head, _, answer = peer.replies.recv().partition(b", ")
            if answer.startswith(b"HTTP/1.1 200"):
                received.add(head)


def test_without_descriptors_starting_a_worker_fails_and_the_parent_goes_on() -> None:
    with Mongrel2() as mongrel2, serving("program_workers:app", mongrel2s=[mongrel2]) as served:
        before = resource.prlimit(served.child.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(served.child.pid, resource.RLIMIT_NOFILE, (10, before[1]))
        os.kill(served.workers()[0], signal.SIGKILL)
        served.wait_to_log("no worker can be started for now: .*Too many open files|cannot open the sockets that .*")
        for port in served.ports.values():
            assert get(port, "/text/Dave") == b"Take five, Dave!"
        mongrel2.kill()
        mongrel2.start()
        served.wait_to_log("Mongrel2 at .* is gone")
        resource.prlimit(served.child.pid, resource.RLIMIT_NOFILE, before)
        served.wait_for_workers(2)
        wait_for(lambda: served.log().count("connected to Mongrel2") == 2, what=served.log)
        assert get(mongrel2.port, "/text/Dave") == b"Take five, Dave!"


# --reload


def test_reload_serves_what_was_saved_and_shows_what_is_wrong_with_it(
    program: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    templates = tmp_path / "templates"
    templates.mkdir()
    (templates / "page.html").write_text("first")
    text = HELLO.replace('return "{}"', 'return render(request, "page.html") + "{}"')
    text = text.replace("import Brubeck", "import Brubeck, jinja2_templates, render")
    text = text.replace("app = Brubeck()", f"app = Brubeck()\napp.templates = jinja2_templates({str(templates)!r})")
    with serving("changing:app", "--reload", workers="1", ready=1, **program(text.format(" one"))) as served:
        is_answered = lambda expected: answers(served.ports["http"], expected)  # noqa: E731
        assert get(served.ports["http"]) == b"first one"
        program(text.format(" two"))
        wait_for(is_answered(b"first two"), what="the second")
        (templates / "page.html").write_text("second")
        wait_for(is_answered(b"second two"), what="the template")
        program("def broken(:")
        served.wait_to_log("SyntaxError")
        served.wait_to_log("waiting for the program to change")
        program(text.format(" three"))
        wait_for(is_answered(b"second three"), what="the third")


def test_reload_watches_a_new_module_that_on_start_fails_in(
    program: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    text = HELLO + "@app.on_start\ndef start():\n    pass\n"
    with serving("changing:app", "--reload", workers="1", ready=1, **program(text.format("one"))) as served:
        (folder / "new.py").write_text("def begin():\n    raise OSError('not now')\n")
        program("import package.new\n" + text.format("two").replace("pass", "package.new.begin()"))
        served.wait_to_log("waiting for the program to change")
        (folder / "new.py").write_text("def begin():\n    pass\n")
        wait_for(answers(served.ports["http"], b"two"), what="the second")


def test_reload_of_a_script_waits_for_the_module_that_it_cannot_import(
    program: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    port = free_port()
    text = HELLO + f"if __name__ == '__main__':\n    app.run(port={port}, reload=True)\n"
    with process([sys.executable, "changing.py"], **program(text.format("one"))) as child:
        served = Served(child, {"http": port})
        served.wait_for_workers(1)
        program("import new\n" + text.format("two"))
        served.wait_to_log("waiting for the program to change")  # and the module is not there yet
        (tmp_path / "new.py").write_text("def broken(:")
        served.wait_to_log("waiting for the program to change", 2)
        (tmp_path / "new.py").write_text("")
        wait_for(answers(port, b"two"), what="the second")


def test_what_is_saved_while_the_program_is_imported_is_served(
    program: Callable[[str], dict[str, Any]], tmp_path: Path
) -> None:
    slow = 'import os, time\nprint("importing", flush=True)\nwhile not os.path.exists("saved"): time.sleep(0.01)\n'
    with serving("changing:app", "--reload", workers="1", ready=0, **program(slow + HELLO.format("one"))) as served:
        served.wait_to_log("importing")
        program(HELLO.format("two"))
        (tmp_path / "saved").touch()
        wait_for(answers(served.ports["http"], b"two"), what=served.log)


def test_while_one_develops_a_worker_may_be_silent_for_as_long_as_a_debugger_takes() -> None:
    def limit(*options: str) -> float:
        return float(parse_arguments(["hello:app", *options]).worker_timeout)

    assert limit() == limit("--workers", "2") == 30
    assert limit("--reload") == limit("--debug", "--workers", "2") == 0
    assert limit("--reload", "--worker-timeout", "5") == 5


def test_a_breakpoint_in_a_worker_reads_from_the_terminal(program: Callable[[str], dict[str, Any]]) -> None:
    ours, terminal = pty.openpty()
    text = HELLO.replace('    return "{}"', '    name = "Dave"\n    breakpoint()\n    return name')
    with (
        open(ours, "wb", buffering=0) as keyboard, open(terminal, "rb", buffering=0) as terminal_file,
        serving("changing:app", "--reload", workers="1", ready=1, stdin=terminal_file, **program(text)) as served,
        Client(served.ports["http"]) as client,
    ):  # fmt: skip
        client.ask("/")
        served.wait_to_log(r"\(Pdb\)")
        keyboard.write(b"name = 'Paul'\nc\n")
        assert client.answer() == (200, b"Paul")


def test_a_breakpoint_in_one_of_several_workers_leaves_the_others_serving(
    program: Callable[[str], dict[str, Any]]
) -> None:
    ours, terminal = pty.openpty()
    text = HELLO.format("page") + "@app.route('/stop')\ndef stop(request):\n    breakpoint()\n    return 'gone on'\n"
    with (
        open(ours, "wb", buffering=0) as keyboard, open(terminal, "rb", buffering=0) as terminal_file,
        serving("changing:app", "--debug", ready=2, stdin=terminal_file, **program(text)) as served,
        Client(served.ports["http"]) as client,
    ):  # fmt: skip
        client.ask("/stop")
        served.wait_to_log(r"\(Pdb\)")
        assert get(served.ports["http"]) == b"page"
        keyboard.write(b"c\n")
        assert client.answer() == (200, b"gone on")


def test_a_worker_that_is_killed_in_a_debugger_is_told_with_what_a_debugger_needs(
    program: Callable[[str], dict[str, Any]]
) -> None:
    ours, terminal = pty.openpty()
    text = HELLO.replace('    return "{}"', "    breakpoint()")
    with (
        open(ours, "wb"), open(terminal, "rb", buffering=0) as terminal_file,
        serving("changing:app", "--worker-timeout", "1", workers="1", ready=1, stdin=terminal_file,
                **program(text)) as served,
        Client(served.ports["http"]) as client,
    ):  # fmt: skip
        client.ask("/")
        served.wait_to_log(r"gave no sign of life for \d+ seconds: killed \(for a debugger: --debug")


def test_a_timeout_that_is_shorter_than_a_beat_kills_no_worker_that_is_well() -> None:
    with serving("hello:app", "--worker-timeout", "0.01") as served:
        time.sleep(2)  # in which one beat would come too late
        assert "killed" not in served.log()


def test_run_reloads_and_has_breakpoints_too(program: Callable[[str], dict[str, Any]], tmp_path: Path) -> None:
    port, (ours, terminal) = free_port(), pty.openpty()
    text = HELLO + f"if __name__ == '__main__':\n    app.run(port={port}, reload=True)\n"
    settings = program(text.format("one"))
    with (
        open(ours, "wb", buffering=0) as keyboard, open(terminal, "rb", buffering=0) as terminal_file,
        process([sys.executable, "changing.py"], stdin=terminal_file, **settings) as child,
    ):
        served = Served(child, {"http": port})
        served.wait_for_workers(1)
        assert get(port) == b"one"
        program("def broken(:")
        served.wait_to_log("waiting for the program to change")
        program(text.format("two").replace("    return", "    breakpoint()\n    return"))
        served.wait_to_log("is ready", 2)
        with Client(port) as client:
            client.ask("/")
            served.wait_to_log(r"\(Pdb\)")
            keyboard.write(b"c\n")
            assert client.answer() == (200, b"two")


def test_reload_watches_programs_below_the_folder_that_is_for_the_data_of_packages(tmp_path: Path) -> None:
    (tmp_path / "program_there.py").write_text("")  # as below /usr/local, with Debian's python3
    text = f"""
import sys, sysconfig
paths = {{**sysconfig.get_paths(), "data": {str(tmp_path)!r}, "scripts": {str(tmp_path / "bin")!r}}}
sysconfig.get_paths = lambda: paths
sys.path.insert(0, {str(tmp_path)!r})
import brubeck_lite, json, program_there, werkzeug
watched = brubeck_lite.program_files(brubeck_lite.Brubeck())
print([module.__file__ in watched for module in (program_there, brubeck_lite, json, werkzeug)])
"""
    done = subprocess.run([sys.executable, "-c", text], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "[True, True, False, False]\n"


# No space


@contextlib.contextmanager
def small_file_system(folder: Path) -> Iterator[None]:
    """1 MB at this folder, where we may mount."""
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


@pytest.mark.parametrize("count", ["0", "2"], ids=["alone", "workers"])
def test_no_room_for_a_file_of_a_form_is_507_with_one_line(count: str, tmp_path: Path) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    port = free_port()
    options = ["--bind", f"127.0.0.1:{port}", "--max-body", str(64 << 20)]
    options += ["--workers", "2"] if count == "2" else []
    settings = {"env": {**environment(), "TMPDIR": str(tmp_path)}, "preexec_fn": limit}
    with process([*COMMAND, "program_faults:app", *options], **settings) as child:
        wait_for(lambda: f"serving http://127.0.0.1:{port}" in output(child), what="the server")
        body = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n'
        body += b"x" * 4_000_000 + b"\r\n--b--"
        head = "POST /form/x HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        head += "Content-Length: {}\r\n\r\n"
        with Client(port) as client:
            with contextlib.suppress(OSError):
                client.socket.sendall(head.format(len(body)).encode() + body)
            assert client.file.readline() == b"HTTP/1.1 507 Insufficient Storage\r\n"
        with Client(port) as client:
            small = body.replace(b"x" * 4_000_000, b"x" * 700_000)
            client.socket.sendall(head.format(len(small)).encode() + small)
            assert client.answer() == (200, b"700000")
        told = "no space for an upload to '/form/x': File too large"
        wait_for(lambda: told in output(child), what="the line in the log")
        assert output(child).count(told) == 1
        assert "Traceback" not in output(child)


def test_no_room_in_mongrel2s_upload_store_ends_that_connection_and_service_resumes() -> None:
    with Mongrel2() as mongrel2, small_file_system(mongrel2.folder / "tmp"):
        settings = {"env": {**environment(), "UPLOAD_STORE": str(mongrel2.folder / "tmp")}}
        with serving("program_workers:app", "--max-body", str(64 << 20), mongrel2s=[mongrel2], **settings) as served:
            for _ in range(3):
                with Client(mongrel2.port) as client:
                    with contextlib.suppress(OSError):
                        client.socket.sendall(b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 8000000\r\n\r\n")
                        client.socket.sendall(b"x" * 8_000_000)
                    with contextlib.suppress(ConnectionError):
                        assert client.file.read() == b""  # Mongrel2 closes, without an answer
            assert get(mongrel2.port, "/text/Dave") == b"Take five, Dave!"
            size = 500_000
            with Client(mongrel2.port) as client:
                client.socket.sendall(f"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())
                client.socket.sendall(b"x" * size)
                assert client.answer() == (200, str(size).encode())
            assert "Traceback" not in served.log()
