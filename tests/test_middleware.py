"""Around an application: pages of other origins (CORS, CSRF), proxies in front, and templates."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest

from brubeck_lite import (
    Brubeck,
    Request,
    Response,
    TemplateMixin,
    WebMessageHandler,
    abort,
    compress,
    cors,
    csrf,
    csrf_token,
    jinja2_templates,
    redirect,
    render,
    safe_target,
)

SECRET = "a secret of thirty-two characters"
OURS, FOREIGN = "https://a.example", "https://evil.example"


def by_wsgi(app: Brubeck, path: str = "/", **environ: Any) -> tuple[str, list[tuple[str, str]], bytes]:
    """Status, header fields and body, as a WSGI server gets them, where `__` in a name stands for a dot."""
    asked = {"PATH_INFO": path, "SCRIPT_NAME": "", **{n.replace("__", "."): v for n, v in environ.items()}}
    setup_testing_defaults(asked)
    started: list[Any] = []
    body = b"".join(app(asked, lambda status, fields: started.extend((status, fields))))
    return started[0], started[1], body


# CORS


def shared(middleware: Any = None, handler: Callable[[Request], Any] = lambda request: "shared") -> Any:
    """A client of an application that pages of another origin may use."""
    app = Brubeck()
    app.route("/", ["GET", "POST"])(handler)
    app.wrap(middleware or cors([OURS]))
    return app.test()


def cors_fields(got: Any) -> dict[str, str]:
    return {name: value for name, value in got.headers.pairs() if name.lower().startswith("access-control-")}


def test_an_answer_that_a_handler_gives_to_all_clients_keeps_no_origin_of_one_of_them() -> None:
    answer = Response("the same")
    client = shared(cors([OURS]), lambda request: answer)
    assert client.get("/", {"Origin": OURS}).headers["Access-Control-Allow-Origin"] == OURS
    assert "Access-Control-Allow-Origin" not in client.get("/", {"Origin": FOREIGN}).headers
    assert [*answer.headers] == ["Content-Type"]


@pytest.mark.parametrize("is_mounted", [False, True])
def test_an_answer_that_a_handler_gives_to_all_clients_keeps_nothing_of_the_programs_middleware(
    is_mounted: bool,
) -> None:
    answer = Response("the same")

    def with_cookie(respond: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def answer_new_visitors(request: Request) -> Response:
            response = respond(request)
            if "visitor" not in request.cookies:
                response.set_cookie("visitor", "7")
                response.headers["X-Visitor"] = "7"
            return response

        return answer_new_visitors

    inner = outer = Brubeck()
    if is_mounted:
        outer = Brubeck()
        outer.mount("/inner", inner)
    inner.get("/page")(lambda request: answer)
    outer.wrap(with_cookie)
    path = "/inner/page" if is_mounted else "/page"
    assert "Set-Cookie" in outer.test().get(path).headers
    again = outer.test().get(path, {"Cookie": "visitor=5"}).headers
    assert {"Set-Cookie", "X-Visitor"}.isdisjoint(again)


def preflight(client: Any, origin: str = OURS, method: str = "POST", **fields: str) -> Any:
    asked = {"Origin": origin, "Access-Control-Request-Method": method, **fields}
    return client.options("/", asked)


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_an_origin_that_was_named_may_read_the_answer(method: str) -> None:
    got = shared().request(method, "/", {"Origin": OURS})
    assert (got.status, got.headers["Access-Control-Allow-Origin"], got.headers["Vary"]) == (200, OURS, "Origin")
    assert "Access-Control-Allow-Credentials" not in got.headers


def test_of_several_origins_the_one_that_asks_is_told() -> None:
    client = shared(cors([OURS, "http://b.example:8080"]))
    for origin in (OURS, "http://b.example:8080"):
        assert client.get("/", {"Origin": origin}).headers["Access-Control-Allow-Origin"] == origin


@pytest.mark.parametrize(
    "origin",
    [FOREIGN, "null", "", "*", "http://a.example", "https://a.example:444", "https://a.example:443",
     "https://a.example.evil", "https://xa.example", "https://a.example/", "https://a.example@evil", "a.example",
     f"{OURS}, {FOREIGN}", f"{FOREIGN} {OURS}", f" {OURS}x", "https://a.exampl", "https://aXexample", "https://b.a.example"],
)  # fmt: skip
def test_an_origin_that_was_not_named_is_told_nothing(origin: str) -> None:
    client = shared(cors([OURS], credentials=True, expose=["X-A"]))
    for got in (client.get("/", {"Origin": origin}), client.post("/", {"Origin": origin}), preflight(client, origin)):
        assert cors_fields(got) == {}
        assert got.headers["Vary"] == "Origin"


def test_an_answer_to_nobody_in_particular_varies_too() -> None:
    got = shared().get("/")
    assert (cors_fields(got), got.headers["Vary"]) == ({}, "Origin")


@pytest.mark.parametrize("given", ["*", ["*"]])
def test_all_origins_may_be_named(given: Any) -> None:
    got = shared(cors(given)).get("/", {"Origin": FOREIGN})
    assert (got.headers["Access-Control-Allow-Origin"], "Vary" in got.headers) == ("*", False)
    assert preflight(shared(cors(given)), FOREIGN).headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.parametrize("origins", ["*", ["*"], [OURS, "*"]])
def test_all_origins_with_credentials_are_an_error(origins: Any) -> None:
    with pytest.raises(ValueError):
        cors(origins, credentials=True)


@pytest.mark.parametrize(
    "origin", ["a.example", "https://a.example/", "https://a.example/x", "", "null", "https://", "https://a b", "https://a\n"]
)
def test_what_is_no_origin_cannot_be_named(origin: str) -> None:
    with pytest.raises(ValueError):
        cors([origin])


def test_an_origin_with_credentials_may_send_cookies() -> None:
    client = shared(cors([OURS], credentials=True))
    for got in (client.get("/", {"Origin": OURS}), preflight(client)):
        assert got.headers["Access-Control-Allow-Credentials"] == "true"
        assert got.headers["Access-Control-Allow-Origin"] == OURS


def test_fields_that_are_exposed_are_told() -> None:
    got = shared(cors([OURS], expose=["X-Total", "ETag"])).get("/", {"Origin": OURS})
    assert got.headers["Access-Control-Expose-Headers"] == "X-Total, ETag"


def test_a_preflight_says_what_may_be_sent_and_calls_no_handler() -> None:
    called: list[Request] = []
    client = shared(cors([OURS], methods=["GET", "DELETE"], headers=["X-One", "X-Two"], max_age=60), called.append)
    got = preflight(client, method="DELETE", **{"Access-Control-Request-Headers": "x-one"})
    assert (got.status in (200, 204), got.body, called) == (True, b"", [])
    assert cors_fields(got) == {
        "Access-Control-Allow-Origin": OURS, "Access-Control-Allow-Methods": "GET, DELETE",
        "Access-Control-Allow-Headers": "X-One, X-Two", "Access-Control-Max-Age": "60",
    }  # fmt: skip
    assert got.headers["Vary"] == "Origin"


def test_a_preflight_lasts_ten_minutes_and_allows_the_usual() -> None:
    got = preflight(shared()).headers
    assert got["Access-Control-Max-Age"] == "600"
    assert {"GET", "POST", "PUT", "PATCH", "DELETE"} <= set(got["Access-Control-Allow-Methods"].split(", "))
    assert "Content-Type" in got["Access-Control-Allow-Headers"]


def test_a_preflight_for_a_page_that_needs_a_sign_in_or_is_not_there_is_answered() -> None:
    app = Brubeck()
    app.wrap(cors([OURS]))
    got = app.test().options("/missing", {"Origin": OURS, "Access-Control-Request-Method": "PUT"})
    assert (got.status in (200, 204), got.headers["Access-Control-Allow-Origin"]) == (True, OURS)


@pytest.mark.parametrize("fields", [{}, {"Origin": OURS}])
def test_options_that_are_no_preflight_are_answered_as_ever(fields: dict[str, str]) -> None:
    got = shared().options("/", fields)
    assert (got.status, got.headers["Allow"]) == (200, "GET, HEAD, OPTIONS, POST")
    assert ("Access-Control-Allow-Origin" in got.headers) is bool(fields)


@pytest.mark.parametrize(("path", "status"), [("/boom", 500), ("/missing", 404), ("/refused", 403)])
def test_errors_may_be_read_too(path: str, status: int) -> None:
    app = Brubeck()
    app.route("/boom")(lambda request: 1 / 0)
    app.route("/refused")(lambda request: abort(403))
    app.wrap(cors([OURS]))
    got = app.test().get(path, {"Origin": OURS})
    assert (got.status, got.headers["Access-Control-Allow-Origin"]) == (status, OURS)


@pytest.mark.parametrize(
    ("given", "sent"),
    [("Accept", {"accept", "origin"}), ("Origin", {"origin"}), ("accept, ORIGIN", {"accept", "origin"}),
     ("X-Origin", {"x-origin", "origin"})],
)  # fmt: skip
def test_vary_keeps_what_the_handler_said(given: str, sent: set[str]) -> None:
    got = shared(handler=lambda request: ("", 200, {"Vary": given})).get("/", {"Origin": OURS})
    tokens = [token.strip().lower() for token in got.headers["Vary"].split(",")]
    assert sorted(tokens) == sorted(sent)


@pytest.mark.parametrize(
    "origin", ["https://\x1b[31mevil", "https://\xff\x80", "\x07", "https://a\nb", "%0d%0a", "<script>"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
@pytest.mark.parametrize("guard", ["cors", "csrf"])
def test_an_origin_never_reaches_a_log_line_or_an_answer(
    origin: str, method: str, guard: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Brubeck(secret=SECRET)
    app.route("/", ["GET", "POST"])(lambda request: "fine")
    app.wrap(cors([OURS]) if guard == "cors" else csrf())
    asked = {"REQUEST_METHOD": method, "HTTP_ORIGIN": origin, "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST"}
    with caplog.at_level(0):
        status, fields, body = by_wsgi(app, **asked)
    assert status[:3] in ("200", "403")
    assert origin not in caplog.text and origin not in str(fields) and origin.encode("latin-1") not in body


# CSRF

Fields = dict[str, str]


def posted(fields: Fields, method: str = "POST", origins: Any = (), **options: Any) -> int:
    """The status of a request with these header fields for an application that changes something."""
    app = Brubeck(secret=SECRET)
    app.route("/", ["GET", "POST", "PUT", "PATCH", "DELETE", "REPORT"])(lambda request: "changed")
    app.wrap(csrf(origins))
    return int(app.test(raise_errors=True).request(method, "/", fields, **options).status)


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"Sec-Fetch-Site": "same-origin"}, 200), ({"Sec-Fetch-Site": "none"}, 200),
     ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Sec-Fetch-Site": "same-site"}, 403), ({"Sec-Fetch-Site": ""}, 403),
     ({"Sec-Fetch-Site": "x"}, 403),
     ({"Sec-Fetch-Site": "same-origin, cross-site"}, 403),
     ({"Sec-Fetch-Site": "same-origin", "Origin": "http://localhost"}, 200),
     ({"Sec-Fetch-Site": "cross-site", "Origin": FOREIGN}, 403),
     ({"Sec-Fetch-Site": "same-site", "Origin": FOREIGN}, 403), ({"Origin": "http://localhost"}, 200),
     ({"Origin": FOREIGN}, 403), ({"Origin": "null"}, 403), ({"Origin": ""}, 403),
     ({"Origin": "https://localhost"}, 403), ({"Origin": "http://localhost:81"}, 403), ({"Origin": "localhost"}, 403),
     ({"Origin": "http://localhost.evil"}, 403), ({"Origin": "http://localhost/"}, 403),
     ({"Origin": "http://localhost, http://evil"}, 403), ({"Origin": "\xff"}, 403),
     ({"Origin": "http://a:80", "Host": "a:80"}, 200), ({"Origin": "http://a", "Host": "b"}, 403),
     ({"Referer": "http://localhost/"}, 200), ({}, 200)],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("cookie", ["", "session=x"])
def test_what_changes_something_must_come_from_our_own_pages(fields: Fields, status: int, cookie: str) -> None:
    if cookie and not {"Origin", "Sec-Fetch-Site"} & set(fields):
        status = 403
    assert posted({**fields, "Cookie": cookie} if cookie else fields) == status


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "REPORT", "POST"])
def test_every_method_that_may_change_something_is_guarded(method: str) -> None:
    assert [posted({"Origin": origin}, method) for origin in (FOREIGN, "http://localhost")] == [403, 200]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_what_changes_nothing_may_come_from_anywhere(method: str) -> None:
    assert posted({"Origin": FOREIGN, "Sec-Fetch-Site": "cross-site", "Cookie": "a=b"}, method) == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [({"Origin": OURS}, 200), ({"Origin": OURS, "Sec-Fetch-Site": "cross-site"}, 200), ({"Origin": FOREIGN}, 403),
     ({"Origin": "http://a.example"}, 403), ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Origin": f"{OURS}:444"}, 403),
     ({"Origin": "http://localhost"}, 200)],
    ids=str,
)  # fmt: skip
def test_other_origins_may_be_trusted(fields: Fields, status: int) -> None:
    assert posted(fields, origins=[OURS]) == status
    assert posted(fields, origins=(OURS, "https://b.example")) == status


def test_a_page_of_another_site_cannot_sign_somebody_in() -> None:
    fields = {"Sec-Fetch-Site": "cross-site", "Origin": FOREIGN}
    assert posted(fields, data={"user": "mallory", "password": "x"}) == 403


def test_who_is_no_browser_and_sends_no_cookie_may_change_something() -> None:
    assert posted({"Authorization": "Bearer x"}, json={"a": 1}) == 200


def guarded_app() -> Brubeck:
    """GET / gives the token; POST / shows what it was sent."""
    app = Brubeck(secret=SECRET)
    app.wrap(csrf())
    app.route("/")(csrf_token)

    @app.post("/form")
    def form(request: Request) -> Any:
        return {name: request.form.getall(name) for name in request.form if name != "csrf_token"}

    @app.post("/json")
    def value(request: Request) -> Any:
        return request.json

    @app.post("/stream")
    def stream(request: Request) -> bytes:
        return request.stream.read()

    @app.post("/file")
    def file(request: Request) -> bytes:
        return request.files["file"].read()

    return app


def with_token() -> tuple[Any, str]:
    client = guarded_app().test(raise_errors=True)
    return client, client.get("/").text


def test_the_token_of_a_session_stays_and_is_nobody_elses() -> None:
    client, token = with_token()
    assert client.get("/").text == token and len(token) >= 16 and token.isascii()
    assert with_token()[1] != token


def test_without_word_from_the_browser_a_form_needs_the_token() -> None:
    client, token = with_token()
    assert client.post("/form", data={"a": "1"}).status == 403
    assert client.post("/form", data={"a": "1", "csrf_token": token}).json == {"a": ["1"]}


def test_a_form_with_files_may_have_the_token() -> None:
    client, token = with_token()
    files = {"file": ("a.txt", b"content")}
    assert client.post("/file", data={"csrf_token": token}, files=files).body == b"content"
    assert client.post("/file", data={"csrf_token": "x"}, files=files).status == 403


def test_a_script_sends_the_token_in_a_header_field_and_the_body_is_left_alone() -> None:
    client, token = with_token()
    assert client.post("/json", {"X-CSRF-Token": token}, json=[1, 2]).json == [1, 2]
    assert client.post("/stream", {"X-CSRF-Token": token}, data=b"raw").body == b"raw"
    form = {"X-CSRF-Token": token, "Content-Type": "application/x-www-form-urlencoded"}
    assert client.post("/stream", form, data=b"a=b").body == b"a=b"
    assert client.post("/json", json=[1, 2]).status == 403


@pytest.mark.parametrize("token", ["", " ", "x", "None", "é", "\ufffd", "null", "0", "x" * 1000])
def test_another_token_is_refused(token: str) -> None:
    client, right = with_token()
    for wrong in (token, right + token if token else right[:-1], right.swapcase(), with_token()[1]):
        assert client.post("/form", data={"csrf_token": wrong}).status == 403
        assert client.post("/form", {"X-CSRF-Token": wrong.encode().decode("latin-1")}).status == 403


@pytest.mark.parametrize("token", ["", "None", "x"])
@pytest.mark.parametrize("cookie", ["a=b", "session=x", "session="])
def test_a_session_without_a_token_fits_no_token(token: str, cookie: str) -> None:
    client = guarded_app().test(raise_errors=True)
    assert client.post("/form", {"Cookie": cookie}, data={"csrf_token": token}).status == 403
    assert client.post("/form", {"Cookie": cookie, "X-CSRF-Token": token}).status == 403


@pytest.mark.parametrize(
    "fields",
    [{"Origin": FOREIGN}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "cross-site", "Origin": "null"}],
)
def test_a_token_does_not_help_a_page_of_another_origin(fields: Fields) -> None:
    client, token = with_token()
    assert client.post("/form", fields, data={"csrf_token": token}).status == 403


def test_an_origin_that_says_nothing_leaves_the_decision_to_the_token() -> None:
    client, token = with_token()  # a page with Referrer-Policy: no-referrer sends Origin: null
    assert client.post("/form", {"Origin": "null"}, data={"csrf_token": token}).status == 200
    assert client.post("/form", {"Origin": "null", "X-CSRF-Token": token}).status == 200
    assert client.post("/form", {"Origin": "null"}, data={"csrf_token": token[:-1]}).status == 403
    assert client.post("/form", {"Origin": "null"}).status == 403
    assert posted({"Origin": "null", "Sec-Fetch-Site": "same-origin"}) == 200


@pytest.mark.parametrize(
    ("scheme", "host", "origin", "is_ours"),
    [("http", "a.example:80", "http://a.example", True), ("http", "a.example", "http://a.example:80", True),
     ("http", "A.example:080", "http://a.example", True), ("https", "a.example:443", "https://a.example", True),
     ("https", "a.example", "https://a.example:443", True), ("http", "a.example:443", "https://a.example", True),
     ("http", "[::1]:80", "http://[::1]", True), ("http", "[0:0:0:0:0:0:0:1]", "http://[::1]", True),
     ("http", "[2001:DB8::1]:8000", "http://[2001:db8::1]:8000", True),
     ("http", "a.example.", "http://a.example.", True),
     ("http", "a.example:443", "http://a.example", False), ("https", "a.example:80", "https://a.example", False),
     ("http", "a.example:8080", "http://a.example", False), ("http", "a.example", "http://a.example:8080", False),
     ("https", "a.example", "http://a.example", False), ("https", "a.example:443", "http://a.example:443", False),
     ("http", "[::1]", "http://[::2]", False), ("http", "a.example", "http://a.example.", False),
     ("http", "a.example", "http://a.example:", False), ("http", "a.example", "http://a.example/", False),
     ("http", "a.example", "http://a.example http://a.example", False)],
)  # fmt: skip
def test_the_same_origin_is_one_however_its_usual_port_is_written(
    scheme: str, host: str, origin: str, is_ours: bool
) -> None:
    app = Brubeck(proxies=1)
    app.wrap(csrf())
    app.post("/")(lambda request: "changed")
    fields = {"Host": host, "X-Forwarded-Proto": scheme, "Origin": origin}
    assert app.test().post("/", fields).status == (200 if is_ours else 403)


@pytest.mark.parametrize(
    ("host", "target", "is_safe"),
    [("a.example:80", "http://a.example/x", True), ("a.example", "http://a.example:80/x", True),
     ("a.example:80", "HTTP://A.example?x", True), ("[::1]:80", "http://[::1]#x", True),
     ("a.example:80", "http://a.example", True), ("a.example:8000", "http://a.example:8000/x", True),
     ("a.example:80", "http://a.example:8000/x", False), ("a.example", "http://a.example:/x", False),
     ("a.example", "http://a.example:80@evil/x", False), ("a.example", "http://a.example;evil/x", False)],
)  # fmt: skip
def test_the_usual_port_may_be_written_in_an_address_of_the_site(host: str, target: str, is_safe: bool) -> None:
    assert seen(1, lambda request: safe_target(request, target), host=host) is is_safe


@pytest.mark.parametrize("name", ["cors", "csrf", "websocket"])
@pytest.mark.parametrize(
    "origin", ["https://b.example/", "b.example", "null", "", "https://*.b.example", "https://b.example/x", "https://"]
)
def test_what_is_no_origin_is_an_error_where_it_is_named(name: str, origin: str) -> None:
    register = {"cors": cors, "csrf": csrf, "websocket": lambda origins: Brubeck().websocket("/", origins=origins)}
    for given in (origin, [origin], ["https://a.example", origin]):
        with pytest.raises(ValueError, match="an origin is like"):
            register[name](given)


@pytest.mark.parametrize("given", ["https://A.example", "https://a.example:443", "HTTPS://a.example:443"])
def test_an_origin_may_be_named_with_its_usual_port_and_in_capitals(given: str) -> None:
    assert shared(cors(given)).get("/", {"Origin": OURS}).headers["Access-Control-Allow-Origin"] == OURS
    assert posted({"Origin": OURS}, origins=given) == 200
    app = Brubeck()
    app.websocket("/", origins=given)(lambda ws: ws.send("hello"))
    with app.test().websocket("/", {"Origin": OURS}) as ws:
        assert ws.answer.status == 101


def test_a_token_in_the_query_does_not_count() -> None:
    client, token = with_token()
    assert client.post(f"/form?csrf_token={token}").status == 403


def test_the_origin_is_enough_without_any_secret() -> None:
    app = Brubeck()
    app.wrap(csrf())
    app.post("/")(lambda request: "changed")
    client = app.test(raise_errors=True)
    assert client.post("/", {"Origin": "http://localhost", "Cookie": "a=b"}).status == 200
    assert client.post("/", {"Origin": FOREIGN, "Cookie": "a=b"}).status == 403
    assert app.test().post("/", {"Cookie": "a=b"}, data={"csrf_token": "x"}).status in (403, 500)


def test_what_is_refused_reaches_no_handler_and_the_programs_page_for_it() -> None:
    called: list[Request] = []
    app = Brubeck(secret=SECRET)
    app.post("/")(called.append)
    app.error(403)(lambda request, error: "not from here")
    app.wrap(csrf())
    got = app.test(raise_errors=True).post("/", {"Origin": FOREIGN})
    assert (got.status, got.text, called) == (403, "not from here", [])


def test_a_form_that_is_none_is_an_error_of_the_client() -> None:
    client, _ = with_token()
    got = client.post("/form", {"Content-Type": "multipart/form-data; boundary=x"}, data=b"--y--")
    assert got.status == 400


# Proxies


def seen(proxies: int, look: Callable[[Request], Any], **fields: Any) -> Any:
    """What `look` sees of a request that came from 10.0.0.1 by http, with these forwarded fields."""
    app = Brubeck(secret=SECRET, proxies=proxies)
    app.route("/")(lambda request: {"seen": look(request)})
    environ = {f"HTTP_X_FORWARDED_{name.upper()}": value for name, value in fields.items()}
    status, _, body = by_wsgi(app, REMOTE_ADDR="10.0.0.1", HTTP_HOST="inner.example", **environ)
    return json.loads(body)["seen"] if status.startswith("200") else int(status[:3])


FORGED = "6.6.6.6, 1.2.3.4"


@pytest.mark.parametrize(
    ("proxies", "forwarded", "address"),
    [(0, "1.2.3.4", "10.0.0.1"), (0, FORGED, "10.0.0.1"), (1, None, "10.0.0.1"), (1, "", "10.0.0.1"),
     (1, "1.2.3.4", "1.2.3.4"), (1, FORGED, "1.2.3.4"), (1, "6.6.6.6,1.2.3.4", "1.2.3.4"),
     (1, " 6.6.6.6 ,\t1.2.3.4 ", "1.2.3.4"), (1, "6.6.6.6, 7.7.7.7, 1.2.3.4", "1.2.3.4"), (1, "::1", "::1"),
     (2, "1.2.3.4, 10.0.0.2", "1.2.3.4"), (2, f"{FORGED}, 10.0.0.2", "1.2.3.4"),
     (2, "6.6.6.6, 7.7.7.7, 1.2.3.4, 10.0.0.2", "1.2.3.4"), (3, f"{FORGED}, 10.0.0.3, 10.0.0.2", "1.2.3.4"),
     (1, ", " * 100 + "1.2.3.4", "1.2.3.4"), (1, "6.6.6.6, ", "10.0.0.1"),
     (2, "1.2.3.4", "10.0.0.1"), (3, FORGED, "10.0.0.1"), (100, FORGED, "10.0.0.1"), (2, "", "10.0.0.1")],
)  # fmt: skip
def test_the_address_is_what_the_outermost_trusted_proxy_saw(proxies: int, forwarded: Any, address: str) -> None:
    fields = {} if forwarded is None else {"for": forwarded}
    assert seen(proxies, lambda request: request.remote_addr, **fields) == address


@pytest.mark.parametrize(
    ("proxies", "forwarded", "scheme"),
    [(0, "https", "http"), (1, "https", "https"), (1, "HTTPS", "https"), (1, "http", "http"),
     (1, "https, http", "http"),
     (1, "http, https", "https"), (2, "https, http", "https"), (2, "http, https, http", "https"), (1, "", "http"),
     (1, "javascript", "http"), (1, "https:", "http"), (1, "https\r\n", "http"), (1, "ws", "http"),
     (2, "https", "http"), (3, "https, https", "http")],
)  # fmt: skip
def test_the_scheme_is_what_the_outermost_trusted_proxy_saw(proxies: int, forwarded: str, scheme: str) -> None:
    look = lambda request: [request.scheme, request.url.partition(":")[0]]  # noqa: E731
    assert seen(proxies, look, proto=forwarded) == [scheme, scheme]


@pytest.mark.parametrize(
    ("proxies", "forwarded", "host"),
    [(0, "a.example", "inner.example"), (1, "a.example", "a.example"), (1, "a.example:8443", "a.example:8443"),
     (1, "evil.example, a.example", "a.example"), (2, "evil, a.example, b.example", "a.example"),
     (1, "", "inner.example"), (1, "a/b", 400), (1, "a@b", 400), (1, "a b", 400), (1, "[::1]:80", "[::1]:80"),
     (0, "a/b", "inner.example"), (2, "evil.example", "inner.example"), (2, "a/b", "inner.example")],
)  # fmt: skip
def test_the_host_is_what_the_outermost_trusted_proxy_saw(proxies: int, forwarded: str, host: Any) -> None:
    assert seen(proxies, lambda request: request.host, host=forwarded) == host


@pytest.mark.parametrize(
    ("written", "address"),
    [("203.0.113.9:51008", "203.0.113.9"),  # Azure's gateway, IIS with ARR, AWS with client ports
     ("2001:db8::1", "2001:db8::1"), ("[2001:db8::1]", "2001:db8::1"), ("[2001:db8::1]:4711", "2001:db8::1"),
     ("2001:DB8:0:0:0:0:0:1", "2001:db8::1"), ("::ffff:203.0.113.9", "203.0.113.9"),
     ("[::ffff:203.0.113.9]:80", "203.0.113.9"), ("fe80::1%eth0", "fe80::1"), ("[fe80::1%25eth0]:80", "fe80::1"),
     ("unknown", "10.0.0.1"), ("_hidden", "10.0.0.1"), ("localhost", "10.0.0.1"), ("10.1", "10.0.0.1"),
     ("256.0.0.1", "10.0.0.1"), ("010.0.0.1", "10.0.0.1"), ("203.0.113.9:", "10.0.0.1"), ("203.0.113.9:x", "10.0.0.1"),
     ("[203.0.113.9", "10.0.0.1"), ("2001:db8::1::", "10.0.0.1"), ("<script>", "10.0.0.1"), ("\xff", "10.0.0.1"),
     ('"', "10.0.0.1"), ("for=203.0.113.9", "10.0.0.1"), ("1" * 5000, "10.0.0.1"), (":" * 5000, "10.0.0.1")],
)  # fmt: skip
def test_an_address_is_an_address_however_a_proxy_writes_it(written: str, address: str) -> None:
    for forwarded in (written, f"6.6.6.6, {written}"):
        assert seen(1, lambda request: request.remote_addr, **{"for": forwarded}) == address
    assert seen(0, lambda request: request.remote_addr, **{"for": written}) == "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "address"),
    [("", ""), ("::ffff:10.0.0.2", "10.0.0.2"), ("fe80::1%eth0", "fe80::1"), ("unix:", ""), ("/run/socket", "")],
)
def test_the_peer_is_an_address_or_nothing(peer: str, address: str) -> None:
    app = Brubeck()
    app.route("/")(lambda request: request.remote_addr)
    assert by_wsgi(app, REMOTE_ADDR=peer)[2] == address.encode()


@pytest.mark.parametrize(("written", "scheme"), [("wss", "https"), ("ws", "http"), ("WSS", "https")])
def test_traefik_names_the_scheme_of_a_websocket(written: str, scheme: str) -> None:
    assert seen(1, lambda request: request.scheme, proto=written) == scheme


def by_forwarded(proxies: int, forwarded: str, **fields: Any) -> Any:
    """What `remote_addr`, `scheme` and `host` are of a request with this Forwarded field."""
    app = Brubeck(proxies=proxies)
    app.route("/")(lambda request: [request.remote_addr, request.scheme, request.host])
    environ = {"REMOTE_ADDR": "10.0.0.1", "HTTP_HOST": "inner.example", "HTTP_FORWARDED": forwarded, **fields}
    return json.loads(by_wsgi(app, **environ)[2])


UNKNOWN = ["10.0.0.1", "http", "inner.example"]


@pytest.mark.parametrize(
    ("forwarded", "seen_of_it"),
    [("for=203.0.113.9", ["203.0.113.9", *UNKNOWN[1:]]),
     ("proto=https;for=203.0.113.9", ["203.0.113.9", "https", "inner.example"]),  # HAProxy's `option forwarded`
     ('For="[2001:db8::1]:4711";Proto=HTTPS;Host="a.example:8443";by=_x', ["2001:db8::1", "https", "a.example:8443"]),
     ('for="203.0.113.9:4711" ; host=a.example', ["203.0.113.9", "http", "a.example"]),
     ("for=unknown;proto=https", ["10.0.0.1", "https", "inner.example"]), ("for=_hidden", UNKNOWN),
     ("for=6.6.6.6, for=203.0.113.9", ["203.0.113.9", *UNKNOWN[1:]]),
     ('for=6.6.6.6;x=", for=203.0.113.9', ["203.0.113.9", *UNKNOWN[1:]]),
     ('for=6.6.6.6;x="a, for="[2001:db8::1]"', ["2001:db8::1", *UNKNOWN[1:]]),
     ("for=6.6.6.6;proto=https, for=203.0.113.9", ["203.0.113.9", *UNKNOWN[1:]]),
     ("", UNKNOWN), ("for=6.6.6.6;", UNKNOWN), ("203.0.113.9", UNKNOWN), ('for="', UNKNOWN),
     ("for=6.6.6.6, ", UNKNOWN)],
)  # fmt: skip
def test_forwarded_counts_where_it_is_the_only_such_field(forwarded: str, seen_of_it: list[str]) -> None:
    assert by_forwarded(1, forwarded) == seen_of_it
    assert by_forwarded(0, forwarded) == UNKNOWN
    assert by_forwarded(2, forwarded.rpartition(", ")[2]) == UNKNOWN
    assert by_forwarded(2, f"{forwarded}, for=10.0.0.2;proto=http") == seen_of_it


@pytest.mark.parametrize("name", ["FOR", "PROTO", "HOST"])
def test_forwarded_is_the_clients_word_where_a_proxy_sends_another_field(name: str) -> None:
    value = {"FOR": "203.0.113.9", "PROTO": "http", "HOST": "inner.example"}[name]
    address = "203.0.113.9" if name == "FOR" else "10.0.0.1"
    said = by_forwarded(1, "for=6.6.6.6;proto=https;host=evil.example", **{f"HTTP_X_FORWARDED_{name}": value})
    assert said == [address, "http", "inner.example"]


def test_the_url_is_what_the_client_asked_for() -> None:
    assert seen(1, lambda request: request.url, proto="https", host="a.example") == "https://a.example/"


def test_a_proxy_that_says_nothing_changes_nothing() -> None:
    look = lambda request: [request.remote_addr, request.scheme, request.host]  # noqa: E731
    assert seen(2, look) == ["10.0.0.1", "http", "inner.example"]


@pytest.mark.parametrize(("proxies", "secure"), [(0, False), (1, True)])
def test_cookies_behind_a_proxy_that_takes_https_are_secure(proxies: int, secure: bool) -> None:
    app = Brubeck(secret=SECRET, proxies=proxies)

    @app.route("/")
    def index(request: Request) -> Response:
        request.session["a"] = 1
        response = Response()
        response.set_cookie("a", "b")
        return response

    cookies = [value for name, value in by_wsgi(app, HTTP_X_FORWARDED_PROTO="https")[1] if name == "Set-Cookie"]
    assert [cookie.endswith("; Secure") for cookie in cookies] == [secure, secure]


@pytest.mark.parametrize(("proxies", "safe"), [(0, [True, False]), (1, [False, True])])
def test_an_address_of_the_site_behind_a_proxy_is_a_safe_target(proxies: int, safe: list[bool]) -> None:
    look = lambda request: [safe_target(request, url) for url in ("http://inner.example/", "https://a.example/")]  # noqa: E731
    assert seen(proxies, look, proto="https", host="a.example") == safe


def test_a_form_behind_a_proxy_comes_from_our_own_pages() -> None:
    app = Brubeck(proxies=1)
    app.wrap(csrf())
    app.post("/")(lambda request: "changed")
    forwarded = {"HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_HOST": "a.example", "REQUEST_METHOD": "POST"}
    assert [by_wsgi(app, HTTP_ORIGIN=origin, **forwarded)[0][:3] for origin in (OURS, "http://a.example")] == [
        "200", "403"
    ]  # fmt: skip


@pytest.mark.parametrize("look", [lambda r: r.remote_addr, lambda r: r.scheme, lambda r: r.host, lambda r: r.url])
@pytest.mark.parametrize("first", [False, True])
def test_a_mounted_application_stands_behind_the_same_proxies(look: Any, first: bool) -> None:
    outer, inner = Brubeck(proxies=1), Brubeck()
    inner.route("/")(look)
    outer.mount("/inner", inner)
    if first:
        outer.wrap(lambda respond: lambda request: (look(request), respond(request))[1])
    fields = {"HTTP_X_FORWARDED_FOR": "1.2.3.4", "HTTP_X_FORWARDED_PROTO": "https", "HTTP_X_FORWARDED_HOST": "a"}
    assert by_wsgi(outer, "/inner/", **fields)[2] in (b"1.2.3.4", b"a", b"https", b"https://a/inner/")


@pytest.mark.parametrize("proxies", [-1, -5])
def test_there_are_no_fewer_than_no_proxies(proxies: int) -> None:
    with pytest.raises(ValueError):
        Brubeck(proxies=proxies)


# Templates


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    folder = tmp_path / "templates"
    (folder / "folder").mkdir(parents=True)
    for name, text in {
        "hello.html": "Hello, {{ name }}!", "base.html": "<{% block a %}{% endblock %}>",
        "page.html": '{% extends "base.html" %}{% block a %}{{ a }}{% endblock %}', "folder/in.html": "é {{ a }}",
        "plain": "{{ a }}", "text.txt": "{{ a }}", "globals.html": "{{ request is defined }} {{ app is defined }}",
        "broken.html": "{% if %}", "fails.html": "{{ 1 / a }}", "safe.html": "{{ a|safe }}",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    (tmp_path / "secret.html").write_text("a secret")
    return folder


def rendered(folder: Path, template: str, /, **values: Any) -> Any:
    """The answer of a handler that renders this, as a function."""
    app = Brubeck()
    app.templates = jinja2_templates(folder)
    app.route("/")(lambda request: render(request, template, **values))
    return app.test(raise_errors=True).get("/")


def test_a_function_renders_a_template_with_values(templates: Path) -> None:
    got = rendered(templates, "hello.html", name="Bob")
    assert (got.text, got.headers["Content-Type"]) == ("Hello, Bob!", "text/html; charset=utf-8")


def test_a_class_renders_a_template_with_values(templates: Path) -> None:
    class Page(TemplateMixin, WebMessageHandler):
        def get(self) -> str:
            return self.render("hello.html", name="Bob")

    app = Brubeck()
    app.templates = jinja2_templates(templates)
    app.route("/")(Page)
    assert app.test(raise_errors=True).get("/").text == "Hello, Bob!"


def test_a_template_may_extend_another_and_stand_in_a_folder(templates: Path) -> None:
    assert rendered(templates, "page.html", a="x").text == "<x>"
    assert rendered(templates, "folder/in.html", a="€").text == "é €"


@pytest.mark.parametrize("template", ["page.html", "plain", "text.txt"])
def test_what_stands_in_a_value_is_text(templates: Path, template: str) -> None:
    assert "&lt;script&gt;&#39;" in rendered(templates, template, a="<script>'").text


def test_a_template_may_say_that_a_value_is_html(templates: Path) -> None:
    assert rendered(templates, "safe.html", a="<b>").text == "<b>"


def test_besides_the_values_the_request_is_there_and_nothing_else(templates: Path) -> None:
    assert rendered(templates, "globals.html").text == "True False"


def test_a_template_has_the_addresses_of_the_application_that_renders_it(templates: Path) -> None:
    (templates / "link.html").write_text("{{ request.path }} {{ url_for('page', a=1) }}")
    outer, inner = Brubeck(), Brubeck()
    inner.templates = jinja2_templates(templates)
    inner.get("/page", name="page")(lambda request: render(request, "link.html"))
    outer.mount("/inner", inner)
    assert outer.test(raise_errors=True).get("/inner/page").text == "/inner/page /inner/page?a=1"


def test_an_environment_has_the_filters_and_globals_of_the_program_and_can_be_reached(templates: Path) -> None:
    (templates / "own.html").write_text("{{ a|twice }} {{ site }} {{ more }}")
    made = jinja2_templates(templates, filters={"twice": lambda text: text * 2}, globals={"site": "here"})
    made.environment.globals["more"] = "more"  # type: ignore[attr-defined]
    assert made("own.html", a="x") == "xx here more"


@pytest.mark.parametrize("value", ["request", "name", "template", "context", "values", "environment"])
def test_a_value_may_have_any_name(templates: Path, value: str) -> None:
    (templates / "any.html").write_text(f"{{{{ {value} }}}}")
    assert rendered(templates, "any.html", **{value: "x"}).text == "x"


@pytest.mark.parametrize("template", ["missing.html", "../secret.html", "/etc/passwd", "folder", "", "broken.html"])
def test_a_template_that_is_none_is_a_500(templates: Path, template: str) -> None:
    app = Brubeck()
    app.templates = jinja2_templates(templates)
    app.route("/")(lambda request: render(request, template))
    assert (app.test().get("/").status, "secret" in app.test().get("/").text) == (500, False)


def test_a_template_that_fails_is_a_500_that_tells_nothing(templates: Path) -> None:
    app = Brubeck()
    app.templates = jinja2_templates(templates)
    app.route("/")(lambda request: render(request, "fails.html", a=0))
    assert app.test().get("/").text == "500 Internal Server Error\n"


def test_any_callable_makes_templates() -> None:
    app = Brubeck()
    app.templates = lambda template, **values: f"{template} {sorted(values)}"
    app.route("/")(lambda request: render(request, "a", b=1, c=2))
    assert app.test(raise_errors=True).get("/").text == "a ['b', 'c', 'request', 'url_for']"


def test_a_mounted_application_has_templates_of_its_own() -> None:
    outer, inner = Brubeck(), Brubeck()
    outer.templates, inner.templates = lambda template, **values: "outer", lambda template, **values: "inner"
    for app in (outer, inner):
        app.route("/")(lambda request: render(request, "a"))
    outer.mount("/inner", inner)
    assert [outer.test().get(path).text for path in ("/", "/inner/")] == ["outer", "inner"]


@pytest.mark.parametrize("templates", [None, "templates"])
def test_without_templates_the_error_says_what_to_set(templates: Any) -> None:
    app = Brubeck()
    app.templates = templates
    app.route("/")(lambda request: render(request, "a"))
    with pytest.raises(RuntimeError, match=r"app\.templates"):
        app.test(raise_errors=True).get("/")


def test_without_jinja2_the_error_says_what_to_install(templates: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "jinja2"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises((ImportError, RuntimeError), match=r"(?i)pip install jinja2"):
        jinja2_templates(templates)("hello.html")


def test_a_folder_of_templates_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises((ValueError, OSError, RuntimeError), match="no-such-folder"):
        jinja2_templates(tmp_path / "no-such-folder")


def test_a_folder_of_templates_may_be_text_or_a_path(templates: Path) -> None:
    assert [jinja2_templates(folder)("plain", a="x") for folder in (templates, str(templates))] == ["x", "x"]


# Several around one application


def test_an_answer_passes_all_that_stands_around_it() -> None:
    app = Brubeck(secret=SECRET)
    app.post("/")(lambda request: redirect("/done"))
    app.wrap(cors([OURS], credentials=True))
    app.wrap(csrf([OURS]))
    got = app.test().post("/", {"Origin": OURS})
    assert (got.status, got.headers["Access-Control-Allow-Origin"]) == (303, OURS)
    refused = app.test().post("/", {"Origin": FOREIGN})
    assert (refused.status, "Access-Control-Allow-Origin" in refused.headers) == (403, False)


def test_where_lists_are_due_for_other_origins_one_name_will_do() -> None:
    app = Brubeck()
    app.wrap(cors("https://app.example", methods="PUT", headers="X-One", expose="X-Two"))
    asks = {"Origin": "https://app.example", "Access-Control-Request-Method": "PUT"}
    got = app.test().options("/", headers=asks).headers
    assert (got["Access-Control-Allow-Methods"], got["Access-Control-Allow-Headers"]) == ("PUT", "X-One")
    assert got["Access-Control-Expose-Headers"] == "X-Two"


# The shape of middleware


def without_result(respond: Any) -> None: ...


def handler_that_looks(request: Request) -> str:
    return request.path


def handler_that_does_not(request: Request) -> Response:
    return Response("never")


def of_another_framework(request: Request, call_next: Any) -> Response:
    return Response("never")


def with_a_wrong_function_inside(respond: Any) -> Any:
    return lambda request, response: respond(request)


def with_something_asynchronous_inside(respond: Any) -> Any:
    async def answer(request: Request) -> Response:
        return Response(respond(request).body)

    return answer


@pytest.mark.parametrize(
    "wrong",
    [without_result, handler_that_looks, handler_that_does_not, of_another_framework, with_a_wrong_function_inside,
     with_something_asynchronous_inside, cors, csrf, csrf(), "middleware"],
    ids=lambda wrong: getattr(wrong, "__name__", str(wrong)),
)  # fmt: skip
def test_middleware_of_another_shape_is_refused_where_it_is_wrapped(wrong: Any) -> None:
    app = Brubeck()
    app.get("/")(lambda request: "page")
    app.wrap(csrf())
    if getattr(wrong, "__name__", "") == "<lambda>":  # what `csrf()` gives is right
        app.wrap(wrong)
    else:
        with pytest.raises(TypeError, match=r"`def middleware\(respond\):`, which returns a function `answer\(request"):
            app.wrap(wrong)
    assert app.test().get("/").text == "page"


@pytest.mark.parametrize("maker", [compress, cors, csrf])
def test_what_makes_middleware_is_to_be_called(maker: Any) -> None:
    with pytest.raises(TypeError, match=rf"write app\.wrap\({maker.__name__}\(...\)\)"):
        Brubeck().wrap(maker)


def test_middleware_that_forgets_the_answer_is_named_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    app = Brubeck()

    @app.wrap
    def forgetful(respond: Any) -> Any:
        def answer(request: Request) -> None:
            respond(request)

        return answer

    assert app.test().get("/").status == 500
    assert re.search(r"forgetful.<locals>.answer \(.*test_middleware.py:\d+\), or middleware inside it", caplog.text)
    assert "Traceback" not in caplog.text and len(caplog.records) == 1
