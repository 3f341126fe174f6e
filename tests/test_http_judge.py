"""The embedded server, live, beside h11: whatever is sent, and however it is cut."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import h11
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support import behind_http
from test_http_parser import Seen, judge, read, reasons, streams


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with behind_http("mirror:app") as (_, port):
        yield port


def send(port: int, pieces: list[bytes]) -> bytes:
    """What comes back for these pieces, to the end."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):  # a refusal may come before all is sent
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        while data := client.recv(65536):
            received += data
    return received


def answers(received: bytes, methods: list[str]) -> Iterator[tuple[int, bytes, bool]]:
    """Status, body, and whether it is the last: as h11 reads them, to whom each must be an answer to its method."""
    for method in [*methods, "GET"]:
        if not received:
            return
        connection = h11.Connection(h11.CLIENT)
        connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        connection.receive_data(received)
        connection.receive_data(b"")
        status, body, is_last = 0, b"", False
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status, is_last = event.status_code, (b"connection", b"close") in event.headers
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                assert isinstance(event, h11.InformationalResponse), event
        yield status, body, is_last
        if is_last and status != 200:
            return  # a refusal has its text even where what is refused would have been a HEAD
        received = connection.trailing_data[0]
    assert not received, "an answer that nobody asked for"


def check(told: dict[str, Any], theirs: Seen) -> None:
    """What our handler saw is what h11 read."""
    headers = {name: value for name, value in theirs.headers.items() if name != "transfer-encoding"}
    told["headers"].pop("transfer-encoding", None)
    assert (told["method"], told["path"], told["version"]) == (theirs.method, theirs.path, theirs.version)
    assert (told["query_string"], told["headers"]) == (theirs.query_string, headers)
    assert told["body"].encode("latin-1") == theirs.body


@settings(deadline=None, max_examples=300)
@given(streams(), st.data())
def test_what_a_live_server_answers_is_what_h11_reads_and_nothing_else(port: int, data: bytes, draw: Any) -> None:
    places = [0, *sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=4))), len(data)]
    allowed, verdict = judge(data)
    assume(verdict != "says nothing")
    methods = [seen.method for seen in read(data)[0]]
    got = list(answers(send(port, [data[a:b] for a, b in pairwise(places)]), methods))
    for place, (_, body, is_last) in enumerate(got):
        assert is_last is (place == len(got) - 1) or not is_last, "an answer behind the last"
        if body.startswith(b"{"):  # the mirror's
            assert place < len(allowed), "answered, and h11 refuses it"
            theirs, own = allowed[place]
            assert not set(reasons(own)), "answered in spite of a rule"
            check(json.loads(body), theirs)
    if len(got) < len(allowed):
        # A body that nobody wanted, for the request was refused, may turn out to be none after the answer.
        is_refusal = bool(got) and not got[-1][1].startswith(b"{")
        assert not got or got[-1][2] or is_refusal, "h11 reads one more, and the connection was closed without a word"
