"""Room HTTP/1.1: the bytes of a connection become requests and pieces of their bodies, or an error with its status.

The judge is h11: what h11 refuses is refused here, and what both take is read alike. Where this parser is stricter,
`reasons` lists why, so that neither laxness nor needless strictness passes."""

from __future__ import annotations

import gc
import importlib.util
import os
import re
import sys
import tracemalloc
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise, repeat
from typing import Any
from urllib.parse import unquote_to_bytes

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import brubeck_lite
from brubeck_lite import HTTPError, HTTPParser, HTTPRequest, ProtocolError

# What came of some bytes


@dataclass
class Seen:
    """What a program gets to know of a request. `whole` once its body is over."""

    method: str
    path: str
    query_string: str
    version: str
    headers: dict[str, str]
    keep_alive: bool
    host: str
    content_length: int
    refused: int | None
    body: bytes = b""
    whole: bool = False


def look(request: HTTPRequest) -> Seen:
    assert request.refused is None or isinstance(request.refused, HTTPError)
    return Seen(
        method=request.method,
        path="" if request.refused else request.path,
        query_string=str(request.query_string),
        version=str(request.version),
        headers=dict(request.headers),
        keep_alive=request.keep_alive,
        host=request.host,
        content_length=request.content_length,
        refused=request.refused.status if request.refused else None,
    )


def advance(parser: HTTPParser, seen: list[Seen], size: int) -> None:
    """Take from the parser whatever it can give."""
    while True:
        if not seen or seen[-1].whole:
            request = parser.next_request()
            if request is None:
                return
            seen.append(look(request))
        while piece := parser.next_piece(size):
            assert len(piece) <= size
            seen[-1].body += piece
        seen[-1].whole = piece is not None
        assert parser.body_is_over == seen[-1].whole
        if piece is None:
            return


def receive(pieces: Iterable[bytes], size: int = 65536) -> tuple[list[Seen], int | None]:
    """The requests in what is received in these pieces, and the status of the error that ended them, if any."""
    parser, seen = HTTPParser(), list[Seen]()
    try:
        for piece in pieces:
            parser.feed(piece)
            advance(parser, seen, size)
    except ProtocolError as error:
        assert isinstance(error, ValueError) and len(str(error)) > 5, "an error says which rule was broken"
        return seen, error.status
    return seen, None


def read(data: bytes) -> tuple[list[Seen], int | None]:
    return receive([data])


def bytewise(data: bytes) -> Iterator[bytes]:
    return (data[place : place + 1] for place in range(len(data)))


def one(data: bytes) -> Seen:
    """The only request in these bytes, which are whole."""
    seen, status = read(data)
    assert (status, len(seen)) == (None, 1)
    assert seen[0].whole
    return seen[0]


def refusal(data: bytes) -> int | None:
    """The status with which the first request in these bytes is refused; None where it is not."""
    seen, status = read(data)
    assert not any(request.whole for request in seen)
    return status


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([*lines, b"", b""])


def get(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    """A request without a body, with these fields beside its Host."""
    return head(line, b"Host: example.org", *fields)


def post(*fields: bytes, body: bytes = b"") -> bytes:
    return get(*fields, line=b"POST / HTTP/1.1") + body


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


NEXT = get(line=b"GET /next HTTP/1.1")
LAST_CHUNK = b"0\r\n\r\n"


def shown(value: object) -> str:
    """A short name for a case, whatever bytes it holds."""
    return repr(value)[:60]


cases = pytest.mark.parametrize


# Requests as they should be


def test_a_request_is_read_field_by_field() -> None:
    data = head(b"GET /a%20b?c=%20&d HTTP/1.1", b"Host: example.org:8080", b"X-One:1", b"x-TWO:\t two words \t")
    assert one(data) == Seen(
        method="GET",
        path="/a b",
        query_string="c=%20&d",
        version="HTTP/1.1",
        headers={"host": "example.org:8080", "x-one": "1", "x-two": "two words"},
        keep_alive=True,
        host="example.org:8080",
        content_length=0,
        refused=None,
        whole=True,
    )


def test_header_names_are_found_in_any_case() -> None:
    parser = HTTPParser()
    parser.feed(get(b"X-Requested-With: me"))
    request = parser.next_request()
    assert request is not None
    assert request.headers["x-requested-WITH"] == request.headers["X-Requested-With"] == "me"
    assert "absent" not in request.headers


def test_nothing_yet_is_no_request_and_no_error() -> None:
    parser = HTTPParser()
    assert parser.next_request() is None
    parser.feed(b"")
    assert parser.next_request() is None


@cases("method", [b"GET", b"get", b"OPTIONS", b"M-SEARCH", b"PREPARE", b"-bl", b"!#$%&'*+-.^_`|~09", b"X" * 300])
def test_a_method_is_any_token_for_the_routes_to_judge(method: bytes) -> None:
    assert one(get(line=method + b" / HTTP/1.1")).method == method.decode()


@cases(
    ("target", "path", "query"),
    [(b"/", "/", ""), (b"/?", "/", ""), (b"/?a?b", "/", "a?b"), (b"/%C3%A9", "/é", ""), (b"/%2525", "/%25", ""),
     (b"/a%2Fb%3Fc", "/a/b?c", ""), (b"/%zz", "/%zz", ""), (b"/100%", "/100%", ""), (b"/a+b?a+b", "/a+b", "a+b"),
     (b"//evil.org//", "//evil.org//", ""), (b"/../..%2f", "/../../", ""), (b"/a;b=c?d;e", "/a;b=c", "d;e"),
     (b"/\"<>\\^`{|}~", '/"<>\\^`{|}~', ""), (b"/?%ff%00", "/", "%ff%00"), (b"/http://x", "/http://x", ""),
     (b"/%C2%85%E2%80%A8", "/\x85\u2028", ""), (b"/@:80", "/@:80", "")],
)  # fmt: skip
def test_a_path_is_percent_decoded_once_and_a_query_is_left_as_it_is(target: bytes, path: str, query: str) -> None:
    request = one(get(line=b"GET %b HTTP/1.1" % target))
    assert (request.path, request.query_string, request.refused) == (path, query, None)


@cases(
    ("target", "host", "path", "query"),
    [(b"http://other.org/a?b", "other.org", "/a", "b"), (b"https://other.org:8443/", "other.org:8443", "/", ""),
     (b"http://other.org", "other.org", "/", ""), (b"http://other.org?a", "other.org", "/", "a"),
     (b"http://[::1]:80//x", "[::1]:80", "//x", ""), (b"http://192.0.2.1/http://x/", "192.0.2.1", "/http://x/", "")],
)  # fmt: skip
def test_the_host_of_an_absolute_target_wins_over_the_field(target: bytes, host: str, path: str, query: str) -> None:
    request = one(get(line=b"GET %b HTTP/1.1" % target))
    assert (request.host, request.path, request.query_string) == (host, path, query)


def test_an_asterisk_is_a_target_for_options() -> None:
    assert one(get(line=b"OPTIONS * HTTP/1.1")).path == "*"


WITH_SECRETS = [
    get(b"Cookie: session=SECRET"), get(b"COOKIE:SECRET"), get(b"cookie: SECRET", b"Cookie: a=1"),
    get(b"Cookie: a=1", b"Cookie: SECRET"), get(b"Cookie: a\tSECRET"), get(b"Cookie: SECRET\xe9"),
    get(b"Cookie: a=1", b"Authorization: Bearer SECRET"), get(b"authorization: SECRET"), get(b"Authorization: SECRET"),
    get(b"Proxy-Authorization: SECRET"), get(b"X-Api-Key: SECRET"), get(b"X_Api_Key: SECRET"),
    get(b"Referer: http://example.org/?SECRET"), get(line=b"GET /?SECRET HTTP/1.1"),
    head(b"GET / HTTP/1.1", b"Cookie: SECRET", b"Host: example.org"),
]  # fmt: skip


def test_what_may_be_secret_is_not_kept_longer_than_its_request() -> None:
    def send(data: bytes) -> str:
        token = os.urandom(8).hex()
        for secret in (b"", token.encode(), token.encode(), token.encode()):
            parser = HTTPParser()
            parser.feed(data.replace(b"SECRET", secret))
            request = parser.next_request()
            assert request is not None and request.refused is None and dict(request.headers)
        return token[::-1]  # itself it would be found

    backwards = {send(data): data for data in WITH_SECRETS}
    gc.collect()
    things = [thing for thing in gc.get_objects() if isinstance(thing, (dict, list, tuple, set))]
    texts = {str(each)[::-1] for thing in things for each in gc.get_referents(thing) if isinstance(each, (str, bytes))}
    everything = "\n".join(texts)
    assert not [data for token, data in backwards.items() if token in everything]


@cases("target", [b"/%ff", b"/a%C3", b"/%ed%a0%80", b"/%c0%af", b"/%00", b"/a%00b?c", b"http://example.org/%ff",
                  b"/a%0A", b"/%0d%0aX:%20y", b"/%7F", b"http://example.org/%1f"])  # fmt: skip
def test_a_path_that_is_no_text_is_refused_with_its_framing_intact(target: bytes) -> None:
    data = post(b"Content-Length: 5", body=b"hello").replace(b" / ", b" %b " % target, 1)
    seen, status = read(data + NEXT)
    assert (status, [(request.refused, request.body) for request in seen]) == (None, [(400, b"hello"), (None, b"")])


@cases("host", [b"a", b"example.org:80", b"EXAMPLE.org", b"192.0.2.1:1", b"[2001:db8::1]", b"[::1]:8080", b"a_b-c.d:1"])
def test_a_host_is_a_name_or_an_address_with_its_port(host: bytes) -> None:
    assert one(head(b"GET / HTTP/1.1", b"Host: " + host)).host == host.decode()


@cases("line", [b"GET / HTTP/1.1", b"GET http://example.org:/ HTTP/1.1"])
def test_a_port_may_be_empty(line: bytes) -> None:
    """RFC 3986, 3.2.3: urllib and LWP send it for http://example.org:/."""
    assert one(head(line, b"Host: example.org:")).host == "example.org"


def test_http_1_0_needs_no_host() -> None:
    request = one(head(b"GET / HTTP/1.0"))
    assert (request.version, request.host, request.headers) == ("HTTP/1.0", "", {})


@cases(
    ("field", "value"),
    [(b"X:", ""), (b"X: \t ", ""), (b"X:a", "a"), (b"X: a:b", "a:b"), (b"X: \t a \t b \t", "a \t b"), (b"X: :", ":"),
     (b"X: caf\xe9 \x80\xff", "café \x80ÿ"), (b"X: \xa0\x85a\xa0", "\xa0\x85a\xa0"), (b'X: "\\,;', '"\\,;')],
)  # fmt: skip
def test_a_value_is_latin_1_without_the_blanks_around_it(field: bytes, value: str) -> None:
    assert one(get(field)).headers["x"] == value


def test_a_repeated_field_is_joined_by_a_comma_and_cookies_by_a_semicolon() -> None:
    headers = one(get(b"X: 1", b"Cookie: a=1", b"x:", b"X: 2", b"COOKIE: b=2")).headers
    assert (headers["x"], headers["cookie"]) == ("1, , 2", "a=1; b=2")


@cases("name", [b"X_User", b"Content_Length", b"Transfer_Encoding", b"_", b"Host_", b"Content-Length_"])
def test_a_name_with_an_underscore_is_dropped_and_frames_nothing(name: bytes) -> None:
    seen, status = read(get(name + b": 5") + NEXT)
    assert (status, [request.path for request in seen]) == (None, ["/", "/next"])
    assert seen[0].headers == {"host": "example.org"}


@cases(
    ("connection", "kept"),
    [(b"close", False), (b"Close", False), (b"keep-alive, CLOSE", False), (b"close ,\tx", False), (b",,close", False),
     (b"keep-alive", True), (b"closed", True), (b"x-close", True), (b"upgrade", True), (b"", True),
     (b"x\r\nConnection: close", False), (b"\xa0close", True), (b"x close", True), (b'"close"', True)],
)  # fmt: skip
def test_only_the_token_close_ends_an_http_1_1_connection(connection: bytes, kept: bool) -> None:
    assert one(get(b"Connection: " + connection)).keep_alive is kept


@cases("connection", [b"keep-alive", b"close", b"x"])
def test_an_http_1_0_connection_is_never_kept(connection: bytes) -> None:
    assert one(get(b"Connection: " + connection, line=b"GET / HTTP/1.0")).keep_alive is False


def test_pipelined_requests_are_read_in_their_order() -> None:
    data = post(b"Content-Length: 3", body=b"GET") + chunked(b"3\r\n / \r\n" + LAST_CHUNK) + b"\r\n" + NEXT
    seen, status = read(data)
    assert [(request.path, request.body) for request in seen] == [("/", b"GET"), ("/", b" / "), ("/next", b"")]
    assert status is None


def test_a_request_after_http_1_0_or_close_is_still_there_for_the_server_to_ignore() -> None:
    for first in (get(line=b"GET / HTTP/1.0"), get(b"Connection: close")):
        assert [request.keep_alive for request in read(first + NEXT)[0]] == [False, True]


# Bodies


def test_a_request_without_a_body_is_over_at_once() -> None:
    for data in (get(), post(b"Content-Length: 0"), post(b"Content-Length: 000"), get(line=b"GET / HTTP/1.0")):
        parser = HTTPParser()
        parser.feed(data)
        assert parser.next_request() is not None
        assert (parser.body_is_over, parser.next_piece(), parser.next_piece()) == (True, b"", b"")


def test_a_body_comes_in_pieces_as_it_is_received() -> None:
    parser = HTTPParser()
    parser.feed(post(b"Content-Length: 5"))
    request = parser.next_request()
    assert request is not None and request.content_length == 5
    assert (parser.next_piece(), parser.body_is_over) == (None, False)
    parser.feed(b"hel")
    assert (parser.next_piece(), parser.next_piece()) == (b"hel", None)
    parser.feed(b"loGET")
    assert (parser.next_piece(1), parser.next_piece(9)) == (b"l", b"o")
    assert (parser.next_piece(), parser.body_is_over, parser.next_request()) == (b"", True, None)


def test_a_chunked_body_is_over_only_after_its_trailers() -> None:
    parser = HTTPParser()
    parser.feed(chunked(b"5\r\nhello"))
    request = parser.next_request()
    assert request is not None and request.content_length == 0
    assert (parser.next_piece(4), parser.next_piece(4), parser.next_piece(4)) == (b"hell", b"o", None)
    for part in (b"\r", b"\n0", b"\r\n", b"X: y\r\n", b"\r"):
        parser.feed(part)
        assert (parser.next_piece(), parser.body_is_over) == (None, False)
    parser.feed(b"\n")
    assert (parser.next_piece(), parser.body_is_over) == (b"", True)


@cases("length", [b"5", b"05", b"0000000000000000005", b" 5 ", b"\t5\t"], ids=shown)
def test_a_content_length_is_digits(length: bytes) -> None:
    seen, status = read(post(b"Content-Length:" + length, body=b"hello") + NEXT)
    assert (status, [(request.content_length, request.body) for request in seen]) == (None, [(5, b"hello"), (0, b"")])


def test_a_content_length_may_have_19_digits() -> None:
    (request,), status = read(post(b"Content-Length: " + b"9" * 19, body=b"hello"))
    assert (status, request.content_length, request.body, request.whole) == (None, 10**19 - 1, b"hello", False)


@cases("coding", [b"chunked", b"Chunked", b"CHUNKED", b"\tchunked", b"chunked \t"])
@cases("name", [b"Transfer-Encoding", b"transfer-encoding", b"TRANSFER-encoding"])
def test_chunked_is_the_coding_that_is_known_in_any_case(name: bytes, coding: bytes) -> None:
    data = post(name + b": " + coding, body=b"5\r\nhello\r\n" + LAST_CHUNK)
    assert one(data).body == b"hello"


@cases(
    "body",
    [b"5\r\nhello\r\n0\r\n\r\n", b"2\r\nhe\r\n3\r\nllo\r\n000\r\n\r\n", b"0000000000000005\r\nhello\r\n0\r\n\r\n",
     b"5;\r\nhello\r\n0;\r\n\r\n", b"5;a=b;c\r\nhello\r\n0;last\r\n\r\n", b"5; a = b\r\nhello\r\n0\r\n\r\n",
     b'5;a="q;\\"\r\nhello\r\n0\r\n\r\n', b"5;\"\r\nhello\r\n0\r\n\r\n", b"5;\ta\xe9\r\nhello\r\n0\r\n\r\n",
     b"5;" + b"x" * 1000 + b"\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0\r\nX: y\r\nEmpty:\r\n\r\n",
     b"5\r\nhello\r\n0\r\nX: %b\r\n\r\n" % (b"y" * 8000), b"5\r\nhello\r\n0\r\nX_Y: \xe9\t\xff\r\n\r\n"],
    ids=shown,
)  # fmt: skip
def test_chunks_become_the_body_and_what_is_around_them_is_thrown_away(body: bytes) -> None:
    seen, status = read(chunked(body) + NEXT)
    assert (status, [(request.path, request.body) for request in seen]) == (None, [("/", b"hello"), ("/next", b"")])
    assert seen[0].headers == {"host": "example.org", "transfer-encoding": "chunked"}


@cases("size", [b"a", b"A", b"0a", b"000A"])
def test_a_chunk_size_is_hexadecimal_in_any_case(size: bytes) -> None:
    assert one(chunked(size + b"\r\n0123456789\r\n" + LAST_CHUNK)).body == b"0123456789"


def test_chunk_data_may_look_like_anything() -> None:
    data = b"\r\n0\r\n\r\nGET /evil HTTP/1.1\r\n\r\n\0\n\r"
    assert one(chunked(b"%x\r\n%b\r\n" % (len(data), data) + LAST_CHUNK)).body == data


@cases("expect", [b"100-continue", b"100-Continue", b"100-CONTINUE"])
def test_100_continue_may_be_expected(expect: bytes) -> None:
    (request,), status = read(post(b"Expect: " + expect, b"Content-Length: 5"))
    assert (status, request.headers["expect"], request.whole) == (None, expect.decode(), False)


def test_http_1_0_may_expect_what_it_likes() -> None:
    assert one(get(b"Expect: the-unexpected", line=b"GET / HTTP/1.0")).method == "GET"


# Requests as they should not be: the request line


@cases(
    "line",
    [b"GET", b"GET /", b"GET HTTP/1.1", b"GET  HTTP/1.1", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET / HTTP/1.1 ",
     b" GET / HTTP/1.1", b"GET\t/\tHTTP/1.1", b"GET /\tHTTP/1.1", b"GET /a b HTTP/1.1", b"GET / HTTP/1.1 x", b":",
     b"G(T / HTTP/1.1", b"GET: / HTTP/1.1", b"bla:rgh / HTTP/1.1", b'"GET" / HTTP/1.1', b"G@T / HTTP/1.1",
     b"GET\0 / HTTP/1.1", b"GE\x7fT / HTTP/1.1", b"GET\xe9 / HTTP/1.1", b" / HTTP/1.1", b"/ HTTP/1.1",
     b"GET\xa0/ HTTP/1.1", b"GET /\x0bHTTP/1.1", b"GET\x0c/ HTTP/1.1", b"GET / HTTP/1.1\x0b", b"GET / HTTP/1.1\0",
     b"\x16\x03\x01\x02\0\x01\0", b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443", b"HTTP/1.1 200 OK"],
    ids=shown,
)  # fmt: skip
def test_a_line_that_is_no_request_line_is_refused(line: bytes) -> None:
    assert refusal(get(line=line)) == 400


@cases(
    "version",
    [b"http/1.1", b"Http/1.1", b"HTTP/1", b"HTTP/1.", b"HTTP/.1", b"HTTP/11", b"HTTP/1.10", b"HTTP/01.1", b"HTTP/1.01",
     b"HTTP/1,1", b"HTTP/-1.1", b"HTTP/+1.1", b"HTTP/1.1.1", b"HTTP/1 .1", b"HTTP/a.b", b"HTTP 1.1", b"HTTPS/1.1",
     b"HTTP", b"FTP/1.1", b"ICE/1.0", b"RTSP/1.0", b"XHTTP/1.1", b"HTTP/\xb9.1", b"HTTP/1.\xb9", b"HTTP/1.1;x",
     b"HTTP//1.1", b"HTTP/" + b"1" * 400 + b".1"],
    ids=shown,
)  # fmt: skip
def test_a_version_of_another_form_is_refused(version: bytes) -> None:
    assert refusal(get(line=b"GET / " + version)) == 400


@cases(
    "version", [b"HTTP/0.9", b"HTTP/0.0", b"HTTP/1.2", b"HTTP/1.9", b"HTTP/2.0", b"HTTP/3.7", b"HTTP/9.9", b"HTTP/2.1"]
)
def test_another_version_is_not_supported(version: bytes) -> None:
    assert refusal(get(line=b"GET / " + version)) == 505


def test_the_preface_of_http_2_is_refused() -> None:
    assert refusal(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n") in (400, 505)


@cases(
    "target",
    [b"a", b"index.html", b"?a=1", b"*", b"**", b"*/", b"/#", b"/a#b", b"/?a#b", b"#", b"http://example.org/#a", b"\\",
     b"example.org:443", b"example.org", b"://x/", b"http:/x", b"http:x", b"http:///x", b"http://", b"http://:80/",
     b"http:///", b"ftp://example.org/", b"file:///etc/passwd", b"javascript:0", b"ws://example.org/", b"httpx://x/",
     b"http://u@example.org/", b"http://u:p@example.org/", b"http://a@b@c/", b"http://example.org:x/",
     b"http://example.org:80:80/", b"http://example.org\\@x/", b"http://[::1/", b"http://::1]/", b"http://a[::1]/",
     b"http://[::1]x/", b"http://a/../\x7f", b"s://]ufd/:", b"\xe9", b"/\xe9", b"/\xff", b"/\x80", "/日本".encode(),
     b"/\0", b"/\x01", b"/\x1f", b"/\x7f", b"http://\xe9/", b"http://ex\xe9.org/", b"%2f", b"http%3a//x/"],
    ids=shown,
)  # fmt: skip
def test_a_target_of_no_form_is_refused(target: bytes) -> None:
    assert refusal(get(line=b"GET %b HTTP/1.1" % target)) == 400


def test_connect_is_for_proxies() -> None:
    assert refusal(get(line=b"CONNECT example.org:443 HTTP/1.1")) == 400


def test_a_target_may_have_8_kib_and_no_more() -> None:
    assert len(one(get(line=b"GET /%b HTTP/1.1" % (b"a" * 8191))).path) == 8192
    assert refusal(get(line=b"GET /%b HTTP/1.1" % (b"a" * 8192))) == 414
    assert refusal(get(line=b"GET /?%b HTTP/1.1" % (b"a" * 20_000))) == 414


@cases(
    "before", [b"\r\n\r\n", b"\r\n\r\n\r\n", b"\n", b"\n\n", b"\r\n\n", b"\n\r\n", b"\r", b"\r\r\n", b" \r\n", b"\r\n "]
)
@cases("earlier", [b"", NEXT, post(b"Content-Length: 5", body=b"hello"), chunked(LAST_CHUNK)], ids=range(4))
def test_one_empty_line_may_come_before_a_request_and_nothing_else(earlier: bytes, before: bytes) -> None:
    already = bool(earlier)
    assert read(earlier + b"\r\n" + get())[1] is None
    seen, status = read(earlier + before + get())
    assert (len(seen), status) == (already, 400)


# Header fields


@cases(
    "field",
    [b"X", b"X y", b" X: y", b"\tX: y", b"X : y", b"X\t: y", b": y", b":", b" : y", b"X(: y", b"(X): y", b"X,Y: z",
     b"X;: y", b"X/Y: z", b"X@Y: z", b'X"Y": z', b"[X]: y", b"{X}: y", b"X=: y", b"X?: y", b"X\\: y", b"<X>: y",
     b"X Y: z", b"X\0: y", b"X\x01: y", b"X\x7f: y", b"X\x80: y", b"X\xe9: y", b"X\xa0: y", b"\xa0X: y",
     b"\xef\xbb\xbfX: y", b"X\x0b: y", b"\x0bX: y", b"X\x0c: y", b"X\r: y", b"Content-Length\xff: 3"],
    ids=shown,
)  # fmt: skip
@cases("where", ["first", "last", "trailer"])
def test_a_line_that_is_no_field_is_refused(field: bytes, where: str) -> None:
    first, last = head(b"GET / HTTP/1.1", field, b"Host: example.org"), get(field)
    assert refusal({"first": first, "last": last, "trailer": chunked(b"0\r\n" + field + b"\r\n\r\n")}[where]) == 400


@cases("odd", [bytes([octet]) for octet in chain(range(9), range(10, 32), [127])], ids=shown)
@cases("around", [b"%b", b"a%b", b"%ba", b"a%ba", b" %b "])
def test_a_control_character_in_a_value_is_refused(around: bytes, odd: bytes) -> None:
    assert refusal(get(b"X: " + around % odd)) == 400
    assert refusal(chunked(b"0\r\nX: " + around % odd + b"\r\n\r\n")) == 400


@cases("fold", [b"\r\n ", b"\r\n\t", b"\r\n  ", b"\n ", b"\r\n \r\n ", b"\r\n\t\r\n"], ids=shown)
@cases("name", [b"X", b"Host", b"Content-Length", b"Transfer-Encoding"])
def test_a_folded_field_is_refused(name: bytes, fold: bytes) -> None:
    assert refusal(head(b"POST / HTTP/1.1", b"Host: a", name + b":" + fold + b"chunked")) == 400
    assert refusal(head(b"POST / HTTP/1.1", name + b": a" + fold + b"b")) == 400
    assert refusal(chunked(b"0\r\nX: y" + fold + b"z\r\n\r\n")) == 400


@cases("place", range(4))
@cases("end", [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\0\r\n", b"\x0b\r\n", b"\n\n"], ids=shown)
def test_every_line_ends_with_cr_and_lf(end: bytes, place: int) -> None:
    ends = [b"\r\n"] * 4
    ends[place] = end
    lines = (b"GET / HTTP/1.1", b"Host: a", b"X: y", b"")
    data = b"".join(line + its_end for line, its_end in zip(lines, ends, strict=True)) + b"\r\n\r\n"
    assert refusal(data) == 400


@cases(
    "fields",
    [
        [b"Host:" + b" a", b"Host: a"],
        [b"Host: a", b"Host: b"],
        [b"host: a", b"HOST:"],
        [],
        [b"X-Host: a"],
        [b"Host_: a"],
    ],
)
def test_http_1_1_has_one_host(fields: list[bytes]) -> None:
    assert refusal(head(b"GET / HTTP/1.1", *fields)) == 400


@cases("line", [b"Host:", b"Host: ", b"host: \t "])
@cases("version", [b"1.0", b"1.1"])
def test_an_empty_host_is_one(line: bytes, version: bytes) -> None:
    """RFC 9112, 3.2: what a client without an authority sends."""
    assert one(head(b"GET / HTTP/" + version, line)).headers["host"] == ""


@cases("version", [b"1.0", b"1.1"])
@cases(
    "host",
    [b"a b", b"u@a", b"@", b"a/", b"/", b"a/b", b"http://a", b"a?b", b"a#b", b"a\\b", b"a:b", b"a:80:80", b":80",
     b":", b"a:-1", b"a:+80", b"a: 80", b"a:8 0", b"[::1", b"::1", b"[]", b"[::1]a", b"a[::1]", b"[a.org]", b"a<b>",
     b'"a"', b"a\xe9", b"\xa0a", b"a:\xb9", b"a\tb", b"a:123456", b"a^b", b"a|b", b"{a}", b"a`b"],
    ids=shown,
)  # fmt: skip
def test_what_is_no_host_and_port_is_refused(host: bytes, version: bytes) -> None:
    assert refusal(head(b"GET / HTTP/" + version, b"Host: " + host)) == 400


def test_a_list_of_hosts_is_no_second_host() -> None:
    assert refusal(get(b"Host: a, b")) == 400
    assert refusal(head(b"GET http://a/ HTTP/1.1")) == 400
    assert refusal(head(b"GET http://a/ HTTP/1.1", b"Host: a", b"Host: a")) == 400


def test_a_head_may_have_100_fields_and_64_kib_and_no_more() -> None:
    assert len(one(get(*(b"X-%d: y" % n for n in range(99)))).headers) == 100
    assert refusal(get(*(b"X-%d: y" % n for n in range(100)))) == 431
    assert refusal(get(*repeat(b"X: y", 100))) == 431
    assert refusal(get(*repeat(b"X_Y: z", 100))) == 431
    assert len(one(get(b"X: " + b"y" * 65_000)).headers["x"]) == 65_000
    assert refusal(get(b"X: " + b"y" * 65_536)) == 431
    assert refusal(get(*(b"X-%d: %b" % (n, b"y" * 7_000) for n in range(10)))) == 431


@cases(
    "expect",
    [b"100", b"100-continued", b"200-ok", b"100-continue, x", b"x, 100-continue", b"100 continue", b"\xa0100-continue"],
)
def test_another_expectation_fails(expect: bytes) -> None:
    assert refusal(post(b"Expect: " + expect, b"Content-Length: 5")) == 417


# Framing


@cases(
    "length",
    [b"", b"+5", b"-5", b"-0", b"-1", b"1_0", b"0x5", b"5.0", b"5e0", b"0b1", b"5 5", b"5,5", b"5, 5", b"5,", b",5",
     b"5, 6", b"5;", b"a", b"five", b'"5"', b"5\0", b"5\x0b", b"\x0b5", b"\x0c5", b"5\xa0", b"\xa05", b"\x855", b"\xb2",
     b"\xb95", b"\xd9\xa5", "\uff15".encode(), b"9" * 20, b"0" * 19 + b"5", b"1" * 5000, b"5\t5", b"0 1", b"5\r5",
     b"nan", b"inf", b"true", b"0o5", b"5h", b"(5)"],
    ids=shown,
)  # fmt: skip
@cases("version", [b"1.0", b"1.1"])
def test_a_content_length_that_is_not_digits_alone_is_refused(length: bytes, version: bytes) -> None:
    data = post(b"Content-Length: " + length, body=b"hello").replace(b"HTTP/1.1", b"HTTP/" + version)
    assert refusal(data) == 400


@cases("second", [b"5", b"6", b"05", b"0", b""])
@cases("name", [b"Content-Length", b"content-length", b"CONTENT-LENGTH"])
def test_a_second_content_length_is_refused_even_if_it_is_equal(name: bytes, second: bytes) -> None:
    assert refusal(post(b"Content-Length: 5", name + b": " + second, body=b"hello")) == 400
    assert refusal(post(b"Content-Length: 5", b"X: y", name + b":" + second, body=b"hello")) == 400


@cases("length", [b"5", b"0", b"", b"x"])
@cases("coding", [b"chunked", b"Chunked", b"identity", b"x", b"", b"gzip, chunked"])
def test_a_content_length_beside_a_transfer_encoding_is_refused(coding: bytes, length: bytes) -> None:
    fields = [b"Content-Length: " + length, b"Transfer-Encoding: " + coding]
    assert refusal(post(*fields, body=LAST_CHUNK)) == 400
    assert refusal(post(*reversed(fields), body=LAST_CHUNK)) == 400
    assert refusal(post(fields[1], b"X: y", fields[0], body=LAST_CHUNK)) == 400


@cases(
    "coding",
    [b"", b"identity", b"gzip", b"deflate", b"compress", b"pigeons", b"xchunked", b"chunkedx", b"x-chunked",
     b"chunkedchunked", b"chunked, identity", b"identity, chunked", b"gzip, chunked", b"gzip,chunked",
     b"chunked, chunked", b"chunked,chunked", b"chunked,", b",chunked", b", chunked", b"chunked ,", b"chunked;",
     b"chunked;q=1", b"chunked; ext=val", b"chunked x", b"chun ked", b"c hunked", b'"chunked"', b"'chunked'", b"chunk",
     b"chunke", b"chunked:", b":chunked", b"chunked=1", b"[chunked]", b"\xa0chunked", b"chunked\xa0", b"\x85chunked",
     b"\xffchunked", b"c%68unked", b"chunked/1", b"hunked", b"cow, chunked", b"chunked\t,\tgzip", b"chunked\xad"],
    ids=shown,
)  # fmt: skip
def test_another_transfer_encoding_is_not_implemented(coding: bytes) -> None:
    assert refusal(post(b"Transfer-Encoding: " + coding, body=LAST_CHUNK)) == 501


@cases(
    "field",
    [b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked", b" Transfer-Encoding: chunked",
     b"\tTransfer-Encoding: chunked", b"Transfer-Encoding:\x0bchunked", b"Transfer-Encoding:\x0cchunked",
     b"Transfer-Encoding: chunked\x0b", b"Transfer-Encoding:\0chunked", b"Transfer-Encoding: chunked\0",
     b"Transfer-Encoding: chunked\0, identity", b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding:\n chunked",
     b"Transfer-Encoding:\nchunked", b"X: y\nTransfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked",
     b"X:\rTransfer-Encoding: chunked", b"X:\nTransfer-Encoding: chunked", b"\0Transfer-Encoding: chunked",
     b"Transfer-Encoding\0: chunked", b"Transfer-Encoding chunked", b"Transfer-Encoding=chunked",
     b"Transfer Encoding: chunked", b"Transfer-Encoding:\x7fchunked", b"Transfer-Encoding: \x01chunked",
     b"Transfer-Encoding\x0b: chunked", b"Transfer\rEncoding: chunked", b"Transfer-Encoding: chunked\r",
     b"Transfer-Encoding: chunked\n", b"Transfer-Encoding:: chunked\x1f", b"Transfer-Encoding\xa0: chunked",
     b"Transfer-Encoding: chunked\r\n identity", b"Transfer-Encoding: identity\r\n\tchunked",
     b"Transfer-\r\n Encoding: chunked", b"X: y\r\n\x0bTransfer-Encoding: chunked",
     b"Foo\r\n Bar: baz\r\nTransfer-Encoding: chunked", b"Content-Length : 5", b"Content-Length\t: 5",
     b"Content\rLength: 5", b"X: y\nContent-Length: 5", b"X: y\rContent-Length: 5", b"Content-Length:\n5",
     b"Content-Length:\r\n 5"],
    ids=shown,
)  # fmt: skip
def test_disguised_framing_is_refused_alone_and_beside_the_other_one(field: bytes) -> None:
    for beside in ([], [b"Content-Length: 5"], [b"Transfer-Encoding: chunked"]):
        assert refusal(post(*beside, field, body=LAST_CHUNK)) == 400
        assert refusal(post(field, *beside, body=LAST_CHUNK)) == 400


@cases("second", [b"chunked", b"identity", b"gzip", b"", b"x"])
@cases("name", [b"Transfer-Encoding", b"transfer-encoding", b"Transfer-ENCODING"])
def test_a_second_transfer_encoding_is_refused(name: bytes, second: bytes) -> None:
    fields = [b"Transfer-Encoding: chunked", name + b": " + second]
    assert refusal(post(*fields, body=LAST_CHUNK)) in (400, 501)
    assert refusal(post(*reversed(fields), body=LAST_CHUNK)) in (400, 501)


@cases("coding", [b"chunked", b"identity", b"gzip", b""])
def test_http_1_0_knows_no_transfer_encoding(coding: bytes) -> None:
    assert refusal(get(b"Transfer-Encoding: " + coding, line=b"POST / HTTP/1.0") + LAST_CHUNK) == 400
    assert refusal(get(b"Transfer-Encoding: " + coding, b"Content-Length: 5", line=b"POST / HTTP/1.0")) == 400


@cases(
    "size",
    [b"", b"0x5", b"0X5", b"+5", b"-5", b"-0", b"+0", b" 5", b"5 ", b"\t5", b"5\t", b"5 ;a", b"5\t;a", b"5  ", b"5_0",
     b"0_5", b"5.", b"5,5", b"5h", b"g", b"x", b"5 5", b"5 a=b", b"5:", b"5=", b'"5"', b"\xa05", b"5\xa0", b"\xb95",
     b"5\0", b"\x005", b"5\x0b", b"\x0b5", b"5\x0c", b";", b";a=b", b" ;a", b"0" * 16 + b"5", b"f" * 17,
     b"1" + b"0" * 16, b"0" * 17, b"0" * 1000, b"5\r", b"\r5", b"\r", b"5\n", b"\n5", b"5\n;", b"5\r\r;", b"0\0", b"0 ",
     b" 0", "\uff15".encode(), b"5#", b"5/", b"5\\", b"0x", b"x5", b"h5", b"5L"],
    ids=shown,
)  # fmt: skip
def test_a_chunk_size_that_is_not_hexadecimal_digits_alone_is_refused(size: bytes) -> None:
    assert refusal(chunked(size + b"\r\nhello\r\n" + LAST_CHUNK)) == 400
    assert refusal(chunked(b"1\r\na\r\n" + size + b"\r\nhello\r\n" + LAST_CHUNK)) == 400


def test_a_chunk_may_be_as_large_as_16_digits_say() -> None:
    (request,), status = read(chunked(b"f" * 16 + b"\r\nhello"))
    assert (status, request.body, request.whole) == (None, b"hello", False)


@cases(
    "line",
    [b"5\n", b"5;\n", b"5;a\n", b"5;a\n\r\n", b"5;\nx\r\n", b"5;\r\r\n", b"5;\rx\r\n", b"5;a=b\rx\r\n", b"5\rx\r\n",
     b"5\r\r\n", b"5\n\r\n", b"5\r;a\r\n", b"5;\0\r\n", b"5;a\0b\r\n", b"5;\x01\r\n", b"5;\x1f\r\n", b"5;a\x7f\r\n",
     b"5;\x0b\r\n", b'5;a="\r\n"\n', b'5;a="\n"\r\n', b'5;a="\r"\r\n', b"5;\n0;\r\n"],
    ids=shown,
)  # fmt: skip
def test_a_chunk_line_ends_with_cr_and_lf_and_has_no_control_character(line: bytes) -> None:
    assert refusal(chunked(line + b"hello\r\n" + LAST_CHUNK)) == 400
    if line.startswith(b"5;"):
        assert refusal(chunked(b"5\r\nhello\r\n0" + line[1:] + b"\r\n")) == 400


@cases(
    "end",
    [b"", b"\n", b"\r", b"\r\r", b"\n\r", b"\n\n", b"XX", b"X\r\n", b"\rX", b" \r\n", b"\0\0", b"0\r\n", b"\x85"],
    ids=shown,
)
def test_chunk_data_is_followed_by_cr_and_lf(end: bytes) -> None:
    assert refusal(chunked(b"5\r\nhello" + end + LAST_CHUNK)) == 400
    assert refusal(chunked(b"5\r\nhello" + end + b"5\r\nhello\r\n" + LAST_CHUNK)) == 400


@cases(
    "end",
    [b"\n", b"\r", b"\r\r\n", b"\n\r", b"\rX", b"X\r\n", b" \r\n", b"\t\r\n", b"\0\r\n", b"X: y\n", b"X: y\r\n\n",
     b"\rX: y\r\n\r\n"],
    ids=shown,
)  # fmt: skip
def test_trailers_end_with_an_empty_line(end: bytes) -> None:
    assert refusal(chunked(b"0\r\n" + end + b"\r\n\r\n")) == 400


@cases(
    "trailer",
    [b"X: y", b"Foo: Content-Length: 5", b"X-Transfer-Encoding: chunked", b"Content_Length: 5", b"Cookie: a=b"],
)
def test_trailers_change_nothing(trailer: bytes) -> None:
    seen, status = read(chunked(b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n") + NEXT)
    assert (status, [(request.path, request.body) for request in seen]) == (None, [("/", b"hello"), ("/next", b"")])
    assert seen[0].headers == {"host": "example.org", "transfer-encoding": "chunked"}


@cases(
    "trailer",
    [b"Content-Length: 5", b"Content-Length: x", b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip", b"Host: a"],
)
def test_framing_in_trailers_frames_nothing(trailer: bytes) -> None:
    seen, status = read(chunked(b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n") + NEXT)
    assert seen[0].host == "example.org" and seen[0].body == b"hello"
    assert (status, [request.path for request in seen]) in [(None, ["/", "/next"]), (400, ["/"])]


def test_a_smuggled_request_stays_inside_the_body_that_carries_it() -> None:
    evil = get(line=b"GET /evil HTTP/1.1")
    length = post(b"Content-Length: %d" % len(evil), body=evil)
    chunks = chunked(b"%x;a=b\r\n%b\r\n" % (len(evil), evil) + LAST_CHUNK)
    for method in (b"POST", b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"TRACE"):
        for data in (length, chunks):
            seen, status = read(data.replace(b"POST", method, 1) + NEXT)
            assert (status, [(request.path, request.body) for request in seen]) == (None, [("/", evil), ("/next", b"")])


# What is wrong already is refused before the rest has come


@cases(
    "beginning",
    [b"\n", b"\r\r", b"\r\n\n", b"\r\n\r\n", b"\0", b"\x16\x03\x01", b"GET\0", b"GET /\x7f", b"GET / HTTP/1.1\n",
     b"GET / HTTP/1.1\rX", b"GET /\r\r", get()[:-2] + b"X: y\n", get()[:-2] + b"X: y\rZ", get()[:-2] + b"X\x01",
     get()[:-2] + b"X: \x0b", get()[:-2] + b"\n", get()[:-2] + b"\rX", chunked(b"0\r\nX: y\n"), chunked(b"0\r\nX: \0"),
     chunked(b"5\n"), chunked(b"5\r\nhelloX"), chunked(b"5\r\nhello\rX"), chunked(b"5\r\nhello\n")],
    ids=shown,
)  # fmt: skip
def test_a_bare_lf_or_a_control_character_is_not_waited_upon(beginning: bytes) -> None:
    assert refusal(beginning) == 400


# However it is cut


EXAMPLES = [
    get(),
    b"\r\n" + get(b"X: y", b"Cookie: a=1", b"cookie: b=2", line=b"GET /a%20b?c HTTP/1.1") + b"\r\n" + NEXT,
    post(b"Content-Length: 5", body=b"\r\n\r\nx") + NEXT,
    chunked(b"5\r\nhello\r\n2;a=b\r\n\r\n\r\n0;last\r\nX: y\r\nZ:\r\n\r\n") + b"\r\n" + NEXT,
    chunked(b"000\r\n\r\n") + post(b"Content-Length: 0", b"Connection: close") + head(b"GET / HTTP/1.0"),
    post(b"Expect: 100-continue", b"Content-Length: 3", body=b"abc") + get(line=b"OPTIONS * HTTP/1.1"),
    get(line=b"GET /%ff HTTP/1.1") + get(line=b"GET http://other.org:81/x?y HTTP/1.1"),
    post(b"Content-Length: 10", body=b"hello"),
    chunked(b"5\r\nhel"),
]
BROKEN = [
    b"\r\n\r\n" + get(),
    NEXT + get(b"X : y"),
    NEXT + get(b"X: y\x01"),
    NEXT + get(b"X: y\n"),
    NEXT + get(line=b"GET / HTTP/3.7"),
    NEXT + get(line=b"GET x HTTP/1.1"),
    NEXT + post(b"Content-Length: 5", b"Content-Length: 5"),
    NEXT + post(b"Transfer-Encoding: xchunked"),
    NEXT + post(b"Expect: x", b"Content-Length: 5"),
    NEXT + chunked(b"5 \r\nhello\r\n"),
    NEXT + chunked(b"5\r\nhello\n"),
    NEXT + chunked(b"5\nhello"),
    NEXT + chunked(b"0\r\nX\r\n\r\n"),
    NEXT + head(b"GET / HTTP/1.1", b"X: y"),
]


@cases("data", EXAMPLES + BROKEN, ids=range(len(EXAMPLES + BROKEN)))
def test_bytes_mean_the_same_however_they_are_cut(data: bytes) -> None:
    whole = read(data)
    assert (whole[1] is None) == (data in EXAMPLES)
    for cut in range(len(data) + 1):
        assert receive([data[:cut], data[cut:]]) == whole
    assert receive(bytewise(data)) == receive([data], 1) == receive(bytewise(data), 1) == whole


@cases("data", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_beginning_of_what_is_right_is_not_refused(data: bytes) -> None:
    assert [read(data[:cut])[1] for cut in range(len(data))] == [None] * len(data)


# Streams for the judge

METHODS = [b"GET", b"POST", b"HEAD", b"get", b"M-SEARCH"]
TARGETS = [
    b"/", b"/a%20b?c=d", b"/%C3%A9//?", b"/%ff", b"/~!$&'()*,;=:@\"<>{}|", b"http://other.org:81/p?q",
    b"http://[::1]",
]  # fmt: skip
FIELDS = [
    b"X: y", b"Empty:", b"x-two:\ta \t b\t ", b"Cookie: a=1; b", b"X_Y: z", b"Connection: close",
    b"connection: keep-alive, Close", b"Expect: 100-continue", b"caf: \xe9\xff", b"Accept: */*", b"Content_Length: 7",
    b"X: ,\"a\"",
]  # fmt: skip
TOKENS = [
    b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"\n\n", b"\0", b"\x0b", b"\x0c", b"\x1f", b"\x7f", b"\x85", b"\xa0", b"\xe9",
    b" ", b"\t", b"\r\n ", b"\r\n\t", b":", b";", b",", b"#", b"?", b"%", b"@", b"/", b"_", b"-", b"+", b"0x", b"0",
    b"00000000000000000", b"5", b"a", b"X", b'"', b"(", b"*", b"\r\n0\r\n\r\n", b" HTTP/1.1\r\n", b"HTTP/1.0",
    b"HTTP/2.0", b"HTTP/0.9", b"http://", b"chunked", b", chunked", b"identity", b";ext=val", b"; \t", b"\r\nHost: a",
    b"\r\nHost: a:1@b", b"\r\nContent-Length: 5", b"\r\nContent-Length: +5", b"\r\nContent-Length: 5, 5",
    b"\r\nTransfer-Encoding: chunked", b"\r\nTransfer-Encoding: identity", b"\r\nTransfer-Encoding : chunked",
    b"\r\nTransfer-Encoding:\x0bchunked", b"\r\nExpect: x", b"\r\nX : y", b"\r\n: y",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
]  # fmt: skip
WHERE = re.compile(rb"\r\n|[ :;/,]|(?<=\n)[0-9a-f]|\b")


@st.composite
def bodies(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """The fields that frame a body, and the body as it is sent."""
    data = draw(st.binary(max_size=8) | st.sampled_from([b"\r\n0\r\n\r\n", b"GET /evil HTTP/1.1\r\n\r\n"]))
    kind = draw(st.sampled_from(["none", "length", "chunks", "chunks"]))
    if kind == "none":
        return [], b""
    if kind == "length":
        return [b"%b: %d" % (draw(st.sampled_from([b"Content-Length", b"content-length"])), len(data))], data
    cut = draw(st.integers(0, len(data)))
    extension = draw(st.sampled_from([b"", b"", b";", b";a=b", b'; a="b c"', b";\xe9"]))
    trailers = draw(st.sampled_from([b"", b"", b"X: y\r\n", b"X:\r\nZ_z: \xe9 \r\n"]))
    chunks = [b"%x%b\r\n%b\r\n" % (len(part), extension, part) for part in (data[:cut], data[cut:]) if part]
    coding = draw(st.sampled_from([b"Transfer-Encoding: chunked", b"transfer-encoding: Chunked"]))
    return [coding], b"".join([*chunks, draw(st.sampled_from([b"0", b"000"])), extension, b"\r\n", trailers, b"\r\n"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request as it should be, or nearly."""
    framing, body = draw(bodies())
    version = draw(st.sampled_from([b"HTTP/1.1"] * (15 if framing else 1) + [b"HTTP/1.0"]))
    start = b"%b %b " % (draw(st.sampled_from(METHODS)), draw(st.sampled_from(TARGETS)))
    line = draw(st.sampled_from([start] * 7 + [b"OPTIONS * "])) + version
    host = b"Host: " + draw(st.sampled_from([b"example.org", b"a:81", b"[::1]:8080"]))
    fields = draw(st.permutations([host, *framing, *draw(st.lists(st.sampled_from(FIELDS), max_size=2))]))
    return draw(st.sampled_from([b"", b"", b"", b"\r\n"])) + head(line, *fields) + body


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Up to three pipelined requests, with up to three changes, and one more request behind them, whose beginning shows
    where the others ended."""
    data = bytearray(b"".join(draw(st.lists(requests(), min_size=1, max_size=3))))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 3]))):
        places = [match.start() for match in WHERE.finditer(data)]
        start = draw(st.sampled_from(places or [0]) | st.integers(0, len(data)))
        gone = draw(st.sampled_from([0, 0, 0, 1, 2]))
        data[start : start + gone] = draw(st.sampled_from(TOKENS) | st.binary(max_size=1))
    return bytes(data) + NEXT


def expected(request: h11.Request) -> Seen:
    """What this parser should say of a request that h11 has read."""
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if "_" not in name:
            headers[name] = headers[name] + ("; " if name == "cookie" else ", ") + value if name in headers else value
    absolute = re.match(rb"(?i:https?)://([^/?]*)(.*)", request.target, re.DOTALL)
    host = absolute[1].decode() if absolute else headers.get("host", "")
    if absolute:
        headers["host"] = host  # RFC 9112, 3.2.2
    path, _, query = (absolute[2] if absolute else request.target).partition(b"?")
    octets = unquote_to_bytes(path or b"/")
    is_text = octets.decode(errors="ignore").encode() == octets and b"\0" not in octets
    closing = "close" in [token.strip(" \t").lower() for token in headers.get("connection", "").split(",")]
    return Seen(
        method=request.method.decode(),
        path=octets.decode() if is_text else "",
        query_string=query.decode(),
        version="HTTP/" + request.http_version.decode(),
        headers=headers,
        keep_alive=request.http_version == b"1.1" and not closing,
        host=host.removesuffix(":"),  # RFC 3986, 3.2.3
        content_length=int(headers.get("content-length", "0")),
        refused=None if is_text else 400,
    )


def judge(data: bytes) -> tuple[list[tuple[Seen, bytes]], str]:
    """What h11 reads in a stream: its requests, each with its own bytes, and whether it refused what came then, waits
    for more of it, or says nothing of use: it looks for framing in trailers, which are thrown away here.

    A new connection for each request, for h11 reads none after `close`; and without the one empty line before it that
    h11 refuses (RFC 9112, 2.2: skip at least one)."""
    seen: list[tuple[Seen, bytes]] = []
    while data := data.removeprefix(b"\r\n"):
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        connection.receive_data(data)
        request: Seen | None = None
        try:
            while (event := connection.next_event()) is not h11.NEED_DATA and not isinstance(event, h11.EndOfMessage):
                if isinstance(event, h11.Request):
                    request = expected(event)
                else:
                    assert request is not None and isinstance(event, h11.Data)
                    request.body += event.data
        except h11.RemoteProtocolError as error:
            is_trailer = request and re.search("Content-Length|Transfer-Encoding", str(error))
            return seen, "says nothing" if is_trailer else "refused"
        if event is h11.NEED_DATA:
            return seen, "waits"
        assert request is not None
        request.whole = True
        rest, _ = connection.trailing_data
        seen.append((request, data[: len(data) - len(rest)]))
        data = rest
    return seen, "waits"


HOST = re.compile(rb"([\w.~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{0,5})?", re.ASCII)
LINES = {
    "a bare LF": re.compile(rb"(?<!\r)\n"),
    "a lone CR": re.compile(rb"\r(?!\n)"),
    "a control character": re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"),
    "a fold": re.compile(rb"\n[ \t]"),
}


def target_reasons(method: bytes, target: bytes) -> Iterator[str]:
    if re.search(rb"[^!-~]|#", target):
        yield "a character that no target has"
    if absolute := re.match(rb"(?i:https?)://([^/?]*)", target):
        if not HOST.fullmatch(absolute[1]):
            yield "an absolute target without a host"
    elif not (target.startswith(b"/") or (target == b"*" and method == b"OPTIONS")):
        yield "a target of no form"
    if len(target) > 8192:
        yield "a long target"


def chunk_reasons(body: bytes) -> Iterator[str]:
    size, extensions = 1, 0
    while size:
        line, _, body = body.partition(b"\r\n")
        match = re.fullmatch(rb"([0-9A-Fa-f]{1,16})(;[^\x00-\x08\x0a-\x1f\x7f]*)?", line)
        if match is None or len(line) > 1024:
            yield "a chunk line with a blank, a control character, 17 digits or no end"
            return
        size, extensions = int(match[1], 16), extensions + len(match[2] or b"")
        body = body[size + 2 :] if size else body
    if extensions > 16384 or len(body) > 8192:
        yield "long extensions or trailers"
    yield from (f"{name} in a trailer" for name, rule in LINES.items() if rule.search(body))


def reasons(data: bytes) -> Iterator[str]:
    """Why a request that h11 takes is refused here; nothing for one that is not."""
    end = re.search(rb"\n\r?\n", data)
    assert end
    start, *lines = re.split(rb"\r?\n", data[: end.start()].removesuffix(b"\r"))
    method, target, version = start.split(b" ")
    fields = [(line.partition(b":")[0].lower(), line.partition(b":")[2].strip(b" \t")) for line in lines]
    values = {wanted: [value for name, value in fields if name == wanted] for wanted, _ in fields}
    lengths, codings = values.get(b"content-length", []), values.get(b"transfer-encoding", [])
    yield from (name for name, rule in LINES.items() if rule.search(data[: end.end()]))
    yield from target_reasons(method, target)
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        yield "another version"
    if any(host and not HOST.fullmatch(host) for host in values.get(b"host", [])):
        yield "a Host that is none"
    if len(lengths) > 1 or any(not re.fullmatch(rb"[0-9]{1,19}", length) for length in lengths):
        yield "a Content-Length that is twice there, a list, or 20 digits"
    if codings and (lengths or version == b"HTTP/1.0"):
        yield "a Transfer-Encoding in HTTP/1.0 or beside a Content-Length"
    if version == b"HTTP/1.1" and b", ".join(values.get(b"expect", [])).lower() not in (b"", b"100-continue"):
        yield "another expectation"
    if len(fields) > 100 or end.end() > 65536:
        yield "a long head"
    if codings:
        yield from chunk_reasons(data[end.end() :])


def compare(data: bytes) -> str:
    """Hold the parser against its judge. Returns how it ended, for whoever counts."""
    seen, status = read(data)
    allowed, ending = judge(data)
    taken = [request for request in seen if request.whole]
    for ours, (theirs, own) in zip(taken, allowed, strict=False):
        if "transfer-encoding" in ours.headers:  # h11 has it in lower case
            theirs.headers["transfer-encoding"] = ours.headers["transfer-encoding"]
        assert ours == theirs, "both take it, and read it differently"
        assert not set(reasons(own)), "taken in spite of a rule"
    is_refused = status is not None or read(data + b"\r\n\r\n")[1] is not None  # there may be no hurry to refuse
    if len(taken) < len(allowed):
        assert is_refused
        assert set(reasons(allowed[len(taken)][1])), f"refused with {status}, but h11 takes it and no rule is broken"
        return "stricter"
    assert len(taken) == len(allowed) or ending == "says nothing", "taken, but not by h11"
    assert is_refused or ending != "refused", "h11 refuses it"
    return ending if ending == "refused" or status is None else "stricter"


@settings(deadline=None, max_examples=1000)
@given(streams())
def test_what_h11_refuses_is_refused_and_what_both_take_is_read_alike(data: bytes) -> None:
    compare(data)


CHANGED = [
    b"\r\n" + post(b"Content-Length: 3", b"X: y", body=b"a\r\n"),
    chunked(b"3;e\r\na\r\n\r\n1\r\nb\r\n0\r\nT: t\r\n\r\n"),
]


@cases("token", TOKENS, ids=shown)
@cases("data", CHANGED, ids=["length", "chunks"])
def test_one_change_anywhere_is_judged_as_h11_does_but_for_stricter_rules(data: bytes, token: bytes) -> None:
    for place in range(len(data) + 1):
        compare(data[:place] + token + data[place:] + NEXT)
        compare(data[:place] + token + data[place + len(token) :] + NEXT)


@settings(deadline=None, max_examples=300)
@given(st.lists(requests(), min_size=1, max_size=3))
def test_what_no_rule_forbids_is_taken(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    allowed, _ = judge(data)
    assert len(allowed) == len(pieces)
    free = [not set(reasons(own)) for _, own in allowed]
    assert len(read(data)[0]) >= (free.index(False) if False in free else len(free))


@settings(deadline=None, max_examples=400)
@given(streams(), st.data())
def test_a_stream_means_the_same_however_it_is_cut(data: bytes, draw: Any) -> None:
    places = [0, *sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6))), len(data)]
    pieces = [data[start:end] for start, end in pairwise(places)]
    (seen, status), (whole, whole_status) = receive(pieces, draw.draw(st.sampled_from([1, 3, 65536]))), read(data)
    assert (status is None) == (whole_status is None)
    assert [request for request in seen if request.whole] == [request for request in whole if request.whole]


@settings(deadline=None, max_examples=500)
@given(st.lists(st.sampled_from(TOKENS) | st.binary(max_size=4) | requests(), max_size=12).map(b"".join))
def test_any_bytes_are_requests_or_a_protocol_error(data: bytes) -> None:
    compare(data)


# Memory

ALIKE = [
    b"Host: a", b"Host: a:81", b"host: a", b"Host: ", b"Host: a b", b"Cookie: a=1", b"Cookie: b=2", b"Cookie: ",
    b"Cookie:a=1", b"cookie: a=1", b"cookie: c", b"COOKIE: d", b"Cookie : e", b"Cookie: \xe9\t", b"Cookie: a\0",
    b"Cookie: a\nX: y", b"Cookie: \t a ", b"X-Cookie: a", b"X: \\r\\nCookie: a", b"Cookies: a", b"Cookie_: a",
    b"Authorization: x", b"Authorization: y z ", b"authorization: x", b"Authorization:", b"Proxy-Authorization: x",
    b"Accept: */*", b"Accept: */", b"Accept: */*, a", b"Accept:", b"accept: */*", b"Accept", b"Connection: close",
    b"Connection: keep-alive", b"Content-Length: 5", b"Content-Length: 05", b"Content-Length: 5x", b"Content_Length: 6",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: x", b"Expect: 100-continue", b"Expect: y", b"_: ", b" X: y",
    b"Referer: http://a/?b", b"Referer: http://a/", b"User-Agent: %b" % (b"u" * 1100),
]  # fmt: skip
ALIKE_LINES = [
    b"GET / HTTP/1.1", b"GET / HTTP/1.0", b"GET /? HTTP/1.1", b"GET /?a HTTP/1.1", b"GET /?b# HTTP/1.1",
    b"OPTIONS * HTTP/1.1", b"OPTIONS *? HTTP/1.1", b"OPTIONS *?a HTTP/1.1", b"GET ?a HTTP/1.1",
    b"GET /?b c HTTP/1.1", b"GET http://b?c HTTP/1.1", b"GET http://b HTTP/1.1", b"GET /%ff HTTP/1.1",
    b"GET /%ff?a HTTP/1.1", b"GET / HTTP/2.0", b"GET / HTTP/1.1 ",
]  # fmt: skip


def first_of(module: Any, data: bytes) -> object:
    """All that a program gets to know of the first request in these bytes, or the error."""
    parser = module.HTTPParser()
    parser.feed(data)
    try:
        request = parser.next_request()
    except module.ProtocolError as error:
        return str(error), error.status
    refused = request.refused and (str(request.refused), request.refused.status)
    path = refused or request.path
    kept = (request.keep_alive, request.expects, request.has_credentials, request.content_length)
    line = (request.method, path, request.query_string, request.version)
    return line, list(request.headers.items()), kept, parser.left, parser.body_is_over


def forgetful() -> Any:
    """The module as if it was imported for the first time: it remembers nothing."""
    spec = importlib.util.spec_from_file_location("brubeck_lite_anew", brubeck_lite.__file__)
    assert spec is not None and spec.loader is not None
    sys.modules[spec.name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@st.composite
def alike(draw: st.DrawFn) -> list[bytes]:
    """Heads that have much in common, also with those before."""
    fields = st.lists(st.sampled_from(ALIKE), max_size=4)
    heads = draw(st.lists(st.tuples(st.sampled_from(ALIKE_LINES), fields), min_size=1, max_size=8))
    return [head(line, *all) for line, own in heads for all in ([b"Host: a", *own], [*own, b"Host: a"])]


@settings(deadline=None, max_examples=100)
@given(alike())
def test_what_was_seen_before_is_judged_again(heads: list[bytes]) -> None:
    for data in heads * 3:
        compare(data + NEXT)


@settings(deadline=None, max_examples=15)
@given(alike())
def test_what_was_seen_before_changes_nothing(heads: list[bytes]) -> None:
    anew = forgetful()
    seen = [first_of(anew, data) for data in heads]
    assert [first_of(anew, data) for data in reversed(heads)] == seen[::-1]
    assert [first_of(brubeck_lite, data) for data in heads] == seen


def test_what_is_remembered_is_bounded() -> None:
    def send(numbers: range) -> None:
        parser = HTTPParser()
        for number in numbers:
            unique = b"%d%b" % (number, b"x" * 500)
            parser.feed(get(b"User-Agent: " + unique, b"Cookie: " + unique, line=b"GET /%b HTTP/1.1" % unique))
            parser.feed(get(b"X%b: x" % unique, b"Accept: " + unique, line=b"GET /?%b HTTP/1.0" % unique))
            assert parser.next_request() and parser.next_request()

    send(range(2_000))
    tracemalloc.start()
    try:
        send(range(2_000, 6_000))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


# Bounds

ENDLESS: dict[str, tuple[bytes, bytes, set[int | None]]] = {
    "method": (b"", b"A" * 1024, {400, 414, 431}),
    "target": (b"GET /", b"a" * 1024, {414, 431}),
    "version": (b"GET / HTTP/1.", b"1" * 1024, {400, 414, 431}),
    "name": (get()[:-2], b"A" * 1024, {400, 431}),
    "value": (get()[:-2] + b"X: ", b"a" * 1024, {431}),
    "blanks": (get()[:-2] + b"X:", b" " * 1024, {431}),
    "fields": (get()[:-2], b"X: y\r\n" * 10, {431}),
    "long fields": (get()[:-2], b"X: %b\r\n" % (b"y" * 1024), {431}),
    "dropped fields": (get()[:-2], b"X_Y: z\r\n" * 10, {431}),
    "chunk size": (chunked(b""), b"0" * 1024, {400}),
    "chunk extension": (chunked(b"1;"), b"a" * 1024, {400}),
    "chunk blanks": (chunked(b"1;"), b" " * 1024, {400}),
    "chunk extensions": (chunked(b""), b"1;%b\r\na\r\n" % (b"b" * 500), {400}),
    "short chunk extensions": (chunked(b""), b"1;b\r\na\r\n" * 100, {400}),
    "trailer": (chunked(b"0\r\nX: "), b"a" * 1024, {400, 431}),
    "trailers": (chunked(b"0\r\n"), b"X: y\r\n" * 100, {400, 431}),
}


def test_what_was_refused_stays_refused() -> None:
    for data in BROKEN:
        parser, seen = HTTPParser(), list[Seen]()
        for piece in (data, get(), b"", b"\r\n", NEXT):
            parser.feed(piece)
            with pytest.raises(ProtocolError):
                advance(parser, seen, 65536)
        assert sum(request.whole for request in seen) == data.startswith(NEXT)


def test_each_body_has_its_own_16_kib_of_chunk_extensions() -> None:
    long = b"1;%b\r\na\r\n" % (b"e" * 999)
    assert [request.body for request in read(chunked(long * 16 + LAST_CHUNK) * 3)[0]] == [b"a" * 16] * 3
    assert refusal(chunked(long * 17 + LAST_CHUNK)) == 400


@cases("what", ENDLESS)
def test_what_has_no_end_is_refused_after_64_kib_at_the_latest(what: str) -> None:
    beginning, more, statuses = ENDLESS[what]
    fed = 0

    def pieces() -> Iterator[bytes]:
        nonlocal fed
        for piece in chain([beginning], repeat(more, (1 << 20) // len(more))):
            fed += len(piece)
            yield piece

    _, status = receive(pieces())
    assert status in statuses
    assert fed <= 65536 + 2 * 1024


def test_what_waits_for_the_next_piece_is_little() -> None:
    data = b"x" * 65536
    chunk = b"10000;a\r\n%b\r\n" % data
    for beginning, piece in ((post(b"Content-Length: %d" % (1 << 30)), data), (chunked(b""), chunk)):
        parser = HTTPParser()
        parser.feed(beginning)
        assert parser.next_request() is not None
        tracemalloc.start()
        try:
            for _ in range(500):
                parser.feed(piece)
                while parser.next_piece():
                    pass
            assert tracemalloc.get_traced_memory()[1] < 1 << 20
        finally:
            tracemalloc.stop()


def test_many_small_things_in_one_piece_take_linear_time() -> None:
    assert one(chunked(b"1\r\na\r\n" * 100_000 + LAST_CHUNK)).body == b"a" * 100_000
    assert len(read(NEXT * 10_000)[0]) == 10_000
    assert len(read((b"\r\n" + chunked(LAST_CHUNK)) * 10_000)[0]) == 10_000


AROUND_LIMITS = {
    "methods": [get(line=b"X" * length + b" / HTTP/1.1") for length in (8_000, 9_300)],
    "targets": [get(line=b"GET /%b HTTP/1.1" % (b"a" * length)) for length in range(8_189, 8_194)],
    "request lines": [get(line=b"X" * length + b" /%b HTTP/1.1" % (b"a" * 8_191)) for length in (1_000, 1_100)],
    "heads": [get(b"X: " + b"y" * length) for length in range(65_490, 65_505)],
    "extensions": [chunked(b"1;%b\r\na\r\n" % (b"e" * length) + LAST_CHUNK) for length in range(1_018, 1_026)],
    "trailers": [chunked(b"0\r\nX: %b\r\n\r\n" % (b"y" * length)) for length in range(8_182, 8_195)],
}


@cases("what", AROUND_LIMITS)
def test_limits_are_the_same_however_it_is_cut(what: str) -> None:
    for data in AROUND_LIMITS[what]:
        whole = read(data)
        for cut in range(len(data) - 60, len(data)):
            assert receive([data[:cut], data[cut:]])[1] == whole[1], f"{len(data)} bytes, cut after {cut}"


# A body that has come whole


def test_a_body_that_has_come_whole_is_taken_at_once() -> None:
    parser = HTTPParser()
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    parser.feed(head + b"hello" + b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
    assert parser.next_request() is not None
    assert (parser.take_body(5), parser.body_is_over) == (b"hello", True)
    request = parser.next_request()
    assert request is not None and request.path == "/next"
    assert (parser.take_body(5), parser.body_is_over) == (b"", True)


@pytest.mark.parametrize(
    ("sent", "most"),
    [(b"Content-Length: 5\r\n\r\nhell", 5), (b"Content-Length: 5\r\n\r\nhello", 4),
     (b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 5)],
    ids=["not whole", "too large", "in chunks"],
)  # fmt: skip
def test_every_other_body_comes_in_pieces(sent: bytes, most: int) -> None:
    parser = HTTPParser()
    parser.feed(b"POST / HTTP/1.1\r\nHost: x\r\n" + sent)
    assert parser.next_request() is not None
    assert (parser.take_body(most), parser.body_is_over) == (None, False)
    assert b"hello".startswith(parser.next_piece() or b"-")
