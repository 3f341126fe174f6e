"""The example database.py with handlers that wait in the database, until the test lets go of lock 1."""

from __future__ import annotations

from database import app, database

from brubeck_lite import Request

LOCK = "SELECT pg_advisory_xact_lock_shared(1)"


@app.get("/wait")
def wait(request: Request) -> str:
    database(request).execute(LOCK)
    return "waited"


@app.get("/impatient", timeout=0.2)
def wait_impatiently(request: Request) -> str:
    database(request).execute(LOCK)
    return "waited"


@app.get("/sign-and-fail")
def fail(request: Request) -> str:
    database(request).execute("INSERT INTO entry (name, message) VALUES ('nobody', 'nothing')")
    raise RuntimeError("on purpose")


@app.get("/sign-and-wait")
def sign_and_wait(request: Request) -> str:
    wait(request)
    database(request).execute("INSERT INTO entry (name, message) VALUES ('nobody', 'nothing')")
    return "signed"
