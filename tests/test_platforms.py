"""Platforms: what serves where Linux's own is missing, what goes on after an error in it, and what Windows is told."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import make_certificate
from support import ROOT, Mongrel2, environment, free_port, is_running, listens, output, process, wait_for
from websockets.sync.client import connect

GET = "GET {} HTTP/1.1\r\nHost: x\r\n\r\n"
LONG = f"/text/{'a' * 600}"
MACOS = [sys.executable, str(Path(__file__).with_name("macos.py"))]


def get(port: int, target: str = "/") -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{target}", timeout=20) as answer:
        return str(answer.read().decode())


def leave_a_stream(port: int) -> None:
    """Ask for a stream, and go away when it has begun."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        client.sendall(GET.format("/events").encode())
        received = b""
        while b"begun" not in received:
            piece = client.recv(1000)
            assert piece, received
            received += piece


@contextlib.contextmanager
def serving(command: list[str], *options: str, how: str = "") -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """program_ending.py by HTTP, with its access log: the port and the process."""
    port = free_port()
    line = [*command, "program_ending:app", "--bind", f"127.0.0.1:{port}", "--access-log", *options]
    with process(line, env={**environment(), "HOW": how}) as child:

        def is_up() -> bool:
            with contextlib.suppress(OSError):
                return get(port) == "Take five!"
            assert child.poll() is None, output(child)
            return False

        wait_for(is_up, what="the server")
        yield port, child
        child.terminate()
        assert child.wait(60) == 0, output(child)
        assert output(child).count("Traceback") == (how == "fails"), output(child)


@pytest.mark.parametrize("options", [(), ("--workers", "1")], ids=["one process", "a parent"])
def test_what_a_program_needs_is_served_without_what_macos_lacks(options: tuple[str, ...]) -> None:
    stats = free_port()
    with Mongrel2() as mongrel2:
        doors = ["--mongrel2", mongrel2.pull, mongrel2.pub, "--stats", f"127.0.0.1:{stats}"]
        with serving(MACOS, *doors, *options) as (http_port, child):
            wait_for(lambda: "connected to Mongrel2" in output(child), what="Mongrel2")
            for count, port in enumerate((http_port, mongrel2.port), 1):
                assert get(port, LONG) == "a" * 600
                assert get(port, "/static/macos.py") == (ROOT / "tests" / "macos.py").read_text()
                with connect(f"ws://127.0.0.1:{port}/echo", compression=None) as websocket:
                    websocket.send("five")
                    assert websocket.recv(20) == "five"
                leave_a_stream(port)
                wait_for(lambda port=port, count=count: get(port, "/left") == str(count), what="its end")  # type: ignore[misc]
            assert 'route="text",status="200"} 2' in get(stats, "/metrics") or options
            wait_for(lambda: output(child).count('"GET /text/aaa') == 2, what="the log")
            assert max(map(len, re.findall(r".*GET .*\n", output(child)))) <= 512  # PIPE_BUF


def test_by_https_a_client_that_leaves_a_stream_is_missed_without_what_macos_lacks(tmp_path: Path) -> None:
    port, context = free_port(), ssl._create_unverified_context()
    line = [*MACOS, "program_ending:app", "--bind", f"127.0.0.1:{port}", "--tls", *make_certificate(tmp_path)]

    def left() -> str:
        with urllib.request.urlopen(f"https://127.0.0.1:{port}/left", timeout=20, context=context) as answer:
            return str(answer.read().decode())

    with process(line) as child:
        wait_for(lambda: listens(port), what=lambda: output(child))
        for count, more in enumerate(("", GET.format("/text/next")), 1):  # what is unread is no end
            with context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=20)) as client:
                client.sendall((GET.format("/events") + more).encode())
                received = b""
                while b"begun" not in received:
                    received += (piece := client.recv(1000))
                    assert piece, received
                time.sleep(1.2)  # some looks at whether the client is there
                assert left() == str(count - 1)
            wait_for(lambda count=count: left() == str(count), 20, "its end")  # type: ignore[misc]


def test_a_worker_ends_with_its_parent_without_what_macos_lacks() -> None:
    line = [*MACOS, "program_ending:app", "--bind", f"127.0.0.1:{free_port()}", "--workers", "1"]
    with process(line) as child:
        ready = re.compile(r"worker (\d+) is ready")
        wait_for(lambda: ready.search(output(child)), what="the worker")
        child.kill()
        worker = int(ready.search(output(child))[1])  # type: ignore[index]
        try:
            wait_for(lambda: not is_running(worker), 20, "the end of the worker")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def test_a_program_that_takes_away_what_was_there_is_served() -> None:
    with serving([sys.executable, "-m", "brubeck_lite"], how="lacks") as (port, child):
        leave_a_stream(port)
        wait_for(lambda: get(port, "/left") == "1", what="its end")
        assert get(port, LONG) == "a" * 600
        wait_for(lambda: '"GET /text/aaa' in output(child), what="the log")


def test_errors_in_what_is_done_again_and_again_are_logged_once_and_survived() -> None:
    with serving([sys.executable, "-m", "brubeck_lite"], how="fails") as (port, child):
        assert "cannot accept connections for now: an odd error" in output(child)
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(GET.format("/events").encode())
            wait_for(lambda: "Traceback" in output(child), what="the error")
            with pytest.raises(TimeoutError):  # some sweeps
                client.settimeout(1.5)
                while client.recv(1000):
                    pass
            assert get(port) == "Take five!"
        assert output(child).count("Traceback") == output(child).count("please report it") == 1
        assert output(child).count("cannot accept") == 1


def test_what_stands_for_a_module_may_raise_whatever_it_is_asked_for() -> None:
    with serving([sys.executable, "-m", "brubeck_lite"], "--reload", how="odd module") as (port, child):
        time.sleep(2.5)  # a worker tells its files once a second
        assert get(port) == "Take five!"
        assert "exit status" not in output(child)


FAILS_TO_PARSE = """\
import os, socket
import brubeck_lite
from eventlet import patcher
from brubeck_lite import Brubeck

app, parse = Brubeck(), brubeck_lite.read_mongrel2
app.route("/")(lambda request: "Take five!")

def parse_oddly(message):
    if b"/bad" in message[:60]:
        raise LookupError("an odd error")
    return parse(message)

brubeck_lite.read_mongrel2 = parse_oddly

@app.route("/nonsense")
def say_nonsense(request):
    '''Tell the parent what it does not understand.'''
    for number in range(3, 64):
        try:
            with patcher.original("socket").socket(fileno=os.dup(number)) as own:
                if own.family == socket.AF_UNIX and own.type == socket.SOCK_STREAM and own.getpeername() == "":
                    own.send(b"nonsense\\n")
        except OSError:
            pass
    return "said"
"""


@pytest.mark.parametrize("options", [(), ("--workers", "1")], ids=["one process", "a parent"])
def test_errors_in_receiving_are_logged_once_and_survived(options: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(FAILS_TO_PARSE)
    settings = {**environment(), "PYTHONPATH": f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"}
    with Mongrel2() as mongrel2:
        line = [sys.executable, "-m", "brubeck_lite", "odd:app", "--mongrel2", mongrel2.pull, mongrel2.pub, *options]
        with process(line, env=settings) as child, contextlib.ExitStack() as stack:
            wait_for(lambda: "connected to Mongrel2" in output(child), what="Mongrel2")
            for _ in range(3):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", mongrel2.port), timeout=20))
                client.sendall(GET.format("/bad").encode())
                assert get(mongrel2.port) == "Take five!"
            errors = 1
            if options:
                for _ in range(3):
                    assert get(mongrel2.port, "/nonsense") == "said"
                assert get(mongrel2.port) == "Take five!"
                errors = 2
            wait_for(lambda: output(child).count("Traceback") == errors, what=output(child))
            assert output(child).count("Traceback") == errors, output(child)


# Windows

WINDOWS = """\
import inspect, logging, mimetypes, mmap, os, select, signal, socket, subprocess, sys, sysconfig, tempfile, threading
import wsgiref.util, werkzeug.routing, werkzeug.exceptions
for module, names in (
    (select, ("poll", "epoll", "POLL", "EPOLL", "PIPE_BUF")),
    (socket, ("AF_UNIX", "send_fds", "recv_fds", "SO_REUSEPORT", "MSG_DONTWAIT", "SOCK_NONBLOCK", "SOCK_CLOEXEC")),
    (signal, ("SIGHUP", "SIGKILL", "SIGALRM", "SIGCHLD", "SIGUSR", "SIGPIPE", "SIGQUIT", "pthread_", "SIG_BLOCK",
              "SIG_UNBLOCK", "SIG_SETMASK", "setitimer", "alarm", "pause", "sigwait", "sigpending")),
    (os, ("fork", "register_at_fork", "O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "getuid", "geteuid",
          "getgid", "setuid", "chown", "fchown", "fchmod", "pread", "pwrite", "sendfile", "sched_", "posix_", "wait3",
          "wait4", "killpg", "getpgid", "setsid", "mkfifo", "statvfs", "sysconf", "uname", "pipe2", "memfd_create")),
    (mmap, ("MAP_", "PROT_")),
):
    for name in [name for name in vars(module) if name.startswith(names)]:
        delattr(module, name)
for name in ("fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
import brubeck_lite
os.name, opening = "nt", os.open
def open_by_path(path, flags, mode=0o777, *, dir_fd=None):
    if dir_fd is not None:
        raise NotImplementedError("dir_fd unavailable on this platform")
    if os.path.isdir(path):
        raise PermissionError(13, "Permission denied", path)
    return opening(path, flags, mode)
os.open = open_by_path
app = brubeck_lite.Brubeck(secret="a secret of more than sixteen")
app.post("/<int:number>")(lambda request, number: {"number": number, "form": dict(request.form)})
app.static("/static", os.path.dirname(os.path.abspath(sys.argv[1])))
client = app.test()
assert client.post("/5", data={"one": "1"}).json == {"number": 5, "form": {"one": "1"}}
assert client.get("/static/macos.py").status == 200
environ = {"PATH_INFO": "/static/macos.py"}
wsgiref.util.setup_testing_defaults(environ)
statuses = []
assert b"".join(app(environ, lambda status, fields: statuses.append(status))) == open(sys.argv[1], "rb").read()
assert statuses == ["200 OK"]
with tempfile.TemporaryDirectory() as folder:
    os.mkdir(folder + "/files")
    names = ["c:a", "a.txt::$DATA", "a\\\\b", "SECRET~1.TXT", "leaves"]
    os.symlink(sys.argv[1], folder + "/files/leaves")
    for name in [*names[:-1], "a.txt"]:
        open(folder + "/files/" + name, "w").close()
    app.static("/files", folder + "/files")
    assert [name for name in names if client.get("/files/" + name).status != 404] == []
    assert client.get("/files/a.txt").status == 200
    os.open = opening  # by which the folder is taken away
print("by WSGI", flush=True)
brubeck_lite.HTTPConnection("127.0.0.1:0")
if sys.argv[2] == "run":
    app.run()
elif sys.argv[2] == "workers":
    app.run(workers=2)
else:
    brubeck_lite.main(["program:app", *sys.argv[3:]])
"""


@pytest.mark.parametrize(
    "how",
    [["run"], ["workers"], ["command"], ["command", "--workers", "2"], ["command", "--print-mongrel2-config"]],
    ids=" ".join,
)
def test_windows_has_wsgi_and_the_test_client_and_is_refused_where_it_would_serve(how: list[str]) -> None:
    line = [sys.executable, "-c", WINDOWS, str(ROOT / "tests" / "macos.py"), *how]
    ended = subprocess.run(line, env=environment(False), capture_output=True, text=True, check=False, timeout=30)
    assert (ended.returncode, ended.stdout) == (2, "by WSGI\n"), ended.stderr
    assert ended.stderr.startswith("brubeck_lite: ") and ended.stderr.count("\n") == 1
    assert "Windows" in ended.stderr and "waitress" in ended.stderr
