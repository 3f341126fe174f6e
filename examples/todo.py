"""A list of things to do: a REST API in JSON, a page that uses it, SQLite behind both.

python todo.py                      (http://127.0.0.1:6767)
DATABASE=/var/lib/todo.sqlite brubeck_lite todo:app --bind 0.0.0.0:8000

curl -H 'Content-Type: application/json' -d '{"title": "Listen to Time Out"}' http://127.0.0.1:6767/todos
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from brubeck_lite import Brubeck, HTTPError, Request, Response, abort, static_file

DATABASE = os.environ.get("DATABASE", "todo.sqlite")
STATIC = Path(__file__).parent / "static"
ONE = "/todos/<int(max=1000000000):number>"

app = Brubeck()
app.static("/static", STATIC)


@contextlib.contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """The database, for one request; what changed is kept if the block ends without an error."""
    with contextlib.closing(sqlite3.connect(DATABASE)) as connection, connection:
        connection.row_factory = sqlite3.Row
        yield connection


@app.on_start
def create_table() -> None:
    with database() as db:
        db.execute("CREATE TABLE IF NOT EXISTS todo (number INTEGER PRIMARY KEY, title TEXT, done INTEGER)")


def find(db: sqlite3.Connection, number: int) -> dict[str, Any]:
    """One thing to do, as it goes into JSON; 404 where there is none."""
    row = db.execute("SELECT * FROM todo WHERE number = ?", [number]).fetchone()
    return {**row, "done": bool(row["done"])} if row else abort(404, f"there is no number {number}")


def given_values(request: Request, title: Any = None, done: Any = False) -> list[Any]:
    """Title and done, as the JSON has them or else as they were; 400 for what they cannot be."""
    given = request.json if isinstance(request.json, dict) else {}
    title, done = given.get("title", title), given.get("done", done)
    if not isinstance(title, str) or not 1 <= len(title.strip()) <= 200:
        abort(400, "a title is a text of 1 to 200 characters")
    if not isinstance(done, bool):
        abort(400, "done is true or false")
    return [title.strip(), done]


@app.get("/todos")
def list_todos(request: Request) -> list[dict[str, Any]]:
    with database() as db:
        return [find(db, row["number"]) for row in db.execute("SELECT number FROM todo ORDER BY number")]


@app.post("/todos")
def add_todo(request: Request) -> tuple[dict[str, Any], int, dict[str, str]]:
    with database() as db:
        added = db.execute("INSERT INTO todo (title, done) VALUES (?, ?)", given_values(request))
        number = added.lastrowid or 0
        return find(db, number), 201, {"Location": request.url_for("show_todo", number=number)}


@app.get(ONE)
def show_todo(request: Request, number: int) -> dict[str, Any]:
    with database() as db:
        return find(db, number)


@app.patch(ONE)
def change_todo(request: Request, number: int) -> dict[str, Any]:
    with database() as db:
        before = find(db, number)
        values = given_values(request, before["title"], before["done"])
        db.execute("UPDATE todo SET title = ?, done = ? WHERE number = ?", [*values, number])
        return find(db, number)


@app.delete(ONE)
def remove_todo(request: Request, number: int) -> tuple[None, int]:
    with database() as db:
        find(db, number)
        db.execute("DELETE FROM todo WHERE number = ?", [number])
        return None, 204


@app.error(HTTPError)
def explain(request: Request, error: HTTPError) -> dict[str, Any]:
    return {"status": error.status, "error": error.message}


@app.get("/")
def index(request: Request) -> Response:
    return static_file(request, "todo.html", STATIC)


if __name__ == "__main__":
    app.run()
