"""A program with pages of its own for what it refuses, and another application in it with others."""

from __future__ import annotations

import os

from brubeck_lite import Brubeck, Request, WebSocket

app = Brubeck(upload_store=os.environ.get("UPLOAD_STORE") or None, max_body=100_000)
inner = Brubeck(max_body=500_000)


def refuse(request: Request, error: Exception) -> str:
    return f"{'outer' if request.app is app else 'inner'} page for {request.path}: {getattr(error, 'message', error)}"


def length(request: Request) -> str:
    return str(len(request.body))


def greet(ws: WebSocket) -> None:
    ws.send("hello")


for each in (app, inner):
    each.post("/length")(length)
    each.post("/large", max_body=2_000_000)(length)
    each.post("/unread", name="unread")(lambda request: "not read")
    for status in (411, 413, 500):
        each.error(status)(refuse)
app.websocket("/greet")(greet)
app.mount("/inner", inner)


@app.route("/cookie/<int:size>")
def cookie(request: Request, size: int) -> str:
    request.session["text"] = "x" * size
    return "set"


app.secret = "what signs the cookies of this program"
