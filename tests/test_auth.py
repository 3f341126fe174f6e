"""Who is asking: sign-in, Basic and Bearer credentials, passwords; and the mixins, which are these for classes."""

from __future__ import annotations

import base64
import contextlib
import functools
import hashlib
import http.client
import json
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from support import Mongrel2, behind_http, behind_mongrel2, behind_wsgi, environment, output, wait_for

from brubeck_lite import (
    ArgumentsMixin,
    AuthMixin,
    Brubeck,
    HTTPError,
    MessageHandler,
    Request,
    Response,
    TemplateMixin,
    WebMessageHandler,
    WebSocket,
    abort,
    authenticated,
    basic_auth,
    bearer_auth,
    check_password,
    hash_password,
    redirect,
    safe_target,
)

SECRET = "a secret of thirty-two characters"


class Members(AuthMixin, WebMessageHandler):
    """A page for all, of which members may change something."""

    def get(self) -> str:
        return f"for all, {self.current_user}"

    @authenticated
    def post(self) -> str:
        return f"changed by {self.current_user}"


def members_app(login: bool = True) -> Brubeck:
    """Pages for members, as a function and as a class; POST /enter?user= signs in, `/login` is the page for that."""
    app = Brubeck(secret=SECRET)

    @app.route("/members/<path:page>", methods=["GET", "POST"])
    @authenticated
    def members(request: Request, page: str) -> str:
        return f"{page} for {request.current_user}"

    @app.post("/enter")
    def enter(request: Request) -> None:
        request.session["user"] = request.query["user"]

    @app.post("/leave")
    def leave(request: Request) -> None:
        request.session.pop("user", None)

    app.route("/class")(Members)
    if login:
        app.route("/login")(says_login)
    return app


def says_login(request: Request) -> str:
    return "please sign in"


says_login.__name__ = "login"


# authenticated


def test_a_page_for_members_is_for_who_signed_in_until_they_leave() -> None:
    client = members_app(login=False).test(raise_errors=True)
    seen = [client.get("/members/a").status]
    client.post("/enter?user=ann")
    seen.append(client.get("/members/a").text)
    client.post("/leave")
    assert [*seen, client.get("/members/a").status] == [401, "a for ann", 401]


@pytest.mark.parametrize(
    "target",
    ["/members/a", "/members/a?b=c&d=%26e%23", "/members/%C3%A9%20%3F", "/members/a?next=//evil",
     "/members/a?%0d%0aX:1"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_did_not_sign_in_is_sent_to_the_login_page_which_knows_where_they_wanted_to_go(
    target: str, method: str
) -> None:
    app = members_app()
    seen: list[bool] = []
    app.route("/look")(lambda request: seen.append(safe_target(request, request.query["next"])))
    got = app.test(raise_errors=True).request(method, target)
    location = urlsplit(got.headers["Location"])
    wanted = parse_qs(location.query)["next"][0]
    assert (got.status, location.path, wanted) == (303, "/login", target)
    app.test(raise_errors=True).get(f"/look?{location.query}")
    assert seen == [True]


@pytest.mark.parametrize(("login", "method"), [(True, "POST"), (False, "POST"), (False, "GET")])
def test_who_did_not_sign_in_and_cannot_be_sent_is_401(login: bool, method: str) -> None:
    got = members_app(login).test().request(method, "/members/a")
    assert (got.status, "Location" in got.headers, "WWW-Authenticate" in got.headers) == (401, False, True)


def test_the_way_to_the_login_page_is_kept_by_nobody_else() -> None:
    headers = members_app().test().get("/members/a").headers
    assert ("Cookie" in headers["Vary"], "private" in headers["Cache-Control"]) == (True, True)


def test_a_guarded_function_keeps_its_name_and_its_arguments() -> None:
    app = members_app()
    client = app.test()
    client.post("/enter?user=ann")
    path = app.url_for("members", page="x/y")
    assert (path, client.get(path).text) == ("/members/x/y", "x/y for ann")


def test_of_a_class_the_methods_that_say_so_are_for_members() -> None:
    client = members_app().test()
    seen = [client.get("/class").text, client.post("/class").status]
    client.post("/enter?user=ann")
    assert [*seen, client.get("/class").text, client.post("/class").text] == [
        "for all, None", 401, "for all, ann", "changed by ann"
    ]  # fmt: skip


@pytest.mark.parametrize("guard", [authenticated, basic_auth(lambda *_: True), bearer_auth(lambda _: True)])
def test_a_guard_above_a_class_is_an_error_and_not_a_page_for_everybody(guard: Any) -> None:
    with pytest.raises(TypeError, match="not above the class Members"):
        guard(Members)


def test_a_class_without_a_user_of_its_own_has_that_of_its_request() -> None:
    class Page(MessageHandler):
        @authenticated
        def get(self) -> str:
            return f"for {self.request.current_user}"

    app = Brubeck(secret=SECRET)
    app.route("/")(Page)
    app.get("/ann")(lambda request: request.session.update(user="ann"))
    client = app.test()
    assert client.get("/").status == 401
    client.get("/ann")
    assert client.get("/").text == "for ann"


@pytest.mark.parametrize("user", [None, "", False])
def test_a_user_that_is_nothing_is_nobody(user: Any) -> None:
    class Page(AuthMixin, WebMessageHandler):
        def get_current_user(self) -> Any:
            return user

        @authenticated
        def get(self) -> str:
            return "for members"

    app = Brubeck()
    app.route("/")(Page)
    assert app.test().get("/").status == 401


def test_a_program_says_who_the_user_is_and_is_asked_once() -> None:
    asked: list[Request] = []

    class Page(AuthMixin, WebMessageHandler):
        def get_current_user(self) -> Any:
            asked.append(self.request)
            return {"name": self.request.headers.get("x-user")}

        @authenticated
        def get(self) -> Any:
            return [self.current_user, self.current_user]

    app = Brubeck()
    app.route("/")(Page)
    assert app.test(raise_errors=True).get("/", {"X-User": "ann"}).json == [{"name": "ann"}] * 2
    assert len(asked) == 1


def test_a_mounted_application_has_a_login_page_of_its_own() -> None:
    outer = Brubeck(secret=SECRET)
    outer.mount("/inner", members_app())
    location = urlsplit(outer.test().get("/inner/members/a?b=c").headers["Location"])
    assert (location.path, parse_qs(location.query)) == ("/inner/login", {"next": ["/inner/members/a?b=c"]})


# Basic (RFC 7617) and Bearer (RFC 6750)


def test_a_websocket_is_opened_only_once_its_checks_have_let_the_client_in(caplog: pytest.LogCaptureFixture) -> None:
    app, asked = members_app(), list[str]()

    def find(token: str) -> bool:
        asked.append(token)
        return token == "known"

    def counted(handler: Callable[[Any], None]) -> Callable[[Any], None]:
        return functools.wraps(handler)(lambda ws: (ws.send("counted"), handler(ws))[1])

    @app.websocket("/members")
    @authenticated
    @counted
    @authenticated
    def talk(ws: WebSocket) -> None:
        ws.send(str(ws.request.current_user))

    @app.websocket("/robots")
    @bearer_auth(find)
    @authenticated
    def robots(ws: WebSocket) -> None:
        ws.send(str(ws.request.current_user))

    client = app.test()
    refused = [client.websocket("/members").answer, client.websocket("/robots").answer,
               client.websocket("/robots", {"Authorization": "Bearer unknown"}).answer]  # fmt: skip
    assert [answer.status for answer in refused] == [303, 401, 401]
    assert refused[0].headers["Location"] == "/login?next=%2Fmembers"
    assert refused[1].headers["WWW-Authenticate"] == 'Bearer realm="members"'
    assert caplog.records == []  # nothing failed
    client.post("/enter?user=ann")
    with client.websocket("/members") as ws:
        assert [ws.receive(), ws.receive()] == ["counted", "ann"]
    with client.websocket("/robots", {"Authorization": "Bearer known"}) as ws:
        assert (ws.answer.status, ws.receive(), asked) == (101, "True", ["unknown", "known"])


def guarded(decorator: Callable[[Any], Any]) -> Brubeck:
    """/ is a function, /class a class; both say who the user is."""
    app = Brubeck()
    app.route("/")(decorator(lambda request: repr(request.current_user)))

    @app.route("/class")
    class Page(AuthMixin, WebMessageHandler):
        @decorator
        def get(self) -> str:
            return repr(self.current_user)

    return app


def basic(credentials: str | bytes) -> str:
    octets = credentials.encode() if isinstance(credentials, str) else credentials
    return f"Basic {base64.b64encode(octets).decode()}"


def ask(app: Brubeck, authorization: str | None, path: str = "/") -> Any:
    return app.test(raise_errors=True).get(path, {"Authorization": authorization} if authorization is not None else {})


@pytest.mark.parametrize("path", ["/", "/class"])
@pytest.mark.parametrize(
    ("credentials", "checked"),
    [("ann:secret", ("ann", "secret")), ("ann:a:b:", ("ann", "a:b:")), ("ann:", ("ann", "")), (":x", ("", "x")),
     ("é€:ü😀", ("é€", "ü😀")), ("a b: c ", ("a b", " c ")), ("ann:\x00\n", ("ann", "\x00\n"))],
)  # fmt: skip
def test_basic_credentials_are_checked(credentials: str, checked: tuple[str, str], path: str) -> None:
    seen: list[tuple[str, str]] = []
    app = guarded(basic_auth(lambda name, password: seen.append((name, password)) or {"id": 1}))
    assert (ask(app, basic(credentials), path).text, seen) == ("{'id': 1}", [checked])


@pytest.mark.parametrize(("found", "user"), [(True, "'ann'"), ("Ann", "'Ann'"), (7, "7")])
def test_what_a_check_finds_is_the_user(found: Any, user: str) -> None:
    assert ask(guarded(basic_auth(lambda name, password: found)), basic("ann:x")).text == user


@pytest.mark.parametrize("scheme", ["Basic", "basic", "BASIC"])
def test_the_scheme_is_read_in_any_case(scheme: str) -> None:
    app = guarded(basic_auth(lambda name, password: password == "x"))
    assert ask(app, basic("ann:x").replace("Basic", scheme)).status == 200


@pytest.mark.parametrize(
    "authorization",
    [None, "", " ", "Basic", "Basic ", "Basic !!!", "Basic YW5u", "Basic YW5uOn", "Basic YW5uOng", "Basic é",
     "BasicYW5uOng=", "Basic YW5uOng= x", "Basic YW5u OngK", "Bearer YW5uOng=", "YW5uOng=", ":", "Basic ====",
     "Basic YW5uOng==", basic(b"\xff\xfe:\xff"), basic(b"ann:\xe9"), basic(""), basic("ann"),
     "Basic " + "A" * 6001, 'Basic username="ann"', "Digest " + "x" * 100, "Basic -_-_", "Basic YW5uOng=,"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/class"])
def test_credentials_that_are_none_are_401_and_nobody_is_asked(authorization: str | None, path: str) -> None:
    asked: list[Any] = []
    got = ask(guarded(basic_auth(lambda *given: asked.append(given) or True)), authorization, path)
    assert (got.status, asked) == (401, [])
    assert got.headers["WWW-Authenticate"].startswith('Basic realm="') and "UTF-8" in got.headers["WWW-Authenticate"]


@pytest.mark.parametrize("found", [False, None, "", 0, {}])
def test_credentials_that_a_check_refuses_are_401_and_the_handler_is_not_called(found: Any) -> None:
    called: list[Request] = []
    app = Brubeck()
    app.route("/")(basic_auth(lambda name, password: found)(called.append))
    assert (ask(app, basic("ann:x")).status, called) == (401, [])


def test_a_check_that_fails_is_a_500() -> None:
    app = guarded(basic_auth(lambda name, password: 1 / 0))
    assert app.test().get("/", {"Authorization": basic("ann:x")}).status == 500


def test_a_user_of_basic_credentials_passes_for_signed_in_without_any_session() -> None:
    app = Brubeck()
    app.route("/")(basic_auth(lambda name, password: True)(authenticated(lambda request: request.current_user)))
    assert ask(app, basic("ann:x")).text == "ann"


@pytest.mark.parametrize(
    ("authorization", "token"),
    [("Bearer abc", "abc"), ("bearer abc", "abc"), ("BEARER a.b-c_d~e+f/g==", "a.b-c_d~e+f/g=="),
     ("Bearer  abc", "abc")],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/class"])
def test_a_bearer_token_is_checked(authorization: str, token: str, path: str) -> None:
    app = guarded(bearer_auth(lambda given: {"token": given}))
    assert ask(app, authorization, path).text == repr({"token": token})


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer ", "Basic abc", "abc", "Bearerabc", "Token abc"])
def test_a_token_that_is_none_is_401_and_nobody_is_asked(authorization: str | None) -> None:
    asked: list[Any] = []
    got = ask(guarded(bearer_auth(lambda token: asked.append(token) or True)), authorization)
    assert (got.status, got.headers["WWW-Authenticate"][:6], asked) == (401, "Bearer", [])


def test_a_token_that_a_check_refuses_is_401() -> None:
    app = guarded(bearer_auth(lambda token: token == "right" and "ann"))
    assert [ask(app, f"Bearer {token}").status for token in ("right", "wrong", "é")] == [200, 401, 401]


def test_a_key_may_come_as_a_password_without_a_name() -> None:
    app = guarded(basic_auth(lambda name, password: password == "key"))
    assert [ask(app, basic(given)).status for given in (":key", ":wrong")] == [200, 401]


@pytest.mark.parametrize("authorization", ["Token abc", "token abc"])
def test_a_token_may_come_by_another_scheme(authorization: str) -> None:
    app = guarded(bearer_auth(lambda token: token == "abc" and "ann", scheme="Token"))
    assert ask(app, authorization).text == "'ann'"
    refused = ask(app, "Bearer abc")
    assert (refused.status, refused.headers["WWW-Authenticate"].split()[0]) == (401, "Token")
    with pytest.raises(ValueError, match="scheme"):
        bearer_auth(lambda token: token, scheme="To ken")


@pytest.mark.parametrize(
    "decorator", [bearer_auth(lambda token: None, optional=True), basic_auth(lambda name, word: None, optional=True)]
)
def test_where_credentials_are_optional_a_client_without_any_is_a_guest(decorator: Any) -> None:
    app = guarded(decorator)
    assert [ask(app, given).text for given in (None, "Digest x")] == ["None", "None"]
    assert [ask(app, given).status for given in ("Bearer wrong", basic("ann:wrong"))].count(401) == 1


def by_default(token: str, database: str = "db") -> str:
    return f"{token} {database}"


@pytest.mark.parametrize(
    ("check", "user"),
    [(lambda token, request: f"{token} {request.path}", "abc /"), (lambda token, asked: token + asked.path, "abc/"),
     (lambda request, token: token + request.path, "abc/"), (lambda token, *, request: token + request.path, "abc/"),
     (by_default, "abc db"), (str.upper, "ABC"), ({"abc": "ann"}.get, "ann")],
)  # fmt: skip
def test_a_check_gets_the_request_where_it_takes_it(check: Any, user: str) -> None:
    assert ask(guarded(bearer_auth(check)), "Bearer abc").text == repr(user)


def test_a_check_of_basic_credentials_gets_the_request_too() -> None:
    app = guarded(basic_auth(lambda name, password, request: f"{name} {password} {request.path}"))
    assert ask(app, basic("ann:x")).text == "'ann x /'"


# Caches that clients share


def cached_app() -> Brubeck:
    """Pages that depend on who asks, each in another way; and pages that do not."""
    app, inner = Brubeck(secret=SECRET), Brubeck()

    def who(request: Request) -> Any:
        return request.headers.get("authorization") or abort(403)

    def page(request: Request) -> str:
        return "a page"

    def public(request: Request) -> Any:
        return "for all", 200, {"Cache-Control": request.query["allows"]}

    members = basic_auth(lambda name, password: True)
    app.route("/basic", name="/basic")(members(page))
    app.route("/basic/public", name="/basic/public")(members(lambda r: ("mine", 200, {"Cache-Control": "public"})))
    app.route("/basic/304", name="/basic/304")(members(lambda request: ("", 304, {"ETag": '"a"'})))
    app.route("/basic/fails", name="/basic/fails")(members(lambda request: 1 / 0))
    app.route("/basic/stream", name="/basic/stream")(members(lambda request: iter(["mine"])))
    app.route("/bearer", name="/bearer")(bearer_auth(lambda token: True)(page))
    app.route("/read", name="/read")(who)
    app.route("/plain", name="/plain")(page)
    app.route("/public", name="/public")(public)
    inner.route("/basic", name="/basic")(members(page))
    inner.route("/read", name="/read")(who)
    app.mount("/inner", inner)
    return app


BASIC = {"Authorization": "Basic YTpi"}


@pytest.mark.parametrize(
    ("path", "status"),
    [("/basic", 200), ("/basic/public", 200), ("/basic/304", 304), ("/basic/fails", 500), ("/basic/stream", 200),
     ("/read", 200), ("/inner/basic", 200), ("/inner/read", 200), ("/plain", 200), ("/nowhere", 404)],
)  # fmt: skip
def test_what_was_asked_with_credentials_is_kept_out_of_shared_caches(path: str, status: int) -> None:
    headers = (got := cached_app().test().get(path, BASIC)).headers
    assert (got.status, headers["Vary"]) == (status, "Authorization")
    assert "private" in headers["Cache-Control"] and "public" not in headers["Cache-Control"]


@pytest.mark.parametrize("path", ["/basic", "/bearer", "/inner/basic", "/basic/stream"])
def test_a_refusal_for_want_of_credentials_is_kept_out_of_shared_caches(path: str) -> None:
    got = cached_app().test().get(path)
    assert (got.status, got.headers["Vary"], got.headers["Cache-Control"]) == (401, "Authorization", "private")


@pytest.mark.parametrize("allows", ["public", "max-age=5, Public", "s-maxage=5", "max-age=5,s-maxage=5"])
def test_a_handler_that_reads_no_credentials_may_allow_shared_caches_to_keep_its_answer(allows: str) -> None:
    got = cached_app().test().get("/public", BASIC, query={"allows": allows})
    assert (got.headers["Cache-Control"], "Vary" in got.headers) == (allows, False)


@pytest.mark.parametrize("allows", ["max-age=5", "no-cache", "private, max-age=5"])
def test_an_age_alone_does_not_allow_that(allows: str) -> None:
    got = cached_app().test().get("/public", BASIC, query={"allows": allows})
    assert {"private", allows.rsplit(", ", maxsplit=1)[-1]} <= {*got.headers["Cache-Control"].split(", ")}


def test_an_answer_to_nobody_in_particular_says_nothing_to_caches() -> None:
    assert {"Vary", "Cache-Control"}.isdisjoint(cached_app().test().get("/plain").headers)


def test_a_page_for_a_user_whom_the_program_finds_is_kept_out_of_shared_caches() -> None:
    class Page(AuthMixin, WebMessageHandler):
        def get_current_user(self) -> Any:
            return self.request.cookies.get("user")

        def get(self) -> str:
            return f"for {self.current_user}"

        @authenticated
        def post(self) -> str:
            return "changed"

    app = Brubeck()
    app.route("/")(Page)
    for method in ("GET", "POST"):
        for fields in ({"Cookie": "user=ann"}, {}):
            headers = app.test().request(method, "/", fields).headers
            assert headers["Cache-Control"] == "private"


# Passwords

HASHED = hash_password("secret")


@pytest.mark.parametrize(("password", "other"), [("", " "), ("é€😀 ", "é€😀"), ("x" * 100_000, "x" * 99_999)])
def test_a_password_is_known_by_its_hash(password: str, other: str) -> None:
    hashed = hash_password(password)
    assert check_password(password, hashed) and not check_password(other, hashed)


def test_a_password_that_is_missing_in_the_form_is_nobodys(scrypt: Scrypt) -> None:
    assert check_password(None, HASHED) is False and check_password(None, hash_password("")) is False
    assert len(scrypt.calls) == 3  # it takes as long
    with pytest.raises(TypeError, match="a password is a str, not NoneType: is the field in the form"):
        hash_password(None)  # type: ignore[arg-type]


def test_a_hash_tells_its_parameters_and_never_the_password_and_no_two_are_alike() -> None:
    other = hash_password("secret")
    assert other != HASHED and "secret" not in HASHED and HASHED.isascii()
    assert HASHED.split("$")[:4] == other.split("$")[:4] and HASHED.startswith("scrypt$")
    assert int(HASHED.split("$")[1]) >= 1 << 14


@pytest.mark.parametrize(("password", "salt"), [("pass", b"0123456789abcdef"), ("é", b"x" * 8)])
def test_a_hash_with_other_parameters_is_still_known(password: str, salt: bytes) -> None:
    derived = hashlib.scrypt(password.encode(), salt=salt, n=1 << 10, r=4, p=2, dklen=32)
    text = [base64.urlsafe_b64encode(octets).rstrip(b"=").decode() for octets in (salt, derived)]
    assert check_password(password, "$".join(["scrypt", "1024", "4", "2", *text]))
    assert not check_password(password, "$".join(["scrypt", "1024", "4", "1", *text]))


PARTS = HASHED.split("$")


@pytest.fixture
def quick_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed for the time it takes alone, with the usual parameters and without a salt, takes none."""
    scrypt = hashlib.scrypt

    def quick(password: bytes, **given: Any) -> bytes:
        return scrypt(password, **(given if given["salt"] else {**given, "n": 2, "p": 1}))

    monkeypatch.setattr(hashlib, "scrypt", quick)


@pytest.mark.parametrize(
    "hashed",
    ["", "$", "$$$$$", "scrypt", "scrypt$", "secret", "x" * 1000, "é", "\ud800", "scrypt$16384$8$5$$", HASHED[:-1],
     HASHED + "$", HASHED + "x", "$" + HASHED, "x" + HASHED, HASHED.upper(), "$".join(PARTS[:5]),
     "$".join(PARTS[:5]) + "$", "$".join([*PARTS[:4], "!", PARTS[5]]), "$".join([*PARTS[:5], "é"]),
     "$".join([*PARTS[:5], "\ud800"]), "$".join(["bcrypt", *PARTS[1:]]), "$2b$12$abcdefghijklmnopqrstuv",
     "pbkdf2:sha256:1$x$y", "$".join([*PARTS[:4], "", PARTS[5]]), "\n" + HASHED],
    ids=lambda text: ascii(text)[:18],
)  # fmt: skip
def test_what_is_no_hash_fits_no_password(hashed: str, quick_for_nobody: None) -> None:
    assert check_password("secret", hashed) is False


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize(
    "number", ["0", "-1", "1", "3", "", "x", "1.5", "16385", "1_6", str(1 << 31), str(1 << 40), "9" * 30, "9" * 5000]
)
def test_a_hash_with_parameters_that_cannot_be_fits_no_password(
    place: int, number: str, quick_for_nobody: None
) -> None:
    assert check_password("secret", "$".join([*PARTS[:place], number, *PARTS[place + 1 :]])) is False


class Scrypt:
    """The real one, with the parameters of each call noted; a call waits while `held` says so."""

    def __init__(self) -> None:
        self.scrypt, self.calls, self.now, self.most = hashlib.scrypt, list[Any](), 0, 0
        self.is_quick = False  # with other parameters, so that no hash is right
        self.held, self.lock = threading.Event(), threading.Lock()
        self.held.set()

    def __call__(self, password: bytes, **given: Any) -> bytes:
        with self.lock:
            self.calls.append((given["n"], given["r"], given["p"]))
            self.now += 1
            self.most = max(self.most, self.now)
        self.held.wait(20)
        try:
            return self.scrypt(password, **({**given, "n": 2, "p": 1} if self.is_quick else given))
        finally:
            with self.lock:
                self.now -= 1


@pytest.fixture
def scrypt(monkeypatch: pytest.MonkeyPatch) -> Scrypt:
    """scrypt, on a machine with two cores for us."""
    counted = Scrypt()
    monkeypatch.setattr(hashlib, "scrypt", counted)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    return counted


@pytest.mark.parametrize(
    "hashed", [None, "", "!", "$2b$12$abcdefghijklmnopqrstuv", "scrypt$3$8$5$bm8gc2FsdA$bm8gaGFzaA", HASHED[:-44]],
    ids=["None", "empty", "no hash", "bcrypt", "bad parameters", "cut off"],
)
def test_a_password_for_nobody_costs_what_one_for_somebody_does(hashed: str | None, scrypt: Scrypt) -> None:
    assert check_password("secret", HASHED) is True
    cost = scrypt.calls[-1]
    assert check_password("secret", hashed) is False
    assert scrypt.calls[-1] == cost


@pytest.mark.parametrize("password", ["\ud800", "a\udfffb"])
def test_half_a_character_which_json_can_hold_is_a_password_like_others(password: str) -> None:
    assert check_password(password, hash_password(password))
    assert not check_password(password, HASHED)
    assert not check_password(password, None)


def passwords_app() -> Brubeck:
    app = Brubeck()
    app.post("/check", name="check")(lambda request: str(check_password("secret", HASHED)))
    app.post("/nobody", name="nobody")(lambda request: str(check_password("secret", None)))
    app.post("/hash", name="hash")(lambda request: hash_password("secret"))
    known = basic_auth(lambda name, password: [check_password(password, HASHED)])
    app.post("/basic", name="basic")(known(lambda request: "in"))
    return app


@pytest.mark.parametrize("path", ["/check", "/nobody", "/hash", "/basic"])
def test_in_threads_as_many_passwords_are_computed_as_there_are_cores_and_the_rest_waits_or_is_503(
    path: str, scrypt: Scrypt
) -> None:
    app = passwords_app()
    scrypt.is_quick = True
    scrypt.held.clear()
    with ThreadPoolExecutor(30) as pool:
        headers = {"Authorization": basic("ann:secret")}
        asked = [pool.submit(app.test().post, path, headers) for _ in range(30)]
        wait_for(lambda: sum(each.done() for each in asked) >= 8, what="those that are refused")
        assert scrypt.now == 2
        scrypt.held.set()
        answers = [each.result() for each in asked]
    assert Counter(answer.status for answer in answers) == {200: 22, 503: 8}
    assert all(answer.headers["Retry-After"].isdigit() for answer in answers if answer.status == 503)
    assert scrypt.most == 2
    assert app.test().post(path, headers).status == 200


def test_outside_of_a_request_the_error_is_an_http_error(scrypt: Scrypt) -> None:
    scrypt.is_quick = True
    scrypt.held.clear()
    with ThreadPoolExecutor(23) as pool:
        asked = [pool.submit(check_password, "secret", HASHED) for _ in range(23)]
        wait_for(lambda: any(each.done() for each in asked), what="the one that is refused")
        scrypt.held.set()
    failures = [error for each in asked if (error := each.exception()) is not None]
    assert [(type(error), error.status) for error in failures if isinstance(error, HTTPError)] == [(HTTPError, 503)]
    assert len(failures) == 1


@contextlib.contextmanager
def by_door(door: str, program: str) -> Iterator[str]:
    """A program by one of the doors: its address."""
    with contextlib.ExitStack() as stack:
        if door == "HTTP":
            _, port = stack.enter_context(behind_http(program))
        elif door == "Mongrel2":
            mongrel2 = stack.enter_context(Mongrel2())
            stack.enter_context(behind_mongrel2(program, mongrel2))
            port = mongrel2.port
        else:
            port = stack.enter_context(behind_wsgi(door, program))
        yield f"http://127.0.0.1:{port}"


def sign_in(address: str, path: str = "/login") -> tuple[int, str]:
    """The status of a sign-in, and what an answer that is no success says."""
    try:
        with urllib.request.urlopen(address + path, b"password=take+five", timeout=60) as answer:
            assert answer.read() == b"True"
            return answer.status, ""
    except urllib.error.HTTPError as error:
        assert error.headers["Retry-After"].isdigit()
        return error.code, error.read().decode().partition("\n")[2].strip()


REFUSED, LATE = (503, "too many passwords are to be checked just now"), (503, "this took too long")


def counts(address: str, change: str = "/") -> dict[str, int]:
    return dict(json.loads(fetch(address + change)))


@pytest.mark.parametrize("door", ["HTTP", "Mongrel2"])
def test_of_many_sign_ins_at_once_some_wait_for_a_core_and_the_rest_is_503_and_others_are_served(door: str) -> None:
    with by_door(door, "program_passwords:app") as address, ThreadPoolExecutor(30) as pool:
        counts(address, "/hold")
        asked = [pool.submit(sign_in, address, path) for path in ["/login", "/inner/login"] * 15]
        wait_for(lambda: sum(each.done() for each in asked) >= 19, what="those that are refused")
        assert counts(address, "/release")["now"] == 1
        assert Counter(each.result() for each in asked) == {(200, ""): 11, REFUSED: 19}
        assert sign_in(address) == (200, "")
        assert counts(address) == {"now": 0, "most": 1, "all": 12}


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORES", "4")
    with behind_http("program_passwords:app", "--workers", "2") as (child, port), ThreadPoolExecutor(16) as pool:
        wait_for(lambda: output(child).count("is ready") == 2, what="both workers")
        address = f"http://127.0.0.1:{port}"
        assert [*pool.map(sign_in, [address] * 16)] == [(200, "")] * 16
        assert max(each["most"] for each in pool.map(counts, [address] * 16)) == 2


@pytest.mark.parametrize("server", ["gunicorn", "waitress"])
def test_the_threads_of_a_wsgi_server_take_turns_at_passwords(server: str) -> None:
    with by_door(server, "program_passwords:app") as address, ThreadPoolExecutor(4) as pool:
        assert [*pool.map(sign_in, [address] * 8)] == [(200, "")] * 8
        assert counts(address) == {"now": 0, "most": 1, "all": 8}


@pytest.mark.parametrize("door", ["HTTP", "Mongrel2"])
def test_a_time_limit_gives_back_the_places_of_those_that_wait_and_no_core_that_is_busy(door: str) -> None:
    with by_door(door, "program_passwords:app") as address, ThreadPoolExecutor(10) as pool:
        counts(address, "/hold")
        for size in (1, 10, 10, 10):
            assert [*pool.map(sign_in, [address] * size, ["/hurried"] * size)] == [LATE] * size
        counts(address, "/release")
        assert sign_in(address) == (200, "")
        assert counts(address) == {"now": 0, "most": 1, "all": 2}


@pytest.mark.parametrize("door", ["HTTP", "Mongrel2"])
def test_a_client_that_leaves_gives_its_place_back(door: str) -> None:
    with by_door(door, "program_passwords:app") as address:
        counts(address, "/hold")
        clients: list[http.client.HTTPConnection] = []

        def is_full() -> bool:
            client = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
            client.request("POST", "/cancelled", b"password=x", {"Content-Type": "application/x-www-form-urlencoded"})
            clients.append(client)
            return len(clients) > 10 and sign_in(address, "/hurried") == REFUSED

        wait_for(is_full, what="clients that have all places")
        for client in clients:
            client.close()
        wait_for(lambda: sign_in(address, "/hurried") == LATE, what="a place")
        counts(address, "/release")
        assert sign_in(address) == (200, "")
        assert counts(address) == {"now": 0, "most": 1, "all": 2}


def test_passwords_need_no_coroutines() -> None:
    program = """
import sys
import brubeck_lite
assert brubeck_lite.check_password("x", brubeck_lite.hash_password("x"))
print("eventlet" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def test_others_are_served_while_a_password_is_checked() -> None:
    with behind_http("slow_passwords:app") as (_, port):
        address = f"http://127.0.0.1:{port}"
        answers: list[str] = []
        hashing = threading.Thread(target=lambda: answers.append(fetch(f"{address}/passwords")))
        hashing.start()
        count = 0
        while hashing.is_alive():
            assert fetch(f"{address}/") == "quick"
            count += 1
        hashing.join()
    assert answers == ["TrueTrueTrueTrueTrueTrue"]
    assert count > 20


def fetch(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as response:
        return str(response.read().decode())


# Arguments for classes


class Shop(ArgumentsMixin, WebMessageHandler):
    def get(self, number: int = 0) -> Any:
        return [self.get_argument("page", 1, type=int), self.get_argument("number"), self.get_arguments("tag")]

    def post(self, number: int = 0) -> Any:
        return [self.get_argument("price", type=float), self.get_argument("missing", "x")]


def shop() -> Any:
    app = Brubeck()
    app.route("/shop")(Shop)
    app.route("/shop/<int:number>", name="numbered")(Shop)
    return app.test(raise_errors=True)


@pytest.mark.parametrize(
    ("target", "seen"),
    [("/shop", [1, None, []]), ("/shop?page=2", [2, None, []]), ("/shop/5?page=%202%20&number=6", [2, "5", []]),
     ("/shop?tag=a&tag=b", [1, None, ["a", "b"]]), ("/shop?page=2&page=3", [2, None, []])],
)  # fmt: skip
def test_a_class_has_arguments(target: str, seen: Any) -> None:
    assert shop().get(target).json == seen


@pytest.mark.parametrize("data", [{"price": "1.5"}, "price=1.5", "price=1.5&price=x"])
def test_a_class_has_the_arguments_of_a_form(data: Any) -> None:
    got = shop().post("/shop", {"Content-Type": "application/x-www-form-urlencoded"}, data=data)
    assert got.json == [1.5, "x"]


@pytest.mark.parametrize("value", ["", "x", "1.0", "0x1", "½", "9" * 5000, "1e3", "<script>"])
def test_an_argument_of_a_bad_type_is_400_that_names_it_and_does_not_repeat_it(value: str) -> None:
    got = shop().get(f"/shop?page={quote(value)}")
    assert (got.status, "'page'" in got.text, "<script>" in got.text) == (400, True, False)


@pytest.mark.parametrize("path", ["/shop?price=x", "/shop"])
def test_an_argument_of_a_bad_type_is_400_wherever_it_stood(path: str) -> None:
    got = shop().post(path, data={} if "?" in path else {"price": "x"})
    assert (got.status, "'price'" in got.text) == (400, True)


class Refused(Exception):
    pass


def picky(text: str) -> str:
    raise Refused


@pytest.mark.parametrize(
    ("type", "status"), [(lambda text: text.index("z"), 400), (lambda text: {}[text], 500), (picky, 500)]
)
def test_a_programs_own_type_refuses_with_a_value_error(type: Any, status: int) -> None:
    app = Brubeck()
    app.route("/")(lambda request: request.get_argument("page", type=type))
    assert app.test().get("/?page=a").status == status


# Templates for classes, and everything at once


def test_a_class_of_all_mixins_answers_with_all_it_was_told() -> None:
    class Page(AuthMixin, ArgumentsMixin, TemplateMixin, WebMessageHandler):
        def prepare(self) -> None:
            self.headers["X-Prepared"] = "yes"

        def get_current_user(self) -> str | None:
            return self.get_argument("user")

        @authenticated
        def get(self) -> str:
            self.set_status(202)
            self.set_cookie("seen", "yes", httponly=False)
            return self.render("page.html", name=self.current_user)

    app = Brubeck()
    app.templates = lambda template, /, **values: f"{template} {values['name']} {values['request'].path}"
    app.route("/")(Page)
    got = app.test(raise_errors=True).get("/?user=ann")
    assert (got.status, got.text) == (202, "page.html ann /")
    assert (got.headers["X-Prepared"], got.headers["Set-Cookie"]) == ("yes", "seen=yes; Path=/; SameSite=Lax")
    assert (app.test().get("/").status, "Set-Cookie" in app.test().get("/").headers) == (401, False)


def test_a_page_ends_with_the_applications_page_for_an_error() -> None:
    class Page(WebMessageHandler):
        def get(self) -> None:
            self.set_cookie("seen", "yes")
            self.render_error(410, "gone for good")

    app = Brubeck()
    app.route("/")(Page)
    assert (app.test().get("/").status, "gone for good" in app.test().get("/").text) == (410, True)
    app.error(410)(lambda request, error: f"sorry: {error.message}")
    assert app.test().get("/").text == "sorry: gone for good"


def test_a_page_redirects_with_its_own_fields() -> None:
    class Page(WebMessageHandler):
        def get(self) -> Any:
            self.set_status(201)
            self.headers["X-Page"] = "yes"
            return self.redirect("/next", 307)

    app = Brubeck()
    app.route("/")(Page)
    got = app.test().get("/")
    assert (got.status, got.headers["Location"], got.headers["X-Page"]) == (307, "/next", "yes")


@pytest.mark.parametrize("name", ["Set-Cookie\r\n", "X\r\nY", "Transfer-Encoding"])
def test_a_page_with_a_field_that_cannot_be_sent_is_a_500(name: str) -> None:
    class Page(WebMessageHandler):
        def get(self) -> str:
            self.headers[name] = "x"
            return "never"

    app = Brubeck()
    app.route("/")(Page)
    assert app.test().get("/").status == 500


NO_CHECKS = [lambda request: "members only", lambda: True, lambda a, b, c, d: True, lambda *, name: True, "token", None,
             {"ann": "x"}, lambda request, **more: True]  # fmt: skip


@pytest.mark.parametrize("check", NO_CHECKS)
@pytest.mark.parametrize("auth", [basic_auth, bearer_auth])
def test_what_is_no_check_of_credentials_is_an_error_where_it_is_written(auth: Any, check: Any) -> None:
    with pytest.raises(TypeError, match=rf"write @{auth.__name__}\(check\) above the handler, with check\("):
        auth(check)


@pytest.mark.parametrize("refusal", [Response("no", 403), redirect("/login")])
def test_an_answer_of_a_check_is_no_user_but_sent(refusal: Response) -> None:
    for auth, given in ((bearer_auth, "Bearer abc"), (basic_auth, basic("ann:x"))):
        app = Brubeck()
        app.get("/")(auth(lambda *_: refusal)(lambda request: "for members"))
        got = ask(app, given)
        assert (got.status, got.body) == (refusal.status, refusal.body)


def test_without_a_secret_nobody_is_signed_in_where_nothing_checks() -> None:
    app = Brubeck()
    app.route("/")(lambda request: repr(request.current_user))
    assert app.test(raise_errors=True).get("/").text == "None"


def test_a_401_says_whether_credentials_are_missing_or_wrong() -> None:
    app = guarded(bearer_auth(lambda token: token == "right", scheme="Token"))
    assert ask(app, None).text == "401 Unauthorized\ncredentials are needed: Token\n"
    assert ask(app, "Token wrong").text == "401 Unauthorized\nthe credentials are not valid\n"
