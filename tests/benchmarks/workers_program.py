"""The program whose workers are counted: / says hello, /compute takes a millisecond of CPU time."""

from __future__ import annotations

import time

from brubeck_lite import Brubeck, Request

app = Brubeck()


@app.route("/")
def index(request: Request) -> str:
    return "Take five!"


@app.route("/compute")
def compute(request: Request) -> str:
    """As much work as a millisecond of this thread's own time, whoever else wants the core."""
    deadline = time.thread_time() + 0.001
    while time.thread_time() < deadline:
        pass
    return "Take five!"
