"""A program for the tests of the embedded server: `python wire.py PORT '{"io_timeout": 1}'`, settings as in
HTTPConnection, and those of the application as "pool_size" and "max_waiting"."""

from __future__ import annotations

import gc
import hashlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import eventlet

from brubeck_lite import Brubeck, HTTPConnection, Request, Response, WebSocket, static_file

app = Brubeck()


@app.route("/", methods=["GET", "POST"])
def index(request: Request) -> str:
    return "Take five!"


@app.post("/body")
def body(request: Request) -> str:
    return f"{len(request.body)} {hashlib.sha256(request.body).hexdigest()}"


@app.post("/unread")
def unread(request: Request) -> str:
    return "not read"


@app.route("/wait/<float:seconds>")
def wait(request: Request, seconds: float) -> str:
    print("begins to wait", flush=True)
    time.sleep(seconds)
    return f"waited {seconds}"


@app.route("/until/<path:file>")
def until(request: Request, file: str) -> str:
    """Waits until there is such a file."""
    print("begins to wait", flush=True)
    while not Path("/", file).exists():
        time.sleep(0.02)
    return "it is there"


@app.route("/large/<int:size>")
def large(request: Request, size: int) -> bytes:
    return b"0123456789" * (size // 10)


@app.route("/pieces")
def pieces(request: Request) -> Iterator[str]:
    for word in ("one", "two", "three"):
        yield word
        time.sleep(0.3)


@app.route("/fails-later")
def fails_later(request: Request) -> Iterator[str]:
    yield "one"
    time.sleep(0.1)
    raise LookupError("a secret")


class FailsToClose:
    def __init__(self) -> None:
        self.pieces = iter(["one", "two"])

    def __next__(self) -> str:
        return next(self.pieces)

    def __iter__(self) -> FailsToClose:
        return self

    def close(self) -> None:
        raise LookupError("a secret")


@app.route("/fails-to-close")
def fails_to_close(request: Request) -> FailsToClose:
    return FailsToClose()


@app.route("/left-behind")
def left_behind(request: Request) -> str:
    eventlet.Timeout(0.2)
    return "left"


@app.route("/declared/<int:size>")
def declared(request: Request, size: int) -> Response:
    return Response(iter(["12345", "67890"]), headers={"Content-Length": str(size)})


@app.post("/mirror")
def mirror(request: Request) -> Iterator[bytes]:
    while piece := request.stream.read(10_000):
        yield piece


@app.route("/status/<int:status>")
def status(request: Request, status: int) -> tuple[str, int]:
    return "a body", status


@app.route("/headers")
def headers(request: Request) -> dict[str, str]:
    return {**request.headers, "HOST": request.host}


@app.route("/leaving")
def leaving(request: Request) -> str:
    for _ in range(600):
        time.sleep(0.1)
        if not request.connected:
            break
    print("connected:", request.connected, flush=True)
    return "left"


@app.route("/asks/<path:file>")
def asks(request: Request, file: str) -> str:
    """Waits until there is such a file, and asks all the time whether the client is there."""
    print("begins to wait", flush=True)
    while not Path("/", file).exists() and request.connected:
        time.sleep(0.02)
    return f"connected: {request.connected}"


@app.route("/connected")
def connected(request: Request) -> str:
    return f"connected: {request.connected}"


@app.route("/cancelled", cancel=True)
def cancelled(request: Request) -> str:
    print("begins to wait", flush=True)
    try:
        time.sleep(20)
    finally:
        print("ended early" if isinstance(sys.exc_info()[1], BaseException) else "not ended", flush=True)
    return "waited"


@app.post("/answers-first")
def answers_first(request: Request) -> Iterator[bytes]:
    yield b"first, "
    yield request.body


def reads_later(request: Request) -> str:
    """Has its body read when it was answered long ago."""

    def read() -> None:
        time.sleep(0.3)
        try:
            print("read later:", request.body, flush=True)
        except ValueError as error:
            print("refused later:", error, flush=True)

    app.spawn(read)
    return "answered"


app.route("/reads-later")(reads_later)
mounted = Brubeck()
mounted.route("/reads-later")(reads_later)
app.mount("/mounted", mounted)


@app.post("/waits-first")
def waits_first(request: Request) -> bytes:
    time.sleep(0.6)
    return request.body


@app.route("/where")
def where(request: Request) -> Response:
    response = Response(request.url)
    response.set_cookie("tune", "Take Five")
    return response


@app.route("/file/<path:file>")
def file(request: Request, file: str) -> Response:
    return static_file(request, file, "/")


@app.websocket("/echo")
def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


@app.route("/garbage")
def garbage(request: Request) -> str:
    """How much of ours was left to the garbage collector since it was asked last; it runs for nobody else from now."""
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    kinds = [type(thing) for thing in gc.garbage]
    gc.garbage.clear()
    return str(sum(kind.__module__ in ("brubeck_lite", "greenlet", "socket") for kind in kinds))


if __name__ == "__main__":
    settings = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    app.pool_size = settings.pop("pool_size", app.pool_size)
    app.max_waiting = settings.pop("max_waiting", app.max_waiting)
    address = settings.pop("address", f"127.0.0.1:{sys.argv[1]}")
    app.run(HTTPConnection(address, **settings))
