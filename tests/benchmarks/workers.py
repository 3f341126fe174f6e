"""Rows of tests/benchmarks/run about worker processes: what a second one gives, and what their parent costs."""

from __future__ import annotations

import contextlib
import re
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from peer import Peer, cpu_seconds, handler, message, resident_bytes, run_wrk
from support import Mongrel2, environment, free_port, output, process, wait_for

HERE = Path(__file__).resolve().parent


def ask(port: int, path: str, clients: int, seconds: int, *options: str) -> int:
    """How many answers wrk gets."""
    told = run_wrk(port, path, seconds, clients, *options)
    found = re.search(r"(\d+) requests in", told)
    assert found, told
    return int(found[1])


@contextlib.contextmanager
def workers(count: int, mongrel2: Mongrel2 | None) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """workers_program.py with so many workers (0: without a parent), behind this Mongrel2 or by HTTP: process, port."""
    port = free_port()
    door = ["--bind", f"127.0.0.1:{port}"] if mongrel2 is None else ["--mongrel2", mongrel2.pull, mongrel2.pub]
    options = [*door, *(["--workers", str(count)] if count else [])]
    command = [sys.executable, "-m", "brubeck_lite", "workers_program:app", *options]
    with process(command, env=environment(measured=False), cwd=HERE) as child:
        said = "is ready" if count else ("serving" if mongrel2 is None else "connected")
        wait_for(lambda: output(child).count(said) == max(count, 1), what="the workers")
        if mongrel2 is not None:
            wait_for(lambda: "connected to Mongrel2" in output(child), what="Mongrel2")
        yield child, port if mongrel2 is None else mongrel2.port


def compare_workers(row: Callable[..., None], short: bool) -> None:
    """Two workers beside one, a parent beside none, and the parent's CPU time for a message and its answer."""
    rounds, seconds = (1, 1) if short else (5, 4)
    with Mongrel2() as mongrel2:
        for door, each in (("HTTP", None), ("Mongrel2", mongrel2)):
            rates: dict[int, list[float]] = {1: [], 2: []}
            for _ in range(rounds):
                for count, measured in rates.items():
                    with workers(count, each) as (_, port):
                        measured.append(ask(port, "/compute", 16, seconds) / seconds)
            one, two = (statistics.median(measured) for measured in rates.values())
            what = f"2 workers, a handler that computes for 1 ms, {door}"
            row(what, f"{two:,.0f}/s", f"1 worker {one:,.0f}/s", two / one, 1.7, above=True)
        compare_short_connections(row, rounds, seconds)
        compare_parents(row, None, "HTTP", rounds, seconds)
        compare_parents(row, mongrel2, "Mongrel2", rounds, seconds)
    measure_dealing(row, 1 if short else 5, 4_000 if short else 40_000)
    measure_hosts(row, seconds, 200 if short else 900)


def compare_short_connections(row: Callable[..., None], rounds: int, seconds: int) -> None:
    """Two workers beside one where each request has a connection of its own, as behind nginx by default. They must not
    be slower; how much faster they are depends on the core that the client takes."""
    with workers(1, None) as (_, one), workers(2, None) as (_, two):
        for path, what, aim in (("/", "hello", 1.0), ("/compute", "a handler that computes for 1 ms", 1.6)):
            rates: dict[int, list[float]] = {one: [], two: []}
            for _ in range(rounds):
                for port, measured in rates.items():
                    measured.append(ask(port, path, 10, seconds, "-H", "Connection: close") / seconds)
            of_one, of_two = (statistics.median(measured) for measured in rates.values())
            row(f"2 workers, {what}, a connection for each request, wrk -c10", f"{of_two:,.0f}/s",
                f"1 worker {of_one:,.0f}/s", of_two / of_one, aim, above=True)  # fmt: skip


def compare_parents(row: Callable[..., None], mongrel2: Mongrel2 | None, door: str, rounds: int, seconds: int) -> None:
    """Hello with one worker and its parent, beside no parent. Behind Mongrel2 also the CPU time of the parent."""
    rates: dict[int, list[float]] = {0: [], 1: []}
    costs: list[float] = []
    for _ in range(rounds):
        for count, measured in rates.items():
            with workers(count, mongrel2) as (child, port):
                before = cpu_seconds(child.pid)[0]
                answers = ask(port, "/", 32, seconds)
                measured.append(answers / seconds)
                if count:
                    costs.append((cpu_seconds(child.pid)[0] - before) / answers * 1e6)
    without, with_one = (statistics.median(measured) for measured in rates.values())
    told = f"{with_one:,.0f}/s ({statistics.median(costs):.1f} us CPU of the parent each)"
    row(f"hello by 1 worker, {door}, wrk -c32", told, f"no parent {without:,.0f}/s", with_one / without, None)


def measure_dealing(row: Callable[..., None], rounds: int, count: int) -> None:
    """The parent's CPU time, with its ZeroMQ thread's, for a message and its answer, in a replay that keeps it busy:
    of clients that it knows already, and of new ones, whose first message it must read."""
    costs: dict[str, list[float]] = {"new": [], "known": []}
    grown: list[float] = []
    messages = [message(number + 2, "/") for number in range(count)]
    for _ in range(rounds):
        with Peer() as peer, handler("ours", peer.pull, peer.pub, "never", workers=2) as child:
            wait_for(lambda child=child: output(child).count("is ready") == 2, what="two workers")  # type: ignore[misc]
            peer.await_handler()
            for measured in costs.values():
                before, held = cpu_seconds(child.pid)[0], resident_bytes(child.pid)
                peer.replay(messages, b"Take five!", ahead=2000)
                measured.append((cpu_seconds(child.pid)[0] - before) / count * 1e6)
                grown += [(resident_bytes(child.pid) - held) / count / 1024] if measured is costs["new"] else []
    for name, measured in costs.items():
        cost = statistics.median(measured)
        row(f"dealing a message and its answer, {name} clients", f"{cost:.1f} us CPU", "25 us", cost / 25, 1.0)
    each = statistics.median(grown)
    row("a client that the parent knows", f"{each:.2f} KB of the parent", "1 KB", each, None)


def measure_hosts(row: Callable[..., None], seconds: int, count: int) -> None:
    """What scaling.md reckons with: CPU time of each part for a request through Mongrel2, and memory for an idle
    connection that has asked once, there and in the parent."""
    with Mongrel2() as mongrel2, workers(1, mongrel2) as (child, port):
        worker = int(re.findall(r"worker (\d+) is ready", output(child))[0])
        parts = {"Mongrel2": int(mongrel2.pid_file.read_text()), "parent": child.pid, "worker": worker}
        before = {name: cpu_seconds(pid) for name, pid in parts.items()}
        answers = ask(port, "/", 32, seconds)
        for name, pid in parts.items():
            used = [after - earlier for after, earlier in zip(cpu_seconds(pid), before[name], strict=True)]
            cost, main = (value / answers * 1e6 for value in used)
            row(f"a request through Mongrel2: CPU of {name}", f"{cost:.1f} us", f"{main:.1f} us main thread",
                cost / main, None)  # fmt: skip
        kept, held = [], {name: resident_bytes(pid) for name, pid in parts.items()}
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
                assert client.recv(1000).endswith(b"Take five!")
                kept.append(client)
            for name, pid in parts.items():
                each = (resident_bytes(pid) - held[name]) / count / 1024
                row(f"{count} idle connections: memory of {name}", f"{each:.2f} KB each", "12 KB", each / 12, None)
