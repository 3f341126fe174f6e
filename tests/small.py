"""A program whose pool has two places; three more requests may wait."""

from __future__ import annotations

import time

from brubeck_lite import Brubeck, Request

app = Brubeck(pool_size=2, max_waiting=3)


@app.route("/wait")
def wait(request: Request) -> str:
    time.sleep(0.6)
    return "waited"


@app.route("/")
def index(request: Request) -> str:
    return "small"
