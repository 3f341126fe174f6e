"""A guest book in PostgreSQL: a pool of connections, and a transaction for each request.

    pip install 'psycopg[binary,pool]'
    createdb guestbook
    brubeck_lite database:app           (http://127.0.0.1:6767)
    DATABASE_URL=postgresql://user:password@host/name SECRET=... brubeck_lite database:app --bind 0.0.0.0:8000
    python database.py

A handler asks `database(request)` for a connection, and just waits for its answers: others are served meanwhile. What
a request changed is kept if its answer is a success or a redirect, and taken back if it is an error. While the database
is away the answer is 503; when it is back, so are we. SECRET signs the cookies; without it, each run makes up its own.
"""

import contextlib
import os
import secrets
import sys
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

from brubeck_lite import Brubeck, HTTPError, Request, Response, abort, csrf, csrf_token, main, redirect

if __name__ == "__main__":
    # psycopg keeps what it finds when it is imported: the command line has eventlet replace that before.
    main(["database:app", *sys.argv[1:]])
    sys.exit()

import psycopg
import psycopg_pool
from psycopg import waiting
from psycopg.pq import TransactionStatus

# psycopg waits for the database in C, where eventlet cannot see it: a query would hold up all other requests. This one
# of its functions waits in Python, by what eventlet has replaced. (psycopg does so by itself for gevent only.)
waiting.wait = waiting.wait_selector

Connection = psycopg.Connection[tuple[Any, ...]]

DATABASE_URL = os.environ.get("DATABASE_URL", "postgresql:///guestbook")
SHOWN = 50  # entries on the page
PER_MINUTE = 5  # entries of one name

app = Brubeck(secret=os.environ.get("SECRET") or secrets.token_hex(32))
app.static("/static", Path(__file__).parent / "static")
app.wrap(csrf())  # outside of the transaction: what other sites' pages send needs none


# ---- The database

pool = psycopg_pool.ConnectionPool[Connection](
    DATABASE_URL,
    kwargs={"connect_timeout": 5},
    min_size=1,
    max_size=int(os.environ.get("POOL_SIZE", "10")),  # connections of this process: PostgreSQL takes 100 from all
    timeout=3,  # seconds that a request waits for one, before the answer is 503
    max_waiting=1000,  # requests that wait so
    reconnect_timeout=2,  # seconds of trying in the background: those who wait have it tried again
    check=psycopg_pool.ConnectionPool.check_connection,  # before a request has it: the database may have restarted
    open=False,
)


@app.on_start
def open_pool() -> None:
    """Create the table, or say why not; then have the pool open its connections."""
    try:
        with psycopg.connect(DATABASE_URL, connect_timeout=5) as connection:
            # IF NOT EXISTS fails when two do it at once, as several workers would: one after the other, then.
            connection.execute("SELECT pg_advisory_xact_lock(6767)")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS entry (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
                " name text NOT NULL, message text NOT NULL, written timestamptz NOT NULL DEFAULT now())"
            )
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        print(f"database.py: cannot use the database (DATABASE_URL): {reason}", file=sys.stderr)
        raise SystemExit(2) from None
    pool.open()


app.on_stop(pool.close)


def finish(connection: Connection, is_good: bool) -> None:
    """Keep what a request has changed, or take it back."""
    if is_good:
        connection.commit()
    elif connection.info.transaction_status in (TransactionStatus.ACTIVE, TransactionStatus.UNKNOWN):
        connection.close()  # the handler was ended while it waited, or the database has gone: the pool makes another
    else:
        connection.rollback()


@app.wrap
def in_transaction(respond: Callable[[Request], Response]) -> Callable[[Request], Response]:
    """Give each request a transaction, from its first query on: one that asks for nothing takes no connection."""

    def answer(request: Request) -> Response:
        with contextlib.ExitStack() as stack:  # it leaves what was entered: the connection goes back to the pool
            request.state.stack, request.state.connection = stack, None
            response = respond(request)
            connection: Connection | None = request.state.connection
            if connection is not None:
                finish(connection, is_good=response.status < 400)  # what fails here is answered as in a handler
            return response

    return answer


def database(request: Request) -> Connection:
    """The connection of this request, in its transaction. (Not for streams: they are sent when it is over.)"""
    if request.state.connection is None:
        request.state.connection = request.state.stack.enter_context(pool.connection())
    connection: Connection = request.state.connection
    return connection


# ---- The pages

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Guest book</title>
<link rel="stylesheet" href="/static/style.css">
<header class="top"><a class="brand" href="/">Guest book</a></header>
<main>{content}</main>
</html>
"""
FORM = """<form class="card" method="post"><h1>Were you here?</h1>{note}
<input type="hidden" name="csrf_token" value="{token}">
<label>Name <input name="name" value="{name}" maxlength="40" required></label>
<label>Message <textarea name="message" maxlength="1000" required>{message}</textarea></label>
<button>Sign</button></form>"""
CARD = '<section class="card"><p>{text}</p></section>'
ENTRY = """<li><span class="grow"><strong>{name}</strong> <span class="muted">{written:%d %B %Y, %H:%M}</span><br>
{message}</span></li>"""


def page(content: str) -> str:
    """A whole page around this content, which is HTML."""
    return PAGE.format(content=content)


def book(request: Request, note: str = "") -> str:
    """The form, as it was sent if it was, and the newest entries."""
    query = "SELECT name, message, written FROM entry ORDER BY number DESC LIMIT %s"
    entries = "".join(
        ENTRY.format(name=escape(name), message=escape(message), written=written)
        for name, message, written in database(request).execute(query, [SHOWN])
    )
    name, message = (escape(request.form.get(field, "")) for field in ("name", "message"))
    note = f'<p class="message error" role="alert">{escape(note)}</p>' if note else ""
    form = FORM.format(note=note, token=csrf_token(request), name=name, message=message)
    return page(f'{form}<section class="card"><ul class="list">{entries or "<li>Nobody yet.</li>"}</ul></section>')


@app.get("/")
def index(request: Request) -> str:
    return book(request)


@app.post("/")
def sign(request: Request) -> Response | tuple[str, int]:
    # PostgreSQL's texts hold any character but NUL.
    name, message = (request.form.get(field, "").replace("\0", "").strip() for field in ("name", "message"))
    if not 1 <= len(name) <= 40 or not 1 <= len(message) <= 1000:
        return book(request, "A name has 1 to 40 characters, a message 1 to 1,000."), 400
    db = database(request)
    db.execute("INSERT INTO entry (name, message) VALUES (%s, %s)", [name, message])
    counted = db.execute(
        "SELECT count(*) FROM entry WHERE name = %s AND written > now() - interval '1 minute'", [name]
    ).fetchone()
    if counted and counted[0] > PER_MINUTE:
        abort(429, f"{name} has signed {PER_MINUTE} times in this minute")  # an error: the entry is taken back
    return redirect("/")


@app.error(HTTPError)
def explain(request: Request, error: HTTPError) -> str:
    return page(CARD.format(text=escape(error.message)))


@app.error(psycopg.OperationalError)  # of which the pool's are: no connection in time, too many that wait
def unavailable(request: Request, error: psycopg.OperationalError) -> tuple[str, int, dict[str, str]]:
    return page(CARD.format(text="The guest book cannot be reached just now.")), 503, {"Retry-After": "5"}
