"""A program that checks passwords on one core, or as if it had CORES, and tells how many were computed at once."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Callable
from typing import Any

if "CORES" in os.environ:
    os.sched_getaffinity = lambda process: {*range(int(os.environ["CORES"]))}
elif hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

from brubeck_lite import Brubeck, Request, check_password, hash_password


class Counted:
    """scrypt, counted; a call waits while it is `held`."""

    def __init__(self, scrypt: Callable[..., bytes]) -> None:
        self.scrypt, self.held = scrypt, False
        self.now = self.most = self.all = 0

    def __call__(self, *arguments: Any, **named: Any) -> bytes:
        self.now, self.all = self.now + 1, self.all + 1
        self.most = max(self.most, self.now)
        # It is called in threads of the system's, and eventlet's sleep is for coroutines.
        clock = sys.modules["eventlet"].patcher.original("time") if "eventlet" in sys.modules else time
        while self.held:
            clock.sleep(0.01)
        try:
            return self.scrypt(*arguments, **named)
        finally:
            self.now -= 1


HASHED = hash_password("take five")
hashlib.scrypt = counted = Counted(hashlib.scrypt)  # type: ignore[assignment]

app = Brubeck()


@app.post("/login")
def login(request: Request) -> str:
    return str(check_password(request.form["password"], HASHED))


@app.post("/hurried", timeout=0.3)
def hurried(request: Request) -> str:
    return login(request)


@app.post("/cancelled", cancel=True)
def cancelled(request: Request) -> str:
    return login(request)


@app.get("/<any(hold, release):change>")
@app.get("/", name="look")
def counts(request: Request, change: str = "") -> dict[str, int]:
    counted.held = change == "hold" or (counted.held and change != "release")
    return {"now": counted.now, "most": counted.most, "all": counted.all}


inner = Brubeck()
inner.post("/login")(login)
app.mount("/inner", inner)
