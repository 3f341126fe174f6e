"""A burst of requests for a slow page, by real clients: whether each is answered, what waits where, and when `/` is."""

from __future__ import annotations

import collections
import contextlib
import re
import resource
import select
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

sys.path.append(str(Path(__file__).resolve().parent))
sys.path.append(str(Path(__file__).resolve().parent.parent))

import support
from live import RAISED
from peer import cpu_seconds
from support import Mongrel2, behind_http, behind_mongrel2, free_port

Lines = list[tuple[str, bool]]
SIZES = {"as_it_comes": (10_000, 10_000), "small": (100, 500)}  # of the pool, and of those who may wait for it
REQUEST = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"
FIELDS = rb"(?:[A-Za-z-]+: [^\r\n]*\r\n)+"
ANSWER = re.compile(
    rb"HTTP/1\.1 (200 OK)\r\n%b\r\nslow|HTTP/1\.1 503 Service Unavailable\r\n%b\r\n503 Service Unavailable\n"
    % (FIELDS, FIELDS)
)
PATIENCE = 120.0  # seconds for all of it, on a machine that is busy


@contextlib.contextmanager
def serving(door: str, name: str) -> Iterator[tuple[int, int, int]]:
    """One of the applications behind a door: its port, that of its figures, and its process id."""
    stats = free_port()
    program, options = f"program_overload:{name}", ["--quiet", "--stats", f"127.0.0.1:{stats}"]
    if door == "http":
        with behind_http(program, *options) as (child, port):
            yield port, stats, child.pid
    else:
        with (
            mock.patch.object(support, "CONFIG", support.CONFIG.replace("settings = {{", RAISED)),
            Mongrel2() as mongrel2,
            behind_mongrel2(program, mongrel2, *options, ready=False) as child,
        ):
            with connect(mongrel2.port, b"/") as first:
                assert first.recv(1000).endswith(b"Take five!")
            yield mongrel2.port, stats, child.pid


def connect(port: int, path: bytes = b"", times: int = 1) -> socket.socket:
    """A client that has asked for this path so many times."""
    client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    if path:
        client.sendall(REQUEST % path * times)
    return client


def figures(port: int) -> dict[str, int]:
    """What waits and is handled, as Prometheus is told."""
    told = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE).read().decode()
    return {name: int(value) for name, value in re.findall(r"^brubeck_lite_requests_(\w+) (\d+)$", told, re.MULTILINE)}


class Burst:
    """So many clients that send so many requests each, all at once."""

    def __init__(self, port: int, stats: int, clients: int, each: int) -> None:
        self._port, self._stats, self._poll = port, stats, select.epoll()
        self._clients = {client.fileno(): client for client in (connect(port) for _ in range(clients))}
        self._due = dict.fromkeys(self._clients, each)
        self._received = dict.fromkeys(self._clients, b"")
        self.counts: collections.Counter[str] = collections.Counter()
        self.most: collections.Counter[str] = collections.Counter()
        for client in self._clients.values():
            client.setblocking(False)
            self._poll.register(client, select.EPOLLIN)
        for client in self._clients.values():
            client.sendall(REQUEST % b"/slow" * each)
        self.began = time.monotonic()

    def run(self) -> None:
        """Read the answers. Meanwhile look at the figures, and ask for / by clients of their own, one at a time."""
        self.probes, probe, asked, next_look = list[tuple[float, float, bool]](), None, 0.0, 0.0
        while self._due and time.monotonic() < self.began + PATIENCE:
            now = time.monotonic()
            if now >= next_look:
                next_look = now + 0.2
                for name, value in figures(self._stats).items():
                    self.most[name] = max(self.most[name], value)
            if probe is None:
                probe, asked = connect(self._port, b"/"), time.monotonic()
                self._poll.register(probe, select.EPOLLIN)
            for descriptor, _ in self._poll.poll(0.05):
                if descriptor == probe.fileno():
                    self.probes.append((asked, time.monotonic(), probe.recv(1000).endswith(b"Take five!")))
                    probe.close()
                    probe = None
                    break
                self._read(descriptor)
        self.ended = time.monotonic()
        for client in [*self._clients.values(), *([probe] if probe else [])]:
            client.close()
        self._poll.close()

    def _read(self, descriptor: int) -> None:
        try:
            piece = self._clients[descriptor].recv(1 << 16)
        except ConnectionError:
            piece = b""
        self._received[descriptor] += piece
        at = 0
        while match := ANSWER.match(self._received[descriptor], at):
            at = match.end()
            self.counts["right" if match[1] else "refused" if b"\r\nRetry-After: 1\r\n" in match[0] else "wrong"] += 1
            self._due[descriptor] -= 1
        self._received[descriptor] = self._received[descriptor][at:]
        if not self._due[descriptor] or not piece:
            self._poll.unregister(descriptor)
            del self._due[descriptor]


def overload(door: str, name: str, clients: int, each: int) -> Lines:
    """One burst."""
    pool_size, max_waiting = SIZES[name]
    with serving(door, name) as (port, stats, pid):
        before = cpu_seconds(pid)[0]
        burst = Burst(port, stats, clients, each)
        burst.run()
        used = cpu_seconds(pid)[0] - before
        began = time.monotonic()
        with connect(port, b"/") as client:
            is_served = client.recv(1000).endswith(b"Take five!")
        after = time.monotonic() - began
        left = figures(stats)
        while any(left.values()) and time.monotonic() < began + PATIENCE:  # an answer may be there before it is counted
            left = figures(stats)
    counts, count = burst.counts, clients * each
    first = next((answered for _, answered, is_right in burst.probes if is_right), burst.ended + after) - burst.began
    return [
        (
            f"{count:,} requests at once by {clients:,} clients, {door}, a pool of {pool_size:,}: {counts['right']:,} "
            f"answered, {counts['refused']:,} told to come again (503), in {burst.ended - burst.began:.1f} s, "
            f"{used / count * 1e6:.0f} us CPU each",
            counts["right"] + counts["refused"] == count and counts["right"] >= min(clients, pool_size + max_waiting),
        ),
        (
            f"at most {burst.most['in_progress']:,} were handled and {burst.most['waiting']:,} waited",
            # An answer that waits for the one before it on its connection, behind Mongrel2, takes no place in the pool.
            burst.most["in_progress"] <= pool_size * (1 + (door != "http")) and burst.most["waiting"] <= max_waiting,
        ),
        (
            f"/ was answered {first:.1f} s after the burst was sent, and {after:.3f} s after its last answer",
            is_served,
        ),
        (
            f"left behind: {left['in_progress']} in the pool, {left['waiting']} waiting",
            not any(left.values()),
        ),
    ]


def overload_all(short: bool) -> Lines:
    """Each door with each application, one after the other."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    lines: Lines = []
    for door in ("http", "mongrel2"):
        if short:
            lines += overload(door, "small", 800, 5)
        else:
            lines += overload(door, "as_it_comes", 5_000, 10)
            lines += overload(door, "small", 1_000, 50)
    return lines


if __name__ == "__main__":
    for told, held in overload_all("--short" in sys.argv):
        print(f"| {told} | {'yes' if held else 'NO'} |")
