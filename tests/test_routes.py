"""Sections Routes, Handlers and Brubeck: which handler gets a request, and inside what."""

from __future__ import annotations

import functools
import gc
import io
import logging
import re
import subprocess
import sys
import tracemalloc
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, unquote_to_bytes
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import environment
from werkzeug.routing import BaseConverter

from brubeck_lite import (
    Brubeck,
    HTTPError,
    MessageHandler,
    Request,
    Response,
    WebMessageHandler,
    WSGIRequest,
    authenticated,
    basic_auth,
    bearer_auth,
    parse_mongrel2,
)

Respond = Callable[[Request], Response]


def says(text: str) -> Callable[..., Any]:
    """A handler of this name that answers with its name and whatever arguments it got."""

    def say(request: Request, *groups: Any, **named: Any) -> str:
        return " ".join([text, *map(repr, groups), *(f"{name}={value!r}" for name, value in named.items())])

    say.__name__ = text
    return say


def routed(*rules: str) -> Brubeck:
    """An application whose rules answer with themselves, and are named so."""
    app = Brubeck()
    for rule in rules:
        app.route(rule, name=rule)(says(rule))
    return app


def by_wsgi(app: Callable[..., Any], **environ: Any) -> tuple[str, dict[str, str], bytes]:
    """Status, fields and body as a WSGI server gets them, where `__` in a name stands for a dot."""
    asked: dict[str, Any] = {"SCRIPT_NAME": "", "PATH_INFO": "/"}
    asked.update((name.replace("__", "."), value) for name, value in environ.items())
    setup_testing_defaults(asked)
    started: list[Any] = []
    pieces = app(asked, lambda status, fields, error=None: started.extend((status, dict(fields))))
    try:
        return started[0], started[1], b"".join(pieces)
    finally:
        getattr(pieces, "close", lambda: None)()


# Rules and expressions


@pytest.mark.parametrize(
    ("rule", "path", "arguments"),
    [("/a/<x>", "/a/é ü", " x='é ü'"), ("/a/<x>", "/a/b/c", None), ("/a/<x>", "/a/", None),
     ("/<int:n>", "/42", " n=42"), ("/<int:n>", "/-42", None), ("/<int(signed=True):n>", "/-42", " n=-42"),
     ("/<int(max=9):n>", "/9", " n=9"), ("/<int(max=9):n>", "/10", None), ("/<path:p>", "/a/b%2Fc", " p='a/b/c'"),
     ("/<any(a,b):x>", "/b", " x='b'"), ("/<any(a,b):x>", "/c", None), ("/<x>.<y>", "/a.b", " x='a' y='b'"),
     ("/A", "/a", None), ("/a", "/a/", None)],
)  # fmt: skip
def test_a_rule_takes_paths_and_gives_their_arguments(rule: str, path: str, arguments: str | None) -> None:
    got = routed(rule).test().get(path)
    assert (got.status, got.text) == ((404, "404 Not Found\n") if arguments is None else (200, rule + arguments))


@pytest.mark.parametrize(
    ("pattern", "path", "arguments"),
    [(r"^/url/path", "/url/pathfoo", ""), (r"/a", "/b/a", None), (r"/(\d+)/(\w+)", "/7/x", " '7' 'x'"),
     (r"/(\d+)?x", "/x", " None"), (r"/(?P<n>\d+)/(\w+)", "/7/x", " n='7'"), (r"^/é$", "/é", ""),
     (re.compile("/A", re.IGNORECASE), "/a", "")],
)  # fmt: skip
def test_an_expression_is_matched_at_the_beginning_and_gives_groups(pattern: Any, path: str, arguments: Any) -> None:
    got = Brubeck(handler_tuples=[(pattern, says("e"))]).test().get(path)
    assert (got.status, got.text) == ((404, "404 Not Found\n") if arguments is None else (200, f"e{arguments}"))


def test_expressions_come_after_rules_and_in_their_order() -> None:
    app = Brubeck(handler_tuples=[("/a", says("first")), ("/", says("second"))])
    app.route("/a")(says("rule"))
    assert [app.test().get(path).text for path in ("/a", "/ab", "/b")] == ["rule", "first", "second"]


def test_a_path_whose_first_route_does_not_take_the_method_goes_on_to_the_next() -> None:
    app = Brubeck(handler_tuples=[("/a", says("put"), ["PUT"]), ("/a", says("patch"), ["PATCH"])])
    app.get("/a")(says("get"))
    app.post("/<x>")(says("post"))
    client = app.test()
    assert [client.request(m, "/a").text[:3] for m in ("GET", "POST", "PUT", "PATCH")] == ["get", "pos", "put", "pat"]
    assert client.delete("/a").headers["Allow"] == "GET, HEAD, OPTIONS, PATCH, POST, PUT"


def test_a_function_in_handler_tuples_takes_every_method_unless_told_and_a_class_what_it_defines() -> None:
    client = Brubeck(handler_tuples=[("/a", says("all")), ("/b", says("put"), ["PUT"]), (r"/(c)", Page)]).test()
    asked = [("REPORT", "/a"), ("OPTIONS", "/a"), ("PUT", "/b"), ("GET", "/b"), ("GET", "/c"), ("DELETE", "/c")]
    assert [client.request(*pair).status for pair in asked] == [200, 200, 200, 405, 200, 405]


class Words(BaseConverter):
    """`a+b` -> a list, which a handler can change."""

    regex = "[a-z+]+"

    def to_python(self, value: str) -> list[str]:
        return value.split("+")

    def to_url(self, value: list[str]) -> str:
        return "+".join(value)


def test_a_programs_own_converters_stand_beside_those_that_are_there() -> None:
    app = Brubeck()
    app.converters = {"words": Words}
    app.route("/<words:w>/<int:n>", name="words")(says("words"))
    assert app.test().get("/a+b/1").text == "words w=['a', 'b'] n=1"
    assert app.url_for("words", w=["c", "d"], n=2) == "/c+d/2"


@pytest.mark.parametrize(("converter", "rule"), [("w", "/<w:x>"), ("w", "/<w():x>"), ("default", "/<x>")])
def test_a_handler_that_changes_its_arguments_does_not_change_the_next_requests(converter: str, rule: str) -> None:
    app = Brubeck()
    app.converters[converter] = Words

    @app.route(rule)
    def spoil(request: Request, x: list[str]) -> int:
        x.append("spoilt")
        request.arguments.clear()
        return Response(str(len(x)))

    assert [app.test().get("/a+b").text for _ in range(3)] == ["3"] * 3


@pytest.mark.parametrize(("length", "count"), [(230, 20_000), (100_000, 300)])
def test_no_number_of_paths_and_no_long_ones_fill_the_memory(length: int, count: int) -> None:
    app = routed("/<x>")
    tracemalloc.start()
    try:
        for number in range(count):
            by_wsgi(app, PATH_INFO=f"/{number}-{'x' * length}")
        assert tracemalloc.get_traced_memory()[0] < 8_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("path", ["/{}", "/inner/{}", "/none/{}", "//{}", "/{}%0A", "/e{}"])
def test_no_number_of_paths_and_methods_leaves_anything_in_memory(path: str) -> None:
    app = routed("/<x>")
    app.mount("/inner", routed("/<x>"))
    app.route(re.compile(r"^/e\d+"), methods=["GET"])(says("e"))

    def ask(count: int) -> int:
        for number in range(count):
            for method in ("OPTIONS", "GET", f"METHOD{number}"):
                target = path.format(f"{number + count}-{'x' * 1000}").replace("%0A", "\n")
                by_wsgi(app, PATH_INFO=target, REQUEST_METHOD=method)
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = ask(150)  # as much as the caches of the standard library hold
        assert ask(400) - before < 100_000
    finally:
        tracemalloc.stop()


def test_one_handler_may_have_several_rules_and_stays_what_it_was_also_after_requests_were_answered() -> None:
    app, handler = routed("/<y>"), says("both")
    assert app.test().get("/a").text == "/<y> y='a'"
    assert app.route("/a", name="h")(app.route("/b/<x>", name="h")(handler)) is handler
    assert [app.test().get(path).text for path in ("/a", "/b/1")] == ["both", "both x='1'"]
    assert [app.url_for("h"), app.url_for("h", x=1)] == ["/a", "/b/1"]


# Methods and redirects


@pytest.mark.parametrize("method", ["GETS", "PREPARE", "__INIT__", "get", "Get", "G ET", "", " NONE", "\xe9"])
def test_a_method_that_no_route_takes_is_405_with_allow(method: str) -> None:
    status, fields, _ = by_wsgi(routed("/"), REQUEST_METHOD=method)
    assert (status, fields["Allow"]) == ("405 Method Not Allowed", "GET, HEAD, OPTIONS")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
def test_each_method_has_its_decorator(method: str) -> None:
    app = Brubeck()
    getattr(app, method.lower())("/", name="it", max_body=5)(says(method))
    assert (app.test().request(method, "/").text, app.url_for("it")) == (method, "/")


@pytest.mark.parametrize(
    ("target", "location"),
    [("/folder?a=1&b=%2F", "/folder/?a=1&b=%2F"), ("/folder?//evil", "/folder/?//evil"),
     ('/folder?a="\\', "/folder/?a=%22%5C"), ("//folder", "/folder/"), ("/é x", "/%C3%A9%20x/"),
     ("///evil.example", "/evil.example/"), ("/\\evil", "/%5Cevil/"), ("/inner", "/inner/"),
     ("/inner?a=1", "/inner/?a=1"), ("/inner/folder", "/inner/folder/")],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_missing_final_slash_is_308_with_a_path_and_the_query(method: str, target: str, location: str) -> None:
    app = routed("/folder/", "/<x>/")
    app = Brubeck() if target.startswith("/inner") else app
    app.mount("/inner", routed("/", "/folder/"))
    got = app.test().request(method, target)
    assert (got.status, got.headers.get("Location")) == (308, location)


@pytest.mark.parametrize("order", [("GET", "HEAD"), ("HEAD", "GET"), ("GET", "POST", "HEAD"), ("HEAD", "POST", "GET")])
@pytest.mark.parametrize(
    "rules", [("/a/<x>", "/a/<y>"), ("/a/b", "/a/b"), (re.compile("/a/(?P<x>.)"), re.compile("/a/(?P<x>.)"))], ids=repr
)
def test_a_route_for_head_goes_before_the_head_of_a_route_for_get(order: Any, rules: Any) -> None:
    app = Brubeck()
    for number, method in enumerate(order):
        app.route(rules[number % 2], [method], name=method)(says(method))
    for method in order:
        assert (app.test().request(method, "/a/b").request.route or app.routes.all[-1]).name == method
    assert app.test().delete("/a/b").headers["Allow"] == ", ".join(sorted({*order, "OPTIONS"}))


def test_the_head_of_a_class_goes_before_the_head_of_a_function_for_get() -> None:
    app = Brubeck()
    app.get("/")(says("got"))
    app.route("/")(type("Heads", (WebMessageHandler,), {"head": lambda self: self.set_status(204)}))
    assert [app.test().request(method, "/").status for method in ("GET", "HEAD", "POST")] == [200, 204, 405]


def test_two_routes_for_head_conflict_and_a_websockets_gives_it_up() -> None:
    app = Brubeck()
    app.websocket("/")(says("ws"))
    app.route("/", ["HEAD"], name="head")(says("head"))
    assert app.test().head("/").status == 200
    with pytest.raises(ValueError, match="method in common"):
        app.route("/", ["HEAD", "POST"], name="two")(says("two"))
    with pytest.raises(ValueError, match="method in common"):
        app.get("/", name="get")(says("get"))


def test_a_thousand_routes_are_registered_in_little_more_than_their_number_of_steps() -> None:
    """Each is compared with those of its own rule alone: ten times as many take about ten times as many calls."""

    def calls(count: int) -> int:
        app, seen = Brubeck(), 0

        def profile(*event: Any) -> None:
            nonlocal seen
            seen += 1

        sys.setprofile(profile)
        try:
            for number in range(count):
                app.route(f"/{number}/<x>", name=str(number))(says("a"))
        finally:
            sys.setprofile(None)
        return seen

    calls(10)
    assert calls(300) < 12 * calls(30)


# What cannot be registered


# What a guard reads is what is matched


def two_levels() -> Brubeck:
    """Rules, expressions and a mounted application, whose handlers answer with the path that they were found by."""
    app, inner = Brubeck(), Brubeck()
    for each in (app, inner):
        each.route("/", name="root")(lambda request: "/")
        each.route("/admin/<name>", name="named")(lambda request, name: f"/admin/{name}")
        each.route("/folder/", name="folder")(lambda request: "/folder/")
        each.route("/files/<path:path>", name="path")(lambda request, path: f"/files/{path}")
        each.route(re.compile(r"^(/e/(?:\w|/)*)$"))(lambda request, path: path)
    app.mount("/inner", inner)
    return app


PATHS = st.lists(st.sampled_from(["/", "//", "inner", "admin", "folder", "files", "e", "a", ".", "%2F", "\u2028", "é"]))


@given(PATHS, st.sampled_from(["", "/app", "/app/", "//app", "/"]), st.sampled_from(["GET", "POST", "OPTIONS"]))
def test_whatever_matched_is_the_path_that_middleware_reads(parts: list[str], script_name: str, method: str) -> None:
    seen: list[Request] = []
    app = two_levels()
    app.wrap(lambda respond: lambda request: (seen.append(request), respond(request))[1])
    path = "/" + "".join(parts)
    environ = {"SCRIPT_NAME": script_name, "PATH_INFO": path.encode().decode("latin-1"), "REQUEST_METHOD": method}
    status, fields, body = by_wsgi(app, **environ)
    if status == "200 OK" and method == "GET":
        prefix = script_name.rstrip("/") + ("/inner" if path.startswith("/inner/") else "")
        assert seen[0].path == prefix + body.decode()
        assert not seen[0].path.startswith("//")
    elif status.startswith("308"):
        location = fields["Location"]
        assert location[0] == "/" and location[1:2] not in ("/", "\\") and location != quote(seen[0].path)
    else:
        assert status[:3] in ("404", "405") or (method, status) == ("OPTIONS", "200 OK")


@pytest.mark.parametrize("slashes", ["//", "///", "/%2F", "%2F%2F", "/%2f/"])
@pytest.mark.parametrize(
    ("path", "location"),
    [("admin/x", "/admin/x"), ("admin/x?next=//a", "/admin/x?next=//a"), ("folder", "/folder/"), ("", "/"),
     ("folder/", "/folder/"), ("files/a//b", "/files/a//b"), ("e/a", "/e/a"), ("admin//x", "/admin/x"),
     ("é", None), ("none", None), ("inner/none", None), ("inner/admin/x", "/inner/admin/x")],
)  # fmt: skip
@pytest.mark.parametrize("below", ["", "/inner"])
@pytest.mark.parametrize("script_name", ["", "/app"])
def test_a_path_that_begins_with_slashes_is_308_to_the_merged_one_or_404(
    slashes: str, path: str, location: str | None, below: str, script_name: str
) -> None:
    if below and path.startswith("inner"):
        location = None
    path, _, query = f"{below}{slashes}{path}".partition("?")
    environ = {"SCRIPT_NAME": script_name, "PATH_INFO": unquote_to_bytes(path).decode("latin-1"), "QUERY_STRING": query}
    status, fields, _ = by_wsgi(two_levels(), **environ)
    expected = None if location is None else script_name + below + location
    assert (status[:3], fields.get("Location")) == ("404" if expected is None else "308", expected)


@pytest.mark.parametrize("method", ["HEAD", "POST", "OPTIONS", "PURGE"])
def test_such_a_path_is_redirected_whatever_the_method(method: str) -> None:
    assert two_levels().test().request(method, "//admin/x").headers["Location"] == "/admin/x"


@pytest.mark.parametrize("path", ["admin/x", "*", "http://h/admin/x", "\\admin/x"])
def test_what_does_not_begin_with_a_slash_is_no_path_of_a_route(path: str) -> None:
    assert by_wsgi(two_levels(), PATH_INFO=path, SCRIPT_NAME="/app", REQUEST_METHOD="POST")[0][:3] in ("404", "405")
    if path != "*":
        assert by_wsgi(two_levels(), PATH_INFO=path, REQUEST_METHOD="OPTIONS")[0][:3] == "404"


def test_an_expression_that_asks_for_two_slashes_or_for_anything_gets_no_path_that_begins_with_them() -> None:
    app = Brubeck(handler_tuples=[("^//a", says("two")), (".*b", says("any"))])
    assert [app.test().get(path).status for path in ("//a", "//b", "/b")] == [404, 308, 200]


def test_middleware_that_refuses_a_prefix_cannot_be_passed() -> None:
    app = two_levels()

    @app.wrap
    def guard(respond: Respond) -> Respond:
        return lambda request: Response("no", 403) if request.path.startswith("/inner") else respond(request)

    for path in ("/inner/admin/x", "//inner/admin/x", "/%2Finner/admin/x", "/inner//admin/x", "///inner/admin/x"):
        answer = app.test().get(path, follow=True)
        assert (path, answer.status) == (path, 403)


@pytest.mark.parametrize("control", ["%0A", "%0D", "%00", "%1F", "%7F", "\n", "\t"])
@pytest.mark.parametrize("path", ["/e/a{}", "/{}e/a", "/admin/a{}", "/inner/e/a{}", "//e/a{}", "/none{}"])
def test_a_control_character_in_a_path_is_400(path: str, control: str) -> None:
    assert two_levels().test().get(path.format(control)).status == 400


@pytest.mark.parametrize("character", ["\x85", "\u2028", "\u2029", "\xa0", "\u200b", "\ufeff", "\x9f"])
def test_other_characters_that_cannot_be_seen_are_legal_and_end_no_expression(character: str) -> None:
    assert two_levels().test().get(f"/admin/{character}").text == f"/admin/{character}"
    assert two_levels().test().get(f"/e/a{character}").status == 404


@pytest.mark.parametrize("control", ["\n", "\0", "\x7f"])
def test_url_for_makes_no_path_with_a_control_character(control: str) -> None:
    with pytest.raises(ValueError, match="named"):
        two_levels().url_for("named", name=f"a{control}")


@pytest.mark.parametrize(
    ("first", "second"),
    [(("/a", None, "x"), ("/a", ["POST", "GET"], "y")), (("/<a>", None, "x"), ("/<b>", None, "y")), (("@a", None, "x"),
     ("@a", None, "y")), (("/<int:a>", None, "x"), ("/<int:b>", None, "y")), (("/a", None, "x"), ("/b", None, "x"))],
)  # fmt: skip
def test_two_routes_that_conflict_are_refused_in_words_that_name_one(first: Any, second: Any) -> None:
    app = Brubeck()
    app.route(*first)(says("a"))
    with pytest.raises(ValueError, match=re.escape(f"<Route {first[0]!r}")):
        app.route(*second)(says("a"))


def test_two_classes_for_one_message_socket_conflict() -> None:
    app = Brubeck()
    app.route("@chat")(type("First", (Chat,), {}))
    with pytest.raises(ValueError, match="@chat"):
        app.route("@chat")(type("Second", (Chat,), {}))


class Uncallable:
    def __init__(self, app: Brubeck, request: Request) -> None: ...


@pytest.mark.parametrize(
    ("rule", "handler", "named"),
    [("a", says("a"), '"/"'), ("", says("a"), '"/"'), ("/<unknown:x>", says("a"), "unknown"), ("/<x", says("a"), "/<x"),
     ("/<x>/<x>", says("a"), "/<x>/<x>"), ("/<int(y=1):x>", says("a"), "y"), ("/<any(:x>", says("a"), "any"),
     ("/{x}", says("a"), "{x} in it: an argument is like <n>"), ("/a/{x:int}/b", says("a"), "like <n> or <int:n>"),
     ("/a/:x", says("a"), ":x in it: an argument is like <n> or <int:n>"),
     (r"/a/(\d+)", says("a"), r"a regular expression is re.compile('/a/(\\d+)')"),
     ("/a/*", says("a"), "<path:name> takes all that follows"),
     ("/search?q=<x>", says("a"), "a query in it: that is for request.query"),
     ("/a", None, "cannot be called: None"), ("/a", "a function", "'a function'"), ("/a", Uncallable, "/a")],
)  # fmt: skip
def test_a_route_that_cannot_be_is_refused_by_name_and_leaves_the_others(rule: str, handler: Any, named: str) -> None:
    app = routed("/fine")
    with pytest.raises(ValueError, match=re.escape(named)):
        app.route(rule)(handler)
    assert [app.test().get(path).status for path in ("/fine", "/a")] == [200, 404]


@pytest.mark.parametrize(
    ("entry", "named"), [(("(", says("a")), "'('"), (("/b", None), "'/b'"), (("/", says("a"), "GET"), "GET")]
)
def test_a_handler_tuple_that_cannot_be_is_refused_by_name(entry: Any, named: str) -> None:
    with pytest.raises(ValueError, match=re.escape(named)):
        Brubeck(handler_tuples=[entry])


# Classes


class Page(WebMessageHandler):
    methods = ("REPORT",)

    def get(self, *names: str) -> str:
        return " ".join(["got", *names])

    def post(self) -> str:
        return "posted"

    def report(self) -> str:
        return "reported"

    def secret(self) -> str:
        return "a secret"


class Chat(MessageHandler):
    def message(self) -> dict[str, Any]:
        return {"heard": self.request.body.decode()}


def classed(handler: type, **options: Any) -> Brubeck:
    app = Brubeck()
    app.route("/", **options)(handler)
    return app


ATTRIBUTES = "PREPARE RENDER __INIT__ ON_FINISH MESSAGE UNSUPPORTED SECRET METHODS __CALL__ SET_STATUS REDIRECT PUT get"


@pytest.mark.parametrize("method", ["", " UNSUPPORTED", *ATTRIBUTES.split()])
def test_no_method_names_another_attribute_of_a_class(method: str) -> None:
    status, fields, body = by_wsgi(classed(Page), REQUEST_METHOD=method)
    assert (status, body) == ("405 Method Not Allowed", b"405 Method Not Allowed\n")
    assert fields["Allow"] == "GET, HEAD, OPTIONS, POST, REPORT"


def test_a_class_takes_only_the_methods_that_its_route_names() -> None:
    got = classed(Page, methods=["GET"]).test().post("/")
    assert (got.status, got.headers.get("Allow")) == (405, "GET, HEAD, OPTIONS")


def test_unsupported_answers_what_a_class_does_not_take() -> None:
    client = classed(type("Own", (Page,), {"unsupported": lambda self: f"not {self.request.method}"})).test()
    assert [client.request(method, "/").text for method in ("SECRET", "GET")] == ["not SECRET", "got"]


@pytest.mark.parametrize(
    ("raising", "calls", "status"),
    [("", "prepare get on_finish", 200), ("get", "prepare get on_finish", 500), ("prepare", "prepare on_finish", 500)],
)
def test_prepare_comes_before_the_method_and_on_finish_after_it_always(raising: str, calls: str, status: int) -> None:
    seen: list[str] = []

    def noting(name: str) -> Callable[..., None]:
        return lambda self: 1 / 0 if seen.append(name) or name == raising else None  # type: ignore[func-returns-value]

    handler = type("Noting", (MessageHandler,), {name: noting(name) for name in ("prepare", "get", "on_finish")})
    assert (classed(handler).test().get("/").status, seen) == (status, calls.split())


def test_a_class_of_another_kind_is_made_for_each_message_and_takes_what_a_function_would() -> None:
    class Greeting:
        calls = 0

        def __init__(self, app: Brubeck, request: Request) -> None:
            self.app, self.request = app, request

        def __call__(self, name: str = "you") -> str:
            self.calls += 1
            return f"{self.request.method} {name} {self.calls} {self.app is app}"

    app = classed(Greeting)
    app.route("/<name>", name="named")(Greeting)
    assert [app.test().get(path).text for path in ("/", "/me", "/me")] == ["GET you 1 True", *["GET me 1 True"] * 2]
    assert app.test().post("/").status == 405


# Message sockets


def test_a_message_socket_is_routed_by_an_exact_table_and_gets_a_bare_payload() -> None:
    app = Brubeck(handler_tuples=[("@chat", Chat), ("", says("expression"))])
    app.route("<feed")(says("heard"))
    app.route("/<path:p>")(says("rule"))

    def answer(path: str) -> tuple[int, Any]:
        response = app.handle(parse_mongrel2(b's 1 %b 17:{"METHOD":"JSON"},2:hi,' % path.encode()))
        return response.status, response.body

    assert [answer("@chat"), answer("<feed")] == [(200, b'{"heard":"hi"}'), (200, b"heard")]
    assert [answer(path)[0] for path in ("@chatter", "@", "@*", "/chat")] == [404] * 4


# Mounted applications and middleware


def marking(name: str) -> Any:
    """Middleware that leaves its name in a header, after those that were there."""

    def middleware(respond: Respond) -> Respond:
        def marked(request: Request) -> Response:
            response = respond(request)
            response.headers["X-Wraps"] = f"{response.headers.get('X-Wraps', '')}{name} "
            return response

        return marked

    return middleware


def mounted() -> tuple[Brubeck, Brubeck]:
    """An application below /inner of another; both have a page, an error handler and a wrap."""
    outer, inner = Brubeck(max_body=1000), Brubeck(max_body=2000)
    for name, app in (("outer", outer), ("inner", inner)):
        app.route("/", name="root")(lambda request, name=name: f"{name} {request.path} {request.url_for('root')}")
        app.post("/body", name="body")(lambda request: str(len(request.body)))
        app.error(404)(lambda request, error, name=name: f"not in {name}")
        app.wrap(marking(name))
    outer.mount("/inner", inner)
    return outer, inner


@pytest.mark.parametrize(
    ("path", "status", "text", "wraps"),
    [("/", 200, "outer / /", "outer "), ("/inner/", 200, "inner /inner/ /inner/", "inner outer "),
     ("/missing", 404, "not in outer", "outer "), ("/inner/missing", 404, "not in inner", "inner outer "),
     ("/innermost", 404, "not in outer", "outer ")],
)  # fmt: skip
def test_a_mounted_application_has_its_prefix_errors_and_wraps(path: str, status: int, text: str, wraps: str) -> None:
    got = mounted()[0].test().get(path)
    assert (got.status, got.text, got.headers["X-Wraps"]) == (status, text, wraps)


def test_applications_may_be_mounted_in_mounted_ones_in_several_places_and_below_script_name() -> None:
    outer, inner = mounted()
    top = Brubeck()
    top.mount("/a/b", outer)
    top.mount("/c", inner)
    seen = [by_wsgi(top, SCRIPT_NAME="/s", PATH_INFO=path)[2].decode() for path in ("/a/b/inner/", "/c/", "/a/b/")]
    assert seen == ["inner /s/a/b/inner/ /s/a/b/inner/", "inner /s/c/ /s/c/", "outer /s/a/b/ /s/a/b/"]


def test_a_mounted_stream_has_its_own_application_while_it_is_sent() -> None:
    outer, inner = mounted()

    @inner.route("/stream")
    def stream(request: Request) -> Iterator[str]:
        yield "first "
        yield request.url_for("stream")

    assert outer.test().get("/inner/stream").text == "first /inner/stream"


@pytest.mark.parametrize("first", ["outer", "inner"])
@pytest.mark.parametrize("read", [lambda r: r.body, lambda r: r.form["a"], lambda r: r.state, lambda r: r.query,
                                  lambda r: r.headers, lambda r: r.stream, lambda r: r.cookies])  # fmt: skip
def test_what_is_read_of_a_message_is_one_for_the_outer_and_the_mounted_application(read: Any, first: str) -> None:
    (outer, inner), seen = mounted(), []

    def look(request: Request) -> str:
        seen.append(read(request))
        return "looked"

    inner.post("/look")(look)

    @outer.wrap
    def middleware(respond: Respond) -> Respond:
        def around(request: Request) -> Response:
            if first == "outer":
                look(request)
            response = respond(request)
            look(request)
            return response

        return around

    assert outer.test(raise_errors=True).post("/inner/look?b=c", data={"a": "b"}).text == "looked"
    assert len(seen) == 2 + (first == "outer")
    assert all(value is seen[0] for value in seen)


def test_a_mounted_application_and_the_outer_one_have_a_route_arguments_and_prefix_each() -> None:
    outer, inner, top, seen = Brubeck(), Brubeck(), Brubeck(), []

    def note(request: Request) -> None:
        route, app = request.route, [top, outer, inner].index(request.app)
        seen.append((app, route and route.name, request.arguments, request.url_for("root")))
        request.seen = "the same"  # type: ignore[attr-defined]

    def middleware(respond: Respond) -> Respond:
        def around(request: Request) -> Response:
            note(request)
            response = respond(request)
            note(request)
            assert request.seen == "the same"  # type: ignore[attr-defined]
            return response

        return around

    for app in (top, outer, inner):
        app.wrap(middleware)
        app.route("/", name="root")(says("root"))
    inner.route("/<x>", name="x")(lambda request, x: (note(request), Response(x))[1])
    outer.mount("/b", inner)
    top.mount("/a", outer)
    assert top.test(raise_errors=True).get("/a/b/c").text == "c"
    around = [(0, "/a", {}, "/"), (1, "/b", {}, "/a/"), (2, "x", {"x": "c"}, "/a/b/")]
    assert seen == [*around, around[2], *reversed(around)]


def test_who_is_signed_in_is_one_for_applications_with_one_secret_and_each_its_own_for_others() -> None:
    for secret, expected in ((None, ["dave", "paul"]), ("another secret of many letters", [None, "dave"])):
        outer, inner = Brubeck(secret="a secret of many letters"), Brubeck(secret=secret)
        seen: list[Any] = []

        def sign_in(request: Request, seen: list[Any] = seen) -> str:
            seen.append(request.current_user)
            request.current_user = "paul"
            return "in"

        def middleware(respond: Respond, seen: list[Any] = seen) -> Respond:
            def around(request: Request) -> Response:
                request.current_user = "dave"
                response = respond(request)
                seen.append(request.current_user)
                return response

            return around

        outer.wrap(middleware)
        inner.route("/")(sign_in)
        outer.mount("/inner", inner)
        assert outer.test(raise_errors=True).get("/inner/").text == "in"
        assert seen == expected


@pytest.mark.parametrize("path", ["/", "/stream", "/fails", "/fails/twice", "/missing", "/none/missing"])
def test_the_requests_of_both_applications_are_gone_after_the_answer_without_the_garbage_collector(
    path: str, caplog: Any
) -> None:
    (outer, inner), seen = mounted(), []
    caplog.set_level(logging.CRITICAL)  # what pytest keeps of the log would hold them
    for app in (outer, inner):
        app.wrap(lambda respond: lambda request: (seen.append(weakref.ref(request)), respond(request))[1])
    inner.get("/stream", name="stream")(lambda request: (each(request) for each in [lambda r: r.url_for("stream")]))
    inner.get("/fails", name="fails")(lambda request: 1 / 0)
    inner.get("/fails/twice", name="twice")(lambda request: ()[len(request.query)])
    inner.error(IndexError)(lambda request, error: 1 / 0)
    gc.disable()
    try:
        status, _, body = by_wsgi(outer, PATH_INFO=f"/inner{path}".replace("/inner/none", ""))
        assert status[:3] == ("500" if "fails" in path else "404" if "missing" in path else "200")
        assert len(seen) == (1 if path == "/none/missing" else 2) and [ref() for ref in seen] == [None] * len(seen)
        assert path != "/stream" or body == b"/inner/stream"
    finally:
        gc.enable()


@pytest.mark.parametrize("wrong", [{"PATH_INFO": "/\xff"}, {"PATH_INFO": "/a\x01"}, {"CONTENT_LENGTH": "abc"}])
def test_a_request_with_a_wrong_host_and_another_fault_is_gone_after_the_answer_too(
    wrong: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = list[weakref.ref[Request]]()
    begin = WSGIRequest.__init__

    def note(self: WSGIRequest, *arguments: Any) -> None:
        made.append(weakref.ref(self))
        begin(self, *arguments)

    monkeypatch.setattr(WSGIRequest, "__init__", note)
    gc.disable()
    try:
        assert by_wsgi(Brubeck(hosts=["a.example"]), HTTP_HOST="evil.example", **wrong)[0][:3] == "400"
        assert [ref() for ref in made] == [None]
    finally:
        gc.enable()


def test_a_mounted_applications_own_max_body_counts() -> None:
    assert [mounted()[0].test().post("/inner/body", data="x" * size).status for size in (1500, 2500)] == [200, 413]


@pytest.mark.parametrize(
    ("method", "path", "limit"),
    [("POST", "/inner/body", 2000), ("POST", "/inner/small", 10), ("POST", "/inner/none", 1000),
     ("POST", "/body", 1000), ("OPTIONS", "/inner/body", 2000), ("OPTIONS", "/body", 1000)],
)  # fmt: skip
def test_middleware_may_read_a_body_up_to_the_limit_of_the_route_that_takes_it(
    method: str, path: str, limit: int
) -> None:
    outer, inner = Brubeck(max_body=1000), Brubeck(max_body=2000)
    for app in (outer, inner):
        app.post("/body")(lambda request: "")
    inner.post("/small", max_body=10)(lambda request: "")
    outer.mount("/inner", inner)
    outer.wrap(lambda respond: lambda request: Response(str(len(request.body))))
    chunked = {"wsgi__input_terminated": True, "REQUEST_METHOD": method, "PATH_INFO": path}
    sent = {size: by_wsgi(outer, wsgi__input=io.BytesIO(bytes(size)), **chunked) for size in (limit, limit + 1)}
    assert sent[limit][::2] == ("200 OK", str(limit).encode())
    assert sent[limit + 1][0][:3] == "413" and str(limit).encode() in sent[limit + 1][2]


def test_a_body_that_middleware_reads_is_bounded_where_an_application_is_mounted_too() -> None:
    outer, _ = mounted()
    outer.wrap(lambda respond: lambda request: respond(request) if request.body else Response("empty"))
    chunked = {"wsgi__input": io.BytesIO(b"x" * 100_000), "wsgi__input_terminated": True}
    assert by_wsgi(outer, REQUEST_METHOD="POST", PATH_INFO="/inner/body", **chunked)[0][:3] == "413"


@pytest.mark.parametrize("prefix", ["", "/", "inner", "/inner/", "//inner", "/<name>"])
def test_a_prefix_that_is_none_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match="prefix"):
        Brubeck().mount(prefix, Brubeck())


def test_the_first_wrapped_is_the_outermost() -> None:
    app = routed("/")
    for name in ("first", "second", "third"):
        app.wrap(marking(name))
    assert app.test().get("/").headers["X-Wraps"] == "third second first "


@pytest.mark.parametrize(("error", "status"), [(ValueError(), 500), (HTTPError(403), 403)])
def test_what_middleware_raises_is_answered(error: Exception, status: int) -> None:
    def fail(request: Request) -> Response:
        raise error

    app = routed("/")
    app.wrap(lambda respond: fail)
    app.error(status)(lambda request, error: "handled")
    assert (app.test().get("/").status, app.test().get("/").text) == (status, "handled")


@pytest.mark.parametrize("value", [None, "text", ("a", 200)])
def test_middleware_that_gives_no_response_is_a_500_for_clients_and_for_the_test_client(value: Any) -> None:
    app = routed("/")
    app.wrap(lambda respond: lambda request: value)
    assert by_wsgi(app)[0] == "500 Internal Server Error"
    assert app.test().get("/").status == 500


# Starting and stopping, addresses


def test_on_start_is_called_before_the_first_request_and_on_stop_once() -> None:
    (outer, inner), seen = mounted(), []
    for name, app in (("outer", outer), ("inner", inner)):
        app.on_start(lambda name=name: seen.append(f"{name} starts"))
        app.on_stop(lambda name=name: seen.append(f"{name} stops"))
    outer.get("/note")(lambda request: seen.append("request"))
    for _ in range(2):
        outer.test().get("/note")
    outer.call_on_stop()
    outer.call_on_stop()
    assert seen == ["outer starts", "inner starts", "request", "request", "inner stops", "outer stops"]


@pytest.mark.parametrize(
    ("rule", "values", "path"),
    [("/", {}, "/"), ("/a/<x>", {"x": "b é?#"}, "/a/b%20%C3%A9%3F%23"), ("/a/<int:n>", {"n": 5}, "/a/5"),
     ("/<path:p>", {"p": "a/b"}, "/a/b"), ("/<path:p>", {"p": "/evil.example"}, "/evil.example")],
)  # fmt: skip
def test_url_for_is_the_path_of_a_named_route(rule: str, values: dict[str, Any], path: str) -> None:
    app = routed(rule)
    assert (app.url_for(rule, **values), app.test().get(path).text[: len(rule)]) == (path, rule)


@pytest.mark.parametrize(
    ("rule", "values", "address"),
    [("/", {"page": 2}, "/?page=2"), ("/a/<int:n>", {"n": 1, "page": 2}, "/a/1?page=2"),
     ("/a/<x>", {"x": "?", "q": "é &=+#"}, "/a/%3F?q=%C3%A9+%26%3D%2B%23"), ("/", {"a": [2, "b c"]}, "/?a=2&a=b+c"),
     ("/", {"a": None, "b": [], "c": ""}, "/?c="), ("/<path:p>", {"p": "a/b", "pp": 1}, "/a/b?pp=1"),
     ("/", {"name": "x", "from": 1.5}, "/?name=x&from=1.5"), ("/<x>.<y>", {"x": "a.b", "y": "c"}, "/a.b.c")],
)  # fmt: skip
def test_what_the_rule_does_not_take_becomes_the_query_of_url_for(
    rule: str, values: dict[str, Any], address: str
) -> None:
    app = routed(rule)
    assert app.url_for(rule, **values) == address
    outer = Brubeck()
    outer.mount("/in é", app)
    app.wrap(lambda respond: lambda request: Response(request.url_for(rule, **values)))
    assert outer.test().get("/in é/").text == "/in%20%C3%A9" + address
    query = app.test().get(address).request.query
    taken = {name: [str(each) for each in value] if isinstance(value, list) else [str(value)]
             for name, value in values.items() if f"{name}>" not in rule and value not in (None, [])}  # fmt: skip
    assert {name: query.getall(name) for name in query} == taken


@pytest.mark.parametrize(
    ("rule", "value"),
    [("<x>", "a/b"), ("<x>", ""), ("<x>", None), ("<x>", "a\nb"), ("<x>", "\0"), ("<x>", "\ud800"),
     ("<string(length=2):x>", "abc"), ("<string(minlength=2):x>", "a"), ("<int:x>", "a"), ("<int:x>", ""),
     ("<int:x>", -1), ("<int:x>", float("inf")), ("<int:x>", [1]), ("<int(min=5):x>", 4), ("<int(max=5):x>", 6),
     ("<float:x>", "a"), ("<float:x>", 1e300), ("<float(max=2.0):x>", 2.5), ("<any(a,b):x>", "c"), ("<any(a,b):x>", ""),
     ("<uuid:x>", "a"), ("a/<path:x>", ""), ("<words:x>", ["A"])],
)  # fmt: skip
def test_a_value_that_the_rule_would_not_match_is_a_value_error(rule: str, value: Any) -> None:
    app = Brubeck()
    app.converters["words"] = Words
    app.route(f"/{rule}", name="it")(says("it"))
    app.route("/<path:p>", name="other")(says("other"))  # takes what the rule does not
    with pytest.raises(ValueError, match="'it'"):
        app.url_for("it", x=value)


def test_of_several_rules_with_one_name_url_for_takes_the_one_that_takes_most_of_the_values() -> None:
    app, handler = Brubeck(), says("h")
    for rule in ("/a", "/b/<x>", "/c/<x>/<int:y>", "/d/<int:x>"):
        app.route(rule, name="h")(handler)
    asked = [{}, {"x": 1}, {"x": "e", "y": 2}, {"x": 1, "y": "e"}, {"z": 1}]
    assert [app.url_for("h", **values) for values in asked] == ["/a", "/b/1", "/c/e/2", "/b/1?y=e", "/a?z=1"]


def test_the_address_of_a_file_may_have_a_query_too(tmp_path: Path) -> None:
    app = Brubeck()
    app.static("/static", tmp_path)
    assert app.url_for("static", name="a b/ü.css", v=3) == "/static/a%20b/%C3%BC.css?v=3"


@pytest.mark.parametrize(("name", "values"), [("missing", {}), ("/<x>", {}), ("/<x>", {"y": 1})])
def test_url_for_what_is_not_there_is_a_value_error_that_names_it(name: str, values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"'{name}'"):
        routed("/<x>").url_for(name, **values)


# WSGI


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("path", ["/", "/json", "/pieces", "/nothing", "/boom", "/missing", "/folder"])
def test_the_application_does_what_pep_3333_says(method: str, path: str) -> None:
    app = Brubeck()
    for rule, value in [("/", "a"), ("/json", {}), ("/none", None), ("/nothing", ("", 204)), ("/folder/", "")]:
        app.route(rule, ["GET", "POST"], rule)(lambda request, value=value: value if request.body == b"" else "unread")
    app.get("/pieces")(lambda request: iter(["a", "b"]))
    app.get("/boom")(lambda request: 1 / 0)
    status, _, _ = by_wsgi(validator(app), REQUEST_METHOD=method, PATH_INFO=path, QUERY_STRING="", CONTENT_LENGTH="0")
    assert status[:3].isdigit()


PROGRAM = """
import sys, brubeck_lite
app = brubeck_lite.Brubeck()
app.on_start(lambda: print("started"))
app.on_stop(lambda: print("stopped"))
app.get("/")(lambda request: f"{request.path} {request.query['a']} {len(request.cookies)}")
environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "QUERY_STRING": "a=1", "wsgi.url_scheme": "http"}
for _ in range(2):
    print(b"".join(app(environ, lambda status, fields: print(status))).decode())
print([name for name in ("eventlet", "zmq", "greenlet") if name in sys.modules])
"""


def test_a_wsgi_request_needs_neither_eventlet_nor_zmq_and_warns_of_nothing() -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM]
    done = subprocess.run(
        command, env=environment(measured=False), capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.stdout, done.stderr) == ("started\n" + "200 OK\n/ 1 0\n" * 2 + "[]\nstopped\n", "")


def test_many_threads_get_their_own_answers() -> None:
    app, started = routed("/<x>/<int:n>"), []
    app.wrap(marking("w"))
    app.on_start(lambda: started.append(1))

    def several(thread: int) -> Iterator[bool]:
        for number in [*range(50)] * 6:
            yield by_wsgi(app, PATH_INFO=f"/{thread}/{number}")[2].decode() == f"/<x>/<int:n> x='{thread}' n={number}"
            yield by_wsgi(app, PATH_INFO=f"/missing{thread}")[0] == "404 Not Found"

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda thread: all(several(thread)), range(16)))
    assert started == [1]


# What is refused where it is written


async def coroutine(request: Request) -> str:
    return "never"


async def asynchronous_generator(request: Request) -> Any:
    yield "never"


class Called:
    """An object that is called, with a coroutine as result."""

    def __init__(self, *arguments: Any) -> None: ...

    async def __call__(self, request: Request) -> str:
        return "never"


class CalledToo(Called):
    """What inherits that."""


class Reports(WebMessageHandler):
    """A class with one such method."""

    methods = ("REPORT",)

    def get(self) -> str:
        return "page"

    async def report(self) -> str:
        return "never"


class Prepared(MessageHandler):
    """One whose `prepare` is."""

    async def prepare(self) -> None: ...


def asynchronous_handlers() -> list[Any]:
    functions: list[Any] = [coroutine, asynchronous_generator, Called(), CalledToo(), Called().__call__]
    partial: list[Any] = [functools.partial(each, 1) for each in functions]
    return [*functions, *partial, functools.partial(partial[0]), Reports, Prepared, Called]


@pytest.mark.parametrize("handler", asynchronous_handlers(), ids=lambda handler: getattr(handler, "__name__", "object"))
@pytest.mark.parametrize(
    "register",
    [
        lambda app: app.get("/x"),
        lambda app: app.route("/x", ["GET", "REPORT"]),
        lambda app: app.websocket("/x"),
        lambda app: app.error(404),
        lambda app: app.wrap,
        lambda app: app.on_start,
        lambda app: app.on_stop,
        lambda app: lambda handler: Brubeck(handler_tuples=[("^/x", handler)]),
    ],
    ids=["get", "route", "websocket", "error", "wrap", "on_start", "on_stop", "handler_tuples"],
)
def test_what_is_asynchronous_is_refused_at_its_decorator(register: Callable[..., Any], handler: Any) -> None:
    app = Brubeck()
    with pytest.raises(TypeError, match=r"async def.*write `def`"):
        register(app)(handler)
    assert app.test().get("/x").status == 404


@pytest.mark.parametrize("decorator", [authenticated, basic_auth(lambda *_: True), bearer_auth(lambda _: True)])
def test_what_is_asynchronous_is_refused_behind_a_check_too(decorator: Any) -> None:
    with pytest.raises(TypeError, match="async def"):
        decorator(coroutine)


@pytest.mark.parametrize(
    "register",
    [lambda app, function: app.on_start(function), lambda app, function: app.on_stop(function),
     lambda app, function: app.spawn(function), lambda app, function: app.websocket("/x")(lambda ws: (yield)),
     lambda app, function: app.websocket("/x")(authenticated(lambda ws: (yield))),
     lambda app, function: app.test().get("/", raise_errors=True).request.when_done(function)],
    ids=["on_start", "on_stop", "spawn", "websocket", "guarded", "when_done"],
)  # fmt: skip
def test_a_function_with_yield_is_refused_where_nobody_asks_for_what_it_yields(register: Callable[..., Any]) -> None:
    def lifespan() -> Iterator[None]:
        yield

    with pytest.raises(TypeError, match=r"has a `yield`, which only the handler of a route may have"):
        register(Brubeck(), lifespan)


@pytest.mark.parametrize("auth", [basic_auth, bearer_auth])
def test_a_check_that_is_asynchronous_lets_nobody_in(auth: Any) -> None:
    async def check(*credentials: str) -> bool:
        return False

    with pytest.raises(TypeError, match="async def"):
        auth(check)


def test_a_plain_function_around_something_asynchronous_is_a_handler() -> None:
    app = Brubeck()

    @app.get("/")
    @functools.wraps(coroutine)
    def run(request: Request) -> str:
        return "ran"

    assert app.test().get("/").text == "ran"


@pytest.mark.parametrize("name", ["get", "post", "put", "patch", "delete", "route", "websocket"])
def test_a_decorator_for_routes_without_parentheses_is_refused_and_shown_with_them(name: str) -> None:
    app = Brubeck()
    decorator = getattr(app, name)
    for call in (lambda: decorator(says("index")), lambda: decorator(Reports), lambda: decorator("/x", says("index"))):
        with pytest.raises(TypeError, match=rf'write @app\.{name}\("/path"\) above the handler'):
            call()
    with pytest.raises(TypeError, match="None"):
        decorator(None)


@pytest.mark.parametrize("name", ["get", "post", "put", "patch", "delete", "route", "websocket"])
def test_an_option_of_a_route_that_there_is_not_is_refused_where_it_is_given(name: str) -> None:
    with pytest.raises(TypeError, match="max_bdy"):
        getattr(Brubeck(), name)("/x", max_bdy=10)


@pytest.mark.parametrize(
    ("register", "handler", "form"),
    [
        (lambda app: app.get("/x"), lambda: "", "(request)"),
        (lambda app: app.get("/x"), lambda **named: "", "(request)"),
        (lambda app: app.get("/<n>"), lambda *, request, n: "", "(request, n)"),
        (lambda app: app.get("/<int:n>/<name>"), lambda n, name: "", "(request, n, name)"),
        (lambda app: app.post("/<n>"), authenticated(lambda n: ""), "(request, n)"),
        (lambda app: app.route(re.compile("^/(?P<n>.)")), lambda n: "", "(request, n)"),
        (lambda app: app.websocket("/<name>"), lambda name: "", "(ws, name)"),
    ],
)
def test_a_handler_without_a_parameter_for_the_request_is_refused(register: Any, handler: Any, form: str) -> None:
    app = Brubeck()
    with pytest.raises(TypeError, match=re.escape(f"takes no request: its parameters should be {form}")):
        register(app)(handler)
    assert app.test().get("/x").status == 404


@pytest.mark.parametrize(
    "decorate", [lambda handler: lambda request: handler(), lambda handler: lambda *all: handler()]
)
def test_a_decorator_may_give_a_handler_what_it_likes(decorate: Any) -> None:
    app = Brubeck()

    def index() -> str:
        return "index"

    app.get("/")(functools.wraps(index)(decorate(index)))
    assert app.test().get("/").text == "index"


@pytest.mark.parametrize("what", ["404", 42, 4040, True, None, int, KeyError(), says("missing")])
def test_error_is_for_a_status_or_a_class_of_exceptions(what: Any) -> None:
    with pytest.raises(TypeError, match=r"@app\.error\(404\) is given a status, or a class of exceptions"):
        Brubeck().error(what)


@pytest.mark.parametrize(
    "handler", [lambda: "", lambda request: "", lambda request, error, more: "", lambda request, *, error: "", len, "x"]
)
def test_an_error_handler_takes_the_request_and_the_error(handler: Any) -> None:
    app = Brubeck()
    with pytest.raises(TypeError, match=r"`def handler\(request, error\):`"):
        app.error(404)(handler)
    for right in (lambda *both: "right", lambda request, error, more=1: "right", authenticated(lambda *both: "right")):
        app.error(404)(right)


@pytest.mark.parametrize("name", ["on_start", "on_stop"])
@pytest.mark.parametrize("function", [lambda app: None, "start", None, len])
def test_what_is_called_at_the_start_and_the_end_is_a_function_without_arguments(name: str, function: Any) -> None:
    with pytest.raises(TypeError, match=rf"with @app\.{name} above it"):
        getattr(Brubeck(), name)(function)


def test_a_function_whose_annotations_name_nothing_yet_is_taken() -> None:
    app = Brubeck()
    names: dict[str, Any] = {"app": app}
    source = "@app.error(404)\ndef missing(request: NotYet, error: NotYet):\n    return 'missing'\n"
    if sys.version_info < (3, 14):  # before PEP 649 that is a NameError, unless they are strings
        source = f"from __future__ import annotations\n{source}"
    exec(source, names)
    assert app.test().get("/").text == "missing"


@pytest.mark.parametrize("other", [says("handler"), "/x", by_wsgi], ids=["function", "text", "other"])
def test_only_an_application_can_be_mounted(other: Any) -> None:
    with pytest.raises(TypeError, match="a Brubeck can be mounted"):
        Brubeck().mount("/x", other)


def test_an_application_is_mounted_neither_in_itself_nor_in_what_it_holds() -> None:
    outer, middle, inner = Brubeck(), Brubeck(), Brubeck()
    outer.mount("/middle", middle)
    middle.mount("/inner", inner)
    for app, other in ((outer, outer), (inner, outer), (inner, middle)):
        with pytest.raises(ValueError, match="an application cannot be mounted in itself"):
            app.mount("/again", other)
    outer.mount("/inner", inner)
    inner.get("/")(says("inner"))
    assert [outer.test().get(path).text for path in ("/middle/inner/", "/inner/")] == ["inner", "inner"]


@pytest.mark.parametrize("prefix", ["/a", "/a/b", "/a/b/c"])
def test_nothing_is_mounted_where_what_is_mounted_already_would_take_every_request(prefix: str) -> None:
    outer, taken, late = Brubeck(), Brubeck(), Brubeck()
    outer.mount("/a", taken)
    with pytest.raises(ValueError, match=f"nothing would reach '{prefix}': what is mounted at '/a' answers"):
        outer.mount(prefix, late)


def test_a_longer_prefix_is_mounted_before_a_shorter_one() -> None:
    outer = Brubeck()
    for prefix in ("/a/b", "/a", "/ab"):
        outer.mount(prefix, inner := Brubeck())
        inner.get("/")(says(prefix))
    assert [outer.test().get(path).text for path in ("/a/b/", "/a/", "/ab/")] == ["/a/b", "/a", "/ab"]


def test_routes_do_not_come_first_to_an_application() -> None:
    with pytest.raises(TypeError, match=r"write Brubeck\(handler_tuples=\[\(pattern, handler\)\]\)"):
        Brubeck([("^/$", says("index"))])  # type: ignore[list-item]


@pytest.mark.parametrize("name", [__name__, "127.0.0.1:8000"])
def test_an_application_needs_no_name(name: Any) -> None:
    with pytest.raises(TypeError, match=f"'{name}' is not needed"):
        Brubeck(name)


@pytest.mark.parametrize("methods", ["GET", ("POST"), ["GET POST"], ["GET, POST"], [b"GET"], [None], [""], [["GET"]]])
def test_methods_that_are_no_list_of_methods_are_refused_where_they_are_written(methods: Any) -> None:
    class Page(MessageHandler):
        def get(self) -> str:
            return "page"

    app = Brubeck()
    with pytest.raises(ValueError, match="methods is a list"):
        app.route("/", methods)(says("page"))
    cast(Any, Page).methods = methods
    with pytest.raises(ValueError, match="methods is a list"):
        app.route("/")(Page)
    assert app.test().get("/").status == 404


@pytest.mark.parametrize(
    ("option", "value"),
    [("max_body", "1M"), ("max_body", -1), ("timeout", "5"), ("timeout", -1), ("name", ["GET"]), ("name", 5)],
)
def test_an_option_of_a_route_that_cannot_be_is_refused_where_it_is_given(option: str, value: Any) -> None:
    app = Brubeck()
    with pytest.raises(ValueError, match=option):
        app.get("/x", **{option: value})(says("page"))
    assert app.test().get("/x").status == 404


@pytest.mark.parametrize("option", ["_anchor", "_scheme"])
def test_what_url_for_does_not_know_of_flask_does_not_become_the_query(option: str) -> None:
    app = Brubeck()
    app.get("/", name="index")(lambda request: request.url_for("index", **{option: "x"}))
    with pytest.raises(ValueError, match=f"url_for takes no {option}"):
        app.test(raise_errors=True).get("/")


# What an argument of a rule may be called


class Named(WebMessageHandler):
    def get(me, **named: str) -> Any:
        return named


def named(anything: Any, /, **named: str) -> Any:
    return named


@pytest.mark.parametrize("handler", [named, bearer_auth(lambda _: True, optional=True)(named), Named])
@pytest.mark.parametrize("app", [Brubeck, lambda: Brubeck(timeout=5)], ids=["plain", "with a time limit"])
def test_an_argument_of_a_rule_may_have_any_name(app: Any, handler: Any) -> None:
    app = app()
    names = ["first", "last", "request", "self", "app", "handler", "call", "cancel", "seconds", "timeout", "ws"]
    app.route("".join(f"/<{name}>" for name in names))(handler)
    assert app.test().get("/x" * len(names)).json == dict.fromkeys(names, "x")


def test_an_argument_of_a_websockets_rule_may_have_any_name() -> None:
    app = Brubeck()

    @app.websocket("/<request>/<handler>/<ws>/<self>")
    def talk(it: Any, /, **named: str) -> None:
        it.send(" ".join(named))

    with app.test().websocket("/a/b/c/d") as ws:
        assert ws.receive() == "request handler ws self"
