"""Starts that a signal ends, ends that something holds up, and what comes after."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import Mongrel2, environment, free_port, is_running, listens, output, process, wait_for

COMMAND = [sys.executable, "-m", "brubeck_lite", "program_ending:app"]
STARTS = ["green", "blocked", "computes", "in-c", "tries-again", "import"]


@contextlib.contextmanager
def hanging(how: str, *command: str, port: int = 0, group: bool = False) -> Iterator[subprocess.Popen[str]]:
    """program_ending.py, in which this hangs."""
    settings = {**environment(), "HOW": how, "BIND": f"127.0.0.1:{port}"}
    with process([*command], env=settings, start_new_session=group) as child:
        yield child


def get(port: int, target: str = "/") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{target}", timeout=20) as answer:
        return str(answer.read().decode())


def ask(port: int, target: str) -> socket.socket:
    """A client that waits for its answer."""
    client = socket.create_connection(("127.0.0.1", port), timeout=20)
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client


# Starts


@pytest.mark.parametrize("options", [(), ("--workers", "1")], ids=["one process", "a parent"])
def test_a_signal_ends_a_start_at_once_whatever_it_waits_for(options: tuple[str, ...]) -> None:
    with contextlib.ExitStack() as stack:
        children = {}
        for how in STARTS:
            line = [*COMMAND, "--bind", f"127.0.0.1:{free_port()}", *options]
            children[how] = stack.enter_context(hanging(how, *line))
        for number, (how, child) in enumerate(children.items()):
            wait_for(lambda child=child: "on_start" in output(child), what=how)  # type: ignore[misc]
            child.send_signal(signal.SIGINT if number % 2 else signal.SIGTERM)
        for how, child in children.items():
            try:
                assert child.wait(60) == 0, (how, output(child))
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{how} goes on: {output(child)}") from None
            for said in ("on_stop", "Traceback", "no sign of life"):
                assert said not in output(child), (how, output(child))


def test_ctrl_c_while_workers_start_is_quiet() -> None:
    line = [*COMMAND, "--bind", f"127.0.0.1:{free_port()}", "--workers", "2"]
    with hanging("import", *line, group=True) as child:
        wait_for(lambda: "on_start" in output(child), what="the import")
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait(60) == 0
        assert "KeyboardInterrupt" not in output(child)


def test_a_signal_while_the_standard_library_is_patched_ends_the_start_after_that(tmp_path: Path) -> None:
    (tmp_path / "patched.py").write_text("""\
import os, signal
from brubeck_lite import Brubeck
class Odd:
    @property
    def __class__(self):  # eventlet asks all objects for theirs, and survives whatever they raise
        if not told:
            told.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return Odd
told, odd = [], Odd()
Brubeck().run(bind="127.0.0.1:0")
""")
    with process([sys.executable, str(tmp_path / "patched.py")]) as child:
        assert child.wait(60) == 0
        assert output(child) == ""


# Ends


def test_a_stop_takes_ten_seconds_at_the_longest_whatever_holds_it_up() -> None:
    own = [sys.executable, str(Path(__file__).with_name("program_ending.py"))]
    cases = {  # how it hangs, the command, and what is asked of it
        "pool": ("", COMMAND, "/pool", "pool of"), "pool of a worker": ("", COMMAND, "/pool", "pool of"),
        "pool of a script": ("", own, "/pool", "pool of"), "thread": ("exit", own, "/", ""),
        "green thread": ("", COMMAND, "/thread", "thread"), "computes": ("", COMMAND, "/compute", "computing"),
        "on_stop": ("on_stop", COMMAND, "/", ""), "goes on": ("goes on", own, "/", ""),
        "atexit": ("atexit", COMMAND, "/", ""), "atexit of a script": ("atexit", own, "/", ""),
    }  # fmt: skip
    with contextlib.ExitStack() as stack:
        children = {}
        for name, (how, line, target, said) in cases.items():
            port = free_port()
            options = [] if line is own else ["--bind", f"127.0.0.1:{port}"]
            workers = ["--workers", "1"] if "worker" in name else []
            child = children[name] = stack.enter_context(hanging(how, *line, *options, *workers, port=port))
            wait_for(lambda port=port: listens(port), what=name)  # type: ignore[misc]
            assert get(port) == "Take five!"  # it has started: it listens before that
            stack.enter_context(ask(port, target))
            wait_for(lambda child=child, said=said: said in output(child), what=name)  # type: ignore[misc]
        for child in children.values():
            child.terminate()
        for name, child in children.items():
            try:
                status = child.wait(60)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{name} goes on: {output(child)}") from None
            assert status == (3 if name == "goes on" else 0), (name, output(child))
            # A pool that was imported before anything is patched blocks the whole process, as what computes does.
            assert "on_stop" in output(child) or name in ("computes", "pool of a script")
            for pid in re.findall(r"pool of \[(\d+)\]", output(child)):
                wait_for(lambda pid=pid: not is_running(int(pid)), what=f"the end of {name}")  # type: ignore[misc]


@pytest.mark.parametrize("options", [(), ("--workers", "1")], ids=["one process", "a parent"])
def test_a_second_signal_leaves_no_socket_and_no_worker(options: tuple[str, ...], tmp_path: Path) -> None:
    address = tmp_path / "socket"
    with hanging("", *COMMAND, "--bind", f"unix:{address}", *options) as child, socket.socket(socket.AF_UNIX) as client:
        wait_for(lambda: address.exists() and (not options or "is ready" in output(child)), what="the server")
        client.connect(str(address))
        client.sendall(b"GET /compute HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: "computing" in output(child), what="the handler")
        workers = [int(pid) for pid in re.findall(r"worker (\d+) is ready", output(child))]
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0
        assert "did not end in time" not in output(child)  # it was the second signal, not the deadline
        assert not address.exists()
        wait_for(lambda: not any(map(is_running, workers)), what="the end of the worker")


def test_a_second_signal_leaves_no_folder_of_a_worker_that_is_not_connected_yet() -> None:
    with contextlib.ExitStack() as stack:
        mongrel2, name = stack.enter_context(Mongrel2()), stack.enter_context(tempfile.TemporaryDirectory())
        line = [*COMMAND, "--mongrel2", mongrel2.pull, mongrel2.pub, "--workers", "1"]
        child = stack.enter_context(process(line, env={**environment(), "HOW": "", "TMPDIR": name}))
        wait_for(lambda: "is ready" in output(child) and "connected to" in output(child), what="the server")
        stack.enter_context(ask(mongrel2.port, "/compute"))
        wait_for(lambda: "computing" in output(child), what="the handler")
        mongrel2.kill()
        mongrel2.start()  # the worker, which computes, is to connect to the parent anew
        wait_for(lambda: [*Path(name).glob("brubeck_lite-*")], what="the folder")
        child.send_signal(signal.SIGTERM)
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0
        assert [*Path(name).glob("brubeck_lite-*")] == []


def test_signals_to_a_child_that_was_forked_are_not_for_the_server() -> None:
    port = free_port()
    with hanging("", *COMMAND, "--bind", f"127.0.0.1:{port}") as child:
        wait_for(lambda: listens(port), what="the server")
        assert [get(port, "/terminate") for _ in range(2)] == [str(-signal.SIGTERM)] * 2
        assert get(port) == "Take five!"
        assert "stopping" not in output(child)


# After an end

TWICE = """\
import sys
from brubeck_lite import Brubeck, HTTPConnection, Mongrel2Connection
app = Brubeck()
app.route("/")(lambda request: f"run {run}")
app.on_start(lambda: print("on_start", run, flush=True))
app.on_stop(lambda: print("on_stop", run, flush=True))
if __name__ == "__main__":
    connection = HTTPConnection(sys.argv[1], keep_alive=7) if len(sys.argv) == 2 else Mongrel2Connection(*sys.argv[1:])
    for run in (1, 2):
        app.run(connection)
        print("over", run, getattr(connection, "keep_alive", 7), flush=True)
"""


@pytest.mark.parametrize("door", ["http", "mongrel2"])
def test_a_connection_serves_again_in_a_second_run(door: str, tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(TWICE)
    with contextlib.ExitStack() as stack:
        port, started = free_port(), "serving http" if door == "http" else "connected to Mongrel2"
        addresses = [f"127.0.0.1:{port}"]
        if door == "mongrel2":
            mongrel2 = stack.enter_context(Mongrel2())
            port, addresses = mongrel2.port, [mongrel2.pull, mongrel2.pub]
        child = stack.enter_context(process([sys.executable, str(tmp_path / "twice.py"), *addresses]))
        for run in (1, 2):
            wait_for(lambda run=run: output(child).count(started) == run, what=f"run {run}")  # type: ignore[misc]
            assert get(port) == f"run {run}"
            child.terminate()
            wait_for(lambda run=run: f"over {run} 7" in output(child), what=f"its end: {output(child)}")  # type: ignore[misc]
        assert child.wait(60) == 0
        assert re.findall(r"(on_\w+ \d)\n", output(child)) == ["on_start 1", "on_stop 1", "on_start 2", "on_stop 2"]


LATE = """\
import sys, time
from brubeck_lite import Brubeck, HTTPConnection
app = Brubeck()
@app.on_start
def start():
    while len(starts) > len(late):  # in the second run until what is late from the first has ended
        time.sleep(0.1)
    time.sleep(0.5 * len(starts))
    starts.append("started")
    print("start", len(starts), flush=True)
@app.route("/late")
def be_late(request):
    time.sleep(10)
    late.append("late")
app.route("/")(lambda request: f"run {len(starts)}")
starts, late, connection = [], [], HTTPConnection(sys.argv[1])
for _ in range(2):
    app.run(connection)
"""


def test_a_handler_that_outlives_a_run_does_not_disturb_the_start_of_the_next(tmp_path: Path) -> None:
    (tmp_path / "late.py").write_text(LATE)
    port = free_port()
    with process([sys.executable, str(tmp_path / "late.py"), f"127.0.0.1:{port}"]) as child:
        wait_for(lambda: listens(port), what="the server")
        with ask(port, "/late"):
            wait_for(lambda: get(port) == "run 1", what="the first run")
            child.terminate()
            wait_for(lambda: "not finished in time" in output(child) and listens(port), what="the second run")
            assert get(port) == "run 2"
        assert "Traceback" not in output(child)


def test_a_script_may_serve_with_workers_twice(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(TWICE.replace("app.run(connection)", "app.run(connection, workers=2)"))
    port = free_port()
    with process([sys.executable, str(tmp_path / "twice.py"), f"127.0.0.1:{port}"]) as child:
        for run in (1, 2):
            wait_for(lambda run=run: output(child).count("is ready") == 2 * run, what=f"run {run}")  # type: ignore[misc]
            assert get(port) == "run 1"  # each worker is the program anew
            child.terminate()
            wait_for(lambda run=run: f"over {run} 7" in output(child), what=f"its end: {output(child)}")  # type: ignore[misc]
        assert child.wait(60) == 0
        assert "over 2" in output(child) and output(child).count("over") == 2


def test_run_in_another_thread_says_why_it_cannot() -> None:
    from brubeck_lite import Brubeck

    errors: list[BaseException] = []

    def run() -> None:
        try:
            Brubeck().run(bind="127.0.0.1:0")
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(10)
    assert "main thread" in str(errors)
