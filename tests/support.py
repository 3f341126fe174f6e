"""Real parts for the tests: Mongrel2, WSGI servers and our own command line as processes, each on free ports of the
loopback, each ended by its id when its `with` block ends."""

from __future__ import annotations

import ast
import collections
import contextlib
import importlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

import pytest

import brubeck_lite
from brubeck_lite import Brubeck, Request, Response

ROOT = Path(__file__).resolve().parent.parent
SENDER = "34f9ceee-cd52-4b7f-b197-88bf2f0ec378"

CONFIG = """\
web = Handler(send_spec='{pull}', send_ident='{sender}', recv_spec='{pub}', recv_ident='{recv_ident}',
              protocol='{protocol}')
main = Server(uuid='f400bf85-4538-4f7a-8908-67e313d515c2', access_log='/logs/access.log', error_log='/logs/error.log',
              chroot='./', default_host='localhost', name='main', pid_file='/run/mongrel2.pid', port={port},
              bind_addr='127.0.0.1', hosts=[Host(name='localhost', routes={{'/': web, '@chat': web, '<feed': web}})])
settings = {{'zeromq.threads': 1, 'download.flow_control': 1, 'limits.content_length': 1048576,
            'upload.temp_store': '/tmp/upload.XXXXXX', 'upload.temp_store_mode': '0660',
            'limits.buffer_size': 65536, 'limits.client_read_retries': 1000}}
servers = [main]
"""


_reserved: collections.deque[socket.socket] = collections.deque(maxlen=100)


def free_port() -> int:
    """A port of the loopback that nobody has, that the system gives to no connection of a client, that browsers let
    one visit (not so 10080: https://fetch.spec.whatwg.org/#port-blocking), and that stays reserved while its server
    starts: this process keeps a socket bound to it that does not listen. No other call, of any process, is given it
    meanwhile, but a server that sets SO_REUSEADDR, as all of ours do, may bind to it (socket(7) of Linux)."""
    while True:
        port, keeper = 11_000 + secrets.randbelow(19_000), socket.socket()
        try:
            keeper.bind(("", port))  # without SO_REUSEADDR this fails where any other socket is bound to it
        except OSError:
            keeper.close()
            continue
        keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _reserved.append(keeper)
        return port


def listening_ports(pid: int) -> set[int]:
    """The ports at which this process itself listens, by TCP over IPv4."""
    sockets = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            sockets.add(str(entry.readlink()))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(row[1][-4:], 16) for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in sockets}


def has_ipv6() -> bool:
    """Whether one can listen at the IPv6 address of the loopback here."""
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def wait_for(
    condition: Callable[[], object], seconds: float = 60.0, what: str | Callable[[], str] = ""
) -> None:
    """Wait until the condition holds; AssertionError when it does not in time, which says for what (a function is
    called then). The time is for a machine that is busy with other things: nothing is to be asserted by it."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s in vain for {what() if callable(what) else what or condition}")
        time.sleep(0.02)


def settled(figure: Callable[[], int], quiet: float = 1.0) -> int:
    """What a figure is once it has not changed for so many seconds."""
    values = [figure()]
    deadline = time.monotonic() + 60
    while len(values) < 2 or values[-1] != values[-2]:
        assert time.monotonic() < deadline, f"it does not settle: {values}"
        time.sleep(quiet)
        values.append(figure())
    return values[-1]


def listens(port: int) -> bool:
    """Whether someone accepts connections on this port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def is_running(pid: int) -> bool:
    """Whether a process with this id runs, and is not merely waiting to be forgotten."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def environment(measured: bool = True) -> dict[str, str]:
    """The environment of a child that finds brubeck_lite and the tests' programs, measured for coverage if we are."""
    paths = [str(ROOT), str(ROOT / "tests"), str(ROOT / "examples")]
    kept = {name: value for name, value in os.environ.items() if measured or not name.startswith("COVERAGE")}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def example(name: str) -> ModuleType:
    """A fresh copy of an example's program, for what needs no server."""
    sys.modules.pop(name, None)
    return importlib.import_module(name)


MARKUP = "<x-y>\"'&"


def markup_in_pages(app: Brubeck, source: str) -> list[str]:
    """The routes of a program that send back as HTML what a client sends, without escaping it: asked with markup in
    the path and for every name that the source has in quotes, in the query, in forms and files, and as the user."""
    names = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)
             and isinstance(node.value, str) and re.fullmatch(r"\w{1,30}", node.value)}  # fmt: skip

    def sign_in(respond: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def signed_in(request: Request) -> Response:
            if app.secret:
                request.session["user"] = MARKUP
            return respond(request)

        return signed_in

    app.wrap(sign_in)
    fields, headers = dict.fromkeys(names, MARKUP), {"Sec-Fetch-Site": "same-origin"}
    found = []
    for rule in ["/nowhere/<name>", *(str(each[2].rule) for each in brubeck_lite.all_routes(app))]:
        path = re.sub(r"<(?:path:)?\w+>", quote(MARKUP), rule)
        path = re.sub(r"<any\((\w+)[^>]*>", r"\1", re.sub(r"<(?:int|float)[^>]*>", "1", path))
        for method, given in (
            ("GET", {}), ("PUT", {"data": fields}), ("POST", {"data": fields}),
            ("POST", {"files": dict.fromkeys(names, (MARKUP, b"x", "image/png"))}),
        ):  # fmt: skip
            answer = app.test().request(method, path, headers, query=fields, **given)
            if answer.headers.get("Content-Type", "").startswith("text/html") and "<x-y>" in answer.text:
                found.append(f"{method} {path}: {answer.text}")
    return found


@contextlib.contextmanager
def process(command: list[str], **options: object) -> Iterator[subprocess.Popen[str]]:
    """A child process with its output in the file `.log_file`; ended with its block: SIGTERM first, for coverage."""
    with tempfile.NamedTemporaryFile("w+", suffix=".log") as log:
        settings: dict[str, object] = {"env": environment(), "stdout": log, "stderr": subprocess.STDOUT, **options}
        child = subprocess.Popen(command, text=True, **settings)  # type: ignore[call-overload]
        child.log_file = log.name
        try:
            yield child
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGCONT)
                child.terminate()
                try:
                    child.wait(60)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()


def output(child: subprocess.Popen[str]) -> str:
    """What the child has written so far."""
    return Path(child.log_file).read_text(errors="replace")  # type: ignore[attr-defined]


class Mongrel2:
    """A real Mongrel2 in a folder of its own. `pull` and `pub` are the addresses for a handler, at `host`; `port` is
    that for clients."""

    def __init__(self, protocol: str = "json", recv_ident: str = "", host: str = "127.0.0.1") -> None:
        self._ports = [free_port() for _ in range(3)]
        self.port, pull, pub = self._ports
        self.pull, self.pub = f"tcp://{host}:{pull}", f"tcp://{host}:{pub}"
        self.folder = Path(tempfile.mkdtemp(prefix="mongrel2-"))
        for name in ("run", "logs", "tmp"):
            (self.folder / name).mkdir()
        config = CONFIG.format(
            pull=self.pull, pub=self.pub, port=self.port, protocol=protocol, recv_ident=recv_ident, sender=SENDER
        )
        self.configure(config)
        self.pid_file = self.folder / "run" / "mongrel2.pid"

    def configure(self, config: str, *ports: int) -> None:
        """Load this configuration, in which its handlers have these ports besides, or instead of its own."""
        (self.folder / "mongrel2.conf").write_text(config)
        m2sh = ["m2sh", "load", "-config", "mongrel2.conf", "-db", "config.sqlite"]
        done = subprocess.run(m2sh, cwd=self.folder, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        self._ports = [self.port, *ports] if ports else self._ports

    def start(self) -> None:
        """Start it, as a daemon, which is its way, and wait until it listens at all of its ports itself: it would run
        on without a handler's socket that it cannot bind."""
        command = ["mongrel2", "config.sqlite", "f400bf85-4538-4f7a-8908-67e313d515c2"]
        # One that was killed is a zombie to us while the last of its threads still has the addresses.
        wait_for(lambda: subprocess.call(command, cwd=self.folder, stdout=subprocess.DEVNULL,
                                         stderr=subprocess.DEVNULL) == 0, what="a Mongrel2 that starts")  # fmt: skip
        wait_for(self._listens, what=lambda: f"Mongrel2 to listen at {self._ports}: {self.log()}")

    def _listens(self) -> bool:
        with contextlib.suppress(FileNotFoundError, ValueError):  # of a file that is not there or not written yet
            return listening_ports(int(self.pid_file.read_text())) >= {*self._ports}
        return False

    def log(self) -> str:
        """What it has logged so far."""
        log = self.folder / "logs" / "error.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def kill(self) -> None:
        """End it at once, as `kill -9` does, by the id that it wrote down."""
        if self.pid_file.exists():
            pid = int(self.pid_file.read_text())
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not is_running(pid), what="the end of Mongrel2")
            self.pid_file.unlink()

    def __enter__(self) -> Mongrel2:
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def behind_mongrel2(
    program: str, mongrel2: Mongrel2, *options: str, ready: bool = True
) -> Iterator[subprocess.Popen[str]]:
    """Our command line with this program ("module:app"), behind this Mongrel2, with UPLOAD_STORE set."""
    command = [sys.executable, "-m", "brubeck_lite", program, "--mongrel2", mongrel2.pull, mongrel2.pub, *options]
    with process(command, env={**environment(), "UPLOAD_STORE": str(mongrel2.folder / "tmp")}) as child:
        if ready:
            wait_for(lambda: "connected to Mongrel2" in output(child) or child.poll() is not None, what="the handler")
        yield child


@contextlib.contextmanager
def behind_http(program: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Our command line with this program behind the embedded server: the process and the port."""
    port = free_port()
    command = [sys.executable, "-m", "brubeck_lite", program, "--bind", f"127.0.0.1:{port}", *options]
    with process(command) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what="the server")
        assert child.poll() is None, output(child)
        yield child, port


def wsgi_command(server: str, program: str, port: int) -> list[str]:
    """The command that serves `program` on a port with this WSGI server: gunicorn (gthread), gevent (by gunicorn),
    waitress, wsgiref or eventlet."""
    if server in ("gunicorn", "gevent"):
        options = ["--worker-class", "gthread", "--threads", "4"] if server == "gunicorn" else ["-k", server]
        options += ["--graceful-timeout", "2"]
        return [sys.executable, "-m", "gunicorn", *options, "--bind", f"127.0.0.1:{port}", program]
    if server == "waitress":
        return [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", program]
    return [sys.executable, str(ROOT / "tests" / f"serve_{server}.py"), program, str(port)]


@contextlib.contextmanager
def behind_wsgi(server: str, program: str) -> Iterator[int]:
    """This program behind a WSGI server: the port it listens on."""
    port = free_port()
    with process(wsgi_command(server, program, port)) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what=server)
        assert child.poll() is None, output(child)
        yield port
