"""Connections that live longer than an answer: streams, server-sent events, handlers that wait; through the embedded
server and through a real Mongrel2, with and without its flow control."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from support import Mongrel2, behind_http, behind_mongrel2, behind_wsgi, free_port, output, process, settled, wait_for

from brubeck_lite import Brubeck, Channel, Event, Request, event_stream

PROGRAM = "program_live:app"
Door = tuple[str, int, subprocess.Popen[str]]


class Mongrel2With(Mongrel2):
    """A Mongrel2 with other settings: None takes one away."""

    def __init__(self, **changes: int | None) -> None:
        super().__init__()
        text = (self.folder / "mongrel2.conf").read_text()
        for name, value in changes.items():
            name = name.replace("__", ".")
            text = re.sub(f"'{name}': \\d+, ", "", text)
            if value is not None:
                text = text.replace("settings = {", f"settings = {{'{name}': {value}, ")
        self.configure(text)


@pytest.fixture(scope="module", params=["http", "mongrel2"])
def live(request: pytest.FixtureRequest) -> Iterator[Door]:
    """The program behind a door: the door's name, the port, the process."""
    if request.param == "http":
        with behind_http(PROGRAM) as (child, port):
            yield "http", port, child
    else:
        with Mongrel2() as mongrel2, behind_mongrel2(PROGRAM, mongrel2) as child:
            yield "mongrel2", mongrel2.port, child


@pytest.fixture(scope="module")
def impatient() -> Iterator[Door]:
    """Behind a Mongrel2 that ends what is quiet for two seconds."""
    limits = {"min_ping": 2, "kill_limit": 0, "min_read_rate": 0, "min_write_rate": 0, "tick_timer": 1}
    changes = {f"limits__{name}": value for name, value in limits.items()}
    with Mongrel2With(**changes) as mongrel2, behind_mongrel2(PROGRAM, mongrel2) as child:
        yield "impatient", mongrel2.port, child


def ask(door: Door, method: str, target: str, body: bytes | None = None, headers: Any = None) -> Any:
    """Send one request: the response, with its body in `.content`."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", door[1], timeout=60)) as connection:
        connection.request(method, target, body, headers or {})
        response = connection.getresponse()
        response.content = response.read()  # type: ignore[attr-defined]
        return response


def notes(door: Door, key: str) -> list[Any]:
    return list(json.loads(ask(door, "GET", f"/notes/{key}").content))


class Reader:
    """A client of a stream, which reads when it is told to."""

    def __init__(self, door: Door, target: str, version: str = "1.1", receive_buffer: int | None = None) -> None:
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(60)
        self.socket.connect(("127.0.0.1", door[1]))
        self.socket.sendall(f"GET {target} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
        self.received = b""

    def until(self, text: bytes) -> bytes:
        """All that came until this."""
        while text not in self.received:
            data = self.socket.recv(1 << 16)
            assert data, f"the connection ended after {self.received[-200:]!r}"
            self.received += data
        return self.received

    def to_the_end(self) -> tuple[bytes, bool]:
        """All that came until the connection ended, and whether it ended with a reset."""
        deadline = time.monotonic() + 60
        try:
            while data := self.socket.recv(1 << 16):
                self.received += data
                assert time.monotonic() < deadline, "the connection did not end"
        except ConnectionResetError:
            return self.received, True
        return self.received, False

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()


# Streams


@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_piece_is_there_before_the_iterator_goes_on(live: Door, version: str) -> None:
    key = f"gate-{live[0]}-{version}"
    with Reader(live, f"/gated?key={key}", version) as reader:
        head = reader.until(b"first").partition(b"\r\n\r\n")[0].lower()
        assert (b"transfer-encoding: chunked" in head) == (version == "1.1")
        for piece in (b"second", b"third"):
            ask(live, "POST", f"/open/{key}", piece)
            reader.until(piece)
        ask(live, "POST", f"/open/{key}", b"end")
        if version == "1.1":
            body = reader.until(b"\r\n0\r\n\r\n").partition(b"\r\n\r\n")[2]
            assert body == b"5\r\nfirst\r\n6\r\nsecond\r\n5\r\nthird\r\n0\r\n\r\n"
        else:
            received, was_reset = reader.to_the_end()
            assert received.partition(b"\r\n\r\n")[2] == b"firstsecondthird" and not was_reset


@pytest.mark.parametrize("target", ["/waits?", "/waits?silent=1&", "/heartbeats?", "/cancelled?"])
def test_what_waits_ends_when_its_client_leaves(live: Door, target: str) -> None:
    """Streams, also before their first piece, streams of events, and handlers that are to be cancelled."""
    key = f"leaves-{live[0]}-{re.sub('[^a-z0-9]', '', target)}"
    with Reader(live, f"{target}key={key}") as reader:
        wait_for(lambda: notes(live, key) == ["began"], what="the handler")
        if target not in ("/waits?silent=1&", "/cancelled?"):
            reader.until(b"first")
    wait_for(lambda: len(notes(live, key)) == 3, what="the end of the handler")
    assert notes(live, key) == ["began", "GreenletExit", "finally"]
    assert "GreenletExit" not in output(live[2])


@pytest.mark.parametrize("target", ["/waits?silent=1&", "/cancelled?"])
def test_what_has_sent_nothing_ends_for_http_1_0_too(live: Door, target: str) -> None:
    key = f"old-{live[0]}-{re.sub('[^a-z0-9]', '', target)}"
    with Reader(live, f"{target}key={key}", "1.0"):
        wait_for(lambda: notes(live, key) == ["began"], what="the handler")
    wait_for(lambda: len(notes(live, key)) == 3, what="the end of the handler")


def test_what_waits_ends_though_its_client_had_half_closed_before(live: Door) -> None:
    """It had waited on then; a reset, which needs nothing to be sent, says that it waits no longer. (Mongrel2 ends the
    connection of a client that half-closes.)"""
    key = f"both-{live[0]}"
    with Reader(live, f"/waits?key={key}") as reader:
        reader.until(b"first")
        reader.socket.shutdown(socket.SHUT_WR)
        if live[0] == "http":
            time.sleep(1.5)
            assert notes(live, key) == ["began"]
        reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for(lambda: len(notes(live, key)) == 3, what="the end of the handler")


def test_what_waits_ends_though_another_request_waits_behind_it(live: Door) -> None:
    key = f"pipelined-{live[0]}"
    with Reader(live, f"/waits?key={key}") as reader:
        reader.until(b"first")
        reader.socket.sendall(b"GET /notes/x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.3)
    wait_for(lambda: len(notes(live, key)) == 3, what="the end of the handler")


def connected_to(bind: str) -> socket.socket:
    """A client of a server that was told to listen there."""
    client = socket.socket(socket.AF_UNIX if bind.startswith("unix:") else socket.AF_INET)
    client.settimeout(60)
    host, _, port = bind.rpartition(":")
    client.connect(port if host == "unix" else (host, int(port)))
    return client


LARGE = b"0123456789" * 2_000_000
HALF_CLOSED = {
    "/stream": b"first second third", "/late-stream": b"late", "/declared": b"first second third",
    "/events": b":\n\ndata: first\n\ndata: second\n\ndata: third\n\n", "/poll": b"polled", "/plain": b"True",
    "/asks-twice": b"True True True True ", "/body": LARGE[: 10_000_000], "/files/large.bin": LARGE,
}  # fmt: skip


@pytest.mark.parametrize("way", ["TCP", "a unix socket", "two workers"])
def test_a_client_that_has_said_all_it_wants_gets_all_of_its_answer(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `nc -N` does: it shuts down its sending half behind the request (RFC 9112, 9.6), and begins to read late."""
    (tmp_path / "large.bin").write_bytes(LARGE)
    monkeypatch.setenv("TEST_HALF_CLOSE", str(tmp_path))
    bind = f"unix:{tmp_path}/socket" if way == "a unix socket" else f"127.0.0.1:{free_port()}"
    options = ["--workers", "2"] if way == "two workers" else []
    command = [sys.executable, "-m", "brubeck_lite", "program_half_close:app", "--bind", bind, *options]
    with process(command) as child, contextlib.ExitStack() as stack:
        wait_for(lambda: output(child).count("is ready" if options else "serving") == (2 if options else 1), what="it")
        clients = {}
        for version in ("1.1", "1.0"):
            for target in HALF_CLOSED:
                client = stack.enter_context(connected_to(bind))
                client.sendall(f"GET {target} HTTP/{version}\r\nHost: localhost\r\n\r\n".encode())
                client.shutdown(socket.SHUT_WR)
                clients[target, version] = client
        time.sleep(1.5)
        for (target, version), client in clients.items():
            response = http.client.HTTPResponse(client)
            response.begin()
            assert (target, version, response.status) == (target, version, 200)
            assert response.read() == HALF_CLOSED[target], (target, version)
            assert client.recv(1) == b""


def test_an_iterator_that_ends_slowly_may(live: Door) -> None:
    key = f"slowly-{live[0]}"
    with Reader(live, f"/ends-slowly?key={key}") as reader:
        reader.until(b"first")
    wait_for(lambda: notes(live, key) == ["finally"], what="the end of the iterator")
    assert not re.findall("ERROR|Traceback", output(live[2])), output(live[2])


def test_an_ordinary_handler_is_not_ended_but_can_see_that_its_client_left(live: Door) -> None:
    key = f"leaving-{live[0]}"
    with Reader(live, f"/leaving?key={key}"):
        wait_for(lambda: notes(live, key), what="the handler")
        time.sleep(0.5)
        assert notes(live, key) == ["began"]
    wait_for(lambda: notes(live, key) == ["began", False], what="the handler")


def test_a_stream_that_fails_is_an_error_for_its_client(live: Door) -> None:
    with Reader(live, "/fails") as reader:
        received, _ = reader.to_the_end()
        assert b"first" in received and not received.endswith(b"0\r\n\r\n")
        assert b"secret" not in received
    if live[0] == "http":
        with Reader(live, "/fails", "1.0") as reader:
            received, was_reset = reader.to_the_end()
            assert b"secret" not in received and was_reset
    wait_for(lambda: "LookupError: a secret" in output(live[2]), what="the line in the log")


def test_the_iterator_is_not_asked_on_while_the_client_reads_nothing(live: Door) -> None:
    """256 MiB, to a client that stops to read in between: the process does not grow, and all of it arrives."""
    key, pieces = f"large-{live[0]}", 4096
    with Reader(live, f"/large/{pieces}?key={key}", "1.0", receive_buffer=1 << 16) as reader:
        reader.until(b"\r\n\r\n")
        assert settled(lambda: notes(live, key)[0]) < pieces / 4
        memory = int(ask(live, "GET", "/memory").content)
        left = pieces * 65536 - len(reader.received.partition(b"\r\n\r\n")[2])
        most = 0
        while left:
            data = reader.socket.recv(1 << 20)
            assert data, f"{left} bytes are missing"
            left -= len(data)
            if left // (1 << 26) != (left + len(data)) // (1 << 26):
                most = max(most, int(ask(live, "GET", "/memory").content))
        assert reader.socket.recv(1) == b""
    assert notes(live, key) == [pieces, "end"]
    assert most - memory < 24 << 20


def test_other_clients_are_answered_while_one_does_not_read(live: Door) -> None:
    with Reader(live, f"/large/128?key=stuck-{live[0]}", receive_buffer=1 << 14) as reader:
        reader.until(b"\r\n\r\n")
        for _ in range(20):
            assert ask(live, "GET", "/notes/nothing").content == b"[]"
        if live[0] == "mongrel2":  # which may give what is left to the next client (its task/fd.c)
            reader.socket.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                reader.to_the_end()


def test_without_flow_control_a_stream_is_500_and_the_log_says_what_to_set() -> None:
    with Mongrel2With(download__flow_control=None) as mongrel2, behind_mongrel2(PROGRAM, mongrel2) as child:
        door = "without", mongrel2.port, child
        assert ask(door, "GET", "/burst/30").status == 500
        assert "'download.flow_control': 1" in output(child)
        assert ask(door, "GET", "/notes/nothing").content == b"[]"


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    ("program", "target", "size"), [("program:app", "/large/2000000", 2_000_000), (PROGRAM, "/large/32?key=a", 2 << 20)]
)
def test_a_new_handler_gives_whole_answers_on_a_connection_that_was_open_before_it_came(
    program: str, target: str, size: int, workers: str
) -> None:
    """Only with the first request of a connection Mongrel2 says how much may be on its way to the client."""
    with (
        Mongrel2() as mongrel2,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", mongrel2.port, timeout=60)) as client,
    ):
        with behind_mongrel2(program, mongrel2, "--workers", workers) as former:
            client.request("GET", "/nothing")
            assert client.getresponse().read() and (connection := client.sock)
            former.terminate()
            assert former.wait(60) == 0
        with behind_mongrel2(program, mongrel2, "--workers", workers):
            client.request("GET", target)
            assert len(client.getresponse().read()) == size
        assert client.sock is connection


def test_a_handshake_that_mongrel2_took_for_one_and_we_refuse_ends_the_connection() -> None:
    """Mongrel2 takes all that follows for frames of a WebSocket, whatever the answer was."""
    with Mongrel2() as mongrel2, behind_mongrel2(PROGRAM, mongrel2):
        client = http.client.HTTPConnection("127.0.0.1", mongrel2.port, timeout=60)
        with contextlib.closing(client):
            fields = {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
            client.request("GET", "/not-here", headers={"Upgrade": "websocket", "Connection": "Upgrade", **fields})
            response = client.getresponse()
            assert (response.status, response.getheader("Connection")) == (404, "close")
            assert response.read() and client.sock is None


def test_without_flow_control_answers_are_sent_whole_also_to_who_speaks_of_credits() -> None:
    with Mongrel2With(download__flow_control=None) as mongrel2, behind_mongrel2("program:app", mongrel2) as child:
        door = "without", mongrel2.port, child
        for target in ("/text/DOWNLOAD_CREDITS?DOWNLOAD_CREDITS=9", "/text/a"):
            assert ask(door, "GET", target, headers={"DOWNLOAD_CREDITS": "9"}).status == 200
            assert len(ask(door, "GET", "/large/1000000").content) == 1_000_000


def test_without_flow_control_files_are_sent_whole(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789" * 1_000_000)
    (tmp_path / "filing.py").write_text(
        f"from brubeck_lite import Brubeck\napp = Brubeck()\napp.static('/files', {str(tmp_path)!r})\n"
    )
    with Mongrel2With(download__flow_control=None) as mongrel2:
        options = ("--chdir", str(tmp_path))
        with behind_mongrel2("filing:app", mongrel2, *options) as child:
            response = ask(("without", mongrel2.port, child), "GET", "/files/file")
            assert response.content == b"0123456789" * 1_000_000


# Server-sent events


def test_events_as_they_are_sent(live: Door) -> None:
    response = ask(live, "GET", "/events")
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.content == (
        b":\n\ndata: text\n\n"
        b'data: {"a":1}\n\n'
        b"event: kind\nid: 7\nretry: 1500\ndata: two\ndata: lines\n\n"
    )


@pytest.mark.parametrize(
    ("event", "lines"),
    [
        (Event("x"), "data: x\n\n"),
        (Event(""), "data: \n\n"),
        (Event("a\nb\r\nc\rd"), "data: a\ndata: b\ndata: c\ndata: d\n\n"),
        (Event("a\n"), "data: a\ndata: \n\n"),
        (Event("\n"), "data: \ndata: \n\n"),
        (Event(" x"), "data:  x\n\n"),
        (Event(": no comment"), "data: : no comment\n\n"),
        (Event("é \u2028 \x85"), "data: é \u2028 \x85\n\n"),  # which end no line here
        (Event(["a", {"b": None}]), 'data: ["a",{"b":null}]\n\n'),
        (Event({"text": "a\nb"}), 'data: {"text":"a\\nb"}\n\n'),
        (Event("x", "kind"), "event: kind\ndata: x\n\n"),
        (Event("x", id="7"), "id: 7\ndata: x\n\n"),
        (Event("x", id=""), "id: \ndata: x\n\n"),  # forget the last one
        (Event("x", retry=0), "retry: 0\ndata: x\n\n"),
    ],
)
def test_the_lines_of_an_event(event: Event, lines: str) -> None:
    """HTML Standard, 9.2.5 and 9.2.6."""
    assert event.encode() == lines.encode()


@pytest.mark.parametrize("event", [Event("x", "a\nb"), Event("x", "a\rb"), Event("x", id="a\nb"), Event("x", id="\0")])
def test_an_event_that_could_pass_for_more_is_a_value_error(event: Event) -> None:
    with pytest.raises(ValueError, match="control character"):
        event.encode()


@pytest.mark.parametrize("name", ["é", "\u20ac", " 7", "7 ", "\xa07", "\ud800"])
def test_an_id_that_would_not_come_back_as_it_is_is_a_value_error(name: str) -> None:
    """Browsers send it as UTF-8 in a header field, which is Latin-1 here, and whose blanks around do not count."""
    with pytest.raises(ValueError, match="the id of an event"):
        Event("x", id=name).encode()


def test_last_event_id(live: Door) -> None:
    assert b"data: 42\n\n" in ask(live, "GET", "/last-event-id", headers={"Last-Event-ID": "42"}).content
    assert b"data: none\n\n" in ask(live, "GET", "/last-event-id").content


def test_heartbeats_while_there_is_nothing_to_tell(live: Door) -> None:
    with Reader(live, f"/heartbeats?key=heart-{live[0]}", "1.0") as reader:
        began = time.monotonic()
        reader.until(b":\n\ndata: first\n\n:\n\n:\n\n:\n\n")
        assert time.monotonic() - began > 0.8


def test_an_iterator_that_ends_with_what_is_no_exception_ends_the_stream(live: Door) -> None:
    with Reader(live, "/gives-up") as reader:
        received = reader.to_the_end()[0]
        assert b"first" in received and not received.endswith(b"0\r\n\r\n")


def test_a_stream_of_a_channel(live: Door) -> None:
    name = f"news-{live[0]}"
    with Reader(live, f"/channel/{name}", "1.0") as one, Reader(live, f"/channel/{name}", "1.0") as two:
        for reader in (one, two):
            assert reader.until(b":\n\n").endswith(b"\r\n\r\n:\n\n")
        wait_for(lambda: ask(live, "GET", f"/listeners/{name}").content == b"2", what="the subscribers")
        ask(live, "POST", f"/publish/{name}?times=3", b"news")
        for reader in (one, two):
            reader.until(b":\n\n" + b"data: news\n\n" * 3)
        ask(live, "POST", f"/publish/{name}", b"more")
        time.sleep(0.3)
        for reader in (one, two):
            assert reader.until(b"more\n\n").endswith(b"data: news\n\ndata: more\n\n")  # no heartbeat in between
    wait_for(lambda: ask(live, "GET", f"/listeners/{name}").content == b"0", what="their end")


@pytest.mark.parametrize("by", ["tpool", "thread"])
def test_what_a_thread_publishes_is_heard_by_all_who_wait(live: Door, by: str) -> None:
    name = f"threads-{by}-{live[0]}"
    with Reader(live, f"/channel/{name}?heartbeat=60", "1.0") as one, Reader(live, f"/poll/{name}", "1.0") as two:
        wait_for(lambda: ask(live, "GET", f"/listeners/{name}").content == b"2", what="the subscribers")
        ask(live, "POST", f"/publish/{name}?times=50&by={by}", b"news")
        one.until(b"data: news\n\n" * 50)
        two.until(b'{"message":"news"}')


def test_a_thread_that_publishes_too_much_drops_who_is_too_slow(live: Door) -> None:
    name = f"flood-{live[0]}"
    with Reader(live, f"/channel/{name}", "1.0", receive_buffer=4096) as reader:
        reader.until(b":\n\n")
        wait_for(lambda: ask(live, "GET", f"/listeners/{name}").content == b"1", what="the subscriber")
        ask(live, "POST", f"/publish/{name}?times=300&by=tpool", b"x" * 60_000)
        assert reader.to_the_end()[0].endswith(b"event: dropped\ndata: too slow\n\n")


def test_who_is_too_slow_for_a_channel_is_told_so(live: Door) -> None:
    name = f"fast-{live[0]}"
    with Reader(live, f"/channel/{name}", "1.0", receive_buffer=4096) as reader:
        reader.until(b":\n\n")
        wait_for(lambda: ask(live, "GET", f"/listeners/{name}").content == b"1", what="the subscriber")
        ask(live, "POST", f"/publish/{name}?times=300", b"x" * 60_000)
        assert ask(live, "GET", f"/listeners/{name}").content == b"0"
        received = reader.to_the_end()[0]
        assert received.endswith(b"event: dropped\ndata: too slow\n\n")
    wait_for(lambda: "was too slow: dropped" in output(live[2]), what="the line in the log")


def test_under_wsgi_streams_of_events_have_no_heartbeats_but_work() -> None:
    with behind_wsgi("gunicorn", PROGRAM) as port:
        door = ("gunicorn", port, None)
        assert ask(door, "GET", "/events").content.startswith(b":\n\ndata: text\n\n")  # type: ignore[arg-type]
        with Reader(door, "/channel/wsgi?heartbeat=60") as reader:  # type: ignore[arg-type]
            wait_for(lambda: ask(door, "GET", "/listeners/wsgi").content == b"1")  # type: ignore[arg-type]
            ask(door, "POST", "/publish/wsgi?by=thread&times=3", b"news")  # type: ignore[arg-type]
            for _ in range(3):
                reader.until(b"data: news\n\n")
                reader.received = reader.received.partition(b"data: news\n\n")[2]


def test_under_gevent_what_waits_holds_up_nobody_though_the_program_imports_eventlet() -> None:
    with behind_wsgi("gevent", "program_gevent:app") as port:
        door: Any = ("gevent", port, None)
        with Reader(door, "/channel/gevent?heartbeat=60") as one, Reader(door, "/poll/gevent") as two:
            wait_for(lambda: ask(door, "GET", "/listeners/gevent").content == b"2")
            assert ask(door, "GET", "/hash").content.startswith(b"scrypt$")
            ask(door, "POST", "/publish/gevent", b"news")
            one.until(b"data: news\n\n")
            two.until(b'{"message":"news"}')


def test_under_eventlet_wsgi_a_piece_is_there_before_the_iterator_goes_on() -> None:
    with behind_wsgi("eventlet", PROGRAM) as port:
        door: Any = ("eventlet", port, None)
        with Reader(door, "/gated?key=gate") as reader, Reader(door, "/channel/e?heartbeat=60") as listener:
            for piece in (b"first", b"second", b"third"):
                reader.until(piece)
                ask(door, "POST", "/open/gate", {b"first": b"second", b"second": b"third"}.get(piece, b"end"))
            wait_for(lambda: ask(door, "GET", "/listeners/e").content == b"1")
            ask(door, "POST", "/publish/e?by=tpool", b"news")
            listener.until(b"data: news\n\n")


# Channels, in threads


def test_a_subscription_gives_what_was_published_since_and_then_waits() -> None:
    channel = Channel()
    channel.publish("before")
    with channel.subscribe() as subscription:
        channel.publish("one")
        channel.publish({"two": 2})
        assert [subscription.get(0.01) for _ in range(3)] == ["one", {"two": 2}, None]
    channel.publish("after")
    assert subscription.get() is None and list(subscription) == []
    assert not subscription.was_dropped and not channel.subscriptions


def test_a_subscriber_that_waits_gets_all_that_comes_at_once_and_waits_on() -> None:
    channel, seen = Channel(), []

    def listen() -> None:
        with channel.subscribe() as subscription:
            for _ in range(4):
                began = time.monotonic()
                seen.append(subscription.get(1.5))
        assert time.monotonic() - began > 1
        seen.append("and waited")

    listener = threading.Thread(target=listen)
    listener.start()
    wait_for(lambda: channel.subscriptions)
    for message in ("one", "two", "three"):
        channel.publish(message)
    listener.join(60)
    assert seen == ["one", "two", "three", None, "and waited"]


def test_a_subscriber_with_too_many_messages_is_dropped_and_the_others_are_not() -> None:
    channel = Channel(size=3)
    slow, quick = channel.subscribe(), channel.subscribe()
    heard = []
    for number in range(5):
        channel.publish(number)
        heard.append(quick.get(0.01))
    assert heard == [0, 1, 2, 3, 4]
    assert slow.was_dropped and not quick.was_dropped
    assert list(slow) == [0, 1, 2]  # what it had already, then the end
    assert channel.subscriptions == {quick}


def test_iteration_over_a_subscription_ends_when_it_is_closed() -> None:
    channel, seen = Channel(), []
    subscription = channel.subscribe()
    listener = threading.Thread(target=lambda: seen.extend(subscription))
    listener.start()
    channel.publish("one")
    subscription.close()
    listener.join(60)
    assert seen == ["one"] and not listener.is_alive()


def test_what_subscribed_before_the_server_ran_may_be_waited_for_in_a_coroutine() -> None:
    app, channel, heard = Brubeck(), Channel(), []

    @app.on_start
    def start() -> None:
        subscription = channel.subscribe()
        app.spawn(lambda: heard.append(subscription.get()))

    app.post("/publish")(lambda request: channel.publish(request.body.decode()))
    with app.running() as server:
        try:
            with urlopen(f"{server.url}/publish", b"news", timeout=20) as response:
                assert response.status == 200
        finally:
            channel.publish("at the end")
        wait_for(lambda: heard, what="who subscribed")
    assert heard == ["news"]


def test_who_is_connected_to_a_stream_of_a_channel_hears_all_that_is_published_from_then_on() -> None:
    app, channel = Brubeck(), Channel()
    app.get("/")(lambda request: event_stream(channel, heartbeat=1))
    body: Any = app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *head: None)  # as a WSGI server does
    pieces = iter(body)
    assert next(pieces) == b":\n\n"
    channel.publish("news")
    assert next(pieces) == b"data: news\n\n"
    body.close()
    assert not channel.subscriptions


def test_a_stream_of_a_channel_ends_when_its_subscription_is_closed() -> None:
    app, channel = Brubeck(), Channel()
    app.get("/")(lambda request: event_stream(channel))
    body: Any = app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda *head: None)
    pieces = iter(body)
    assert next(pieces) == b":\n\n"
    (subscription,) = channel.subscriptions
    subscription.close()
    assert list(itertools.islice(pieces, 10)) == []


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_a_stream_of_a_channel_that_nobody_reads_leaves_no_subscription(method: str) -> None:
    app, channel = Brubeck(), Channel()
    app.get("/")(lambda request: event_stream(channel))
    with app.test().request(method, "/", stream=True) as answer:
        assert answer.status == 200
    assert not channel.subscriptions


def test_an_event_stream_is_an_answer_like_others() -> None:
    app = Brubeck()

    @app.route("/")
    def index(request: Request) -> Any:
        return event_stream(["one", Event("two", id="2")])

    answer = app.test().get("/")
    assert answer.text == ":\n\ndata: one\n\nid: 2\ndata: two\n\n"
    assert app.test().head("/").headers["Content-Type"] == "text/event-stream; charset=utf-8"


# Waiting


def test_a_handler_that_takes_too_long_is_ended_and_answered_with_503(live: Door) -> None:
    began = time.monotonic()
    response = ask(live, "GET", f"/slow?key=slow-{live[0]}")
    assert response.status == 503 and int(response.headers["Retry-After"]) > 0
    assert time.monotonic() - began > 0.4
    assert notes(live, f"slow-{live[0]}") == ["finally"]
    line = "WARNING slow took over 0.5 seconds on GET '/slow'"
    wait_for(lambda: line in output(live[2]), what="a line in the log")


def test_the_time_of_a_handler_does_not_count_for_the_stream_it_returned(live: Door) -> None:
    assert ask(live, "GET", "/slow-stream").content == b"first second"


def test_a_time_for_all_handlers_and_another_for_one() -> None:
    app = Brubeck(timeout=0.1)

    @app.route("/")
    def index(request: Request) -> str:
        return "quick"

    assert app.test().get("/").text == "quick"
    with pytest.raises(ValueError, match="timeout"):
        Brubeck(timeout=-1)


def test_a_long_poll(live: Door) -> None:
    name = f"poll-{live[0]}"
    with Reader(live, f"/poll/{name}") as reader:
        wait_for(lambda: ask(live, "GET", f"/listeners/{name}").content == b"1", what="the poll")
        ask(live, "POST", f"/publish/{name}", b"at last")
        reader.until(b'{"message":"at last"}')
    assert json.loads(ask(live, "GET", f"/poll/{name}?seconds=0.2").content) == {"message": None}


def test_what_waits_longer_than_mongrel2_likes_is_kept_alive(impatient: Door) -> None:
    """And what does not wait for us is not, by which we know that this Mongrel2 would have ended the others."""
    with (
        socket.create_connection(("127.0.0.1", impatient[1]), timeout=60) as idle,
        Reader(impatient, "/poll/kept?seconds=30") as poll,
        Reader(impatient, "/gated?key=kept") as stream,
        Reader(impatient, "/channel/kept") as events,
    ):
        websocket = socket.create_connection(("127.0.0.1", impatient[1]), timeout=60)
        websocket.sendall(
            b"GET /follow/kept HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert b" 101 " in websocket.recv(1000)
        began = time.monotonic()
        with contextlib.suppress(ConnectionResetError):
            assert idle.recv(1) == b""
        time.sleep(max(0.0, began + 7 - time.monotonic()))
        ask(impatient, "POST", "/publish/kept", b"at last")
        ask(impatient, "POST", "/open/kept", b"second")
        poll.until(b'{"message":"at last"}')
        stream.until(b"second")
        events.until(b"data: at last\n\n")
        assert websocket.recv(1000) == b"\x81\x07at last"
        websocket.close()


# The end of the server


def test_a_server_that_stops_waits_ten_seconds_for_streams_and_then_their_clients_see_the_end(live: Door) -> None:
    """The last test with this process."""
    with Reader(live, f"/gated?key=stop-{live[0]}") as reader, Reader(live, "/waits?key=stop") as other:
        reader.until(b"first")
        other.until(b"first")
        os.kill(live[2].pid, signal.SIGTERM)
        wait_for(lambda: "stopping:" in output(live[2]), what="the signal")
        received, _ = other.to_the_end()
        assert not received.endswith(b"0\r\n\r\n")
        reader.to_the_end()
    assert live[2].wait(60) == 0


def test_events_that_a_stop_cuts_in_the_middle_do_not_look_whole(tmp_path: Path) -> None:
    (tmp_path / "large.py").write_text(
        "from brubeck_lite import Brubeck, event_stream\n"
        "app = Brubeck()\n"
        "app.get('/')(lambda request: event_stream(iter(lambda: 'x' * 8_000_000, None)))\n"
    )
    port = free_port()
    command = [sys.executable, "-m", "brubeck_lite", "large:app", "--bind", f"127.0.0.1:{port}"]
    with process(command, cwd=tmp_path) as child:
        wait_for(lambda: "serving" in output(child), what="the server")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = client.recv(1000)
            child.terminate()
            wait_for(lambda: "stopping" in output(child), what="the stop")
            time.sleep(0.7)  # it ends its streams a little later
            with contextlib.suppress(ConnectionError):
                while piece := client.recv(1 << 20):
                    received = received[-20:] + piece
        assert received.endswith(b"\n\n\r\n0\r\n\r\n") or not received.endswith(b"0\r\n\r\n")  # behind a whole event
        assert child.wait(60) == 0


@pytest.mark.parametrize("source", [None, 5, "text", b"bytes", {"a": 1}, Event("one"), lambda: []])
def test_a_source_of_events_that_is_none_is_an_error_where_it_is_written(source: Any) -> None:
    with pytest.raises(TypeError, match="event_stream is given a list or an iterator of events, or a Channel, not"):
        event_stream(source)
