"""A program that tells of every request what it was: for the judges of the embedded server."""

from __future__ import annotations

from typing import Any

from brubeck_lite import Brubeck, Request


def mirror(request: Request) -> dict[str, Any]:
    return {
        "method": request.method,
        "path": request.path,
        "query_string": request.query_string,
        "version": request.version,
        "headers": dict(request.headers),
        "body": request.body.decode("latin-1"),
    }


app = Brubeck(handler_tuples=[("^", mirror)])
