"""Room Response: what handlers return, what it becomes, and what is refused where it is set."""

from __future__ import annotations

import datetime
import decimal
import enum
import http.client
import json
import re
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http import HTTPStatus
from itertools import islice
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brubeck_lite import Brubeck, HTTPError, Request, Response, WebMessageHandler, abort, redirect

Handler = Callable[[Request], Any]
HTML, JSON = "text/html; charset=utf-8", "application/json"


def serving(handler: Handler, **options: Any) -> Brubeck:
    """An application with this one handler, at "/"."""
    app = Brubeck(**options)
    app.route("/")(handler)
    return app


def get(handler: Handler, method: str = "GET", **options: Any) -> Any:
    """The answer to a request for the handler."""
    return serving(handler, **options).test().request(method, "/")


def by_wsgi(app: Brubeck, **environ: Any) -> tuple[str, dict[str, str], Any]:
    """Status, header fields and the iterable, as a WSGI server gets them, where `__` in a name stands for a dot."""
    asked = {name.replace("__", "."): value for name, value in environ.items()}
    setup_testing_defaults(asked)
    started: list[Any] = []
    pieces = app(asked, lambda status, fields: started.extend((status, dict(fields))))
    return started[0], started[1], iter(pieces)


def with_cookie(*arguments: Any, **options: Any) -> Handler:
    """A handler that sets such a cookie."""

    def handler(request: Request) -> Response:
        response = Response()
        response.set_cookie(*arguments, **options)
        return response

    return handler


def failing(error: BaseException) -> Handler:
    """A handler that raises this."""

    def fail(request: Request) -> None:
        raise error

    return fail


# What handlers return

Words, Octets, Record = type("Words", (str,), {}), type("Octets", (bytes,), {}), type("Record", (dict,), {})


@pytest.mark.parametrize(
    ("value", "status", "body", "content_type"),
    [
        ("é", 200, "é", HTML), (b"\x00", 200, "\x00", HTML), (Words("a"), 200, "a", HTML),
        (Octets(b"a"), 200, "a", HTML), ({"a": [1, None]}, 200, '{"a":[1,null]}', JSON), ([], 200, "[]", JSON),
        (Record(a="é"), 200, '{"a":"\\u00e9"}', JSON), (None, 200, "", HTML),
        (iter(["a", b"b", "", "é"]), 200, "abé", HTML), (Response("a", 201), 201, "a", HTML),
        (Response(iter("ab"), content_type="text/x"), 200, "ab", "text/x"), (("a", 201), 201, "a", HTML),
        ((b"a", HTTPStatus.CREATED), 201, "a", HTML), (({"a": 1}, 201), 201, '{"a":1}', JSON),
        ((None, 202), 202, "", HTML), ((iter(["a"]), 201), 201, "a", HTML),
        (("a", 200, {"Content-Type": "text/x"}), 200, "a", "text/x"),
        (("a", 200, [("content-type", "text/x")]), 200, "a", "text/x"), ((Response("a", 201), 202), 202, "a", HTML),
    ],
)  # fmt: skip
def test_what_a_handler_returns_is_an_answer(value: Any, status: int, body: str, content_type: str) -> None:
    got = get(lambda request: value)
    assert (got.status, got.text, got.headers["Content-Type"]) == (status, body, content_type)


@pytest.mark.parametrize("value", [object(), 5, 1.5, True, {1, 2}, memoryview(b"a"), ("a", "20"), ("a", 200, {}, 1)])
def test_anything_else_is_a_500_whose_log_names_the_handler_and_the_type(value: Any, caplog: Any) -> None:
    def curious(request: Request) -> Any:
        return value

    assert get(curious).status == 500
    assert "curious" in caplog.text and type(value).__name__ in caplog.text


ENDLESS: list[Any] = []
ENDLESS.append(ENDLESS)


@pytest.mark.parametrize(
    "value", [{"a": float("nan")}, [float("inf")], [-float("inf")], {"a": object()}, [b"a"], ENDLESS]
)
def test_what_json_cannot_hold_is_a_500(value: Any) -> None:
    assert get(lambda request: value).status == 500


@pytest.mark.parametrize("dumps", [json.dumps, lambda value: json.dumps(value).encode()])
def test_json_dumps_may_be_set(dumps: Any) -> None:
    app = serving(lambda request: {"a": 1})
    app.json_dumps = dumps
    assert (app.test().get("/").text, app.test().get("/").headers["Content-Type"]) == ('{"a": 1}', JSON)


# Response


@pytest.mark.parametrize("body", [None, 5, ("a",), {"a"}, bytearray(b"a"), object()])
def test_a_body_that_is_no_body_is_a_type_error(body: Any) -> None:
    with pytest.raises(TypeError):
        Response(body)


@pytest.mark.parametrize("status", [0, 100, 600, "200", "200 OK\r\nX: y", None, 200.5])
def test_a_status_that_is_no_status_is_a_value_error(status: Any) -> None:
    with pytest.raises(ValueError):
        Response("", status)


def changed(name: str, value: Any) -> Handler:
    """A handler that sets an attribute of its Response."""

    def handler(request: Request) -> Response:
        response = Response("body")
        setattr(response, name, value)
        return response

    return handler


@pytest.mark.parametrize("body", ["two", b"two", iter(["t", "wo"])])
def test_a_body_may_be_set_later(body: Any) -> None:
    assert b"".join(islice(by_wsgi(serving(changed("body", body)))[2], 100)) == b"two"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("body", value) for value in [None, 5, ("a", "b"), object()]),
        *(("status", value) for value in ["200 OK\r\nX-Evil: 1", "200 \x00", 1000, None]),
    ],
)
def test_what_was_set_later_and_cannot_be_sent_is_a_500(name: str, value: Any) -> None:
    status, _, pieces = by_wsgi(serving(changed(name, value)))
    assert (status, list(islice(pieces, 9))) == ("500 Internal Server Error", [b"500 Internal Server Error\n"])


# Header fields


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, "a") for name in ["", "X Y", "X:", "X\r\nY", "X\x00", "X\t", "é", "X(", 'X"', "X\n"]),
        *(("X", value) for value in ["a\r\nX: 1", "a\rb", "a\nb", "\n", "a\x00b", "\x7f", "\x1b[0m", "€", "a\ud800"]),
        *((name, "a") for name in ["Connection", "transfer-encoding", "Keep-Alive", "Upgrade", "TE", "Trailer"]),
    ],
)
def test_a_field_that_http_does_not_allow_is_an_error_where_it_is_set(name: str, value: str) -> None:
    for way in ("add", "__setitem__", "setdefault"):
        with pytest.raises(ValueError, match="header"):
            getattr(Response().headers, way)(name, value)
    with pytest.raises(ValueError, match="header"):
        Response(headers={name: value})
    assert get(lambda request: abort(400, None, {name: value})).status == 500


@pytest.mark.parametrize(
    ("kind", "sent"), [(None, "application/json"), ("text/x-log", "text/x-log")], ids=["default", "own"]
)
def test_a_value_for_json_that_is_set_later_has_its_type_though_the_fields_were_changed_before(
    kind: str | None, sent: str
) -> None:
    app = Brubeck()

    @app.get("/")
    def late(request: Request) -> Response:
        response = Response("text", headers={"X-First": "1"}, content_type=kind)
        response.body = {"a": 1}
        return response

    got = app.test().get("/")
    assert (got.text, got.headers["Content-Type"]) == ('{"a":1}', sent)


def test_a_field_that_was_refused_leaves_nothing_behind() -> None:
    headers = Response().headers
    with pytest.raises(ValueError):
        headers.add("X", "\n")
    assert dict(headers) == {"Content-Type": HTML}


def test_headers_are_found_in_any_case_replaced_added_and_deleted() -> None:
    headers = Response(headers={"X-Two": "1"}).headers
    headers["x-tWO"] = "2"
    headers.add("X-TWO", "3")
    assert (headers["X-TWO"], "x-two" in headers, headers.get("x-one"), 5 in headers) == ("2, 3", True, None, False)
    del headers["X-two"]
    assert "x-two" not in headers


# Cookies


@pytest.mark.parametrize(
    ("options", "attributes"),
    [
        ({}, "Path=/; HttpOnly; SameSite=Lax"), ({"httponly": False}, "Path=/; SameSite=Lax"),
        ({"samesite": None}, "Path=/; HttpOnly"),
        ({"samesite": "None", "secure": True}, "Path=/; HttpOnly; SameSite=None; Secure"),
        ({"domain": "x.org", "path": "/a"}, "Domain=x.org; Path=/a; HttpOnly; SameSite=Lax"),
        ({"max_age": 60}, "Max-Age=60; Path=/; HttpOnly; SameSite=Lax"),
        ({"max_age": 0}, "Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; HttpOnly; SameSite=Lax"),
    ],
)  # fmt: skip
def test_a_cookie_has_attributes(options: dict[str, Any], attributes: str) -> None:
    assert get(with_cookie("a", "b", **options)).headers["Set-Cookie"] == f"a=b; {attributes}"


@pytest.mark.parametrize(
    ("name", "value", "options"),
    [
        *((name, "b", {}) for name in ["", "a b", "a=", "a;", "a,", "a\r\n", "a\x00", "é", '"a"']),
        *(("a", value, {}) for value in ["\r\n", "a\x00", "\n", "\x7f", "\t", "\ud800"]),
        *(("a", "b", {"path": path}) for path in ["/;", "/\r\n", "/\x00", "/é", "/; Domain=evil"]),
        *(("a", "b", {"domain": domain}) for domain in ["a;", "a\n", "a\x00", "é", "a; Path=/"]),
        *(("a", "b", {"samesite": samesite}) for samesite in ["lax", "", "Lax; Secure", "\n"]),
    ],
)
def test_what_cannot_stand_in_a_cookie_is_an_error_where_it_is_set(name: str, value: str, options: Any) -> None:
    with pytest.raises(ValueError):
        Response().set_cookie(name, value, **options)


@pytest.mark.parametrize(
    ("scheme", "secure", "seen"),
    [("https", None, True), ("http", None, False), ("https", False, False), ("http", True, True)],
)
def test_a_cookie_is_secure_as_its_request_was_unless_told(scheme: str, secure: bool | None, seen: bool) -> None:
    fields = by_wsgi(serving(with_cookie("a", "b", secure=secure)), wsgi__url_scheme=scheme)[1]
    assert fields["Set-Cookie"].endswith("; Secure") is seen


def test_of_two_cookies_with_one_name_and_path_the_last_is_sent_and_delete_cookie_makes_them_expire() -> None:
    def handler(request: Request) -> Response:
        response = Response()
        response.set_cookie("a", "1")
        response.set_cookie("a", "2", path="/p", httponly=False, samesite=None)
        response.delete_cookie("a")
        return response

    gone = "a=; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; Path=/; HttpOnly; SameSite=Lax"
    assert get(handler).headers["Set-Cookie"] == f"{gone}, a=2; Path=/p"


# Bodies that are not sent, and lengths


@pytest.mark.parametrize("value", ["four", {"a": 1}, None, ("", 200, {"ETag": '"x"'})])
def test_head_has_the_fields_of_get_and_no_body(value: Any) -> None:
    whole, head = get(lambda request: value), get(lambda request: value, "HEAD")
    assert (head.status, head.body, head.headers.pairs()) == (200, b"", whole.headers.pairs())


@pytest.mark.parametrize("status", [204, 304])
@pytest.mark.parametrize("value", ["body", iter(["body"]), None])
def test_204_and_304_have_neither_body_nor_length(status: int, value: Any) -> None:
    got = get(lambda request: (value, status, {"Content-Length": "4", "ETag": '"x"'}))
    assert (got.status, got.body, got.headers.pairs()) == (status, b"", [("ETag", '"x"')])


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])) | st.binary(), st.sampled_from(["3", "500", "nonsense"]))
def test_content_length_counts_bytes_whatever_the_program_says(body: str | bytes, length: str) -> None:
    got = get(lambda request: (body, 200, {"content-length": length}))
    assert got.headers["Content-Length"] == str(len(got.body))


# Iterators


class Noting:
    """An iterator that notes what was asked of it, and raises what is an exception among its pieces."""

    def __init__(self, *pieces: Any) -> None:
        self.pieces, self.given, self.closed = iter(pieces), 0, False

    def __iter__(self) -> Noting:
        return self

    def __next__(self) -> Any:
        piece = next(self.pieces)
        self.given += 1
        if isinstance(piece, Exception):
            raise piece
        return piece

    def close(self) -> None:
        self.closed = True


def test_pieces_are_made_as_they_are_sent() -> None:
    pieces = Noting("a", "", "b", "c")
    sent = by_wsgi(serving(lambda request: pieces))[2]
    assert (next(sent), pieces.given, next(sent), pieces.given) == (b"a", 1, b"b", 3)


def test_an_iterator_is_closed_though_the_client_left() -> None:
    pieces = Noting("a", "b", "c")
    sent = by_wsgi(serving(lambda request: pieces))[2]
    next(sent)
    sent.close()
    assert (pieces.closed, pieces.given) == (True, 1)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
def test_an_iterator_whose_pieces_are_not_sent_is_closed(method: str, status: int) -> None:
    pieces = Noting("a", "b")
    assert (get(lambda request: (pieces, status), method).body, pieces.closed) == (b"", True)


@pytest.mark.parametrize("first", [ValueError("a secret"), 5, None, ["a"], "\ud800"])
def test_an_iterator_that_fails_before_its_first_piece_is_a_500_and_closed(first: Any) -> None:
    pieces = Noting("", first, "b")
    got = get(lambda request: pieces)
    assert (got.status, got.text, pieces.closed) == (500, "500 Internal Server Error\n", True)


@pytest.mark.parametrize("later", [ValueError("a secret"), 5, None])
def test_an_iterator_that_fails_later_is_not_taken_for_whole(later: Any) -> None:
    status, _, sent = by_wsgi(serving(lambda request: Noting("a", later, "b")))
    assert (status, next(sent)) == ("200 OK", b"a")
    with pytest.raises((ValueError, TypeError)):
        next(sent)


def test_a_piece_that_is_none_is_told_in_one_sentence_that_names_its_line(caplog: Any) -> None:
    def rows(request: Request) -> Any:
        yield from request.query.getall("first")
        yield {"a": 1}

    app = serving(rows, debug=True)
    page = app.test().get("/").text
    place = rf"\(\S*test_responses.py:{rows.__code__.co_firstlineno + 2}\)"
    assert re.search(rf"a piece of a streamed body is str or bytes, not dict {place}", page) and "Traceback" not in page
    with pytest.raises(TypeError, match=place):
        app.test().get("/?first=x")
    assert len(caplog.records) == 1 and caplog.records[0].exc_info is None
    caplog.clear()
    with app.running() as server, pytest.raises((http.client.HTTPException, OSError)):
        urllib.request.urlopen(f"{server.url}/?first=x").read()
    (record,) = caplog.records
    assert re.search(rf"the stream of .* failed: .*{place}", record.getMessage()) and not record.exc_info


@pytest.mark.parametrize("make", [iter, lambda pieces: Response(iter(pieces)), lambda pieces: (iter(pieces), 201)])
def test_a_stream_is_kept_out_of_shared_caches_unless_the_handler_says_otherwise(make: Any) -> None:
    assert get(lambda request: make(["a"])).headers["Cache-Control"] == "private"
    told = Response(iter(["a"]), headers={"Cache-Control": "public, max-age=5"})
    assert get(lambda request: told).headers["Cache-Control"] == "public, max-age=5"
    told = (iter(["a"]), 200, {"Cache-Control": "max-age=5"})
    assert get(lambda request: told).headers["Cache-Control"] == "max-age=5"


def test_a_body_with_a_length_or_an_etag_says_nothing_to_caches() -> None:
    for known in ({"Content-Length": "1"}, {"ETag": '"a"'}):
        assert "Cache-Control" not in get(lambda request, known=known: Response(iter(["a"]), headers=known)).headers
        assert "Cache-Control" not in get(lambda request, known=known: (iter(["a"]), 200, known)).headers
    assert "Cache-Control" not in get(lambda request: "a").headers


# Redirects


@pytest.mark.parametrize(
    ("target", "location"),
    [("https://evil.example/a?b=c&d#e", "https://evil.example/a?b=c&d#e"), ("/é ü", "/%C3%A9%20%C3%BC"),
     ("/%C3%A9", "/%C3%A9"), ('/"<>\\^`{|}', "/%22%3C%3E%5C%5E%60%7B%7C%7D"), ("http://[::1]:80/", "http://[::1]:80/")],
)  # fmt: skip
def test_a_redirect_goes_anywhere_and_is_percent_encoded(target: str, location: str) -> None:
    got, permanent = get(lambda request: redirect(target)), get(lambda request: redirect(target, 301))
    assert (got.status, permanent.status, got.headers["Location"]) == (303, 301, location)


@pytest.mark.parametrize("target", ["/\r\nX: 1", "/\n", "/\r", "/\x00", "\t/", "/\x7f", "/\ud800"])
def test_a_redirect_with_a_control_character_is_an_error_where_it_is_made(target: str) -> None:
    with pytest.raises(ValueError):
        redirect(target)


# Errors


CHANGED = HTTPError(404)
CHANGED.status = 1000
CANNOT: list[Any] = [CHANGED, HTTPError(409, None, {"X": "a\r\nb"})]


@pytest.mark.parametrize("error", CANNOT, ids=repr)
@pytest.mark.parametrize("handled", [False, True])
@pytest.mark.parametrize("where", ["handler", "middleware"])
def test_an_error_that_cannot_be_sent_is_a_500(error: HTTPError, handled: bool, where: str) -> None:
    app = serving(failing(error) if where == "handler" else lambda request: "fine")
    if handled:
        app.error(HTTPError)(lambda request, error: "handled")
    if where == "middleware":
        app.wrap(lambda respond: failing(error))
    assert by_wsgi(app)[0] == "500 Internal Server Error"


def test_an_exception_is_a_500_that_tells_nothing_and_a_traceback_in_the_log(caplog: Any) -> None:
    assert get(failing(ValueError("a secret"))).text == "500 Internal Server Error\n"
    assert "Traceback" in caplog.text and "a secret" in caplog.text


def test_with_debug_the_page_has_the_traceback_as_plain_text() -> None:
    got = get(failing(ValueError("<b>")), debug=True)
    assert (got.status, got.headers["Content-Type"]) == (500, "text/plain; charset=utf-8")
    assert "Traceback" in got.text and "ValueError: <b>" in got.text


def test_what_a_function_with_yield_returns_is_no_answer_and_not_lost_without_a_word(caplog: Any) -> None:
    def count(request: Request) -> Iterator[str]:
        if "bad" in request.query:
            return "no", 400  # type: ignore[return-value]
        if "none" not in request.query:
            yield "one"
        return None if "none" in request.query else 1  # type: ignore[return-value]

    client = serving(count).test()
    assert [client.get(path).status for path in ("/", "/?none", "/?bad")] == [200, 200, 500]
    assert [record.message for record in caplog.records if "count has a `yield`" in record.message]


@pytest.mark.parametrize("debug", [True, False])
def test_debug_of_an_application_holds_for_what_is_mounted_in_it(debug: bool) -> None:
    outer, middle = Brubeck(debug=debug), Brubeck()
    outer.mount("/a", middle)
    middle.mount("/b", serving(failing(ValueError("told"))))
    assert ("ValueError: told" in outer.test().get("/a/b/").text) == debug


class Narrow(ZeroDivisionError):
    pass


@pytest.mark.parametrize(
    ("error", "answer"),
    [(HTTPError(404), (404, "by 404")), (HTTPError(405), (405, "by HTTPError")), (HTTPError(500), (500, "by 500")),
     (ZeroDivisionError(), (500, "by ArithmeticError")), (Narrow(), (500, "by Narrow")), (ValueError(),
     (500, "by 500"))],
    ids=repr,
)  # fmt: skip
def test_the_nearest_error_handler_answers_and_the_status_is_kept(error: Exception, answer: tuple[int, str]) -> None:
    app = serving(failing(error))
    known: dict[str, Any] = {"ArithmeticError": ArithmeticError, "Narrow": Narrow, "HTTPError": HTTPError, "404": 404}
    for name, what in {**known, "500": 500}.items():
        app.error(what)(lambda request, error, name=name: f"by {name}")
    got = app.test().get("/")
    assert (got.status, got.text) == answer


class Teapot(HTTPError):
    """An error of the program's own."""


class Kettle(KeyError, Teapot):
    """One that is two things."""

    def __init__(self, status: int) -> None:
        Teapot.__init__(self, status)


@pytest.mark.parametrize(
    ("error", "known", "answer"),
    [(Teapot(418), [Teapot, 418, HTTPError], Teapot), (Teapot(418), [418, HTTPError], 418), (Teapot(418), [HTTPError],
     HTTPError), (Kettle(418), [418, Teapot], Teapot), (Kettle(418), [418, KeyError], KeyError), (Kettle(418),
     [HTTPError, 418], 418), (HTTPError(418), [Teapot, Exception, 418], 418), (HTTPError(418), [Exception, 500],
     Exception), (Teapot(500), [500, Teapot], Teapot), (HTTPError(500), [HTTPError, 500], 500)],
    ids=repr,
)  # fmt: skip
def test_a_status_stands_between_http_error_and_its_subclasses(error: Any, known: list[Any], answer: Any) -> None:
    app = serving(failing(error))
    for what in known:
        app.error(what)(lambda request, error, what=what: f"by {what}")
    got = app.test().get("/")
    assert (got.status, got.text) == (error.status, f"by {answer}")


@pytest.mark.parametrize("what", [ZeroDivisionError, ArithmeticError, Exception])
def test_an_exception_that_a_handler_takes_is_neither_logged_nor_raised_in_tests(what: Any, caplog: Any) -> None:
    app = serving(failing(ZeroDivisionError()))
    app.error(500)(lambda request, error: "the page for what nobody takes")
    app.error(what)(lambda request, error: ("divided", 422))
    assert app.test(raise_errors=True).get("/").text == "divided"
    assert not caplog.records


def test_the_page_for_500_is_for_what_nobody_takes_which_is_logged_and_raised_in_tests(caplog: Any) -> None:
    app = serving(failing(ZeroDivisionError("a secret")))
    app.error(500)(lambda request, error: "sorry")
    app.error(ValueError)(lambda request, error: "never")
    assert (app.test().get("/").text, len(caplog.records)) == ("sorry", 1)
    assert "a secret" in caplog.text
    with pytest.raises(ZeroDivisionError):
        app.test(raise_errors=True).get("/")


def test_what_a_handler_of_a_mounted_application_takes_is_not_logged_either(caplog: Any) -> None:
    outer, inner = Brubeck(), serving(failing(ZeroDivisionError()))
    inner.error(ZeroDivisionError)(lambda request, error: ("inner", 422))
    outer.error(ZeroDivisionError)(lambda request, error: ("outer", 422))
    outer.mount("/inner", inner)
    outer.get("/")(failing(ZeroDivisionError()))
    client = outer.test(raise_errors=True)
    assert [client.get(path).text for path in ("/", "/inner/")] == ["outer", "inner"]
    assert not caplog.records


def test_a_traceback_with_half_of_a_character_in_it_can_be_shown(caplog: Any) -> None:
    caplog.set_level(100, "brubeck_lite")  # xdist cannot send the character with what was logged
    app = serving(failing(ValueError("\ud800")))
    app.debug = True
    got = app.test().get("/")
    assert (got.status, "ValueError: \\ud800" in got.text) == (500, True)


@pytest.mark.parametrize("failure", [HTTPError(403), HTTPError(404), SystemExit(), OSError(24, "too many files")])
def test_an_error_handler_that_raises_whatever_gets_the_plain_500(failure: BaseException) -> None:
    app = serving(failing(ZeroDivisionError()))
    for kind in (ZeroDivisionError, 403, 404, 500, 503, BaseException):
        app.error(kind)(lambda request, error: failing(failure)(request))
    assert [(app.test().get(path).status, app.test().get(path).text) for path in ("/", "/missing")] == [
        (500, "500 Internal Server Error\n")
    ] * 2


def test_an_error_handler_that_fails_is_logged_and_raised_in_tests(caplog: Any) -> None:
    app = serving(failing(ZeroDivisionError("the first")))
    app.error(ZeroDivisionError)(lambda request, error: failing(LookupError("the second"))(request))
    assert (app.test().get("/").status, len(caplog.records)) == (500, 1)
    assert "the first" in caplog.text and "the second" in caplog.text
    with pytest.raises(LookupError):
        app.test(raise_errors=True).get("/")


def test_of_an_error_handler_that_fails_the_log_shows_the_programs_lines_and_not_where_a_404_was_raised(
    caplog: Any
) -> None:
    app = Brubeck()

    @app.error(404)
    def missing(request: Request, error: Any) -> Any:
        return error.description, error.code

    assert app.test().get("/").status == 500
    assert "has no attribute 'description'" in caplog.text and "error.description, error.code" in caplog.text
    assert "HTTPError:" not in caplog.text and caplog.text.count('brubeck_lite.py", line') == 1


@pytest.mark.parametrize(
    ("value", "status"),
    [("a", 404), ({}, 404), (None, 404), (("a", 410), 410), (Response("a"), 200), (Response("a", 410), 410)],
)
def test_an_error_handler_may_give_a_status_of_its_own(value: Any, status: int) -> None:
    app = Brubeck()
    app.error(404)(lambda request, error: value)
    assert app.test().get("/missing").status == status


def test_the_handler_of_500_gets_the_exception_itself() -> None:
    original, seen = ValueError("a secret"), []
    app = serving(failing(original))
    app.error(500)(lambda request, error: seen.append(error))
    assert (app.test().get("/").status, seen) == (500, [original])


def test_the_fields_of_an_error_are_in_the_answer_of_its_handler() -> None:
    app = serving(lambda request: "a")
    app.error(405)(lambda request, error: ("no", 405, {"X-A": "1"}))
    got = app.test().delete("/")
    assert (got.text, got.headers["Allow"], got.headers["X-A"]) == ("no", "GET, HEAD, OPTIONS", "1")


def test_the_headers_of_an_exception_that_is_no_http_error_stay_with_it() -> None:
    upstream: Any = {"Set-Cookie": "a=b"}
    app = serving(failing(urllib.error.HTTPError("http://upstream", 502, "Bad", upstream, None)))
    app.error(500)(lambda request, error: "sorry")
    assert (app.test().get("/").text, "Set-Cookie" in app.test().get("/").headers) == ("sorry", False)


@pytest.mark.parametrize("value", [LookupError(), HTTPError(404), object(), ("a", 99), ("a", 200, {"X": "\n"})])
def test_an_error_handler_that_fails_is_the_plain_500(value: Any) -> None:
    app = serving(failing(ValueError("a secret")))
    app.error(ValueError)(lambda request, error: failing(value)(request) if isinstance(value, Exception) else value)
    app.error(500)(lambda request, error: "never")
    assert app.test().get("/").text == "500 Internal Server Error\n"


# WebMessageHandler


def page(look: Callable[[WebMessageHandler], Any]) -> Any:
    app = Brubeck()
    app.route("/")(type("Page", (WebMessageHandler,), {"get": look}))
    return app.test().get("/")


def test_a_page_redirects_with_the_cookies_it_has_set() -> None:
    def look(self: WebMessageHandler) -> Response:
        self.set_cookie("c", "v")
        return self.redirect("/next")

    got = page(look)
    assert (got.status, got.headers["Location"], "Set-Cookie" in got.headers) == (303, "/next", True)


@pytest.mark.parametrize("status", [99, 600, "200"])
def test_a_page_with_a_status_that_is_none_is_a_500_and_told_where_it_is_set(status: Any, caplog: Any) -> None:
    assert page(lambda self: self.set_status(status)).status == 500
    assert "lambda self: self.set_status(status)" in caplog.text


def test_an_error_says_its_status_and_its_message() -> None:
    assert [str(HTTPError(404)), str(HTTPError(400, "no"))] == ["404 Not Found", "400 no"]
    with pytest.raises(TypeError, match="the message of an error is a sentence; write abort"):
        abort(404, {"error": "no"})  # type: ignore[arg-type]


def test_an_error_handler_that_fails_is_named_in_the_log(caplog: Any) -> None:
    app = Brubeck()

    @app.error(404)
    def not_found(request: Request, error: HTTPError) -> str:
        raise LookupError("of the error handler")

    assert app.test().get("/nowhere").status == 500
    named = r"the error handler \S*not_found \(tests/test_responses.py:\d+\) failed on GET '/nowhere'"
    assert re.search(named, caplog.text)


@pytest.mark.parametrize("status", ["404", None, Response("no", 403), 404.0, 42, 600])
@pytest.mark.parametrize("make", [abort, HTTPError])
def test_what_is_no_status_is_told_where_it_is_written(make: Any, status: Any, caplog: Any) -> None:
    def fail(request: Request) -> None:
        raise make(status)

    assert get(fail).status == 500
    assert caplog.text.count("Traceback") == 1 and "write abort(404), with a status, not" in caplog.text


@pytest.mark.parametrize("accept", ["text/plain", "application/json"])
def test_the_sentence_of_an_error_may_be_that_of_an_exception(accept: str) -> None:
    error: Any = ValueError("no number")
    answer = serving(lambda request: abort(400, error)).test().get("/", {"Accept": accept})
    assert answer.status == 400
    assert answer.json["detail"] == "no number" if "json" in accept else "no number" in answer.text


@pytest.mark.parametrize("headers", ["text/plain", ["X-A: b"]])
def test_what_are_no_header_fields_is_told_with_an_example(headers: Any, caplog: Any) -> None:
    with pytest.raises(TypeError, match=r'header fields are like \{"X-Name": "value"\}, not '):
        Response("", 200, headers)
    assert get(lambda request: ("", 200, headers)).status == 500
    assert 'header fields are like {"X-Name": "value"}, not ' in caplog.text


@pytest.mark.parametrize("value", [None, b"bytes"])
def test_none_and_bytes_are_no_value_of_a_header(value: Any) -> None:
    for call in (lambda: Response(headers={"X-A": value}), lambda: Response().headers.add("X-A", value)):
        with pytest.raises(TypeError, match="the value of the header X-A is a str, not "):
            call()


@pytest.mark.parametrize("target", [None, b"/"])
def test_a_redirect_to_what_is_no_address_is_told(target: Any) -> None:
    with pytest.raises(TypeError, match="a redirect is to an address, not to "):
        redirect(target)


@pytest.mark.parametrize("length", ["+5", "1_0", "-5", "abc", "", "\xb2"])
def test_a_content_length_is_digits(length: str) -> None:
    with pytest.raises(ValueError, match="Content-Length"):
        Response(b"", headers={"Content-Length": length})


def test_there_is_one_content_length() -> None:
    headers = Response().headers
    headers.add("Content-Length", 5)
    headers.add("content-length", 7)
    assert headers["Content-Length"] == "7"


def test_repeated_fields_stay_apart_when_they_are_taken_over() -> None:
    given = Response(headers=[("Link", "<a>"), ("Link", "<b>")]).headers
    assert Response(headers=given).headers.pairs()[-2:] == [("Link", "<a>"), ("Link", "<b>")]


# JSON


class Color(enum.Enum):
    RED = "red"


@dataclass
class Tune:
    title: str
    parts: list[Any]


BERLIN = datetime.timezone(datetime.timedelta(hours=2))
UUID = "12345678-1234-5678-1234-567812345678"


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (datetime.datetime(2026, 5, 5, 12, 30, 1, 999), "Tue, 05 May 2026 12:30:01 GMT"),
        (datetime.datetime(2026, 5, 5, 12, 30, 1, tzinfo=BERLIN), "Tue, 05 May 2026 10:30:01 GMT"),
        (datetime.date(1959, 7, 1), "Wed, 01 Jul 1959 00:00:00 GMT"), (uuid.UUID(UUID), UUID),
        (decimal.Decimal("1.10"), "1.10"), (Color.RED, "red"),
        (Tune("a", [Tune("b", [Color.RED])]), {"title": "a", "parts": [{"title": "b", "parts": ["red"]}]}),
    ],
)  # fmt: skip
def test_json_has_a_form_for_dates_and_the_like(value: Any, form: Any) -> None:
    assert get(lambda request: {"a": [value]}).json == {"a": [form]}


@pytest.mark.parametrize("value", [{"a": 1}, [1], Tune("a", [])])
def test_a_response_takes_what_handlers_return_as_json(value: Any) -> None:
    app = serving(lambda request: Response(value, 201, {"X-A": "b"}))
    app.json_dumps = lambda value: f"dumped {type(value).__name__}"
    got = app.test().get("/")
    assert (got.status, got.text, got.headers["X-A"]) == (201, f"dumped {type(value).__name__}", "b")
    assert got.headers["Content-Type"] == JSON
    app.wrap(lambda respond: lambda request: Response(value))
    assert app.test().get("/").text == f"dumped {type(value).__name__}"


def test_a_session_takes_only_what_comes_back_as_it_was() -> None:
    def handler(request: Request) -> str:
        request.session["day"] = datetime.date(1959, 7, 1)
        return "kept"

    assert serving(handler, secret="a secret of the tests only").test().get("/").status == 500


def test_json_keeps_the_type_that_the_program_gives_it() -> None:
    got = get(lambda request: Response({"a": 1}, content_type="application/vnd.api+json"))
    assert (got.headers["Content-Type"], got.json) == ("application/vnd.api+json", {"a": 1})
    assert Response({"a": 1}).body == b'{"a":1}'


def test_json_that_cannot_be_made_is_a_500_wherever_it_is_made() -> None:
    app = serving(lambda request: Response({"a": object()}))
    assert app.test().get("/").status == 500
    app.wrap(lambda respond: lambda request: Response([object()]))
    assert app.test().get("/").status == 500


PREFER_JSON = [
    "application/json", "application/problem+json", "application/json, text/plain, */*", "application/vnd.api+json",
    "text/html;q=0.5, application/json;q=0.9", "text/html;q=0, application/json",
    "text/html;level=1;q=0.4, application/json;q=0.5",
]  # fmt: skip
PREFER_TEXT = [
    "", "*/*", "text/html", "text/html,application/xhtml+xml,*/*;q=0.8", "text/plain, application/json;q=0.9",
    "application/json;q=0", "text/html, application/json", "text/html;xq=0.1, application/json;q=0.5",
    "a/b," * 50 + "application/json",  # of the types that are named, 50 count
]  # fmt: skip


@pytest.mark.parametrize("accept", PREFER_JSON)
def test_a_client_that_prefers_json_gets_errors_as_problems(accept: str) -> None:
    got = serving(lambda request: abort(404)).test().get("/", {"Accept": accept})
    assert (got.status, got.headers["Content-Type"]) == (404, "application/problem+json")
    assert got.json == {"type": "about:blank", "title": "Not Found", "status": 404}
    got = serving(lambda request: abort(409, "taken", {"X-A": "b"})).test().get("/", {"Accept": accept})
    assert got.json == {"type": "about:blank", "title": "Conflict", "status": 409, "detail": "taken"}
    assert (got.headers["X-A"], got.headers["Vary"]) == ("b", "Accept")


def test_a_problem_has_the_further_members_of_its_error_and_text_has_not() -> None:
    """RFC 9457, 3.2."""
    members = {"errors": {"title": ["is missing"]}, "on": datetime.date(2026, 11, 30)}
    app = serving(lambda request: abort(422, "not valid", members=members))
    got = app.test().get("/", {"Accept": "application/json"})
    assert (got.json["detail"], got.json["errors"]) == ("not valid", {"title": ["is missing"]})
    assert got.json["on"] == "Mon, 30 Nov 2026 00:00:00 GMT"
    assert app.test().get("/").text == "422 Unprocessable Entity\nnot valid\n"
    app.json_dumps = lambda value: json.dumps(value, default=repr)
    assert app.test().get("/", {"Accept": "application/json"}).json["on"] == "datetime.date(2026, 11, 30)"


def test_a_problem_that_has_no_form_in_json_is_a_500() -> None:
    client = serving(lambda request: abort(422, members={"errors": object()})).test()
    assert client.get("/", {"Accept": "application/json"}).status == 500


@pytest.mark.parametrize("accept", PREFER_TEXT)
def test_others_get_errors_as_text(accept: str) -> None:
    got = serving(lambda request: abort(404)).test().get("/", {"Accept": accept})
    assert (got.text, got.headers["Content-Type"]) == ("404 Not Found\n", "text/plain; charset=utf-8")


def test_a_client_that_sends_json_gets_errors_as_problems_unless_it_accepts_something_else() -> None:
    client = serving(lambda request: "").test()
    assert [client.post("/", {"Accept": accept}, json={}).headers["Content-Type"][:12] for accept in
            ("*/*", "image/png", "text/html")] == ["application/", "application/", "text/plain; "]  # fmt: skip
    assert client.post("/", json={}).json["status"] == 405


def test_a_problem_of_the_program_tells_nothing_unless_debug_is_set() -> None:
    accept = {"Accept": "application/json"}
    assert "detail" not in serving(failing(LookupError("secret"))).test().get("/", accept).json
    assert "LookupError" in serving(failing(LookupError("told")), debug=True).test().get("/", accept).json["detail"]


def test_the_message_of_an_error_is_the_phrase_of_its_status_by_default() -> None:
    assert [HTTPError(404).message, HTTPError(404, "gone").message, HTTPError(599).message] == [
        "Not Found", "gone", "Status"]  # fmt: skip


# Answers that depend on what the client has


def conditionally(fields: dict[str, str], etag: str | None = None, method: str = "GET", **more: Any) -> Any:
    app = serving(lambda request: Response("Take five!", **more).conditional(request, etag))
    return app.test(raise_errors=True).request(method, "/", fields)


def test_an_answer_has_an_etag_of_what_is_in_it() -> None:
    first, other = conditionally({}), conditionally({}, "v1")
    assert (first.text, other.headers["ETag"]) == ("Take five!", '"v1"')
    again = conditionally({"If-None-Match": first.headers["ETag"]})
    assert (again.status, again.body, again.headers["ETag"]) == (304, b"", first.headers["ETag"])
    assert conditionally({}, method="HEAD").headers["ETag"] == first.headers["ETag"]
    assert conditionally({"If-None-Match": first.headers["ETag"]}, method="HEAD").status == 304


@pytest.mark.parametrize(
    ("etag", "fields", "status"),
    [
        ("v1", {"If-None-Match": 'W/"v1"'}, 304), ('W/"v1"', {"If-None-Match": '"v1"'}, 304),
        ('W/"v1"', {"If-None-Match": 'W/"v1", "v2"'}, 304), ("v1", {"If-None-Match": "*"}, 304),
        ("v1", {"If-None-Match": '"v2"'}, 200), ("v1", {"If-None-Match": "v1"}, 200),
        ("aW/b", {"If-None-Match": '"x", W/"aW/b"'}, 304), ("bW/", {"If-None-Match": '"bW/", "x"'}, 304),
        ("ab", {"If-None-Match": '"aW/b"'}, 200),
        ("v1", {"If-Match": '"v1"'}, 200), ("v1", {"If-Match": '"v2"'}, 412), ('W/"v1"', {"If-Match": 'W/"v1"'}, 412),
        ("v1", {"If-Modified-Since": "Tue, 05 May 2026 12:30:01 GMT"}, 200),
        ("v1", {"If-Unmodified-Since": "Tue, 05 May 1970 12:30:01 GMT"}, 200),
    ],
)  # fmt: skip
def test_conditions_are_as_rfc_9110_has_them(etag: str, fields: dict[str, str], status: int) -> None:
    assert conditionally(fields, etag).status == status


def test_a_date_that_the_program_gives_counts_too() -> None:
    date = "Tue, 05 May 2026 12:30:01 GMT"
    assert conditionally({"If-Modified-Since": date}, headers={"Last-Modified": date}).status == 304


def test_what_is_no_answer_to_a_reader_has_no_etag() -> None:
    assert "ETag" not in conditionally({}, status=404).headers
    app = Brubeck()
    app.post("/")(lambda request: Response("made").conditional(request))
    app.get("/")(lambda request: Response(iter(["made"])).conditional(request))
    assert all("ETag" not in app.test().request(method, "/").headers for method in ("GET", "POST"))


# What Flask and Bottle take, and what nobody does


@pytest.mark.parametrize(
    ("value", "status", "body", "fields"),
    [
        (("page", {"X-One": "1"}), 200, "page", {"X-One": "1", "Content-Type": HTML}),
        (("page", [("X-One", "1"), ("X-Two", "2")]), 200, "page", {"X-One": "1", "X-Two": "2"}),
        (({"a": 1}, {"X-One": "1"}), 200, '{"a":1}', {"X-One": "1", "Content-Type": JSON}),
        (("page", "201 Created"), 201, "page", {}),
        (("page", "404"), 404, "page", {}),
        (("page", HTTPStatus.CREATED), 201, "page", {}),
        (("page", 201, {"X-One": "1"}), 201, "page", {"X-One": "1"}),
        (("page", "202 As you like", {"X-One": "1"}), 202, "page", {"X-One": "1"}),
        (("page", None, {"X-One": "1"}), 200, "page", {"X-One": "1"}),
        (("page", 201, None), 201, "page", {}),
        ((None, 204), 204, "", {}),
        ((Response("page", 404), {"X-One": "1"}), 404, "page", {"X-One": "1"}),
        (bytearray(b"page"), 200, "page", {"Content-Type": HTML}),
        (None, 200, "", {}),
    ],
)  # fmt: skip
def test_what_a_handler_may_return(value: Any, status: int, body: str, fields: dict[str, str]) -> None:
    answer = get(lambda request: value)
    assert (answer.status, answer.text) == (status, body)
    assert fields.items() <= dict(answer.headers).items()


class Thing:
    """Something that is no answer."""


async def never(request: Request) -> str:
    return "never"


NO_ANSWERS = [5, 1.5, True, {1}, range(3), Thing(), Thing, len, (), ("a",), ("a", 1, {}, 2), ("a", "b"), ("a", "20"),
              ("a", 99), ("a", "600 Six"), ("a", True), ("a", b"201"), ("a", [1]), ("a", {"X": "1\n2"}),
              {"a": Thing()}, [Thing()], (Thing(), 201), ({"a": Thing()}, {"X": "1"})]  # fmt: skip


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("value", [*NO_ANSWERS, never], ids=lambda value: str(value).partition(" at ")[0])
@pytest.mark.parametrize("kind", ["handler", "class", "error"])
def test_what_is_no_answer_is_told_in_one_sentence_that_names_the_handler_and_its_place(
    value: Any, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Brubeck()

    def result() -> Any:
        return value(Request()) if value is never else value

    def index(request: Request, error: Any = None) -> Any:
        return result()

    class Index(WebMessageHandler):
        def get(self) -> Any:
            return result()

    app.error(404)(index) if kind == "error" else app.route("/")(Index if kind == "class" else index)
    answer = app.test().get("/")
    assert (answer.status, answer.text) == (500, "500 Internal Server Error\n")
    (record,) = caplog.records
    sentence, name = record.getMessage(), "Index" if kind == "class" else "index"
    assert record.exc_info is None and "\n" not in sentence
    assert re.search(rf"{name} \(\S*test_responses.py:\d+\) returned a value of type \w+, which is no answer", sentence)
    assert "a handler returns a str, bytes, a dict, a list" in sentence


def test_what_is_no_answer_is_raised_in_tests_and_shown_in_the_page_without_our_frames(
    caplog: pytest.LogCaptureFixture
) -> None:
    app = serving(lambda request: 5, debug=True)
    page = app.test().get("/").text
    assert "returned a value of type int, which is no answer" in page and "Traceback" not in page
    with pytest.raises(TypeError, match="returned a value of type int, which is no answer"):
        app.test(raise_errors=True).get("/")


def test_what_is_returned_beside_a_response_is_for_this_answer_alone() -> None:
    common = Response("common")
    app = Brubeck()
    app.get("/other")(lambda request: common)
    app.get("/")(lambda request: (common, 201, {"X-One": "1"}))
    assert app.test().get("/").headers["X-One"] == "1"
    other = app.test().get("/other")
    assert other.status == 200 and "X-One" not in other.headers


def test_an_answer_that_an_error_handler_gives_to_all_errors_keeps_no_field_of_one_of_them() -> None:
    app, sorry = Brubeck(), Response("sorry", 400)
    app.get("/a/")(lambda request: "a")
    app.get("/b/")(lambda request: "b")
    app.post("/c")(lambda request: "c")
    app.error(HTTPError)(lambda request, error: sorry)
    assert app.test().get("/a").headers["Location"] == "/a/"
    assert app.test().get("/b").headers["Location"] == "/b/"
    assert app.test().get("/c").headers["Allow"] == "OPTIONS, POST"
    assert "Location" not in app.test().get("/c").headers


def test_fields_that_an_error_handler_returns_leave_the_status_of_the_error() -> None:
    app = serving(failing(HTTPError(410)))
    app.error(410)(lambda request, error: ("gone", {"X-One": "1"}))
    answer = app.test().get("/")
    assert (answer.status, answer.text, answer.headers["X-One"]) == (410, "gone", "1")


def test_a_stream_with_a_status_that_has_no_body_is_closed() -> None:
    closed = []

    def pieces() -> Iterator[str]:
        try:
            yield "a piece"
        finally:
            closed.append(True)

    for status in (204, 205, 304):
        got = serving(lambda request, status=status: (pieces(), status)).test().get("/")
        assert (got.status, got.body) == (status, b"")
    assert closed == [True, True, True]
