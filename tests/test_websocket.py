"""WebSockets: the frames (Autobahn's cases, by hand), the handshake, and conversations over the wire, through the
embedded server and through a real Mongrel2."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import Mongrel2, behind_http, behind_mongrel2, behind_wsgi, output, settled, wait_for
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.sync.client import ClientConnection, connect

from brubeck_lite import (
    Brubeck,
    Conversation,
    ConversationState,
    FrameReader,
    HTTPError,
    HTTPParser,
    HTTPRequest,
    ProtocolError,
    check_handshake,
    decode_text,
    format_close,
    format_frame,
    format_message,
    parse_close,
    unmask,
)

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = b"\x37\xfa\x21\x3d"


def frame(opcode: int, payload: bytes = b"", fin: bool = True, reserved: int = 0, masked: bool = True) -> bytes:
    """A frame as a client sends it, right or wrong."""
    size, first = len(payload), fin << 7 | reserved << 4 | opcode
    bit = masked << 7
    if size < 126:
        head = bytes([first, bit | size])
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    return head + (KEY + bytes(octet ^ KEY[at % 4] for at, octet in enumerate(payload)) if masked else payload)


def fragments(opcode: int, *payloads: bytes) -> bytes:
    """One message in as many frames."""
    last = len(payloads) - 1
    return b"".join(frame(0 if at else opcode, piece, fin=at == last) for at, piece in enumerate(payloads))


def read(*pieces: bytes, limit: int = 1 << 20) -> list[Any]:
    """What a reader makes of these bytes: (opcode, value) for each message, the code to close with for an error."""
    reader, seen = FrameReader(limit), []
    try:
        for piece in pieces:
            reader.feed(piece)
            while (message := reader.next_message()) is not None:
                opcode, payload = message
                value: Any = payload
                if opcode == TEXT:
                    value = decode_text(payload)
                elif opcode == CLOSE:
                    value = parse_close(payload)
                seen.append((opcode, value))
    except ProtocolError as error:
        seen.append(error.status)
    return seen


def check(data: bytes, expected: list[Any]) -> None:
    """These bytes are read as expected: in one piece, cut in two at every place, and octet by octet."""
    assert read(data) == expected
    for at in range(1, len(data)) if len(data) < 500 else ():
        assert read(data[:at], data[at:]) == expected
    if len(data) < 100_000:
        assert read(*(data[at : at + 1] for at in range(len(data)))) == expected


# Framing (Autobahn 1 to 4)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65535, 65536, 1 << 20])
def test_messages_of_every_size_are_read(size: int) -> None:
    text = "*" * size
    check(frame(TEXT, text.encode()), [(TEXT, text)])
    check(frame(BINARY, b"\xfe" * size), [(BINARY, b"\xfe" * size)])


PINGS = {
    "2.1 empty": (frame(PING), [(PING, b"")]),
    "2.2 text": (frame(PING, b"Hello, world!"), [(PING, b"Hello, world!")]),
    "2.3 binary": (frame(PING, b"\x00\xff\xfe\xfd"), [(PING, b"\x00\xff\xfe\xfd")]),
    "2.4 125 octets": (frame(PING, b"\xfe" * 125), [(PING, b"\xfe" * 125)]),
    "2.5 126 octets": (frame(PING, b"\xfe" * 126), [1002]),
    "2.7 a pong that nobody asked for": (frame(PONG), [(PONG, b"")]),
    "2.8 the same with a payload": (frame(PONG, b"x"), [(PONG, b"x")]),
    "2.9 pong, then ping": (frame(PONG, b"x") + frame(PING, b"y"), [(PONG, b"x"), (PING, b"y")]),
    "2.10 ten pings": (b"".join(frame(PING, b"%d" % n) for n in range(10)), [(PING, b"%d" % n) for n in range(10)]),
}


@pytest.mark.parametrize("case", PINGS)
def test_pings_and_pongs(case: str) -> None:
    check(*PINGS[case])


@pytest.mark.parametrize("opcode", [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG])
@pytest.mark.parametrize("reserved", range(1, 8))
def test_reserved_bits_are_an_error(opcode: int, reserved: int) -> None:
    check(frame(TEXT, b"a") + frame(opcode, b"", reserved=reserved) + frame(PING), [(TEXT, "a"), 1002])


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
@pytest.mark.parametrize("payload", [b"", b"unknown"])
def test_reserved_opcodes_are_an_error(opcode: int, payload: bytes) -> None:
    check(frame(TEXT, b"a") + frame(opcode, payload) + frame(PING), [(TEXT, "a"), 1002])


@pytest.mark.parametrize("opcode", [TEXT, BINARY, CLOSE, PING, PONG])
def test_a_frame_that_is_not_masked_is_an_error(opcode: int) -> None:
    check(frame(opcode, b"\x03\xe8", masked=False), [1002])


def test_a_wrong_frame_is_an_error_before_its_payload_is_there() -> None:
    for wrong in (b"\x83\x80", b"\xc1\xff", b"\x81\x05", b"\x09\x80", b"\x89\xfe", b"\x80\x80"):
        assert read(wrong) == [1002]
    assert read(b"\x82\xff\x00\x00\x00\x00\x00\x10\x00\x01" + KEY) == [1009]
    assert read(b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff" + KEY)[0] in (1002, 1009)


# Fragmentation (Autobahn 5)

MANY = [b"fragment%d" % number for number in range(1, 6)]
FRAGMENTED = {
    "5.1 a ping in two": (frame(PING, b"f1", fin=False) + frame(0, b"f2"), [1002]),
    "5.2 a pong in two": (frame(PONG, b"f1", fin=False) + frame(0, b"f2"), [1002]),
    "5.3 a text in two": (fragments(TEXT, b"f1", b"f2"), [(TEXT, "f1f2")]),
    "5.6 a ping in between": (
        frame(TEXT, b"f1", fin=False) + frame(PING, b"p") + frame(0, b"f2"),
        [(PING, b"p"), (TEXT, "f1f2")],
    ),
    "5.9 a continuation of nothing": (frame(0, b"x") + frame(TEXT, b"y"), [1002]),
    "5.12 the same, to be continued": (frame(0, b"x", fin=False) + frame(TEXT, b"y"), [1002]),
    "5.15 a continuation after the end": (
        fragments(TEXT, b"f1", b"f2") + frame(0, b"f3", fin=False) + frame(TEXT, b"y"),
        [(TEXT, "f1f2"), 1002],
    ),
    "5.16 continuation, then text, over and over": (
        (frame(0, b"f1", fin=False) + frame(TEXT, b"f2", fin=False) + frame(0, b"f3")) * 2,
        [1002],
    ),
    "5.18 a text within a text": (frame(TEXT, b"f1", fin=False) + frame(TEXT, b"f2"), [1002]),
    "5.19 pings among five fragments": (
        b"".join(
            frame(0 if n else TEXT, piece, fin=n == 4) + (frame(PING, b"p") if n in (1, 3) else b"")
            for n, piece in enumerate(MANY)
        ),
        [(PING, b"p"), (PING, b"p"), (TEXT, "fragment1fragment2fragment3fragment4fragment5")],
    ),
    "6.1 empty fragments": (fragments(TEXT, b"", b"", b""), [(TEXT, "")]),
    "6.1 one that is not empty": (fragments(TEXT, b"", b"middle", b""), [(TEXT, "middle")]),
    "binary": (fragments(BINARY, b"\x00", b"\xff", b""), [(BINARY, b"\x00\xff")]),
    "a close in between": (
        frame(TEXT, b"f1", fin=False) + frame(CLOSE, b"\x03\xe8"),
        [(CLOSE, (1000, ""))],
    ),
    "one message after another": (
        fragments(TEXT, b"a", b"b") + frame(BINARY, b"c") + fragments(BINARY, b"d", b"e"),
        [(TEXT, "ab"), (BINARY, b"c"), (BINARY, b"de")],
    ),
}


@pytest.mark.parametrize("case", FRAGMENTED)
def test_fragmented_messages(case: str) -> None:
    check(*FRAGMENTED[case])


def test_the_limit_is_for_the_message_and_not_for_the_fragment() -> None:
    assert read(fragments(BINARY, b"x" * 60, b"x" * 40), limit=100) == [(BINARY, b"x" * 100)]
    assert read(fragments(BINARY, b"x" * 60, b"x" * 41), limit=100) == [1009]
    assert read(frame(BINARY, b"x" * 100) * 2, limit=100) == [(BINARY, b"x" * 100)] * 2
    assert read(frame(TEXT, b"x", fin=False) + frame(PING, b"x" * 100), limit=10) == [(PING, b"x" * 100)]


def test_empty_fragments_without_end_take_no_memory() -> None:
    import tracemalloc

    reader, empty = FrameReader(1000), frame(0, b"", fin=False)
    reader.feed(frame(TEXT, b"", fin=False))
    assert reader.next_message() is None
    tracemalloc.start()
    try:
        for _ in range(50_000):
            reader.feed(empty)
            assert reader.next_message() is None
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()


# UTF-8 and close (Autobahn 6 and 7)

VALID = {
    "6.2 mixed": "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    "6.5 Greek": "κόσμε".encode(),
    "6.7 first of each length": b"\x00\xc2\x80\xe0\xa0\x80\xf0\x90\x80\x80",
    "6.9 last of each length": b"\x7f\xdf\xbf\xef\xbf\xbf\xf4\x8f\xbf\xbf",
    "6.11 beside the surrogates": b"\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbd",
    "6.22 no characters": b"\xef\xbf\xbe\xef\xbf\xbf\xf0\x9f\xbf\xbe\xf4\x8f\xbf\xbe",
    "6.23 replacement": b"\xef\xbf\xbd",
}
INVALID = {
    "6.3 a surrogate in Greek": b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    "6.4 beyond the last": b"\xce\xba\xe1\xbd\xb9\xf4\x90\x80\x80edited",
    "6.8 five octets": b"\xf8\x88\x80\x80\x80",
    "6.8 six octets": b"\xfc\x84\x80\x80\x80\x80",
    "6.10 the last of four": b"\xf7\xbf\xbf\xbf",
    "6.10 the last of five": b"\xfb\xbf\xbf\xbf\xbf",
    "6.10 the last of six": b"\xfd\xbf\xbf\xbf\xbf\xbf",
    "6.11 one more": b"\xf4\x90\x80\x80",
    "6.12 the first continuation": b"\x80",
    "6.12 the last continuation": b"\xbf",
    "6.12 many continuations": bytes(range(0x80, 0xC0)),
    "6.13 lonely beginnings of two": b"\xc0 \xc1 \xdf ",
    "6.13 lonely beginnings of three": b"\xe0 \xef ",
    "6.13 lonely beginnings of four": b"\xf0 \xf7 ",
    "6.14 last octet missing, of two": b"\xdf",
    "6.14 last octet missing, of three": b"\xef\xbf",
    "6.14 last octet missing, of four": b"\xf4\x8f\xbf",
    "6.15 all of these": b"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80",
    "6.16 impossible": b"\xfe",
    "6.16 impossible too": b"\xff",
    "6.17 a long slash": b"\xc0\xaf",
    "6.17 a longer slash": b"\xe0\x80\xaf",
    "6.17 the longest": b"\xf0\x80\x80\xaf",
    "6.18 too long for its value": b"\xc1\xbf\xe0\x9f\xbf\xf0\x8f\xbf\xbf",
    "6.19 a long NUL": b"\xc0\x80",
    "6.20 a surrogate": b"\xed\xa0\x80",
    "6.20 the last surrogate": b"\xed\xbf\xbf",
    "6.21 a pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
}


@pytest.mark.parametrize("case", VALID)
def test_text_is_utf_8_wherever_it_is_cut(case: str) -> None:
    octets = VALID[case]
    expected = [(TEXT, octets.decode())]
    check(frame(TEXT, octets), expected)
    check(fragments(TEXT, *(octets[at : at + 1] for at in range(len(octets)))), expected)
    for at in range(len(octets) + 1):
        assert read(fragments(TEXT, octets[:at], octets[at:])) == expected


@pytest.mark.parametrize("case", INVALID)
def test_text_that_is_no_utf_8_is_an_error(case: str) -> None:
    octets = INVALID[case]
    check(frame(TEXT, octets), [1007])
    check(fragments(TEXT, octets[:1], octets[1:]) + frame(PING), [1007])
    check(frame(BINARY, octets), [(BINARY, octets)])
    check(frame(CLOSE, b"\x03\xe8" + octets), [1007])


def test_every_beginning_of_a_text_is_whole_or_an_error() -> None:
    octets = "Hello-µ@ßöäüàá-UTF-8!!".encode()
    for size in range(len(octets)):  # 6.6
        seen = read(frame(TEXT, octets[:size]))
        assert seen == ([1007] if octets[size] & 0xC0 == 0x80 else [(TEXT, octets[:size].decode())])


CLOSES = {
    "7.3.1 empty": (b"", (1005, "")),
    "7.3.2 one octet": (b"\x03", 1002),
    "7.3.3 a code": (b"\x03\xe8", (1000, "")),
    "7.3.4 a reason": (b"\x03\xe8Hello, world!", (1000, "Hello, world!")),
    "7.3.5 the longest reason": (b"\x03\xe8" + b"*" * 123, (1000, "*" * 123)),
    "7.3.6 one longer": (b"\x03\xe8" + b"*" * 124, 1002),
    "7.5.1 no UTF-8": (b"\x03\xe8\xce\xba\xed\xa0\x80", 1007),
}


@pytest.mark.parametrize("case", CLOSES)
def test_what_a_close_holds(case: str) -> None:
    payload, expected = CLOSES[case]
    check(frame(CLOSE, payload), [(CLOSE, expected) if isinstance(expected, tuple) else expected])


@pytest.mark.parametrize("code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999])
def test_codes_that_close(code: int) -> None:
    check(frame(CLOSE, code.to_bytes(2, "big")), [(CLOSE, (code, ""))])
    assert format_close(code, "é") == b"\x88\x04" + code.to_bytes(2, "big") + "é".encode()


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_codes_that_are_not_for_the_wire(code: int) -> None:
    check(frame(CLOSE, code.to_bytes(2, "big")), [1002])
    check(frame(CLOSE, code.to_bytes(2, "big") + b"reason"), [1002])
    with pytest.raises(ValueError, match="a code to close with"):
        format_close(code)


def test_a_reason_that_does_not_fit_is_a_value_error() -> None:
    assert len(format_close(1000, "é" * 61)) == 2 + 2 + 122
    with pytest.raises(ValueError, match="at most 123 bytes"):
        format_close(1000, "é" * 62)


# The conversation: whose turn it is between opening and end (RFC 6455, 5.5.1 and 7.1)

OPEN, CLOSE_RECEIVED, CLOSE_SENT, CLOSED = ConversationState
LEAVES = (CLOSE, b"\x03\xe9off")  # 1001 and a reason
LEFT, BY_US, VANISHED = (1001, "off"), (4000, "us"), (1006, "")
Step = tuple[str, tuple[Any, ...], Any]
HEAR_CLOSE: Step = ("hear", LEAVES, (None, b""))
CLOSE_FIRST: Step = ("close", (4000, "us"), format_close(4000, "us"))
ANSWER: Step = ("answer_close", (), b"\x88\x02\x03\xe9")
END: Step = ("end", (), None)
CONVERSATIONS: dict[str, tuple[list[Step], Any, Any]] = {
    "nothing has been said": ([], OPEN, None),
    "messages": ([("hear", (TEXT, b"\xc3\xa9"), ("é", b"")), ("hear", (BINARY, b"x"), (b"x", b""))], OPEN, None),
    "a ping": ([("hear", (PING, b"x"), (None, b"\x8a\x01x"))], OPEN, None),
    "a pong": ([("hear", (PONG, b""), (None, b""))], OPEN, None),
    "nobody has left, so nothing is to be answered": ([("answer_close", (), b"")], OPEN, None),
    "the client closes": ([HEAR_CLOSE], CLOSE_RECEIVED, None),
    "and again": ([HEAR_CLOSE, ("hear", (CLOSE, b""), (None, b"")), ANSWER], CLOSED, LEFT),
    "and is answered, once": ([HEAR_CLOSE, ANSWER, ("answer_close", (), b""), ("close", (1000,), b"")], CLOSED, LEFT),
    "without a code": ([("hear", (CLOSE, b""), (None, b"")), ("answer_close", (), b"\x88\x00")], CLOSED, (1005, "")),
    "and we close before the answer": ([HEAR_CLOSE, CLOSE_FIRST, ("answer_close", (), b"")], CLOSED, BY_US),
    "and says more": ([HEAR_CLOSE, ("hear", (TEXT, b"x"), (None, b"")), ("hear", (PING, b""), (None, b""))],
                      CLOSE_RECEIVED, None),
    "and vanishes": ([HEAR_CLOSE, END, ("answer_close", (), b"")], CLOSED, VANISHED),
    "we close": ([CLOSE_FIRST], CLOSE_SENT, BY_US),
    "we close again": ([CLOSE_FIRST, ("close", (1000,), b"")], CLOSE_SENT, BY_US),
    "we close and are answered": ([CLOSE_FIRST, HEAR_CLOSE], CLOSED, BY_US),
    "we close and hear more before the answer": (
        [CLOSE_FIRST, ("hear", (TEXT, b"\xff"), (None, b"")), ("hear", (PING, b""), (None, b"")), HEAR_CLOSE],
        CLOSED, BY_US),
    "we close and are not answered": ([CLOSE_FIRST, END], CLOSED, BY_US),
    "the client vanishes": ([END, ("close", (1000,), b""), ("hear", (TEXT, b"x"), (None, b""))], CLOSED, VANISHED),
}  # fmt: skip


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_whose_turn_it_is_after(case: str) -> None:
    steps, state, closed = CONVERSATIONS[case]
    conversation = Conversation(limit=100)
    for name, arguments, expected in steps:
        assert getattr(conversation, name)(*arguments) == expected, name
    assert (conversation.state, conversation.closed) == (state, closed)
    assert conversation.is_heard == (state in (OPEN, CLOSE_SENT))


@pytest.mark.parametrize(
    ("opcode", "payload", "code"),
    [(TEXT, b"\xff", 1007), (BINARY, b"x" * 101, 1009), (CLOSE, b"\x03", 1002), (CLOSE, b"\x03\xe8\xff", 1007)],
)
def test_what_must_not_be_said_is_an_error_with_the_code_to_close_with(opcode: int, payload: bytes, code: int) -> None:
    with pytest.raises(ProtocolError) as refused:
        Conversation(limit=100).hear(opcode, payload)
    assert refused.value.status == code


# Against the frames of the `websockets` library

payloads = st.one_of(st.binary(max_size=200), st.integers(65000, 66000).map(lambda size: b"\xa5" * size))


@given(st.lists(st.tuples(st.sampled_from([TEXT, BINARY, PING, PONG]), payloads), max_size=6), st.data())
@settings(deadline=None, max_examples=150)
def test_what_the_library_sends_we_read(messages: list[tuple[int, bytes]], data: st.DataObject) -> None:
    sent, expected = b"", []
    for opcode, payload in messages:
        if opcode >= CLOSE:
            payload = payload[:125]
        pieces = [payload]
        if opcode < CLOSE:
            cuts = sorted(data.draw(st.lists(st.integers(0, len(payload)), max_size=3)))
            pieces = [payload[a:b] for a, b in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
        for at, piece in enumerate(pieces):
            kind = Opcode(0 if at else opcode)
            sent += Frame(kind, piece, fin=at == len(pieces) - 1).serialize(mask=True)
        expected.append((opcode, payload))
    reader, seen = FrameReader(1 << 20), []
    places = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=20)))
    for a, b in zip([0, *places], [*places, len(sent)], strict=True):
        reader.feed(sent[a:b])
        while (message := reader.next_message()) is not None:
            seen.append(message)
    assert seen == expected


@given(st.sampled_from([TEXT, BINARY, CLOSE, PING, PONG]), payloads)
@settings(deadline=None, max_examples=150)
def test_what_we_send_is_what_the_library_would_send(opcode: int, payload: bytes) -> None:
    if opcode >= CLOSE:
        payload = payload[:125]
    assert format_frame(opcode, payload) == Frame(Opcode(opcode), payload).serialize(mask=False)


@given(st.binary(min_size=4, max_size=4), st.binary(max_size=100))
@settings(deadline=None)
def test_unmasking_twice_changes_nothing(key: bytes, payload: bytes) -> None:
    assert unmask(key, payload) == bytes(octet ^ key[at % 4] for at, octet in enumerate(payload))
    assert unmask(key, unmask(key, payload)) == payload


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_no_bytes_are_anything_but_messages_or_an_error(data: bytes) -> None:
    assert read(data) == read(*(data[at : at + 1] for at in range(len(data))))


def test_what_a_message_can_be() -> None:
    assert format_message("é") == b"\x81\x02" + "é".encode()
    assert format_message(b"\xff") == b"\x82\x01\xff"
    assert json.loads(format_message({"a": [1]})[2:]) == {"a": [1]} and format_message([1])[0] == 0x81
    for wrong in (None, 1, object()):
        with pytest.raises(TypeError, match="a message is str, bytes, a dict or a list"):
            format_message(wrong)


# The handshake

HANDSHAKE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
HANDSHAKES = {
    "right": ({}, 0),
    "in any case, among others": ({"Upgrade": "h2c, WebSocket", "Connection": "keep-alive, upgrade"}, 0),
    "no Upgrade": ({"Upgrade": None}, 426),
    "another Upgrade": ({"Upgrade": "h2c"}, 426),
    "no Connection": ({"Connection": None}, 426),
    "another Connection": ({"Connection": "keep-alive"}, 426),
    "no version": ({"Sec-WebSocket-Version": None}, 426),
    "an old version": ({"Sec-WebSocket-Version": "8"}, 426),
    "no key": ({"Sec-WebSocket-Key": None}, 400),
    "a short key": ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZQ=="}, 400),
    "a long key": ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZSE="}, 400),
    "a key that is no base64": ({"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZ!=="}, 400),
    "our own origin": ({"Origin": "https://localhost"}, 0),
    "another origin": ({"Origin": "https://evil.example"}, 403),
    "another port": ({"Origin": "https://localhost:8080"}, 403),
    "an origin that ends like ours": ({"Origin": "https://evil-localhost"}, 403),
    "an origin that begins like ours": ({"Origin": "https://localhost.evil.example"}, 403),
    "no origin at all": ({"Origin": "null"}, 403),
}


def handshake(changes: dict[str, str | None], method: str = "GET", version: str = "1.1") -> HTTPRequest:
    """A request for a WebSocket, with these fields changed."""
    fields = {"Host": "localhost", **HANDSHAKE, **changes}
    lines = [f"{name}: {value}" for name, value in fields.items() if value is not None]
    parser = HTTPParser()
    parser.feed("\r\n".join([f"{method} /chat HTTP/{version}", *lines, "", ""]).encode())
    request = parser.next_request()
    assert request is not None
    return request


@pytest.mark.parametrize("case", HANDSHAKES)
def test_handshakes(case: str) -> None:
    changes, status = HANDSHAKES[case]
    if not status:
        check_handshake(handshake(changes), None)
        return
    with pytest.raises(HTTPError) as refused:
        check_handshake(handshake(changes), None)
    assert refused.value.status == status
    if "version" in case:
        assert refused.value.headers["Sec-WebSocket-Version"] == "13"


@pytest.mark.parametrize(
    ("origins", "ours"), [("*", True), (["https://evil.example"], True), ("https://evil.example", True), (["x"], False)]
)
def test_origins_that_are_let_in(origins: Any, ours: bool) -> None:
    check_handshake(handshake({"Origin": "https://localhost"}), origins)
    with contextlib.nullcontext() if ours else pytest.raises(HTTPError):
        check_handshake(handshake({"Origin": "https://evil.example"}), origins)


@pytest.mark.parametrize(
    ("scheme", "host", "origin", "is_ours"),
    [("https", "a.example", "https://a.example", True), ("https", "a.example", "http://a.example", False),
     ("https", "a.example:443", "https://a.example", True), ("https", "a.example:8443", "https://a.example:8443", True),
     ("https", "a.example:8443", "https://a.example", False), ("https", "a.example", "ws://a.example", False),
     ("https", "a.example", "https://b.example", False), ("https", "A.example", "https://a.example", True),
     ("http", "a.example", "http://a.example", True), ("http", "a.example:80", "http://a.example", True),
     ("http", "a.example", "https://a.example", True), ("http", "a.example", "http://a.example:8080", False),
     ("http", "a.example:443", "https://a.example", True), ("http", "a.example", "https://a.example:443", True),
     ("http", "[::1]:80", "http://[::1]", True), ("http", "a.example:080", "http://A.example", True),
     ("https", "a.example:443", "http://a.example", False), ("https", "a.example", "http://a.example:443", False),
     ("http", "a.example", "http://a.example/", False), ("http", "a.example", "", False),
     ("http", "a.example", "ftp://a.example", False), ("http", "a.example", "null", False)],
)  # fmt: skip
@pytest.mark.parametrize("by_proxy", [False, True])
def test_a_page_of_another_scheme_is_of_another_origin_unless_it_is_the_safer_one(
    scheme: str, host: str, origin: str, is_ours: bool, by_proxy: bool
) -> None:
    app = Brubeck(proxies=int(by_proxy))
    app.websocket("/")(lambda ws: ws.send("hello"))
    client = app.test(base_url="http://inner.example" if by_proxy else f"{scheme}://{host}")
    forwarded = {"X-Forwarded-Proto": scheme, "X-Forwarded-Host": host} if by_proxy else {}
    with client.websocket("/", {"Origin": origin, **forwarded}) as ws:
        assert ws.answer.status == (101 if is_ours else 403)


@pytest.mark.parametrize(("method", "version"), [("HEAD", "1.1"), ("POST", "1.1"), ("GET", "1.0")])
def test_a_handshake_is_a_get_of_http_1_1(method: str, version: str) -> None:
    with pytest.raises(HTTPError):
        check_handshake(handshake({}, method, version), None)


@pytest.mark.parametrize("pattern", [r"^/rooms/(\w+)/(\d+)$", r"^/rooms/(?P<room>\w+)/(?P<number>\d+)$"])
def test_a_websocket_may_have_a_regular_expression_as_its_rule(pattern: str) -> None:
    app = Brubeck()

    @app.websocket(re.compile(pattern))
    def talk(ws: Any, room: str, number: str) -> None:
        ws.send(f"{room} {number}")

    with app.test().websocket("/rooms/jazz/5") as ws:
        assert ws.receive() == "jazz 5"


def test_a_websocket_is_a_route_like_others() -> None:
    app = Brubeck()

    @app.websocket("/room/<int:number>")
    def room(ws: Any, number: int) -> None:
        pass

    assert app.url_for("room", number=3) == "/room/3"
    assert app.test().get("/room/x").status == 404
    assert app.test().get("/room/3").status == 426
    assert app.test().post("/room/3").status == 405
    with pytest.raises(ValueError, match="room"):
        app.websocket("/room/<int:other>", "another")(room)


# Over the wire

Door = tuple[str, int, subprocess.Popen[str]]


@pytest.fixture(scope="module", params=["http", "mongrel2"])
def live(request: pytest.FixtureRequest) -> Iterator[Door]:
    """The program behind a door: the door's name, the port, the process."""
    if request.param == "http":
        with behind_http("program_live:app") as (child, port):
            yield "http", port, child
    else:
        with Mongrel2() as mongrel2, behind_mongrel2("program_live:app", mongrel2) as child:
            yield "mongrel2", mongrel2.port, child


@pytest.fixture(scope="module")
def embedded() -> Iterator[Door]:
    """The same behind the embedded server, for what only that can tell, with pings after a second of silence."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IDLE", "1")
        with behind_http("program_live:app") as (child, port):
            yield "http", port, child


def ask(door: Door, method: str, target: str, body: bytes | None = None, headers: Any = None) -> Any:
    """Send one request: the response, with its body in `.content`."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", door[1], timeout=60)) as connection:
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        response.content = response.read()  # type: ignore[attr-defined]
        return response


def notes(door: Door, key: str) -> list[Any]:
    return list(json.loads(ask(door, "GET", f"/notes/{key}").content))


def publish(door: Door, name: str, body: bytes, options: str = "") -> float:
    return float(json.loads(ask(door, "POST", f"/publish/{name}?{options}", body).content)["seconds"])


def wait_for_listeners(door: Door, name: str, count: int) -> None:
    wait_for(lambda: int(ask(door, "GET", f"/listeners/{name}").content) == count, what=f"{count} who listen")


def talk(door: Door, target: str, **options: Any) -> ClientConnection:
    """A client of the `websockets` library."""
    options = {"compression": None, "max_size": None, "ping_interval": None, "open_timeout": 60, **options}
    options = {"close_timeout": 60, **options}
    return connect(f"ws://127.0.0.1:{door[1]}{target}", **options)


class Raw:
    """A client that sends what it is told to."""

    def __init__(self, door: Door, target: str, extra: bytes = b"", receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", door[1]))
        fields = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
        self.socket.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode() + extra)
        self._received = b""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        self.head, _, self._received = self._received.partition(b"\r\n\r\n")

    def _receive(self) -> None:
        data = self.socket.recv(1 << 16)
        if not data:
            raise EOFError
        self._received += data

    def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        taken, self._received = self._received[:size], self._received[size:]
        return taken

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def receive(self) -> tuple[int, bytes]:
        """The first octet and the payload of the next frame, which is not masked."""
        first, size = self._take(2)
        if size >= 126:
            size = int.from_bytes(self._take(2 if size == 126 else 8), "big")
        return first, self._take(size)

    def receive_close(self) -> tuple[int, bytes]:
        """The code and the reason of the close frame that comes next, but for other messages."""
        while True:
            first, payload = self.receive()
            if first == 0x80 | CLOSE:
                return int.from_bytes(payload[:2], "big"), payload[2:]

    def is_ended(self) -> bool:
        """Whether the server ends the connection, and sends nothing more before."""
        try:
            return self._received == b"" and self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def reset(self) -> None:
        """Be gone, as a client is that crashes."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()


def test_the_answer_to_a_handshake(live: Door) -> None:
    with Raw(live, "/hello/bob") as client:
        status, *fields = client.head.decode().split("\r\n")
        assert status == "HTTP/1.1 101 Switching Protocols"
        values = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        assert values["upgrade"].lower() == "websocket" and values["connection"].lower() == "upgrade"
        assert values["sec-websocket-accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455, 1.3
        assert not {"content-length", "transfer-encoding", "sec-websocket-protocol"} & {*values}
        assert client.receive() == (0x80 | TEXT, b"Take five, bob!")


def test_messages_come_back_as_they_were(live: Door) -> None:
    with talk(live, "/echo") as client:
        for message in ("", "text é \U0001f600", b"", bytes(range(256)), "x" * 126, b"y" * 65536, "z" * 1_000_000):
            client.send(message)
            assert client.recv(60) == message
        for number in range(100):
            client.send(f"{number}")
        assert [client.recv(60) for _ in range(100)] == [f"{number}" for number in range(100)]


def test_messages_up_to_the_limit_come_back_however_large_they_are(live: Door) -> None:
    with talk(live, "/echo-large") as client:
        for size in (5 << 20, 17 << 20):
            client.send(b"x" * size)
            assert len(client.recv(60)) == size


def test_a_message_and_4_mib_may_wait_behind_mongrel2_for_a_handler_that_does_something_else(live: Door) -> None:
    with talk(live, "/asleep-then-echo/0.5") as client:
        for _ in range(5):
            client.send(b"x" * (1 << 20))
        assert [len(client.recv(60)) for _ in range(5)] == [1 << 20] * 5


def test_a_handshake_may_say_that_it_has_no_body(live: Door) -> None:
    answer = talk(live, "/echo", additional_headers={"Content-Length": "0"})
    with answer as client:
        client.send("x")
        assert client.recv(60) == "x"


def test_messages_that_come_together_are_answered_one_by_one(live: Door) -> None:
    with Raw(live, "/echo") as client:
        for _ in range(3):
            client.send(frame(TEXT, b"one") + frame(TEXT, b"two") + frame(BINARY, b"three"))
            assert [client.receive()[1] for _ in range(3)] == [b"one", b"two", b"three"]


def test_fragments_with_a_ping_in_between(live: Door) -> None:
    with Raw(live, "/echo") as client:
        client.send(frame(TEXT, "é".encode()[:1], fin=False))
        client.send(frame(PING, b"still there?") + frame(0, "é".encode()[1:], fin=False) + frame(0, b"!"))
        assert client.receive() == (0x80 | PONG, b"still there?")
        assert client.receive() == (0x80 | TEXT, "é!".encode())


def test_octets_that_come_one_by_one(live: Door) -> None:
    with Raw(live, "/echo") as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for octet in frame(TEXT, b"slowly") + frame(CLOSE, b"\x03\xe8"):
            client.send(bytes([octet]))
            time.sleep(0.005)
        assert client.receive() == (0x80 | TEXT, b"slowly")
        assert client.receive_close() == (1000, b"")


def test_what_comes_with_the_handshake_is_not_lost(embedded: Door) -> None:
    with Raw(embedded, "/echo", extra=frame(TEXT, b"early") + frame(TEXT, b"bird")) as client:
        assert [client.receive()[1], client.receive()[1]] == [b"early", b"bird"]


def test_a_handshake_with_a_body_is_no_websocket_whose_first_frame_it_is(embedded: Door) -> None:
    fields = "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items())
    body = frame(TEXT, b"smuggled")
    head = f"GET /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{fields}\r\n"
    with socket.create_connection(("127.0.0.1", embedded[1]), timeout=60) as client:
        client.sendall(head.encode() + body)
        received = client.recv(1000)
        with contextlib.suppress(TimeoutError):
            client.settimeout(1)
            received += client.recv(1000)
        assert b"smuggled" not in received, received


def test_pings_are_answered_while_the_handler_waits_for_something_else(live: Door) -> None:
    with Raw(live, "/asleep/600.0") as client:
        client.send(frame(TEXT, b"meanwhile") + frame(PING, b"1"))
        assert client.receive() == (0x80 | PONG, b"1")
        client.send(frame(PONG, b"nobody asked") + frame(PING))
        assert client.receive() == (0x80 | PONG, b"")


def test_what_comes_while_the_handler_waits_for_something_else_is_kept_for_it(live: Door) -> None:
    with Raw(live, "/asleep/0.5") as client:
        client.send(frame(TEXT, b"meanwhile") + frame(PONG, b"nobody asked"))
        assert client.receive() == (0x80 | TEXT, b'["meanwhile"]')


def test_a_handler_can_wait_for_a_message_for_some_time(live: Door) -> None:
    with talk(live, "/patient") as client:
        client.send("in time")
        answers = [json.loads(client.recv(60)) for _ in range(3)]
        assert [answer["received"] for answer in answers] == ["in time", None, None]
        assert all(answer["closed"] is None for answer in answers)


def test_a_handler_that_does_not_look_for_the_end_is_ended_and_holds_up_nobody(live: Door) -> None:
    with Raw(live, f"/forgets-the-end?key=forgets-{live[0]}") as client:
        client.send(frame(CLOSE, b"\x03\xe8"))
        client.receive_close()
    wait_for(lambda: notes(live, f"forgets-{live[0]}"), what="the handler")
    assert notes(live, f"forgets-{live[0]}")[0].startswith("no more messages come: leave the loop")
    assert "failed" in output(live[2]) and "leave the loop" in output(live[2])


def test_a_handler_can_ping(live: Door) -> None:
    with Raw(live, "/pings") as client:
        assert client.receive() == (0x80 | PING, b"are you there?")


@pytest.mark.parametrize(
    ("target", "code", "reason"),
    [
        ("/hello/bob", 1000, ""),
        ("/raises", 1011, ""),
        ("/closes/4321", 4321, "as you wished"),
        ("/closes/1006", 1011, ""),
        ("/needs-a-room", 1008, "the query has no argument 'room'"),
        ("/refuses-half-a-character", 1008, "no such command: ?"),
    ],
)
def test_how_a_handler_ends(live: Door, target: str, code: int, reason: str) -> None:
    with talk(live, f"{target}?key=ends{code}") as client:
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                client.recv(60)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)  # type: ignore[union-attr]
    if code == 4321:
        wait_for(lambda: notes(live, "ends4321"), what="the handler")
        assert "closed" in notes(live, "ends4321")[0]
    if target == "/raises":
        wait_for(lambda: "LookupError: a secret" in output(live[2]), what="the line in the log")
    assert "MissingName" not in output(live[2])


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1001, "off I go"), (3000, "é"), (4999, "x" * 123)])
def test_a_client_that_closes_gets_its_code_back_and_the_handler_sees_both(live: Door, code: int, reason: str) -> None:
    key = f"closes{code}"
    with Raw(live, f"/echo?key={key}") as client:
        client.send(frame(CLOSE, code.to_bytes(2, "big") + reason.encode()) + frame(TEXT, b"too late"))
        assert client.receive_close()[0] == code
        assert client.is_ended()
    wait_for(lambda: notes(live, key), what="the handler")
    assert notes(live, key) == [[code, reason]]


def test_a_message_with_a_close_behind_it_is_answered(live: Door) -> None:
    """Autobahn 7.1.1."""
    with Raw(live, "/echo") as client:
        client.send(frame(TEXT, b"Hello, world!") + frame(CLOSE, b"\x03\xe8"))
        assert client.receive() == (0x80 | TEXT, b"Hello, world!")
        assert client.receive_close()[0] == 1000


def test_a_close_without_a_code(live: Door) -> None:
    with Raw(live, f"/echo?key=bare-{live[0]}") as client:
        client.send(frame(CLOSE))
        assert client.receive() == (0x80 | CLOSE, b"")
        assert client.is_ended()
    wait_for(lambda: notes(live, f"bare-{live[0]}") == [[1005, ""]], what="the handler")


WRONG = {
    "reserved bit": (frame(TEXT, b"x", reserved=4), 1002),
    "reserved opcode": (frame(3, b"x"), 1002),
    "not masked": (frame(TEXT, b"x", masked=False), 1002),
    "long ping": (frame(PING, b"x" * 126), 1002),
    "ping in two": (frame(PING, b"x", fin=False), 1002),
    "continuation of nothing": (frame(0, b"x"), 1002),
    "text within text": (frame(TEXT, b"x", fin=False) + frame(TEXT, b"y"), 1002),
    "no UTF-8": (frame(TEXT, b"\xff"), 1007),
    "no UTF-8, in two": (fragments(TEXT, b"\xce", b"\xba\xed\xa0\x80"), 1007),
    "wrong code": (frame(CLOSE, b"\x03\xee"), 1002),
    "half a code": (frame(CLOSE, b"\x03"), 1002),
    "reason that is no UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "too long": (frame(TEXT, b"x" * 1001), 1009),
    "too long, in two": (fragments(BINARY, b"x" * 1000, b"y"), 1009),
}


# What Mongrel2 itself answers, by ending the connection
MONGREL2_ENDS = {"not masked", "long ping", "ping in two", "continuation of nothing", "text within text"}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_client_does_wrong_ends_its_websocket(live: Door, case: str) -> None:
    sent, code = WRONG[case]
    if live[0] == "mongrel2" and case in MONGREL2_ENDS:
        code = 0
    key = f"wrong-{case}".replace(" ", "-").replace(",", "")
    with Raw(live, f"/small?key={key}") as client:
        client.send(frame(TEXT, b"y" * 1000))
        assert client.receive() == (0x80 | TEXT, b"y" * 1000)
        client.send(sent)
        if code:
            assert client.receive_close()[0] == code
            client.socket.settimeout(30)  # RFC 6455, 7.1.7: whatever the client does, which may take 60 seconds here
            assert client.is_ended()
        else:
            with pytest.raises((EOFError, ConnectionResetError)):
                client.receive_close()
    wait_for(lambda: notes(live, key), what="the handler")
    assert notes(live, key)[0][0] == (code or 1006)


@pytest.mark.parametrize("leave", [Raw.reset, lambda client: client.socket.close()], ids=["reset", "end"])
def test_a_client_that_vanishes_ends_the_iteration(live: Door, leave: Callable[[Raw], None]) -> None:
    key = f"vanishes-{live[0]}-{leave is Raw.reset}"
    client = Raw(live, f"/echo?key={key}")
    client.send(frame(TEXT, b"x"))
    client.receive()
    leave(client)
    wait_for(lambda: notes(live, key), what="the handler")
    assert notes(live, key) == [[1006, ""]]


@pytest.mark.parametrize("reader", ["", "&reads=1"], ids=["nobody receives", "another coroutine receives"])
@pytest.mark.parametrize("leave", ["vanishes", "closes"])
def test_a_handler_that_waits_for_something_else_is_ended_when_its_client_leaves(
    live: Door, leave: str, reader: str
) -> None:
    key = f"asleep-{live[0]}-{leave}{len(reader)}"
    with Raw(live, f"/asleep/600.0?key={key}{reader}") as client:
        if leave == "closes":
            client.send(frame(CLOSE, b"\x03\xe9"))
            assert client.receive_close()[0] == 1001
        else:
            client.reset()
        wait_for(lambda: len(notes(live, key)) == 2, what="the handler")
    assert notes(live, key) == ["GreenletExit", [1001, ""] if leave == "closes" else [1006, ""]]
    assert "GreenletExit" not in output(live[2])


def test_messages_that_wait_are_handed_out_though_the_client_has_left(live: Door) -> None:
    with Raw(live, f"/asleep/0.5?key=left-{live[0]}") as client:
        client.send(frame(TEXT, b"one") + frame(TEXT, b"two") + frame(CLOSE, b"\x03\xe8"))
        assert client.receive_close()[0] == 1000
    wait_for(lambda: notes(live, f"left-{live[0]}"), what="the handler")
    assert notes(live, f"left-{live[0]}") == [[1000, ""]]


def test_a_client_that_says_goodbye_and_stays_leaves_no_error_behind(live: Door) -> None:
    before = output(live[2]).count("ERROR")
    with Raw(live, "/hello/bob") as client:
        assert client.receive_close()[0] == 1000
        client.send(frame(CLOSE, b"\x03\xe8"))
        assert client.is_ended()
    with Raw(live, "/hello/bob") as client:  # and one that does not even answer
        assert client.receive_close()[0] == 1000
        assert client.is_ended()
    assert output(live[2]).count("ERROR") == before, output(live[2])


def test_subprotocols(live: Door) -> None:
    with talk(live, "/two", subprotocols=["first", "other", "second"]) as client:
        assert client.subprotocol == "second"  # the one that the server likes better
        assert json.loads(client.recv(60))["path"] == "/two"
    with talk(live, "/two") as client:
        assert client.subprotocol is None
    with Raw(live, "/two") as client:
        assert b"websocket-protocol" not in client.head.lower()


@pytest.mark.parametrize(
    ("target", "origin", "status"),
    [
        ("/echo", None, 101),
        ("/echo", "http://127.0.0.1:PORT", 101),
        ("/echo", "http://127.0.0.1", 403),
        ("/echo", "https://a.example", 403),
        ("/from-elsewhere", "https://a.example", 101),
        ("/from-elsewhere", "https://b.example:8443", 101),
        ("/from-elsewhere", "https://b.example", 403),
        ("/from-elsewhere", "http://127.0.0.1:PORT", 101),
        ("/from-everywhere", "https://evil.example", 101),
    ],
)
def test_origins(live: Door, target: str, origin: str | None, status: int) -> None:
    origin = origin and origin.replace("PORT", str(live[1]))
    if status == 101:
        with talk(live, target, origin=origin):
            pass
    else:
        with pytest.raises(InvalidStatus) as refused:
            talk(live, target, origin=origin)
        assert refused.value.response.status_code == status


def test_requests_that_are_no_handshakes(live: Door) -> None:
    plain = ask(live, "GET", "/echo")
    assert (plain.status, plain.headers["Upgrade"]) == (426, "websocket")  # RFC 9110, 15.5.22
    assert ask(live, "POST", "/echo", b"").status == 405
    if live[0] == "http":  # Mongrel2 answers what is no handshake itself, or takes it for a plain GET
        for name, value, status in (("Sec-WebSocket-Key", "short", 400), ("Sec-WebSocket-Version", "8", 426)):
            response = ask(live, "GET", "/echo", headers={**HANDSHAKE, name: value})
            assert response.status == status
        assert response.headers["Sec-WebSocket-Version"] == "13"


def test_a_websocket_of_a_mounted_application(live: Door) -> None:
    with talk(live, "/inner/talk") as client:
        assert client.recv(60) == "/inner/talk"


def test_under_wsgi_there_are_no_websockets() -> None:
    with behind_wsgi("gunicorn", "program_live:app") as port, pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{port}/echo")
    assert refused.value.response.status_code == 501
    assert b"WebSockets" in (refused.value.response.body or b"")


# Channels and slow clients


def test_all_who_follow_a_channel_get_what_is_published(live: Door) -> None:
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(talk(live, "/follow/all")) for _ in range(5)]
        gone = Raw(live, "/follow/all")
        wait_for_listeners(live, "all", 6)
        publish(live, "all", "é".encode(), "times=3")
        assert [[client.recv(60) for _ in range(3)] for client in clients] == [["é"] * 3] * 5
        gone.reset()
        clients.pop().close()
        wait_for_listeners(live, "all", 4)
        publish(live, "all", b"again")
        assert [client.recv(60) for client in clients] == ["again"] * 4
    wait_for_listeners(live, "all", 0)


@pytest.mark.parametrize("by", ["tpool", "thread"])
def test_what_a_thread_publishes_reaches_all_who_follow(live: Door, by: str) -> None:
    with talk(live, f"/follow/{by}") as one, talk(live, f"/follow/{by}") as two:
        wait_for_listeners(live, by, 2)
        publish(live, by, b"news", f"times=20&by={by}")
        assert [[client.recv(10) for _ in range(20)] for client in (one, two)] == [["news"] * 20] * 2


def test_nobody_follows_who_is_closed_already(live: Door) -> None:
    with Raw(live, f"/follow-late/late?key=late-{live[0]}") as client:
        client.send(frame(CLOSE, b"\x03\xe8"))
        client.receive_close()
    wait_for(lambda: notes(live, f"late-{live[0]}"), what="the handler")
    assert ask(live, "GET", "/listeners/late").content == b"0"


def test_a_follower_that_does_not_read_is_closed_and_holds_up_nobody(live: Door) -> None:
    with talk(live, "/follow/slow") as quick, Raw(live, "/follow/slow?key=slow", receive_buffer=4096) as slow:
        wait_for_listeners(live, "slow", 2)
        received = 0
        for _ in range(100):
            publish(live, "slow", b"x" * 65536, "times=3")
            received += sum(len(quick.recv(60)) for _ in range(3))
        assert received == 300 * 65536
        wait_for(lambda: notes(live, "slow"), what="the handler of the slow one")
        wait_for_listeners(live, "slow", 1)
        assert notes(live, "slow") == [[1013, "too slow"]]
        publish(live, "slow", b"and on")
        assert quick.recv(60) == "and on"
        assert slow.receive_close() == (1013, b"too slow")


def test_a_sender_waits_for_its_slow_client(live: Door) -> None:
    with Raw(live, f"/pours/2000?key=pours-{live[0]}", receive_buffer=65536) as client:
        client.receive()
        first = settled(lambda: notes(live, f"pours-{live[0]}")[0])
        assert first < 1000  # it got no further while nobody read
        payloads = [client.receive()[1] for _ in range(300)]
        assert all(payload == b"0123456789abcdef" * 4096 for payload in payloads)
        wait_for(lambda: notes(live, f"pours-{live[0]}")[0] > first, what="the sender")
        client.send(frame(CLOSE, b"\x03\xe8"))
        client.receive_close()
    wait_for(lambda: len(notes(live, f"pours-{live[0]}")) == 2, what="the end of the sender")
    assert notes(live, f"pours-{live[0]}")[1] == [1000, ""]


def test_pings_while_much_is_sent_do_not_end_the_websocket_and_the_latest_is_answered(live: Door) -> None:
    with Raw(live, f"/pours/200?key=pinged-{live[0]}", receive_buffer=65536) as client:
        settled(lambda: notes(live, f"pinged-{live[0]}")[0])
        for number in range(50):
            client.send(frame(PING, b"%d" % number))
        time.sleep(0.5)
        received = list[tuple[int, bytes]]()
        while not received or received[-1][0] != 0x80 | CLOSE:
            received.append(client.receive())
        pongs = [payload for first, payload in received if first == 0x80 | PONG]
        assert sum(len(payload) == 65536 for _, payload in received) == 200
        assert pongs == sorted(pongs, key=int) and pongs[-1] == b"49"
        assert received[-1][1] == b"\x03\xe8"


def test_empty_messages_that_no_handler_receives_are_not_taken_without_end(live: Door) -> None:
    """The embedded server reads no more of them; Mongrel2 cannot be told to wait, so there the WebSocket is closed."""
    empty, limit = frame(TEXT, b"") * 1000, 12_000_000  # bytes, which is more than the system holds of a connection
    size = len(empty) // 1000
    with Raw(live, "/asleep/600.0?key=empty") as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        client.socket.settimeout(2)
        sent = 0
        with contextlib.suppress(TimeoutError, ConnectionError):
            while sent < limit and not select.select([client.socket], [], [], 0)[0]:
                sent += client.socket.send(empty[sent % size :])
        assert sent < limit
        if live[0] == "mongrel2":
            client.socket.settimeout(60)
            assert client.receive_close() == (1013, b"too much is unread")


def test_others_have_their_turns_while_a_client_sends_empty_messages_without_a_pause(live: Door) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", live[1], timeout=60)) as other:
        other.request("GET", f"/counted-in-a-turn?key=turn-{live[0]}")
        wait_for(lambda: notes(live, f"turn-{live[0]}"), what="the other's handler")
        with Raw(live, "/counts") as client:
            client.send(frame(TEXT, b"") * 40_000)
            assert 0 < int(other.getresponse().read()) < 5000


def test_two_coroutines_may_send_to_the_same_slow_client(embedded: Door) -> None:
    with Raw(embedded, "/duet?key=duet", receive_buffer=65536) as client:
        time.sleep(1)
        heard: list[bytes] = []
        while len(heard) < 200:
            first, payload = client.receive()
            if first & 0x0F == 2:  # a ping may come between
                heard.append(payload[:1])
        assert heard.count(b"a") == heard.count(b"b") == 100
        assert client.receive_close()[0] == 1000
    assert sorted(notes(embedded, "duet")[:2]) == ["a", "b"]


def test_a_client_that_reads_slowly_gets_all_that_a_handler_sent_before_it_returned(embedded: Door) -> None:
    with Raw(embedded, "/pours/60?key=slow-end", receive_buffer=4096) as client:
        for number in range(60):
            assert len(client.receive()[1]) == 65536
            time.sleep(0.15 if number > 30 else 0)
        assert client.receive_close()[0] == 1000


def test_a_client_that_reads_slowly_gets_all_of_a_large_message_behind_which_the_handler_returned(live: Door) -> None:
    size = 12 << 20  # bytes, which is more than the system holds of a connection
    with Raw(live, f"/one/{size}?key=large", receive_buffer=65536) as client:
        time.sleep(2)  # longer than the client has to answer a close
        assert client.receive() == (0x80 | 2, bytes(size))
        assert client.receive_close()[0] == 1000


# Idle clients


def test_a_client_that_reads_a_large_message_for_long_is_not_taken_for_dead(embedded: Door) -> None:
    size = 16 << 20
    with Raw(embedded, f"/one/{size}?key=reads&answer=1", receive_buffer=65536) as client:
        left = size
        while left > 0:
            data = client.socket.recv(1 << 16)
            assert data
            left -= len(data)
            time.sleep(0.02 if left > 4 << 20 else 0)  # what the system may hold of it is read at once
        client.send(frame(TEXT, b"all of it"))
        wait_for(lambda: notes(embedded, "reads"), what="what the handler got")
        assert notes(embedded, "reads")[0] == "all of it"


def test_a_client_that_is_silent_is_pinged_and_one_that_is_dead_has_vanished(embedded: Door) -> None:
    with Raw(embedded, "/echo?key=alive") as alive, Raw(embedded, "/echo?key=dead") as dead:
        began, pings = time.monotonic(), 0
        while pings < 3 or (notes(embedded, "dead") == [] and time.monotonic() < began + 60):
            assert alive.receive() == (0x80 | PING, b"")
            pings += 1
            alive.send(frame(PONG))
        assert pings <= time.monotonic() - began + 1
        assert notes(embedded, "dead") == [[1006, ""]]
        assert dead.receive() == (0x80 | PING, b"")
        assert notes(embedded, "alive") == []
        alive.socket.settimeout(60)
        alive.send(frame(TEXT, b"still here"))
        while (received := alive.receive()) == (0x80 | PING, b""):
            pass
        assert received == (0x80 | TEXT, b"still here")


def test_a_client_whose_messages_nobody_reads_for_long_is_not_taken_for_dead(embedded: Door) -> None:
    with talk(embedded, "/asleep/4.0?key=unread") as client:
        for _ in range(20):
            client.send("x" * 10_000)
        assert len(json.loads(client.recv(60))) == 20
    wait_for(lambda: notes(embedded, "unread"), what="the handler")
    assert notes(embedded, "unread") == [None]


# The end of the server


def test_a_server_that_stops_says_so(live: Door) -> None:
    """The last test with this process."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Raw(live, target)) for target in ("/echo", "/asleep/600.0", "/follow/x")]
        os.kill(live[2].pid, signal.SIGTERM)
        for client in clients:
            assert client.receive_close()[0] == 1001
            client.send(frame(CLOSE, b"\x03\xe9"))
        assert live[2].wait(60) == 0
        for client in clients:
            assert client.is_ended()
    assert not re.findall("ERROR|Traceback", output(live[2]).partition("stopping:")[2])


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]])
def test_clients_that_come_back_while_it_stops_do_not_hold_it_up(workers: list[str]) -> None:
    with Mongrel2() as mongrel2, behind_mongrel2("program_live:app", mongrel2, *workers) as child:
        door = ("mongrel2", mongrel2.port, child)
        with Raw(door, "/echo") as silent, socket.create_connection(("127.0.0.1", mongrel2.port), 60) as stream:
            child.terminate()
            assert silent.receive_close()[0] == 1001  # the server waits for the answer to that
            stream.sendall(b"GET /heartbeats HTTP/1.1\r\nHost: localhost\r\n\r\n")
            with Raw(door, "/echo") as late:
                assert late.head.startswith(b"HTTP/1.1 503 ")
            received = b""
            while not received.endswith(b"0\r\n\r\n") and (data := stream.recv(1000)):
                received += data
            assert received.endswith(b"\r\n0\r\n\r\n")
        assert child.wait(60) == 0
        assert "not finished in time" not in output(child)


def test_a_client_that_reads_nothing_does_not_hold_up_a_server_that_stops() -> None:
    with behind_http("program_live:app") as (child, port):
        with Raw(("http", port, child), f"/one/{12 << 20}?key=stuck&answer=1", receive_buffer=65536) as client:
            client._take(1)  # the handler has sent
            child.terminate()
            assert child.wait(60) == 0
        assert "not finished in time" not in output(child)
