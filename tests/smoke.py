"""What the installed package must do anywhere: run by the Python of an environment that has nothing but it, outside the
repository. Only the standard library, and no names but public ones."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

PROGRAM = """\
import time

from brubeck_lite import Brubeck

app = Brubeck()

@app.route("/hello/<name>")
def hello(request, name):
    time.sleep(0.01)
    return {"name": name}

@app.websocket("/echo")
def echo(ws):
    for message in ws:
        ws.send(message)
"""
UPGRADE = (
    "GET /echo HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def check_import() -> None:
    """It is the installed module, which the router alone comes with."""
    import brubeck_lite

    assert Path(brubeck_lite.__file__ or "").is_relative_to(sys.prefix), brubeck_lite.__file__
    assert not {"zmq", "eventlet"} & set(sys.modules), "a server's packages were imported"


def check_command(*command: str) -> None:
    """The command is there and says the version of the package."""
    from importlib.metadata import version

    said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
    assert said == f"brubeck_lite {version('brubeck_lite')}\n", said
    assert "--mongrel2" in subprocess.run([*command, "--help"], capture_output=True, text=True, check=True).stdout


def check_in_process() -> None:
    """The test client has the program's answer."""
    sys.path.insert(0, os.getcwd())
    import program

    assert program.app.test().get("/hello/Dave").json == {"name": "Dave"}


def check_wsgi() -> None:
    """The standard library's WSGI server serves the program."""
    from wsgiref.simple_server import make_server

    import program

    with make_server("127.0.0.1", 0, program.app) as server:
        threading.Thread(target=server.handle_request).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/hello/Dave", timeout=60) as answer:
            assert answer.read() == b'{"name":"Dave"}'


def check_served(*command: str) -> None:
    """The embedded server serves the program and a WebSocket, and ends with status 0 when told to."""
    child = subprocess.Popen([*command, "program:app", "--bind", "127.0.0.1:0"], stderr=subprocess.PIPE, text=True)
    assert child.stderr is not None
    try:
        line = next((line for line in child.stderr if "serving" in line), "")
        told = re.search(r"serving http://127\.0\.0\.1:(\d+)\n", line)
        assert told, f"it does not say where it listens: {line}"
        port = int(told[1])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/hello/Dave", timeout=60) as answer:
            assert (answer.status, answer.read()) == (200, b'{"name":"Dave"}')
        with socket.create_connection(("127.0.0.1", port), 60) as client, client.makefile("rb") as received:
            client.sendall(UPGRADE.encode() + b"\x81\x82\0\0\0\0hi")
            assert received.readline() == b"HTTP/1.1 101 Switching Protocols\r\n"
            while received.readline() != b"\r\n":
                pass
            assert received.read(4) == b"\x81\x02hi"
    finally:
        child.terminate()
    assert child.wait(60) == 0


def check_mongrel2_sockets() -> None:
    """pyzmq is there, and a handler answers over ZeroMQ as Mongrel2 asks it to."""
    import zmq

    from brubeck_lite import Mongrel2Connection, format_netstring

    context = zmq.Context()
    push, sub = context.socket(zmq.PUSH), context.socket(zmq.SUB)
    ports = [each.bind_to_random_port("tcp://127.0.0.1") for each in (push, sub)]
    sub.setsockopt(zmq.SUBSCRIBE, b"")
    connection = Mongrel2Connection(*(f"tcp://127.0.0.1:{port}" for port in ports))
    handler = threading.Thread(target=lambda: connection.reply(connection.recv(), b"payload"), daemon=True)
    handler.start()
    deadline = time.monotonic() + 60
    while not (sub.poll(20) or push.poll(20, zmq.POLLOUT)):  # a SUB subscribes while its thread is in one of its calls
        assert time.monotonic() < deadline, "the handler does not connect"
    push.send(b"sender 7 / " + format_netstring(b'{"METHOD":"GET","PATH":"/","VERSION":"HTTP/1.1"}') + b"0:,")
    assert sub.poll(60_000) and sub.recv() == b"sender 1:7, payload"
    handler.join(60)
    connection.close()
    context.destroy(linger=0)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("program.py").write_text(PROGRAM)
        script = str(Path(sys.executable).with_name("brubeck_lite"))
        check_import()
        check_command(script)
        check_command(sys.executable, "-m", "brubeck_lite")
        check_in_process()
        check_wsgi()
        check_served(script)
        check_mongrel2_sockets()
        os.chdir("/")
    print(f"smoke: passed with Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
