"""Files from the embedded server, beside Bottle's and Flask's on gunicorn, and beside `sendfile` of Python's own
`socketserver`, which `files.py PORT` is: it answers whatever it is asked with the large file of the folder FILES."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import socketserver
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from support import environment, free_port, listens, process, wait_for
from web import SERVERS, serving, wrk

SENDFILE = "sendfile by socketserver"
NAMES = ("ours", "Bottle on gunicorn/gevent", "Flask on gunicorn/gevent")


class SendsFile(socketserver.StreamRequestHandler):
    """The least that a server in Python can do."""

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        with open(Path(os.environ["FILES"], "large.bin"), "rb") as file:
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {os.fstat(file.fileno()).st_size}\r\nConnection: close\r\n\r\n"
            self.connection.sendall(head.encode())
            self.connection.sendfile(file)


@contextlib.contextmanager
def sending_files() -> Iterator[int]:
    """This module as a server: its port."""
    port = free_port()
    variables = environment(measured=False)
    with process([sys.executable, __file__, str(port)], env=variables) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what=SENDFILE)
        yield port


def download(port: int, name: str, buffer: memoryview, each: Callable[[memoryview], object]) -> float:
    """The megabytes a second at which a file comes; its pieces go to `each`."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        began = time.perf_counter()
        client.sendall(f"GET /files/{name} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = b""
        while b"\r\n\r\n" not in head:
            piece = client.recv(1 << 16)
            assert piece, head
            head += piece
        head, _, body = head.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        assert lines[0] == b"http/1.1 200 ok", head
        size = left = next(int(line[16:]) for line in lines if line.startswith(b"content-length: "))
        each(memoryview(body))
        left -= len(body)
        while left:
            count = client.recv_into(buffer)
            assert count, f"{left} bytes are missing"
            each(buffer[:count])
            left -= count
        return size / (time.perf_counter() - began) / 1e6


def compare_files(row: Callable[..., None], short: bool) -> None:
    """10 KB as wrk asks for it, and 100 MB as one client reads it: rates in interleaved rounds."""
    size = (10 if short else 100) * 1_000_000
    contents = {"small.bin": random.Random(5).randbytes(10_240), "large.bin": random.Random(4).randbytes(size)}
    buffer = memoryview(bytearray(1 << 20))
    found: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for name, content in contents.items():
            Path(folder, name).write_bytes(content)
        os.environ["FILES"] = folder
        stack.callback(os.environ.pop, "FILES")
        ports = {name: stack.enter_context(serving(SERVERS[name]))[0] for name in NAMES}
        ports[SENDFILE] = stack.enter_context(sending_files())
        for server, port in ports.items():
            for name, content in contents.items():
                if (server, name) != (SENDFILE, "small.bin"):
                    hashed = hashlib.sha256()
                    download(port, name, buffer, hashed.update)
                    assert hashed.digest() == hashlib.sha256(content).digest(), (server, name)
        for _ in range(1 if short else 5):
            for server, port in ports.items():
                if server != SENDFILE:
                    rate = wrk(port, "/files/small.bin", 1 if short else 2)[0]
                    found.setdefault((server, "small"), []).append(rate)
                for _ in range(3):
                    found.setdefault((server, "large"), []).append(download(port, "large.bin", buffer, len))
    medians = {key: statistics.median(values) for key, values in found.items()}
    for what, named, unit in (("small", "file of 10 KB", "/s"), ("large", f"file of {size // 1_000_000} MB", " MB/s")):
        ours = medians["ours", what]
        for server in ports:
            if server != "ours" and (server, what) in medians:
                other, aim = medians[server, what], 0.5 if server == SENDFILE else 1.0
                row(named, f"{ours:,.0f}{unit}", f"{server} {other:,.0f}{unit}", ours / other, aim, above=True)


if __name__ == "__main__":
    socketserver.ThreadingTCPServer.allow_reuse_address = True  # the port is reserved for it (support.free_port)
    with socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), SendsFile) as server:
        server.daemon_threads = True
        server.serve_forever()
