"""examples/serve_mongrel2.py, as a process with the real Mongrel2: what it serves, what it says, how it ends, and that
nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from all_kinds import CHECKS, PROGRAM, ask
from support import ROOT, environment, free_port, is_running, output, process, wait_for

SCRIPT = str(ROOT / "examples" / "serve_mongrel2.py")
HELLO = """\
from brubeck_lite import Brubeck

app = Brubeck()

@app.route("/")
def index(request):
    return "Take five!"
"""


class Served:
    """The script in a folder with a program, once it serves; `temporary` is where it may keep files."""

    def __init__(self, child: subprocess.Popen[str], temporary: Path) -> None:
        self.child, self.temporary = child, temporary
        wait_for(lambda: self._urls() or child.poll() is not None, what="the URL")
        assert self._urls(), output(child)
        self.port = int(self._urls()[0])
        listed = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
        names = {int(pid): Path(f"/proc/{pid}/comm").read_text().strip() for pid in listed}
        (self.mongrel2,) = [pid for pid, name in names.items() if name == "mongrel2"]
        (self.brubeck,) = [pid for pid in names if pid != self.mongrel2]

    def _urls(self) -> list[str]:
        return re.findall(r"serve_mongrel2: serving http://127\.0\.0\.1:(\d+) ", output(self.child))

    def has_left_nothing(self) -> bool:
        return not (is_running(self.mongrel2) or is_running(self.brubeck) or [*self.temporary.iterdir()])


@contextlib.contextmanager
def script(folder: Path, *arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The script with these arguments, in a folder, and where it may keep files."""
    with tempfile.TemporaryDirectory(dir="/tmp") as temporary:  # paths of sockets are short
        settings = {**environment(measured=False), "TMPDIR": temporary, **variables}
        with process([sys.executable, SCRIPT, *arguments], cwd=folder, env=settings) as child:
            yield child, Path(temporary)


@contextlib.contextmanager
def served(folder: Path, text: str = HELLO, *options: str, **variables: str) -> Iterator[Served]:
    (folder / "hello.py").write_text(text)
    with script(folder, "hello:app", "--bind", "127.0.0.1:0", *options, **variables) as started:
        yield Served(*started)


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A program with all kinds of routes, and with a folder of its own for uploads."""
    folder = tmp_path_factory.mktemp("all")
    store = folder / "store"
    store.mkdir()
    with served(folder, PROGRAM, UPLOAD_STORE=str(store)) as server:
        yield server
        assert [*store.iterdir()] == []


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_all_kinds_of_routes_are_served(all_kinds: Served, check: Callable[[int], None]) -> None:
    check(all_kinds.port)


def test_its_files_are_in_one_folder_that_is_private(all_kinds: Served) -> None:
    (folder,) = all_kinds.temporary.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700


def test_bodies_in_memory_need_no_folder_for_uploads(tmp_path: Path) -> None:
    with served(tmp_path, PROGRAM) as server:
        for check in CHECKS:
            check(server.port)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_both_and_leaves_nothing(tmp_path: Path, number: int) -> None:
    with served(tmp_path) as server:
        assert ask(server.port, "/") == (200, b"Take five!")
        server.child.send_signal(number)
        assert server.child.wait(60) == 0
        assert server.has_left_nothing()


def test_a_request_in_progress_is_finished(tmp_path: Path) -> None:
    slow = 'import time\n\n@app.route("/slow")\ndef slow(request):\n    time.sleep(1)\n    return "whole"\n'
    with served(tmp_path, HELLO + slow, "--access-log") as server, socket.socket() as client:
        client.settimeout(60)
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ask(server.port, "/") == (200, b"Take five!")  # the other has arrived by then
        server.child.send_signal(signal.SIGTERM)
        assert client.recv(1000).endswith(b"whole")
        assert server.child.wait(60) == 0


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    slow = 'import time\n\n@app.route("/slow")\ndef slow(request):\n    time.sleep(60)\n'
    with served(tmp_path, HELLO + slow) as server, socket.socket() as client:
        client.connect(("127.0.0.1", server.port))
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ask(server.port, "/") == (200, b"Take five!")
        server.child.send_signal(signal.SIGINT)
        wait_for(lambda: "stopping: 1 requests" in output(server.child), what="the first signal")
        server.child.send_signal(signal.SIGINT)
        server.child.wait(60)
        assert server.has_left_nothing()


def test_when_mongrel2_dies_brubeck_lite_is_ended(tmp_path: Path) -> None:
    with served(tmp_path) as server:
        os.kill(server.mongrel2, signal.SIGKILL)
        assert server.child.wait(60) == 1
        assert "serve_mongrel2: Mongrel2 was ended by signal 9\n" in output(server.child)
        assert server.has_left_nothing()


@pytest.mark.parametrize(
    ("number", "line"), [(signal.SIGKILL, "was ended by signal 9"), (signal.SIGTERM, "ended with status 0")]
)
def test_when_brubeck_lite_ends_mongrel2_is_ended(tmp_path: Path, number: int, line: str) -> None:
    with served(tmp_path) as server:
        os.kill(server.brubeck, number)
        assert server.child.wait(60) == 1
        assert f"serve_mongrel2: brubeck_lite {line}\n" in output(server.child)
        assert server.has_left_nothing()


def test_sockets_have_short_paths_wherever_files_are_to_be(tmp_path: Path) -> None:
    (long := tmp_path / ("x" * 60)).mkdir()
    with served(tmp_path, TMPDIR=str(long)) as server:
        assert ask(server.port, "/") == (200, b"Take five!")
        (folder,) = re.findall(r"requests from ipc://(\S+)/run/requests", output(server.child))
        server.child.terminate()
        assert server.child.wait(60) == 0 and server.has_left_nothing() and not Path(folder).exists()


def test_two_run_at_once(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with served(tmp_path) as one, served(tmp_path / "other", HELLO.replace("five", "four")) as other:
        assert ask(one.port, "/") == (200, b"Take five!")
        assert ask(other.port, "/") == (200, b"Take four!")


def test_options_go_to_brubeck_lite(tmp_path: Path) -> None:
    post = '\n@app.post("/")\ndef post(request):\n    return request.body\n'
    with served(tmp_path, HELLO + post, "--max-body", "10", "--access-log") as server:
        assert ask(server.port, "/", "POST", b"x" * 10) == (200, b"x" * 10)
        assert ask(server.port, "/", "POST", b"x" * 11)[0] == 413
        wait_for(lambda: '"POST / HTTP/1.1" 200' in output(server.child), what="the access log")


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        ([], 2, "required: MODULE:APP"),
        (["nowhere:app"], 2, "brubeck_lite: there is no module 'nowhere' here"),
        (["broken:app"], 1, "ZeroDivisionError"),
        (["hello:app", "--odd"], 2, "unrecognized arguments: --odd"),
        (["hello:app", "--mongrel2", "ipc://a", "ipc://b"], 2, "are chosen here"),
        (["hello:app", "--bind", "6767"], 2, "serve_mongrel2: 6767 is not HOST:PORT"),
        (["hello:app", "--bind", "unix:/x"], 2, "serve_mongrel2: unix:/x is not HOST:PORT"),
        (["hello:app", "--bind", "nowhere.invalid:1"], 2, "serve_mongrel2: cannot listen at nowhere.invalid:1"),
        (["quoted:app"], 2, "brubeck_lite: \"@it's\" cannot be said in a configuration of Mongrel2"),
    ],
)  # fmt: skip
def test_what_cannot_start_is_told_and_leaves_nothing(
    tmp_path: Path, arguments: list[str], status: int, expected: str
) -> None:
    (tmp_path / "hello.py").write_text(HELLO)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    (tmp_path / "quoted.py").write_text(HELLO.replace('"/"', '"@it\'s"'))
    named = [] if "--bind" in arguments or not arguments else ["--bind", f"127.0.0.1:{free_port()}"]
    with script(tmp_path, *arguments, *named) as (child, temporary):
        assert child.wait(60) == status
        assert expected in output(child)
        assert [*temporary.iterdir()] == []


def test_a_port_in_use_is_told_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"127.0.0.1:{other.getsockname()[1]}"
        with script(tmp_path, "hello:app", "--bind", place) as (child, _):
            assert child.wait(60) == 2
            line = f"serve_mongrel2: cannot listen at {place}: Address already in use (--bind names another address)\n"
            assert output(child) == line


def test_where_mongrel2_is_not_installed_one_line_says_how_to(tmp_path: Path) -> None:
    with script(tmp_path, "hello:app", PATH=str(tmp_path)) as (child, _):
        assert child.wait(60) == 2
        assert re.fullmatch(r"serve_mongrel2: Mongrel2 is not installed: apt-get install .*\n", output(child))


def test_a_signal_while_it_starts_ends_it(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("import time\nopen('begun', 'w').close()\ntime.sleep(60)\n" + HELLO)
    with script(tmp_path, "hello:app", "--bind", "127.0.0.1:0") as (child, temporary):
        wait_for((tmp_path / "begun").exists, what="the program")
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0
        assert [*temporary.iterdir()] == [] and "Traceback" not in output(child)


def test_a_mongrel2_that_does_not_start_is_told_with_its_reason(tmp_path: Path) -> None:
    """Here one that is no Mongrel2: it ends at once."""
    for name in ("m2sh", "mongrel2"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    (tmp_path / "mongrel2").unlink()
    (tmp_path / "mongrel2").write_text("#!/bin/sh\necho '[ERROR] (src/x.c:1: errno: None) No entropy.' >&2\nexit 3\n")
    (tmp_path / "mongrel2").chmod(0o755)
    (tmp_path / "hello.py").write_text(HELLO)
    with script(tmp_path, "hello:app", "--bind", "127.0.0.1:0", PATH=f"{tmp_path}:/bin") as (child, temporary):
        assert child.wait(60) == 3
        assert "serve_mongrel2: Mongrel2 ended with status 3: No entropy.\n" in output(child)
        assert [*temporary.iterdir()] == []
