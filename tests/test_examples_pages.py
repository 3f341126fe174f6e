"""The examples login.py, todo.py and regex.py: their pages in Chromium, served by the command line; what needs no
browser by the test client."""

from __future__ import annotations

import re
import sys
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from support import ROOT, Mongrel2, behind_http, behind_mongrel2, example, free_port, listens, output, process, wait_for

from brubeck_lite import Client

pytest_plugins = ["browser"]

JSON = {"Content-Type": "application/json"}

def fits(page: Page) -> bool:
    """Whether the page is styled, and needs no scrolling to the side on a phone."""
    page.set_viewport_size({"width": 390, "height": 800})
    styled = page.evaluate("document.styleSheets.length == 1 && document.styleSheets[0].cssRules.length > 20")
    return bool(styled and page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


# ---- login.py


@pytest.fixture(scope="module")
def club() -> Iterator[int]:
    """The port of login.py."""
    with behind_http("login:app") as (_, port):
        yield port


@pytest.fixture
def guest() -> Client:
    """A client of a login.py that has no members; it says nothing of where it comes from."""
    return example("login").app.test()  # type: ignore[no-any-return]


def fill(page: Page, name: str, password: str) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("main").get_by_role("button").click()


def register(page: Page, port: int, name: str) -> None:
    page.goto(f"http://127.0.0.1:{port}/register")
    fill(page, name, "take five")
    expect(page).to_have_url(f"http://127.0.0.1:{port}/members")


def test_login_a_guest_who_registers_is_a_member(page: Page, club: int) -> None:
    page.goto(f"http://127.0.0.1:{club}/")
    page.get_by_role("link", name="Register").click()
    fill(page, "Dave", "take five")
    expect(page).to_have_url(f"http://127.0.0.1:{club}/members")
    expect(page.get_by_role("listitem").filter(has_text="Dave")).to_be_visible()


def test_login_a_member_comes_to_the_page_that_asked_for_signing_in(page: Page, club: int) -> None:
    register(page, club, "Paul")
    page.context.clear_cookies()
    page.goto(f"http://127.0.0.1:{club}/members?after=9&hall=a%2Fb")
    expect(page).to_have_url(re.compile(r"/login\?next="))
    fill(page, "Paul", "take five")
    expect(page).to_have_url(f"http://127.0.0.1:{club}/members?after=9&hall=a%2Fb")
    expect(page.get_by_role("heading")).to_have_text("Members")


def test_login_a_guest_who_registers_first_comes_there_too(page: Page, club: int) -> None:
    page.goto(f"http://127.0.0.1:{club}/members?after=9")
    page.get_by_role("main").get_by_role("link", name="register").click()
    fill(page, "Joe", "take five")
    expect(page).to_have_url(f"http://127.0.0.1:{club}/members?after=9")


def test_login_who_logs_out_is_a_guest_again(page: Page, club: int) -> None:
    register(page, club, "Eugene")
    page.get_by_role("button", name="Log out").click()
    expect(page).to_have_url(f"http://127.0.0.1:{club}/")
    page.goto(f"http://127.0.0.1:{club}/members")
    expect(page.get_by_role("heading")).to_have_text("Sign in")


def test_login_a_wrong_password_is_said_and_the_name_kept(page: Page, club: int) -> None:
    register(page, club, "Norman")
    page.context.clear_cookies()
    page.goto(f"http://127.0.0.1:{club}/login?next=/members?after=1")
    fill(page, "Norman", "take four")
    expect(page.get_by_text("The name or the password is wrong.")).to_be_visible()
    expect(page.get_by_label("Name")).to_have_value("Norman")
    page.get_by_label("Password").fill("take five")
    page.get_by_label("Password").press("Enter")
    expect(page).to_have_url(f"http://127.0.0.1:{club}/members?after=1")


def test_login_a_name_is_shown_as_text_whatever_it_is(page: Page, club: int) -> None:
    name = "<i onmouseover='x'>\"Bob\" & {0}</i>"
    register(page, club, name)
    expect(page.get_by_role("listitem").filter(has_text=name)).to_be_visible()
    page.goto(f"http://127.0.0.1:{club}/")
    expect(page.get_by_text(f"Good to see you, {name}!")).to_be_visible()
    page.goto(f"http://127.0.0.1:{club}/login")
    fill(page, name, "wrong")
    expect(page.get_by_label("Name")).to_have_value(name)


def test_login_a_page_of_another_site_cannot_log_a_member_out(page: Page, club: int, list_of_todos: int) -> None:
    register(page, club, "Gerry")
    page.goto(f"http://localhost:{list_of_todos}/")
    page.evaluate(
        """address => {
            const form = Object.assign(document.createElement("form"), {method: "post", action: address});
            document.body.append(form);
            form.submit();
        }""",
        f"http://127.0.0.1:{club}/logout",
    )
    expect(page.get_by_text("403 Forbidden")).to_be_visible()
    page.goto(f"http://127.0.0.1:{club}/members")
    expect(page.get_by_role("heading")).to_have_text("Members")


def test_login_its_pages_fit_a_phone(page: Page, club: int) -> None:
    register(page, club, "Gil" + "l" * 37)
    assert fits(page)
    page.goto(f"http://127.0.0.1:{club}/register")
    assert fits(page)


@pytest.mark.parametrize("target", ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:x()"])
def test_login_goes_on_to_no_other_site(guest: Client, target: str) -> None:
    answer = guest.post("/register", query={"next": target}, data={"name": "Dave", "password": "take five"})
    assert (answer.status, answer.headers["location"]) == (303, "/members")


@pytest.mark.parametrize(
    ("name", "password"), [("", "take five"), (" ", "take five"), ("n" * 41, "take five"), ("Ron", "1234567")]
)
def test_login_a_name_has_1_to_40_characters_and_a_password_8(guest: Client, name: str, password: str) -> None:
    answer = guest.post("/register", data={"name": name, "password": password})
    assert answer.status == 400
    assert "1 to 40 characters" in answer.text


def test_login_of_two_who_want_one_name_at_once_one_has_it(guest: Client) -> None:
    forms = [{"name": "Lee", "password": password} for password in ("first password", "second password")]
    with ThreadPoolExecutor(2) as pool:
        statuses = [*pool.map(lambda form: guest.app.test().post("/register", data=form).status, forms)]
    assert sorted(statuses) == [303, 409]
    answers = [guest.app.test().post("/login", data=form).status for form in forms]
    assert answers == [303 if status == 303 else 403 for status in statuses]


def test_login_a_browser_that_says_no_origin_needs_the_token(guest: Client) -> None:
    token = re.search(r'name="csrf_token" value="([^"]+)"', guest.get("/register").text)
    assert token is not None
    form = {"name": "Alan", "password": "take five"}
    assert guest.post("/register", data=form).status == 403
    assert "Alan" in guest.post("/register", data={**form, "csrf_token": token[1]}, follow=True).text


def test_login_with_a_secret_sessions_outlive_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    def greeting_after_restart() -> str:
        client = example("login").app.test()
        assert client.post("/register", data={"name": "Dan", "password": "take five"}).status == 303
        client.app = example("login").app
        return str(client.get("/").text)

    monkeypatch.delenv("SECRET", raising=False)
    assert "only members know" in greeting_after_restart()
    monkeypatch.setenv("SECRET", "e1f7d5a6c3b2a190")
    assert "Good to see you, Dan!" in greeting_after_restart()


def test_login_works_behind_mongrel2(page: Page) -> None:
    with Mongrel2() as mongrel2, behind_mongrel2("login:app", mongrel2):
        page.goto(f"http://127.0.0.1:{mongrel2.port}/members")
        page.get_by_role("main").get_by_role("link", name="register").click()
        fill(page, "Dave", "take five")
        expect(page.get_by_role("listitem")).to_have_text("Dave")
        assert fits(page)
        page.get_by_role("button", name="Log out").click()
        expect(page.get_by_text("only members know")).to_be_visible()
        page.get_by_role("link", name="Sign in").click()
        fill(page, "Dave", "take five")
        expect(page.get_by_role("heading")).to_have_text("Members")


# ---- todo.py


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The database of every todo.py of this module."""
    path = tmp_path_factory.mktemp("todo") / "todo.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE", str(path))
        yield path


@pytest.fixture(scope="module")
def list_of_todos(database: Path) -> Iterator[int]:
    """The port of todo.py."""
    with behind_http("todo:app") as (_, port):
        yield port


@pytest.fixture
def todos(database: Path) -> Client:
    """A client of todo.py, whose list is empty."""
    client: Client = example("todo").app.test()
    for todo in client.get("/todos").json:
        client.delete(f"/todos/{todo['number']}")
    return client


def add(page: Page, title: str) -> None:
    page.get_by_label("What is to be done").fill(title)
    page.get_by_role("button", name="Add").click()


def test_todo_what_was_added_is_listed_and_still_there_on_the_next_visit(
    page: Page, list_of_todos: int, todos: Client
) -> None:
    page.goto(f"http://127.0.0.1:{list_of_todos}/")
    expect(page.get_by_role("status")).to_have_text("Nothing to do. Take five!")
    add(page, "Listen to Time Out")
    expect(page.get_by_label("What is to be done")).to_have_value("")
    add(page, "Count to nine")
    for _ in ("now", "on the next visit"):
        expect(page.get_by_role("listitem")).to_have_text([re.compile("^Listen to Time"), re.compile("^Count to nine")])
        expect(page.get_by_role("status")).to_have_text("2 of 2 left to do")
        page.reload()


def test_todo_what_was_ticked_is_done(page: Page, list_of_todos: int, todos: Client) -> None:
    page.goto(f"http://127.0.0.1:{list_of_todos}/")
    add(page, "Rehearse")
    page.get_by_role("checkbox", name="Rehearse").check()
    expect(page.get_by_role("status")).to_have_text("0 of 1 left to do")
    page.reload()
    expect(page.get_by_role("checkbox", name="Rehearse")).to_be_checked()
    assert todos.get("/todos").json[0]["done"] is True


def test_todo_what_was_removed_is_gone(page: Page, list_of_todos: int, todos: Client) -> None:
    page.goto(f"http://127.0.0.1:{list_of_todos}/")
    add(page, "Rehearse")
    page.get_by_role("button", name="Remove Rehearse").click()
    expect(page.get_by_role("status")).to_have_text("Nothing to do. Take five!")
    assert todos.get("/todos").json == []


def test_todo_a_title_is_shown_as_text_whatever_it_is(page: Page, list_of_todos: int, todos: Client) -> None:
    page.goto(f"http://127.0.0.1:{list_of_todos}/")
    add(page, "<img src=x onerror=alert(1)>")
    expect(page.get_by_text("<img src=x onerror=alert(1)>")).to_be_visible()
    assert page.locator("img").count() == 0


def test_todo_a_refusal_is_shown_and_what_was_typed_is_kept(page: Page, list_of_todos: int, todos: Client) -> None:
    page.goto(f"http://127.0.0.1:{list_of_todos}/")
    add(page, "   ")
    expect(page.get_by_role("alert")).to_have_text("a title is a text of 1 to 200 characters")
    expect(page.get_by_label("What is to be done")).to_have_value("   ")
    add(page, "Rehearse")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_todo_its_page_fits_a_phone(page: Page, list_of_todos: int, todos: Client) -> None:
    todos.post("/todos", json={"title": "Supercalifragilistic" * 10})
    page.goto(f"http://127.0.0.1:{list_of_todos}/")
    expect(page.get_by_role("listitem")).to_be_visible()
    assert fits(page)


def test_todo_the_answer_to_an_addition_says_where_it_is(todos: Client) -> None:
    answer = todos.post("/todos", json={"title": " Rehearse "})
    assert (answer.status, answer.json["title"], answer.json["done"]) == (201, "Rehearse", False)
    assert todos.get(answer.headers["location"]).json == answer.json


def test_todo_a_patch_changes_what_it_names(todos: Client) -> None:
    added = todos.post("/todos", json={"title": "Rehearse"}).json
    path = f"/todos/{added['number']}"
    assert todos.patch(path, json={"done": True}).json == {**added, "done": True}
    assert todos.patch(path, json={"title": "Play"}).json == {**added, "title": "Play", "done": True}


def test_todo_what_was_deleted_is_not_found(todos: Client) -> None:
    path = f"/todos/{todos.post('/todos', json={'title': 'Rehearse'}).json['number']}"
    assert [todos.request(method, path).status for method in ("DELETE", "GET", "DELETE")] == [204, 404, 404]
    assert todos.patch(path, json={"done": True}).status == 404
    assert todos.get("/todos/99999999999999999999").status == 404


@pytest.mark.parametrize(
    "value",
    ["{", [], "5", {}, {"title": 5}, {"title": None}, {"title": " "}, {"title": "x" * 201}, {"title": "x", "done": 1}],
    ids=str,
)
def test_todo_what_is_no_todo_is_refused_in_json(todos: Client, value: Any) -> None:
    answer = todos.post("/todos", JSON, data=value) if value == "{" else todos.post("/todos", json=value)
    assert (answer.status, answer.json["status"]) == (400, 400)
    assert answer.json["error"]
    assert todos.get("/todos").json == []


def test_todo_half_of_a_character_is_refused(todos: Client) -> None:
    answer = todos.post("/todos", JSON, data='{"title": "\\ud83d"}')
    assert (answer.status, answer.json["status"]) == (400, 400)
    assert todos.get("/todos").json == []


def test_todo_a_form_of_another_site_is_no_json(todos: Client) -> None:
    assert todos.post("/todos", {"Content-Type": "text/plain"}, data='{"title": "x"}').status == 415


def test_todo_the_list_outlives_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE", str(tmp_path / "todo.sqlite"))
    added = example("todo").app.test().post("/todos", json={"title": "Rehearse"}).json
    assert example("todo").app.test().get("/todos").json == [added]


# ---- regex.py


def test_regex_a_tune_from_the_form_is_in_the_table(page: Page) -> None:
    with behind_http("regex:app") as (_, port):
        page.goto(f"http://127.0.0.1:{port}/")
        page.get_by_label("Tune").fill("<b>World's Fair</b>")
        page.get_by_label("Time").fill("13/4")
        page.get_by_role("button", name="Add").click()
        expect(page.get_by_role("row").last).to_have_text("<b>World's Fair</b>13/4")
        assert fits(page)


def test_regex_the_classes_answer_their_methods() -> None:
    tunes = example("regex").app.test()
    answer = tunes.get("/tunes/1")
    assert (answer.status, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.json == {"title": "Take Five", "time": "5/4"}
    assert tunes.delete("/tunes/1").status == 204
    assert tunes.get("/tunes/1").status == 404
    answer = tunes.put("/tunes/1")
    assert (answer.status, answer.headers["allow"]) == (405, "DELETE, GET, HEAD, OPTIONS")
    assert len(tunes.get("/tunes.json").json["tunes"]) == 2
    assert tunes.post("/tunes", data={"title": "", "time": "5/4"}).status == 400
    assert tunes.get("/static/../regex.py").status == 404


def test_regex_run_serves_the_connection_of_the_configuration(tmp_path: Path) -> None:
    port = free_port()
    program = (ROOT / "examples" / "regex.py").read_text().replace('"127.0.0.1:6767"', f'"127.0.0.1:{port}"')
    (tmp_path / "regex.py").write_text(program)
    with process([sys.executable, str(tmp_path / "regex.py")]) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what="the server")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            assert b"Take Five" in answer.read(), output(child)
