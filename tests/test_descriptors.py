"""Sockets that listen already when the server starts: --bind fd:NUMBER, HTTPConnection("fd:NUMBER"), and systemd's."""

from __future__ import annotations

import contextlib
import http.client
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT, environment, free_port, needs_ipv6, output, process, wait_for

from brubeck_lite import Brubeck

COMMAND = [sys.executable, "-m", "brubeck_lite", "wire:app"]


@contextlib.contextmanager
def listening(family: int = socket.AF_INET, address: object = ("127.0.0.1", 0)) -> Iterator[socket.socket]:
    with socket.socket(family) as listener:
        listener.bind(address)  # type: ignore[arg-type]
        listener.listen()
        yield listener


@contextlib.contextmanager
def given(listener: socket.socket, command: list[str], **settings: str) -> Iterator[subprocess.Popen[str]]:
    """A server that has this socket by its number, and these settings in its environment."""
    options = {"pass_fds": [listener.fileno()], "env": {**environment(), **settings}}
    with process(command, **options) as child:
        wait_for(lambda: "serving" in output(child) or child.poll() is not None, what="the server")
        assert child.poll() is None, output(child)
        yield child


def ask(address: object, family: int = socket.AF_INET) -> bytes:
    with socket.socket(family) as client:
        client.settimeout(60)
        client.connect(address)  # type: ignore[arg-type]
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        received = b""
        while piece := client.recv(65536):
            received += piece
    return received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_a_descriptor_is_served(workers: list[str]) -> None:
    with listening() as listener:
        address = listener.getsockname()
        with given(listener, [*COMMAND, "--bind", f"fd:{listener.fileno()}", *workers]) as child:
            assert f"serving http://127.0.0.1:{address[1]}" in output(child)
            assert ask(address) == b"Take five!"


@needs_ipv6
def test_a_descriptor_may_be_of_ipv6() -> None:
    with listening(socket.AF_INET6, ("::1", 0)) as listener:
        address = listener.getsockname()
        with given(listener, [*COMMAND, "--bind", f"fd:{listener.fileno()}"]) as child:
            assert f"serving http://[::1]:{address[1]}" in output(child)
            assert ask(address[:2], socket.AF_INET6) == b"Take five!"


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_a_descriptor_may_be_of_a_unix_socket_whose_file_stays(tmp_path: Path, workers: list[str]) -> None:
    path = str(tmp_path / "http")
    with listening(socket.AF_UNIX, path) as listener:
        with given(listener, [*COMMAND, "--bind", f"fd:{listener.fileno()}", *workers]):
            assert ask(path, socket.AF_UNIX) == b"Take five!"
        assert Path(path).exists()


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_the_next_server_answers_who_came_after_the_last_had_ended(workers: list[str]) -> None:
    with listening() as listener:
        command = [*COMMAND, "--bind", f"fd:{listener.fileno()}", *workers]
        with given(listener, command):
            pass
        client = http.client.HTTPConnection(*listener.getsockname(), timeout=60)
        client.request("GET", "/")
        with given(listener, command):
            assert client.getresponse().read() == b"Take five!"
        client.close()


def test_a_program_may_name_a_descriptor() -> None:
    with listening() as listener:
        command = [sys.executable, str(ROOT / "tests" / "wire.py"), "0", f'{{"address": "fd:{listener.fileno()}"}}']
        with given(listener, command):
            assert ask(listener.getsockname()) == b"Take five!"


@pytest.mark.parametrize("what", ["closed", "a file", "no listener", "a connection", "udp"])
@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_a_descriptor_that_does_not_listen_is_one_line(tmp_path: Path, what: str, workers: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        pair = socket.socketpair()
        things = {
            "a file": stack.enter_context((tmp_path / "file").open("w")),
            "no listener": stack.enter_context(socket.socket()),
            "a connection": pair[0],
            "udp": stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)),
        }
        for end in pair:
            stack.enter_context(end)
        number, passed = (99, ()) if what == "closed" else (things[what].fileno(), (things[what].fileno(),))
        done = subprocess.run([*COMMAND, "--bind", f"fd:{number}", *workers], env=environment(), pass_fds=passed,
                              capture_output=True, text=True, check=False, timeout=60)  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"cannot listen at fd:{number}: " in done.stderr


# systemd: sd_listen_fds(3)


ACTIVATE = """
import os, sys

os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS=sys.argv[2], LISTEN_PID=str(os.getpid() + int(sys.argv[3])))
os.execv(sys.argv[4], sys.argv[4:])
"""


def activated(listener: socket.socket, command: list[str], count: str = "1", other: int = 0) -> list[str]:
    """This command as systemd starts it: with this socket as descriptor 3, which it is told is for it, or for a process
    with another number."""
    return [sys.executable, "-c", ACTIVATE, str(listener.fileno()), count, str(other), *command]


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_what_systemd_listens_at_is_served(workers: list[str]) -> None:
    with listening() as listener, given(listener, activated(listener, [*COMMAND, *workers])) as child:
        assert ask(listener.getsockname()) == b"Take five!"
        assert output(child).count("serving") == 1


def test_run_serves_what_systemd_listens_at(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("from wire import app\napp.run(workers=2)\n")
    command = [sys.executable, str(tmp_path / "script.py")]
    with listening() as listener, given(listener, activated(listener, command)):
        assert ask(listener.getsockname()) == b"Take five!"


def test_what_systemd_listens_at_is_left_alone_beside_bind(tmp_path: Path) -> None:
    command = [*COMMAND, "--bind", f"unix:{tmp_path}/http"]
    with listening() as listener, given(listener, activated(listener, command)) as child:
        assert f"serving unix:{tmp_path}/http\n" in output(child)
        assert output(child).count("serving") == 1


def test_what_systemd_listens_at_for_another_process_is_left_alone(tmp_path: Path) -> None:
    lines = f"from brubeck_lite import Brubeck, HTTPConnection\napp = Brubeck(HTTPConnection('unix:{tmp_path}/http'))\n"
    (tmp_path / "program.py").write_text(lines)
    command = [sys.executable, "-m", "brubeck_lite", "program:app", "--chdir", str(tmp_path)]
    with listening() as listener, given(listener, activated(listener, command, other=1)) as child:
        assert f"serving unix:{tmp_path}/http\n" in output(child)


def test_a_number_of_descriptors_that_is_none_is_one_line() -> None:
    with listening() as listener:
        done = subprocess.run(activated(listener, COMMAND, "many"), env=environment(), pass_fds=[listener.fileno()],
                              capture_output=True, text=True, check=False, timeout=60)  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "brubeck_lite: LISTEN_FDS is set to 'many': it is a number of descriptors, or unset"
    ]


@pytest.mark.skipif(shutil.which("systemd-socket-activate") is None, reason="systemd is not installed here")
def test_systemd_starts_it_for_the_first_client() -> None:
    port = free_port()
    names = [f"--setenv={name}" for name in ("PATH", "PYTHONPATH")]
    with process(["systemd-socket-activate", f"--listen=127.0.0.1:{port}", *names, *COMMAND]) as child:
        wait_for(lambda: "Listening on" in output(child), what=lambda: output(child))
        assert ask(("127.0.0.1", port)) == b"Take five!"


def test_a_descriptor_serves_one_run_after_another() -> None:
    app = Brubeck()
    app.route("/")(lambda request: "Take five!")
    with listening() as listener:
        for _ in range(2):
            with app.running(bind=f"fd:{listener.fileno()}"):
                assert ask(listener.getsockname()) == b"Take five!"
