"""Connections that live: long polls, WebSockets, streams. What had to be raised for 10,000 of them: the open files of
each process (`ulimit -n`), our `pool_size` (a long poll takes a place in it, a WebSocket does not), and Mongrel2's
'superpoll.max_fd' (10,240) and 'superpoll.hot_dividend' (4). The former by the latter are its "hot" places, of which
each connection and each message on its way to a handler takes one. Where none is left it loses messages, breaks
connections off (502 in the middle of a WebSocket), or looks at its sockets only twice a second. `ulimit -n` bounds
max_fd: with 20,000 it takes two Mongrel2s, with 5,000 connections each, before our one process."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import re
import resource
import select
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import support
from live_programs import DATA, PIECE
from peer import get, resident_bytes

Row = Callable[..., None]

PROGRAMS = str(Path(__file__).with_name("live_programs.py"))
OURS = ["-m", "brubeck_lite", "live_programs:ours", "--quiet"]
SERVERS = {
    "ours": [*OURS, "--bind", "127.0.0.1:{port}"],
    "websockets": [PROGRAMS, "websockets", "{port}"],
    "eventlet.websocket": [PROGRAMS, "eventlet", "{port}"],
    "Starlette on uvicorn": ["-m", "uvicorn", "live_programs:starlette", "--log-level", "critical", "--port", "{port}"],
}
THROUGH = "ours through Mongrel2"
RAISED = "settings = {{'superpoll.max_fd': 20000, 'superpoll.hot_dividend': 2, "

GET = "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n\r\n"
)
TEXT = b"x" * 100
MASKED, FRAME = b"\x81\xe4\0\0\0\0" + TEXT, b"\x81\x64" + TEXT  # as a client and as a server sends it
RELEASED = re.compile(rb"(?s)HTTP/1.1 200 OK\r\n.*\r\n\r\nreleased")


@contextlib.contextmanager
def serving(name: str, files: str = ".") -> Iterator[tuple[list[int], int]]:
    """One of the servers: its ports (there are two Mongrel2s before ours) and process id."""
    variables = {**support.environment(measured=False), "FILES": files}
    variables["PYTHONPATH"] += f":{Path(__file__).parent}"
    with contextlib.ExitStack() as stack:
        doors = [stack.enter_context(support.Mongrel2()) for _ in range(2 if name == THROUGH else 0)]
        ports = [door.port for door in doors] or [support.free_port()]
        command = [part.format(port=ports[0]) for part in SERVERS.get(name, OURS)]
        command += [part for door in doors for part in ("--mongrel2", door.pull, door.pub)]
        child = stack.enter_context(support.process([sys.executable, *command], env=variables))
        support.wait_for(lambda: support.listens(ports[0]) or child.poll() is not None, what=name)
        for port in ports if name in ("ours", THROUGH) else ():
            assert get(port, "/", 60) == b"Take five!"
        yield ports, child.pid


def ask(port: int, text: str) -> socket.socket:
    """A connection on which this request was sent, from any address of the loopback: one has not ports enough."""
    client = socket.create_connection(("127.0.0.1", port), 60, (f"127.0.{random.randrange(1, 255)}.1", 0))
    client.sendall(text.encode())
    return client


def read_head(client: socket.socket, status: bytes) -> bytes:
    """Read the head of an answer, and what came with it of the body."""
    head, line, body = b"", b"", b""
    while not line:
        piece = client.recv(2000)
        assert piece, head
        head, line, body = (head + piece).partition(b"\r\n\r\n")
    assert head[8:].startswith(b" %b " % status), head
    return body


def hold(kind: str, count: int, ports: list[int]) -> dict[int, socket.socket]:
    """So many clients that wait, by descriptor: for the answer to a poll, or on a WebSocket."""
    clients: dict[int, socket.socket] = {}
    while len(clients) < count:
        opening = GET.format("/hold") if kind == "long polls" else UPGRADE.format("/all")
        some = [ask(ports[number % len(ports)], opening) for number in range(min(100, count - len(clients)))]
        clients.update({client.fileno(): client for client in some})
        for client in some if kind == "WebSockets" else ():
            assert read_head(client, b"101") == b""
        while kind == "long polls" and int(get(ports[0], "/held", 60)) < len(clients):
            time.sleep(0.01)
    return clients


def release(kind: str, clients: dict[int, socket.socket], port: int) -> float:
    """Have the server send something to all; the seconds until the last of them has it. AssertionError where one gets
    anything else, or nothing, or more."""
    waiting, poll = dict.fromkeys(clients, b""), select.epoll()
    for descriptor in clients:
        poll.register(descriptor, select.EPOLLIN)
    began = time.perf_counter()
    if kind == "long polls":
        releasing = ask(port, GET.format("/release"))
    else:
        releasing = next(iter(clients.values()))
        releasing.sendall(MASKED)
    while waiting:
        events = poll.poll(60)
        assert events, f"{len(waiting)} clients got nothing"
        for descriptor, _ in events:
            piece = clients[descriptor].recv(10_000)
            waiting[descriptor] += piece
            if waiting[descriptor] == FRAME or RELEASED.fullmatch(waiting[descriptor]):
                del waiting[descriptor]
            else:
                assert piece and len(waiting[descriptor]) < 1000, waiting[descriptor]
    seconds = time.perf_counter() - began
    assert not poll.poll(0.1), "some got more"
    return seconds


def compare_crowds(row: Row, kind: str, names: list[str], count: int, rounds: int, aim: float) -> None:
    """Clients that wait, of one server after the other: KB for each, and seconds in which something reaches all."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            with serving(name) as (ports, pid):
                for size in (20, count):  # the first ones warm it up
                    before = resident_bytes(pid)
                    clients = hold(kind, size, ports)
                    each = (resident_bytes(pid) - before) / size / 1024
                    seconds = release(kind, clients, ports[0])
                    for client in clients.values():
                        client.close()
                    time.sleep(0.3)
                found[name].append((each, seconds))
    medians = {name: [*map(statistics.median, zip(*rows, strict=True))] for name, rows in found.items()}
    what, (ours, our_seconds) = f"{count:,} {kind}", medians["ours"]
    for name, (each, seconds) in medians.items():
        if name in ("ours", THROUGH):
            row(f"{what}, {name}", f"{each:.1f} KB each", f"{aim:.0f} KB", each / aim, 1.0)
            row(f"{what}, {name}, to all", f"{seconds:.2f} s", "1 s", seconds, 1.0 if kind == "WebSockets" else None)
        else:
            row(what, f"{ours:.1f} KB each", f"{name} {each:.1f} KB", ours / each, None)
            row(f"{what}, to all", f"{our_seconds:.2f} s", f"{name} {seconds:.2f} s", our_seconds / seconds, None)


def compare_echoes(row: Row, rounds: int) -> None:
    """1,000 messages there and back on one WebSocket, in many rounds, client and server on one core: who wakes whom on
    which core is luck."""
    rates: dict[str, list[float]] = {"ours": [], "websockets": [], "eventlet.websocket": []}
    with contextlib.ExitStack() as stack:
        clients = {}
        for name in rates:
            (port,), pid = stack.enter_context(serving(name))
            os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))})
            clients[name] = stack.enter_context(ask(port, UPGRADE.format("/echo")))
            read_head(clients[name], b"101")
        stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        for _ in range(rounds):
            for name, client in clients.items():
                began = time.perf_counter()
                for _ in range(1000):
                    client.sendall(MASKED)
                    assert client.recv(1000) == FRAME
                rates[name].append(1000 / (time.perf_counter() - began))
    ours, *others = (statistics.median(measured) for measured in rates.values())
    for name, other in zip([*rates][1:], others, strict=True):
        row("echo, one WebSocket", f"{ours:,.0f}/s", f"{name} {other:,.0f}/s", ours / other, 1.0, above=True)


def download(port: int, path: str, size: int) -> float:
    """Megabytes a second of an answer of so many bytes, with the framing of chunks."""
    buffer, began = memoryview(bytearray(1 << 20)), time.perf_counter()
    with ask(port, GET.format(path)) as client:
        size = left = size - len(read_head(client, b"200"))
        while left > 0:
            count = client.recv_into(buffer)
            assert count, f"{left} bytes are missing"
            left -= count
        assert left == 0
    return size / (time.perf_counter() - began) / 1e6


def compare_streams(row: Row, pieces: int, rounds: int) -> None:
    """A large stream in chunks, beside a static file of the same size."""
    size, stream, static = pieces * len(PIECE), list[float](), list[float]()
    chunked = size + pieces * len(b"10000\r\n\r\n") + len(b"0\r\n\r\n")

    def peak() -> int:
        return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0])

    with tempfile.TemporaryDirectory() as folder, serving("ours", folder) as ((port,), pid):
        with open(f"{folder}/large.bin", "wb") as file:
            file.writelines(PIECE for _ in range(pieces))
        assert get(port, "/stream/100", 60) == PIECE * 100
        before = peak()
        for _ in range(rounds):
            stream.append(download(port, f"/stream/{pieces}", chunked))
            static.append(download(port, "/files/large.bin", size))
        grown = peak() - before
    ours, other, what = statistics.median(stream), statistics.median(static), f"stream of {size / 1e9:.2f} GB"
    row(what, f"{ours:,.0f} MB/s", f"static file {other:,.0f} MB/s", ours / other, 0.5, above=True)
    row(f"{what}, peak of memory", f"{grown / 1024:+.1f} MB", "4 MB", grown / 4096, 1.0)


def measure_credits(row: Row, count: int, size: int, rate: int) -> None:
    """Clients that each read a body of their own at this many bytes a second, through Mongrel2 with
    download.flow_control: every other one a stream."""
    with serving(THROUGH) as ((port, _), _):
        paths = [f"/body/{number * 997}/{size}" for number in range(count)]
        clients = [ask(port, GET.replace("1.1", "1.0").format(path)) for path in paths]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)  # so that Mongrel2 feels how slow it is
        got = {client: bytearray(read_head(client, b"200")) for client in clients}
        began, reading = time.perf_counter(), [*clients]
        while reading:
            for client in [*reading]:
                while len(got[client]) < rate * (time.perf_counter() - began):
                    if not (piece := client.recv(1 << 14)):
                        reading.remove(client)
                        break
                    got[client] += piece
            time.sleep(0.005)
        seconds = time.perf_counter() - began
    whole = sum(got[client] == DATA[number * 997 :][:size] for number, client in enumerate(clients))
    what = f"{count} clients of Mongrel2 at {rate / 1e6:.0f} MB/s each"
    row(what, f"{whole} whole, {seconds:.1f} s", f"{count}, {size / rate:.1f} s", whole / count, 1.0, above=True)
    assert whole == count


def compare_live(row: Row, short: bool) -> None:
    """All of it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    support.CONFIG = support.CONFIG.replace("settings = {{", RAISED)
    count, rounds = (500, 1) if short else (10_000, 3)
    compare_crowds(row, "long polls", ["ours", THROUGH], count, rounds, 12)
    others = [] if short else ["Starlette on uvicorn"]
    compare_crowds(row, "WebSockets", ["ours", THROUGH, "websockets", *others], count, rounds, 16)
    compare_echoes(row, 3 if short else 31)
    compare_streams(row, 500 if short else 16_000, rounds)
    measure_credits(row, 20 if short else 200, 500_000 if short else 3_000_000, 1_000_000)
