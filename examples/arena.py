"""An entry for HttpArena (https://github.com/MDA2AV/HttpArena), a public benchmark: numbers, JSON, files, uploads, a
database with a cache in front of it, WebSockets.

    pip install brotli redis 'psycopg[binary,pool]'
    python ../tests/arena_data.py data postgresql:///arena
    DATA=data DATABASE_URL=postgresql:///arena brubeck_lite arena:app --workers auto
    python arena.py

DATA is the folder of the files. REDIS_URL=redis://localhost:6379 is a cache for all workers; without it each has its
own. While the database is away, what is looked for is empty, and items are a 503, as they are without that Redis.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from brubeck_lite import Brubeck, Request, Response, WebSocket, abort, compress, main

if __name__ == "__main__":
    # psycopg keeps what it finds when it is imported: the command line has eventlet replace that before.
    main(["arena:app", *sys.argv[1:]])
    sys.exit()

import psycopg
import psycopg_pool
from psycopg import waiting

waiting.wait = waiting.wait_selector  # in Python, so that other requests are served meanwhile: see database.py

DATA = Path(os.environ.get("DATA", Path(__file__).parent))
ITEM = "/crud/items/<int(max=2147483647):number>"
COLUMNS = "id, name, category, price, quantity, active, tags, rating_score, rating_count"
SECONDS = 0.2  # that an item is cached

app = Brubeck(upload_store=os.environ.get("UPLOAD_STORE"))
app.wrap(compress(types=["application/json"]))
app.static("/static", DATA / "static")  # made by tests/arena_data.py, as is dataset.json


@app.route("/baseline11", ["GET", "POST"])
def add(request: Request) -> Response:
    try:
        text = str(sum(map(int, [*request.query.values(), request.body or 0])))
    except ValueError:
        abort(400, "the query and the body are integers")
    return Response(text, content_type="text/plain")


@app.get("/pipeline")
def be_short(request: Request) -> Response:
    return Response(b"ok", content_type="text/plain")


@app.post("/upload", max_body=64 << 20)
def count(request: Request) -> Response:
    size = 0
    while piece := request.stream.read1(1 << 16):  # what has come, at the most so much
        size += len(piece)
    return Response(str(size), content_type="text/plain")


@app.websocket("/ws")
def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


# ---- JSON

dataset: list[dict[str, Any]] = []


@app.on_start
def read_dataset() -> None:
    dataset[:] = json.loads((DATA / "dataset.json").read_bytes())


@app.get("/json/<int:count>")
def total(request: Request, count: int) -> dict[str, Any]:
    factor = request.get_argument("m", 1, int)
    if abs(factor) >= 1 << 63:
        abort(400, "m is an integer of 64 bits")
    items = [{**item, "total": item["price"] * item["quantity"] * factor} for item in dataset[:count]]
    return {"items": items, "count": len(items)}


# ---- The database, and the cache in front of it

pool = psycopg_pool.ConnectionPool(
    os.environ.get("DATABASE_URL", ""),
    kwargs={"connect_timeout": 5, "autocommit": True},
    min_size=1,
    max_size=int(os.environ.get("POOL_SIZE", "16")),  # connections of this process
    timeout=3,
    open=False,
)
if "DATABASE_URL" in os.environ:
    app.on_start(pool.open)
    app.on_stop(pool.close)


@app.error(psycopg.OperationalError)
def wait(request: Request, error: Exception) -> tuple[dict[str, str], int, dict[str, str]]:
    return {"error": "the database cannot be reached just now"}, 503, {"Retry-After": "1"}


class Memory:
    """What is used of Redis, in this process."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[float, str]] = {}

    def get(self, key: str) -> str | None:
        until, text = self.kept.get(key, (0.0, ""))
        return text if time.monotonic() < until else None

    def set(self, key: str, text: str, px: int) -> None:
        if len(self.kept) > 10_000:
            self.kept.clear()
        self.kept[key] = time.monotonic() + px / 1000, text

    def delete(self, key: str) -> None:
        self.kept.pop(key, None)


cache: Any = Memory()
if "REDIS_URL" in os.environ:
    import redis

    cache = redis.Redis.from_url(os.environ["REDIS_URL"])
    app.error(redis.RedisError)(wait)


def query(sql: Any, values: Sequence[Any]) -> list[dict[str, Any]]:
    """The items that a statement finds or returns."""
    with pool.connection() as connection:
        rows = connection.execute(sql, values).fetchall()
    names = COLUMNS.split(", ")[:7]
    return [{**dict(zip(names, row, strict=False)), "rating": {"score": row[7], "count": row[8]}} for row in rows]


def fields(request: Request, **types: type) -> list[Any]:
    """These fields of the JSON that was sent. PostgreSQL would make 2 of 1.5, and a text of a list."""
    given = request.json
    if not isinstance(given, dict) or any(type(given.get(name)) is not kind for name, kind in types.items()):
        abort(400, f"an item has {', '.join(f'{name} ({kind.__name__})' for name, kind in types.items())}")
    return [given[name] for name in types]


@app.get("/async-db")
def find(request: Request) -> dict[str, Any]:
    low, high = request.get_argument("min", 10, int), request.get_argument("max", 50, int)
    limit = min(max(request.get_argument("limit", 50, int), 1), 50)
    try:
        items = query(f"SELECT {COLUMNS} FROM items WHERE price BETWEEN %s AND %s LIMIT %s", [low, high, limit])
    except psycopg.OperationalError:
        items = []
    return {"items": items, "count": len(items)}


@app.get("/crud/items")
def list_items(request: Request) -> dict[str, Any]:
    category, page = request.get_argument("category", "electronics"), max(request.get_argument("page", 1, int), 1)
    limit = min(max(request.get_argument("limit", 10, int), 1), 50)
    sql = f"SELECT {COLUMNS} FROM items WHERE category = %s ORDER BY id LIMIT %s OFFSET %s"
    items = query(sql, [category, limit, (page - 1) * limit])
    return {"items": items, "total": len(items), "page": page, "limit": limit}


@app.get(ITEM)
def read(request: Request, number: int) -> Response:
    key, told = f"item:{number}", "HIT"
    text = cache.get(key)
    if text is None:
        told, found = "MISS", query(f"SELECT {COLUMNS} FROM items WHERE id = %s", [number])
        text = json.dumps(found[0] if found else abort(404))
        cache.set(key, text, px=int(SECONDS * 1000))
    return Response(text, headers={"X-Cache": told}, content_type="application/json")


@app.post("/crud/items")
def create(request: Request) -> tuple[dict[str, Any], int]:
    values = fields(request, id=int, name=str, category=str, price=int, quantity=int)
    (item,) = query(
        f"INSERT INTO items ({COLUMNS}) VALUES (%s, %s, %s, %s, %s, true, '[]', 0, 0) ON CONFLICT (id) DO UPDATE SET"
        " name = excluded.name, category = excluded.category, price = excluded.price, quantity = excluded.quantity"
        f" RETURNING {COLUMNS}",
        values,
    )
    cache.delete(f"item:{item['id']}")
    return item, 201


@app.put(ITEM)
def update(request: Request, number: int) -> dict[str, Any]:
    values = [*fields(request, name=str, price=int, quantity=int), number]
    sql = f"UPDATE items SET name = %s, price = %s, quantity = %s WHERE id = %s RETURNING {COLUMNS}"
    found = query(sql, values)
    cache.delete(f"item:{number}")
    return found[0] if found else abort(404)


@app.error(psycopg.DataError)  # an integer of more than 32 bits, NUL in a text
def refuse(request: Request, error: psycopg.Error) -> tuple[dict[str, str], int]:
    return {"error": "no column takes such a value"}, 400
