"""The example conduit.py: the API of RealWorld, over HTTP by two workers that share a database; a short story by other
doors; and how it starts."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from support import (
    ROOT,
    Mongrel2,
    behind_mongrel2,
    behind_wsgi,
    environment,
    example,
    free_port,
    listens,
    output,
    process,
    wait_for,
)

from brubeck_lite import Request, abort

SECRET = "a secret of the tests that has 32 characters and more"
PASSWORD = "take five!"
NAMES = ("dave", "paul", "eugene", "joe")
numbers = count()


class Api:
    """The API at a port: `ask` gives the status and the JSON of an answer. `tokens` are those of four users."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.tokens: dict[str, str] = {}

    def send(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, Any, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, f"/api{path}", body, headers)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def ask(self, method: str, path: str, body: Any = None, user: str = "", token: str = "") -> tuple[int, Any]:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if user or token:
            headers["Authorization"] = f"Token {token or self.tokens[user]}"
        octets = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else None
        status, _, answer = self.send(method, path, octets, headers)
        return status, json.loads(answer) if answer else None

    def get(self, path: str, user: str = "") -> Any:
        status, answer = self.ask("GET", path, user=user)
        assert status == 200, answer
        return answer

    def join(self, name: str) -> str:
        sent = {"username": name, "email": f"{name}@example.org", "password": PASSWORD}
        status, answer = self.ask("POST", "/users", {"user": sent})
        assert status == 201, answer
        return str(answer["user"]["token"])

    def write(self, user: str, title: str = "", **more: Any) -> Any:
        title = title or f"Take {next(numbers)}"
        sent = {"title": title, "description": "A tune", "body": "In five four", **more}
        status, answer = self.ask("POST", "/articles", {"article": sent}, user)
        assert status == 201, answer
        return answer["article"]


@contextlib.contextmanager
def settings(folder: Path) -> Iterator[None]:
    """The environment of the example and of its children, with a database in this folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECRET", SECRET)
        patch.setenv("DATABASE", str(folder / "conduit.sqlite"))
        yield


@contextlib.contextmanager
def serve(*command: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    port = free_port()
    with process([sys.executable, *command, "--bind", f"127.0.0.1:{port}"], cwd=ROOT / "examples") as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what="the server")
        yield port, child


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("conduit")
    with settings(folder):
        yield folder


@pytest.fixture(scope="module")
def api(folder: Path) -> Iterator[Api]:
    """Served by two workers. Whatever the tests sent, no handler may have failed."""
    with serve("-m", "brubeck_lite", "conduit:app", "--workers", "2") as (port, child):
        api = Api(port)
        with ThreadPoolExecutor(2) as pool:
            api.tokens = dict(zip(NAMES, pool.map(api.join, NAMES), strict=True))
        yield api
        assert "Traceback" not in output(child), output(child)


def make_token(secret: str = SECRET, **claims: Any) -> str:
    return jwt.encode({"sub": "1", "exp": int(time.time()) + 3600, **claims}, secret, "HS256")


def slugs(found: Any) -> list[str]:
    return [article["slug"] for article in found["articles"]]


# ---- Users


def test_who_registers_is_a_user_with_a_token(api: Api) -> None:
    token = api.join("Gerry")
    status, answer = api.ask("GET", "/user", token=token)
    user = answer["user"]
    assert status == 200 and api.ask("GET", "/user", token=user.pop("token"))[0] == 200
    assert user == {"email": "Gerry@example.org", "username": "Gerry", "bio": None, "image": None}


def test_who_logs_in_has_the_same_user_and_a_token(api: Api) -> None:
    status, answer = api.ask("POST", "/users/login", {"user": {"email": "DAVE@example.org", "password": PASSWORD}})
    assert (status, answer["user"]["username"]) == (200, "dave")
    assert api.ask("GET", "/user", token=answer["user"]["token"])[1]["user"]["username"] == "dave"


@pytest.mark.parametrize(
    ("email", "password"), [("dave@example.org", "wrong"), ("nobody@example.org", PASSWORD), ("' OR 1=1 --", "' OR 1")]
)
def test_nobody_logs_in_with_what_is_wrong(api: Api, email: str, password: str) -> None:
    asked = api.ask("POST", "/users/login", {"user": {"email": email, "password": password}})
    assert asked == (401, {"errors": {"credentials": ["invalid"]}})


@pytest.mark.parametrize(
    ("field", "value"),
    [("username", "dave"), ("username", "DAVE"), ("email", "dave@example.org"), ("email", "Dave@Example.org")],
)
def test_a_name_and_an_address_are_those_of_one_user(api: Api, field: str, value: str) -> None:
    sent = {"username": "other", "email": "other@example.org", "password": PASSWORD, field: value}
    expected = (409, {"errors": {field: ["has already been taken"]}})
    assert api.ask("POST", "/users", {"user": sent}) == expected
    assert api.ask("PUT", "/user", {"user": {field: value}}, "paul") == expected


@pytest.mark.parametrize("change", [False, True])
@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("username", "", "can't be blank"), ("username", None, "can't be blank"), ("username", "a/b", "is invalid"),
        ("username", "..", "is invalid"), ("username", "a" * 51, "must have 1 to 50 characters"),
        ("username", ["dave"], "is invalid"), ("username", "a\nb", "is invalid"), ("username", 5, "is invalid"),
        ("email", "", "can't be blank"), ("email", "nobody", "is invalid"), ("email", {"a": 1}, "is invalid"),
        ("password", "", "can't be blank"), ("password", "7 chars", "must have 8 to 1000 characters"),
        ("password", " " * 9, "can't be blank"), ("password", True, "is invalid"),
        ("password", "x" * 1001, "must have 8 to 1000 characters"),
    ],
)  # fmt: skip
def test_what_a_user_cannot_be_is_refused_with_the_field(
    api: Api, field: str, value: Any, why: str, change: bool
) -> None:
    sent = {"username": "new", "email": "new@example.org", "password": PASSWORD}
    asked = ("PUT", "/user", {"user": {field: value}}, "dave") if change else (
        "POST", "/users", {"user": {**sent, field: value}})  # fmt: skip
    assert api.ask(*asked) == (422, {"errors": {field: [why]}})


def test_all_that_is_wrong_is_named_at_once(api: Api) -> None:
    status, answer = api.ask("POST", "/users", {"user": {"email": "nobody"}})
    assert status == 422
    assert answer["errors"] == {"username": ["can't be blank"], "email": ["is invalid"], "password": ["can't be blank"]}


def test_a_user_changes_what_is_named_and_nothing_else(api: Api) -> None:
    before = api.get("/user", "joe")["user"]
    for change, seen in [
        ({"bio": "drums"}, {"bio": "drums"}), ({"image": "https://example.org/joe.png"}, {"bio": "drums"}),
        ({"bio": ""}, {"bio": None}), ({"bio": "x"}, {"bio": "x"}), ({"bio": None, "image": ""}, {"image": None}),
        ({"username": "Joe.Morello", "id": 1, "admin": True}, {"username": "Joe.Morello"}),
    ]:  # fmt: skip
        status, answer = api.ask("PUT", "/user", {"user": change}, "joe")
        assert status == 200 and answer["user"].items() >= seen.items()
    assert api.get("/profiles/Joe.Morello")["profile"]["bio"] is None
    answer = api.ask("PUT", "/user", {"user": {"username": "joe"}}, "joe")[1]
    assert {**answer["user"], "token": ""} == {**before, "token": ""}


def test_a_new_password_is_the_only_one_and_none_is_kept_as_it_is(api: Api, folder: Path) -> None:
    token = api.join("Teo")
    assert api.ask("PUT", "/user", {"user": {"password": "another one"}}, token=token)[0] == 200
    statuses = [api.ask("POST", "/users/login", {"user": {"email": "teo@example.org", "password": each}})[0]
                for each in (PASSWORD, "another one")]  # fmt: skip
    assert statuses == [401, 200]
    octets = (folder / "conduit.sqlite").read_bytes()
    assert b"scrypt$" in octets and PASSWORD.encode() not in octets and b"another one" not in octets


# ---- Tokens and guests

FOR_MEMBERS = [
    ("GET", "/user"), ("PUT", "/user"), ("POST", "/profiles/dave/follow"), ("DELETE", "/profiles/dave/follow"),
    ("GET", "/articles/feed"), ("POST", "/articles"), ("PUT", "/articles/x"), ("DELETE", "/articles/x"),
    ("POST", "/articles/x/comments"), ("DELETE", "/articles/x/comments/1"), ("POST", "/articles/x/favorite"),
    ("DELETE", "/articles/x/favorite"),
]  # fmt: skip
FOR_ALL = ["/articles", "/profiles/dave", "/articles?tag=a&author=b&favorited=c", "/tags"]


@pytest.mark.parametrize(("method", "path"), FOR_MEMBERS)
def test_what_is_for_members_needs_a_token(api: Api, method: str, path: str) -> None:
    status, headers, body = api.send(method, path, None, {})
    assert (status, json.loads(body)) == (401, {"errors": {"token": ["is missing"]}})
    assert headers["WWW-Authenticate"].startswith("Token ")


@pytest.mark.parametrize(
    "token",
    [
        make_token(exp=int(time.time()) - 5), make_token("another secret of 32 characters ..."),
        make_token(sub="999999"), make_token(sub="1 OR 1=1"),
        make_token(exp=None), make_token(sub=None), make_token()[:-1], "x", "a.b.c", ". .",
        "\xe9.\xff.x", jwt.encode({"sub": "1", "exp": 9**10}, None, "none"), jwt.encode({"sub": "1"}, SECRET, "HS256"),
        base64.urlsafe_b64encode(b"[" * 20_000).decode() + ".e30.x",
    ],
    ids=["expired", "of another secret", "of nobody", "sql", "exp null", "sub null", "cut", "x", "a.b.c", "blank",
         "latin-1", "not signed", "for ever", "deep"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/user", "/articles"])
def test_a_token_that_is_not_ours_or_too_old_is_refused_everywhere(api: Api, path: str, token: str) -> None:
    assert api.ask("GET", path, token=token) == (401, {"errors": {"token": ["is invalid"]}})


def test_another_scheme_is_that_of_a_guest(api: Api) -> None:
    headers = {"Authorization": f"Bearer {api.tokens['dave']}"}
    assert [api.send("GET", path, None, headers)[0] for path in ("/tags", "/articles", "/user")] == [200, 200, 401]


def test_guests_read_whatever_there_is(api: Api) -> None:
    slug = api.write("dave")["slug"]
    for path in [*FOR_ALL, f"/articles/{slug}", f"/articles/{slug}/comments"]:
        assert api.ask("GET", path)[0] == 200
    article = api.get(f"/articles/{slug}")["article"]
    assert article["favorited"] is article["author"]["following"] is False


# ---- Profiles


def test_a_follower_sees_it_and_others_do_not(api: Api) -> None:
    profile = {"username": "eugene", "bio": None, "image": None, "following": False}
    assert api.get("/profiles/eugene", "dave") == {"profile": profile}
    for _ in range(2):
        asked = api.ask("POST", "/profiles/eugene/follow", user="dave")
        assert asked == (200, {"profile": {**profile, "following": True}})
    assert api.get("/profiles/eugene", "dave")["profile"]["following"] is True
    assert api.get("/profiles/eugene", "paul") == api.get("/profiles/eugene") == {"profile": profile}
    for _ in range(2):
        assert api.ask("DELETE", "/profiles/eugene/follow", user="dave") == (200, {"profile": profile})


@pytest.mark.parametrize("name", ["nobody", "' OR '1'='1", "%", "..", "Δ" * 200])
def test_a_profile_that_is_not_there_is_not_found(api: Api, name: str) -> None:
    path = f"/profiles/{quote(name)}"
    for method, end in [("GET", ""), ("POST", "/follow"), ("DELETE", "/follow")]:
        assert api.ask(method, path + end, user="dave") == (404, {"errors": {"profile": ["not found"]}})


# ---- Articles


def test_an_article_has_what_was_written_and_what_belongs_to_it(api: Api) -> None:
    article = api.write("dave", "Blue Rondo à la Turk!", tagList=["jazz", "9/8", "jazz"])
    assert article.keys() == {
        "slug", "title", "description", "body", "tagList", "createdAt", "updatedAt", "favorited", "favoritesCount",
        "author",
    }  # fmt: skip
    assert article["slug"].startswith("blue-rondo-à-la-turk-")
    assert (article["title"], article["body"], article["tagList"]) == (
        "Blue Rondo à la Turk!", "In five four", ["9/8", "jazz"])  # fmt: skip
    assert article["createdAt"] == article["updatedAt"] and article["createdAt"].endswith("Z")
    assert (article["favorited"], article["favoritesCount"], article["author"]["username"]) == (False, 0, "dave")
    assert api.get(f"/articles/{quote(article['slug'])}")["article"] == article


@pytest.mark.parametrize(
    "title",
    ["Здравствуй, мир", "五拍子", "हिन्दी में", "naïve café", "!!!", "a/b?c#d%e..", "\u202eطويل", "x" * 200,
     "🎷 😀", "a\0b\x85"],
)
def test_an_article_of_any_title_is_found_by_its_slug(api: Api, title: str) -> None:
    article = api.write("dave", title)
    assert article["title"] == title
    assert api.get(f"/articles/{quote(article['slug'], safe='')}")["article"] == article
    assert "हिन्दी-में" in article["slug"] or title != "हिन्दी में"


def test_half_of_a_character_is_refused(api: Api) -> None:
    article = {"title": "half \ud83d", "description": "D", "body": "B"}
    status, answer = api.ask("POST", "/articles", {"article": article}, "dave")
    assert (status, answer["errors"].keys()) == (422, {"request"})


def test_two_articles_of_one_title_have_two_slugs(api: Api) -> None:
    with ThreadPoolExecutor(4) as pool:
        written = pool.map(lambda _: api.write("dave", "Twice")["slug"], range(8))
    assert len({*written}) == 8


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("title", "", "can't be blank"), ("title", " \n", "can't be blank"), ("title", 5, "is invalid"),
        ("title", "x" * 201, "must have 1 to 200 characters"), ("description", None, "can't be blank"),
        ("body", [], "is invalid"), ("tagList", None, "must be a list of at most 50 tags"),
        ("tagList", "jazz", "must be a list of at most 50 tags"),
        ("tagList", ["x"] * 51, "must be a list of at most 50 tags"),
        ("tagList", [1], "is invalid"), ("tagList", [None], "can't be blank"), ("tagList", [["a"]], "is invalid"),
    ],
)  # fmt: skip
def test_what_an_article_cannot_be_is_refused_with_the_field(api: Api, field: str, value: Any, why: str) -> None:
    sent = {"title": "T", "description": "D", "body": "B", field: value}
    expected = (422, {"errors": {field: [why]}})
    assert api.ask("POST", "/articles", {"article": sent}, "dave") == expected
    article = api.write("dave")
    assert api.ask("PUT", f"/articles/{article['slug']}", {"article": {field: value}}, "dave") == expected
    assert api.get(f"/articles/{article['slug']}")["article"] == article


def test_a_change_keeps_what_it_does_not_name(api: Api) -> None:
    before = api.write("dave", tagList=["a", "b"])
    path = f"/articles/{before['slug']}"
    status, answer = api.ask("PUT", path, {"article": {"body": "In nine eight"}}, "dave")
    after = answer["article"]
    assert status == 200 and after["updatedAt"] > before["updatedAt"]
    assert after == {**before, "body": "In nine eight", "updatedAt": after["updatedAt"]}
    assert api.ask("PUT", path, {"article": {"tagList": []}}, "dave")[1]["article"]["tagList"] == []
    assert api.ask("PUT", path, {"article": {"title": before["title"]}}, "dave")[1]["article"]["slug"] == before["slug"]


def test_a_new_title_is_a_new_slug(api: Api) -> None:
    before = api.write("dave")
    answer = api.ask("PUT", f"/articles/{before['slug']}", {"article": {"title": "Three to Get Ready"}}, "dave")[1]
    assert answer["article"]["slug"].startswith("three-to-get-ready-")
    assert api.get(f"/articles/{answer['article']['slug']}")["article"] == answer["article"]
    assert api.ask("GET", f"/articles/{before['slug']}")[0] == 404


def test_what_was_deleted_is_gone_with_all_that_belongs_to_it(api: Api, folder: Path) -> None:
    tag = f"tag {next(numbers)}"
    path = f"/articles/{api.write('dave', tagList=[tag])['slug']}"
    api.ask("POST", f"{path}/comments", {"comment": {"body": "Nice"}}, "paul")
    api.ask("POST", f"{path}/favorite", user="paul")
    assert api.ask("DELETE", path, user="dave") == (204, None)
    for method, end in [("GET", ""), ("DELETE", ""), ("GET", "/comments"), ("POST", "/favorite")]:
        assert api.ask(method, path + end, user="dave") == (404, {"errors": {"article": ["not found"]}})
    assert tag not in api.get("/tags")["tags"]
    with contextlib.closing(sqlite3.connect(folder / "conduit.sqlite")) as connection:
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_an_article_of_another_can_be_neither_changed_nor_deleted(api: Api) -> None:
    article = api.write("dave")
    path = f"/articles/{article['slug']}"
    forbidden = (403, {"errors": {"article": ["forbidden"]}})
    assert api.ask("PUT", path, {"article": {"body": "Mine", "tagList": ["mine"]}}, "paul") == forbidden
    assert api.ask("DELETE", path, user="paul") == forbidden
    assert api.get(path)["article"] == article


@pytest.mark.parametrize(
    ("method", "end", "body"),
    [
        ("GET", "", None), ("PUT", "", {"article": {"body": "B"}}), ("DELETE", "", None), ("POST", "/favorite", None),
        ("DELETE", "/favorite", None), ("GET", "/comments", None), ("POST", "/comments", {"comment": {"body": "B"}}),
        ("DELETE", "/comments/1", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("slug", ["nothing", "' OR '1'='1"])
def test_an_article_that_is_not_there_is_not_found(api: Api, method: str, end: str, body: Any, slug: str) -> None:
    asked = api.ask(method, f"/articles/{quote(slug)}{end}", body, "dave")
    assert asked == (404, {"errors": {"article": ["not found"]}})


# ---- Lists


def test_lists_have_the_newest_first_and_no_bodies(api: Api) -> None:
    tag = f"tag {next(numbers)}"
    written = [api.write(name, tagList=[tag]) for name in ("dave", "paul", "dave")]
    found = api.get(f"/articles?tag={quote(tag)}")
    assert slugs(found) == [article["slug"] for article in reversed(written)] and found["articlesCount"] == 3
    assert found["articles"][0] == {name: value for name, value in written[-1].items() if name != "body"}
    assert slugs(api.get("/articles?limit=3")) == slugs(found)


def test_filters_go_together(api: Api) -> None:
    tag, query = f"tag {next(numbers)}", quote
    mine, yours = (api.write(name, tagList=[tag, "all"])["slug"] for name in ("dave", "paul"))
    api.ask("POST", f"/articles/{yours}/favorite", user="eugene")
    for filters, expected in [
        (f"tag={query(tag)}", [yours, mine]), (f"tag={query(tag)}&author=dave", [mine]),
        (f"tag={query(tag)}&favorited=eugene", [yours]), (f"tag={query(tag)}&favorited=eugene&author=dave", []),
        (f"tag={query(tag)}&favorited=dave", []), ("author=nobody", []), ("tag=", []), ("favorited=%FF", []),
    ]:  # fmt: skip
        found = api.get(f"/articles?{filters}")
        assert (slugs(found), found["articlesCount"]) == (expected, len(expected)), filters


def test_pages_have_each_article_once(api: Api) -> None:
    tag = f"tag {next(numbers)}"
    written = [api.write("dave", tagList=[tag])["slug"] for _ in range(5)]
    pages = [api.get(f"/articles?tag={quote(tag)}&limit=2&offset={offset}") for offset in (0, 2, 4, 6)]
    assert [len(page["articles"]) for page in pages] == [2, 2, 1, 0]
    assert [slug for page in pages for slug in slugs(page)] == written[::-1]
    assert {page["articlesCount"] for page in pages} == {5}


def test_a_page_has_twenty_articles_unless_told_and_at_most_a_hundred(api: Api) -> None:
    tag = f"tag {next(numbers)}"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: api.write("dave", tagList=[tag]), range(21)))
    sizes = {limit: len(api.get(f"/articles?tag={quote(tag)}{limit}")["articles"])
             for limit in ("", "&limit=21", "&limit=9999999999999999999999", "&limit=0", "&limit=-5")}  # fmt: skip
    assert [*sizes.values()] == [20, 21, 21, 0, 0]


@pytest.mark.parametrize("path", ["/articles", "/articles/feed"])
@pytest.mark.parametrize("query", ["limit=x", "offset=1.5", "limit=", "offset=0x1", "limit=1;DROP TABLE user"])
def test_a_limit_that_is_no_number_is_named(api: Api, path: str, query: str) -> None:
    status, answer = api.ask("GET", f"{path}?{quote(query, safe='=')}", user="dave")
    assert status == 422 and query.partition("=")[0] in answer["errors"]["request"][0]


def test_the_feed_has_those_whom_one_follows_the_newest_first(api: Api) -> None:
    token = api.join("listener")
    assert api.ask("GET", "/articles/feed", token=token) == (200, {"articles": [], "articlesCount": 0})
    for name in ("paul", "joe"):
        assert api.ask("POST", f"/profiles/{name}/follow", token=token)[0] == 200
    written = [api.write(name)["slug"] for name in ("paul", "joe", "dave", "paul")]
    _, found = api.ask("GET", "/articles/feed?limit=3", token=token)
    assert slugs(found) == [written[3], written[1], written[0]]
    assert {each["author"]["following"] for each in found["articles"]} == {True}
    assert all("body" not in each for each in found["articles"])
    _, second = api.ask("GET", "/articles/feed?limit=1&offset=1", token=token)
    assert slugs(second) == [written[1]] and second["articlesCount"] == found["articlesCount"]
    api.ask("DELETE", "/profiles/joe/follow", token=token)
    assert written[1] not in slugs(api.ask("GET", "/articles/feed", token=token)[1])


# ---- Favourites, comments, tags


def test_a_favourite_counts_once_for_each_user(api: Api) -> None:
    path = f"/articles/{api.write('dave')['slug']}"
    for user, expected in [("paul", 1), ("paul", 1), ("joe", 2)]:
        status, answer = api.ask("POST", f"{path}/favorite", user=user)
        assert (status, answer["article"]["favorited"], answer["article"]["favoritesCount"]) == (200, True, expected)
    assert [api.get(path, user)["article"]["favorited"] for user in ("paul", "dave", "")] == [True, False, False]
    for _ in range(2):
        answer = api.ask("DELETE", f"{path}/favorite", user="paul")[1]
        assert (answer["article"]["favorited"], answer["article"]["favoritesCount"]) == (False, 1)


def test_many_at_once_lose_and_double_nothing(api: Api) -> None:
    path = f"/articles/{api.write('dave')['slug']}"
    with ThreadPoolExecutor(8) as pool:
        users = [*NAMES] * 6
        favourites = [pool.submit(api.ask, "POST", f"{path}/favorite", None, user) for user in users]
        sent = [pool.submit(api.ask, "POST", f"{path}/comments", {"comment": {"body": user}}, user) for user in users]
    assert {each.result()[0] for each in favourites} == {200} and {each.result()[0] for each in sent} == {201}
    assert api.get(path)["article"]["favoritesCount"] == 4
    comments = api.get(f"{path}/comments")["comments"]
    assert len({comment["id"] for comment in comments}) == 24
    assert all(comment["body"] == comment["author"]["username"] for comment in comments)


def test_of_several_who_take_one_name_at_once_one_has_it(api: Api) -> None:
    sent = [{"username": "once", "email": f"once{each}@example.org", "password": PASSWORD} for each in range(4)]
    with ThreadPoolExecutor(4) as pool:
        statuses = pool.map(lambda user: api.ask("POST", "/users", {"user": user})[0], sent)
    assert sorted(statuses) == [201, 409, 409, 409]


def test_comments_are_listed_the_oldest_first(api: Api) -> None:
    path = f"/articles/{api.write('dave')['slug']}/comments"
    added = [api.ask("POST", path, {"comment": {"body": body}}, "paul") for body in ("First", "Second ☺")]
    assert [status for status, _ in added] == [201, 201]
    first = added[0][1]["comment"]
    assert first.keys() == {"id", "createdAt", "updatedAt", "body", "author"} and type(first["id"]) is int
    assert first["author"] == {"username": "paul", "bio": None, "image": None, "following": False}
    assert api.get(path) == {"comments": [answer["comment"] for _, answer in added]}
    api.ask("POST", "/profiles/paul/follow", user="eugene")
    assert api.get(path, "eugene")["comments"][0]["author"]["following"] is True


def test_a_comment_is_deleted_by_its_author_alone(api: Api) -> None:
    path = f"/articles/{api.write('dave')['slug']}/comments"
    other = f"/articles/{api.write('dave')['slug']}/comments"
    number = api.ask("POST", path, {"comment": {"body": "Nice"}}, "paul")[1]["comment"]["id"]
    missing = (404, {"errors": {"comment": ["not found"]}})
    assert api.ask("DELETE", f"{path}/{number}", user="dave") == (403, {"errors": {"comment": ["forbidden"]}})
    assert api.ask("DELETE", f"{other}/{number}", user="paul") == missing
    assert len(api.get(path)["comments"]) == 1
    assert api.ask("DELETE", f"{path}/{number}", user="paul") == (204, None)
    assert api.ask("DELETE", f"{path}/{number}", user="paul") == missing
    assert api.get(path) == {"comments": []}


@pytest.mark.parametrize("number", ["0", "-1", "x", "9" * 30, "1 OR 1=1"])
def test_a_comment_of_another_number_is_not_found(api: Api, number: str) -> None:
    path = f"/articles/{api.write('dave')['slug']}/comments/{quote(number)}"
    assert api.ask("DELETE", path, user="dave")[0] == 404


def test_all_tags_are_listed_those_of_most_articles_first(api: Api) -> None:
    often, seldom = (f"tag {next(numbers)}" for _ in range(2))
    for names in ([often, seldom], [often]):
        api.write("dave", tagList=names)
    tags = api.get("/tags")["tags"]
    assert tags.index(often) < tags.index(seldom) and len({*tags}) == len(tags)


# ---- Hostile clients

INJECTIONS = ["'; DROP TABLE article; --", '" OR ""="', "x') UNION SELECT password FROM user --", ":me", "?", "\\", "%"]


@pytest.mark.parametrize("text", INJECTIONS)
def test_sql_is_text_like_any_other(api: Api, text: str) -> None:
    article = api.write("dave", text, description=text, body=text, tagList=[text])
    assert (article["title"], article["body"], article["tagList"]) == (text, text, [text])
    assert article["slug"] in slugs(api.get(f"/articles?tag={quote(text)}"))
    for name in ("author", "favorited"):
        assert api.get(f"/articles?{name}={quote(text)}")["articlesCount"] == 0
    answer = api.ask("PUT", "/user", {"user": {"bio": text, f"bio = '{text}' --": text}}, "dave")[1]
    assert answer["user"]["bio"] == text


BODIES = [
    b"", b"[]", b"null", b"0", b'"user"', b"true", b"{}", b'{"user": null}', b'{"user": []}', b'{"user": "x"}',
    b'{"user": {}}', b'{"article": [1]}', b'{"comment": {"body": {}}}', b'{"user": {"x": 1}}', b"{", b"\xff\xfe",
    b"\xef\xbb\xbf", b"NaN", b"1e999", b'{"user": {"email": 1e999}}', b"9" * 10_000, b"[" * 100_000,
    b'{"user":' * 20_000, b'{"user": {"username": "\\ud800"}}', b'{"article": {"tagList": {"a": 1}}}', b"x" * 2_000_000,
    b'{"user": {"username": "' + b"x" * 1_000_000 + b'"}}', b'{"user": {' + b'"a":1,' * 100_000 + b'"b":2}}',
    b'{"user": {"username": "x", "email": "x@y", "password": "12345678", "password": []}}',
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=[f"{number}: {body[:20]!r}" for number, body in enumerate(BODIES)])
def test_json_that_is_none_of_ours_is_refused_by_every_handler(api: Api, body: bytes) -> None:
    path = f"/articles/{api.write('dave')['slug']}"
    for method, where in [
        ("POST", "/users"), ("POST", "/users/login"), ("PUT", "/user"), ("POST", "/articles"), ("PUT", path),
        ("POST", f"{path}/comments"),
    ]:  # fmt: skip
        with contextlib.suppress(ConnectionError):  # of a body that is too large, and was not read
            status, answer = api.ask(method, where, body, "dave")
            assert status in (413, 422), (where, answer)
            assert all(isinstance(why, str) for reasons in answer["errors"].values() for why in reasons)
    assert api.get(path)["article"]["body"] == "In five four"


def test_a_body_that_is_no_json_is_refused(api: Api) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, _, answer = api.send("POST", "/users", b"user=x", headers)
    assert (status, json.loads(answer)) == (415, {"errors": {"request": ["the Content-Type must be application/json"]}})


def test_errors_of_the_framework_are_json_as_well(api: Api) -> None:
    assert api.ask("GET", "/nowhere") == (404, {"errors": {"request": ["Not Found"]}})
    status, headers, body = api.send("DELETE", "/users", None, {})
    assert (status, headers["Allow"], json.loads(body)["errors"].keys()) == (405, "OPTIONS, POST", {"request"})


def test_scripts_of_every_site_may_use_it(api: Api) -> None:
    origin = {"Origin": "https://app.example"}
    asked = {**origin, "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "authorization"}
    status, headers, _ = api.send("OPTIONS", "/user", None, asked)
    assert status == 204 and "PUT" in headers["Access-Control-Allow-Methods"]
    assert api.send("GET", "/user", None, origin)[1]["Access-Control-Allow-Origin"] == "*"


# ---- Transactions, other doors, the start


def test_what_a_request_changed_is_taken_back_after_an_error_and_its_connection_closed(folder: Path) -> None:
    module = example("conduit")

    @module.app.post("/register/<int:status>")  # type: ignore[untyped-decorator]
    def add(request: Request, status: int) -> tuple[None, int]:
        row = {"username": f"status{status}", "email": f"{status}@example.org", "password": "-"}
        module.insert(request, "user", **row)
        return abort(409) if status == 409 else 1 // 0 if status == 500 else (None, status)

    client = module.app.test()
    assert [client.post(f"/register/{status}").status for status in (201, 409, 500, 422)] == [201, 409, 500, 422]
    found = [client.get(f"/api/profiles/status{status}").status for status in (201, 409, 500, 422)]
    assert found == [200, 404, 404, 404]
    assert client.post("/register/201").status == 409  # the database refuses it
    assert not [link for link in Path("/proc/self/fd").iterdir() if "conduit.sqlite" in os.path.realpath(link)]


@pytest.mark.parametrize("door", ["mongrel2", "gunicorn", "waitress"])
def test_the_same_is_served_by_every_door(door: str, tmp_path: Path) -> None:
    with settings(tmp_path), contextlib.ExitStack() as stack:
        if door == "mongrel2":
            mongrel2 = stack.enter_context(Mongrel2())
            stack.enter_context(behind_mongrel2("conduit:app", mongrel2))
            api = Api(mongrel2.port)
        else:
            api = Api(stack.enter_context(behind_wsgi(door, "conduit:app")))
        api.tokens["dave"] = api.join("dave")
        path = f"/articles/{quote(api.write('dave', 'Взлёт', tagList=['jazz'])['slug'])}"
        assert api.ask("POST", f"{path}/comments", {"comment": {"body": "Mine"}}, "dave")[0] == 201
        assert api.ask("POST", f"{path}/favorite", user="dave")[0] == 200
        assert api.get("/articles?favorited=dave&tag=jazz")["articlesCount"] == 1
        assert api.ask("PUT", path, b"[" * 100_000, "dave")[0] == 422
        assert api.ask("PUT", path, {"article": {"body": "B"}}) == (401, {"errors": {"token": ["is missing"]}})
        assert api.ask("DELETE", path, user="dave") == (204, None)
        assert api.ask("GET", path)[0] == 404


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({"SECRET": ""}, "conduit.py: SECRET must have 32 characters: "),
        ({"SECRET": "short"}, "conduit.py: SECRET must have 32 characters: "),
        ({"DATABASE": "/nowhere/conduit.sqlite"}, "conduit.py: cannot use /nowhere/conduit.sqlite (DATABASE): unable"),
        ({"DATABASE": __file__}, f"conduit.py: cannot use {__file__} (DATABASE): file is not a database"),
        ({"PYTHONPATH": ""}, "conduit.py: PyJWT is missing: pip install PyJWT"),
    ],
    ids=["no secret", "a short one", "no folder", "no database", "no PyJWT"],
)
def test_what_is_missing_at_the_start_is_one_line(tmp_path: Path, variables: dict[str, str], line: str) -> None:
    everything = {**environment(), "SECRET": SECRET, "DATABASE": str(tmp_path / "conduit.sqlite")}
    if "PYTHONPATH" in variables:
        (tmp_path / "jwt.py").write_text("raise ImportError('as where it is not installed')")
        variables = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{everything['PYTHONPATH']}"}
    command = [sys.executable, "-m", "brubeck_lite", "conduit:app", "--bind", f"127.0.0.1:{free_port()}", "--quiet"]
    done = subprocess.run(
        command, env={**everything, **variables}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith(line) and done.stderr.count("\n") == 1, done.stderr


def test_the_file_serves_as_a_script(tmp_path: Path) -> None:
    with settings(tmp_path), serve("conduit.py") as (port, child):
        assert Api(port).get("/tags") == {"tags": []}
        assert "WARNING" not in output(child)
