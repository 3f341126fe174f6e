"""The smallest handlers that answer as ours do, for servers without a framework: `bare_programs:wsgi`, `:asgi` and
`:asgi_json`. Run itself it serves the first: `bare_programs.py fastpysgi|bjoern PORT`."""

from __future__ import annotations

import json
import sys
from typing import Any

BODY = b"Take five!"
HEADERS = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(BODY)))]
RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS]
START = {"type": "http.response.start", "status": 200, "headers": RAW_HEADERS}
END = {"type": "http.response.body", "body": BODY}

# Lists whose JSON has 1 KB and 64 KB.
LISTS = {
    kilobytes: [{"name": "Take Five", "number": number, "time": [5, 4]} for number in range(1000, 1000 + count)]
    for kilobytes, count in (("1", 21), ("64", 1365))
}


def wsgi(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Hello."""
    start_response("200 OK", HEADERS)
    return [BODY]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Hello."""
    await send(START)
    await send(END)


async def asgi_json(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """One of the lists, by the last part of the path."""
    kilobytes = scope["path"].rpartition("/")[2]
    body = json.dumps(LISTS[kilobytes], separators=(",", ":")).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    server, port = sys.argv[1], int(sys.argv[2])
    if server == "fastpysgi":
        import fastpysgi

        fastpysgi.run(wsgi, "127.0.0.1", port, loglevel=0)
    else:
        import bjoern

        bjoern.run(wsgi, "127.0.0.1", port)
