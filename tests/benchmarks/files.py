"""Files from the embedded server, beside Bottle's and Flask's on gunicorn, and beside `sendfile` of Python's own
`socketserver`, which `files.py PORT` is: it answers whatever it is asked with the large file of the folder FILES."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import socketserver
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from rounds import interleave, medians, medians_of, with_each
from support import environment, free_port, listens, process, wait_for
from tables import Comparison
from web import RATE, serving, wrk

SENDFILE = "sendfile by socketserver"
OTHERS = ("Bottle on gunicorn/gevent", "Flask on gunicorn/gevent")


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


def check_files(port: int, contents: dict[str, bytes], buffer: memoryview) -> None:
    """A server sends these files as they are."""
    for name, content in contents.items():
        hashed = hashlib.sha256()
        download(port, name, buffer, hashed.update)
        assert hashed.digest() == hashlib.sha256(content).digest(), (port, name)


def compare_files(table: Comparison, short: bool) -> None:
    """10 KB as wrk asks for it, and 100 MB as one client reads it: rates in interleaved rounds."""
    megabytes, rounds, seconds = (10, 1, 1) if short else (100, 5, 2)
    large = {"large.bin": random.Random(4).randbytes(megabytes * 1_000_000)}
    contents = {"small.bin": random.Random(5).randbytes(10_240), **large}
    buffer = memoryview(bytearray(1 << 20))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for name, content in contents.items():
            Path(folder, name).write_bytes(content)
        os.environ["FILES"] = folder
        stack.callback(os.environ.pop, "FILES")
        ports = {name: stack.enter_context(serving(name))[0] for name in with_each(OTHERS)}
        sendfile = stack.enter_context(sending_files())
        for port in ports.values():
            check_files(port, contents, buffer)
        check_files(sendfile, large, buffer)
        small = interleave(
            rounds, {name: partial(wrk, port, "/files/small.bin", seconds) for name, port in ports.items()}
        )
        ports[SENDFILE] = sendfile
        fast = interleave(
            3 * rounds, {name: partial(download, port, "large.bin", buffer, len) for name, port in ports.items()}
        )
    aims: dict[str, float | None] = dict.fromkeys(OTHERS, 1.0)
    rates = medians_of(0, small)
    table.compare("file of 10 KB", rates, RATE, aims, above=True)
    table.compare(f"file of {megabytes} MB", medians(fast), "{:,.0f} MB/s", {**aims, SENDFILE: 0.5}, above=True)


if __name__ == "__main__":
    socketserver.ThreadingTCPServer.allow_reuse_address = True  # the port is reserved for it (support.free_port)
    with socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), SendsFile) as server:
        server.daemon_threads = True
        server.serve_forever()
