"""The programs of live.py: `live_programs:ours`, `live_programs:starlette`; run itself, `websockets PORT` and `eventlet
PORT`. A message to `/all` goes to everybody there, one to `/echo` comes back."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator
from typing import Any

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

    @app.route("/stream/<int:pieces>")
    def stream(request: Request, pieces: int) -> Iterator[bytes]:
        for _ in range(pieces):
            yield PIECE

    @app.route("/body/<int:start>/<int:size>")
    def body(request: Request, start: int, size: int) -> Any:
        whole = DATA[start : start + size]
        return whole if start % 2 else (whole[at : at + 10_000] for at in range(0, size, 10_000))

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

    return Starlette(routes=[WebSocketRoute("/all", all_of_them)])


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


if __name__ == "__main__":
    {"websockets": serve_websockets, "eventlet": serve_eventlet}[sys.argv[1]](int(sys.argv[2]))
