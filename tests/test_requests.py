"""Room Request: what handlers see of a request, whichever door it came through."""

from __future__ import annotations

import io
import json
import re
import tracemalloc
from collections.abc import Callable
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brubeck_lite import Brubeck, Request, Response, format_netstring, parse_cookies, parse_mongrel2, safe_target

Look = Callable[[Request], Any]


def application(look: Look, rule: str = "/<path:path>", **options: Any) -> Brubeck:
    """One handler for "/" and a rule, which answers with what `look` sees, as JSON."""
    app = Brubeck()
    for name, path in (("root", "/"), ("rest", rule)):
        app.route(path, ["GET", "POST"], name, **options)(lambda request, **_: Response(json.dumps(look(request))))
    return app


def see(look: Look, target: str = "/", rule: str = "/<path:path>", **options: Any) -> Any:
    """What `look` sees of a GET of `target`; the status where the answer is an error."""
    got = application(look, rule).test().get(target, **options)
    return got.json if got.status == 200 else got.status


def see_posted(look: Look, data: str | bytes, content_type: str = "text/x") -> Any:
    got = application(look).test().post("/", {"Content-Type": content_type}, data=data)
    return got.json if got.status == 200 else got.status


def by_wsgi(app: Brubeck, body: Any = b"", **environ: Any) -> tuple[int, str]:
    """Status and text of the answer to an environ, where `__` in a name stands for a dot."""
    asked = {"SCRIPT_NAME": "", **{name.replace("__", "."): value for name, value in environ.items()}}
    asked["wsgi.input"] = io.BytesIO(body) if isinstance(body, bytes) else body
    setup_testing_defaults(asked)
    statuses: list[str] = []
    pieces = app(asked, lambda status, fields: statuses.append(status))
    return int(statuses[0][:3]), b"".join(pieces).decode()


# The query


@pytest.mark.parametrize(
    ("query", "pairs"),
    [("a=1&a=2&b=3", {"a": ["1", "2"], "b": ["3"]}), ("a=1;b=2", {"a": ["1;b=2"]}), ("a&b=", {"a": [""], "b": [""]}),
     ("a=+x%20y%2B", {"a": [" x y+"]}), ("a=%ff%00", {"a": ["\ufffd\0"]}), ("a=b=c", {"a": ["b=c"]}),
     ("&&a=1&", {"a": ["1"]})],
)  # fmt: skip
def test_the_query_has_every_value_of_a_name(query: str, pairs: dict[str, list[str]]) -> None:
    assert see(lambda r: {name: r.query.getall(name) for name in r.query}, f"/?{query}") == pairs


@pytest.mark.parametrize(("fields", "seen"), [(1000, 1000), (1001, 400), (1_000_000, 400)])
def test_a_query_has_1000_fields_at_most(fields: int, seen: int) -> None:
    assert see(lambda r: len(r.query.getall("a")), "/?" + "&".join(["a=1"] * fields)) == seen


def test_raw_utf_8_in_a_query_is_read_as_such() -> None:
    assert by_wsgi(application(lambda r: r.query["a"]), QUERY_STRING="a=\xc3\xa9") == (200, '"\\u00e9"')


# Cookies


@pytest.mark.parametrize(
    ("header", "cookies"),
    [("a=1;b=2", {"a": "1", "b": "2"}), ("a=1; a=2", {"a": "1"}), (" a = 1 ;  b=2", {"a": "1", "b": "2"}),
     ("a=b=c", {"a": "b=c"}), ("a=", {"a": ""}), ('a="x y"', {"a": "x y"}), (r'a="x\073\"\\y"', {"a": 'x;"\\y'}),
     (r'a="\303\251"', {"a": "é"}), (r'a="\777"', {"a": "777"}), ('a="', {"a": '"'}), ("a='x'", {"a": "'x'"}),
     ("a=%20", {"a": "%20"}), ("a=\xc3\xa9", {"a": "é"}), ("a=\xe9", {"a": "\ufffd"}), ("", {}), (";;; ;", {})],
)  # fmt: skip
def test_a_cookie_header_has_cookies(header: str, cookies: dict[str, str]) -> None:
    assert dict(parse_cookies(header)) == cookies


@pytest.mark.parametrize("bad", ["bad", "=__Host-a=b", "=", " =x", "x=\x01", "x=\x00", "x\n=1", "x=\x7f"])
def test_a_bad_cookie_is_left_out_and_the_good_ones_stay(bad: str) -> None:
    assert dict(parse_cookies(f"a=1; {bad}; c=3")) == {"a": "1", "c": "3"}


@pytest.mark.parametrize("pattern", ["\\", '"', 'a="\\', ";", "=", " ", "a=1;", '"\\"', "\\0", "\\073", "\t"])
def test_cookies_are_read_in_linear_time(pattern: str) -> None:
    assert parse_cookies(f'a=1; b="{pattern * 500_000}"; z=3')["a"] == "1"


@settings(deadline=None, max_examples=500)
@given(st.text() | st.text('a=";\\01 \t'))
def test_any_cookie_header_can_be_read(header: str) -> None:
    assert all(name and isinstance(value, str) for name, value in parse_cookies(header).items())


@settings(deadline=None, max_examples=500)
@given(st.text(st.characters(exclude_categories=["Cc", "Cs"])) | st.text('a";,\\ 07'))
def test_a_cookie_that_was_set_comes_back_as_it_was(value: str) -> None:
    app = Brubeck()

    @app.get("/set")
    def put(request: Request) -> Response:
        response = Response()
        response.set_cookie("c", value)
        return response

    app.get("/")(lambda request: dict(request.cookies))
    client = app.test()
    client.get("/set")
    assert client.get("/").json == {"c": value}


# JSON


@pytest.mark.parametrize(
    "content_type",
    ["", "text/json", "application/jsonx", "application/+json", "xapplication/json",
     "application/x-www-form-urlencoded", "multipart/form-data; boundary=application/json", "text/html+json"],
)  # fmt: skip
def test_another_content_type_is_415(content_type: str) -> None:
    assert see_posted(lambda r: r.json, "{}", content_type) == 415


@pytest.mark.parametrize(
    "body",
    ["{'a': 1}", "[1,]", "[Infinity]", "-Infinity", "1 2", "\ufeff", "\ufeff\ufeff1", b'"\xed\xa0\x80"',
     '"\\ud800"', '["a", {"b": "\\uDEAD x"}]', '{"\\udfff": 1}', '"\\ude00\\ud83d"',
     "1e999", "[-1e999]", "1e+4000", "9" * 400 + ".0", '{"a": 1E309}', "[NaN]", "nan", "9" * 10_000, "-" + "9" * 5000,
     '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000],
    ids=lambda body: repr(body[:10]),
)  # fmt: skip
def test_malformed_json_is_400(body: str | bytes) -> None:
    assert see_posted(lambda r: r.json, body, "application/json") == 400


@pytest.mark.parametrize("text", ["1e308", "-1.7976931348623157e308", "1e-999", "0e999", "1.5", "9" * 400])
def test_numbers_that_python_can_hold_are_json(text: str) -> None:
    assert see_posted(lambda r: [r.json == json.loads(text)], text, "application/json") == [True]


@pytest.mark.parametrize("text", [r'"\ud83d\ude00"', r'["\\ud800", "\u0041"]', r'{"\uD83D\uDE00": "\u00e9"}'])
def test_surrogates_that_are_pairs_and_what_looks_like_surrogates_are_json(text: str) -> None:
    assert see_posted(lambda r: [r.json == json.loads(text)], text, "application/json") == [True]


def test_a_byte_order_mark_before_json_is_skipped() -> None:
    """RFC 8259, 8.1: it is ignored; PowerShell and others write it."""
    assert see_posted(lambda r: r.json, '\ufeff{"a": "\ufeff"}', "application/json") == {"a": "\ufeff"}


# The body and its bounds


@pytest.mark.parametrize(
    ("look", "seen"),
    [(lambda r: [r.body.decode(), r.body is r.body], ["ab\ncd", True]),
     (lambda r: [b.decode() for b in r.stream], ["ab\n", "cd"]),
     (lambda r: [r.stream.read(2).decode(), r.body.decode(), r.stream.read().decode()], ["ab", "\ncd", ""])],
)  # fmt: skip
def test_a_body_is_what_was_not_yet_read_of_the_stream(look: Look, seen: Any) -> None:
    assert see_posted(look, "ab\ncd") == seen


def read_all(request: Request) -> int:
    return len(request.body)


def read_in_pieces(request: Request) -> int:
    return sum(map(len, iter(lambda: request.stream.read(100), b"")))


readers = pytest.mark.parametrize("look", [read_all, read_in_pieces])


@pytest.mark.parametrize("look", [read_all, read_in_pieces, lambda request: "not read"])
@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 413), (1_000_000, 413)])
def test_a_body_over_max_body_is_413_that_names_the_limit(look: Look, size: int, status: int) -> None:
    app = application(look)
    app.max_body = 1000
    got = app.test().post("/", data=b"x" * size)
    assert (got.status, "limit of 1000 bytes" in got.text) == (status, status == 413)


@pytest.mark.parametrize(("limit", "status"), [(5, 413), (3000, 200), (0, 413)])
def test_a_routes_own_max_body_comes_before_the_applications(limit: int, status: int) -> None:
    app = application(read_all, max_body=limit)
    app.max_body = 1000
    assert app.test().post("/", data=b"x" * 2000).status == status


class Endless:
    """A client that never stops sending."""

    sent = 0

    def read(self, size: int) -> bytes:
        self.sent += size
        return b"x" * size


@readers
def test_a_body_without_a_declared_length_is_read_no_further_than_its_limit(look: Look) -> None:
    app, client = application(look), Endless()
    app.max_body = 50_000
    assert by_wsgi(app, client, wsgi__input_terminated=True, REQUEST_METHOD="POST")[0] == 413
    assert client.sent < 200_000


class Tiny:
    """A client whose body comes in pieces of two bytes, with none of which one must wait."""

    def __init__(self, size: int) -> None:
        self._body = io.BytesIO(b"x" * size)

    def read(self, size: int) -> bytes:
        return self._body.read(2)


def test_others_have_their_turns_while_a_body_is_read() -> None:
    import eventlet

    app, turns, finished = application(lambda r: len(r.body)), 0, []

    def ask() -> None:
        finished.append(by_wsgi(app, Tiny(500_000), REQUEST_METHOD="POST", CONTENT_LENGTH="500000"))

    asking = eventlet.spawn(ask)
    while not finished:
        turns += 1
        eventlet.sleep(0)
    asking.wait()
    assert finished == [(200, "500000")] and turns > 5


def test_a_body_in_tiny_pieces_takes_little_more_memory_than_its_size() -> None:
    app, body = application(lambda r: len(r.body)), Tiny(100_000)
    by_wsgi(app)
    tracemalloc.start()
    try:
        assert by_wsgi(app, body, REQUEST_METHOD="POST", CONTENT_LENGTH="100000") == (200, "100000")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@readers
@pytest.mark.parametrize(
    ("environ", "status"),
    [({"CONTENT_LENGTH": "", "wsgi__input_terminated": True}, 200), ({"HTTP_TRANSFER_ENCODING": "chunked"}, 411),
     ({"CONTENT_LENGTH": "5"}, 200), ({"CONTENT_LENGTH": "6"}, 400),
     *(({"CONTENT_LENGTH": text}, 400) for text in ["+5", "-1", "1_0", "0x5", " 5", "5,5", "five", "\xb2", "9" * 30])],
)  # fmt: skip
def test_a_body_has_the_length_that_was_declared_or_the_end_that_the_server_gives(
    look: Look, environ: dict[str, Any], status: int
) -> None:
    assert by_wsgi(application(look), b"abcde", REQUEST_METHOD="POST", **environ)[0] == status


@pytest.mark.parametrize(
    ("path", "seen"),
    [("/text/\u20ac", "/text/\u20ac"), ("/text/\xe2\x82\xac", "/text/\u20ac"), ("/text/\xff", 400),
     ("/text/\u20ac\0", 400), ("/\udcff", 400), ("/\ud800\u20ac", 400)],
)  # fmt: skip
def test_a_path_that_a_test_client_has_decoded_already_is_taken(path: str, seen: Any) -> None:
    app = Brubeck()  # httpx.WSGITransport gives text, where PEP 3333 wants octets as Latin-1
    app.get("/<path:rest>")(lambda request, rest: request.path)
    status, text = by_wsgi(app, PATH_INFO=path)
    assert (text if status == 200 else status) == seen


def test_a_length_that_a_test_client_gives_as_a_number_is_taken() -> None:
    app = Brubeck()  # as requests-wsgi-adapter does
    app.post("/", max_body=5)(lambda request: f"{request.headers['Content-Length']} {request.body.decode()}")
    assert by_wsgi(app, b"abcde", REQUEST_METHOD="POST", CONTENT_LENGTH=5) == (200, "5 abcde")
    assert by_wsgi(app, b"abcdef", REQUEST_METHOD="POST", CONTENT_LENGTH=6)[0] == 413


# Arguments


@pytest.mark.parametrize(
    ("look", "seen"),
    [(lambda r: [r.get_argument("n"), r.get_argument("q")], ["5", "1"]),
     (lambda r: r.get_argument("q", type=float), 1.0),
     (lambda r: [r.get_argument("x"), r.get_argument("x", "y", int)], [None, "y"]), (lambda r: r.arguments, {"n": 5}),
     (lambda r: r.get_arguments("n"), ["5", "6"]), (lambda r: r.get_arguments("q"), ["1", "2"]),
     (lambda r: r.get_arguments("x"), [])],
)  # fmt: skip
def test_an_argument_comes_from_the_path_and_then_from_the_query(look: Look, seen: Any) -> None:
    assert see(look, "/n/5?n=6&q=1&q=2", "/n/<int:n>") == seen


@pytest.mark.parametrize(("type", "value"), [(int, "x"), (int, ""), (float, "1,5"), (int, "9" * 5000)])
def test_an_argument_of_a_bad_type_is_400_that_names_it(type: Callable[[str], Any], value: str) -> None:
    got = application(lambda r: r.get_argument("quantity", type=type)).test().get(f"/?quantity={value}")
    assert (got.status, "'quantity'" in got.text) == (400, True)


def test_a_function_that_refuses_an_argument_says_why() -> None:
    def percentage(text: str) -> int:
        if not 0 <= int(text) <= 100:
            raise ValueError("it must be from 0 to 100")
        return int(text)

    got = application(lambda r: r.get_argument("share", type=percentage)).test().get("/?share=101")
    assert got.text == "400 Bad Request\nthe argument 'share' is not valid: it must be from 0 to 100\n"


# Headers, host, address


def test_headers_are_latin_1_and_found_in_any_case() -> None:
    look = lambda r: [r.headers["x-a"], r.headers["X-A"], r.headers.get("x-b"), "X-a" in r.headers]  # noqa: E731
    assert see(look, headers={"X-a": "caf\xe9"}) == ["caf\xe9", "caf\xe9", None, True]


def test_headers_with_an_underscore_are_dropped_by_the_test_client_too() -> None:
    assert see(lambda r: "x-user" in r.headers, headers={"X_User": "root"}) is False


@pytest.mark.parametrize("host", ["example.org", "example.org:8000", "[::1]:80", "127.0.0.1", "a_b.example"])
def test_the_host_is_as_it_came(host: str) -> None:
    assert see(lambda r: r.host, headers={"Host": host}) == host


@pytest.mark.parametrize("host", ["a@b", "a/b", "a b", "a:b", "a:123456", ":80", "[::1", "a?b", "a\\b", "<a>", "é"])
def test_a_host_that_is_none_is_400(host: str) -> None:
    assert see(lambda r: r.host, headers={"Host": host}) == 400


@pytest.mark.parametrize(
    ("target", "url"),
    [("/a?b=c&d", "/a?b=c&d"), ("/é ü", "/%C3%A9%20%C3%BC"), ("/a%3Fb%23c%25", "/a%3Fb%23c%25"),
     ('/?b=%26"<', "/?b=%26%22%3C")],
)  # fmt: skip
def test_the_url_is_percent_encoded(target: str, url: str) -> None:
    assert see(lambda r: r.url, target) == f"http://localhost{url}"


# Paths


@pytest.mark.parametrize(
    ("octets", "path"),
    [(b"/a b", "/a b"), ("/é/日".encode(), "/é/日"), ("/\x85\u2028\xa0".encode(), "/\x85\u2028\xa0"),
     (b"/%41", "/%41"), (b"/%2525", "/%2525"), (b"", "/")],
)
def test_the_path_of_a_wsgi_server_is_utf_8_and_decoded_already(octets: bytes, path: str) -> None:
    status, text = by_wsgi(application(lambda r: r.path), PATH_INFO=octets.decode("latin-1"))
    assert (status, json.loads(text)) == (200, path)


@pytest.mark.parametrize(
    "octets", ["/\xff", "/\xc3", "/\xed\xa0\x80", "/\xc0\xaf", "/\x00", "/a\x00.png", "/a\n", "/\x1f", "/\x7f"]
)
@pytest.mark.parametrize("variable", ["PATH_INFO", "SCRIPT_NAME"])
def test_a_path_of_no_utf_8_or_of_control_characters_is_400_and_the_next_is_clean(octets: str, variable: str) -> None:
    app = application(lambda r: r.path)
    assert by_wsgi(app, **{"PATH_INFO": "/", variable: octets})[0] == 400
    assert by_wsgi(app, PATH_INFO="/ok") == (200, '"/ok"')


def test_script_name_is_a_prefix_that_path_url_and_url_for_know() -> None:
    look = lambda r: [r.path, r.url, r.url_for("rest", path="b é")]  # noqa: E731
    seen = by_wsgi(application(look), SCRIPT_NAME="/\xc3\xa9 x", PATH_INFO="/a", HTTP_HOST="h")[1]
    assert json.loads(seen) == ["/é x/a", "http://h/%C3%A9%20x/a", "/%C3%A9%20x/b%20%C3%A9"]


# Addresses that users sent


@pytest.mark.parametrize("url", ["/", "/a/b?next=//evil#x", "/é", "http://localhost/a", "HTTP://LOCALHOST/a"])
def test_an_address_of_this_site_is_a_safe_target(url: str) -> None:
    assert see(lambda r: safe_target(r, url)) is True


@pytest.mark.parametrize(
    "url",
    ["", "a", "?a=b", "//evil", "///evil", "/\\evil", "\\\\evil", "/a\\b", "/\t/evil", "/\n/evil", "\x00//evil",
     " //evil", "/a ", "\u00a0//evil", "https://evil", "http://evil/", "https://localhost/", "http://localhost:81/",
     "http://localhost.evil/", "http://localhost@evil/", "http://evil@localhost/", "http:evil", "http:/evil",
     "http:///evil", "http://[::1", "javascript:alert(1)", "data:text/html,x", "localhost:80/a"],
)  # fmt: skip
def test_any_other_address_is_no_safe_target(url: str) -> None:
    assert see(lambda r: safe_target(r, url)) is False


@pytest.mark.parametrize("url", ["http:///evil", "http:evil", "http:/evil", "//evil"])
def test_an_address_without_a_host_is_no_safe_target_where_the_request_has_none_either(url: str) -> None:
    headers = format_netstring(b'{"METHOD":"GET","VERSION":"HTTP/1.0"}')
    assert safe_target(parse_mongrel2(b"s 1 / %b0:," % headers), url) is False


# Attributes


def test_state_takes_attributes_that_last_as_long_as_the_request() -> None:
    client = application(lambda r: [hasattr(r.state, "user"), setattr(r.state, "user", "me"), r.state.user]).test()
    assert [client.get("/").json, client.get("/").json] == [[False, None, "me"]] * 2


@pytest.mark.parametrize("name", ["headers", "query", "cookies", "body", "stream", "arguments", "state", "host", "url"])
def test_an_attribute_is_worked_out_once(name: str) -> None:
    assert see(lambda r: getattr(r, name) is getattr(r, name), "/?a=1", headers={"Cookie": "a=1"}) is True


def test_an_attribute_that_nobody_reads_is_not_worked_out() -> None:
    assert see(lambda r: "fine", "/?" + "a&" * 2000, headers={"Host": "a b"}) == "fine"


# Hosts


def served(app: Brubeck, *hosts: str, **fields: str) -> list[int]:
    app.route("/")(lambda request: request.host)
    return [int(str(by_wsgi(app, HTTP_HOST=host, SERVER_NAME="10.0.0.1", **fields)[0])) for host in hosts]


def test_hosts_are_those_that_the_trusted_proxies_name() -> None:
    forwarded = {"HTTP_X_FORWARDED_HOST": "a.example"}
    assert served(Brubeck(hosts=["a.example"], proxies=1), "inner:8000", "a.example", **forwarded) == [200, 200]
    assert served(Brubeck(hosts=["inner"], proxies=1), "inner:8000", **forwarded) == [400]
    assert served(Brubeck(hosts=["a.example"]), "inner:8000", **forwarded) == [400]


def test_an_empty_port_is_none() -> None:
    assert served(Brubeck(hosts=["a.example", "[::1]"]), "a.example:", "[::1]:") == [200, 200]
    assert served(Brubeck(hosts=["a.example:81"]), "a.example:", "a.example:81") == [400, 200]


def test_a_port_that_was_named_is_meant_also_where_it_is_the_usual_one() -> None:
    app = Brubeck(hosts=["a.example:80", "b.example:443"])
    assert served(app, "a.example", "a.example:80", "a.example:81", "b.example", "b.example:443") == [
        200, 200, 400, 400, 200
    ]  # fmt: skip
    app = Brubeck(hosts=["a.example:80", "b.example:443"])
    assert served(app, "a.example", "b.example", wsgi__url_scheme="https") == [400, 200]


@pytest.mark.parametrize("host", ["a b", "a/b", "a@b", "", "user@a.example", "a.example,evil.example"])
def test_what_is_no_host_is_none_of_those_that_were_named(host: str) -> None:
    assert served(Brubeck(hosts=["a.example"]), host) == [400]


@pytest.mark.parametrize("hosts", ["*", ["*"], ["x", "*"]])
def test_an_asterisk_stands_for_all_hosts(hosts: Any) -> None:
    assert served(Brubeck(hosts=hosts, debug=True), "evil.example", "a.example:1") == [200, 200]


def test_of_no_hosts_at_all_none_is_served() -> None:
    assert served(Brubeck(hosts=[]), "a.example") == [400]


def test_hosts_may_be_set_later_and_are_checked_there() -> None:
    app, other = Brubeck(), Brubeck(hosts=["a.example"])
    app.hosts, other.hosts = ["a.example"], None
    assert served(app, "a.example", "b.example") == [200, 400]
    assert served(other, "b.example") == [200]
    with pytest.raises(ValueError, match="a host is"):
        app.hosts = ["http://a.example"]


@pytest.mark.parametrize("debug", ["false", "0", 1, None])
def test_debug_is_true_or_false_and_no_text_of_the_environment(debug: Any) -> None:
    with pytest.raises(TypeError, match="debug is True or False, not"):
        Brubeck(debug=debug)


@pytest.mark.parametrize(
    "host",
    ["", "http://a.example", "a.example/", ".a.example", "*a.example", "a.*", "a b", "a:b", "::1",
     "é.example", "*."],
)  # fmt: skip
def test_what_cannot_be_a_host_is_a_value_error_that_names_it(host: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(host))):
        Brubeck(hosts=["a.example", host])


def test_the_hosts_of_the_outermost_application_that_has_some_count() -> None:
    for outer_hosts, inner_hosts, statuses in (
        (["a.example"], None, [200, 400]), (["a.example"], ["b.example"], [200, 400]), (None, ["b.example"], [400, 200])
    ):  # fmt: skip
        outer, inner = Brubeck(hosts=outer_hosts), Brubeck(hosts=inner_hosts)
        inner.route("/")(lambda request: "inner")
        outer.mount("/inner", inner)
        got = [by_wsgi(outer, PATH_INFO="/inner/", HTTP_HOST=host)[0] for host in ("a.example", "b.example")]
        assert got == statuses


def test_middleware_does_not_see_a_request_for_another_host_and_an_error_handler_does() -> None:
    app = Brubeck(hosts=["a.example"])
    app.wrap(lambda respond: lambda request: Response("from middleware"))
    app.error(400)(lambda request, error: "not here")
    assert app.test(base_url="http://evil.example").get("/").text == "not here"
    assert app.test(base_url="http://a.example").get("/").text == "from middleware"


def test_a_test_client_is_no_network_and_may_use_any_address_with_debug() -> None:
    app = Brubeck(debug=True)
    app.route("/")(lambda request: request.host)
    for url in ("http://localhost", "https://tunes.example", "http://evil.example:8000"):
        assert app.test(base_url=url).get("/").status == 200


def test_a_message_socket_has_no_host() -> None:
    app = Brubeck(hosts=["a.example"])
    app.route("@chat")(lambda request: "heard")
    headers = json.dumps({"METHOD": "JSON"}).encode()
    assert app.handle(parse_mongrel2(b"x 1 @chat %d:%b,2:{}," % (len(headers), headers))).body == b"heard"
