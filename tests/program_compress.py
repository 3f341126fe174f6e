"""What is compressed, for the tests of that: mounted behind every door, and alone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from brubeck_lite import Brubeck, Request, Response, compress, static_file

TEXT = "Take five, then take five more. " * 60
LARGE = TEXT.encode() * 2000
GOOD = b"a piece of a stream\n"

app = Brubeck()
app.wrap(compress())


@app.get("/text")
def text(request: Request) -> str:
    return TEXT


@app.get("/large")
def large(request: Request) -> bytes:
    return LARGE


@app.get("/json")
def json(request: Request) -> dict[str, Any]:
    return {"text": TEXT}


@app.get("/file/<name>")
def file(request: Request, name: str) -> Response:
    return static_file(request, name, Path(__file__).parent)


@app.get("/module")
def module(request: Request) -> Response:
    return static_file(request, "brubeck_lite.py", Path(__file__).parent.parent)


@app.get("/stream/<int:count>")
def stream(request: Request, count: int) -> Iterator[bytes]:
    for _ in range(count):
        yield GOOD


@app.get("/endless")
def endless(request: Request) -> Iterator[bytes]:
    """One piece, and no other for an hour."""
    try:
        yield GOOD
        time.sleep(3600)
    finally:
        print("ended", flush=True)
