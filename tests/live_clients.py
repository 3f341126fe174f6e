"""Clients of program_faults.py that look at each byte they get, and experiments with faults, of which
tests/benchmarks/faults prints the table and tests/test_live_faults.py asserts that all is right. An experiment gives
lines: what was seen, and whether that is right, which no line says of how long it took: the machine may be busy."""

from __future__ import annotations

import base64
import collections
import contextlib
import hashlib
import json
import os
import random
import re
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from support import Mongrel2, behind_http, behind_mongrel2, is_running, output, wait_for

Lines = list[tuple[str, bool]]
HEAD = re.compile(rb"HTTP/1\.1 (200 OK|101 Switching Protocols)\r\n(?:[A-Za-z-]+: [^\r\n]*\r\n)+\r\n")
BUSY = r"[a-z]+ \d+"  # in the program's state: a handler or an iterator that runs
SECONDS = 60.0  # for what should be so at once, on a machine that is busy


class Wrong(Exception):
    """A byte that is not this client's."""


class Client:
    """One connection with a token of its own. OSError when it ends; Wrong for any byte that should not be there."""

    def __init__(self, port: int, life: int = 0, token: str = "") -> None:
        self.token = (token or uuid.uuid4().hex).encode()
        self._life, self._received = life, b""
        self.late = 0.0  # seconds until what we ask for begins
        self.is_last = False  # the answer says that the connection is closed after it
        self.socket = socket.create_connection(("127.0.0.1", port), SECONDS)
        self._key = base64.b64encode(os.urandom(16))

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()

    def request(self, path: str, is_websocket: bool = False, query: str = "") -> bytes:
        """The request for what this path says to our token."""
        target = f"{path}/{self.token.decode()}?life={self._life}&late={self.late}&{query}"
        upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n"
        fields = upgrade % self._key if is_websocket else b""
        return b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (target.encode(), fields)

    def ask(self, path: str, query: str = "") -> None:
        self.socket.sendall(self.request(path, query=query))

    def upgrade(self, path: str) -> None:
        """Open a WebSocket."""
        self.socket.sendall(self.request(path, is_websocket=True))
        accept = base64.b64encode(hashlib.sha1(self._key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        self._take_head(b"101", b"Sec-WebSocket-Accept: " + accept)

    def say(self, message: bytes) -> None:
        """Send a short text in a frame."""
        self.socket.sendall(struct.pack("!BB4x", 0x81, 0x80 | len(message)) + message)

    def take_head(self, body: bytes = b"Transfer-Encoding: chunked") -> None:
        """The head of our answer, which has this field."""
        self._take_head(b"200", b"X-Token: " + self.token, body)

    def _take_head(self, status: bytes, *fields: bytes) -> None:
        while b"\r\n\r\n" not in self._received:
            self._receive()
            self._check(self._received.startswith(b"HTTP/1.1 "[: len(self._received)]))
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        match, lines = HEAD.fullmatch(head + b"\r\n\r\n"), head.split(b"\r\n")
        self.is_last = b"Connection: close" in lines
        if match is None or not match[1].startswith(status) or any(lines.count(field) != 1 for field in fields):
            raise Wrong(f"{self.token!r} got the head {head!r}")

    def take(self, expected: bytes) -> None:
        """Exactly these bytes."""
        while expected:
            if not self._received:
                self._receive()
            size = min(len(expected), len(self._received))
            self._check(self._received[:size] == expected[:size])
            expected, self._received = expected[size:], self._received[size:]

    def take_chunk(self, payload: bytes) -> None:
        self.take(b"%x\r\n%b\r\n" % (len(payload), payload))

    def take_answer(self) -> None:
        """The answer that is our token."""
        self.take_head(b"Content-Length: %d" % len(self.token))
        self.take(self.token)

    def take_json(self) -> bytes:
        """A body that is an object without objects."""
        self.take_head(b"Content-Type: application/json")
        while b"}" not in self._received:
            self._receive()
        return self._received

    def take_number(self, before: bytes, after: bytes) -> int:
        """The number between these, after the length of a chunk or the head of a frame."""
        pattern = re.compile(rb".{,4}?%b(\d+)%b" % (re.escape(before), re.escape(after)), re.DOTALL)
        while (match := pattern.match(self._received)) is None:
            self._check(len(self._received) < 200)
            self._receive()
        return int(match[1])

    def is_silent(self, seconds: float) -> bool:
        """Whether nothing comes for so long."""
        self.socket.settimeout(seconds)
        try:
            self._receive()
        except TimeoutError:
            return True
        return False

    def vanish(self, with_reset: bool) -> None:
        if with_reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _receive(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise ConnectionError("the end")
        self._received += data

    def _check(self, is_right: bool) -> None:
        if not is_right:
            raise Wrong(f"{self.token!r} got {self._received[:300]!r}")


def frame(payload: bytes) -> bytes:
    """A short text as a server sends it."""
    return bytes([0x81, len(payload)]) + payload


# What clients do for a while. Each raises OSError when its connection ends, and Wrong.


def poll(client: Client, seconds: float) -> None:
    client.ask("/poll", f"seconds={seconds / 2}")
    client.take_answer()


def be_held(client: Client, seconds: float) -> None:
    client.ask("/held")
    if not client.is_silent(seconds):
        raise Wrong(f"{client.token!r} got something while it was held")


def read_stream(client: Client, seconds: float) -> None:
    client.ask("/stream")
    client.take_head()
    for number in range(int(seconds / 0.02)):
        client.take_chunk(b"%b:%d\n" % (client.token, number))


def read_quiet(client: Client, seconds: float) -> None:
    client.ask("/quiet")
    client.take_head()
    client.take_chunk(client.token)
    if not client.is_silent(seconds):
        raise Wrong(f"{client.token!r} got a second piece")


def wait_unbegun(client: Client, seconds: float) -> None:
    client.ask("/unbegun")
    if not client.is_silent(seconds):
        raise Wrong(f"{client.token!r} got something of a stream that had nothing")


def read_pipelined(client: Client, seconds: float) -> None:
    """Three requests at once."""
    client.socket.sendall(
        client.request("/poll", query=f"seconds={seconds / 3}") + client.request("/stream") + client.request("/poll")
    )
    client.take_answer()
    client.take_head()
    for number in range(int(seconds / 0.05)):
        client.take_chunk(b"%b:%d\n" % (client.token, number))


def read_events(client: Client, seconds: float) -> None:
    client.ask("/events")
    client.take_head()
    client.take_chunk(b":\n\n")
    first = client.take_number(b"\r\ndata: %b:" % client.token, b"\n\n\r\n")
    for number in range(first, first + int(seconds / 0.05)):
        client.take_chunk(b"data: %b:%d\n\n" % (client.token, number))


def talk(client: Client, seconds: float) -> None:
    client.upgrade("/echo")
    for number in range(int(seconds / 0.02)):
        client.say(b"%d" % number)
        client.take(frame(b"%b:%d" % (client.token, number)))
        time.sleep(0.02)


def follow(client: Client, seconds: float) -> None:
    client.upgrade("/follow")
    first = client.take_number(client.token + b":", b"\x81")
    for number in range(first, first + int(seconds / 0.05)):
        client.take(frame(b"%b:%d" % (client.token, number)))


Kind = Callable[[Client, float], None]
KINDS: list[Kind] = [poll, be_held, read_stream, read_quiet, wait_unbegun, read_pipelined, read_events, talk, follow]
FOLLOWERS = (read_events, follow)
# What two processes at one Mongrel2 can serve. It deals the messages of each connection in turn, also those of a
# WebSocket and pipelined requests; and a channel is in one process.
SHAREABLE = [kind for kind in KINDS if kind not in (*FOLLOWERS, talk, read_pipelined)]


class Crowd:
    """Threads, so many of each kind, that connect again and again, each time with a new token (followers share it by
    threes), for at most `longest` seconds and what is late."""

    def __init__(self, port: int, count: int, longest: float = 2.5, kinds: Sequence[Kind] = KINDS) -> None:
        self.right, self.ended, self.wrong = 0, list[str](), list[str]()
        self.life = 0  # of Mongrel2, which the clients tell
        self._port, self._longest, self._running = port, longest, True
        self._threads = [
            threading.Thread(target=self._live, args=(kind, number), daemon=True)
            for kind in kinds
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def _live(self, kind: Kind, number: int) -> None:
        chance = random.Random(f"{kind.__name__} {number}")
        while self._running:
            life = self.life
            shared = f"{kind.__name__}-{number // 3}-{life}-{int(time.monotonic()) // 5}" if kind in FOLLOWERS else ""
            try:
                with Client(self._port, life, shared and hashlib.md5(shared.encode()).hexdigest()) as client:
                    client.late = chance.choice([0, 0, 0, 0.2, 0.4]) * self._longest
                    kind(client, chance.uniform(0.2, self._longest))
                    client.vanish(chance.random() < 0.5)
                self.right += 1
            except Wrong as error:
                self.wrong.append(f"{kind.__name__}: {error}")
            except OSError as error:
                self.ended.append(f"{kind.__name__}: {error!r}")
                time.sleep(0.02)

    def stop(self) -> None:
        self._running = False
        for thread in self._threads:
            thread.join(2 * SECONDS)
            assert not thread.is_alive()

    def told(self) -> str:
        ended, wrong = (f"{len(them):,} {them[:2] or ''}".strip() for them in (self.ended, self.wrong))
        return f"{self.right:,} of all kinds had what is theirs, cut off: {ended}, wrong: {wrong}"

    def is_right(self) -> bool:
        return self.right > 0 and not self.ended and not self.wrong


# Experiments


def ready_workers(log: str) -> list[int]:
    """The processes of the workers that are ready by this log, and still run."""
    return [pid for pid in map(int, re.findall(r"worker (\d+) is ready", log)) if is_running(pid)]


class Handlers:
    """The processes that answer at a port: those with these parents, or our one process without a parent."""

    def __init__(self, port: int, children: Sequence[subprocess.Popen[str]], has_parents: bool = False) -> None:
        self.port, self._children, self._has_parents = port, children, has_parents
        self._before = self._warm_up()

    def log(self) -> str:
        return "".join(map(output, self._children))

    def pids(self) -> set[int]:
        """Those of the processes that answer."""
        if not self._has_parents:
            return {child.pid for child in self._children}
        return set(ready_workers(self.log()))

    def everyone(self) -> set[int]:
        """Those with their parents."""
        return self.pids() | {child.pid for child in self._children}

    def state(self) -> collections.Counter[str]:
        """What is in all that answer. Mongrel2 asks one after the other."""
        found: dict[int, collections.Counter[str]] = {}
        while not self.pids() <= found.keys():
            with Client(self.port) as client:
                client.ask("/state")
                counts = collections.Counter(json.loads(client.take_json()))
                found[counts.pop("process")] = counts
        counts = sum(found.values(), collections.Counter[str]())
        counts["descriptors"] = sum(len([*Path(f"/proc/{pid}/fd").iterdir()]) for pid in self.everyone())
        return counts

    def _warm_up(self) -> collections.Counter[str]:
        """What there is when they were used a little, and that has ended."""
        for kind in (poll, read_stream, poll if len(self._children) > 1 else talk) * len(self._children):
            with Client(self.port) as client:
                kind(client, 0.2)
        before = self.state()

        def is_quiet() -> bool:
            nonlocal before
            time.sleep(0.3)
            former, before = before, self.state()
            return former == before and not any(re.fullmatch(BUSY, key) for key in before)

        wait_for(is_quiet, what=lambda: f"the end of what began: {before}")
        return before

    def beyond(self) -> collections.Counter[str]:
        """What there is now beyond what there was at first."""
        return self.state() - self._before

    def left_behind(self) -> tuple[str, bool]:
        """The same in words, and whether it is nothing, some seconds later at the latest."""
        deadline = time.monotonic() + SECONDS
        while (left := self.beyond()) and time.monotonic() < deadline:
            time.sleep(0.3)
        return told(left), not left

    def idle_share(self) -> float:
        """The share of a second in which they do something though nobody asks for it."""

        def ticks(pid: int) -> int:
            return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))

        before = sum(map(ticks, self.everyone()))
        time.sleep(1)
        return (sum(map(ticks, self.everyone())) - before) / os.sysconf("SC_CLK_TCK")

    def log_line(self, name: str) -> tuple[str, bool]:
        traces = self.log().count("Traceback")
        return f"{name}: tracebacks in the log: {traces}", traces == 0

    def former_life(self, life: int) -> collections.Counter[str]:
        """What still runs for clients of another life of Mongrel2."""
        deadline = time.monotonic() + SECONDS
        while True:
            counts, lives = self.state(), len(self.pids())
            # "poll 3": of the third life; that of clients which gave none is the first's.
            former = {key: count for key, count in counts.items() if re.fullmatch(BUSY, key)}
            former = {key: count for key, count in former.items() if int(key.split()[1]) != life}
            if counts["lives"] != lives:
                former["lives"] = counts["lives"] - lives
            if not former or time.monotonic() > deadline:
                return collections.Counter(former)
            time.sleep(0.2)


@contextlib.contextmanager
def two_parents(mongrel2: Mongrel2) -> Iterator[Handlers]:
    """Two parents at this Mongrel2, with a worker each."""
    with contextlib.ExitStack() as stack:
        program = "program_faults:app", mongrel2, "--workers", "1"
        parents = [stack.enter_context(behind_mongrel2(*program)) for _ in range(2)]
        yield Handlers(mongrel2.port, parents, has_parents=True)


def told(left: Mapping[str, int]) -> str:
    return f"left behind: {json.dumps(left) if left else 'nothing'}"


@contextlib.contextmanager
def one_handler(mongrel2: Mongrel2) -> Iterator[Handlers]:
    """Our one process at this Mongrel2."""
    with behind_mongrel2("program_faults:app", mongrel2) as child:
        yield Handlers(mongrel2.port, [child])


def restart(times: int, each: int, resumes_within: float = SECONDS, parents: bool = False) -> Lines:
    """Mongrel2 is killed and started again with everything open."""
    resumed, former = [], collections.Counter[str]()
    with Mongrel2() as mongrel2, (two_parents if parents else one_handler)(mongrel2) as handlers:
        crowd = Crowd(mongrel2.port, each, kinds=SHAREABLE if parents else KINDS)
        try:
            for _ in range(times):
                time.sleep(random.uniform(0.8, 1.5))
                mongrel2.kill()
                crowd.life += 1
                time.sleep(0.1)
                mongrel2.start()
                began = time.monotonic()
                while time.monotonic() - began < SECONDS:
                    with contextlib.suppress(OSError), Client(mongrel2.port, crowd.life) as client:
                        client.socket.settimeout(2)
                        poll(client, 0)
                        break
                resumed.append(time.monotonic() - began)
                former += handlers.former_life(crowd.life)
            time.sleep(1)
        finally:
            crowd.stop()
        left, is_clean = handlers.left_behind()
        logged = handlers.log_line("two parents" if parents else "mongrel2")
    kinds = "streams and polls open, two parents" if parents else "streams, polls and WebSockets open"
    share = f"{times} restarts of Mongrel2 with {kinds}"
    return [
        (f"{share}: {crowd.right:,} clients had theirs, {len(crowd.ended):,} were cut off", crowd.right > times),
        (f"clients with a byte of another's: {len(crowd.wrong)} {' '.join(crowd.wrong[:2])}", not crowd.wrong),
        (f"of the former lives, seconds later: {told(dict(former))}", not former),
        (f"at the end: {left}", is_clean),
        (f"service resumed after at most {max(resumed):.2f} s", max(resumed) < resumes_within),
        logged,
    ]


PATHS = ["/poll", "/held", "/stream", "/quiet", "/unbegun", "/events", "/endless", "/large",
         "/echo", "/follow", "/elsewhere", "/pour", "/brief"]  # fmt: skip
# Paths that send more than a client that does not read can take. Mongrel2 1.12.2 gives the rest of it, once that client
# has left, to whoever gets its descriptor next: so nobody leaves such an answer unread there.
PLENTY = ("/endless", "/large", "/pour")
WEBSOCKETS = ("/echo", "/follow", "/elsewhere", "/pour", "/brief")


class Door:
    """The program behind "http" or "mongrel2", or with "two parents" at one Mongrel2, for experiments one after the
    other. Each begins and ends with nothing but what there was at the start."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Door:
        if self.name == "http":
            child, port = self._stack.enter_context(behind_http("program_faults:app"))
            self._handlers = Handlers(port, [child])
        else:
            start = two_parents if self.name == "two parents" else one_handler
            self._handlers = self._stack.enter_context(start(self._stack.enter_context(Mongrel2())))
        self.port = self._handlers.port
        self._kinds = SHAREABLE if self.name == "two parents" else KINDS
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def vanish(self, count: int) -> Lines:
        """Clients that connect, ask and are gone: before the end of their request, at once, or soon."""
        chance, window = random.Random(count), list[Client]()
        avoided = {"http": (), "mongrel2": PLENTY}.get(self.name, (*PLENTY, *WEBSOCKETS))
        paths = [path for path in PATHS if path not in avoided]
        for number in range(count + 40):
            if len(window) == 40 or number >= count:
                client = window.pop(chance.randrange(len(window)))
                if chance.random() < 0.3:
                    with contextlib.suppress(OSError):
                        client.is_silent(0.01)
                client.vanish(chance.random() < 0.5)
            if number < count:
                client, path = Client(self.port), chance.choice(paths)
                client.late = chance.choice([0, 0, 0, 0.3])
                request = client.request(path, path in WEBSOCKETS)
                if chance.random() < 0.1:
                    request = request[: chance.randrange(len(request))]
                elif chance.random() < 0.1:
                    request = client.request(chance.choice(paths[:6])) + request
                client.socket.sendall(request)
                window.append(client)
        told, is_right = self._handlers.left_behind()
        share = self._handlers.idle_share()
        return [
            (f"{self.name}: {count:,} clients asked and vanished: {told}", is_right),
            (f"{self.name}: then the process was busy for {share:.0%} of a second", share < 0.5),
        ]

    def annoy(self, each: int, asks: int, longest: float) -> Lines:
        """Clients that are slow in all ways, while others ask."""
        with contextlib.ExitStack() as stack:
            plenty = list(PLENTY) if self.name == "http" else []
            names = ["", *plenty, "/poll", "/stream", "/quiet", *["/echo"] * (talk in self._kinds)]
            slow = [stack.enter_context(Client(self.port)) for _ in range(len(names) * each)]
            kinds = iter(names)
            by_path = {next(kinds): slow[at : at + each] for at in range(0, len(slow), each)}
            dribbling = by_path.pop("")
            for path, clients in by_path.items():
                for client in clients:
                    client.socket.sendall(client.request(path, path in WEBSOCKETS))
                    if path in ("/endless", "/large", "/pour"):
                        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    else:
                        client.socket.shutdown(socket.SHUT_WR)
            crowd = Crowd(self.port, 2, longest, self._kinds)
            served = 0
            for at in range(asks):
                for client in dribbling:
                    with contextlib.suppress(OSError):  # Mongrel2 ends it after a few pieces
                        client.socket.sendall(b"GET /dribble HTTP/1.1"[at % 20 : at % 20 + 1])
                with Client(self.port) as client:
                    poll(client, 0.02)
                    served += 1
            crowd.stop()
            answered = 0
            for client in by_path["/poll"] if self.name == "http" else ():
                client.take_answer()
                answered += 1
        told, is_right = self._handlers.left_behind()
        lines = [
            (f"{self.name}: beside {len(slow)} clients that dribble, read nothing or half-close {served} of {asks} "
             f"were served; {crowd.told()}", served == asks and crowd.is_right()),
            (f"{self.name}: when they had left: {told}", is_right),
        ]  # fmt: skip
        if self.name == "http":
            lines.append((f"http: {answered} of {each} that half-closed after asking were answered", answered == each))
        return lines

    def compute(self, seconds: float, each: int, longest: float, asks: int = 50) -> Lines:
        """A handler keeps the process to itself, with everything open."""
        crowd = Crowd(self.port, each, longest, self._kinds)
        time.sleep(0.5)
        with Client(self.port) as busy:
            busy.ask("/compute", f"seconds={seconds}")
            time.sleep(seconds / 4)
            began = time.monotonic()
            clients = [Client(self.port) for _ in range(asks)]
            for client in clients:
                client.ask("/poll", "seconds=0")
            for client in clients:
                with client:
                    client.take_answer()
            waited = time.monotonic() - began
            busy.take_answer()
        crowd.stop()
        return [
            (f"{self.name}: {asks} who asked while a handler computed for {seconds} s were answered in {waited:.2f} s; "
             f"{crowd.told()}", crowd.is_right()),
        ]  # fmt: skip

    def leave(self) -> Lines:
        """What is looked for is seen where it is left behind: an object, an item in a collection, a coroutine."""
        seen = []
        for _ in range(2):
            with Client(self.port, token="left") as client:
                client.ask("/leave")
                client.take_answer()
            seen.append({*self._handlers.beyond()})
        told, is_right = self._handlers.left_behind()
        return [
            (f"{self.name}: of what was left behind on purpose, seen: {', '.join(sorted(seen[0]))}",
             seen[0] >= {"objects Channel", "held by Brubeck.left", "coroutines"}),
            (f"{self.name}: when it was taken away: {told}", is_right),
        ]  # fmt: skip

    def log(self) -> tuple[str, bool]:
        """Whether the log is free of tracebacks."""
        return self._handlers.log_line(self.name)
