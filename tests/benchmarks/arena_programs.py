"""Entries of the same content as examples/arena.py, made when they are asked for: `arena_programs:bottle`,
`:starlette`, `:falcon`. Run itself, `arena_programs.py PORT WORKERS`, it serves one without a framework with fastpysgi.
What a framework has itself, it uses: for files, for compression (Starlette alone), for WebSockets (Starlette alone)."""

from __future__ import annotations

import gzip
import json
import mimetypes
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

DATA = Path(os.environ.get("DATA", os.curdir))
URL, POOL_SIZE = os.environ.get("DATABASE_URL", ""), int(os.environ.get("POOL_SIZE", "16"))
COLUMNS = "id, name, category, price, quantity, active, tags, rating_score, rating_count"
TEXT, JSON = "text/plain", "application/json"
Query = tuple[str, list[Any]]
Rows = list[tuple[Any, ...]]
Answer = tuple[int, str, dict[str, str]]  # status, JSON, header fields
mimetypes.add_type("font/woff2", ".woff2")
mimetypes.add_type("image/webp", ".webp")


def read_dataset() -> list[dict[str, Any]]:
    return json.loads((DATA / "dataset.json").read_bytes())  # type: ignore[no-any-return]


def dump_totals(dataset: list[dict[str, Any]], count: int, factor: int) -> str:
    """The items with their totals."""
    items = [{**item, "total": item["price"] * item["quantity"] * factor} for item in dataset[:count]]
    return json.dumps({"items": items, "count": len(items)})


# ---- The database: each function says what it asks for, and gets the rows; whoever calls it waits for them in its way

kept: dict[int, tuple[float, str]] = {}  # by number, until when and what of an item is cached


def as_item(row: tuple[Any, ...]) -> dict[str, Any]:
    names = COLUMNS.split(", ")[:7]
    return {**dict(zip(names, row, strict=False)), "rating": {"score": row[7], "count": row[8]}}


def find(low: int, high: int, limit: int) -> Generator[Query, Rows, Answer]:
    rows = yield f"SELECT {COLUMNS} FROM items WHERE price BETWEEN %s AND %s LIMIT %s", [low, high, limit]
    return 200, json.dumps({"items": [*map(as_item, rows)], "count": len(rows)}), {}


def list_items(category: str, page: int, limit: int) -> Generator[Query, Rows, Answer]:
    sql = f"SELECT {COLUMNS} FROM items WHERE category = %s ORDER BY id LIMIT %s OFFSET %s"
    items = [*map(as_item, (yield sql, [category, limit, (page - 1) * limit]))]
    return 200, json.dumps({"items": items, "total": len(items), "page": page, "limit": limit}), {}


def read(number: int) -> Generator[Query, Rows, Answer]:
    until, text = kept.get(number, (0.0, ""))
    if time.monotonic() < until:
        return 200, text, {"X-Cache": "HIT"}
    rows = yield f"SELECT {COLUMNS} FROM items WHERE id = %s", [number]
    if not rows:
        return 404, "{}", {}
    if len(kept) > 10_000:
        kept.clear()
    text = json.dumps(as_item(rows[0]))
    kept[number] = time.monotonic() + 0.2, text
    return 200, text, {"X-Cache": "MISS"}


def create(given: dict[str, Any]) -> Generator[Query, Rows, Answer]:
    names = ("id", "name", "category", "price", "quantity")
    changed = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
    sql = f"INSERT INTO items ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, true, '[]', 0, 0)"
    rows = yield f"{sql} ON CONFLICT (id) DO UPDATE SET {changed} RETURNING {COLUMNS}", [given[name] for name in names]
    kept.pop(given["id"], None)
    return 201, json.dumps(as_item(rows[0])), {}


def update(number: int, given: dict[str, Any]) -> Generator[Query, Rows, Answer]:
    sql = f"UPDATE items SET name = %s, price = %s, quantity = %s WHERE id = %s RETURNING {COLUMNS}"
    rows = yield sql, [given["name"], given["price"], given["quantity"], number]
    kept.pop(number, None)
    return (200, json.dumps(as_item(rows[0])), {}) if rows else (404, "{}", {})


class Database:
    """A pool that is opened when it is first used, in the process that uses it."""

    def __init__(self) -> None:
        self._pool: Any = None

    def answer(self, asked: Generator[Query, Rows, Answer]) -> Answer:
        """What one of the functions above answers, once the database has."""
        if self._pool is None:
            import psycopg_pool

            self._pool = psycopg_pool.ConnectionPool(
                URL, kwargs={"autocommit": True}, min_size=1, max_size=POOL_SIZE, open=True
            )
        try:
            query = next(asked)
            while True:
                with self._pool.connection() as connection:
                    rows = connection.execute(*query).fetchall()
                query = asked.send(rows)
        except StopIteration as answered:
            return answered.value  # type: ignore[no-any-return]


# ---- The entries


def add(query: Any, body: bytes) -> str:
    return str(sum(map(int, query)) + int(body or 0))


def make_bare() -> Any:
    """By WSGI alone."""
    dataset, database = read_dataset(), Database()

    def packed(text: str, environ: dict[str, Any]) -> tuple[bytes, list[tuple[str, str]]]:
        if "gzip" not in environ.get("HTTP_ACCEPT_ENCODING", ""):
            return text.encode(), [("Content-Type", JSON)]
        return gzip.compress(text.encode(), 6), [("Content-Type", JSON), ("Content-Encoding", "gzip")]

    def send_file(name: str, environ: dict[str, Any]) -> tuple[str, bytes, list[tuple[str, str]]]:
        accepted, path = environ.get("HTTP_ACCEPT_ENCODING", ""), DATA / "static" / os.path.basename(name)
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        for suffix, coding in ((".br", "br"), (".gz", "gzip")):
            if coding in accepted and os.path.exists(f"{path}{suffix}"):
                with open(f"{path}{suffix}", "rb") as file:
                    return "200 OK", file.read(), [("Content-Type", kind), ("Content-Encoding", coding)]
        if not os.path.exists(path):
            return "404 Not Found", b"", [("Content-Type", TEXT)]
        with open(path, "rb") as file:
            return "200 OK", file.read(), [("Content-Type", kind)]

    def ask_database(path: str, query: dict[str, str], environ: dict[str, Any]) -> Answer:
        method = environ["REQUEST_METHOD"]
        given = json.loads(environ["wsgi.input"].read()) if method in ("POST", "PUT") else {}
        if path == "/async-db":
            return database.answer(find(int(query["min"]), int(query["max"]), int(query["limit"])))
        if path == "/crud/items" and method == "POST":
            return database.answer(create(given))
        if path == "/crud/items":
            return database.answer(list_items(query["category"], int(query["page"]), int(query["limit"])))
        number = int(path.rpartition("/")[2])
        return database.answer(update(number, given) if method == "PUT" else read(number))

    def app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        path, status, fields = environ["PATH_INFO"], "200 OK", [("Content-Type", TEXT)]
        if path == "/pipeline":
            body = b"ok"
        elif path == "/baseline11":
            numbers = [value for _, value in parse_qsl(environ["QUERY_STRING"])]
            body = add(numbers, environ["wsgi.input"].read() if environ["REQUEST_METHOD"] == "POST" else b"").encode()
        elif path.startswith("/json/"):
            factor = int(dict(parse_qsl(environ["QUERY_STRING"]))["m"])
            body, fields = packed(dump_totals(dataset, int(path[6:]), factor), environ)
        elif path == "/upload":
            size = 0
            while piece := environ["wsgi.input"].read(1 << 16):
                size += len(piece)
            body = str(size).encode()
        elif path.startswith("/static/"):
            status, body, fields = send_file(path[8:], environ)
        else:
            code, text, more = ask_database(path, dict(parse_qsl(environ["QUERY_STRING"])), environ)
            status, body, fields = f"{code} Status", text.encode(), [("Content-Type", JSON), *more.items()]
        start_response(status, [*fields, ("Content-Length", str(len(body)))])
        return [body]

    return app


def make_bottle() -> Any:
    import bottle

    dataset, database, app, request = read_dataset(), Database(), bottle.Bottle(), bottle.request
    bottle.BaseRequest.MEMFILE_MAX = 1 << 20

    def plain(text: str) -> str:
        bottle.response.content_type = TEXT
        return text

    def total(count: int) -> str | bytes:
        bottle.response.content_type = JSON
        text = dump_totals(dataset, count, int(request.query.m))
        if "gzip" not in request.get_header("Accept-Encoding", ""):
            return text
        bottle.response.set_header("Content-Encoding", "gzip")
        return gzip.compress(text.encode(), 6)

    def count() -> str:
        size = 0
        while piece := request.environ["wsgi.input"].read(1 << 16):
            size += len(piece)
        return plain(str(size))

    def answer(asked: Any) -> Any:
        status, text, fields = database.answer(asked)
        return bottle.HTTPResponse(text, status, {"Content-Type": JSON, **fields})

    app.route("/pipeline")(lambda: plain("ok"))
    # Its own `request.body` would decode chunks again, which gunicorn has decoded.
    app.route("/baseline11", ["GET", "POST"])(
        lambda: plain(add(request.query.values(), request.environ["wsgi.input"].read()))
    )
    app.route("/json/<count:int>")(total)
    app.post("/upload")(count)
    app.route("/static/<name>")(lambda name: bottle.static_file(name, DATA / "static"))

    def find_rows() -> Any:
        asked = request.query
        return answer(find(int(asked.min), int(asked.max), int(asked.limit)))

    def list_rows() -> Any:
        asked = request.query
        return answer(list_items(asked.category, int(asked.page), int(asked.limit)))

    app.route("/async-db")(find_rows)
    app.get("/crud/items")(list_rows)
    app.post("/crud/items")(lambda: answer(create(request.json)))
    app.get("/crud/items/<number:int>")(lambda number: answer(read(number)))
    app.put("/crud/items/<number:int>")(lambda number: answer(update(number, request.json)))
    return app


def make_falcon() -> Any:
    import falcon

    dataset, database, app = read_dataset(), Database(), falcon.App()

    def plain(response: Any, text: str) -> None:
        response.content_type, response.text = TEXT, text

    class Pipeline:
        def on_get(self, request: Any, response: Any) -> None:
            plain(response, "ok")

    class Baseline:
        def on_get(self, request: Any, response: Any) -> None:
            plain(response, add(request.params.values(), b""))

        def on_post(self, request: Any, response: Any) -> None:
            plain(response, add(request.params.values(), request.stream.read()))

    class Json:
        def on_get(self, request: Any, response: Any, count: int) -> None:
            response.content_type = JSON
            text = dump_totals(dataset, count, int(request.params["m"]))
            if "gzip" in (request.get_header("Accept-Encoding") or ""):
                response.set_header("Content-Encoding", "gzip")
                response.data = gzip.compress(text.encode(), 6)
            else:
                response.text = text

    class Upload:
        def on_post(self, request: Any, response: Any) -> None:
            size = 0
            while piece := request.stream.read(1 << 16):
                size += len(piece)
            plain(response, str(size))

    def answer(response: Any, asked: Any) -> None:
        status, response.text, fields = database.answer(asked)
        response.status, response.content_type = falcon.code_to_http_status(status), JSON
        response.set_headers(fields)

    class Find:
        def on_get(self, request: Any, response: Any) -> None:
            answer(response, find(*(int(request.params[name]) for name in ("min", "max", "limit"))))

    class Items:
        def on_get(self, request: Any, response: Any) -> None:
            asked = request.params
            answer(response, list_items(asked["category"], int(asked["page"]), int(asked["limit"])))

        def on_post(self, request: Any, response: Any) -> None:
            answer(response, create(request.get_media()))

    class Item:
        def on_get(self, request: Any, response: Any, number: int) -> None:
            answer(response, read(number))

        def on_put(self, request: Any, response: Any, number: int) -> None:
            answer(response, update(number, request.get_media()))

    for rule, resource in (
        ("/pipeline", Pipeline()), ("/baseline11", Baseline()), ("/json/{count:int}", Json()), ("/upload", Upload()),
        ("/async-db", Find()), ("/crud/items", Items()), ("/crud/items/{number:int}", Item()),
    ):  # fmt: skip
        app.add_route(rule, resource)
    app.add_static_route("/static", str(DATA.resolve() / "static"))
    return app


def make_starlette() -> Any:
    import contextlib

    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.middleware.gzip import GZipMiddleware
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.staticfiles import StaticFiles

    dataset, pools = read_dataset(), list[Any]()

    async def answer(asked: Generator[Query, Rows, Answer]) -> Any:
        try:
            query = next(asked)
            while True:
                async with pools[0].connection() as connection:
                    rows = await (await connection.execute(*query)).fetchall()
                query = asked.send(rows)
        except StopIteration as answered:
            status, text, fields = answered.value
            return Response(text, status, fields, JSON)

    async def pipeline(request: Any) -> Any:
        return PlainTextResponse("ok")

    async def baseline(request: Any) -> Any:
        return PlainTextResponse(add(request.query_params.values(), await request.body()))

    async def total(request: Any) -> Any:
        factor = int(request.query_params["m"])
        return Response(dump_totals(dataset, request.path_params["count"], factor), media_type=JSON)

    async def upload(request: Any) -> Any:
        size = 0
        async for piece in request.stream():
            size += len(piece)
        return PlainTextResponse(str(size))

    async def find_rows(request: Any) -> Any:
        return await answer(find(*(int(request.query_params[name]) for name in ("min", "max", "limit"))))

    async def items(request: Any) -> Any:
        if request.method == "POST":
            return await answer(create(await request.json()))
        asked = request.query_params
        return await answer(list_items(asked["category"], int(asked["page"]), int(asked["limit"])))

    async def item(request: Any) -> Any:
        number = request.path_params["number"]
        return await answer(update(number, await request.json()) if request.method == "PUT" else read(number))

    async def echo(ws: Any) -> None:
        await ws.accept()
        async for message in ws.iter_text():
            await ws.send_text(message)

    @contextlib.asynccontextmanager
    async def lifespan(app: Any) -> Any:
        if URL:
            import psycopg_pool

            kwargs = {"autocommit": True}
            pools.append(psycopg_pool.AsyncConnectionPool(URL, kwargs=kwargs, max_size=POOL_SIZE, open=False))
            await pools[0].open()
        yield

    routes = [
        Route("/pipeline", pipeline), Route("/baseline11", baseline, methods=["GET", "POST"]),
        Route("/json/{count:int}", total), Route("/upload", upload, methods=["POST"]), Route("/async-db", find_rows),
        Route("/crud/items", items, methods=["GET", "POST"]),
        Route("/crud/items/{number:int}", item, methods=["GET", "PUT"]),
        WebSocketRoute("/ws", echo), Mount("/static", StaticFiles(directory=DATA / "static")),
    ]  # fmt: skip
    middleware = [Middleware(GZipMiddleware, minimum_size=500, compresslevel=6)]
    return Starlette(routes=routes, middleware=middleware, lifespan=lifespan)


def __getattr__(name: str) -> Any:
    makers = {"bare": make_bare, "bottle": make_bottle, "falcon": make_falcon, "starlette": make_starlette}
    if name not in makers:
        raise AttributeError(name)
    return makers[name]()


if __name__ == "__main__":
    import fastpysgi

    fastpysgi.server.max_content_length = 64 << 20
    fastpysgi.run(make_bare(), "127.0.0.1", int(sys.argv[1]), loglevel=0, workers=int(sys.argv[2]))
