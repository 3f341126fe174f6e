"""Handlers of Mongrel2 beside a bare loop of pyzmq, in replays of messages and through a real Mongrel2."""

from __future__ import annotations

import contextlib
import statistics
import time
from functools import partial

from peer import Peer, cpu_seconds, get, handler, message, resident_bytes
from rounds import interleave, medians_of, with_each
from support import Mongrel2, output, wait_for
from tables import Comparison
from web import RATE, wrk
from wrk_scripts import CROWD, script

CALLED = {"bare": "bare pyzmq loop", "spawn": "spawn_n each"}
AIMS = {("never", "bare"): 4.5, ("never", "spawn"): 0.35, ("waits", "spawn"): None}
REPLAYS = {
    "never": ("replay, never waits", "/", ["bare", "spawn"]),
    "waits": ("replay, waits 10 ms", "/wait", ["spawn"]),
}


def replay(which: str, mode: str, messages: list[bytes]) -> tuple[float, ...]:
    """One replay to a fresh handler: its CPU time, its main thread's and the time elapsed, in microseconds a message;
    and the share of that time in which the replaying side was busy."""
    with Peer() as peer, handler(which, peer.pull, peer.pub, mode) as child:
        peer.await_handler()
        before = cpu_seconds(child.pid)
        seconds, busy = peer.replay(messages, b"Take five!")
        used = [after - earlier for after, earlier in zip(cpu_seconds(child.pid), before, strict=True)]
    return (*(value / len(messages) * 1e6 for value in (*used, seconds)), busy)


def tell(measured: list[float]) -> str:
    """The times of a replay."""
    cpu, main, elapsed, _ = measured
    return f"{cpu:.1f} us CPU ({main:.1f} main thread, {elapsed:.1f} elapsed)"


def compare_replays(table: Comparison, short: bool) -> None:
    """Beside the bare loop and beside a coroutine for each message. The ratio is of the CPU time of whole processes."""
    for mode, (what, path, others) in REPLAYS.items():
        messages = [message(number + 2, path) for number in range(4_000 if short else 60_000)]
        probes = {name: partial(replay, name, mode, messages) for name in with_each(others)}
        rounds = interleave(1 if short else 5, probes)
        found = {name: [*map(statistics.median, zip(*rows, strict=True))] for name, rows in rounds.items()}
        ours = found["ours"]
        before = (tell(found["before"]), ours[0] / found["before"][0]) if "before" in found else None
        for name in others:
            beside, ratio = f"{CALLED[name]} {tell(found[name])}", ours[0] / found[name][0]
            table.row(what, tell(ours), beside, ratio, AIMS[mode, name], before=before)
        for name, (*_, busy) in found.items():
            if busy > 0.9:
                called = CALLED.get(name, name)
                table.notes.append(f"{what}, {called}: the replaying side was {busy:.0%} busy: time elapsed is its.")


def await_answer(port: int) -> None:
    """Ask until a handler answers: those with a PUB lose their first reply."""

    def is_answered() -> bool:
        with contextlib.suppress(OSError):
            return get(port, "/", 2) == b"Take five!"
        return False

    wait_for(is_answered, what="a handler that answers")


def ask_through(mongrel2: Mongrel2, name: str, workers: int, seconds: int, crowd: list[str]) -> tuple[float, float]:
    """The rates of one handler, with so many workers: for one request repeated, and for a crowd of browsers."""
    with handler(name, mongrel2.pull, mongrel2.pub, workers=workers) as child:
        if workers > 1:
            wait_for(lambda: output(child).count("is ready") == workers, what="the workers")
        await_answer(mongrel2.port)
        rates = wrk(mongrel2.port, "/", seconds)[0], wrk(mongrel2.port, "/", seconds, 32, *crowd)[0]
    time.sleep(0.3)
    return rates


def compare_through_mongrel2(table: Comparison, short: bool) -> None:
    """Through a real Mongrel2, without workers and with two and their parent, beside the bare loop."""
    seconds, bare, dealt = 1 if short else 2, "bare pyzmq loop", " with 2 workers"
    with Mongrel2() as mongrel2, script(CROWD) as crowd:
        ask = partial(ask_through, mongrel2, seconds=seconds, crowd=crowd)
        probes = {name: partial(ask, name, 1) for name in with_each()}
        probes |= {f"{name}{dealt}": partial(ask, name, 2) for name in with_each()}
        rounds = interleave(1 if short else 9, {**probes, bare: partial(ask, "bare", 1)})
    for suffix, through, aim in (("", "Mongrel2", 0.85), (dealt, "Mongrel2 and a parent with 2 workers", 0.65)):
        found = {bare: rounds[bare], **{name: rounds[f"{name}{suffix}"] for name in with_each()}}
        for part, what in enumerate(("one request repeated", "a crowd of browsers")):
            table.compare(f"through {through}, {what}", medians_of(part, found), RATE, {bare: aim}, above=True)


def hold_requests(name: str) -> float:
    """The KB of each of 10,000 requests that wait at once, all of which are answered in the end."""
    with Peer() as peer, handler(name, peer.pull, peer.pub) as child:
        peer.await_handler()

        def hold(count: int) -> int:
            for number in range(count):
                peer.send(message(number + 2, "/hold"))
            wait_for(lambda: peer.ask("/held").endswith(b"\r\n\r\n%d" % count), what="all to be held")
            return resident_bytes(child.pid)

        def release(count: int) -> None:
            peer.send(message(1, "/release"))
            answered = set()
            for _ in range(count + 1):
                assert peer.replies.poll(60_000), "an answer is missing"
                reply = peer.reply()
                assert b" 200 OK" in reply, reply
                answered.add(reply.partition(b", ")[0])
            assert len(answered) == count + 1, "a request had two answers"

        hold(300)
        release(300)
        before = resident_bytes(child.pid)
        each = (hold(10_000) - before) / 10_000 / 1024
        release(10_000)
    return each


def measure_waiting(table: Comparison, short: bool) -> None:
    """The memory of requests that wait."""
    figures = {name: hold_requests(name) for name in with_each()}
    table.bound("10,000 waiting requests", figures, "{:.1f} KB each", 12, "12 KB")
