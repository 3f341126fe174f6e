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
import threading
import time
from collections.abc import Iterator
from functools import partial

from peer import resident_bytes, run_wrk
from rounds import FOLDERS, HERE, interleave, medians_of, variables, with_each
from support import free_port, listens, output, process, wait_for
from tables import Comparison
from wrk_scripts import script

RATE = "{:,.0f}/s"

GUNICORN = ["gunicorn", "--worker-class", "gevent", "--worker-connections", "3000", "--backlog", "2048",
            "--log-level", "critical", "--bind", "127.0.0.1:{port}"]  # fmt: skip
UVICORN = ["uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "critical",
           "--port", "{port}"]  # fmt: skip
GRANIAN = ["granian", "--interface", "wsgi", "--workers", "1", "--no-ws", "--log-level", "critical",
           "--backlog", "2048", "--port", "{port}"]  # fmt: skip
SERVERS = {
    "ours": ["brubeck_lite", "web_programs:ours", "--quiet", "--bind", "127.0.0.1:{port}"],
    "eventlet.wsgi": ["web_programs.py", "{port}"],
    "Bottle on gunicorn/gevent": [*GUNICORN, "web_programs:bottle"],
    "Flask on gunicorn/gevent": [*GUNICORN, "web_programs:flask"],
    "Starlette on uvicorn": [*UVICORN, "web_programs:starlette"],
    "Falcon on uvicorn": [*UVICORN, "web_programs:falcon_asgi"],
    "Falcon on granian": [*GRANIAN, "web_programs:falcon"],
}
AIMS = {
    "hello": {"eventlet.wsgi": 3.0, "Bottle on gunicorn/gevent": 3.0, "Starlette on uvicorn": 1.0},
    "64 KB JSON": {"Starlette on uvicorn": 1.0},
}
LATENCY = "p99 while one computes 50 ms"
BODY = json.dumps([{"name": "Take Five", "number": number, "time": [5, 4]} for number in range(1260)])
POST = f"""wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [==[{BODY}]==]
"""


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


@contextlib.contextmanager
def running(name: str, command: list[str]) -> Iterator[tuple[int, int]]:
    """A server that this command starts: its port and process id."""
    port = free_port()
    with process([part.format(port=port) for part in command], env=variables(name), cwd=HERE) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what=name)
        assert child.poll() is None, output(child)
        yield port, child.pid


@contextlib.contextmanager
def serving(name: str) -> Iterator[tuple[int, int]]:
    """One of the servers, or ours with the brubeck_lite.py before: its port and process id."""
    command = SERVERS["ours" if name in FOLDERS else name]
    start = [sys.executable] if command[0].endswith(".py") else [sys.executable, "-m"]
    with running(name, [*start, *command]) as (port, pid):
        check(port)
        yield port, pid


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


def measure_server(port: int, short: bool, posting: list[str]) -> dict[str, float]:
    """Rates of one server, and a latency. `posting`: the options that have wrk post JSON."""
    if short:
        return {"hello": wrk(port, "/", 1)[0]}
    measured = {
        "hello": wrk(port, "/", 2)[0],
        "arguments": wrk(port, "/hello/Dave", 2)[0],
        "64 KB JSON": wrk(port, "/json", 2, 32, *posting)[0],
        "1,000 connections": wrk(port, "/", 2, 1000)[0],
    }
    with computing(port):
        return {**measured, LATENCY: wrk(port, "/", 4)[1]}


def raise_open_files() -> None:
    """As many open files as this process and its children may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def compare_servers(table: Comparison, short: bool) -> None:
    """Rates and latencies of all servers, in interleaved rounds."""
    others = ["eventlet.wsgi", "Starlette on uvicorn"] if short else [name for name in SERVERS if name != "ours"]
    raise_open_files()
    with contextlib.ExitStack() as stack:
        posting = stack.enter_context(script(POST))
        ports = {name: stack.enter_context(serving(name))[0] for name in with_each(others)}
        probes = {name: partial(measure_server, port, short, posting) for name, port in ports.items()}
        rounds = interleave(1 if short else 3, probes)
    found = {what: medians_of(what, rounds) for what in rounds["ours"][0]}
    for what, figures in found.items():
        aims = {name: AIMS.get(what, {}).get(name) for name in others}
        if what == LATENCY:
            table.compare(what, figures, "{:.1f} ms", aims)
        else:
            table.compare(f"HTTP, {what}", figures, RATE, aims, above=True)
    if not short:
        figures = {**found["1,000 connections"], "ours at 32": found["hello"]["ours"]}
        table.compare("HTTP, 1,000 connections", figures, RATE, {"ours at 32": 0.8}, above=True)


def connect(port: int) -> socket.socket:
    """A connection that has been served once and is idle now."""
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: benchmark\r\nAccept: */*\r\n\r\n")
    assert client.recv(1000).startswith(b"HTTP/1.1 200 OK")
    return client


def dribble(port: int, slow: list[socket.socket]) -> float:
    """The rate beside connections on which the beginning of a request comes, octet by octet."""
    began, rates = time.monotonic(), []
    for octet in b"GET":
        if time.monotonic() > began + 6:  # on a busy machine: they are to be refused only when they have stopped
            break
        for client in slow:
            client.sendall(bytes([octet]))
        rates.append(wrk(port, "/", 1)[0])
    return statistics.median(rates)


def hold_idle(name: str, count: int, dribbling: int) -> tuple[float, float, float, float]:
    """One server with idle connections: KB for each, its rate beside them, its rate beside those that dribble, and the
    seconds until they are closed."""
    with serving(name) as (port, pid), contextlib.ExitStack() as stack:
        for client in [connect(port) for _ in range(200)]:
            client.close()
        time.sleep(0.5)
        before = resident_bytes(pid)
        idle = [stack.enter_context(connect(port)) for _ in range(count)]
        each = (resident_bytes(pid) - before) / count / 1024
        quiet, began = wrk(port, "/", 2)[0], time.monotonic()
        rate = dribble(port, idle[:dribbling])
        for client in idle[:dribbling]:
            assert client.recv(1000).startswith(b"HTTP/1.1 408 "), "a dribbling client was not refused"
        return each, quiet, rate, time.monotonic() - began


def measure_idle_connections(table: Comparison, short: bool) -> None:
    """The memory of 10,000 idle connections; and 1,000 that dribble beside wrk, until they are closed."""
    count, dribbling = (1_000, 200) if short else (10_000, 1_000)
    raise_open_files()
    found = {name: hold_idle(name, count, dribbling) for name in with_each()}
    each, quiet, rate, gone = ({name: figures[at] for name, figures in found.items()} for at in range(4))
    table.bound(f"{count:,} idle connections", each, "{:.1f} KB each", 14, "14 KB")
    table.compare(f"beside {dribbling:,} that dribble", {**rate, "without": quiet["ours"]}, RATE, {"without": None})
    table.bound("dribbling connections are gone", gone, "{:.1f} s", 10, "deadline 10 s", None)
