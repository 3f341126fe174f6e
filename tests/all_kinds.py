"""A program with one of each kind of route that Mongrel2 tells apart, and clients for them: what is true of them shows
that a configuration fits."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import socket
import time
from typing import Any

import websockets.sync.client

PROGRAM = """\
import hashlib, os
from brubeck_lite import Brubeck, MessageHandler

app = Brubeck(upload_store=os.environ.get("UPLOAD_STORE"), max_body=1 << 16)

@app.route("/")
def index(request):
    return "Take five!"

@app.post("/length", max_body=8 << 20)
def length(request):
    digest = hashlib.sha256()
    while piece := request.stream.read(1 << 16):
        digest.update(piece)
    return digest.hexdigest()

@app.route("/pieces")
def pieces(request):
    for number in range(3000):
        yield f"{number:999}\\n"

@app.route("@chat-room/1")
class Chat(MessageHandler):
    def message(self):
        return b"heard " + self.request.body

@app.websocket("/talk")
def talk(ws):
    for message in ws:
        ws.send(message)
"""


def ask(port: int, target: str, method: str = "GET", body: bytes | None = None, host: str = "127.0.0.1") -> Any:
    """Status and body of an answer."""
    client = http.client.HTTPConnection(host, port, timeout=60)
    try:
        client.request(method, target, body)
        answer = client.getresponse()
        return answer.status, answer.read()
    finally:
        client.close()


def check_page(port: int) -> None:
    assert ask(port, "/") == (200, b"Take five!")


def check_upload(port: int) -> None:
    """One that Mongrel2 hands out in a message, and one that needs more."""
    for size in (1000, 3 << 20):
        body = os.urandom(size)
        assert ask(port, "/length", "POST", body) == (200, hashlib.sha256(body).hexdigest().encode())


def check_chunked_upload(port: int) -> None:
    """Which Mongrel2 always writes to a file."""
    for sizes in ([], [10], [1, 100_000, 7], [65_536] * 50):
        body, client = [os.urandom(size) for size in sizes], http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(client):
            client.request("POST", "/length", iter(body), {"Transfer-Encoding": "chunked"}, encode_chunked=True)
            answer = client.getresponse()
            assert (answer.status, answer.read()) == (200, hashlib.sha256(b"".join(body)).hexdigest().encode())


def check_heads(port: int) -> None:
    """Those of browsers with large cookies, and one in many pieces."""
    for size, pieces in ((3_800, 1), (5_000, 1), (20_000, 1), (60_000, 1), (200, 8)):
        head = b"GET / HTTP/1.1\r\nHost: x\r\nCookie: a=" + b"x" * size + b"\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for start in range(0, len(head), len(head) // pieces + 1):
                client.sendall(head[start : start + len(head) // pieces + 1])
                time.sleep(0.05 * (pieces > 1))
            assert client.recv(1000).startswith(b"HTTP/1.1 200 OK"), (size, pieces)


def check_stream(port: int) -> None:
    assert ask(port, "/pieces") == (200, "".join(f"{number:999}\n" for number in range(3000)).encode())


def check_message_socket(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b'@chat-room/1 {"a": 1}\x00')
        expected = base64.b64encode(b'heard {"a": 1}')
        received = b""
        while len(received) < len(expected) and (piece := client.recv(1000)):
            received += piece
    assert received == expected


def check_websocket(port: int) -> None:
    with websockets.sync.client.connect(f"ws://127.0.0.1:{port}/talk", compression=None, max_size=None) as client:
        for text in ("five", "5" * 300_000):
            client.send(text)
            assert client.recv(60) == text


CHECKS = (check_page, check_upload, check_chunked_upload, check_heads, check_stream, check_message_socket,
          check_websocket)  # fmt: skip
