"""Connections that live: long polls, WebSockets, streams. What had to be raised for 10,000 of them: the open files of
each process (`ulimit -n`, 10,000 and some), our `pool_size` (a long poll takes a place in it, a WebSocket does not), and
Mongrel2's 'superpoll.max_fd' (10,240; three quarters of it are for the connections that are quiet)."""

from __future__ import annotations

import contextlib
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from live_programs import ASKING, FRAME, MASKED, OPENING, PIECE, ask, read_head
from peer import get, resident_bytes
from support import Mongrel2, environment, free_port, listens, process, wait_for

Row = Callable[..., None]

PROGRAMS = str(Path(__file__).with_name("live_programs.py"))
OURS = ["-m", "brubeck_lite", "live_programs:ours", "--quiet"]
SERVERS = {
    "ours": [*OURS, "--bind", "127.0.0.1:{port}"],
    "websockets": [PROGRAMS, "websockets", "{port}"],
    "Starlette on uvicorn": ["-m", "uvicorn", "live_programs:starlette", "--log-level", "critical", "--port", "{port}",
                             "--ws-ping-interval", "600", "--ws-ping-timeout", "600"],
    "eventlet.websocket": [PROGRAMS, "eventlet", "{port}"],
}  # fmt: skip
THROUGH = "ours through Mongrel2"


class LargeMongrel2(Mongrel2):
    """One that takes 10,000 connections."""

    def __init__(self) -> None:
        super().__init__()
        config = self.folder / "mongrel2.conf"
        config.write_text(config.read_text().replace("settings = {", "settings = {'superpoll.max_fd': 20000, 'superpoll.hot_dividend': 3, "))
        m2sh = ["m2sh", "load", "-config", "mongrel2.conf", "-db", "config.sqlite"]
        subprocess.run(m2sh, cwd=self.folder, check=True, capture_output=True)


@contextlib.contextmanager
def serving(name: str, files: str = ".") -> Iterator[tuple[int, int]]:
    """One of the servers: its port and process id."""
    variables = {**environment(measured=False), "FILES": files}
    variables["PYTHONPATH"] += f":{Path(__file__).parent}"
    with contextlib.ExitStack() as stack:
        if name == THROUGH:
            mongrel2 = stack.enter_context(LargeMongrel2())
            port, command = mongrel2.port, [*OURS, "--mongrel2", mongrel2.pull, mongrel2.pub]
        else:
            port = free_port()
            command = [part.format(port=port) for part in SERVERS[name]]
        child = stack.enter_context(process([sys.executable, *command], env=variables))
        wait_for(lambda: listens(port) or child.poll() is not None, 20, name)
        if command[:4] == OURS:
            assert get(port, "/", 10) == b"Take five!"
        yield port, child.pid


@contextlib.contextmanager
def crowd(kind: str, port: int, count: int) -> Iterator[Callable[[], float]]:
    """So many clients in one process, which have opened: call it to have all of them get something."""
    command = [sys.executable, PROGRAMS, "crowd", kind, str(port), str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin and child.stdout
        assert child.stdout.readline() == "open\n", "not all could connect"

        def release() -> float:
            print(file=child.stdin, flush=True)
            return float(child.stdout.readline())

        yield release
        child.stdin.close()


def warm_up(kind: str, port: int) -> None:
    with crowd(kind, port, 20) as release:
        release()
    time.sleep(0.5)


def measure_polls(row: Row, count: int) -> None:
    """Long polls held by one process and released at once."""
    for name in ("ours", THROUGH):
        with serving(name) as (port, pid):
            warm_up("poll", port)
            before = resident_bytes(pid)
            with crowd("poll", port, count) as release:
                each = (resident_bytes(pid) - before) / count / 1024
                seconds = release()
        what = f"{count:,} long polls, {name}"
        row(what, f"{each:.1f} KB each, all answered in {seconds:.2f} s", "12 KB", each / 12, 1.0)


def compare_crowds(row: Row, count: int, rounds: int) -> None:
    """WebSockets that all are open at the same time at all servers, and messages from one to all, in turns."""
    seconds: dict[str, list[float]] = {}
    memory = {}
    with contextlib.ExitStack() as stack:
        crowds = {}
        for name in ("ours", THROUGH, "websockets", "Starlette on uvicorn"):
            port, pid = stack.enter_context(serving(name))
            warm_up("ws", port)
            before = resident_bytes(pid)
            crowds[name] = pid, before, stack.enter_context(crowd("ws", port, count))
        for _ in range(rounds):
            for name, (*_, release) in crowds.items():
                seconds.setdefault(name, []).append(release())
        for name, (pid, before, _) in crowds.items():
            memory[name] = (resident_bytes(pid) - before) / count / 1024
    medians = {name: statistics.median(measured) for name, measured in seconds.items()}
    what = f"{count:,} WebSockets"
    for name in ("ours", THROUGH):
        row(f"{what}, {name}", f"{memory[name]:.1f} KB each", "16 KB", memory[name] / 16, 1.0)
        row(f"one message to all, {name}", f"{medians[name]:.2f} s until the last", "1 s", medians[name], 1.0)
    for name in ("websockets", "Starlette on uvicorn"):
        row(what, f"{memory['ours']:.1f} KB each", f"{name} {memory[name]:.1f} KB", memory["ours"] / memory[name], None)
        ours, other = medians["ours"], medians[name]
        row("one message to all", f"{ours:.2f} s", f"{name} {other:.2f} s", ours / other, None)


def compare_echoes(row: Row, count: int, rounds: int) -> None:
    """Messages there and back on one WebSocket: one at a time, and 50 on their way."""
    found: dict[tuple[str, int], list[float]] = {}
    with contextlib.ExitStack() as stack:
        clients = {}
        for name in SERVERS:
            port, _ = stack.enter_context(serving(name))
            clients[name] = stack.enter_context(ask(port, OPENING.format("/echo")))
            read_head(clients[name], b"101")
        for _ in range(rounds):
            for name, client in clients.items():
                for window in (1,) if name == "eventlet.websocket" else (1, 50):  # that one waits for acknowledgements
                    began = time.perf_counter()
                    for _ in range(count // window):
                        client.sendall(MASKED * window)
                        data = client.recv(1 << 16)
                        while len(data) < len(FRAME) * window:
                            data += client.recv(1 << 16)
                        assert data == FRAME * window
                    found.setdefault((name, window), []).append(count / (time.perf_counter() - began))
    medians = {key: statistics.median(rates) for key, rates in found.items()}
    for (name, window), other in medians.items():
        if name != "ours":
            what = "echo, one at a time" if window == 1 else f"echo, {window} on their way"
            ours, aim = medians["ours", window], None if name == "Starlette on uvicorn" else 1.0
            row(what, f"{ours:,.0f}/s", f"{name} {other:,.0f}/s", ours / other, aim, above=True)


def download(port: int, path: str, size: int) -> float:
    """Megabytes a second of an answer with a body of so many bytes, or chunks with so many in them."""
    buffer = memoryview(bytearray(1 << 20))
    began = time.perf_counter()
    with ask(port, ASKING.format(path)) as client:
        head, _, body = client.recv(2000).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK"), head
        wanted = size
        if b"chunked" in head:
            wanted += size // len(PIECE) * len(b"%x\r\n\r\n" % len(PIECE)) + len(b"0\r\n\r\n")
        got, last = len(body), body
        while got < wanted:
            count = client.recv_into(buffer)
            assert count, f"{wanted - got} bytes are missing"
            got, last = got + count, buffer[:count]
        assert got == wanted and (wanted == size or bytes(last).endswith(b"0\r\n\r\n"))
        return size / (time.perf_counter() - began) / 1e6


def peak(pid: int) -> int:
    """The most memory that a process has had in use, in KB."""
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def compare_streams(row: Row, size: int, rounds: int) -> None:
    """A large stream, beside a static file of the same size."""
    rates: dict[str, list[float]] = {}
    grown = {}
    with tempfile.TemporaryDirectory() as folder:
        with open(f"{folder}/large.bin", "wb") as file:
            for _ in range(size // len(PIECE)):
                file.write(PIECE)
        with serving("ours", folder) as (port, pid), serving(THROUGH) as (through, through_pid):
            asked = {"stream": (port, f"/stream/{size}"), "file": (port, "/files/large.bin"),
                     THROUGH: (through, f"/stream/{size}")}  # fmt: skip
            for name, (door, path) in asked.items():
                if name != "file":
                    download(door, f"/stream/{len(PIECE) * 100}", len(PIECE) * 100)
                before = peak(pid), peak(through_pid)
                download(door, path, size)
                grown[name] = max(0, peak(pid) - before[0] + peak(through_pid) - before[1]) / 1024
            for _ in range(rounds):
                for name, (door, path) in asked.items():
                    rates.setdefault(name, []).append(download(door, path, size))
    stream, static, through_rate = (statistics.median(measured) for measured in rates.values())
    what = f"stream of {size / 1e9:.1f} GB"
    row(what, f"{stream:,.0f} MB/s", f"static file {static:,.0f} MB/s", stream / static, 0.5, above=True)
    row(f"{what} through Mongrel2", f"{through_rate:,.0f} MB/s", f"embedded {stream:,.0f} MB/s",
        through_rate / stream, None, above=True)  # fmt: skip
    for name in ("stream", THROUGH):
        row(f"{what}, peak of memory, {name}", f"grew by {grown[name]:.1f} MB", "4 MB", grown[name] / 4, 1.0)


def measure_credits(row: Row, count: int, size: int, rate: int) -> None:
    """Clients that read at a steady rate, through Mongrel2 with download.flow_control."""
    with serving(THROUGH) as (port, _):
        command = [sys.executable, PROGRAMS, "readers", str(port), str(count), str(size), str(rate)]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    row(f"{count} clients at {rate / 1e6:.0f} MB/s through Mongrel2", f"{told[0]} whole", f"{count}, {float(told[1]):.1f} s",
        int(told[0]) / count, 1.0, above=True)  # fmt: skip
    assert int(told[0]) == count


def compare_live(row: Row, short: bool) -> None:
    """All of it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    measure_polls(row, 500 if short else 10_000)
    compare_crowds(row, 500 if short else 10_000, 1 if short else 5)
    compare_echoes(row, 1_000 if short else 10_000, 1 if short else 5)
    compare_streams(row, len(PIECE) * (500 if short else 16_000), 1 if short else 3)
    measure_credits(row, 20 if short else 200, 300_000 if short else 3_000_000, 1_000_000)
