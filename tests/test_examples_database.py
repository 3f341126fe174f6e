"""The example database.py with a real PostgreSQL, which starts, ends and comes back."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest
from playwright.sync_api import Page, expect
from servers import Postgres
from support import ROOT, environment, free_port, listens, output, process, wait_for

pytest_plugins = ["browser"]

POOL_SIZE = 4
PROGRAM = "program_database:app"


@contextlib.contextmanager
def serve(postgres: Postgres, *command: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """The command line with the program (or another command, with {port} in it): its port, its process."""
    port = free_port()
    command = command or ("-m", "brubeck_lite", PROGRAM, "--bind", "127.0.0.1:{port}")
    variables = {**environment(), "DATABASE_URL": postgres.url, "POOL_SIZE": str(POOL_SIZE)}
    with process([sys.executable, *(word.replace("{port}", str(port)) for word in command)], env=variables) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what="the server")
        assert child.poll() is None and ask(port)[0] == 200, output(child)  # it listens before the table is there
        yield port, child


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def port(postgres: Postgres) -> Iterator[int]:
    with serve(postgres) as (port, _):
        yield port


@pytest.fixture
def db(postgres: Postgres, port: int) -> Iterator[psycopg.Connection[Any]]:
    """The test's own connection to the database, in which nobody has signed yet."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("DELETE FROM entry")
        yield connection


def ask(port: int, path: str = "/", form: dict[str, str] | None = None, **headers: str) -> tuple[int, str]:
    """The status of an answer and its text; a form is posted."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with contextlib.closing(connection):
        fields = {"Content-Type": "application/x-www-form-urlencoded", **headers} if form is not None else headers
        connection.request("GET" if form is None else "POST", path, form and urlencode(form), fields)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def sign(port: int, name: str, message: str = "I was here") -> int:
    return ask(port, "/", {"name": name, "message": message})[0]


def names(db: psycopg.Connection[Any]) -> list[str]:
    return [name for (name,) in db.execute("SELECT name FROM entry ORDER BY number")]


@contextlib.contextmanager
def waiting(db: psycopg.Connection[Any], port: int, path: str, number: int, seen: int) -> Iterator[list[Future[Any]]]:
    """So many requests, of which `seen` wait in the database until this block ends."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with ThreadPoolExecutor(number) as threads:
        db.execute("SELECT pg_advisory_lock(1)")
        try:
            answers = [threads.submit(ask, port, path) for _ in range(number)]
            wait_for(lambda: db.execute(query).fetchone() == (seen,), what=f"{seen} that wait in the database")
            yield answers
        finally:
            db.execute("SELECT pg_advisory_unlock(1)")


def test_who_signs_is_in_the_book_as_text_whatever_it_is(page: Page, port: int, db: psycopg.Connection[Any]) -> None:
    page.goto(f"http://127.0.0.1:{port}/")
    expect(page.get_by_role("listitem")).to_have_text(["Nobody yet."])
    for name, message in (("Dave", "Take <b>five</b> & 'six'"), ("Paul\0", "näturlich 🎷")):
        page.get_by_label("Name").fill(name)
        page.get_by_label("Message").fill(message)
        page.get_by_role("button", name="Sign").click()
    entries = page.get_by_role("listitem")
    expect(entries.first).to_contain_text("Paul")
    expect(entries.last).to_contain_text("Take <b>five</b> & 'six'")
    assert names(db) == ["Dave", "Paul"]
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_what_cannot_be_is_refused_and_what_was_typed_is_kept(port: int, db: psycopg.Connection[Any]) -> None:
    status, text = ask(port, "/", {"name": "D" * 41, "message": '"><i>'})
    assert status == 400
    assert "A name has 1 to 40 characters" in text
    assert "&quot;&gt;&lt;i&gt;" in text and '"><i>' not in text
    assert names(db) == []


def test_other_sites_sign_nothing(port: int, db: psycopg.Connection[Any]) -> None:
    form = {"name": "Dave", "message": "I was here"}
    assert ask(port, "/", form, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert ask(port, "/", form, **{"Sec-Fetch-Site": "same-origin"})[0] == 303
    assert names(db) == ["Dave"]


def test_an_error_takes_back_what_the_request_has_changed(port: int, db: psycopg.Connection[Any]) -> None:
    assert [sign(port, "Dave") for _ in range(6)] == [303] * 5 + [429]
    assert ask(port, "/sign-and-fail")[0] == 500
    assert names(db) == ["Dave"] * 5


def test_requests_that_wait_in_the_database_hold_up_no_others(port: int, db: psycopg.Connection[Any]) -> None:
    with waiting(db, port, "/wait", POOL_SIZE - 1, seen=POOL_SIZE - 1) as answers:
        assert sign(port, "Dave") == 303
        assert "Dave" in ask(port)[1]
        assert not any(answer.done() for answer in answers)
    assert [answer.result() for answer in answers] == [(200, "waited")] * (POOL_SIZE - 1)


def test_more_requests_than_connections_wait_for_one(port: int, db: psycopg.Connection[Any]) -> None:
    with waiting(db, port, "/wait", 50, seen=POOL_SIZE) as answers:
        assert ask(port, "/static/style.css")[0] == 200  # which needs no database
    assert [answer.result() for answer in answers] == [(200, "waited")] * 50


def test_who_gets_no_connection_in_time_is_told_so(port: int, db: psycopg.Connection[Any]) -> None:
    with waiting(db, port, "/wait", POOL_SIZE, seen=POOL_SIZE):
        status, text = ask(port)
        assert (status, "cannot be reached just now" in text) == (503, True)
    assert ask(port)[0] == 200


def test_a_handler_that_is_ended_while_it_waits_spoils_no_connection(port: int, db: psycopg.Connection[Any]) -> None:
    with waiting(db, port, "/impatient", POOL_SIZE, seen=POOL_SIZE) as answers:
        assert [answer.result()[0] for answer in answers] == [503] * POOL_SIZE
        assert [ask(port)[0] for _ in range(2 * POOL_SIZE)] == [200] * 2 * POOL_SIZE


def test_as_a_program_of_its_own_it_waits_as_well(postgres: Postgres, db: psycopg.Connection[Any]) -> None:
    program = str(ROOT / "examples" / "database.py")
    with serve(postgres, program, "--bind", "127.0.0.1:{port}") as (port, _), ThreadPoolExecutor(1) as threads:
        with db.transaction():
            db.execute("LOCK TABLE entry")
            answer = threads.submit(ask, port)
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            wait_for(lambda: db.execute(waiting).fetchone() == (1,), what="one that waits in the database")
            assert ask(port, "/static/style.css")[0] == 200
            assert not answer.done()
        assert answer.result()[0] == 200


def test_workers_that_start_at_once_make_one_table(postgres: Postgres) -> None:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE fresh")
    url = postgres.url.replace("/postgres", "/fresh")
    start = """
import database
from concurrent.futures import ThreadPoolExecutor
list(ThreadPoolExecutor(8).map(lambda _: database.open_pool(), range(8)))
database.pool.close()
"""
    with process([sys.executable, "-c", start], env={**environment(), "DATABASE_URL": url}) as child:
        assert child.wait(60) == 0, output(child)


def test_without_its_database_it_says_so_in_one_line(postgres: Postgres) -> None:
    url = f"postgresql://tester@127.0.0.1:{free_port()}/postgres"
    command = [sys.executable, "-m", "brubeck_lite", "database:app", "--bind", f"127.0.0.1:{free_port()}", "--quiet"]
    with process(command, env={**environment(), "DATABASE_URL": url}) as child:
        assert child.wait(60) == 2
        line = output(child)
    assert line.startswith("database.py: cannot use the database (DATABASE_URL): connection failed")
    assert line.count("\n") == 1


def test_when_the_database_goes_the_answer_is_503_and_when_it_is_back_all_is_well(
    postgres: Postgres, port: int, db: psycopg.Connection[Any]
) -> None:
    assert sign(port, "Dave") == 303
    statuses = []
    with (  # at its end the lock cannot be given back: no assertion in it would be heard
        contextlib.suppress(psycopg.OperationalError),
        waiting(db, port, "/sign-and-wait", POOL_SIZE, seen=POOL_SIZE) as answers,
    ):
        postgres.stop()
        statuses = [answer.result()[0] for answer in answers]
    assert 503 in statuses and {*statuses} <= {200, 503}  # 200: it got the lock before its own end
    assert ask(port)[0] == 503
    assert ask(port, "/static/style.css")[0] == 200
    postgres.start()
    wait_for(lambda: ask(port)[0] == 200, what="the guest book")
    assert sign(port, "Paul") == 303
    text = ask(port)[1]
    assert "Dave" in text and "Paul" in text and ("nobody" in text) == (200 in statuses)
