"""How many functions of brubeck_lite.py are called for a request, in each of the processes that it goes through."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from in_process import environ
from peer import get
from rounds import HERE, load, variables, with_each
from support import Mongrel2, free_port, listens, process, wait_for
from tables import Comparison

REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: benchmark\r\nAccept: */*\r\n\r\n"
AIMS = {"HTTP": (22,), "Mongrel2": (30,), "parent + worker": (15, 30), "WSGI": (8,)}


@contextlib.contextmanager
def counting(name: str, door: str) -> Iterator[tuple[int, Path, int]]:
    """calls_program.py behind a door: its port, the folder with the counts, and its process id."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        if door == "HTTP":
            port = free_port()
            options = ["--bind", f"127.0.0.1:{port}"]
        else:
            mongrel2 = stack.enter_context(Mongrel2())
            port, options = mongrel2.port, ["--mongrel2", mongrel2.pull, mongrel2.pub]
        options += ["--workers", "1"] if door == "parent + worker" else []
        command = [sys.executable, "calls_program.py", *options]
        child = stack.enter_context(process(command, env={**variables(name), "CALLS": folder}, cwd=HERE))
        wait_for(lambda: listens(port), what="a server")
        assert get(port, "/", 60) == b"Take five!"
        yield port, Path(folder), child.pid


def read_counts(folder: Path, first: int) -> list[int]:
    """The counts of all processes, that of the `first` before the others."""
    files = sorted(folder.iterdir(), key=lambda file: file.name != str(first))
    return [struct.unpack("Q", file.read_bytes())[0] for file in files]


def ask(port: int, count: int) -> None:
    """So many requests on one connection, one after the other."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        for _ in range(count):
            client.sendall(REQUEST)
            assert client.recv(1000).endswith(b"Take five!")


def count_served(name: str, door: str, count: int) -> list[float]:
    """The calls for a request in each process behind a door."""
    with counting(name, door) as (port, folder, pid):
        ask(port, 100)
        before = read_counts(folder, pid)
        ask(port, count)
        time.sleep(0.1)
        return [(after - earlier) / count for after, earlier in zip(read_counts(folder, pid), before, strict=True)]


def count_wsgi(name: str) -> list[float]:
    """The calls for a request as a WSGI application."""
    brubeck_lite, calls = load(name), 0
    app = brubeck_lite.Brubeck()
    app.route("/")(lambda request: "Take five!")

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename == brubeck_lite.__file__

    environs = [environ("/") for _ in range(110)]
    for number, each in enumerate(environs):
        if number == 10:
            sys.setprofile(profile)
        b"".join(app(each, lambda status, headers, exc_info=None: None))
    sys.setprofile(None)
    return [calls / 100]


def compare_calls(table: Comparison, short: bool) -> None:
    """Each door, with requests that follow each other on one connection. The ratio is that of the process which is
    furthest from its aim."""
    for door, aims in AIMS.items():
        found = {
            name: count_wsgi(name) if door == "WSGI" else count_served(name, door, 200 if short else 2000)
            for name in with_each()
        }
        told = {name: " + ".join(f"{each:.0f}" for each in counts) for name, counts in found.items()}
        ours, most = sum(found["ours"]), " + ".join(map(str, aims))
        ratio = max(count / aim for count, aim in zip(found["ours"], aims, strict=True))
        before = (told["before"], ours / sum(found["before"])) if "before" in found else None
        table.row(f"calls of ours for a request, {door}", told["ours"], most, ratio, 1.0, before=before)
