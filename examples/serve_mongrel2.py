"""One command from a program to a page behind Mongrel2: writes a configuration that fits, starts both, and ends both.

    python serve_mongrel2.py hello:app                                      (http://127.0.0.1:6767)
    python serve_mongrel2.py hello:app --bind 0.0.0.0:8000 --access-log

Mongrel2 listens at --bind HOST:PORT (port 0: a free one); what else follows the program goes to brubeck_lite. All that
is written is in a private folder, which disappears. Ctrl-C and SIGTERM let requests finish, and the exit status is 0; a
second one does not wait. SIGHUP goes to brubeck_lite. Where one of the two ends by itself, so does the other: status 1,
or 2 if it could not start. For a server that stays, begin with: brubeck_lite hello:app --print-mongrel2-config
"""

import argparse
import contextlib
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

PATIENCE = 30.0  # seconds until both serve
GRACE = 15.0  # seconds to end; brubeck_lite gives requests 10

Process = subprocess.Popen[Any]

came: list[int] = []  # the signals that ask us to end


def fail(message: str, status: int = 2) -> NoReturn:
    print(f"serve_mongrel2: {message}", file=sys.stderr)
    raise SystemExit(status)


def read_arguments() -> tuple[str, str, list[str]]:
    """The program, where Mongrel2 is to listen, and what brubeck_lite is told."""
    parser = argparse.ArgumentParser(
        usage="%(prog)s MODULE:APP [--bind HOST:PORT] [options of brubeck_lite]",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog=(__doc__ or "").rpartition("\n\n")[2],
        allow_abbrev=False,
    )
    parser.add_argument("app", metavar="MODULE:APP", help="where the application is, like hello:app")
    parser.add_argument("--bind", metavar="HOST:PORT", default="127.0.0.1:6767", help="default: %(default)s")
    options, others = parser.parse_known_args()
    if any(other.split("=")[0] in ("--mongrel2", "--print-mongrel2-config") for other in others):
        parser.error("the addresses between Mongrel2 and brubeck_lite are chosen here")
    return options.app, options.bind, others


def find_address(bind: str) -> tuple[str, int]:
    """The host and the port, a free one for 0, once it is sure that somebody can listen there."""
    host, _, port = bind.rpartition(":")
    host = host.strip("[]")
    if not host or not port.isdecimal() or int(port) > 65535:
        fail(f"{bind} is not HOST:PORT, like 127.0.0.1:6767")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, int(port)), family=family) as probe:
            return host, int(probe.getsockname()[1])
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while")[0]
        fail(f"cannot listen at {bind}: {reason} (--bind names another address)")


@contextlib.contextmanager
def running(command: list[str], **options: Any) -> Iterator[Process]:
    """A process, which is ended with the block. It has a session of its own, for Ctrl-C reaches all of ours at once."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
    try:
        yield process
    finally:
        deadline, seen = time.monotonic() + GRACE, len(came)
        if process.poll() is None:
            process.terminate()
        while process.poll() is None:
            if len(came) > seen or time.monotonic() > deadline:
                process.kill()
            time.sleep(0.02)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition held in time; ends the program when a signal asks for that."""
    deadline = time.monotonic() + seconds
    while not condition():
        if came:
            raise SystemExit(0)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def run_tool(command: list[str], **options: Any) -> int:
    """Run a command to its end; its exit status."""
    with running(command, **options) as process:
        wait_for(lambda: process.poll() is not None, float("inf"))
    return process.returncode


def load_configuration(folder: Path, command: list[str]) -> tuple[str, list[str]]:
    """Have brubeck_lite write the configuration and m2sh load it; the uuid of the server in it, and the options that
    tell brubeck_lite where uploads are, unless the program or its options do."""
    for name in ("run", "logs", "tmp"):
        (folder / name).mkdir()
    with (folder / "mongrel2.conf").open("wb") as file:
        if status := run_tool([*command, "--print-mongrel2-config"], stdout=file):
            raise SystemExit(status)  # it has said why
    with (folder / "m2sh.log").open("wb") as log:
        load = ["m2sh", "load", "-config", "mongrel2.conf", "-db", "config.sqlite"]
        if run_tool(load, cwd=folder, stdout=log, stderr=log):
            fail(f"m2sh does not take the configuration: {last_errors(folder / 'm2sh.log')}", 1)
    with contextlib.closing(sqlite3.connect(folder / "config.sqlite")) as database, database:
        database.execute("INSERT INTO setting (key, value) VALUES ('server.daemonize', '0')")  # our child, not init's
        (store,) = database.execute("SELECT value FROM setting WHERE key = 'upload.temp_store'").fetchone()
        is_ours = not store.startswith("/")
        return (
            str(database.execute("SELECT uuid FROM server").fetchone()[0]),
            ["--upload-store", str(folder / "tmp")] if is_ours else [],
        )


def last_errors(log: Path) -> str:
    """The last errors that Mongrel2 or m2sh has told of."""
    errors = re.findall(r"\[ERROR\] \(.*?\) (.*)", log.read_text(errors="replace"))
    return " ".join(error for error in errors[-4:] if not error.startswith("Exiting due")) or "it does not say why"


def end_with(name: str, process: Process, log: Path | None = None) -> None:
    """End, with a line and a status that say why, if this process has ended by itself."""
    status = process.poll()
    if status is None or came:
        return
    how = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
    fail(f"{name} {how}" + (f": {last_errors(log)}" if log is not None and status > 0 else ""), max(status, 1))


class Probe:
    """Asks for what any application answers, and holds the line until the answer comes."""

    def __init__(self, host: str, port: int) -> None:
        self.address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port
        self.client: socket.socket | None = None

    def has_answer(self) -> bool:
        try:
            if self.client is None:
                self.client = socket.create_connection(self.address, timeout=1)
                self.client.sendall(b"OPTIONS / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                self.client.settimeout(0.05)
            answer = self.client.recv(1000)
            if answer and b"\r\nServer: Mongrel2/" not in answer:  # its own 502: nobody is behind it yet
                return True
        except TimeoutError:
            return False
        except OSError:
            pass
        self.close()
        return False

    def close(self) -> None:
        if self.client is not None:
            self.client.close()
            self.client = None


def serve(app: str, bind: str, others: list[str], folder: Path) -> None:
    host, port = find_address(bind)
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    addresses = ["--mongrel2", f"ipc://{folder}/run/requests", f"ipc://{folder}/run/replies"]
    command = [sys.executable, "-m", "brubeck_lite", app, *addresses, *others]
    uuid, store = load_configuration(folder, [*command, "--bind", place])
    log = folder / "logs" / "error.log"
    with (
        log.open("ab") as file,
        contextlib.closing(Probe(host, port)) as probe,
        running(["mongrel2", "config.sqlite", uuid], cwd=folder, stdout=file, stderr=file) as mongrel2,
        running([*command, *store]) as brubeck,
    ):
        signal.signal(signal.SIGHUP, lambda number, frame: brubeck.send_signal(number))

        def has_ended() -> bool:
            end_with("Mongrel2", mongrel2, log)
            end_with("brubeck_lite", brubeck)
            return False

        if not wait_for(lambda: has_ended() or probe.has_answer(), PATIENCE):
            fail(f"nobody answers after {PATIENCE:.0f} seconds; Mongrel2 says: {last_errors(log)}")
        probe.close()
        host = probe.address[0]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        print(f"serve_mongrel2: serving {url} (Ctrl-C ends it)", file=sys.stderr)
        wait_for(has_ended, float("inf"))


def main() -> None:
    app, bind, others = read_arguments()
    if not shutil.which("mongrel2") or not shutil.which("m2sh"):
        fail("Mongrel2 is not installed: apt-get install mongrel2-core, or see https://mongrel2.org")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: came.append(number))
    place = None if len(tempfile.gettempdir()) < 60 else "/tmp"  # the path of a socket has at most 107 bytes
    with tempfile.TemporaryDirectory(prefix="serve_mongrel2-", dir=place) as folder:
        serve(app, bind, others, Path(folder))


if __name__ == "__main__":
    main()
