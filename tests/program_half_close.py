"""Answers that take longer than a server needs to see that their client sends no more."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from brubeck_lite import Brubeck, Event, Request, Response, event_stream

app = Brubeck()
app.static("/files", os.environ.get("TEST_HALF_CLOSE", "."))
LATE = 1.6  # seconds: three looks of the server


@app.get("/stream")
def stream(request: Request) -> Iterator[str]:
    yield "first "
    time.sleep(LATE)
    yield "second "
    yield "third"


@app.get("/late-stream")
def late_stream(request: Request) -> Iterator[str]:
    time.sleep(LATE)
    yield "late"


@app.get("/declared")
def declared(request: Request) -> Response:
    return Response(stream(request), headers={"Content-Length": "18"})


@app.get("/events")
def events(request: Request) -> Response:
    return event_stream(Event(piece.strip()) for piece in stream(request))


@app.get("/poll", cancel=True)
def poll(request: Request) -> str:
    time.sleep(LATE)
    return "polled"


@app.get("/asks-twice", cancel=True)
def asks_twice(request: Request) -> Iterator[str]:
    """Waits before its stream, and in it, and asks each time whether its client is there."""
    time.sleep(LATE / 2)
    first = request.connected

    def pieces() -> Iterator[str]:
        for _ in range(2):
            time.sleep(LATE / 2)
            yield f"{first} {request.connected} "

    return pieces()


@app.get("/plain")
def plain(request: Request) -> str:
    looks = []
    for _ in range(4):
        looks.append(request.connected)
        time.sleep(0.1)
    return str(all(looks))


@app.get("/body")
def body(request: Request) -> bytes:
    return b"0123456789" * 1_000_000
