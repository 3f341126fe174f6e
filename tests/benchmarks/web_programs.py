"""One program for each framework, made when it is asked for, so that a server imports only the one that it serves:
`web_programs:ours`, `:bottle`, `:flask`, `:falcon`, `:falcon_asgi`, `:starlette`. Run itself, it serves ours with
eventlet.wsgi on the port that is named. The first three serve the files of the folder FILES below `/files/`."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from bare_programs import LISTS

FILES = os.environ.get("FILES", os.curdir)


def compute() -> str:
    """50 milliseconds of work."""
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end:
        pass
    return "computed"


def make_ours() -> Any:
    from brubeck_lite import Brubeck

    app = Brubeck()
    app.route("/")(lambda request: "Take five!")
    app.route("/hello/<name>")(lambda request, name: f"Take five, {name}!")
    app.post("/json")(lambda request: {"count": len(request.json)})
    app.route("/compute")(lambda request: compute())
    app.route("/list/<kilobytes>")(lambda request, kilobytes: LISTS[kilobytes])
    app.static("/files", FILES)
    return app


def make_bottle() -> Any:
    import bottle

    app = bottle.Bottle()
    app.route("/")(lambda: "Take five!")
    app.route("/hello/<name>")(lambda name: f"Take five, {name}!")
    app.post("/json")(lambda: {"count": len(bottle.request.json)})
    app.route("/compute")(compute)
    app.route("/files/<name>")(lambda name: bottle.static_file(name, FILES))
    return app


def make_flask() -> Any:
    import flask

    app = flask.Flask("benchmark")
    app.add_url_rule("/", "index", lambda: "Take five!")
    app.add_url_rule("/hello/<name>", "hello", lambda name: f"Take five, {name}!")
    app.add_url_rule("/json", "json", lambda: {"count": len(flask.request.json or ())}, methods=["POST"])
    app.add_url_rule("/compute", "compute", compute)
    app.add_url_rule("/files/<name>", "files", lambda name: flask.send_from_directory(FILES, name))
    return app


def make_falcon(asgi: bool = False) -> Any:
    import falcon
    import falcon.asgi

    def answer(response: Any, text: str) -> None:
        response.content_type, response.text = falcon.MEDIA_HTML, text

    class Index:
        def on_get(self, request: Any, response: Any) -> None:
            answer(response, "Take five!")

    class Hello:
        def on_get(self, request: Any, response: Any, name: str) -> None:
            answer(response, f"Take five, {name}!")

    class Json:
        def on_post(self, request: Any, response: Any) -> None:
            response.media = {"count": len(request.get_media())}

    class Compute:
        def on_get(self, request: Any, response: Any) -> None:
            answer(response, compute())

    class Awaited:
        """The same for ASGI."""

        def __init__(self, resource: Any) -> None:
            self.resource = resource

        async def on_get(self, request: Any, response: Any, **arguments: str) -> None:
            self.resource.on_get(request, response, **arguments)

        async def on_post(self, request: Any, response: Any) -> None:
            response.media = {"count": len(await request.get_media())}

    app = falcon.asgi.App() if asgi else falcon.App()
    for rule, resource in (("/", Index()), ("/hello/{name}", Hello()), ("/json", Json()), ("/compute", Compute())):
        app.add_route(rule, Awaited(resource) if asgi else resource)
    return app


def make_starlette() -> Any:
    from starlette.applications import Starlette
    from starlette.responses import HTMLResponse, JSONResponse
    from starlette.routing import Route

    async def index(request: Any) -> Any:
        return HTMLResponse("Take five!")

    async def hello(request: Any) -> Any:
        return HTMLResponse(f"Take five, {request.path_params['name']}!")

    async def json(request: Any) -> Any:
        return JSONResponse({"count": len(await request.json())})

    async def computed(request: Any) -> Any:
        return HTMLResponse(compute())

    routes = [Route("/", index), Route("/hello/{name}", hello), Route("/compute", computed)]
    return Starlette(routes=[*routes, Route("/json", json, methods=["POST"])])


def __getattr__(name: str) -> Any:
    makers = {
        "ours": make_ours, "bottle": make_bottle, "flask": make_flask, "falcon": make_falcon,
        "falcon_asgi": lambda: make_falcon(asgi=True), "starlette": make_starlette,
    }  # fmt: skip
    if name not in makers:
        raise AttributeError(name)
    return makers[name]()


if __name__ == "__main__":
    import eventlet
    import eventlet.wsgi

    eventlet.monkey_patch()
    listener = eventlet.listen(("127.0.0.1", int(sys.argv[1])), backlog=2048)
    eventlet.wsgi.server(listener, make_ours(), log_output=False, max_size=10_000)
