"""The embedded server beside servers without a framework, whose handlers (bare_programs.py) do nothing but answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

from bare_programs import BODY, LISTS
from bare_servers import PINNED, PYTHON, is_installed
from rounds import FOLDERS, interleave, medians_of, with_each
from tables import Comparison
from web import GRANIAN, RATE, UVICORN, running, serving, wrk
from wrk_scripts import CROWD, PIPELINED, REPEATED, script

PLAIN_UVICORN = [sys.executable, "-m", *UVICORN, "--lifespan", "off"]
FASTPYSGI, BJOERN, GRANIAN_BARE, UVICORN_BARE = "fastpysgi", "bjoern", "granian (WSGI)", "uvicorn (ASGI)"
UVICORN_JSON = "uvicorn (ASGI), json.dumps"
SERVERS = {
    FASTPYSGI: [str(PYTHON), "bare_programs.py", FASTPYSGI, "{port}"],
    BJOERN: [str(PYTHON), "bare_programs.py", BJOERN, "{port}"],
    GRANIAN_BARE: [sys.executable, "-m", *GRANIAN, "bare_programs:wsgi"],
    UVICORN_BARE: [*PLAIN_UVICORN, "bare_programs:asgi"],
    UVICORN_JSON: [*PLAIN_UVICORN, "bare_programs:asgi_json"],
}


class Load(NamedTuple):
    """What wrk asks of a server."""

    server: str
    path: str = "/"
    script: str = ""


def check(port: int, path: str, expected: bytes) -> None:
    """The body of a page is right."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    client.request("GET", path)
    answer = client.getresponse()
    said = answer.read()
    assert (answer.status, said) == (200, expected), (path, answer.status, said)
    client.close()


def expected_body(path: str) -> bytes:
    """What a page says."""
    if path == "/":
        return BODY
    return json.dumps(LISTS[path.rpartition("/")[2]], separators=(",", ":")).encode()


@contextlib.contextmanager
def listening(load: Load) -> Iterator[int]:
    """The port of the server for this load, which is right."""
    started = serving(load.server) if load.server in FOLDERS else running(load.server, SERVERS[load.server])
    with started as (port, _):
        check(port, load.path, expected_body(load.path))
        yield port


def measure_rates(loads: Mapping[str, Load], short: bool) -> dict[str, float]:
    """The rate of each load, the median of interleaved rounds. Servers that are not installed are left out."""
    loads = {name: load for name, load in loads.items() if load.server not in PINNED or is_installed(load.server)}
    seconds = 1 if short else 2
    with contextlib.ExitStack() as stack:
        ports: dict[str, int] = {}
        probes = {}
        for name, load in loads.items():
            if load.server not in ports:
                ports[load.server] = stack.enter_context(listening(load))
            options = stack.enter_context(script(load.script))
            probes[name] = partial(wrk, ports[load.server], load.path, seconds, 32, *options)
        found = interleave(1 if short else 9, probes)
    return medians_of(0, found)


def select(aims: dict[str, float | None], short: bool) -> dict[str, float | None]:
    """The servers that ours is compared with, and the aims: one of them alone where the run is to be short."""
    return {GRANIAN_BARE: aims[GRANIAN_BARE]} if short else aims


def compare_hello(table: Comparison, short: bool) -> None:
    """One small request, repeated."""
    aims = select({FASTPYSGI: 0.65, BJOERN: 0.7, GRANIAN_BARE: 1.3, UVICORN_BARE: 1.35}, short)
    figures = measure_rates({name: Load(name) for name in with_each(aims)}, short)
    table.compare("HTTP, hello, without a framework", figures, RATE, aims, above=True)


def compare_crowd(table: Comparison, short: bool) -> None:
    """A crowd of browsers, beside our own rate for one request repeated, and beside the others' rates for the crowd."""
    aims = select({FASTPYSGI: 0.6, BJOERN: 0.65, GRANIAN_BARE: 1.1, UVICORN_BARE: 1.1}, short)
    loads = {name: Load(name, script=CROWD) for name in with_each(aims)}
    repeated = "ours, one repeated"
    figures = measure_rates({**loads, repeated: Load("ours", script=REPEATED)}, short)
    table.compare("HTTP, a crowd of browsers", figures, RATE, {repeated: 0.85, **aims}, above=True)


def compare_pipelined(table: Comparison, short: bool) -> None:
    """16 requests at once on each connection, whose answers may leave together."""
    aims = select({GRANIAN_BARE: 1.5, UVICORN_BARE: None}, short)
    loads = {name: Load(name, script=PIPELINED) for name in with_each(aims)}
    alone = "ours, not pipelined"
    figures = measure_rates({**loads, alone: Load("ours")}, short)
    table.compare("HTTP, 16 pipelined", figures, RATE, {alone: 2.5, **aims}, above=True)


def compare_json(table: Comparison, short: bool) -> None:
    """A list that a handler returns, written as JSON for each request."""
    for kilobytes in ("64",) if short else LISTS:
        path = f"/list/{kilobytes}"
        figures = measure_rates({name: Load(name, path) for name in with_each([UVICORN_JSON])}, short)
        table.compare(f"HTTP, an answer of {kilobytes} KB JSON", figures, RATE, {UVICORN_JSON: 1.0}, above=True)
