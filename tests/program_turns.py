"""A program whose pool has one place, which tells each request the number of its turn."""

from __future__ import annotations

import itertools
import time

from brubeck_lite import Brubeck, Request

app = Brubeck(pool_size=1)
turns = itertools.count(1)


@app.route("/turn")
def turn(request: Request) -> str:
    number = next(turns)
    time.sleep(0.01)
    return str(number)
