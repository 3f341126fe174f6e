"""Experiments with worker processes under load, of which tests/benchmarks/faults prints the table; it fails where a
line of one is not right. An experiment gives lines: what was seen, and whether that is right, which no line says of how
long it took: the machine may be busy."""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from live_clients import SECONDS, Client, Lines, Wrong, poll, ready_workers
from support import Mongrel2, environment, free_port, is_running, output, process, wait_for

PROGRAM = "program_faults:app"


class Askers:
    """Threads that ask again and again on connections that they keep. Each answer must be their own token; whose
    connection ends, or is answered with an error, connects again."""

    def __init__(self, port: int, count: int, wait: float = 0.02) -> None:
        self.right, self.slowest = 0, 0.0
        self.refused, self.ended, self.wrong = (collections.Counter[str]() for _ in range(3))
        self._port, self._wait, self._running = port, wait, True
        self._threads = [threading.Thread(target=self._live, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _live(self) -> None:
        while self._running:
            began = time.monotonic()
            try:
                with Client(self._port) as client:
                    while self._running and not client.is_last:
                        began = time.monotonic()
                        poll(client, self._wait)
                        self.right += 1
                        self._note(began)
            except Wrong as error:
                refusal = re.search(r"HTTP/1\.1 (50[23])", str(error))
                kind, told = (self.refused, refusal[1]) if refusal else (self.wrong, str(error))
                kind[told] += 1
            except OSError as error:
                self.ended[type(error).__name__] += 1
                time.sleep(0.02)
            self._note(began)

    def _note(self, began: float) -> None:
        self.slowest = max(self.slowest, time.monotonic() - began)

    def stop(self) -> None:
        self._running = False
        for thread in self._threads:
            thread.join(2 * SECONDS)
            assert not thread.is_alive()

    def told(self) -> str:
        others = {"refused": self.refused, "ended": self.ended, "wrong": self.wrong}
        told = [f"{name}: {dict(counts)}" for name, counts in others.items() if counts]
        return f"{self.right:,} right answers, {', '.join(told) or '0 lost or wrong'}"

    def is_whole(self) -> bool:
        return self.right > 0 and not (self.refused or self.ended or self.wrong)


class Workers:
    """The program with two workers, at a port of its own and behind a Mongrel2 at once; as often as there are to be
    parents, which share that Mongrel2."""

    def __init__(self, parents: int, *options: str, **settings: object) -> None:
        self.count, self.parents = 2 * parents, list[subprocess.Popen[str]]()
        self._options, self._settings = options, settings
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Workers:
        self.mongrel2 = self._stack.enter_context(Mongrel2())
        settings = {"env": {**environment(), "UPLOAD_STORE": str(self.mongrel2.folder / "tmp")}, **self._settings}
        while 2 * len(self.parents) < self.count:
            self.port = free_port()
            command = [sys.executable, "-m", "brubeck_lite", PROGRAM, "--workers", "2", "--bind",
                       f"127.0.0.1:{self.port}", "--mongrel2", self.mongrel2.pull, self.mongrel2.pub]  # fmt: skip
            self.parents.append(self._stack.enter_context(process([*command, *self._options], **settings)))
        wait_for(self._are_ready, what=lambda: f"workers: {self.log()}")
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _are_ready(self) -> bool:
        connected = ["connected to Mongrel2" in output(parent) for parent in self.parents]
        return len(self.pids()) == self.count and all(connected)

    def log(self) -> str:
        return "".join(map(output, self.parents))

    def pids(self) -> list[int]:
        """Those of the workers that are ready, of each parent the oldest first."""
        return ready_workers(self.log())

    def are_replaced(self, before: set[int]) -> bool:
        """Whether all workers are ready, others than before, and answer behind Mongrel2: one that was killed is there
        for a moment yet, and one that is ready may not be connected to the parent yet."""
        pids = set(self.pids())
        if pids == before or len(pids) != self.count:
            return False
        with ThreadPoolExecutor(4 * self.count) as pool:
            return set(pool.map(self._ask_worker, range(4 * self.count))) == pids

    def _ask_worker(self, _: int) -> int:
        with Client(self.mongrel2.port) as client:
            client.ask("/worker")
            return int(json.loads(client.take_json())["worker"])

    def doors(self) -> dict[str, int]:
        return {"HTTP": self.port, "Mongrel2": self.mongrel2.port}

    @contextlib.contextmanager
    def load(self, door: str, count: int = 16, wait: float = 0.02) -> Iterator[Askers]:
        askers = Askers(self.doors()[door], count, wait)
        try:
            wait_for(lambda: askers.right > count, what="the first answers")
            yield askers
        finally:
            askers.stop()

    def hang_up(self) -> None:
        """SIGHUP, until all workers are new ones and the old are gone."""
        old = set(self.pids())
        for parent in self.parents:
            parent.send_signal(signal.SIGHUP)
        wait_for(lambda: not old & set(self.pids()) and len(self.pids()) == self.count, what="new workers")

    def kill_one(self) -> None:
        """kill -9 of any, until there is another in its place."""
        killed = random.choice(self.pids())
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: killed not in self.pids() and len(self.pids()) == self.count, what="another worker")


def beside(parents: int) -> str:
    """What a line says of the number of parents: nothing where there is one."""
    return "" if parents == 1 else f", {parents} parents at one Mongrel2"


def hang_up(times: int, parents: int = 1) -> Lines:
    """SIGHUP under load, at both doors."""
    lines: Lines = []
    with Workers(parents) as workers:
        for door in workers.doors():
            with workers.load(door) as askers:
                for _ in range(times):
                    workers.hang_up()
            lines.append((f"{times} times SIGHUP, {door}{beside(parents)}: {askers.told()}", askers.is_whole()))
    return lines


def kill(times: int, parents: int = 1) -> Lines:
    """kill -9 of a worker under load: its own requests fail at once, all others are answered."""
    lines: Lines = []
    with Workers(parents) as workers:
        for door in workers.doors():
            with workers.load(door, 16, 0.1) as askers:
                for _ in range(times):
                    workers.kill_one()
                    time.sleep(0.3)
            lost = askers.ended if door == "HTTP" else askers.refused
            others = askers.refused if door == "HTTP" else askers.ended
            # Each kill can cost those 16 clients one answer, which none of them waits for in vain.
            is_right = not askers.wrong and not others and sum(lost.values()) <= 16 * times
            is_right = is_right and TimeoutError.__name__ not in askers.ended
            told = f"{askers.told()}; the longest wait for any of them {askers.slowest:.2f} s"
            lines.append((f"{times} times kill -9, {door}{beside(parents)}: {told}", is_right))
    return lines


def hang(parents: int = 1) -> Lines:
    """A handler that never returns: its worker is replaced, and others are served meanwhile."""
    lines: Lines = []
    with Workers(parents, "--worker-timeout", "3") as workers:
        for door, port in workers.doors().items():
            before = set(workers.pids())
            with Client(port) as client, workers.load(door, 8) as askers:
                client.socket.settimeout(SECONDS)
                began, right = time.monotonic(), askers.right
                client.ask("/compute", "seconds=600")
                try:
                    client.take_head()
                    answer = "an answer"
                except Wrong as error:
                    answer = str(re.findall(r"HTTP/1.1 (\d+)", str(error)))
                except OSError:
                    answer = "a closed connection"
                seconds, served = time.monotonic() - began, askers.right - right
                wait_for(functools.partial(workers.are_replaced, before), what="another worker")
            told = f"its client had {answer} after {seconds:.1f} s, {served:,} other answers meanwhile"
            is_right = answer == ("a closed connection" if door == "HTTP" else "['502']") and served > 8
            is_right = is_right and not askers.wrong and len(before - set(workers.pids())) == 1
            lines.append((f"a worker that hangs, {door}{beside(parents)}: {told}", is_right))
    return lines


def restart(times: int, resumes_within: float = SECONDS, parents: int = 1) -> Lines:
    """Mongrel2 is killed and started again while workers serve it."""
    resumed = []
    with Workers(parents) as workers, workers.load("Mongrel2") as askers:
        for _ in range(times):
            time.sleep(0.5)
            workers.mongrel2.kill()
            time.sleep(0.2)
            workers.mongrel2.start()
            began = time.monotonic()
            while time.monotonic() - began < SECONDS:
                with contextlib.suppress(OSError), Client(workers.mongrel2.port) as client:
                    client.socket.settimeout(2)
                    poll(client, 0)
                    break
            resumed.append(time.monotonic() - began)
    told = f"{askers.right:,} right answers, {sum(askers.wrong.values())} wrong; resumed after {max(resumed):.2f} s"
    is_right = not askers.wrong and max(resumed) < resumes_within
    return [(f"{times} restarts of Mongrel2 with workers{beside(parents)}: {told} at most", is_right)]


def orphan(parents: int = 1) -> Lines:
    """The parent is killed, and one of its workers hangs."""
    with Workers(parents) as workers:
        pids = workers.pids()
        with Client(workers.port) as client:
            client.ask("/compute", "seconds=600")
            for parent in workers.parents:
                os.kill(parent.pid, signal.SIGKILL)
            wait_for(lambda: not any(map(is_running, pids)), what="the end of the workers")
        for parent in workers.parents:
            parent.wait()
        ended = not any(map(is_running, pids))
    return [(f"the parent is killed{beside(parents)}: its workers end, also one that hangs", ended)]


def run_out_of_descriptors(parents: int = 1) -> Lines:
    """More clients than a worker may have descriptors."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))

    with Workers(parents, preexec_fn=limit) as workers:
        clients = [socket.create_connection(("127.0.0.1", workers.port), SECONDS) for _ in range(200)]
        wait_for(lambda: "cannot accept connections for now" in workers.log(), what="a line in the log")
        with Client(workers.mongrel2.port) as client:
            poll(client, 0)  # the other door does not suffer
        for client_socket in clients:
            client_socket.close()
        with Client(workers.port) as client:
            poll(client, 0)
        traces = workers.log().count("Traceback")
    return [(f"no descriptors are left{beside(parents)}: a line in the log, and service resumes", traces == 0)]


def fill_disk(parents: int = 1) -> Lines:
    """No space for an upload. A file system of 1 MB where we may mount one, else a limit on the size of files."""
    folder = Path("/dev/shm") / f"full-{os.getpid()}"
    folder.mkdir()
    is_mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=False,
                                capture_output=True).returncode == 0  # fmt: skip

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    settings = {} if is_mounted else {"preexec_fn": limit}
    settings["env"] = {**environment(), "TMPDIR": str(folder)}
    body = b'--b\r\nContent-Disposition: form-data; name="f"; filename="f"\r\n\r\n' + b"x" * (8 << 20) + b"\r\n--b--"
    head = b"POST /form/x HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: "
    statuses = []
    try:
        with Workers(parents, "--max-body", str(64 << 20), **settings) as workers:
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", workers.port), SECONDS) as client:
                    with contextlib.suppress(OSError):
                        client.sendall(head + b"%d\r\n\r\n" % len(body) + body)
                    statuses.append(client.recv(12)[9:].decode())
            with Client(workers.port) as asker:
                poll(asker, 0)
    finally:
        if is_mounted:
            subprocess.run(["umount", "--lazy", folder], check=False)  # a process may be about to end in it
        shutil.rmtree(folder, ignore_errors=True)
    # While the first is there, a worker that asks the system for a folder is given another one.
    is_right = statuses[0] == "507" and set(statuses) <= {"507", "200"}
    return [(f"no space for an upload{beside(parents)}: {statuses}, and service goes on", is_right)]


def resident_kib(pid: int) -> int:
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def coroutines_of_one(port: int) -> int:
    """How many there are in one of the workers at this port."""
    with Client(port) as client:
        client.ask("/state")
        return int(json.loads(client.take_json())["coroutines"])


def endure(seconds: float, parents: int = 1) -> Lines:
    """Mixed load at both doors, looking for what grows: memory in all processes, descriptors and coroutines."""
    with Workers(parents) as workers:
        pids = [*(parent.pid for parent in workers.parents), *workers.pids()]

        def figures(most_descriptors: int = 0) -> tuple[int, int]:
            """The memory, and the descriptors once they are no more than these, or some time later."""
            deadline = time.monotonic() + (SECONDS if most_descriptors else 1)
            while True:
                time.sleep(1)
                descriptors = sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in pids)
                if descriptors <= most_descriptors or time.monotonic() > deadline:
                    return sum(map(resident_kib, pids)), descriptors

        crowds: list[Askers] = []
        for part in range(5):
            with contextlib.ExitStack() as stack:
                for door in workers.doors():
                    crowds += [stack.enter_context(workers.load(door, 8, wait)) for wait in (0, 0.1)]
                time.sleep(seconds / 5)
            if part == 0:
                first, begun = figures(), coroutines_of_one(workers.port)
        last, coroutines = figures(first[1] + 4), coroutines_of_one(workers.port) - begun
    told = f"memory {last[0] - first[0]:+,} KiB, descriptors {last[1] - first[1]:+}, coroutines {coroutines:+}"
    is_right = all(each.is_whole() for each in crowds) and last[0] - first[0] < 8192
    is_right = is_right and last[1] <= first[1] + 4 and coroutines <= 4
    share = f"{seconds:.0f} s of mixed load{beside(parents)}, {sum(each.right for each in crowds):,} answers"
    return [(f"{share}: {told} after the first fifth", is_right)]
