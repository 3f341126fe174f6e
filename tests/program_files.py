"""A part of the program behind every door: files, of which some must not be had, a long stream, and a session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from brubeck_lite import Brubeck, Request, Response, SessionCookie, static_file

app = Brubeck(secret="a secret of thirty-two characters")
PUBLIC = Path(os.environ.get("TEST_FILES", Path(__file__).parent / "benchmarks"))  # see test_static
app.static("/public", PUBLIC)


@app.route("/undeclared/<name>")
def undeclared(request: Request, name: str) -> Response:
    response = static_file(request, name, PUBLIC)
    del response.headers["Content-Length"]
    return response


@app.route("/changed/<name>")
def changed(request: Request, name: str) -> Response:
    """What middleware may do: read some of the body, and send something else in front of the rest."""
    response = static_file(request, name, PUBLIC)
    pieces = response.body
    assert not isinstance(pieces, bytes)
    begin = bytes(reversed(next(pieces)))
    response.body = (piece for piece in (begin, *pieces))
    return response


@app.route("/continued/<name>")
def continued(request: Request, name: str) -> Response:
    """The rest of a file, of which the handler has taken the first piece."""
    response = static_file(request, name, PUBLIC)
    assert not isinstance(response.body, bytes)
    length = int(response.headers["Content-Length"]) - len(next(response.body))
    response.headers["Content-Length"] = str(length)
    return response


@app.route("/misdeclared/<name>")
def misdeclared(request: Request, name: str) -> Response:
    response = static_file(request, name, PUBLIC)
    response.headers["Content-Length"] = "1000000"
    return response


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
