"""A program that counts, whose pool has two places."""

from __future__ import annotations

import os
import time
from typing import Any

from brubeck_lite import Brubeck, Request, WebSocket

app = Brubeck(handler_tuples=[(r'^/"\w+"$', lambda request: "an expression")], pool_size=2)
held: set[str] = set()


@app.route("/")
def index(request: Request) -> str:
    return "Take five!"


@app.route("/hello/<name>")
def hello(request: Request, name: str) -> str:
    return f"Take five, {name}!"


@app.route("/hold/<name>")
def hold(request: Request, name: str) -> str:
    """Waits until /release/<name>, which has a place in the pool for a short time only."""
    held.add(name)
    while name in held:
        time.sleep(0.01)
    return "held"


@app.route("/release/<name>")
def release(request: Request, name: str) -> str:
    held.discard(name)
    return "released"


@app.route("/compute")
def compute(request: Request) -> str:
    """Computes until there is a file, and lets nobody else have a turn."""
    while not os.path.exists(request.query["until"]):
        pass
    return "computed"


@app.route("/cancelled", cancel=True)
def cancelled(request: Request) -> str:
    time.sleep(60)
    return "never"


@app.route("/boom")
def boom(request: Request) -> None:
    raise LookupError("a secret")


@app.route("/stats")
def stats(request: Request) -> dict[str, Any]:
    return app.stats()


@app.websocket("/socket")
def talk(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


inner = Brubeck()
inner.route("/page", name="inner_page")(lambda request: "inside")
app.mount("/inner", inner)
