#!/usr/bin/env python3
# ruff: noqa: E402
"""Every profile of HttpArena, by examples/arena.py and by entries of the same content for others (arena_programs.py),
one worker each and two each, in interleaved rounds of one run, medians. wrk shares the machine's cores with them.
With --mongrel2: ours behind a real Mongrel2, alone and with two workers, beside a bare loop of pyzmq (bare_loop.py).

    tests/benchmarks/arena.py [--short] [--profiles NAME...] [--workers 1 2 | --mongrel2] [--before FOLDER] [--write]
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import http.client
import json
import os
import re
import select
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parent.parent)]

import arena_data
from bare_servers import PYTHON, install, is_installed
from peer import run_wrk
from rounds import FOLDERS, add_before, interleave, medians, variables, with_each
from servers import Postgres, make_certificate
from support import Mongrel2, free_port, listens, output, process, wait_for
from tables import Table, is_to_be_written
from web import GUNICORN, UVICORN, raise_open_files
from wrk_scripts import PIPELINED, script

FASTPYSGI, BOTTLE, STARLETTE = "fastpysgi", "Bottle on gunicorn", "Starlette on uvicorn"
OURS = [sys.executable, "-m", "brubeck_lite", "arena:app", "--quiet", "--bind", "127.0.0.1:{port}"]
SERVERS = {
    FASTPYSGI: [str(PYTHON), "arena_programs.py", "{port}", "{workers}"],
    BOTTLE: [sys.executable, "-m", *GUNICORN, "--workers", "{workers}", "arena_programs:bottle"],
    STARLETTE: [sys.executable, "-m", *UVICORN, "--workers", "{workers}", "arena_programs:starlette"],
    "Falcon on granian": [sys.executable, "-m", "granian", "--interface", "wsgi", "--workers", "{workers}", "--no-ws",
                          "--log-level", "critical", "--backlog", "2048", "--port", "{port}",
                          "arena_programs:falcon"],
}  # fmt: skip
TLS_OPTIONS = {  # for the files of a certificate and its key; fastpysgi has no TLS
    BOTTLE: ("--certfile", "--keyfile"),
    STARLETTE: ("--ssl-certfile", "--ssl-keyfile"),
    "Falcon on granian": ("--ssl-certificate", "--ssl-keyfile"),
}
ACCEPT = {"Accept-Encoding": "gzip, br"}
OURS_DEALT, BARE_LOOP = "ours, a parent and 2 workers", "bare pyzmq loop"
FILES_ACCEPT = {"Accept-Encoding": "br;q=1, gzip;q=0.8"}


class Profile(NamedTuple):
    """What is asked of a server, and what is aimed at: beside the best of the others, and beside Bottle."""

    lua: str  # for wrk
    connections: int
    best: float | None
    bottle: float | None = None
    checked: tuple[str, ...] = ()  # paths that must answer 200 before it is measured
    needs_websockets: bool = False
    scheme: str = "http"


def requests(*texts: str, before: str = "") -> str:
    """Lua that has wrk send these requests in turn, each a Lua expression."""
    return f"{before}\nlocal turn, texts = 0, {{{', '.join(texts)}}}\nfunction request()\n  turn = turn + 1\n" + (
        "  return texts[turn % #texts + 1]\nend\n"
    )


def text_of(method: str, path: str, body: str = "", **headers: str) -> str:
    """A request as a Lua text."""
    fields = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return json.dumps(f"{method} {path} HTTP/1.1\r\n{head}\r\n{body}")


SUM = "/baseline11?a=13&b=42"
ADDED = (text_of("GET", SUM), text_of("POST", SUM, "20", Content_Length="2"),
         text_of("POST", SUM, "2\r\n20\r\n0\r\n\r\n", Transfer_Encoding="chunked"))  # fmt: skip
# Every tenth request is the last of its connection.
LIMITED = requests(*ADDED).replace(
    "  return texts[turn % #texts + 1]\n",
    "  local text = texts[turn % #texts + 1]\n"
    '  if turn % 10 == 0 then text = text:gsub("\\r\\n", "\\r\\nConnection: close\\r\\n", 1) end\n'
    "  return text\n",
)
COUNTS = ((1, 3), (5, 7), (10, 2), (15, 5), (25, 4), (40, 8), (50, 6))
JSON_TEXTS = [text_of("GET", f"/json/{count}?m={m}") for count, m in COUNTS]
COMPRESSED_TEXTS = [text_of("GET", f"/json/{count}?m={m}", **ACCEPT) for count, m in COUNTS[4:]]
UPLOADS = ", ".join(
    f'"POST /upload HTTP/1.1\\r\\nHost: localhost\\r\\nContent-Length: {size}\\r\\n\\r\\n" .. string.rep("x", {size})'
    for size in (500_000, 2_000_000, 10_000_000, 20_000_000)
)
CRUD = r"""
math.randomseed(os.time())
local made = 100000
local function send(method, path, body)
  return method .. " " .. path .. " HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
    .. #body .. "\r\n\r\n" .. body
end
function request()
  local chance, number = math.random(20), math.random(50000)
  if chance <= 15 then return "GET /crud/items/" .. number .. " HTTP/1.1\r\nHost: localhost\r\n\r\n" end
  if chance <= 18 then
    return send("PUT", "/crud/items/" .. number, '{"name": "Updated", "price": 30, "quantity": 5}')
  end
  if chance == 19 then
    return "GET /crud/items?category=office&page=" .. math.random(10)
      .. "&limit=10 HTTP/1.1\r\nHost: localhost\r\n\r\n"
  end
  made = made + 1
  return send("POST", "/crud/items", '{"id": ' .. made
    .. ', "name": "New Product", "category": "test", "price": 25, "quantity": 10}')
end
"""
PROFILES = {
    "baseline": Profile(requests(*ADDED), 64, 0.8, 5, (SUM,)),
    "limited-conn": Profile(LIMITED, 64, 0.8, 5),
    "pipelined": Profile("wrk.path = '/pipeline'\n" + PIPELINED, 64, 2, 10, ("/pipeline",)),
    "json": Profile(requests(*JSON_TEXTS), 64, 0.9, 3, ("/json/25?m=4",)),
    "json-comp": Profile(requests(*COMPRESSED_TEXTS), 64, 1.0),
    "json-tls": Profile(requests(*JSON_TEXTS), 64, 0.9, 5, ("/json/25?m=4",), scheme="https"),
    "upload": Profile(requests(UPLOADS), 16, 1.0, 1.5),
    "static": Profile(
        requests(*(text_of("GET", f"/static/{name}", **FILES_ACCEPT) for name in arena_data.FILES)), 64, 1.0, 5,
        tuple(f"/static/{name}" for name in arena_data.FILES),
    ),
    "async-db": Profile(
        requests(*(text_of("GET", f"/async-db?min=10&max=50&limit={limit}") for limit in (5, 10, 20, 35, 50))), 64, 1.0,
        1.5, ("/async-db?min=10&max=50&limit=20",),
    ),
    "crud": Profile(CRUD, 64, 1.0, 1.5, ("/crud/items/42", "/crud/items?category=office&page=1&limit=5")),
    "echo-ws": Profile("", 64, 1.0, needs_websockets=True),
}  # fmt: skip


@contextlib.contextmanager
def serving(
    name: str, workers: int, services: dict[str, str], files: tuple[str, ...] = ()
) -> Iterator[tuple[int, int]]:
    """One of the entries: its port, and the id of its process. With the files of a certificate and its key it serves
    HTTPS."""
    port, packages = free_port(), [path for path in sys.path if path.endswith("-packages")]
    command = [part.format(port=port, workers=workers) for part in SERVERS.get(name, OURS)]
    if name in FOLDERS and workers > 1:
        command += ["--workers", str(workers)]
    if files and name in FOLDERS:
        command += ["--tls", *files]
    elif files:
        command += [part for pair in zip(TLS_OPTIONS[name], files, strict=True) for part in pair]
    found = {**variables(name), **services}
    found["PYTHONPATH"] = os.pathsep.join([found["PYTHONPATH"], *packages])  # fastpysgi has an environment of its own
    folder = HERE.parent.parent / "examples" if name in FOLDERS else HERE
    with process(command, env=found, cwd=folder) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what=name)
        assert child.poll() is None, output(child)
        yield port, child.pid


@contextlib.contextmanager
def behind_mongrel2(name: str, workers: int, services: dict[str, str]) -> Iterator[int]:
    """One of the entries behind a Mongrel2 of its own: the port of that."""
    mongrel2 = Mongrel2()
    found = {**variables(name), **services, "UPLOAD_STORE": str(mongrel2.folder / "tmp")}
    command, folder = [*OURS[:-2], "--mongrel2", mongrel2.pull, mongrel2.pub], HERE.parent.parent / "examples"
    command += ["--workers", str(workers)] if workers > 1 else []
    command.remove("--quiet")
    if name == BARE_LOOP:  # which knows nothing of credits
        config = (mongrel2.folder / "mongrel2.conf").read_text()
        mongrel2.configure(config.replace("'download.flow_control': 1, ", ""))
        command, folder = [sys.executable, "bare_loop.py", mongrel2.pull, mongrel2.pub, found["UPLOAD_STORE"]], HERE
    with mongrel2, process(command, env=found, cwd=folder) as child:
        ready = "is ready" if workers > 1 else "connected"
        wait_for(lambda: output(child).count(ready) == workers or child.poll() is not None, what=name)
        assert child.poll() is None, output(child)
        yield mongrel2.port


def check(port: int, profile: Profile) -> None:
    """The pages that this profile asks for are there, and are JSON where they should be."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    if profile.scheme == "https":
        context = ssl._create_unverified_context()
        client = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=context)
    for path in profile.checked:
        client.request("GET", path)
        answer = client.getresponse()
        body = answer.read()
        assert answer.status == 200 and body, (path, answer.status, body[:500])
        if path.startswith(("/json", "/async", "/crud")):
            assert json.loads(body), path
    client.close()


def body_size(port: int) -> float:
    """The bytes of the compressed answers together."""
    client, size = http.client.HTTPConnection("127.0.0.1", port, timeout=60), 0
    for count, m in COUNTS[4:]:
        client.request("GET", f"/json/{count}?m={m}", headers=ACCEPT)
        answer = client.getresponse()
        body = answer.read()
        size += len(body)
        if answer.headers["Content-Encoding"] == "gzip":
            assert json.loads(gzip.decompress(body))["count"] == count
        else:
            assert answer.headers["Content-Encoding"] == "br", answer.headers
    client.close()
    return size


def rate_by_wrk(port: int, seconds: int, profile: Profile, options: list[str]) -> float:
    told = run_wrk(port, "/pipeline", seconds, profile.connections, *options, scheme=profile.scheme)
    found = re.search(r"Requests/sec:\s+([\d.]+)", told)
    assert found, told
    return float(found[1])


def rate_of_echoes(port: int, seconds: int, connections: int) -> float:
    """Texts a second that come back, one in flight on each WebSocket."""
    key = base64.b64encode(bytes(16)).decode()
    asked = (f"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n").encode()  # fmt: skip
    sent, expected, count = b"\x81\x85\0\0\0\0hello", b"\x81\x05hello", 0
    poll, clients = select.epoll(), dict[int, socket.socket]()
    with contextlib.ExitStack() as stack:
        stack.callback(poll.close)
        for _ in range(connections):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(asked)
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(1000)
            assert b" 101 " in head, head
            clients[client.fileno()] = client
            poll.register(client, select.EPOLLIN)
        began = time.perf_counter()
        for client in clients.values():
            client.sendall(sent)
        while time.perf_counter() - began < seconds:
            for descriptor, _ in poll.poll(60):
                client = clients[descriptor]
                got = client.recv(1000)
                assert got == expected, got
                client.sendall(sent)
                count += 1
        return count / (time.perf_counter() - began)


def make_probe(port: int, profile: Profile, seconds: int, options: list[str]) -> Callable[[], float]:
    """What measures the rate of the entry at this port, which is right."""
    check(port, profile)
    if profile.needs_websockets:
        return partial(rate_of_echoes, port, seconds, profile.connections)
    return partial(rate_by_wrk, port, seconds, profile, options)


def measure_rounds(probes: dict[str, Callable[[], float]], short: bool) -> dict[str, float]:
    """The rate of each entry."""
    if not short:  # pools of connections grow, and workers learn, while nobody looks
        interleave(1, probes)
    return medians(interleave(1 if short else 3, probes))


def measure(
    profile_name: str, workers: int, short: bool, services: dict[str, str]
) -> tuple[dict[str, float], dict[str, float]]:
    """The rate of each entry in a profile, and the size of its compressed bodies where that counts."""
    profile, seconds = PROFILES[profile_name], 1 if short else 3
    others = [name for name in SERVERS if name != FASTPYSGI or is_installed("fastpysgi")]
    if profile.needs_websockets:
        others = [STARLETTE]
    if profile.scheme == "https":
        others = [*TLS_OPTIONS]
    probes: dict[str, Callable[[], float]] = {}
    sizes: dict[str, float] = {}
    with contextlib.ExitStack() as stack:
        options, files = stack.enter_context(script(profile.lua)), tuple[str, ...]()
        if profile.scheme == "https":
            files = make_certificate(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        for name in with_each(others):
            port, _ = stack.enter_context(serving(name, workers, services, files))
            probes[name] = make_probe(port, profile, seconds, options)
            if profile_name == "json-comp":
                sizes[name] = body_size(port)
        return measure_rounds(probes, short), sizes


def compare_behind_mongrel2(table: Table, profile_name: str, short: bool, services: dict[str, str]) -> None:
    """A line of the table of rates behind Mongrel2."""
    profile, seconds, probes = PROFILES[profile_name], 1 if short else 3, dict[str, Callable[[], float]]()
    with contextlib.ExitStack() as stack:
        options = stack.enter_context(script(profile.lua))
        for name, workers in (("ours", 1), (OURS_DEALT, 2), (BARE_LOOP, 1)):
            port = stack.enter_context(behind_mongrel2(name, workers, services))
            probes[name] = make_probe(port, profile, seconds, options)
        rates = measure_rounds(probes, short)
    bare = rates[BARE_LOOP]
    ratios = [f"{rates[name] / bare:.2f}" for name in ("ours", OURS_DEALT)]
    table.line(profile_name, *(f"{rate:,.0f}" for rate in rates.values()), *ratios)


def note_memory(table: Table, services: dict[str, str], seconds: int) -> None:
    """A note of how much memory our process takes for each client that uploads."""
    profile = PROFILES["upload"]

    def most(pid: int) -> int:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        assert found
        return int(found[1])

    with script(profile.lua) as options, serving("ours", 1, services) as (port, pid):
        check(port, PROFILES["pipelined"])
        before = most(pid)
        rate_by_wrk(port, seconds, profile, options)
        each = (most(pid) - before) / profile.connections
    table.notes.append(f"upload: the memory of our process grew by {each:,.0f} KB for each of its clients")


def compare(table: Table, profile_name: str, workers: int, rates: dict[str, float], sizes: dict[str, float]) -> None:
    """A line of the table. The score of json-comp is the rate, by the square of the smallest bodies to one's own."""
    profile = PROFILES[profile_name]
    scores = {name: rate * (min(sizes.values()) / sizes[name]) ** 2 if sizes else rate for name, rate in rates.items()}
    best = max((name for name in scores if name not in FOLDERS), key=scores.__getitem__)

    def ratio(name: str, aim: float | None) -> str:
        if name not in scores:
            return ""
        found = scores["ours"] / scores[name]
        told = "" if aim is None or workers > 1 else f" (>= {aim:g}: {'yes' if found >= aim else 'NO'})"
        return f"{found:.2f}{told}"

    each = [f"{scores[name]:,.0f}" if name in scores else "" for name in with_each(SERVERS)]
    table.line(profile_name, str(workers), *each, best, ratio(best, profile.best), ratio(BOTTLE, profile.bottle))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("tests/benchmarks/arena.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--short", action="store_true", help="a second of each, as a test of the benchmark itself")
    parser.add_argument("--write", action="store_true", help="put the table into arena.md beside this program")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="measure the brubeck_lite.py of this folder too")
    parser.add_argument("--profiles", nargs="+", choices=PROFILES, default=[*PROFILES], metavar="NAME")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2], metavar="N")
    parser.add_argument("--mongrel2", action="store_true", help="behind Mongrel2, beside a bare loop of pyzmq")
    return parser.parse_args()


def main() -> None:
    options, write = parse_arguments(), is_to_be_written()
    if options.before:
        add_before(options.before)
    install()
    raise_open_files()
    if options.mongrel2:
        columns = ["ours", OURS_DEALT, BARE_LOOP, "ours : bare loop", "with workers : bare loop"]
    else:
        columns = ["workers", *with_each(SERVERS), "best of the others", "ours : best", "ours : Bottle"]
    table = Table("profile", *columns)
    with contextlib.ExitStack() as stack:
        data = stack.enter_context(tempfile.TemporaryDirectory())
        services = {"DATA": data}
        arena_data.make_files(Path(data))
        if {"async-db", "crud"} & {*options.profiles}:
            services["DATABASE_URL"] = stack.enter_context(Postgres()).url
            arena_data.fill_table(services["DATABASE_URL"])
        for name in options.profiles:
            if options.mongrel2 and PROFILES[name].scheme == "http":
                compare_behind_mongrel2(table, name, options.short, services)
            for workers in [] if options.mongrel2 else options.workers:
                compare(table, name, workers, *measure(name, workers, options.short, services))
        if "upload" in options.profiles and not options.mongrel2:
            note_memory(table, services, 1 if options.short else 3)
    print(*table.notes, sep="\n")
    if write and options.mongrel2:
        table.write("arena-mongrel2", "tests/benchmarks/arena.py --mongrel2 --write", ("psycopg",), HERE / "arena.md")
    elif write:
        others = ("bottle", "falcon", "gevent", "granian", "gunicorn", "psycopg", "starlette", "uvicorn")
        installed = ("fastpysgi",) if is_installed("fastpysgi") else ()
        table.write("arena", "tests/benchmarks/arena.py --write", (*others, *installed), HERE / "arena.md")


if __name__ == "__main__":
    main()
