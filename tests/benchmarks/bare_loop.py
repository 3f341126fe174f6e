"""The entry `arena_programs:bare` behind Mongrel2, by a loop of pyzmq: for each message an environ, and one reply, with
nothing of what a handler library looks after. Texts on a WebSocket are sent back.

    bare_loop.py PULL PUB UPLOADS      UPLOADS: the folder of the files in which Mongrel2 hands over large bodies
"""

from __future__ import annotations

import io
import json
import os
import sys
import time
from typing import Any

import arena_programs
import zmq

UPGRADE = (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
           b"Sec-WebSocket-Accept: %b\r\n\r\n")  # fmt: skip


def read_message(message: bytes) -> tuple[bytes, dict[str, Any], bytes]:
    """How each reply begins, the headers, and the body."""
    sender, conn_id, _, rest = message.split(b" ", 3)
    size, _, rest = rest.partition(b":")
    headers, (_, _, body) = json.loads(rest[: int(size)]), rest[int(size) + 1 :].partition(b":")
    return b"%b %d:%b, " % (sender, len(conn_id), conn_id), headers, body[:-1]


def call(app: Any, headers: dict[str, Any], body: bytes, uploads: str) -> bytes:
    """The whole answer of a WSGI application."""
    given: Any = io.BytesIO(body)
    if "x-mongrel2-upload-done" in headers:
        path = os.path.join(uploads, os.path.basename(headers["x-mongrel2-upload-done"]))
        given = open(path, "rb")  # noqa: SIM115 (closed below)
        os.unlink(path)
    environ = {"REQUEST_METHOD": headers["METHOD"], "PATH_INFO": headers["PATH"], "wsgi.input": given,
               "QUERY_STRING": headers.get("QUERY", ""),
               "HTTP_ACCEPT_ENCODING": headers.get("accept-encoding", "")}  # fmt: skip
    head: list[str] = []

    def start_response(status: str, fields: list[tuple[str, str]]) -> None:
        own = [("Connection", headers["connection"])] if "connection" in headers else []
        head.extend([f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in [*fields, *own]), "", ""])

    with given:
        pieces = b"".join(app(environ, start_response))
    return "\r\n".join(head).encode() + pieces


def main(pull: str, pub: str, uploads: str) -> None:
    app, context = arena_programs.make_bare(), zmq.Context()
    requests, replies = context.socket(zmq.PULL), context.socket(zmq.PUB)
    replies.connect(pub)
    time.sleep(1)  # for the subscription, or the first replies are lost
    requests.connect(pull)
    print("connected", flush=True)
    while True:
        target, headers, body = read_message(requests.recv())
        method = headers["METHOD"]
        if method == "WEBSOCKET_HANDSHAKE":
            replies.send(target + UPGRADE % body)
        elif method == "WEBSOCKET":
            is_close = int(headers["FLAGS"], 16) & 0x0F == 8
            replies.send(target if is_close else b"%b\x81%c%b" % (target, len(body), body))
        elif method != "JSON" and ("x-mongrel2-upload-start" not in headers or "x-mongrel2-upload-done" in headers):
            replies.send(target + call(app, headers, body, uploads))
            if headers.get("connection") == "close":
                replies.send(target)


if __name__ == "__main__":
    main(*sys.argv[1:])
