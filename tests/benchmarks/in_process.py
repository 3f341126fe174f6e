"""What is measured in this process, without a server: routes beside three frameworks, the parser, and the import."""

from __future__ import annotations

import io
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from types import ModuleType
from typing import Any

import bottle
import falcon
import flask
from rounds import FOLDERS, interleave, load, medians, with_each
from tables import Comparison
from werkzeug.routing import Map, Rule
from wrk_scripts import browser_head

WSGI = Callable[..., Any]
US = "{:.2f} us"
OTHERS = [f"/other{number}/<name>" for number in range(40)]


def make_ours(brubeck_lite: ModuleType) -> Any:
    """`/` and `/hello/<name>` among 40 other routes, by brubeck_lite."""
    app = brubeck_lite.Brubeck()
    app.route("/")(lambda request: "Take five!")
    app.route("/hello/<name>")(lambda request, name: f"Take five, {name}!")
    for rule in OTHERS:
        app.route(rule)(lambda request, name: name)
    return app


def make_falcon() -> WSGI:
    """The same by Falcon."""

    class Index:
        def on_get(self, request: Any, response: Any) -> None:
            response.text = "Take five!"

    class Hello:
        def on_get(self, request: Any, response: Any, name: str) -> None:
            response.text = f"Take five, {name}!"

    app = falcon.App(media_type=falcon.MEDIA_HTML)
    app.add_route("/", Index())
    app.add_route("/hello/{name}", Hello())
    for rule in OTHERS:
        app.add_route(rule.replace("<", "{").replace(">", "}"), Hello())
    return app


def make_bottle() -> Any:
    """The same by Bottle."""
    app = bottle.Bottle()
    app.route("/")(lambda: "Take five!")
    app.route("/hello/<name>")(lambda name: f"Take five, {name}!")
    for rule in OTHERS:
        app.route(rule)(lambda name: name)
    return app


def make_flask() -> WSGI:
    """The same by Flask."""
    app = flask.Flask("benchmark")
    app.add_url_rule("/", "index", lambda: "Take five!")
    app.add_url_rule("/hello/<name>", "hello", lambda name: f"Take five, {name}!")
    for rule in OTHERS:
        app.add_url_rule(rule, rule, lambda name: name)
    return app


def environ(path: str) -> dict[str, Any]:
    """What a WSGI server gives for a browser's GET."""
    return {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "", "PATH_INFO": path, "QUERY_STRING": "", "SERVER_NAME": "localhost",
        "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "REMOTE_ADDR": "127.0.0.1", "HTTP_HOST": "localhost",
        "HTTP_USER_AGENT": "benchmark", "HTTP_ACCEPT": "*/*", "wsgi.version": (1, 0), "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "wsgi.multithread": False, "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }  # fmt: skip


def microseconds(app: WSGI, paths: Iterator[str], count: int) -> float:
    """The CPU time of one request, from environ to bytes."""
    statuses: list[str] = []
    path = next(paths)
    said = b"".join(app(environ(path), lambda status, headers, exc_info=None: statuses.append(status))).decode()
    assert statuses == ["200 OK"] and said == f"Take five{path.replace('/hello/', ', ').rstrip('/')}!", (statuses, said)
    environs = [environ(next(paths)) for _ in range(count)]
    began = time.thread_time()
    for one in environs:
        b"".join(app(one, lambda status, headers, exc_info=None: None))
    return (time.thread_time() - began) / count * 1e6


def fresh_names(name: str) -> Iterator[str]:
    """Paths that were never seen before."""
    number = 0
    while True:
        number += 1
        yield f"/hello/{name}{number}"


def same(path: str) -> Iterator[str]:
    """One path again and again."""
    while True:
        yield path


def match_alone(paths: Iterator[str], count: int) -> float:
    """The CPU time that werkzeug takes to match one path against the same routes, which is a part of ours."""
    adapter = Map([Rule(rule) for rule in ("/", "/hello/<name>", *OTHERS)]).bind("localhost")
    asked = [next(paths) for _ in range(count)]
    began = time.thread_time()
    for path in asked:
        adapter.match(path)
    return (time.thread_time() - began) / count * 1e6


def compare_routes(table: Comparison, short: bool) -> None:
    """A static path, a repeated one with an argument, and paths never seen before, beside three frameworks."""
    rounds, count = (5, 500) if short else (25, 2000)
    apps = {name: make_ours(load(name)) for name in with_each()}
    apps |= {"Falcon": make_falcon(), "Bottle": make_bottle(), "Flask": make_flask()}
    aims: dict[str, float | None] = {"Falcon": 0.5, "Bottle": 0.2, "Flask": None}
    for what, path in (("static path", "/"), ("repeated path", "/hello/Dave")):
        found = interleave(rounds, {name: partial(microseconds, app, same(path), count) for name, app in apps.items()})
        table.compare(what, medians(found), US, aims)
    fresh = fresh_names("x")
    probes = {name: partial(microseconds, app, fresh, count) for name, app in apps.items()}
    figures = medians(interleave(rounds, {**probes, "match": partial(match_alone, fresh, count)}))
    table.compare("unseen paths", figures, US, {"Falcon": None, "Bottle": 1.0, "Flask": None})
    table.notes.append(
        f"Unseen paths have no aim beside Falcon: of our {figures['ours']:.2f} us, werkzeug takes "
        f"{figures['match']:.2f} to match the path, and Falcon takes {figures['Falcon']:.2f} for the whole request."
    )


def parse(brubeck_lite: ModuleType, visitors: Iterator[int | None], count: int) -> float:
    """The CPU time to parse one head of a browser, from bytes to the request."""
    parser, heads = brubeck_lite.HTTPParser(), [browser_head(next(visitors)) for _ in range(count)]
    began = time.thread_time()
    for head in heads:
        parser.feed(head)
        parser.next_request()
    seconds = time.thread_time() - began
    parser.feed(browser_head(0))
    assert parser.next_request().headers["Cookie"].endswith("rT3mB0"), "a cookie is wrong"
    return seconds / count * 1e6


def compare_parsing(table: Comparison, short: bool) -> None:
    """Heads with another cookie each, beside one without a cookie that is repeated."""
    rounds, count = (5, 500) if short else (25, 2000)
    numbers = itertools.count(10**9)
    probes = {name: partial(parse, load(name), numbers, count) for name in with_each()}
    probes["repeated"] = partial(parse, load("ours"), itertools.repeat(None), count)
    figures = medians(interleave(rounds, probes))
    table.bound("parsing the head of a browser in a crowd", figures, US, 3, "3 us")
    table.compare("parsing the head of a browser in a crowd", figures, US, {"repeated": None})


def import_alone(name: str, folder: str, compiled: str) -> float:
    """The milliseconds that a fresh interpreter takes to import a module that was compiled before."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": compiled}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    program = f"import time; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
    command = [sys.executable, "-c", program]
    told = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return float(told.stdout) * 1000


def compare_imports(table: Comparison, short: bool) -> None:
    """The import of ours, beside that of what takes most of it."""
    with tempfile.TemporaryDirectory() as compiled:
        probes = {name: partial(import_alone, "brubeck_lite", str(FOLDERS[name]), compiled) for name in with_each()}
        probes["werkzeug.routing"] = partial(import_alone, "werkzeug.routing", str(FOLDERS["ours"]), compiled)
        interleave(1, probes)  # which compiles them
        figures = medians(interleave(5 if short else 25, probes))
    table.compare("import", figures, "{:.0f} ms", {"werkzeug.routing": 1.4})
