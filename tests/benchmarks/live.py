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
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import support
from live_programs import DATA, PIECE
from peer import get, resident_bytes
from rounds import FOLDERS, HERE, interleave, medians, medians_of, variables, with_each
from tables import Comparison

OURS = ["-m", "brubeck_lite", "live_programs:ours", "--quiet"]
SERVERS = {
    "websockets": ["live_programs.py", "websockets", "{port}"],
    "eventlet.websocket": ["live_programs.py", "eventlet", "{port}"],
    "Starlette on uvicorn": ["-m", "uvicorn", "live_programs:starlette", "--log-level", "critical", "--port", "{port}"],
}
THROUGH = " through Mongrel2"
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
def serving(name: str) -> Iterator[tuple[list[int], int]]:
    """One of the servers, or ours with the brubeck_lite.py before, or one of these two through Mongrel2: its ports
    (there are two Mongrel2s then) and process id."""
    whose, is_through = name.removesuffix(THROUGH), name.endswith(THROUGH)
    with contextlib.ExitStack() as stack:
        doors = [stack.enter_context(support.Mongrel2()) for _ in range(2 * is_through)]
        ports = [door.port for door in doors] or [support.free_port()]
        bound = [] if is_through else ["--bind", f"127.0.0.1:{ports[0]}"]
        command = [part.format(port=ports[0]) for part in SERVERS.get(name, [*OURS, *bound])]
        command += [part for door in doors for part in ("--mongrel2", door.pull, door.pub)]
        child = stack.enter_context(support.process([sys.executable, *command], env=variables(whose), cwd=HERE))
        support.wait_for(lambda: support.listens(ports[0]) or child.poll() is not None, what=name)
        for port in ports if whose in FOLDERS else ():
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


def measure_waiting(name: str, kind: str, count: int) -> tuple[float, float]:
    """Clients that wait, of one server: KB for each, and seconds in which something reaches all."""
    with serving(name) as (ports, pid):
        for size in (20, count):  # the first ones warm it up
            before = resident_bytes(pid)
            clients = hold(kind, size, ports)
            each = (resident_bytes(pid) - before) / size / 1024
            seconds = release(kind, clients, ports[0])
            for client in clients.values():
                client.close()
            time.sleep(0.3)
    return each, seconds


def compare_waiting(table: Comparison, kind: str, others: list[str], count: int, rounds: int, most: int) -> None:
    """Clients that wait, of one server after the other, in interleaved rounds."""
    names = [*with_each(), *(f"{name}{THROUGH}" for name in with_each()), *others]
    found = interleave(rounds, {name: partial(measure_waiting, name, kind, count) for name in names})
    sizes, times = (medians_of(part, found) for part in (0, 1))
    what, aim = f"{count:,} {kind}", 1.0 if kind == "WebSockets" else None
    for suffix in ("", THROUGH):
        own_sizes, own_times = ({name: some[f"{name}{suffix}"] for name in with_each()} for some in (sizes, times))
        table.bound(f"{what}, ours{suffix}", own_sizes, "{:.1f} KB each", most, f"{most} KB")
        table.bound(f"{what}, ours{suffix}, to all", own_times, "{:.2f} s", 1, "1 s", aim)
    table.compare(what, sizes, "{:.1f} KB each", dict.fromkeys(others))
    table.compare(f"{what}, to all", times, "{:.2f} s", dict.fromkeys(others))


def echo(client: socket.socket) -> float:
    """The rate of 1,000 messages there and back."""
    began = time.perf_counter()
    for _ in range(1000):
        client.sendall(MASKED)
        assert client.recv(1000) == FRAME
    return 1000 / (time.perf_counter() - began)


def compare_echoes(table: Comparison, rounds: int) -> None:
    """1,000 messages there and back on one WebSocket, in many rounds, client and server on one core: who wakes whom on
    which core is luck."""
    aims: dict[str, float | None] = {"websockets": 1.0, "eventlet.websocket": 1.0}
    with contextlib.ExitStack() as stack:
        probes = {}
        for name in with_each(aims):
            (port,), pid = stack.enter_context(serving(name))
            os.sched_setaffinity(pid, {min(os.sched_getaffinity(0))})
            client = stack.enter_context(ask(port, UPGRADE.format("/echo")))
            read_head(client, b"101")
            probes[name] = partial(echo, client)
        stack.callback(os.sched_setaffinity, 0, os.sched_getaffinity(0))
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        figures = medians(interleave(rounds, probes))
    table.compare("echo, one WebSocket", figures, "{:,.0f}/s", aims, above=True)


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


def peak_of_memory(pid: int) -> int:
    """The most KB that a process has had in use."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmHWM:")[2].split()[0])


def compare_streams(table: Comparison, pieces: int, rounds: int) -> None:
    """A large stream in chunks, beside a static file of the same size."""
    size, static = pieces * len(PIECE), "static file"
    chunked = size + pieces * len(b"10000\r\n\r\n") + len(b"0\r\n\r\n")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        os.environ["FILES"] = folder
        stack.callback(os.environ.pop, "FILES")
        with open(f"{folder}/large.bin", "wb") as file:
            file.writelines(PIECE for _ in range(pieces))
        probes, pids = {}, {}
        for name in with_each():
            (port,), pids[name] = stack.enter_context(serving(name))
            assert get(port, "/stream/100", 60) == PIECE * 100
            probes[name] = partial(download, port, f"/stream/{pieces}", chunked)
            if name == "ours":
                probes[static] = partial(download, port, "/files/large.bin", size)
        peaks = {name: peak_of_memory(pid) for name, pid in pids.items()}
        figures = medians(interleave(rounds, probes))
        grown = {name: (peak_of_memory(pid) - peaks[name]) / 1024 for name, pid in pids.items()}
    what = f"stream of {size / 1e9:.2f} GB"
    table.compare(what, figures, "{:,.0f} MB/s", {static: 0.5}, above=True)
    table.bound(f"{what}, peak of memory", grown, "{:+.1f} MB", 4, "4 MB")


def read_slowly(name: str, count: int, size: int, rate: int) -> tuple[int, float]:
    """Clients that each read a body of their own at this many bytes a second, through Mongrel2 with
    download.flow_control, every other one a stream: how many are whole, and the seconds."""
    with serving(f"{name}{THROUGH}") as ((port, _), _):
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
    return sum(got[client] == DATA[number * 997 :][:size] for number, client in enumerate(clients)), seconds


def measure_credits(table: Comparison, count: int, size: int, rate: int) -> None:
    """All of the clients that read slowly have their whole bodies."""
    found = {name: read_slowly(name, count, size, rate) for name in with_each()}
    told = {name: f"{whole} whole, {seconds:.1f} s" for name, (whole, seconds) in found.items()}
    what, whole = f"{count} clients of Mongrel2 at {rate / 1e6:.0f} MB/s each", found["ours"][0]
    before = (told["before"], found["ours"][1] / found["before"][1]) if "before" in found else None
    table.row(what, told["ours"], f"{count}, {size / rate:.1f} s", whole / count, 1.0, True, before)
    assert whole == count


def compare_live(table: Comparison, short: bool) -> None:
    """All of it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with mock.patch.object(support, "CONFIG", support.CONFIG.replace("settings = {{", RAISED)):
        count, rounds = (500, 1) if short else (10_000, 3)
        compare_waiting(table, "long polls", [], count, rounds, 12)
        others = ["websockets"] if short else ["websockets", "Starlette on uvicorn"]
        compare_waiting(table, "WebSockets", others, count, rounds, 16)
        compare_echoes(table, 3 if short else 31)
        compare_streams(table, 500 if short else 16_000, rounds)
        measure_credits(table, 20 if short else 200, 500_000 if short else 3_000_000, 1_000_000)
