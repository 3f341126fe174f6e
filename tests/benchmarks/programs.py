"""The handlers that are compared, each a process: `programs.py bare|spawn|ours PULL PUB [never|waits [WORKERS]]`."""

from __future__ import annotations

import sys
from typing import Any

BODY = b"Take five!"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: 10\r\n\r\n" + BODY


def connect(zmq: Any, pull_address: str, pub_address: str) -> tuple[Any, Any]:
    """A PULL and a PUB, as handlers of Mongrel2 have always had them."""
    context = zmq.Context()
    pull, pub = context.socket(zmq.PULL), context.socket(zmq.PUB)
    pub.set_hwm(0)
    pull.connect(pull_address)
    pub.connect(pub_address)
    return pull, pub


def answer(message: bytes) -> bytes | None:
    """The fixed answer to whoever sent the message; none to news about connections, such as credits."""
    sender, conn_id, path, _ = message.split(b" ", 3)
    return None if path == b"@*" else b"%b %d:%b, %b" % (sender, len(conn_id), conn_id, ANSWER)


def serve_bare(pull_address: str, pub_address: str, mode: str) -> None:
    """A blocking loop of pyzmq: the least that a handler in Python can do."""
    import zmq

    pull, pub = connect(zmq, pull_address, pub_address)
    while True:
        reply = answer(pull.recv())
        if reply is not None:
            pub.send(reply)


def serve_by_spawning(pull_address: str, pub_address: str, mode: str) -> None:
    """Brubeck's way: eventlet's green zmq and a coroutine for each message."""
    import eventlet
    from eventlet.green import zmq

    pull, pub = connect(zmq, pull_address, pub_address)
    pool = eventlet.GreenPool(10_000)

    def handle(message: bytes) -> None:
        if mode == "waits":
            eventlet.sleep(0.01)
        reply = answer(message)
        if reply is not None:
            pub.send(reply)

    while True:
        pool.spawn_n(handle, pull.recv())


def serve_ours(pull_address: str, pub_address: str, mode: str) -> None:
    """brubeck_lite, with everything it does for a request."""
    from brubeck_lite import Brubeck, Mongrel2Connection, Request, patch_standard_library

    patch_standard_library()
    import eventlet
    from eventlet.event import Event

    app = Brubeck(pool_size=20_000)
    held: list[Event] = []

    @app.route("/")
    def index(request: Request) -> str:
        return BODY.decode()

    @app.route("/wait")
    def wait(request: Request) -> str:
        eventlet.sleep(0.01)
        return BODY.decode()

    @app.route("/slowly/<token>")
    def slowly(request: Request, token: str) -> str:
        eventlet.sleep(0.3)
        return token

    @app.route("/hold")
    def hold(request: Request) -> str:
        held.append(Event())
        held[-1].wait()
        return BODY.decode()

    @app.route("/held")
    def count(request: Request) -> str:
        return str(len(held))

    @app.route("/release")
    def release(request: Request) -> str:
        while held:
            held.pop().send()
        return ""

    app.run(Mongrel2Connection(pull_address, pub_address), workers=int(sys.argv[5]) if len(sys.argv) > 5 else 1)


if __name__ == "__main__":
    which = {"bare": serve_bare, "spawn": serve_by_spawning, "ours": serve_ours}[sys.argv[1]]
    which(sys.argv[2], sys.argv[3], sys.argv[4] if len(sys.argv) > 4 else "never")
