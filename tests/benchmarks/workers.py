"""Rows of tests/benchmarks/run about worker processes: what a second one gives, and what their parent costs."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial

from peer import Peer, cpu_seconds, handler, message, resident_bytes, run_wrk
from rounds import HERE, interleave, medians, medians_of, variables, with_each
from support import Mongrel2, free_port, output, process, wait_for
from tables import Comparison, earlier
from web import RATE, connect


def ask(port: int, path: str, clients: int, seconds: int, *options: str) -> int:
    """How many answers wrk gets."""
    told = run_wrk(port, path, seconds, clients, *options)
    found = re.search(r"(\d+) requests in", told)
    assert found, told
    return int(found[1])


@contextlib.contextmanager
def workers(name: str, count: int, mongrel2: Mongrel2 | None) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """workers_program.py with so many workers (0: without a parent), behind this Mongrel2 or by HTTP: process, port."""
    port = free_port()
    door = ["--bind", f"127.0.0.1:{port}"] if mongrel2 is None else ["--mongrel2", mongrel2.pull, mongrel2.pub]
    options = [*door, *(["--workers", str(count)] if count else [])]
    command = [sys.executable, "-m", "brubeck_lite", "workers_program:app", *options]
    with process(command, env=variables(name), cwd=HERE) as child:
        said = "is ready" if count else ("serving" if mongrel2 is None else "connected")
        wait_for(lambda: output(child).count(said) == max(count, 1), what="the workers")
        if mongrel2 is not None:
            wait_for(lambda: "connected to Mongrel2" in output(child), what="Mongrel2")
        yield child, port if mongrel2 is None else mongrel2.port


@contextlib.contextmanager
def doors(short: bool) -> Iterator[dict[str, Mongrel2 | None]]:
    """A Mongrel2, and the embedded server unless the run is to be short."""
    with Mongrel2() as mongrel2:
        yield {"Mongrel2": mongrel2} if short else {"HTTP": None, "Mongrel2": mongrel2}


def rate_of_computing(name: str, count: int, mongrel2: Mongrel2 | None, seconds: int) -> float:
    """The rate of a handler that computes for 1 ms, with so many workers."""
    with workers(name, count, mongrel2) as (_, port):
        return ask(port, "/compute", 16, seconds) / seconds


def compare_computing(table: Comparison, short: bool) -> None:
    """Two workers beside one, where what handlers do is what takes the time."""
    rounds, seconds = (1, 1) if short else (5, 4)
    one = "1 worker"
    with doors(short) as each:
        for door, mongrel2 in each.items():
            probes = {name: partial(rate_of_computing, name, 2, mongrel2, seconds) for name in with_each()}
            probes[one] = partial(rate_of_computing, "ours", 1, mongrel2, seconds)
            what = f"2 workers, a handler that computes for 1 ms, {door}"
            table.compare(what, medians(interleave(rounds, probes)), RATE, {one: 1.7}, above=True)


def compare_short_connections(table: Comparison, short: bool) -> None:
    """Two workers beside one where each request has a connection of its own, as behind nginx by default. They must not
    be slower; how much faster they are depends on the core that the client takes. Where three processes share two
    cores the rate changes from second to second: many brief rounds tell more than a few long ones."""
    rounds, seconds = (1, 1) if short else (25, 1)
    one, closing = "1 worker", ("-H", "Connection: close")
    paths = [("/", "hello", 1.0), ("/compute", "a handler that computes for 1 ms", 1.6)]
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(workers(name, 2, None))[1] for name in with_each()}
        ports[one] = stack.enter_context(workers("ours", 1, None))[1]
        for path, what, aim in paths[:1] if short else paths:
            probes = {name: partial(ask, port, path, 10, seconds, *closing) for name, port in ports.items()}
            figures = {name: answers / seconds for name, answers in medians(interleave(rounds, probes)).items()}
            told = f"2 workers, {what}, a connection for each request, wrk -c10"
            table.compare(told, figures, RATE, {one: aim}, above=True)


def measure_hello(name: str, count: int, mongrel2: Mongrel2 | None, seconds: int) -> tuple[float, float]:
    """The rate of hello, and the microseconds of CPU time of the first process for each."""
    with workers(name, count, mongrel2) as (child, port):
        before = cpu_seconds(child.pid)[0]
        answers = ask(port, "/", 32, seconds)
        return answers / seconds, (cpu_seconds(child.pid)[0] - before) / answers * 1e6


def compare_parents(table: Comparison, short: bool) -> None:
    """Hello with one worker and its parent, beside no parent; and the CPU time of the parent."""
    rounds, seconds = (1, 1) if short else (5, 4)
    with doors(short) as each:
        for door, mongrel2 in each.items():
            probes = {name: partial(measure_hello, name, 1, mongrel2, seconds) for name in with_each()}
            probes["no parent"] = partial(measure_hello, "ours", 0, mongrel2, seconds)
            found = interleave(rounds, probes)
            rates, costs = (medians_of(part, found) for part in (0, 1))
            told = f"{rates['ours']:,.0f}/s ({costs['ours']:.1f} us CPU of the parent each)"
            beside, ratio = f"no parent {rates['no parent']:,.0f}/s", rates["ours"] / rates["no parent"]
            table.row(f"hello by 1 worker, {door}, wrk -c32", told, beside, ratio, None, True, earlier(rates, RATE))


def deal(name: str, count: int) -> tuple[float, float, float]:
    """The parent's CPU time, with its ZeroMQ thread's, in microseconds for a message and its answer, in a replay that
    keeps it busy: of new clients, whose first message it must read, and of those that it knows already; and the KB that
    it keeps for each."""
    messages = [message(number + 2, "/") for number in range(count)]
    costs, held = list[float](), list[int]()
    with Peer() as peer, handler(name, peer.pull, peer.pub, "never", workers=2) as child:
        wait_for(lambda: output(child).count("is ready") == 2, what="two workers")
        peer.await_handler()
        for _ in range(2):
            held.append(resident_bytes(child.pid))
            before = cpu_seconds(child.pid)[0]
            peer.replay(messages, b"Take five!", ahead=2000)
            costs.append((cpu_seconds(child.pid)[0] - before) / count * 1e6)
    return costs[0], costs[1], (held[1] - held[0]) / count / 1024


def measure_dealing(table: Comparison, short: bool) -> None:
    """What a parent spends for a message and its answer."""
    rounds, count = (1, 4_000) if short else (5, 40_000)
    found = interleave(rounds, {name: partial(deal, name, count) for name in with_each()})
    new, known, kept = (medians_of(part, found) for part in range(3))
    table.bound("dealing a message and its answer, new clients", new, "{:.1f} us CPU", 25, "25 us")
    table.bound("dealing a message and its answer, known clients", known, "{:.1f} us CPU", 25, "25 us")
    table.bound("a client that the parent knows", kept, "{:.2f} KB of the parent", 1, "1 KB", None)


def measure_parts(name: str, seconds: int, count: int) -> dict[str, list[float]]:
    """For Mongrel2, the parent and the worker: CPU time for a request, of all threads and of the main thread, and
    memory for an idle connection."""
    with Mongrel2() as mongrel2, workers(name, 1, mongrel2) as (child, port), contextlib.ExitStack() as stack:
        worker = int(re.findall(r"worker (\d+) is ready", output(child))[0])
        parts = {"Mongrel2": int(mongrel2.pid_file.read_text()), "parent": child.pid, "worker": worker}
        before = {part: cpu_seconds(pid) for part, pid in parts.items()}
        answers = ask(port, "/", 32, seconds)
        used = {part: cpu_seconds(pid) for part, pid in parts.items()}
        held = {part: resident_bytes(pid) for part, pid in parts.items()}
        kept = [stack.enter_context(connect(port)) for _ in range(count)]
        each = {part: (resident_bytes(pid) - held[part]) / len(kept) / 1024 for part, pid in parts.items()}
    costs = {part: [(used[part][at] - before[part][at]) / answers * 1e6 for at in (0, 1)] for part in parts}
    return {part: [*costs[part], each[part]] for part in parts}


def measure_hosts(table: Comparison, short: bool) -> None:
    """What scaling.md reckons with: CPU time of each part for a request through Mongrel2, and memory for an idle
    connection that has asked once, there and in the parent."""
    seconds, count = (1, 200) if short else (4, 900)
    found = {name: measure_parts(name, seconds, count) for name in with_each()}
    for part in found["ours"]:
        costs, mains, sizes = ({name: found[name][part][at] for name in found} for at in range(3))
        told = f"{mains['ours']:.1f} us main thread"
        table.bound(f"a request through Mongrel2: CPU of {part}", costs, "{:.1f} us", mains["ours"], told, None)
        table.bound(f"{count} idle connections: memory of {part}", sizes, "{:.2f} KB each", 12, "12 KB", None)
