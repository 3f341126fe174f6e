"""The embedded server over raw sockets: each row of the table "The wire", and how connections live and end."""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import pytest
from support import ROOT, free_port, listens, needs_ipv6, output, process, wait_for

from brubeck_lite import HTTPConnection

HOST = b"Host: x\r\n"
GET = b"GET / HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET / HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"
CHUNKED = b"POST /body HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + HOST + b"\r\n"


def wire(port: int, **settings: Any) -> Any:
    """wire.py as a process on a port, with settings; it may not listen yet."""
    return process([sys.executable, str(ROOT / "tests" / "wire.py"), str(port), json.dumps(settings)])


@contextlib.contextmanager
def serving(**settings: Any) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """wire.py with these settings: its port and process."""
    port = free_port()
    with wire(port, **settings) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what="the server")
        assert child.poll() is None, output(child)
        yield port, child


@pytest.fixture(scope="module")
def server() -> Iterator[int]:
    with serving() as (port, _):
        yield port


@pytest.fixture(scope="module")
def hasty() -> Iterator[int]:
    """One whose every deadline is a second."""
    with serving(head_timeout=1, io_timeout=1, keep_alive=1) as (port, _):
        yield port


def connect(port: int, seconds: float = 60.0) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=seconds)


def read_all(client: socket.socket) -> tuple[bytes, str]:
    """What comes until the end, and which end: "closed", "reset" or, where there is none, "open"."""
    received = b""
    try:
        while piece := client.recv(65536):
            received += piece
    except TimeoutError:
        return received, "open"
    except ConnectionResetError:
        return received, "reset"
    return received, "closed"


def read_answer(client: socket.socket, method: bytes = b"GET") -> tuple[int, bytes]:
    """One answer, as h11 reads it: status and body."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target=b"/", headers=[(b"Host", b"x")]))
    status, body = 0, b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(client.recv(1))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return status, body


def ask(port: int, data: bytes, seconds: float = 60.0) -> tuple[bytes, str]:
    with connect(port, seconds) as client:
        client.sendall(data)
        return read_all(client)


def statuses(received: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", received)]


def served_as_ever(port: int) -> bool:
    return ask(port, LAST)[0].endswith(b"\r\n\r\nTake five!")


def post(fields: bytes, body: bytes = b"") -> bytes:
    return b"POST /body HTTP/1.1\r\n" + HOST + fields + b"\r\n" + body


# Each row of the table

REFUSED = {
    "length +5": (post(b"Content-Length: +5\r\n", b"hello"), 400),
    "length 1_0": (post(b"Content-Length: 1_0\r\n", b"helloworld"), 400),
    "length -1": (post(b"Content-Length: -1\r\n"), 400),
    "length 0x5": (post(b"Content-Length: 0x5\r\n", b"hello"), 400),
    "two lengths": (post(b"Content-Length: 5\r\nContent-Length: 6\r\n", b"hello!"), 400),
    "length beside chunks": (post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 400),
    "xchunked": (post(b"Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n"), 501),
    "chunked, identity": (post(b"Transfer-Encoding: chunked, identity\r\n", b"0\r\n\r\n"), 501),
    "gzip, chunked": (post(b"Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n"), 501),
    "chunk 0x5": (CHUNKED + b"0x5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk +5": (CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk -5": (CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk of 17 digits": (CHUNKED + b"0" * 16 + b"5\r\nhello\r\n0\r\n\r\n", 400),
    "chunk with bare LF": (CHUNKED + b"5\nhello\n0\n\n", 400),
    "data without CRLF": (CHUNKED + b"5\r\nhelloworld\r\n0\r\n\r\n", 400),
    "extension without end": (CHUNKED + b"5;" + b"x" * 2000, 400),
    "extensions without end": (CHUNKED + (b"1;" + b"x" * 900 + b"\r\nx\r\n") * 20, 400),
    "trailers without end": (CHUNKED + b"0\r\n" + b"T: x\r\n" * 2000, 400),
    "a trailer that is none": (CHUNKED + b"0\r\nbad\r\n\r\n", 400),
    "space before colon": (b"GET / HTTP/1.1\r\nName : x\r\n" + HOST + b"\r\n", 400),
    "no colon": (b"GET / HTTP/1.1\r\nName\r\n" + HOST + b"\r\n", 400),
    "a fold": (b"GET / HTTP/1.1\r\nName: a\r\n b\r\n" + HOST + b"\r\n", 400),
    "lone CR": (b"GET / HTTP/1.1\r\nName: a\rb\r\n" + HOST + b"\r\n", 400),
    "NUL": (b"GET / HTTP/1.1\r\nName: a\0b\r\n" + HOST + b"\r\n", 400),
    "control character": (b"GET / HTTP/1.1\r\nName: a\x01b\r\n" + HOST + b"\r\n", 400),
    "a name with (": (b"GET / HTTP/1.1\r\nNa(me: x\r\n" + HOST + b"\r\n", 400),
    "an empty name": (b"GET / HTTP/1.1\r\n: x\r\n" + HOST + b"\r\n", 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\n" + HOST * 2 + b"\r\n", 400),
    "Host with @": (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    "Host with /": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "Host with space": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "HTTP/1.0 with chunks": (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "bare LF": (b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "HTTP/3.7": (b"GET / HTTP/3.7\r\n" + HOST + b"\r\n", 505),
    "HTTP/2.0": (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 505),
    "two empty lines first": (b"\r\n\r\n" + GET, 400),
    "no leading /": (b"GET index HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "GET *": (b"GET * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "CONNECT": (b"CONNECT x:443 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "a head over 64 KiB": (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"y" * 70_000 + b"\r\n\r\n", 431),
    "101 fields": (b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 100 + b"\r\n", 431),
    "a target over 8 KiB": (b"GET /" + b"x" * 8192 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "a target without end": (b"GET /" + b"x" * 20_000, 414),
    "another expectation": (post(b"Expect: 200-ok\r\nContent-Length: 5\r\n", b"hello"), 417),
    "a body over the limit": (post(b"Content-Length: 2000000\r\n", b"x" * 10), 413),
    "a chunked body over the limit": (CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (1300000, b"x" * 1300000), 413),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_with_a_reason_and_the_connection_closes(server: int, what: str) -> None:
    sent, status = REFUSED[what]
    received, end = ask(server, sent + LAST)
    assert statuses(received) == [status]
    assert end == "closed" and b"\r\nConnection: close\r\n" in received
    head, _, body = received.partition(b"\r\n\r\n")
    assert body.startswith(b"%d " % status) and body.count(b"\n") == 2 and b"Traceback" not in body
    assert int(re.search(rb"Content-Length: (\d+)", head)[1]) == len(body)  # type: ignore[index]
    assert served_as_ever(server)


@pytest.mark.parametrize(
    ("first", "found"),
    [
        (b"\r\n" + GET, [200, 200]),
        (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", [405, 200]),
        (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", [200, 200]),
        (b"GET http://other:80/ HTTP/1.1\r\n" + HOST + b"\r\n", [200, 200]),
        (b"GET /%ff HTTP/1.1\r\n" + HOST + b"\r\n", [400, 200]),
        (b"GET /%00 HTTP/1.1\r\n" + HOST + b"\r\n", [400, 200]),
        (b"GET /%zz HTTP/1.1\r\n" + HOST + b"\r\n", [404, 200]),
        (GET * 5, [200] * 6),
        (post(b"Content-Length: 5\r\n", b"hello") + CHUNKED + b"5\r\nhello\r\n0\r\nT: x\r\n\r\n", [200] * 3),
        (b"POST /unread HTTP/1.1\r\nContent-Length: 60000\r\n" + HOST + b"\r\n" + b"x" * 60000, [200, 200]),
        (CHUNKED.replace(b"/body", b"/unread") + b"5\r\nhello\r\n0\r\n\r\n", [200, 200]),
        (b"GET /wait/0.2 HTTP/1.1\r\n" + HOST + b"\r\n", [200, 200]),
    ],
)
def test_the_connection_lives_on(server: int, first: bytes, found: list[int]) -> None:
    received, end = ask(server, first + LAST)
    assert (statuses(received), end) == (found, "closed")
    assert received.endswith(b"Take five!")


def test_pipelined_requests_are_answered_in_order(server: int) -> None:
    waits = [b"0.3", b"0.0", b"0.1", b"0.0"]
    sent = b"".join(b"GET /wait/%b HTTP/1.1\r\n%b\r\n" % (seconds, HOST) for seconds in waits)
    assert re.findall(rb"waited ([\d.]+)", ask(server, sent + LAST)[0].replace(b"HTTP", b" ")) == waits


def test_the_host_of_an_absolute_target_is_used_and_names_with_an_underscore_are_dropped(server: int) -> None:
    sent = b"GET http://other:81/headers HTTP/1.1\r\nHost: x\r\nA_b: 1\r\nA-C: 2\r\nConnection: close\r\n\r\n"
    seen = json.loads(ask(server, sent)[0].partition(b"\r\n\r\n")[2])
    assert seen == {"host": "other:81", "HOST": "other:81", "a-c": "2", "connection": "close"}


@pytest.mark.parametrize("size", [100_000, 5_000_000, 60_000_000])
def test_a_large_body_that_nobody_reads_takes_no_answer_from_the_client(server: int, size: int) -> None:
    with connect(server) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(b"POST /unread HTTP/1.1\r\nContent-Length: %d\r\n%b\r\n" % (size, HOST) + b"x" * size)
        received, _ = read_all(client)
    assert statuses(received) == [413 if size > 1 << 20 else 200] and b"Connection: close" in received


def test_a_large_body_that_comes_slowly_and_that_nobody_reads_takes_no_answer_from_the_client(server: int) -> None:
    with connect(server) as client:
        client.sendall(b"POST /unread HTTP/1.1\r\nContent-Length: %d\r\n%b\r\n" % (10 << 20, HOST))
        began = time.monotonic()
        while time.monotonic() - began < 4:  # a client that reads only when all is sent
            client.sendall(b"x" * 1000)
            time.sleep(0.02)
        assert statuses(read_all(client)[0]) == [413]


def test_every_answer_has_one_date_and_one_server(server: int) -> None:
    for sent in (LAST, b"nonsense\r\n\r\n", b"GET /missing HTTP/1.0\r\n\r\n"):
        head = ask(server, sent)[0].partition(b"\r\n\r\n")[0]
        assert head.count(b"\r\nDate: ") == head.count(b"\r\nServer: ") == 1


@pytest.mark.parametrize(
    ("method", "target"),
    [*(("HEAD", target) for target in ("/", "/status/204", "/status/304", "/pieces", "/missing", "/declared/10")),
     ("GET", "/status/204"), ("GET", "/status/304")],
)  # fmt: skip
def test_head_204_and_304_never_have_a_body(server: int, method: str, target: str) -> None:
    received = ask(server, f"{method} {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode() + LAST)[0]
    assert received.partition(b"\r\n\r\n")[2].startswith(b"HTTP/1.1 200 OK")


# Bodies


def test_a_hundred_is_sent_when_the_body_is_first_read(server: int) -> None:
    with connect(server) as client:
        client.sendall(post(b"Expect: 100-Continue\r\nContent-Length: 5\r\n"))
        assert client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"hello")
        assert read_answer(client, b"POST")[1].startswith(b"5 ")
        client.sendall(post(b"Expect: 100-continue\r\nContent-Length: 5\r\n", b"hello"))
        assert client.recv(13) == b"HTTP/1.1 200 "  # for what is there nobody has to ask


@pytest.mark.parametrize(("target", "status"), [(b"/unread", 200), (b"/missing", 404)])
def test_no_hundred_is_sent_for_a_body_that_is_not_read(server: int, target: bytes, status: int) -> None:
    sent = b"POST %b HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n%b\r\n" % (target, HOST)
    received, end = ask(server, sent)
    assert (statuses(received), end) == ([status], "closed")


def test_no_hundred_is_sent_amid_an_answer(server: int) -> None:
    with connect(server) as client:
        client.sendall(post(b"Expect: 100-continue\r\nContent-Length: 5\r\n").replace(b"/body", b"/answers-first"))
        received = b""
        while b"first, " not in received:
            received += client.recv(65536)
        time.sleep(0.2)
        client.sendall(b"hello")
        received += read_all(client)[0]
    assert received.endswith(b"\r\n\r\n7\r\nfirst, \r\n5\r\nhello\r\n0\r\n\r\n")


@pytest.mark.parametrize("prefix", [b"", b"/mounted"])
def test_a_body_that_is_asked_for_after_the_answer_is_not_that_of_the_next_request(prefix: bytes) -> None:
    with serving() as (port, child), connect(port) as client:
        client.sendall(b"GET %b/reads-later HTTP/1.1\r\n%b\r\n" % (prefix, HOST))
        assert read_answer(client) == (200, b"answered")
        client.sendall(post(b"Content-Length: 5\r\n", b"he").replace(b"/body", b"/waits-first"))
        wait_for(lambda: " later: " in output(child), what="what was spawned")
        client.sendall(b"llo")
        assert read_answer(client, b"POST") == (200, b"hello")
        assert "refused later: the request is over" in output(child)


def test_a_body_over_the_limit_is_refused_before_any_hundred(server: int) -> None:
    received, end = ask(server, post(b"Expect: 100-continue\r\nContent-Length: 2000000\r\n"))
    assert (statuses(received), end) == ([413], "closed") and b"1048576" in received


def test_a_body_may_come_as_slowly_as_its_pieces_and_be_sent_back_as_it_comes(server: int) -> None:
    with connect(server) as client:
        client.sendall(CHUNKED.replace(b"/body", b"/mirror") + b"2710\r\n" + b"a" * 10_000 + b"\r\n")
        received = b""
        while b"aaaa" not in received:
            received += client.recv(65536)
        client.sendall(b"5\r\nbbbbb\r\n0\r\n\r\n")
        while not received.endswith(b"\r\n0\r\n\r\n"):
            received += client.recv(65536)
    assert received.endswith(b"5\r\nbbbbb\r\n0\r\n\r\n")


def test_a_body_that_ends_early_is_refused(server: int) -> None:
    with connect(server) as client:
        client.sendall(post(b"Content-Length: 5\r\n", b"hel"))
        client.shutdown(socket.SHUT_WR)
        received, end = read_all(client)
    assert (statuses(received), end) == ([400], "closed") and b"ended early" in received


# Streams


def test_pieces_are_sent_as_chunks(server: int) -> None:
    received = ask(server, b"GET /pieces HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n")[0]
    assert received.partition(b"\r\n\r\n")[2] == b"3\r\none\r\n3\r\ntwo\r\n5\r\nthree\r\n0\r\n\r\n"
    assert b"\r\nTransfer-Encoding: chunked\r\n" in received


def test_http_1_0_gets_pieces_until_the_connection_closes(server: int) -> None:
    received, end = ask(server, b"GET /pieces HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert (received.partition(b"\r\n\r\n")[2], end) == (b"onetwothree", "closed")
    assert b"Transfer-Encoding" not in received


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_an_iterator_that_fails_later_ends_in_a_reset(server: int, version: bytes) -> None:
    received, end = ask(server, b"GET /fails-later HTTP/" + version + b"\r\n" + HOST + b"\r\n")
    assert end == "reset" and not received.endswith(b"0\r\n\r\n") and b"secret" not in received
    assert served_as_ever(server)


@pytest.mark.parametrize("size", [5, 9, 11, 500])
def test_a_body_that_belies_its_content_length_never_reaches_the_next_answer(size: int) -> None:
    with serving() as (port, child):
        received, end = ask(port, b"GET /declared/%d HTTP/1.1\r\n%b\r\n" % (size, HOST) + LAST)
        assert end == "reset" and b"Take five" not in received
        assert len(received.partition(b"\r\n\r\n")[2]) <= size
        wait_for(lambda: f"than its Content-Length of {size} bytes" in output(child), what="the log")
        assert served_as_ever(port)


def test_a_body_with_its_right_content_length_is_not_chunked(server: int) -> None:
    received, _ = ask(server, b"GET /declared/10 HTTP/1.1\r\n" + HOST + b"\r\n" + LAST)
    assert b"Content-Length: 10\r\n" in received and b"chunked" not in received
    assert b"\r\n\r\n1234567890HTTP/1.1 200 OK" in received


# Deadlines


def test_a_head_that_dribbles_is_answered_408(hasty: int) -> None:
    with connect(hasty) as client:
        began = time.monotonic()
        with contextlib.suppress(ConnectionError):
            for octet in (GET * 10)[:-2]:
                client.sendall(bytes([octet]) if octet != 10 else b"\n")
                time.sleep(0.1)
                if time.monotonic() - began > 2.5:
                    break
        received, _ = read_all(client)
    assert statuses(received)[-1:] == [408] or statuses(received) == [200, 408]


def test_a_head_that_stops_is_answered_408(hasty: int) -> None:
    received, end = ask(hasty, GET[:-1])
    assert (statuses(received), end) == ([408], "closed")


@pytest.mark.parametrize("sent", [b"", GET])
def test_an_idle_connection_is_closed_without_a_word(hasty: int, sent: bytes) -> None:
    received, end = ask(hasty, sent)
    assert (statuses(received), end) == ([200] if sent else [], "closed")


@pytest.mark.parametrize("body", [b"", b"hel"])
def test_a_body_that_stops_is_answered_408(hasty: int, body: bytes) -> None:
    received, end = ask(hasty, post(b"Content-Length: 5\r\n", body))
    assert (statuses(received), end) == ([408], "closed")


@pytest.mark.parametrize("framing", [b"Content-Length: 90000\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_slower_than_a_kilobyte_a_second_is_answered_408(hasty: int, framing: bytes) -> None:
    piece = b"x" * 50 if b"Length" in framing else b"1\r\nx\r\n"
    with connect(hasty) as client:
        client.sendall(post(framing))
        with contextlib.suppress(ConnectionError):
            for _ in range(12):
                client.sendall(piece)
                time.sleep(0.25)
        assert statuses(read_all(client)[0]) == [408]


def test_a_handler_may_take_longer_than_any_deadline(hasty: int) -> None:
    assert statuses(ask(hasty, b"GET /wait/2.5 HTTP/1.1\r\n" + HOST + b"\r\n" + LAST)[0]) == [200, 200]


def test_a_client_that_never_reads_is_dropped() -> None:
    with serving(io_timeout=1) as (port, child), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /large/50000000 HTTP/1.1\r\n" + HOST + b"\r\n")
        open_files = Path(f"/proc/{child.pid}/fd")
        assert client.recv(1, socket.MSG_PEEK) == b"H"
        wait_for(lambda: not has_socket_to(open_files, client), what="its end")
        received, end = read_all(client)
        assert end == "reset" and len(received) < 50_000_000
        assert served_as_ever(port)


def has_socket_to(open_files: Path, client: socket.socket) -> bool:
    """Whether the process of these open files has the other end of this connection."""
    port = client.getsockname()[1]
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inodes = {row[9] for row in rows if row[2].endswith(f":{port:04X}")}
    links = set()
    for entry in open_files.iterdir():
        with contextlib.suppress(OSError):
            links.add(str(entry.readlink()))
    return any(f"socket:[{inode}]" in links for inode in inodes)


def test_a_thousand_dribbling_clients_disturb_nobody_and_are_gone_by_the_deadline() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4000)), hard))
    count = min(1000, min(hard, 4000) - 300)
    with serving(head_timeout=3) as (port, _):
        clients = [connect(port) for _ in range(count)]
        try:
            for octet in b"GET":
                for client in clients:
                    with contextlib.suppress(ConnectionError):  # on a busy machine its deadline may be over
                        client.sendall(bytes([octet]))
                assert served_as_ever(port)
                time.sleep(0.5)
            ends = [read_all(client) for client in clients]
        finally:
            for client in clients:
                client.close()
        assert all(statuses(received) == [408] for received, _ in ends)


# Bounds


def test_max_connections_bounds_them_and_the_next_waits_for_one_to_leave() -> None:
    with serving(max_connections=2) as (port, _):
        first, second, third = (connect(port) for _ in range(3))
        for client in (first, second):
            client.sendall(GET)
            assert read_answer(client) == (200, b"Take five!")
        third.sendall(GET)
        third.settimeout(0.5)
        with pytest.raises(TimeoutError):
            third.recv(1)
        first.close()
        third.settimeout(60)
        assert read_answer(third) == (200, b"Take five!")
        second.close()
        third.close()


def test_too_many_open_files_are_waited_for() -> None:
    with serving() as (port, child):
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (40, 40))
        clients = [connect(port) for _ in range(60)]
        wait_for(lambda: "cannot accept connections for now" in output(child), what="the log")
        time.sleep(1.5)
        assert output(child).count("cannot accept connections") == 1
        for client in clients:
            client.close()
        assert served_as_ever(port) and child.poll() is None


def test_what_finds_no_room_in_the_pool_waits_and_beyond_that_gets_503() -> None:
    with serving(pool_size=1, max_waiting=1) as (port, _):
        idle = [connect(port) for _ in range(10)]  # which do not count
        clients = [connect(port) for _ in range(3)]
        for client in clients:
            client.sendall(b"GET /wait/0.7 HTTP/1.1\r\n" + HOST + b"\r\n")
        assert sorted(read_answer(client)[0] for client in clients) == [200, 200, 503]
        assert served_as_ever(port)
        for client in idle + clients:
            client.close()


def test_an_answer_does_not_wait_for_a_pipelined_request_that_waits_for_a_place_in_the_pool(tmp_path: Path) -> None:
    until = f"GET /until{tmp_path}/done HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with serving(pool_size=1) as (port, child), connect(port) as first, connect(port, 10) as second:
        first.sendall(b"GET /wait/0.5 HTTP/1.1\r\n" + HOST + b"\r\n")
        wait_for(lambda: "begins to wait" in output(child), what="the first request")
        second.sendall(GET + until)
        assert read_answer(second) == (200, b"Take five!")
        (tmp_path / "done").touch()
        assert read_answer(second) == (200, b"it is there")


# Addresses


@needs_ipv6
def test_it_listens_on_ipv6() -> None:
    port = free_port()
    with wire(port, address=f"[::1]:{port}") as child:
        wait_for(lambda: f"serving http://[::1]:{port}" in output(child), what="the server")
        with socket.create_connection(("::1", port), timeout=60) as client:
            client.sendall(LAST)
            assert read_all(client)[0].endswith(b"Take five!")


def test_it_listens_on_a_unix_socket_that_it_takes_away_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with wire(0, address=f"unix:{path}") as child:
        wait_for(lambda: f"serving unix:{path}" in output(child), what="the server")
        for _ in range(2):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(path))
                client.sendall(LAST)
                assert read_all(client)[0].endswith(b"Take five!")
        with wire(0, address=f"unix:{path}") as second:
            assert second.wait(60) == 2 and "Address already in use" in output(second)
        assert path.exists()
        child.terminate()
        assert child.wait(60) == 0
    assert not path.exists()


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]])
def test_a_unix_socket_is_for_every_user_whatever_the_umask(tmp_path: Path, workers: list[str]) -> None:
    path = tmp_path / "socket"
    command = [sys.executable, "-m", "brubeck_lite", "wire:app", "--bind", f"unix:{path}", *workers]
    with process(command, umask=0o077) as child:
        wait_for(lambda: f"serving unix:{path}" in output(child), what="the server")
        assert stat.S_IMODE(path.stat().st_mode) == 0o666
        assert child.poll() is None


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777])
def test_a_unix_socket_has_the_mode_that_the_program_says(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "socket"
    with wire(0, address=f"unix:{path}", mode=mode) as child:
        wait_for(lambda: f"serving unix:{path}" in output(child), what="the server")
        assert stat.S_IMODE(path.stat().st_mode) == mode
        umask = os.umask(0)
        os.umask(umask)
        assert f"Umask:\t{umask:04o}" in Path(f"/proc/{child.pid}/status").read_text()  # as it was


@pytest.mark.parametrize("mode", [-1, 0o1000, 0o10666])
def test_a_mode_that_is_none_is_an_error(mode: int) -> None:
    with pytest.raises(ValueError, match="mode"):
        HTTPConnection("unix:/run/hello", mode=mode)


def test_the_mode_of_a_program_holds_with_workers_too(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    (tmp_path / "closed.py").write_text(
        "from brubeck_lite import Brubeck, HTTPConnection\n"
        f"app = Brubeck(HTTPConnection('unix:{path}', mode=0o600))\n"
    )
    with process([sys.executable, "-m", "brubeck_lite", "closed:app", "--workers", "1"], cwd=tmp_path) as child:
        wait_for(lambda: f"serving unix:{path}" in output(child), what="the server")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("form", [":{}", "{}", "0.0.0.0:{}"])
def test_an_address_without_a_host_is_every_ipv4_address(form: str) -> None:
    port = free_port()
    with wire(port, address=form.format(port)) as child:
        wait_for(lambda: f"serving http://0.0.0.0:{port}" in output(child), what="the server")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(LAST)
            assert read_all(client)[0].endswith(b"Take five!")


@needs_ipv6
@pytest.mark.parametrize("workers", [[], ["--workers", "1"]])
def test_every_ipv6_address_is_every_ipv4_address_too_and_clients_have_their_own(workers: list[str]) -> None:
    port = free_port()
    command = [sys.executable, "-m", "brubeck_lite", "program:app", "--bind", f"[::]:{port}", "--access-log", *workers]
    with process(command) as child:
        wait_for(lambda: f"serving http://[::]:{port}" in output(child), what="the server")
        for address in ("127.0.0.1", "::1"):
            with socket.create_connection((address, port), timeout=60) as client:
                client.sendall(b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                assert f'"remote_addr":"{address}"'.encode() in read_all(client)[0]
            wait_for(lambda address=address: f"\n{address} - - [" in output(child), what="the log")


@needs_ipv6
def test_one_ipv6_address_is_no_ipv4_address() -> None:
    port = free_port()
    with wire(port, address=f"[::1]:{port}") as child:
        wait_for(lambda: f"serving http://[::1]:{port}" in output(child), what="the server")
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


@pytest.mark.parametrize("address", ["", ":", "a", "127.0.0.1", "127.0.0.1:", "::1:80", "::", ":::80",
                                     "127.0.0.1:65536", "65536", ":65536", " 80", "80 ", "-1", "[]:80",
                                     "[::1]", "http://127.0.0.1:80", "a b:80", "unix:", "127.0.0.1:80/x"])  # fmt: skip
def test_what_is_no_address_is_an_error(address: str) -> None:
    with pytest.raises(ValueError, match="not an address"):
        HTTPConnection(address)


@pytest.mark.parametrize(
    "settings", [{"head_timeout": 0}, {"io_timeout": -1}, {"keep_alive": 0}, {"max_connections": 0}]
)
def test_settings_that_make_no_sense_are_errors(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        HTTPConnection("127.0.0.1:6767", **settings)


# The end


def test_a_signal_closes_idle_connections_at_once_and_lets_answers_finish(tmp_path: Path) -> None:
    with serving() as (port, child), connect(port) as idle, connect(port) as fresh, connect(port) as busy:
        idle.sendall(GET)
        assert read_answer(idle) == (200, b"Take five!")
        busy.sendall(f"GET /until{tmp_path}/then HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_for(lambda: "begins to wait" in output(child), what="the handler")
        child.terminate()
        assert read_all(idle) == (b"", "closed") and read_all(fresh) == (b"", "closed")
        (tmp_path / "then").touch()
        received, end = read_all(busy)
        assert end == "closed" and received.endswith(b"it is there") and b"\r\nConnection: close\r\n" in received
        assert child.wait(60) == 0
        with pytest.raises(OSError):
            connect(port)


def test_a_second_signal_ends_at_once() -> None:
    with serving() as (port, child), connect(port) as client:
        client.sendall(b"GET /wait/9.0 HTTP/1.1\r\n" + HOST + b"\r\n")
        wait_for(lambda: "begins to wait" in output(child), what="the handler")
        child.send_signal(signal.SIGINT)
        wait_for(lambda: "stopping" in output(child), what="the first signal")
        assert child.poll() is None
        child.send_signal(signal.SIGINT)
        assert child.wait(60) == 0
        assert read_all(client)[0] == b""  # nobody waited for the answer


@pytest.mark.parametrize("keeps_alive", [True, False])
def test_a_signal_under_load_loses_nothing(keeps_alive: bool) -> None:
    answered, lost = [0], list[str]()

    def load() -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while True:
            is_new = client.sock is None
            try:
                if is_new:
                    client.connect()
            except OSError:
                return  # it no longer listens
            try:
                client.request("GET", "/wait/0.01")
                response = client.getresponse()
                assert response.read() == b"waited 0.01"
                answered[0] += 1
                if not keeps_alive:
                    client.close()
            except (http.client.RemoteDisconnected, ConnectionError) as error:
                client.close()
                if is_new:  # on an idle connection that is being closed a client must be ready to try again
                    lost.append(repr(error))

    with serving() as (port, child):
        threads = [threading.Thread(target=load) for _ in range(8)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        child.terminate()
        assert child.wait(60) == 0
        for thread in threads:
            thread.join(15)
    assert answered[0] > 50 and not lost


def test_a_handler_can_see_that_its_client_has_left() -> None:
    with serving() as (port, child):
        with connect(port) as client:
            client.sendall(b"GET /leaving HTTP/1.1\r\n" + HOST + b"\r\n")
            time.sleep(0.5)
        wait_for(lambda: "connected: False" in output(child), what="the handler to see it")


def test_a_half_closed_client_that_is_asked_for_gets_all_of_its_pipelined_answers() -> None:
    with serving() as (port, child), connect(port) as client:
        child.send_signal(signal.SIGSTOP)  # until all has come, and its end
        client.sendall(GET.replace(b"/ ", b"/connected ") + GET)
        client.shutdown(socket.SHUT_WR)
        child.send_signal(signal.SIGCONT)
        assert read_answer(client) == (200, b"connected: True")
        assert read_answer(client) == (200, b"Take five!")


def test_a_client_that_leaves_after_pipelined_requests_is_missed() -> None:
    with serving() as (port, child):
        with connect(port) as client:
            client.sendall(GET + GET + b"GE")
            assert [read_answer(client)[0] for _ in range(2)] == [200, 200]
            client.sendall(b"T /cancelled HTTP/1.1\r\n" + HOST + b"\r\n")
            wait_for(lambda: "begins to wait" in output(child), what="the request")
        wait_for(lambda: "ended" in output(child), what="its end")
        assert "ended early" in output(child)


def test_the_access_log_has_refused_heads_too_and_nothing_a_client_could_inject(tmp_path: Path) -> None:
    port = free_port()
    line = [sys.executable, "-m", "brubeck_lite", "wire:app", "--bind", f"127.0.0.1:{port}", "--access-log"]
    with process(line) as child:
        wait_for(lambda: listens(port), what="the server")
        ask(port, b'GET /%0d%0aforged HTTP/1.1\r\nUser-Agent: a\x85\xff" \\\r\nConnection: close\r\n' + HOST + b"\r\n")
        ask(port, b"no\nHTTP\r\n\r\n")
        wait_for(lambda: output(child).count(" 400 ") == 2, what="the lines")
        lines = [line for line in output(child).splitlines() if line.startswith("127.0.0.1 - - ")]
    assert len(lines) == 2 and all(line.isascii() and line.count('"') == 6 for line in lines)
    assert '"GET /%0D%0Aforged HTTP/1.1" 400 ' in lines[0] and '"- - HTTP/1.1" 400 ' in lines[1]


def test_what_is_done_is_gone_and_nothing_is_left_to_the_garbage_collector() -> None:
    def garbage() -> int:
        with connect(port) as client:
            client.sendall(b"GET /garbage HTTP/1.1\r\n" + HOST + b"\r\n")
            return int(read_answer(client)[1])

    with serving() as (port, _):
        served_as_ever(port)
        garbage()
        for _ in range(30):
            ask(
                port,
                GET + post(b"Content-Length: 5\r\n", b"hello") + b"GET /missing HTTP/1.1\r\n" + HOST + b"\r\n" + LAST,
            )
            ask(port, b"GET /pieces-that-are-none HTTP/1.0\r\n\r\n")
            ask(port, b"nonsense\r\n\r\n")
        assert garbage() == 0


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.1\r\nConnection: close"])
def test_what_comes_unasked_takes_no_answer_from_the_client(server: int, version: bytes) -> None:
    with connect(server) as client:
        client.sendall(b"GET /large/3000000 " + version + b"\r\n" + HOST + b"\r\n")
        time.sleep(0.2)
        client.sendall(b"\r\n")
        time.sleep(0.2)
        received, ending = read_all(client)
    assert ending == "closed" and len(received.partition(b"\r\n\r\n")[2]) == 3_000_000


def test_a_stream_that_fails_to_close_has_had_its_answer(server: int) -> None:
    received, _ = ask(server, b"GET /fails-to-close HTTP/1.1\r\n" + HOST + b"\r\n" + LAST)
    assert statuses(received) == [200, 200] and received.endswith(b"Take five!")


def test_a_timeout_that_a_handler_left_behind_ends_its_connection_alone(server: int) -> None:
    with connect(server) as client:
        client.sendall(b"GET /left-behind HTTP/1.1\r\n" + HOST + b"\r\n")
        assert read_answer(client) == (200, b"left")
        assert read_all(client)[1] == "closed"
    assert served_as_ever(server)


def test_a_signal_ends_it_under_load_with_an_access_log_that_cannot_be_written() -> None:
    port = free_port()
    command = [sys.executable, "-m", "brubeck_lite", "wire:app", "--bind", f"127.0.0.1:{port}", "--access-log"]
    with open("/dev/full", "w") as full, process(command, stdout=full, stderr=full) as child:
        wait_for(lambda: listens(port), what="the server")
        load = subprocess.Popen(
            ["wrk", "-t1", "-c200", "-d20", f"http://127.0.0.1:{port}/"], stdout=subprocess.DEVNULL
        )
        try:
            time.sleep(1.5)
            assert served_as_ever(port)
            child.send_signal(signal.SIGTERM)
            assert child.wait(60) == 0
        finally:
            load.kill()
            load.wait()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "app.db"
    precious.write_text("data")
    with wire(0, address=f"unix:{precious}") as child:
        assert child.wait(60) == 2
        assert "no socket" in output(child)
    assert precious.read_text() == "data"


# However the bytes are cut

STREAMS = [
    GET + post(b"Content-Length: 5\r\n", b"hello") + LAST,
    CHUNKED + b"5\r\nhello\r\n0\r\nT: x\r\n\r\n" + LAST,
    b"\r\n" + GET + b"GET / HTTP/1.1\r\nName : x\r\n\r\n",
    CHUNKED + b"5\r\nhelloX\r\n",
]


@pytest.mark.parametrize("stream", STREAMS)
def test_an_answer_is_the_same_however_the_bytes_are_cut(server: int, stream: bytes) -> None:
    def answers(received: bytes) -> bytes:
        return re.sub(rb"\r\nDate: [^\r]*", b"", received)

    whole = answers(ask(server, stream)[0])
    for cut in range(1, len(stream)):
        with connect(server) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(stream[:cut])
            time.sleep(0.002)
            with contextlib.suppress(ConnectionError):  # a refusal may come early
                client.sendall(stream[cut:])
            assert answers(read_all(client)[0]) == whole, f"cut after {cut}"
    with connect(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for octet in stream:
                client.sendall(bytes([octet]))
        assert answers(read_all(client)[0]) == whole
