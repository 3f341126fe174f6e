"""Two applications for bursts of requests: one as it comes, one that is small."""

from __future__ import annotations

import functools
import time
from typing import Any

from brubeck_lite import Brubeck, Request


def wait(request: Request, seconds: float) -> str:
    time.sleep(seconds)
    return "slow"


def make(seconds: float, **sizes: Any) -> Brubeck:
    """`/slow` waits for so long; `/` does not."""
    app = Brubeck(**sizes)
    app.get("/slow", name="slow")(functools.partial(wait, seconds=seconds))
    app.get("/", name="index")(lambda request: "Take five!")
    return app


as_it_comes = make(0.5)
small = make(0.05, pool_size=100, max_waiting=500)
