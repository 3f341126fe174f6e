"""The program of the tests of starts and ends, and of platforms: HOW in the environment says what hangs."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import eventlet
from eventlet import patcher

import brubeck_lite
from brubeck_lite import Brubeck, Request, WebSocket

HOW = os.environ.get("HOW", "")
app = Brubeck()
executors: list[ProcessPoolExecutor] = []
left: list[str] = []
blocked = patcher.original("time").sleep


def compute() -> None:
    while True:
        pass


def wait_in_c() -> None:
    """In a C call that no signal interrupts, as some database drivers have them."""
    mutex, library = ctypes.create_string_buffer(64), ctypes.CDLL(None)
    for _ in range(2):
        library.pthread_mutex_lock(mutex)


def try_again() -> None:
    while True:
        with contextlib.suppress(BaseException):  # as some programs do
            eventlet.sleep(100)


STARTS = {
    "green": lambda: eventlet.sleep(100), "blocked": lambda: blocked(100), "computes": compute, "in-c": wait_in_c,
    "tries-again": try_again,
}  # fmt: skip


@app.on_start
def wait_for_database() -> None:
    print("on_start", flush=True)
    STARTS.get(HOW, lambda: None)()


@app.on_stop
def stop() -> None:
    print("on_stop", flush=True)
    if HOW == "on_stop":
        time.sleep(100)


if HOW == "atexit":
    atexit.register(blocked, 100)
if HOW == "import":
    print("on_start is not reached", flush=True)
    time.sleep(100)


@app.route("/")
def index(request: Request) -> str:
    return "Take five!"


@app.route("/text/<text>")
def text(request: Request, text: str) -> str:
    return text


@app.route("/pool")
def pool(request: Request) -> str:
    """A handler that waits for a pool of processes."""
    executors.append(ProcessPoolExecutor(1))
    result = executors[-1].submit(blocked, 100)
    print(f"pool of {[child.pid for child in multiprocessing.active_children()]}", flush=True)
    return str(result.result())


@app.route("/thread")
def thread(request: Request) -> str:
    """A thread of the system's that the interpreter's exit waits for."""
    waiting = threading.Thread(target=lambda: eventlet.sleep(100))
    waiting.start()
    print("thread", flush=True)
    return "started"


@app.route("/compute")
def hang(request: Request) -> None:
    print("computing", flush=True)
    compute()


@app.route("/terminate")
def terminate(request: Request) -> str:
    """End a child that was forked: its exit status."""
    child = multiprocessing.get_context("fork").Process(target=blocked, args=(100,), daemon=True)
    child.start()
    child.terminate()
    child.join(10)
    return str(child.exitcode)


@app.route("/events")
def events(request: Request) -> Iterator[str]:
    """A stream that writes nothing by which one would see that its client has left."""
    try:
        yield "begun"
        eventlet.sleep(100)
    finally:
        left.append("one")


@app.route("/left")
def count_left(request: Request) -> str:
    return str(len(left))


@app.websocket("/echo")
def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


app.static("/static", Path(__file__).parent)

if HOW == "lacks":  # what was there when brubeck_lite was imported
    del select.POLLRDHUP
    select.PIPE_BUF = 512  # type: ignore[misc]
elif HOW == "fails":

    check = brubeck_lite.HTTPServer.check

    def fail_at_last(server: brubeck_lite.HTTPServer) -> None:
        check(server)
        raise LookupError("an odd error")

    brubeck_lite.HTTPServer.check = fail_at_last  # type: ignore[method-assign]
    accept, calls = patcher.original("socket").socket.accept, []

    def fail_at_first(own: object) -> object:
        calls.append(own)
        if len(calls) < 4:
            raise LookupError("an odd error")
        return accept(own)

    patcher.original("socket").socket.accept = fail_at_first
elif HOW == "odd module":

    class Odd:
        """What some packages put in a module's place."""

        def __getattr__(self, name: str) -> object:
            raise LookupError(name)

    sys.modules["odd"] = Odd()  # type: ignore[assignment]

if __name__ == "__main__":
    if HOW == "exit":
        forever = threading.Event()
        threading.Thread(target=forever.wait).start()  # before anything is patched
    app.run(bind=os.environ["BIND"])
    print("run is over", flush=True)
    if HOW == "goes on":
        blocked(11)
        raise SystemExit(3)
