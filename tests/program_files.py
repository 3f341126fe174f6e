"""A part of the program behind every door: files, of which some must not be had, a long stream, and a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from brubeck_lite import Brubeck, Request, SessionCookie

app = Brubeck(secret="a secret of thirty-two characters")
app.static("/public", Path(os.environ.get("TEST_FILES", "none")) / "public")  # see test_static


@app.route("/pieces")
def pieces(request: Request) -> Iterator[bytes]:
    """Small pieces, which cost more to send than to receive."""
    return (b"0123456789" for _ in range(400_000))


@app.route("/visits")
def visits(request: Request) -> dict[str, int]:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return {"visits": request.session["visits"]}


@app.route("/leave")
def sign_out(request: Request) -> str:
    request.session.clear()
    return "left"


secure = Brubeck(secret="another secret of the tests")
secure.session_cookie = SessionCookie(secure=True)
secure.route("/visits")(visits)
secure.route("/leave")(sign_out)
app.mount("/secure", secure)
