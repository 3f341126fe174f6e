"""The program of the tests of worker processes: what it answers tells which process it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

from brubeck_lite import Brubeck, MessageHandler, Mongrel2Connection, Mongrel2Request, Request, WebSocket

app = Brubeck(upload_store=os.environ.get("UPLOAD_STORE"))


@app.route("/pid")
def pid(request: Request) -> str:
    return str(os.getpid())


@app.route("/wait/<float:seconds>")
def wait(request: Request, seconds: float) -> str:
    time.sleep(seconds)
    return f"waited {seconds}"


@app.route("/spawn/<float:seconds>")
def spawn(request: Request, seconds: float) -> None:
    app.spawn(time.sleep, seconds)


@app.route("/late/<float:seconds>/<int:size>")
def late(request: Request, seconds: float, size: int) -> bytes:
    time.sleep(seconds)
    return bytes(size)


@app.route("/large/<int:size>")
def large(request: Request, size: int) -> bytes:
    return b"0123456789" * (size // 10)


@app.route("/body", methods=["POST"])
def body(request: Request) -> str:
    return str(sum(map(len, iter(lambda: request.stream.read(1 << 16), b""))))


@app.route("/die")
def die(request: Request) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.route("/die-in-a-stream")
def die_in_a_stream(request: Request) -> Iterator[str]:
    yield "begun"
    time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGKILL)


@app.route("/leave-children")
def leave_children(request: Request) -> None:
    """End with children left behind that have whatever a child can have of this process; they are named in the log, and
    end a minute later, where nobody ended them before."""
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        signal.pause()
    print(f"left behind: {other.pid} {child}.", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


@app.route("/close-all")
def close_all(request: Request) -> None:
    """What a program that makes itself a daemon does."""
    os.closerange(3, 256)


@app.route("/print/<int:size>")
def print_much(request: Request, size: int) -> str:
    print("x" * size)
    return "printed"


@app.route("/odd-replies")
def reply_oddly(request: Request) -> str:
    """Replies that are none, to the one who deals."""
    assert isinstance(request, Mongrel2Request)
    connection = Mongrel2Connection("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")  # it replies to where each is from
    for sender, conn_id in (("no sender", "1"), ("", ""), ("a", "1, 2"), ("a", "9" * 5000), ("a", "\r\n"), ("\0", "1")):
        asked = SimpleNamespace(sender=sender, conn_id=conn_id, peer=request.peer)
        connection.reply(cast(Mongrel2Request, asked), b"x")
    return "said"


@app.route("/text/<name>")
def text(request: Request, name: str) -> str:
    return f"Take five, {name}!"


@app.websocket("/echo")
def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(f"{os.getpid()} {message}")


@app.websocket("/die-in-a-websocket")
def die_in_a_websocket(ws: WebSocket) -> None:
    for _ in ws:
        os.kill(os.getpid(), signal.SIGKILL)


@app.route("@chat")
class Chat(MessageHandler):
    def message(self) -> bytes:
        return b"heard " + self.request.body
