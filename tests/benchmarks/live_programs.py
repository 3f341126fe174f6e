"""The programs of live.py: `live_programs:ours` and `live_programs:starlette` for a server; and, run themselves, `websockets
PORT`, `eventlet PORT`, and the clients `crowd poll|ws PORT COUNT` and `readers PORT COUNT SIZE BYTES_A_SECOND`."""

from __future__ import annotations

import base64
import os
import random
import select
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

TEXT = "x" * 100
FRAME = b"\x81\x64" + TEXT.encode()  # as a server sends it
MASKED = b"\x81\xe4\0\0\0\0" + TEXT.encode()  # as a client does
PING, PONG = b"\x89\0", b"\x8a\x80\0\0\0\0"
ASKING = "GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n"
OPENING = (
    "GET {} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(bytes(16)).decode()}\r\n\r\n"
)
PIECE = random.Random(5).randbytes(1 << 16)
DATA = PIECE * 64  # 4 MiB


def make_ours() -> Any:
    from brubeck_lite import Brubeck, Channel, Request, WebSocket

    app = Brubeck(pool_size=20_000)
    polls, everybody = Channel(), Channel()
    app.route("/")(lambda request: "Take five!")
    app.route("/held")(lambda request: str(len(polls.subscriptions)))
    app.static("/files", os.environ.get("FILES", os.curdir))

    @app.route("/hold")
    def hold(request: Request) -> str:
        with polls.subscribe() as subscription:
            return str(subscription.get(300))

    @app.route("/release")
    def release(request: Request) -> str:
        polls.publish("released")
        return "released"

    @app.route("/stream/<int:size>")
    def stream(request: Request, size: int) -> Iterator[bytes]:
        for _ in range(size // len(PIECE)):
            yield PIECE

    @app.route("/whole/<int:start>/<int:size>")
    def whole(request: Request, start: int, size: int) -> bytes:
        return DATA[start : start + size]

    @app.route("/parts/<int:start>/<int:size>")
    def parts(request: Request, start: int, size: int) -> Iterator[bytes]:
        for offset in range(start, start + size, 10_000):
            yield DATA[offset : min(offset + 10_000, start + size)]

    @app.websocket("/all")
    def all_of_them(ws: WebSocket) -> None:
        ws.follow(everybody)
        for message in ws:
            everybody.publish(message)

    @app.websocket("/echo")
    def echo(ws: WebSocket) -> None:
        for message in ws:
            ws.send(message)

    return app


def make_starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute

    everybody: set[Any] = set()

    async def all_of_them(ws: Any) -> None:
        await ws.accept()
        everybody.add(ws)
        async for message in ws.iter_text():
            for each in [*everybody]:
                await each.send_text(message)
        everybody.discard(ws)

    async def echo(ws: Any) -> None:
        await ws.accept()
        async for message in ws.iter_text():
            await ws.send_text(message)

    return Starlette(routes=[WebSocketRoute("/all", all_of_them), WebSocketRoute("/echo", echo)])


def __getattr__(name: str) -> Any:
    if name not in ("ours", "starlette"):
        raise AttributeError(name)
    return make_ours() if name == "ours" else make_starlette()


def serve_websockets(port: int) -> None:
    import asyncio

    from websockets.asyncio.server import broadcast, serve

    everybody: set[Any] = set()

    async def talk(ws: Any) -> None:
        if ws.request.path == "/echo":
            async for message in ws:
                await ws.send(message)
        else:
            everybody.add(ws)
            async for message in ws:
                broadcast(everybody, message)
            everybody.discard(ws)

    async def run() -> None:
        async with serve(talk, "127.0.0.1", port, ping_interval=None, backlog=2048):
            await asyncio.Event().wait()

    asyncio.run(run())


def serve_eventlet(port: int) -> None:
    import eventlet.websocket
    import eventlet.wsgi

    @eventlet.websocket.WebSocketWSGI  # type: ignore[untyped-decorator]
    def echo(ws: Any) -> None:
        while (message := ws.wait()) is not None:
            ws.send(message)

    eventlet.wsgi.server(eventlet.listen(("127.0.0.1", port)), echo, log_output=False)


def ask(port: int, text: str, source: str = "127.0.0.1") -> socket.socket:
    """A connection on which this request was sent."""
    client = socket.create_connection(("127.0.0.1", port), 60, (source, 0))
    client.sendall(text.encode())
    return client


def read_head(client: socket.socket, status: bytes, size: int = 1) -> socket.socket:
    """Read up to the empty line: not further where `size` is 1."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = client.recv(size)
        assert piece, head
        head += piece
    assert head[8:].startswith(b" %b " % status), head
    return client


def crowd(kind: str, port: int, count: int) -> None:
    """So many clients that wait. Each line of standard input has one of them make the server send something to all;
    answered by the seconds until the last one has it. AssertionError if one gets anything else, or twice."""
    sources = [f"127.0.{random.randrange(1, 255)}.{number}" for number in range(1, 9)]  # not to run out of ports
    clients: dict[int, socket.socket] = {}

    def held() -> int:
        with ask(port, ASKING.format("/held")) as client:
            return int(client.recv(1000).rpartition(b"\r\n")[2])

    opening = ASKING.format("/hold") if kind == "poll" else OPENING.format("/all")
    while len(clients) < count:
        opened = [ask(port, opening, random.choice(sources)) for _ in range(min(100, count - len(clients)))]
        clients.update({client.fileno(): client for client in opened})
        if kind == "poll":
            while held() < len(clients):
                time.sleep(0.01)
        else:
            for client in opened:
                read_head(client, b"101", 1000)
    poll = select.epoll()
    for descriptor in (0, *clients):
        poll.register(descriptor, select.EPOLLIN)
    waiting: dict[int, bytes] = {}
    print("open", flush=True)
    while True:
        events = poll.poll(60 if waiting else None)
        assert events, f"{len(waiting)} clients had no answer"
        for descriptor, _ in events:
            if descriptor == 0:
                if not sys.stdin.readline():
                    return
                began, waiting = time.perf_counter(), dict.fromkeys(clients, b"")
                if kind == "poll":
                    releasing = ask(port, ASKING.format("/release"))  # noqa: F841  stays open
                else:
                    next(iter(clients.values())).sendall(MASKED)
                continue
            data = clients[descriptor].recv(10_000)
            if PING in data:
                clients[descriptor].sendall(PONG)
                data = data.replace(PING, b"")
                if not data:
                    continue
            data = waiting.pop(descriptor, b"nobody asked: ") + data
            if data != FRAME and not (data.startswith(b"HTTP/1.1 200 OK\r\n") and data.endswith(b"\r\n\r\nreleased")):
                assert data and b"\r\n\r\n" not in data and not data.startswith((b"nobody", b"HTTP/1.1 5")), data
                waiting[descriptor] = data
            if not waiting:
                print(time.perf_counter() - began, flush=True)


def readers(port: int, count: int, size: int, rate: int) -> None:
    """So many clients that each read a body of their own, slowly: every other one a stream. Prints how many of them had
    all of it, and the seconds."""
    clients = []
    for number in range(count):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)  # so that the server feels it
        client.settimeout(60)
        client.connect(("127.0.0.1", port))
        path = f"/{'parts' if number % 2 else 'whole'}/{number * 997}/{size}"
        client.sendall(ASKING.format(path).replace("1.1", "1.0").encode())
        clients.append((client, number * 997))
    began, view, whole = time.perf_counter(), memoryview(DATA), 0
    state = {client: [start, start + size] for client, start in clients}
    for client in state:
        read_head(client, b"200")
    tick = 0.05
    while state:
        due = time.perf_counter() + tick
        for client in [*state]:
            client.setblocking(False)
            at, end = state[client]
            left = int(rate * tick)
            try:
                while left and (piece := client.recv(left)):
                    assert piece == view[at : at + len(piece)], f"a client got {piece[:50]!r} instead of its own"
                    at, left = at + len(piece), left - len(piece)
                    state[client][0] = at
                if left:
                    whole += at == end
                    del state[client]
            except BlockingIOError:
                pass
        time.sleep(max(0.0, due - time.perf_counter()))
    print(whole, time.perf_counter() - began, flush=True)


if __name__ == "__main__":
    which, numbers = sys.argv[1], [int(argument) for argument in sys.argv[2:] if argument.isdigit()]
    if which == "crowd":
        crowd(sys.argv[2], *numbers)
    else:
        {"websockets": serve_websockets, "eventlet": serve_eventlet, "readers": readers}[which](*numbers)
