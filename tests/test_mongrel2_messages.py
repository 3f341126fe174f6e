"""Room Mongrel2: messages become requests, answers become messages. Everything here is a pure function of bytes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import SENDER

import brubeck_lite
from brubeck_lite import (
    Brubeck,
    MessageHandler,
    ProtocolError,
    Request,
    Response,
    format_extended_reply,
    format_netstring,
    format_reply,
    format_tnetstring,
    parse_mongrel2,
    parse_netstring,
    parse_tnetstring,
)

Fields = Mapping[bytes, "bytes | list[bytes]"]
thorough = settings(deadline=None, max_examples=300)

# Messages as Mongrel2 writes them


def as_json(fields: Fields) -> bytes:
    """Headers in Mongrel2's JSON: only `"` and `\\` are escaped, every other byte stays as it came."""

    def text(value: bytes | list[bytes]) -> bytes:
        if isinstance(value, list):
            return b"[%b]" % b",".join(map(text, value))
        return b'"%b"' % value.replace(b"\\", b"\\\\").replace(b'"', b'\\"')

    return format_netstring(b"{%b}" % b",".join(text(name) + b":" + text(value) for name, value in fields.items()))


def as_tnetstring(fields: Fields) -> bytes:
    return format_tnetstring(dict(fields))


Encode = Callable[[Fields], bytes]
both_encodings = pytest.mark.parametrize("encode", [as_json, as_tnetstring])


def build(encode: Encode, fields: Fields, body: bytes = b"", path: bytes = b"/", conn_id: int = 7) -> bytes:
    """A message: the client's fields first, then Mongrel2's own, which `fields` may replace."""
    own = {b"PATH": path, b"METHOD": b"GET", b"VERSION": b"HTTP/1.1", b"URI": path, b"REMOTE_ADDR": b"192.0.2.1"}
    client = {name: value for name, value in fields.items() if not name.isupper()}
    headers = encode({**client, **own, **fields})
    return b"%b %d %b %b%b" % (SENDER.encode(), conn_id, path, headers, format_netstring(body))


# Netstrings and tnetstrings


@given(st.binary(), st.binary())
def test_a_netstring_comes_back_with_what_follows(value: bytes, rest: bytes) -> None:
    assert parse_netstring(format_netstring(value) + rest) == (value, rest)


@pytest.mark.parametrize(
    "data",
    [b"", b":", b"5", b"5:", b"5:abc,", b"3:abc", b"3:abc;", b"+3:abc,", b"-1:,", b"03:abc,", b" 3:abc,", b"3 :abc,",
     b"1_0:0123456789,", b"0x3:abc,", b"\xb3:abc,", b"99999999999999999999:a,", b"9" * 100_000 + b":a,"],
)  # fmt: skip
def test_what_is_no_netstring_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_netstring(data)


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.binary()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.binary(), inner), max_leaves=20)


@thorough
@given(values, st.binary())
def test_a_tnetstring_comes_back_with_its_types_and_what_follows(value: Any, rest: bytes) -> None:
    back, after = parse_tnetstring(format_tnetstring(value) + rest)
    assert (repr(back), after) == (repr(value), rest)


@pytest.mark.parametrize(
    ("data", "value"),
    [(b"0:~", None), (b"4:true!", True), (b"5:false!", False), (b"2:-7#", -7), (b"3:1.5^", 1.5), (b"1:2^", 2.0),
     (b"0:,", b""), (b"0:]", []), (b"0:}", {}), (b"8:1:a,1:1#}", {b"a": 1}),
     (b"16:6:METHOD,4:JSON,}", {b"METHOD": b"JSON"})],
)  # fmt: skip
def test_each_type_of_a_tnetstring_has_its_character(data: bytes, value: object) -> None:
    assert repr(parse_tnetstring(data)[0]) == repr(value)


@pytest.mark.parametrize(
    "data",
    [b"", b"1:", b"1:a", b"1:a#", b"0:#", b"2:+1#", b"3:1_0#", b"2: 1#", b"1:a^", b"0:^", b"3:yes!", b"1:a~", b"1:a]",
     b"4:1:a,}", b"8:1:1#1:a,}", b"9:1:a,1:b,x]", b"3:9:a]", b"3:abc?", b"5000:" + b"9" * 5000 + b"#"],
)  # fmt: skip
def test_what_is_no_tnetstring_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_tnetstring(data)


@pytest.mark.parametrize("end", [b"]", b"}"])
def test_a_tnetstring_nested_10000_deep_is_a_protocol_error(end: bytes) -> None:
    data = b""
    for _ in range(10_000):
        data = b"%d:%b%b" % (len(data), data, end)
    with pytest.raises(ProtocolError):
        parse_tnetstring(data)


def test_a_million_items_are_read_in_linear_time() -> None:
    items = b"1:1#" * 1_000_000
    assert parse_tnetstring(b"%d:%b]" % (len(items), items))[0] == [1] * 1_000_000


# Requests

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1).map("x-h{}".format)
field_values = st.text(st.characters(min_codepoint=1, max_codepoint=255, exclude_characters="\r\n"))
client_fields = st.dictionaries(names, field_values | st.lists(field_values, min_size=2, max_size=4))
paths = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=[*map(chr, range(32)), "\x7f"]))


def latin1(value: str | list[str]) -> bytes | list[bytes]:
    return value.encode("latin-1") if isinstance(value, str) else [item.encode("latin-1") for item in value]


@both_encodings
@thorough
@given(client_fields, st.binary(), paths, st.sampled_from(["GET", "POST", "REPORT"]), st.integers(0, 10**9))
def test_a_request_arrives_as_it_was_sent(
    encode: Encode, fields: dict[str, Any], body: bytes, path: str, method: str, conn_id: int
) -> None:
    own = {b"METHOD": method.encode(), b"VERSION": b"HTTP/1.0", b"QUERY": b"a=%20&b", b"URL_SCHEME": b"https"}
    sent = {name.encode(): latin1(value) for name, value in fields.items()} | own
    request = parse_mongrel2(build(encode, sent, body, b"/" + quote(path).encode(), conn_id))
    assert (request.sender, request.conn_id, request.body) == (SENDER, str(conn_id), body)
    assert (request.method, request.path, request.version) == (method, "/" + path, "HTTP/1.0")
    assert (request.query_string, request.scheme, request.remote_addr) == ("a=%20&b", "https", "192.0.2.1")
    texts = {n: [v] if isinstance(v, str) else v for n, v in fields.items()}
    assert dict(request.headers) == {n: ", ".join(part.strip(" \t") for part in parts) for n, parts in texts.items()}


@both_encodings
def test_a_repeated_header_is_joined_by_a_comma_and_cookies_by_a_semicolon(encode: Encode) -> None:
    request = parse_mongrel2(build(encode, {b"x-dup": [b"1", b"2"], b"cookie": [b"a=1", b"b=2"]}))
    assert (request.headers["X-Dup"], request.headers["Cookie"]) == ("1, 2", "a=1; b=2")
    assert dict(request.cookies) == {"a": "1", "b": "2"}


@both_encodings
def test_blanks_around_a_value_are_no_part_of_it(encode: Encode) -> None:
    sent = {b"x-a": b"\ta b \t", b"x-b": [b"1 ", b" 2\t"], b"content-length": b"3 ", b"x-c": b" "}
    request = parse_mongrel2(build(encode, sent, b"abc"))
    assert dict(request.headers) == {"x-a": "a b", "x-b": "1, 2", "content-length": "3", "x-c": ""}
    assert (request.refused, request.body) == (None, b"abc")


@both_encodings
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, None),
        ({b"content-length": b"0"}, None),
        ({b"content-length": b"0 "}, None),
        ({b"content-length": b"5"}, 400),
        ({b"content-length": b""}, 400),
        ({b"content-length": [b"0", b"5"]}, 400),
        ({b"transfer-encoding": b"chunked"}, 400),
        ({b"content-length": b"0", b"transfer-encoding": b"chunked"}, 400),
        ({b"content-length": b"0", b"x-mongrel2-upload-start": b"/tmp/x"}, 400),
    ],
)  # fmt: skip
def test_a_handshake_may_say_that_it_has_no_body(
    encode: Encode, fields: dict[bytes, Any], status: int | None
) -> None:
    request = parse_mongrel2(build(encode, {b"METHOD": b"WEBSOCKET_HANDSHAKE", **fields}, b"accept"))
    assert getattr(request.refused, "status", None) == status


@both_encodings
def test_names_in_upper_case_are_mongrel2s_and_a_client_cannot_forge_them(encode: Encode) -> None:
    forged = {b"method": b"JSON", b"version": b"HTTP/9", b"remote_addr": b"6.6.6.6", b"path": b"@*"}
    request = parse_mongrel2(build(encode, forged))
    assert (request.method, request.version, request.remote_addr, request.path) == ("GET", "HTTP/1.1", "192.0.2.1", "/")
    assert dict(request.headers) == {"method": "JSON", "version": "HTTP/9", "path": "@*"}


@both_encodings
def test_headers_with_an_underscore_are_dropped(encode: Encode) -> None:
    assert dict(parse_mongrel2(build(encode, {b"x_user": b"root", b"x-user": b"me"})).headers) == {"x-user": "me"}


@both_encodings
@pytest.mark.parametrize("value", [b"caf\xe9", b"\xff\xfe", b"a\tb", b"\x01\x1f\x7f", b'"', b"\\", b"\\u0041", b'\\"'])
def test_raw_bytes_in_a_header_are_latin_1(encode: Encode, value: bytes) -> None:
    assert parse_mongrel2(build(encode, {b"x-odd": value})).headers["x-odd"] == value.decode("latin-1")


@pytest.mark.parametrize(
    ("path", "decoded"),
    [(b"/a%20b", "/a b"), (b"/%C3%A9", "/é"), ("/é".encode(), "/é"), (b"/%2525", "/%25"), (b"/a%2Fb", "/a/b"),
     (b"/%zz", "/%zz"), (b"/100%", "/100%"), (b"/a+b", "/a+b")],
)  # fmt: skip
def test_a_path_is_percent_decoded_once(path: bytes, decoded: str) -> None:
    assert parse_mongrel2(build(as_json, {}, path=path)).path == decoded


def taken(message: bytes) -> Response:
    """The answer of an application that takes whatever comes."""
    return Brubeck(handler_tuples=[("", lambda request: "taken")]).handle(parse_mongrel2(message))


@pytest.mark.parametrize(
    "path",
    [b"/%ff", b"/\xff", b"/%ed%a0%80", b"/%00", b"/%c0%af", b"/a%0A", b"/\x7f", b"no-slash", b"@chat"],
)
def test_a_path_that_is_none_is_answered_with_400(path: bytes) -> None:
    assert taken(build(as_json, {}, path=path)).status == 400


@pytest.mark.parametrize("path", [b"//", b"//host/path", b"/%2Fhost/path"])
def test_a_path_that_begins_with_two_slashes_is_redirected_and_not_taken(path: bytes) -> None:
    answer = taken(build(as_json, {}, path=path))
    assert (answer.status, answer.headers["Location"]) == (308, "/host/path" if b"host" in path else "/")


@both_encodings
@pytest.mark.parametrize("start", [b"/etc/hostname", b"/tmp/other", None])
def test_upload_headers_are_refused_where_no_folder_is_configured(encode: Encode, start: bytes | None) -> None:
    upload = {b"x-mongrel2-upload-done": b"/etc/hostname", b"content-length": b"5", b"METHOD": b"POST"}
    fields = upload if start is None else {**upload, b"x-mongrel2-upload-start": start}
    assert 400 <= taken(build(encode, fields)).status < 500


# As the real one writes it: its own fields come behind those of the client, which are not parsed before somebody looks

USUAL = (b'{"PATH":"/x","x-a":"%b","host":"x.org"%b,"METHOD":"%b","VERSION":"HTTP/1.1","URI":"/x?%b","QUERY":"%b",'
         b'"PATTERN":"/","URL_SCHEME":"https","REMOTE_ADDR":"192.0.2.1"}')  # fmt: skip


@pytest.mark.parametrize("method", [b"GET", b"REPORT", b"JSON"])
@pytest.mark.parametrize("more", [b"", b',"cookie":"a=1"', b',"connection":"keep-alive"', b',"content-length":"3"'])
@pytest.mark.parametrize("value", [b"", b"caf\xe9", b"\t", rb"\"METHOD\":\"PUT\",\"VERSION\":\"HTTP/1.1\",\\", b"@*"])
def test_a_usual_request_is_what_its_fields_say(method: bytes, more: bytes, value: bytes) -> None:
    headers = USUAL % (value, more, method, value, value)
    request = parse_mongrel2(b"%b 7 /x %b%b" % (SENDER.encode(), format_netstring(headers), format_netstring(b"abc")))
    assert (request.method, request.version, request.is_message) == (method.decode(), "HTTP/1.1", False)
    assert (request.scheme, request.remote_addr, request.path, request.body) == ("https", "192.0.2.1", "/x", b"abc")
    text = value.decode("latin-1").replace('\\"', '"').replace("\\\\", "\\").strip("\t")
    assert (request.headers["x-a"], request.query_string, request.headers["host"]) == (text, text, "x.org")
    assert request.keep_alive and request.refused is None


@pytest.mark.parametrize("coding", [b"chunked", b"gzip"])
def test_a_usual_request_with_another_body_than_it_says_is_refused(coding: bytes) -> None:
    headers = USUAL % (b"", b',"transfer-encoding":"%b"' % coding, b"GET", b"", b"")
    request = parse_mongrel2(b"%b 7 /x %b0:," % (SENDER.encode(), format_netstring(headers)))
    assert getattr(request.refused, "status", None) == 400


# Messages about connections, and message sockets


def test_a_disconnect_is_a_message_about_a_connection() -> None:
    request = parse_mongrel2(b'%b 7 @* 16:6:METHOD,4:JSON,}21:{"type":"disconnect"},' % SENDER.encode())
    assert (request.method, request.path, request.conn_id) == ("JSON", "@*", "7")
    assert request.body == b'{"type":"disconnect"}'


class Chat(MessageHandler):
    def message(self) -> bytes:
        return self.request.method.encode() + b" " + self.request.body

    def get(self) -> str:
        return "a page"


def chat(message: bytes) -> Response:
    """The answer of an application whose "/" is such a class."""
    app = Brubeck()
    app.route("/")(Chat)
    return app.handle(parse_mongrel2(message))


@both_encodings
@pytest.mark.parametrize("method", [b"JSON", b"XML", b"MESSAGE", b"get", b"", b"G T", b"\xff", b"WEBSOCKET"])
def test_a_request_by_http_with_an_odd_method_is_405(encode: Encode, method: bytes) -> None:
    assert chat(build(encode, {b"METHOD": method})).status == 405


# What is no message

FIELDS = {b"host": b"x.org", b"cookie": [b"a=1", b'b="\\303"'], b"content-type": b"application/json", b"QUERY": b"a=1"}
VALID = [build(encode, FIELDS, b'{"a": 1}', b"/folder%20a") for encode in (as_json, as_tnetstring)]


@pytest.mark.parametrize("message", VALID)
def test_a_message_cut_anywhere_is_a_protocol_error(message: bytes) -> None:
    for end in range(len(message)):
        with pytest.raises(ProtocolError):
            parse_mongrel2(message[:end])


@pytest.mark.parametrize(
    "message",
    [b"   ", b"s 1 / ", b"s x / 2:{},0:,", b"s -1 / 2:{},0:,", b" 1 / 2:{},0:,", b"s 1  2:{},0:,", b"\xff 1 / 2:{},0:,",
     b"s 1 / 2:[],0:,", b"s 1 / 2:{},0:,more", b"s 1 / 2:{},0:}", b"s 1 / 2:{};0:,", b's 1 / 7:{"a":1},0:,',
     b"s  1 / 2:{},0:,", b's 1 / 13:{"a":{"b":1}},0:,', b"s 1 / 4:null,0:,", b"s 1 / 8:1:a,1:1#}0:,",
     b"s 1 / 4:1:a,}0:,", b"s 1 / 0:]0:,", *(b"s 1 / %b0:," % format_netstring(nested * 10_000) for nested in (b"[",
     b'{"a":', b'{"a":['))],
    ids=lambda message: repr(message[:30]),
)  # fmt: skip
def test_what_is_no_message_is_a_protocol_error(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_mongrel2(message)


def look(request: Request) -> bytes:
    """A handler that looks at everything a request has."""
    names = ["query", "headers", "cookies", "host", "url", "scheme", "remote_addr", "version", "arguments", "json"]
    return repr([request.get_argument("a"), *(getattr(request, name) for name in names)]).encode("ascii", "replace")


looking = Brubeck()
looking.route("/folder/", ["GET", "POST"])(look)
looking.route(re.compile(""), ["GET", "POST"])(look)


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """Valid messages with bytes flipped, cut, inserted or duplicated."""
    message = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(message)))
        end = min(len(message), start + draw(st.integers(0, 8)))
        flipped = bytes(byte ^ draw(st.integers(1, 255)) for byte in message[start:end])
        message[start:end] = draw(st.sampled_from([flipped, b"", message[start:end] * 2]) | st.binary(max_size=8))
    return bytes(message)


@st.composite
def odd_headers(draw: st.DrawFn) -> bytes:
    """Messages whose frame is right and whose headers are nearly so."""
    headers = bytearray(b'{"METHOD":"POST","VERSION":"HTTP/1.1","QUERY":"a=1","host":"x"}')
    odd = st.binary(max_size=6) | st.sampled_from([b"\\ud800", b"\\u20ac", b'"', b'["a"]', b"{}", b"null", b"1e999"])
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(headers)))
        headers[start : start + draw(st.integers(0, 3))] = draw(odd)
    return b"s 1 /folder %b%b" % (format_netstring(bytes(headers)), format_netstring(draw(st.binary())))


@settings(deadline=None, max_examples=1500)
@given(mutations() | odd_headers() | st.binary())
def test_bytes_are_a_request_that_is_answered_or_a_protocol_error(message: bytes) -> None:
    try:
        request = parse_mongrel2(message)
    except ProtocolError:
        return
    response = looking.handle(request)
    assert isinstance(response, Response) and response.status != 500
    assert format_reply(request.sender, [request.conn_id], b"")


# Replies

conn_ids = st.lists(st.integers(0, 10**9), min_size=1, max_size=300)


def read_reply(message: bytes) -> tuple[bytes, list[bytes], bytes]:
    """A reply as Mongrel2 reads it: the sender, the ids, the payload."""
    sender, rest = message.split(b" ", 1)
    ids, rest = parse_netstring(rest)
    assert rest[:1] == b" "
    return sender, ids.split(b" "), rest[1:]


@thorough
@given(conn_ids, st.binary())
def test_a_reply_names_every_connection_once_and_at_most_128_in_each_message(ids: list[int], payload: bytes) -> None:
    replies = [read_reply(message) for message in format_reply(SENDER, ids, payload)]
    assert [int(conn_id) for _, part, _ in replies for conn_id in part] == ids
    assert {(sender, content) for sender, _, content in replies} == {(SENDER.encode(), payload)}
    assert (max(len(part) for _, part, _ in replies) <= 128, len(replies)) == (True, (len(ids) + 127) // 128)


@pytest.mark.parametrize(("ids", "reply"), [(["1", b"2", 3], [b"s 5:1 2 3, x"]), ([1], [b"s 1:1, x"]), ([], [])])
def test_a_reply_takes_ids_as_text_bytes_and_numbers(ids: list[Any], reply: list[bytes]) -> None:
    assert format_reply("s", ids, b"x") == format_reply(b"s", ids, b"x") == reply


@given(conn_ids, st.sampled_from(["keep-alive", "credits", "cancel"]), st.dictionaries(st.binary(), st.integers()))
def test_an_extended_reply_has_a_name_and_its_arguments_for_payload(ids: list[int], name: str, arguments: Any) -> None:
    replies = [read_reply(message) for message in format_extended_reply(SENDER, ids, "ctl", {name: arguments})]
    assert [int(conn_id) for _, part, _ in replies for conn_id in part[1:]] == ids
    for _, part, payload in replies:
        assert part[0] == b"X" and len(part) <= 129
        assert parse_tnetstring(payload) == ([b"ctl", {name.encode(): arguments}], b"")


@pytest.mark.parametrize(
    ("handles", "expected"),
    [(False, (400, b"400 Bad Request\nthe headers are neither JSON nor a tnetstring of texts\n")),
     (True, (500, b"500 Internal Server Error\n"))],
    ids=["no error handler", "an error handler that reads them too"],
)  # fmt: skip
def test_a_message_whose_fields_cannot_be_read_gets_one_plain_answer(
    handles: bool, expected: tuple[int, bytes], caplog: Any
) -> None:
    app = Brubeck()
    app.get("/")(lambda request: request.headers["accept"])
    if handles:
        app.error(400)(lambda request, error: request.headers["accept"])
    fields = format_netstring(b'{"PATH":"/",broken,"METHOD":"GET","VERSION":"HTTP/1.1","URI":"/","URL_SCHEME":"http",'
                              b'"REMOTE_ADDR":"127.0.0.1"}')  # fmt: skip
    response = app.handle(brubeck_lite.read_mongrel2(b"sender 1 / %b0:," % fields))
    assert (response.status, response.body) == expected
    assert len(caplog.records) == handles
