"""The embedded server beside others, each one process, asked by wrk, which shares the machine's cores with them."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import resource
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from peer import resident_bytes, run_wrk
from support import environment, free_port, listens, output, process, wait_for

Row = Callable[..., None]

GUNICORN = ["gunicorn", "--worker-class", "gevent", "--worker-connections", "3000", "--backlog", "2048",
            "--log-level", "critical", "--bind", "127.0.0.1:{port}"]  # fmt: skip
UVICORN = ["uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "critical",
           "--port", "{port}"]  # fmt: skip
GRANIAN = ["granian", "--interface", "wsgi", "--workers", "1", "--no-ws", "--log-level", "critical",
           "--backlog", "2048", "--port", "{port}"]  # fmt: skip
SERVERS = {
    "ours": ["brubeck_lite", "web_programs:ours", "--quiet", "--bind", "127.0.0.1:{port}"],
    "eventlet.wsgi": [str(Path(__file__).with_name("web_programs.py")), "{port}"],
    "Bottle on gunicorn/gevent": [*GUNICORN, "web_programs:bottle"],
    "Flask on gunicorn/gevent": [*GUNICORN, "web_programs:flask"],
    "Starlette on uvicorn": [*UVICORN, "web_programs:starlette"],
    "Falcon on uvicorn": [*UVICORN, "web_programs:falcon_asgi"],
    "Falcon on granian": [*GRANIAN, "web_programs:falcon"],
}
AIMS = {"eventlet.wsgi": 3.0, "Bottle on gunicorn/gevent": 3.0, "Starlette on uvicorn": 1.0}
BODY = json.dumps([{"name": "Take Five", "number": number, "time": [5, 4]} for number in range(1260)])
POST = f"""wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{BODY}]==]
"""


@contextlib.contextmanager
def serving(command: list[str]) -> Iterator[tuple[int, int]]:
    """One of the servers: its port and process id."""
    port = free_port()
    start = [sys.executable] if command[0].endswith(".py") else [sys.executable, "-m"]
    variables = environment(measured=False)
    variables["PYTHONPATH"] += f":{Path(__file__).parent}"
    with process([*start, *(part.format(port=port) for part in command)], env=variables) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what=command[0])
        assert child.poll() is None, output(child)
        check(port)
        yield port, child.pid


def check(port: int) -> None:
    """Every page of a server is right before it is measured."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for method, path, body, expected in (
        ("GET", "/", None, b"Take five!"), ("GET", "/hello/Dave", None, b"Take five, Dave!"),
        ("GET", "/compute", None, b"computed"), ("POST", "/json", BODY, b'{"count":1260}'),
    ):  # fmt: skip
        client.request(method, path, body, {"Content-Type": "application/json"} if body else {})
        answer = client.getresponse()
        said = answer.read().replace(b'": ', b'":').strip()
        assert (answer.status, said) == (200, expected), (path, answer.status, said)
    client.close()


def wrk(port: int, path: str, seconds: int, connections: int = 32, *options: str) -> tuple[float, float]:
    """Requests a second, and the latency in milliseconds that 99% stay below."""
    told = run_wrk(port, path, seconds, connections, "--latency", *options)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", told)
    late = re.search(r"99%\s+([\d.]+)(us|ms|s)", told)
    assert rate and late, told
    return float(rate[1]), float(late[1]) * {"us": 0.001, "ms": 1, "s": 1000}[late[2]]


@contextlib.contextmanager
def computing(port: int) -> Iterator[None]:
    """Meanwhile a handler computes for 50 ms, twice a second."""
    over = threading.Event()

    def ask() -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not over.wait(0.45):
            client.request("GET", "/compute")
            client.getresponse().read()
        client.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def compare_servers(row: Row, short: bool) -> None:
    """Rates and latencies of all servers, in interleaved rounds."""
    names = ["ours", "eventlet.wsgi", "Starlette on uvicorn"] if short else list(SERVERS)
    found: dict[tuple[str, str], list[float]] = {}
    seconds = 1 if short else 2
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with contextlib.ExitStack() as stack, tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(POST)
        script.flush()
        ports = {name: stack.enter_context(serving(SERVERS[name]))[0] for name in names}
        for _ in range(1 if short else 3):
            for name, port in ports.items():
                measured = {"hello": wrk(port, "/", seconds)[0]}
                if not short:
                    measured["arguments"] = wrk(port, "/hello/Dave", seconds)[0]
                    measured["64 KB JSON"] = wrk(port, "/json", seconds, 32, "-s", script.name)[0]
                    measured["1,000 connections"] = wrk(port, "/", seconds, 1000)[0]
                    with computing(port):
                        measured["p99"] = wrk(port, "/", 2 * seconds)[1]
                for what, value in measured.items():
                    found.setdefault((name, what), []).append(value)
    medians = {key: statistics.median(values) for key, values in found.items()}
    for what in dict.fromkeys(what for _, what in medians):
        ours = medians["ours", what]
        for name in names[1:]:
            other = medians[name, what]
            if what == "p99":
                row("p99 while one computes 50 ms", f"{ours:.1f} ms", f"{name} {other:.1f} ms", ours / other, None)
            else:
                aim = AIMS.get(name) if what == "hello" else None
                row(f"HTTP, {what}", f"{ours:,.0f}/s", f"{name} {other:,.0f}/s", ours / other, aim, above=True)
    if not short:
        many, few = medians["ours", "1,000 connections"], medians["ours", "hello"]
        row("HTTP, 1,000 connections", f"{many:,.0f}/s", f"ours at 32 {few:,.0f}/s", many / few, 0.8, above=True)


def connect(port: int) -> socket.socket:
    """A connection that has been served once and is idle now."""
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: benchmark\r\nAccept: */*\r\n\r\n")
    assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
    return client


def measure_idle_connections(row: Row, short: bool) -> None:
    """The memory of 10,000 idle connections; and 1,000 that dribble beside wrk, until they are closed."""
    count, dribbling = (1_000, 200) if short else (10_000, 1_000)
    with serving(SERVERS["ours"]) as (port, pid), contextlib.ExitStack() as stack:
        for client in [connect(port) for _ in range(200)]:
            client.close()
        time.sleep(0.5)
        before = resident_bytes(pid)
        idle = [stack.enter_context(connect(port)) for _ in range(count)]
        each = (resident_bytes(pid) - before) / count / 1024
        row(f"{count:,} idle connections", f"{each:.1f} KB each", "14 KB", each / 14, 1.0)
        quiet = wrk(port, "/", 2)[0]
        slow, began = idle[:dribbling], time.monotonic()
        rates = []
        for octet in b"GET":
            if time.monotonic() > began + 6:  # on a busy machine: they are to be refused only when they have stopped
                break
            for client in slow:
                client.sendall(bytes([octet]))
            rates.append(wrk(port, "/", 1)[0])
        rate = statistics.median(rates)
        row(f"beside {dribbling:,} that dribble", f"{rate:,.0f}/s", f"without {quiet:,.0f}/s", rate / quiet, None)
        for client in slow:
            assert client.recv(1000).startswith(b"HTTP/1.1 408 "), "a dribbling client was not refused"
        gone = time.monotonic() - began
        row("dribbling connections are gone", f"{gone:.1f} s", "deadline 10 s", gone / 10, None)
