"""Plays Mongrel2 to a handler: pushes messages as fast as they are taken, and counts the replies."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import zmq

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent.parent)]

from rounds import FOLDERS, variables  # noqa: E402
from support import SENDER, free_port, process  # noqa: E402

PROBED = f"{SENDER} 1:0, ".encode()  # how the answer to a probe begins: its connection has the id 0
FIELDS = (
    '{"PATH":"%s","x-forwarded-for":"127.0.0.1","user-agent":"replay/1.0","accept":"*/*","host":"127.0.0.1:6767",'
    '"METHOD":"GET","VERSION":"HTTP/1.1","URI":"%s","PATTERN":"/","URL_SCHEME":"http","REMOTE_ADDR":"127.0.0.1"}'
)


def message(conn_id: int, path: str) -> bytes:
    """A GET of this path, as Mongrel2 sends it."""
    fields = FIELDS % (path, path)
    return f"{SENDER} {conn_id} {path} {len(fields)}:{fields},0:,".encode()


@contextlib.contextmanager
def handler(which: str, pull: str, pub: str, mode: str = "never", workers: int = 1) -> Iterator[subprocess.Popen[str]]:
    """One of programs.py as a process; "before" is ours with another brubeck_lite.py."""
    program = "ours" if which in FOLDERS else which
    command = [sys.executable, str(HERE / "programs.py"), program, pull, pub, mode, str(workers)]
    with process(command, env=variables(which)) as child:
        yield child


def run_wrk(port: int, path: str, seconds: int, connections: int, *options: str, scheme: str = "http") -> str:
    """What wrk tells; AssertionError where an answer was wrong or a connection broke. That an answer was late is no
    error: the machine may be busy."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "60s", *options]
    told = subprocess.run([*command, f"{scheme}://127.0.0.1:{port}{path}"], capture_output=True, text=True, check=False)
    broken = re.search(r"Non-2xx|Socket errors: (?!connect 0, read 0, write 0, )", told.stdout)
    assert told.returncode == 0 and not broken, told.stdout + told.stderr
    return told.stdout


def cpu_seconds(pid: int) -> tuple[float, float]:
    """What a process has used with all its threads, ZeroMQ's among them, and what its main thread has."""
    threads = {
        path.parent.name: int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat")
    }
    return sum(threads.values()) / 1e9, threads[str(pid)] / 1e9


def resident_bytes(pid: int) -> int:
    """The memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def get(port: int, path: str, seconds: float) -> bytes:
    """The whole body of an answer; OSError if the connection ends early or nothing comes."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        client.request("GET", path)
        return client.getresponse().read()
    except http.client.HTTPException as error:
        raise ConnectionError("no whole answer") from error
    finally:
        client.close()


class Peer:
    """The sockets of a Mongrel2, bound to free ports."""

    def __init__(self) -> None:
        self.pull, self.pub = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        self._context = zmq.Context()
        self.requests, self.replies = self._context.socket(zmq.PUSH), self._context.socket(zmq.SUB)
        for own in (self.requests, self.replies):
            own.linger = 0
        self.replies.set_hwm(0)
        self.replies.subscribe(b"")
        self.requests.bind(self.pull)
        self.replies.bind(self.pub)

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._context.destroy(0)

    def send(self, message: bytes) -> None:
        """Push a message as soon as somebody takes it. (Only a SUB that is asked for something tells its
        subscription.)"""
        while True:
            try:
                self.requests.send(message, zmq.NOBLOCK)
                return
            except zmq.Again:
                self.replies.poll(5)

    def reply(self, flags: int = 0) -> bytes:
        """The next reply, as `recv` has it; what keeps connections alive is none, nor is what answers a probe."""
        while b":X " in (reply := bytes(self.replies.recv(flags)))[:60] or reply.startswith(PROBED):
            pass
        return reply

    def ask(self, path: str, seconds: float = 60.0) -> bytes:
        """The next reply after this one request; AssertionError where there is none."""
        self.send(message(1, path))
        assert self.replies.poll(int(seconds * 1000)), f"no reply to {path}"
        return self.reply()

    def await_handler(self) -> None:
        """Send probes until a handler answers one (some lose their first reply)."""
        for _ in range(300):
            self.send(message(0, "/"))
            if self.replies.poll(200):
                return
        raise AssertionError("no handler answers")

    def replay(self, messages: list[bytes], ending: bytes, ahead: int = 1 << 60) -> tuple[float, float]:
        """Send these as fast as they are taken, at most so many `ahead` of the replies: the seconds until the last
        reply, and the share of them in which this thread was busy itself. AssertionError unless each had one reply, of
        its own, that ends like this."""
        poller, replies, sent = zmq.Poller(), list[bytes](), 0
        poller.register(self.replies, zmq.POLLIN)
        poller.register(self.requests, zmq.POLLOUT)
        began, busy = time.perf_counter(), time.thread_time()
        while len(replies) < len(messages):
            before = sent + len(replies)
            with contextlib.suppress(zmq.Again):
                for each in messages[sent : min(sent + 100, len(replies) + ahead)]:
                    self.requests.send(each, zmq.NOBLOCK)
                    sent += 1
            poller.modify(self.requests, zmq.POLLOUT if sent < min(len(messages), len(replies) + ahead) else 0)
            with contextlib.suppress(zmq.Again):
                for _ in range(100):
                    replies.append(self.reply(zmq.NOBLOCK))
            if before == sent + len(replies):
                assert poller.poll(60_000), f"{len(messages) - len(replies)} replies are missing"
        seconds, busy = time.perf_counter() - began, time.thread_time() - busy
        assert len({reply.partition(b", ")[0] for reply in replies}) == len(messages), "a request had two replies"
        assert all(b" 200 OK" in reply and reply.endswith(ending) for reply in replies), "a reply is wrong"
        return seconds, busy / seconds
