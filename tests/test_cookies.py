"""Cookies that answers set, signed values, and the session that lives in a signed cookie."""

from __future__ import annotations

import base64
import datetime
import hmac
import json
import re
import string
import time
from collections.abc import Callable
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT

import brubeck_lite
from brubeck_lite import Brubeck, Request, Response, SessionCookie, abort, csrf, csrf_token, redirect, sign, unsign

SECRET = "a secret of thirty-two characters"
OLD, NEW, NEWER, ANOTHER = (f"{kind} secret, which nobody can guess" for kind in ("old", "new", "newer", "another"))
EPOCH = "Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"


class Clock:
    """The time that the module sees, which moves when told."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(brubeck_lite.time, "time", clock)
    return clock


def setting(*arguments: Any, **options: Any) -> Any:
    """The answer of a handler that sets such a cookie."""
    app = Brubeck(secret=SECRET)

    @app.route("/")
    def handler(request: Request) -> Response:
        response = Response()
        response.set_cookie(*arguments, **options)
        return response

    return app.test(raise_errors=True).get("/")


def test_nobody_writes_a_cookie_into_the_answers_of_others() -> None:
    response = Response()
    with pytest.raises(TypeError, match="does not support item assignment"):
        response.cookies["sid"] = "sid=ALICE"  # type: ignore[index]
    response.set_cookie("sid", "ALICE")
    with pytest.raises(TypeError, match="does not support item assignment"):
        response.cookies["sid"] = "sid=BOB"  # type: ignore[index]
    assert not Response().cookies


def by_wsgi(app: Brubeck, path: str = "/", **environ: Any) -> tuple[str, list[tuple[str, str]]]:
    """Status and header fields, as a WSGI server gets them, where `__` in a name stands for a dot."""
    asked = {"PATH_INFO": path, "SCRIPT_NAME": "", **{n.replace("__", "."): v for n, v in environ.items()}}
    setup_testing_defaults(asked)
    started: list[Any] = []
    b"".join(app(asked, lambda status, fields: started.extend((status, fields))))
    return started[0], started[1]


# Names with a prefix, and sizes (RFC 6265bis, 4.1.3 and 5.6)


@pytest.mark.parametrize("secure", [None, True])
@pytest.mark.parametrize("name", ["__Host-a", "__Secure-a", "__host-a", "__SECURE-a"])
def test_a_cookie_whose_name_asks_for_it_is_secure_by_http_too(name: str, secure: bool | None) -> None:
    got = setting(name, "b", secure=secure).headers["Set-Cookie"]
    assert got == f"{name}=b; Path=/; HttpOnly; SameSite=Lax; Secure"


@pytest.mark.parametrize(
    "options", [{"secure": False}, {"path": "/a"}, {"path": ""}, {"domain": "example.org"}, {"domain": "localhost"}],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("name", ["__Host-a", "__host-a"])
def test_what_a_host_cookie_may_not_have_is_an_error_where_it_is_set(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Response().set_cookie(name, "b", **options)


def test_a_secure_cookie_may_have_a_path_and_a_domain_but_must_be_secure() -> None:
    got = setting("__Secure-a", "b", path="/p", domain="example.org").headers["Set-Cookie"]
    assert got == "__Secure-a=b; Domain=example.org; Path=/p; HttpOnly; SameSite=Lax; Secure"
    with pytest.raises(ValueError):
        Response().set_cookie("__Secure-a", "b", secure=False)


@pytest.mark.parametrize("name", ["__Hosta", "_Host-a", "a__Host-a", "Secure-a"])
def test_a_name_that_only_looks_alike_has_no_rules(name: str) -> None:
    assert setting(name, "b", path="/p", secure=False).headers["Set-Cookie"].startswith(f"{name}=b; Path=/p;")


def test_a_host_cookie_can_be_deleted() -> None:
    response = Response()
    response.delete_cookie("__Host-a")
    app = Brubeck()
    app.route("/")(lambda request: response)
    assert app.test().get("/").headers["Set-Cookie"] == f"__Host-a=; {EPOCH}; Path=/; HttpOnly; SameSite=Lax; Secure"


@pytest.mark.parametrize("value", ["x" * 4097, "é" * 1100, ";" * 1100, "x" * 100_000], ids=len)
def test_a_cookie_that_browsers_drop_for_its_size_is_an_error(value: str) -> None:
    with pytest.raises(ValueError, match=r"4,?096"):
        setting("a", value)


def test_a_cookie_that_browsers_just_keep_is_sent() -> None:
    assert len(setting("a", "x" * 4000).headers["Set-Cookie"]) > 4000


def test_a_signed_cookie_that_browsers_drop_for_its_size_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"4,?096"):
        setting("a", "x" * 4090, signed=True)


def test_a_cookie_for_other_sites_is_secure() -> None:
    assert setting("a", "b", samesite="None").headers["Set-Cookie"] == "a=b; Path=/; HttpOnly; SameSite=None; Secure"
    with pytest.raises(ValueError):
        Response().set_cookie("a", "b", samesite="None", secure=False)


# Deleting


@pytest.mark.parametrize(
    ("options", "attributes"),
    [({}, "Path=/"), ({"path": "/a"}, "Path=/a"), ({"domain": "example.org"}, "Domain=example.org; Path=/"),
     ({"path": "/a b", "domain": "example.org"}, "Domain=example.org; Path=/a b")],
)  # fmt: skip
def test_a_cookie_is_deleted_with_the_path_and_domain_it_was_set_with(options: Any, attributes: str) -> None:
    response = Response()
    response.delete_cookie("a", **options)
    app = Brubeck()
    app.route("/")(lambda request: response)
    assert app.test().get("/").headers["Set-Cookie"] == f"a=; {EPOCH}; {attributes}; HttpOnly; SameSite=Lax"


@pytest.mark.parametrize(
    "arguments", [("a b",), ("a;",), ("",), ("a", "/;"), ("a", "/\r\n"), ("a", "/", "x;"), ("a", "/", "x\n")]
)
def test_what_cannot_stand_in_a_cookie_cannot_be_deleted_either(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ValueError):
        Response().delete_cookie(*arguments)


# Signed values


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_what_was_signed_comes_back_and_can_stand_anywhere(value: str) -> None:
    signed = sign(value, SECRET)
    assert unsign(signed, SECRET) == value
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", signed)


@settings(deadline=None)
@given(st.text())
def test_what_nobody_signed_is_none(text: str) -> None:
    assert unsign(text, SECRET) is None


SIGNED = sign("user=1", SECRET)


@pytest.mark.parametrize("position", range(len(SIGNED)))
def test_a_signed_value_changed_in_any_place_is_none(position: int) -> None:
    before, after = SIGNED[:position], SIGNED[position + 1 :]
    for character in string.ascii_letters + string.digits + "-_.=+/ \né\x00":
        if character != SIGNED[position]:
            assert unsign(before + character + after, SECRET) is None
        assert unsign(before + character + SIGNED[position:], SECRET) is None
    assert unsign(before + after, SECRET) is None
    assert unsign(before, SECRET) is None


@pytest.mark.parametrize("tail", ["=", "==", ".", " ", "\n", "A", "\x00", "é", "\ud800", "." + SIGNED, "." * 10_000])
def test_a_signed_value_with_a_tail_is_none(tail: str) -> None:
    assert unsign(SIGNED + tail, SECRET) is None
    assert unsign(tail + SIGNED, SECRET) is None


def test_parts_of_two_signed_values_are_none(clock: Clock) -> None:
    first, second = sign("user=1", SECRET).split("."), sign("user=2", SECRET).split(".")
    clock.now += 100
    third = sign("user=1", SECRET).split(".")
    mixed = {
        ".".join((mine if bit & 1 << i else other)[i] for i in range(len(first)))
        for mine, other in ((first, second), (first, third))
        for bit in range(1 << len(first))
    } - {".".join(parts) for parts in (first, second, third)}
    assert mixed and all(unsign(text, SECRET) is None for text in mixed)


def test_the_newest_secret_signs_and_all_of_them_verify() -> None:
    signed = sign("a", [NEW, OLD])
    assert [unsign(signed, secrets) for secrets in (NEW, [NEW], [NEWER, NEW], OLD)] == ["a", "a", "a", None]
    assert [unsign(sign("a", OLD), secrets) for secrets in ([NEW, OLD], [NEW])] == ["a", None]


def test_a_signature_is_an_hmac_of_256_bits_and_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(base64.urlsafe_b64decode(SIGNED.rpartition(".")[2] + "=")) == 32
    compared: list[Any] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda *pair: compared.append(pair) or compare(*pair))
    assert (unsign(SIGNED, [NEW, SECRET]), len(compared)) == ("user=1", 2)


PUBLISHED = "made by: python -c 'import secrets; print(secrets.token_hex(32))'"  # README's, once


@pytest.mark.parametrize(
    "secrets", ["", [], [""], ["", OLD], "x", "x" * 15, [NEW, "x"], ["x", NEW], ("x" * 15, NEW), "é" * 7, PUBLISHED,
                [NEW, PUBLISHED], "the new secret, which signs: 32 letters or more",
                [OLD, "the old secret, which still verifies"], "of the old program, and long",
                "of the new program, and long"],
    ids=repr,
)  # fmt: skip
@pytest.mark.parametrize(
    "use",
    [lambda secrets: sign("a", secrets), lambda secrets: unsign(SIGNED, secrets),
     lambda secrets: Brubeck(secret=secrets), lambda secrets: setattr(Brubeck(), "secret", secrets)],
    ids=["sign", "unsign", "Brubeck", "app.secret"],
)  # fmt: skip
def test_a_secret_that_anybody_can_guess_is_an_error_that_says_how_to_make_one(use: Any, secrets: Any) -> None:
    with pytest.raises(ValueError, match=r"secrets\.token_hex\(32\)"):
        use(secrets)


@pytest.mark.parametrize("document", ["README.md", "examples/manual.md"])
def test_a_secret_that_a_document_shows_is_refused(document: str) -> None:
    for secret in re.findall(r'secret(?:_key)? *= *\[?"([^"]{16,})"', (ROOT / document).read_text()):
        with pytest.raises(ValueError, match="everybody can read"):
            Brubeck(secret=secret)


@pytest.mark.parametrize("secrets", [b"x" * 32, [b"x" * 32], [NEW, None], [NEW, b"x" * 32], 5, {NEW}, [list(NEW)]])
def test_a_secret_is_a_str_and_nothing_else(secrets: Any) -> None:
    with pytest.raises(TypeError, match="a secret is a str"):
        Brubeck(secret=secrets)


@pytest.mark.parametrize("secret", ["x" * 16, "é" * 8, [NEW, OLD], (NEW, OLD)])
def test_a_secret_of_16_bytes_is_taken(secret: Any) -> None:
    app = session_app(secret=secret)
    client = app.test(raise_errors=True)
    client.get("/?fill")
    assert client.get("/").json == FILLED


def test_a_secret_may_be_set_later_and_is_that_of_what_is_mounted_too() -> None:
    outer, inner = session_app(secret=None), session_app(secret=None)
    outer.mount("/inner", inner)
    client = outer.test(raise_errors=True)
    for secret in (OLD, [NEW, OLD]):
        outer.secret = secret
        assert client.get("/inner/").json == ({} if secret == OLD else FILLED)
        client.get("/inner/?fill")
        assert client.get("/").json == FILLED


@pytest.mark.parametrize("purpose", ["a\nb", "\n", "a\r", "a\x00", "\ta"])
def test_a_purpose_with_a_control_character_is_refused(purpose: str) -> None:
    with pytest.raises(ValueError):
        sign("a", SECRET, purpose)
    with pytest.raises(ValueError):
        unsign(SIGNED, SECRET, purpose=purpose)


@settings(deadline=None)
@given(*[st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=5)] * 2)
def test_what_was_signed_for_one_purpose_holds_for_no_other(purpose: str, other: str) -> None:
    signed = sign("a", SECRET, purpose)
    assert unsign(signed, SECRET, purpose=other) == ("a" if purpose == other else None)


def test_a_signed_cookie_with_a_name_that_none_can_have_is_none(app: Brubeck) -> None:
    assert app.test().get("/get?name=a%0Ab", headers={"Cookie": "a\nb=c"}).json == {"value": None}


@pytest.mark.parametrize(
    ("max_age", "passed", "seen"),
    [(None, 10**9, "a"), (60, 0, "a"), (60, 59, "a"), (60, 62, None), (0, 0, "a"), (0, 2, None)],
)
def test_a_signed_value_has_an_age(max_age: int | None, passed: int, seen: str | None, clock: Clock) -> None:
    signed = sign("a", SECRET)
    clock.now += passed
    assert unsign(signed, SECRET, max_age) == seen


# Reading


@pytest.mark.parametrize("pattern", ["\\", '"', 'a="\\', ";", "=", '"\\"', "\\073", "a=1;", 'a="\\073";', " ", "\x01"])
def test_a_cookie_header_of_8_kib_is_read_in_linear_time(pattern: str) -> None:
    """Of CPU time. Unmeasured by coverage it is under 10 ms; http.cookies takes 300."""
    header = f'first=1; bad="{(pattern * 8192)[:8192]}"; last=2'
    took = []
    for _ in range(3):
        started = time.thread_time()
        cookies = brubeck_lite.parse_cookies(header)
        took.append(time.thread_time() - started)
    assert (cookies["first"], cookies["last"]) == ("1", "2")
    assert min(took) < 0.1


# Signed cookies


@pytest.fixture
def app() -> Brubeck:
    """Sets a signed cookie with a name and a value of the query, reads one, and tells what it read."""
    app = Brubeck(secret=SECRET)

    @app.route("/set")
    def put(request: Request) -> Response:
        response = Response()
        response.set_cookie(request.query["name"], request.query["value"], signed=True)
        return response

    @app.route("/get")
    def read(request: Request) -> dict[str, Any]:
        return {"value": request.get_signed_cookie(request.query["name"], request.get_argument("max_age", None, int))}

    @app.route("/neither")
    def neither(request: Request) -> dict[str, str]:
        return dict(request.cookies)

    return app


@pytest.mark.parametrize("value", ["", "a", "é€ ;,\"\\=", "a\tb\nc", "=" * 500])
def test_a_signed_cookie_comes_back_as_it_was(app: Brubeck, value: str) -> None:
    client = app.test()
    client.get(f"/set?name=a&value={brubeck_lite.quote(value)}")
    assert client.get("/get?name=a").json == {"value": value}
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", client.get("/neither").json["a"])


def test_a_signed_cookie_is_bound_to_its_name(app: Brubeck) -> None:
    client = app.test()
    client.get("/set?name=colour&value=admin")
    client.cookies["user"] = client.cookies["colour"]
    assert client.get("/get?name=user").json == {"value": None}
    assert client.get("/get?name=colour").json == {"value": "admin"}


@pytest.mark.parametrize("value", ["admin", sign("admin", SECRET), "", "a.b.c", "é"])
def test_what_was_not_signed_for_this_cookie_is_none(app: Brubeck, value: str) -> None:
    client = app.test()
    client.cookies["user"] = value.encode().decode("latin-1")
    assert client.get("/get?name=user").json == {"value": None}


def test_a_signed_value_is_not_made_by_a_signed_cookie(app: Brubeck) -> None:
    client = app.test()
    client.get("/set?name=a&value=b")
    assert unsign(client.cookies["a"], SECRET) is None


def test_a_signed_cookie_changed_in_any_place_is_none(app: Brubeck) -> None:
    client = app.test()
    client.get("/set?name=a&value=user")
    good = client.cookies["a"]
    for position, character in enumerate(good):
        for other in "AZaz09-_.":
            client.cookies["a"] = good[:position] + other + good[position + 1 :]
            assert client.get("/get?name=a").json["value"] == (None if other != character else "user")


def test_a_signed_cookie_has_an_age(app: Brubeck, clock: Clock) -> None:
    client = app.test()
    client.get("/set?name=a&value=b")
    clock.now += 30
    assert client.get("/get?name=a&max_age=60").json == {"value": "b"}
    clock.now += 32
    assert client.get("/get?name=a&max_age=60").json == {"value": None}
    assert client.get("/get?name=a").json == {"value": "b"}


@pytest.mark.parametrize(
    ("path", "private"), [("/get?name=a", True), ("/get?name=missing", True), ("/neither", False)]
)
def test_an_answer_that_depends_on_a_signed_cookie_is_for_its_client_alone(
    app: Brubeck, path: str, private: bool
) -> None:
    headers = app.test().get(path).headers
    assert ("Cookie" in headers.get("Vary", ""), "private" in headers.get("Cache-Control", "")) == (private, private)


def test_cookies_in_two_header_fields_are_read_as_one(app: Brubeck) -> None:
    sent = "a=1; b=2"
    assert app.test().get("/neither", headers={"Cookie": sent}).json == {"a": "1", "b": "2"}


# The session

Change = Callable[[Any], Any]


def session_app(change: Change = lambda session: None, **options: Any) -> Brubeck:
    """GET / shows the session as it came, after `change` had it; / with `?fill` fills it first."""
    app = Brubeck(**{"secret": SECRET, **options})

    @app.route("/")
    def index(request: Request) -> Any:
        if "fill" in request.query:
            request.session.update({"user": "ann", "cart": {"items": [1, 2]}})
            return None
        seen = json.dumps(request.session)
        change(request.session)
        return json.loads(seen)

    @app.route("/untouched")
    def untouched(request: Request) -> str:
        return "fine"

    return app


def after(change: Change, **options: Any) -> Any:
    """A client whose session is filled, then changed: the answer and what the session is afterwards."""
    client = session_app(change, **options).test(raise_errors=True)
    client.get("/?fill")
    return client.get("/"), client.get("/").json


FILLED: dict[str, Any] = {"user": "ann", "cart": {"items": [1, 2]}}


def test_a_session_is_a_dict_that_comes_back() -> None:
    assert after(lambda session: None)[1] == FILLED


@pytest.mark.parametrize(
    "value", [None, True, 1, 1.5, "é€\x00 ;,\"\\", [1, [2, {"a": None}]], {"": ""}, "x" * 2000], ids=repr
)
def test_a_session_keeps_what_json_can_hold(value: Any) -> None:
    assert after(lambda session: session.update(value=value))[1]["value"] == value


@pytest.mark.parametrize(
    "change",
    [lambda session: None, lambda session: session.get("user"), lambda session: list(session.items()),
     lambda session: session["cart"]["items"].copy(), lambda session: "x" in session,
     lambda session: session.pop("x", None)],
)  # fmt: skip
def test_a_session_that_was_only_read_is_not_sent(change: Change) -> None:
    assert "Set-Cookie" not in after(change)[0].headers


@pytest.mark.parametrize(
    ("change", "seen"),
    [(lambda session: session.update(user="bob"), {**FILLED, "user": "bob"}),
     (lambda session: session.pop("user"), {"cart": {"items": [1, 2]}}),
     (lambda session: session["cart"]["items"].append(3), {"user": "ann", "cart": {"items": [1, 2, 3]}}),
     (lambda session: session["cart"].clear(), {"user": "ann", "cart": {}}),
     (lambda session: session.setdefault("new", []).append(1), {**FILLED, "new": [1]})],
)  # fmt: skip
def test_a_session_that_was_changed_anywhere_is_sent(change: Change, seen: Any) -> None:
    client = session_app(change).test(raise_errors=True)
    client.get("/?fill")
    assert client.get("/").headers["Set-Cookie"].startswith("session=")
    assert session_app().test().get("/", headers={"Cookie": f"session={client.cookies['session']}"}).json == seen


@pytest.mark.parametrize(
    "change", [lambda session: session.clear(), lambda session: [session.pop(name, 0) for name in FILLED]]
)
def test_a_session_that_was_emptied_is_deleted(change: Change) -> None:
    got, left = after(change)
    assert got.headers["Set-Cookie"] == f"session=; {EPOCH}; Path=/; HttpOnly; SameSite=Lax"
    assert left == {}


def test_a_session_that_was_empty_and_stays_so_is_not_sent() -> None:
    assert "Set-Cookie" not in session_app(lambda session: session.clear()).test().get("/").headers


def test_a_session_lasts_fourteen_days_and_scripts_and_other_sites_do_not_get_it() -> None:
    cookie = session_app().test().get("/?fill").headers["Set-Cookie"]
    assert cookie.partition(";")[2] == " Max-Age=1209600; Path=/; HttpOnly; SameSite=Lax"


def test_a_session_by_https_is_secure() -> None:
    fields = by_wsgi(session_app(), QUERY_STRING="fill", wsgi__url_scheme="https")[1]
    assert dict(fields)["Set-Cookie"].endswith("; Secure")


def test_a_session_is_over_after_fourteen_days_whatever_the_browser_says(clock: Clock) -> None:
    client = session_app().test()
    client.get("/?fill")
    clock.now += 14 * 86400 - 1
    assert client.get("/").json == FILLED
    clock.now += 3
    assert client.get("/").json == {}


@pytest.mark.parametrize("text", ["", "x", "a.b.c", "{}", '"{}"', "x" * 4000, sign('{"user":"ann"}', SECRET)])
def test_a_session_that_nobody_signed_is_empty(text: str) -> None:
    client = session_app().test(raise_errors=True)
    client.cookies["session"] = text
    assert client.get("/").json == {}


def test_a_session_changed_in_any_place_is_empty() -> None:
    client = session_app().test(raise_errors=True)
    client.get("/?fill")
    good = client.cookies["session"]
    for position in range(len(good)):
        client.cookies["session"] = good[:position] + ("A" if good[position] != "A" else "B") + good[position + 1 :]
        assert client.get("/").json == {}


def test_a_signed_cookie_is_no_session() -> None:
    app = session_app()

    @app.route("/colour")
    def colour(request: Request) -> Response:
        response = Response()
        response.set_cookie("colour", '{"user":"admin"}', signed=True)
        return response

    client = app.test()
    client.get("/colour")
    client.cookies["session"] = client.cookies["colour"]
    assert client.get("/").json == {}


def test_a_session_is_read_with_any_of_the_secrets_and_signed_with_the_newest() -> None:
    client = session_app(secret=OLD).test()
    client.get("/?fill")
    kept = client.cookies
    client = session_app(lambda session: session.update(user="bob"), secret=[NEW, OLD]).test()
    client.cookies.update(kept)
    assert client.get("/").json == FILLED
    kept = client.cookies
    client = session_app(secret=NEW).test()
    client.cookies.update(kept)
    assert client.get("/").json["user"] == "bob"


@pytest.mark.parametrize("value", [{1, 2}, b"x", object(), float("nan")])
def test_a_session_with_what_json_cannot_hold_is_a_500(value: Any) -> None:
    status, fields = by_wsgi(session_app(lambda session: session.update(x=value)))
    assert (status, "Set-Cookie" in dict(fields)) == ("500 Internal Server Error", False)


def test_a_session_too_large_for_a_cookie_is_a_500_and_not_lost_in_silence() -> None:
    app = session_app(lambda session: session.update(x="x" * 5000))
    status, fields = by_wsgi(app)
    assert (status, "Set-Cookie" in dict(fields)) == ("500 Internal Server Error", False)
    assert app.test().get("/").status == 500


def test_an_answer_that_a_program_keeps_takes_no_session_to_the_next_client() -> None:
    app, kept = Brubeck(secret=SECRET), Response("done")

    @app.route("/<user>")
    def index(request: Request, user: str) -> Response:
        if user != "nobody":
            request.session["user"] = user
        return kept

    assert "Set-Cookie" in app.test().get("/ann").headers
    assert {"Set-Cookie", "Vary", "Cache-Control"}.isdisjoint(app.test().get("/nobody").headers)


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_session_is_sent_with_an_answer_that_has_no_body(method: str) -> None:
    app = Brubeck(secret=SECRET)

    @app.route("/")
    def index(request: Request) -> tuple[str, int]:
        request.session["seen"] = True
        return "", 204 if request.method == "GET" else 200

    assert app.test().request(method, "/").headers["Set-Cookie"].startswith("session=")


@pytest.mark.parametrize(
    ("end", "status"), [(lambda: redirect("/"), 303), (lambda: abort(403), 403), (lambda: iter(["a", "b"]), 200)]
)
def test_a_session_is_sent_whatever_the_answer_is(end: Callable[[], Any], status: int) -> None:
    app = Brubeck(secret=SECRET)

    @app.route("/")
    def index(request: Request) -> Any:
        request.session["seen"] = True
        return end()

    got = app.test().get("/")
    assert (got.status, got.headers["Set-Cookie"][:8]) == (status, "session=")


def test_middleware_and_handler_share_one_session() -> None:
    app = session_app(lambda session: session.update(handler=1))

    @app.wrap
    def count(respond: brubeck_lite.Respond) -> brubeck_lite.Respond:
        def counted(request: Request) -> Response:
            request.session["before"] = 1
            response = respond(request)
            request.session["after"] = 1
            return response

        return counted

    client = app.test(raise_errors=True)
    assert client.get("/").json == {"before": 1}
    assert client.get("/").json == {"before": 1, "handler": 1, "after": 1}


# Caches


def cached(look: Callable[[Request], Any], headers: dict[str, str]) -> Any:
    app = Brubeck(secret=SECRET)

    @app.route("/")
    def index(request: Request) -> tuple[str, int, dict[str, str]]:
        look(request)
        return "", 200, headers

    return app.test(raise_errors=True).get("/").headers


def tokens(field: str) -> list[str]:
    return sorted(token.strip().lower() for token in field.split(","))


@pytest.mark.parametrize(
    ("given", "sent"),
    [(None, ["private"]), ("public", ["private"]), ("public, max-age=60, s-maxage=600", ["max-age=60", "private"]),
     ("PUBLIC, S-MaxAge=5", ["private"]), ("private", ["private"]), ("no-cache", ["no-cache", "private"])],
)  # fmt: skip
@pytest.mark.parametrize("look", [lambda r: r.session, lambda r: r.session.get("a"), lambda r: "a" in r.session])
def test_an_answer_that_depends_on_a_session_is_never_public(look: Any, given: str | None, sent: list[str]) -> None:
    headers = cached(look, {"Cache-Control": given} if given else {})
    assert (tokens(headers["Cache-Control"]), headers["Vary"]) == (sent, "Cookie")


def test_an_answer_that_may_not_be_stored_stays_so() -> None:
    assert "no-store" in tokens(cached(lambda r: r.session, {"Cache-Control": "no-store"})["Cache-Control"])


@pytest.mark.parametrize(
    ("given", "sent"),
    [("Accept", ["accept", "cookie"]), ("Accept, Cookie", ["accept", "cookie"]), ("cookie", ["cookie"]),
     ("X-Cookie", ["cookie", "x-cookie"])],
)  # fmt: skip
def test_vary_has_cookie_once_beside_what_the_handler_said(given: str, sent: list[str]) -> None:
    assert tokens(cached(lambda r: r.session, {"Vary": given})["Vary"]) == sent


def test_an_answer_that_has_not_looked_at_the_session_may_be_public() -> None:
    headers = cached(lambda r: r.cookies, {"Cache-Control": "public"})
    assert (headers["Cache-Control"], "Vary" in headers) == ("public", False)


@pytest.mark.parametrize("where", ["handler", "middleware"])
def test_an_error_that_depends_on_a_session_is_not_public_either(where: str) -> None:
    app = Brubeck(secret=SECRET)

    def refuse(request: Request) -> Any:
        if "user" not in request.session:
            abort(404)

    app.route("/")(refuse if where == "handler" else lambda request: "fine")
    if where == "middleware":
        app.wrap(lambda respond: lambda request: refuse(request) or respond(request))
    headers = app.test().get("/").headers
    assert (headers["Vary"], headers["Cache-Control"]) == ("Cookie", "private")


# Without a secret


def with_signed_cookie() -> Response:
    response = Response()
    response.set_cookie("a", "b", signed=True)
    return response


@pytest.mark.parametrize(
    "look",
    [lambda request: request.session, lambda request: request.get_signed_cookie("a"),
     lambda request: with_signed_cookie()],
)  # fmt: skip
def test_without_a_secret_the_error_says_how_to_make_one(look: Any) -> None:
    app = Brubeck()
    app.route("/")(lambda request: look(request) or "fine")
    with pytest.raises(RuntimeError, match=r"secrets\.token_hex\(32\)"):
        app.test(raise_errors=True).get("/", headers={"Cookie": "a=b; session=c"})
    status, fields = by_wsgi(app, HTTP_COOKIE="a=b; session=c")
    assert (status, "Set-Cookie" in dict(fields)) == ("500 Internal Server Error", False)


def test_without_a_secret_what_needs_none_is_served() -> None:
    assert session_app(secret=None).test().get("/untouched", headers={"Cookie": "session=x"}).text == "fine"


# Several cookies with one name: another subdomain, or a page with a longer path, has put its own before ours


def test_of_several_signed_cookies_the_first_that_verifies_is_taken(app: Brubeck) -> None:
    good, other = (sign(value, SECRET, "a") for value in ("good", "other"))
    forged = sign("forged", ANOTHER, "a")
    sent = f"a=; a=x; a={forged}; a={sign('admin', SECRET, 'b')}; a={good}; a={other}"
    assert app.test(raise_errors=True).get("/get?name=a", headers={"Cookie": sent}).json == {"value": "good"}


def test_a_signed_cookie_that_is_too_old_does_not_hide_another(app: Brubeck, clock: Clock) -> None:
    old = sign("old", SECRET, "a")
    clock.now += 100
    sent = f"a={old}; a={sign('new', SECRET, 'a')}"
    client = app.test(raise_errors=True)
    assert client.get("/get?name=a&max_age=60", headers={"Cookie": sent}).json == {"value": "new"}


@pytest.mark.parametrize("planted", ["session=x", "session=", 'session="a.b.c"', "session=x; session=y; session=z"])
def test_a_cookie_before_the_session_signs_nobody_out(planted: str) -> None:
    client = session_app().test(raise_errors=True)
    client.get("/?fill")
    sent = f"{planted}; session={client.cookies['session']}"
    assert session_app().test(raise_errors=True).get("/", headers={"Cookie": sent}).json == FILLED
    assert dict(by_wsgi(session_app(), HTTP_COOKIE=sent)[1]).get("Set-Cookie") is None


@pytest.mark.parametrize("planted", ["x", "a.b.c", sign("forged", ANOTHER, "a")])
def test_as_many_cookies_as_a_head_has_room_for_hide_no_signed_one(app: Brubeck, planted: str) -> None:
    good = sign("good", SECRET, "a")
    sent = f"a={planted}; " * ((65_000 - len(good)) // (len(planted) + 4)) + f"a={good}"
    assert app.test(raise_errors=True).get("/get?name=a", headers={"Cookie": sent}).json == {"value": "good"}


def test_what_cannot_be_a_signature_costs_no_hmac(app: Brubeck, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[Any] = []
    digest = hmac.digest
    monkeypatch.setattr(hmac, "digest", lambda *given: computed.append(given) or digest(*given))
    sent = "a=x; a=; a=a.b.c; " * 1000 + f"a={sign('good', SECRET, 'a')}"
    assert app.test(raise_errors=True).get("/get?name=a", headers={"Cookie": sent}).json == {"value": "good"}
    assert len(computed) < 10


# The settings of the session's cookie


def https_client(app: Brubeck) -> Any:
    return app.test(raise_errors=True, base_url="https://club.example")


def test_by_https_the_cookie_of_a_session_is_one_that_nobody_else_can_set() -> None:
    client = https_client(session_app())
    cookie = client.get("/?fill").headers["Set-Cookie"]
    assert cookie.startswith("__Host-session=")
    assert cookie.partition(";")[2] == " Max-Age=1209600; Path=/; HttpOnly; SameSite=Lax; Secure"
    assert client.get("/").json == FILLED


def test_by_https_a_session_that_was_emptied_is_deleted_as_the_prefix_of_its_name_demands() -> None:
    client = https_client(session_app(lambda session: session.clear()))
    client.get("/?fill")
    assert client.get("/").headers["Set-Cookie"] == f"__Host-session=; {EPOCH}; Path=/; HttpOnly; SameSite=Lax; Secure"
    assert client.cookies == {}


def test_a_session_that_came_by_http_is_not_believed_by_https_under_either_name() -> None:
    insecure = session_app().test(raise_errors=True)
    insecure.get("/?fill")
    planted = insecure.cookies["session"]
    client = https_client(session_app())
    client.cookies.update({"session": planted, "__Host-session": planted})
    assert client.get("/").json == {}
    client.get("/?fill")
    client.cookies["session"] = planted
    assert client.get("/").json == FILLED


def test_a_session_of_https_is_not_believed_by_http() -> None:
    secure = https_client(session_app())
    secure.get("/?fill")
    client = session_app().test(raise_errors=True)
    client.cookies.update({"session": secure.cookies["__Host-session"], **secure.cookies})
    assert client.get("/").json == {}


def test_the_scheme_is_what_a_trusted_proxy_says() -> None:
    forwarded = {"X-Forwarded-Proto": "https"}
    for proxies, name in ((1, "__Host-session="), (0, "session=")):
        assert session_app(proxies=proxies).test().get("/?fill", forwarded).headers["Set-Cookie"].startswith(name)


def test_a_signed_cookie_with_the_name_of_a_session_is_no_session() -> None:
    client = session_app().test(raise_errors=True)
    client.cookies["session"] = sign('{"user":"admin"}', SECRET, "session")
    assert client.get("/").json == {}


@pytest.mark.parametrize(
    ("given", "scheme", "name", "attributes"),
    [({"name": "sid"}, "http", "sid", "Max-Age=1209600; Path=/; HttpOnly; SameSite=Lax"),
     ({"name": "sid"}, "https", "__Host-sid", "Max-Age=1209600; Path=/; HttpOnly; SameSite=Lax; Secure"),
     ({"max_age": 60}, "http", "session", "Max-Age=60; Path=/; HttpOnly; SameSite=Lax"),
     ({"samesite": "Strict"}, "http", "session", "Max-Age=1209600; Path=/; HttpOnly; SameSite=Strict"),
     ({"samesite": None}, "http", "session", "Max-Age=1209600; Path=/; HttpOnly"),
     ({"samesite": "None"}, "http", "__Host-session", "Max-Age=1209600; Path=/; HttpOnly; SameSite=None; Secure"),
     ({"secure": True}, "http", "__Host-session", "Max-Age=1209600; Path=/; HttpOnly; SameSite=Lax; Secure"),
     ({"secure": False}, "https", "session", "Max-Age=1209600; Path=/; HttpOnly; SameSite=Lax"),
     ({"name": "__Host-s"}, "https", "__Host-s", "Max-Age=1209600; Path=/; HttpOnly; SameSite=Lax; Secure"),
     ({"name": "__Secure-s"}, "http", "__Secure-s", "Max-Age=1209600; Path=/; HttpOnly; SameSite=Lax; Secure")],
)  # fmt: skip
def test_the_cookie_of_a_session_has_settings(given: Any, scheme: str, name: str, attributes: str) -> None:
    app = session_app(lambda session: session.clear())
    app.session_cookie = SessionCookie(**given)
    client = app.test(raise_errors=True, base_url=f"{scheme}://club.example")
    cookie = client.get("/?fill").headers["Set-Cookie"]
    assert (cookie.partition("=")[0], cookie.partition("; ")[2]) == (name, attributes)
    answer = client.get("/")
    assert answer.json == FILLED
    deleted = attributes.partition("; ")[2]
    assert answer.headers["Set-Cookie"] == f"{name}=; {EPOCH}; {deleted}"


def test_a_session_is_over_after_the_age_that_was_set(clock: Clock) -> None:
    app = session_app()
    app.session_cookie = SessionCookie(max_age=60)
    client = app.test(raise_errors=True)
    client.get("/?fill")
    clock.now += 59
    assert client.get("/").json == FILLED
    clock.now += 3
    assert client.get("/").json == {}


@pytest.mark.parametrize(
    "given",
    [{"name": ""}, {"name": "a b"}, {"name": "a;"}, {"name": "é"}, {"name": "a\n"}, {"max_age": 0}, {"max_age": -1},
     {"max_age": 1.5}, {"max_age": None}, {"samesite": "lax"}, {"samesite": ""}, {"secure": "no"},
     {"secure": False, "samesite": "None"}, {"secure": False, "name": "__Host-a"},
     {"secure": False, "name": "__secure-a"}],
    ids=repr,
)  # fmt: skip
def test_settings_that_cannot_be_are_an_error_where_they_are_set(given: Any) -> None:
    with pytest.raises(ValueError):
        SessionCookie(**given)


# Applications inside another


def test_an_application_that_was_mounted_has_a_session_of_its_own_secret() -> None:
    outer, inner = session_app(), session_app(secret=ANOTHER)
    outer.mount("/inner", inner)
    client = outer.test(raise_errors=True)
    client.get("/inner/?fill")
    assert client.get("/inner/").json == FILLED
    assert client.get("/").json == {}


def test_an_application_that_was_mounted_signs_cookies_with_its_own_secret(app: Brubeck) -> None:
    outer = Brubeck(secret=ANOTHER)
    outer.mount("/inner", app)
    client = outer.test()
    client.get("/inner/set?name=a&value=b")
    assert client.get("/inner/get?name=a").json == {"value": "b"}


def test_who_signed_in_to_one_application_is_nobody_in_another_with_a_secret_of_its_own() -> None:
    outer, inner = session_app(), Brubeck(secret=ANOTHER)
    inner.route("/")(lambda request: {"user": request.current_user})
    outer.wrap(lambda respond: lambda request: (request.current_user, respond(request))[1])
    outer.mount("/inner", inner)
    client = outer.test()
    client.get("/?fill")
    assert client.get("/inner/").json == {"user": None}


def test_what_is_mounted_in_several_applications_has_the_session_of_the_one_that_is_asked(app: Brubeck) -> None:
    app.secret = None
    app.get("/who")(lambda request: {"user": request.session.get("user")})
    outer = [session_app(secret=secret) for secret in (SECRET, ANOTHER)]
    for each in outer:
        each.mount("/inner", app)
    for client in (outer[0].test(raise_errors=True), outer[1].test(raise_errors=True)):
        client.get("/?fill")
        assert client.get("/inner/who").json == {"user": client.get("/").json["user"]}
        client.get("/inner/set?name=a&value=b")
        assert client.get("/inner/get?name=a").json == {"value": "b"}


def test_two_applications_with_one_secret_share_a_session() -> None:
    outer, inner = session_app(), session_app(lambda session: session.update(user="bob"))
    outer.mount("/inner", inner)
    client = outer.test(raise_errors=True)
    client.get("/?fill")
    assert client.get("/inner/").json == FILLED
    assert client.get("/").json["user"] == "bob"


def nested(secrets: dict[str, str | None]) -> Brubeck:
    """Applications in each other, by the path at which each is mounted, with these secrets (None: the outer one's)."""
    apps = {path: session_app(secret=secret) for path, secret in secrets.items()}
    for path in sorted(apps, key=len, reverse=True)[:-1]:
        outer = max((other for other in apps if path.startswith(f"{other}/")), key=len)
        apps[outer].mount(path[len(outer) :], apps[path])
    return apps[""]


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("secrets", [
    {"": SECRET, "/a": ANOTHER}, {"": SECRET, "/a": ANOTHER, "/b": NEW}, {"": None, "/a": ANOTHER, "/b": NEW},
    {"": SECRET, "/a": ANOTHER, "/a/b": NEW}, {"": SECRET, "/a": ANOTHER, "/a/b": SECRET},
    {"": SECRET, "/a": None, "/a/c": ANOTHER, "/b": None, "/b/c": NEW}, {"": SECRET, "/a/b": ANOTHER, "/a-b": NEW},
    {"": SECRET, "/a%2Fb": ANOTHER, "/a": None, "/a/b": NEW}, {"": SECRET, "/ä": ANOTHER, "/Ã¤": NEW},
], ids=str)  # fmt: skip
def test_each_application_with_a_secret_of_its_own_keeps_its_session_beside_the_others(
    secrets: dict[str, str | None], scheme: str
) -> None:
    client = nested(secrets).test(raise_errors=True, base_url=f"{scheme}://club.example")
    own = [path for path, secret in secrets.items() if secret is not None]
    cookies: list[str] = []
    for path in own:
        cookies.append(client.get(f"{brubeck_lite.quote(path)}/?fill").headers["Set-Cookie"])
    assert len(client.cookies) == len(own) == len({cookie.partition("=")[0] for cookie in cookies})
    assert all(cookie.startswith("__Host-") == (scheme == "https") and "; Path=/; " in cookie for cookie in cookies)
    assert [client.get(f"{brubeck_lite.quote(path)}/").json for path in own] == [FILLED] * len(own)


def test_the_cookie_of_a_mounted_application_has_its_prefix_in_its_name() -> None:
    client = nested({"": SECRET, "/club": None, "/club/admin": ANOTHER}).test()
    assert client.get("/club/admin/?fill").headers["Set-Cookie"].startswith("session%2Fclub%2Fadmin=")
    assert client.get("/club/?fill").headers["Set-Cookie"].startswith("session=")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_who_signs_out_of_one_application_stays_in_the_other(scheme: str) -> None:
    for leaves, stays in (("/", "/inner/"), ("/inner/", "/")):
        empties = session_app(lambda session: session.clear())
        outer, inner = (empties, session_app()) if leaves == "/" else (session_app(), empties)
        inner.secret = ANOTHER
        outer.mount("/inner", inner)
        client = outer.test(raise_errors=True, base_url=f"{scheme}://club.example")
        for path in (leaves, stays):
            client.get(f"{path}?fill")
        client.get(leaves)
        assert (client.get(leaves).json, client.get(stays).json) == ({}, FILLED)


def test_settings_of_the_outer_application_hold_for_a_session_that_is_shared() -> None:
    outer, inner = session_app(), session_app(secret=None)
    outer.session_cookie = SessionCookie("outer", max_age=60)
    inner.session_cookie = SessionCookie("inner")
    outer.mount("/inner", inner)
    cookies = [value for name, value in outer.test().get("/inner/?fill").headers.pairs() if name == "Set-Cookie"]
    assert len(cookies) == 1
    assert cookies[0].startswith("outer=") and "; Max-Age=60;" in cookies[0]


def test_settings_of_its_own_hold_for_a_mounted_application_with_a_secret_of_its_own() -> None:
    outer, inner = session_app(), session_app(secret=ANOTHER)
    inner.session_cookie = SessionCookie("shop", samesite="Strict")
    outer.mount("/a", inner)
    outer.mount("/b", inner)
    client = outer.test(raise_errors=True)
    cookie = client.get("/a/?fill").headers["Set-Cookie"]
    assert cookie.startswith("shop=") and cookie.endswith("; SameSite=Strict")
    assert client.get("/b/").json == FILLED


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("secret", [None, ANOTHER])
def test_the_token_of_forms_lives_in_the_session_of_its_application(secret: str | None, scheme: str) -> None:
    outer, inner = Brubeck(secret=SECRET), Brubeck(secret=secret)
    outer.mount("/inner", inner)
    for app in (outer, inner):
        app.route("/")(csrf_token)
        app.post("/", name="send")(lambda request: "sent")
    inner.wrap(csrf())
    client = outer.test(base_url=f"{scheme}://club.example")
    others, own = client.get("/").text, client.get("/inner/").text
    assert (others == own) == (secret is None)
    assert [client.post("/inner/", data={"csrf_token": given}).status for given in ("x", own)] == [403, 200]


def test_below_script_name_a_mounted_application_has_a_session_of_its_own_too() -> None:
    outer, inner = session_app(), session_app(secret=ANOTHER)
    outer.mount("/inner", inner)
    asked = [by_wsgi(outer, path, SCRIPT_NAME="/site", QUERY_STRING="fill") for path in ("/", "/inner/")]
    names = [dict(fields)["Set-Cookie"].partition("=")[0] for _, fields in asked]
    assert names[0] == "session" and names[1] != "session"


def test_a_websocket_of_a_mounted_application_sees_its_session() -> None:
    outer, inner = session_app(), session_app(secret=ANOTHER)
    outer.mount("/inner", inner)

    @inner.websocket("/ws")
    def talk(ws: Any) -> None:
        ws.send(ws.request.session)

    client = outer.test(raise_errors=True)
    client.get("/inner/?fill")
    with client.websocket("/inner/ws") as ws:
        assert json.loads(ws.receive()) == FILLED


@pytest.mark.parametrize("value", [5, None, b"x", {"a": 1}])
@pytest.mark.parametrize("signed", [False, True])
def test_the_value_of_a_cookie_is_a_str_or_an_error_where_it_is_set(value: Any, signed: bool) -> None:
    with pytest.raises(TypeError, match="the value of the cookie 'a' is a str, not"):
        Response().set_cookie("a", value, signed=signed)


@pytest.mark.parametrize("value", [{1}, datetime.date(2026, 1, 1), float("nan"), b"x"])
def test_what_a_session_cannot_hold_is_told_in_one_sentence(value: Any, caplog: pytest.LogCaptureFixture) -> None:
    app = Brubeck(secret="a secret of thirty-two characters")
    app.get("/")(lambda request: request.session.update(a=value))
    assert app.test().get("/").status == 500
    (record,) = caplog.records
    assert "request.session has something in it that JSON cannot hold" in record.getMessage() and not record.exc_info
