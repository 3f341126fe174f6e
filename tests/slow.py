"""A program whose answers take their time."""

from __future__ import annotations

import random
import time

from brubeck_lite import Brubeck, Request

app = Brubeck()


@app.on_start
def started() -> None:
    print("started", flush=True)


@app.on_stop
def stopped() -> None:
    print("stopped", flush=True)


@app.route("/slow/<token>")
def slow(request: Request, token: str) -> str:
    time.sleep(random.choice([0.0, 0.05, 0.3]))
    return token


@app.route("/notice")
def notice(request: Request) -> str:
    for _ in range(600):
        time.sleep(0.1)
        if not request.connected:
            break
    print("connected:", request.connected, flush=True)
    return "noticed"
