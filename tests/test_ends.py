"""How requests end: nothing of them is left, and their files are closed, whatever has ended them and by whatever door;
the garbage collector is off in the program."""

from __future__ import annotations

import contextlib
import gc
import http.client
import json
import logging
import re
import resource
import selectors
import signal
import socket
import sys
import time
import urllib.request
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import (
    ROOT,
    Mongrel2,
    behind_http,
    behind_mongrel2,
    behind_wsgi,
    free_port,
    listens,
    output,
    process,
    wait_for,
)

from brubeck_lite import Brubeck, Request, Response, WebSocket

BOUNDARY = b"take-five"
TYPE = b"Content-Type: multipart/form-data; boundary=take-five\r\n"
LARGE = b"x" * 700_000
DOORS = ["http", "mongrel2", "gunicorn"]


def part(filename: bytes, content: bytes) -> bytes:
    head = b'Content-Disposition: form-data; name="a"; filename="%b"' % filename
    return b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY, head, content)


FORM = part(b"a", LARGE) + b"--take-five--\r\n"


def post(path: bytes, fields: bytes, body: bytes, size: int | None = None) -> bytes:
    length = len(body) if size is None else size
    return b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b" % (path, length, fields, body)


def get(path: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path


@contextlib.contextmanager
def serving(files: int | None = None, **settings: Any) -> Iterator[tuple[int, Any]]:
    """program_ends.py by the embedded server with these settings, and at most so many files: its port and process."""
    port = free_port()
    command = [sys.executable, str(ROOT / "tests" / "program_ends.py"), str(port), json.dumps(settings)]
    if files is not None:
        command = ["sh", "-c", f'ulimit -n {files}; exec "$@"', "sh", *command]
    with process(command) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what="the server")
        assert child.poll() is None, output(child)
        yield port, child


@pytest.fixture(scope="module", params=DOORS)
def door(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    if request.param == "mongrel2":
        with Mongrel2() as mongrel2, behind_mongrel2("program_ends:app", mongrel2):
            yield request.param, mongrel2.port
    elif request.param == "gunicorn":
        with behind_wsgi("gunicorn", "program_ends:app") as port:
            yield request.param, port
    else:
        with serving() as (port, _):
            yield request.param, port


def ask(port: int, sent: bytes, leave_after: float | None = None) -> int:
    """Send one request, and read the answer to its end, or for some seconds: its status, 0 for none."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        with contextlib.suppress(ConnectionError):
            client.sendall(sent)
        if leave_after is not None:
            time.sleep(leave_after)
            return 0
        answer = http.client.HTTPResponse(client)
        try:
            answer.begin()
            with contextlib.suppress(http.client.IncompleteRead):
                answer.read()
        except (OSError, http.client.HTTPException):
            return 0
        return answer.status


def what_is_left(port: int) -> Any:
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    client.request("GET", "/left", headers={"Connection": "close"})
    return json.loads(client.getresponse().read())


def what_is_told(port: int) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/told", timeout=20) as answer:
        return json.loads(answer.read())


HANDSHAKE = (b"GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
             b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")  # fmt: skip


def frame(first: int, payload: bytes, size: int | None = None) -> bytes:
    """A client's frame (masked with zeros), or its beginning where it declares another size."""
    length = len(payload) if size is None else size
    head = bytes([first]) + (bytes([0x80 | length]) if length < 126 else b"\xff" + length.to_bytes(8, "big"))
    return head + bytes(4) + payload


ENDS: dict[str, bytes] = {
    "a body over the limit": post(b"/small-form", TYPE, b"", 2 << 20),
    "a form over its limit midway": b"POST /small-form HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n" + TYPE
    + b"\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in [FORM[:-10], LARGE]) + b"0\r\n\r\n",
    "a form with a malformed part": post(b"/form", TYPE, part(b"a", LARGE) + b"--take-five\r\nno\r\n\r\n"),
    "a form that never ends": post(b"/form", TYPE, part(b"a", LARGE)),
    "a form whose error the handler catches": post(b"/catches", TYPE, part(b"a", LARGE)),
    "a handler that fails with a form": post(b"/fails", TYPE, FORM),
    "a handler that fails by an error that it keeps": post(b"/fails-twice", TYPE, part(b"a", LARGE)),
    "no JSON": post(b"/no-json", b"Content-Type: application/json\r\n", b"{"),
    "a handler that fails": get(b"/fails"),
    "a handler whose error is handled": get(b"/handled"),
    "a handler whose error handler fails": get(b"/handled-badly"),
    "a handler that aborts": get(b"/aborts"),
    "no such path": get(b"/nowhere"),
    "a path that is none": get(b"/%ff"),
    "a stream that fails": get(b"/stream-fails"),
    "a stream that fails at once": get(b"/stream-fails-at-once"),
    "events that fail": get(b"/events-fail"),
    "too many files": get(b"/too-many-files"),
}  # fmt: skip
LEAVING: dict[str, bytes] = {
    "a client that leaves within a body": post(b"/body", b"", b"x" * 100_000, 200_000),
    "a client that leaves within a form": post(b"/form", TYPE, FORM[:-20], len(FORM)),
    "a client that leaves a stream": get(b"/lines"),
    "a client that leaves events": get(b"/events"),
    "a WebSocket that fails": HANDSHAKE + frame(0x81, b"fail"),
    "a WebSocket that fails by an error that it keeps": HANDSHAKE + frame(0x81, b"keep"),
    "a WebSocket with a broken frame": HANDSHAKE + b"\xff\xff",
    "a WebSocket with half a message": HANDSHAKE + frame(0x81, b"half", 9),
    "a WebSocket whose client leaves": HANDSHAKE + frame(0x81, b"whole"),
}


def sees_nothing_left(port: int, descriptors: int) -> None:
    def nothing() -> bool:
        left = what_is_left(port)
        return not left["requests"] and left["descriptors"] <= descriptors

    wait_for(nothing, 15, f"the end of {what_is_left(port)}, and {descriptors} descriptors")


@pytest.mark.parametrize("how", [*ENDS, *LEAVING])
def test_nothing_is_left_of_a_request(door: tuple[str, int], how: str) -> None:
    name, port = door
    if name == "gunicorn" and how in LEAVING:
        pytest.skip("what becomes of it is up to the WSGI server")
    descriptors = what_is_left(port)["descriptors"]
    for _ in range(3):
        if how in ENDS:
            ask(port, ENDS[how])
        else:
            ask(port, LEAVING[how], 0.2)
    sees_nothing_left(port, descriptors)


@pytest.mark.parametrize("how", ["done", "spawned", "stream", "events", "closed", "beside"])
def test_nothing_is_left_of_a_request_whose_error_a_frame_keeps(door: tuple[str, int], how: str) -> None:
    name, port = door
    if name == "gunicorn" and how in ("stream", "events"):
        pytest.skip("what becomes of it is up to the WSGI server")
    descriptors, method = what_is_left(port)["descriptors"], "HEAD" if how == "closed" else "GET"
    ask(port, f"{method} /keeps/{how} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    sees_nothing_left(port, descriptors)


@pytest.mark.parametrize("path", [b"/catches", b"/form"])
def test_nothing_is_left_of_a_body_for_which_mongrel2s_handler_has_no_folder(path: bytes) -> None:
    command = [sys.executable, "-m", "brubeck_lite", "program_ends:app", "--mongrel2"]
    with Mongrel2() as mongrel2, process([*command, mongrel2.pull, mongrel2.pub]) as child:
        wait_for(lambda: "connected to Mongrel2" in output(child), what="the handler")
        descriptors = what_is_left(mongrel2.port)["descriptors"]
        sent = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n%b\r\n1\r\nx\r\n0\r\n\r\n"
        ask(mongrel2.port, sent % (path, TYPE))
        sees_nothing_left(mongrel2.port, descriptors)
        assert "refused the body" in output(child)


@pytest.mark.parametrize(
    ("how", "leave_after", "told"),
    [("returns", None, ["handler", "second", "first"]), ("fails", None, ["handler", "second", "first"]),
     ("streams", None, ["handler", "stream", "second", "first"]),
     ("streams", 0.2, ["handler", "stream", "second", "first"])],
)  # fmt: skip
def test_what_is_to_be_done_then_is_done_when_the_answer_is_over(
    door: tuple[str, int], how: str, leave_after: float | None, told: list[str]
) -> None:
    _, port = door
    ask(port, get(b"/done/" + how.encode()), leave_after)
    seen: list[str] = []
    wait_for(lambda: seen.extend(what_is_told(port)) or len(seen) >= len(told), what="the end")
    assert seen == told


def test_in_a_test_what_is_to_be_done_is_done_when_the_answer_is_there() -> None:
    app, told = Brubeck(), list[str]()
    inner = Brubeck()

    @inner.get("/")
    def answer(request: Request) -> str:
        request.when_done(lambda: told.append("inner"))
        return "done"

    def see(respond: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            request.when_done(lambda: told.append("outer"))
            return respond(request)

        return answer

    @app.websocket("/socket")
    def talk(ws: WebSocket) -> None:
        ws.send("hello")

    app.wrap(see)
    app.mount("/inner", inner)
    assert (app.test().get("/inner/").text, told) == ("done", ["inner", "outer"])
    with app.test().websocket("/socket") as ws:
        ws.receive()
    assert told[2:] == ["outer"]


def test_nothing_is_left_of_a_handler_that_takes_too_long(door: tuple[str, int]) -> None:
    name, port = door
    if name == "gunicorn":
        pytest.skip("a timeout needs a server of ours")
    descriptors = what_is_left(port)["descriptors"]
    assert ask(port, get(b"/too-long")) == 503
    sees_nothing_left(port, descriptors)


def test_nothing_is_left_of_an_upload_for_which_there_is_no_space() -> None:
    with serving() as (port, child):
        descriptors = what_is_left(port)["descriptors"]
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (600_000, 600_000))
        assert ask(port, post(b"/form", TYPE, FORM)) == 507
        sees_nothing_left(port, descriptors)


def test_a_test_client_leaves_nothing_of_a_request() -> None:
    import program_ends  # with which the garbage collector is off

    client = program_ends.app.test()
    logging.disable()  # pytest keeps what is logged, with its traceback
    try:
        for path in ("/fails", "/handled", "/handled-badly", "/aborts", "/stream-fails-at-once", "/nowhere", "/%ff"):
            answer = weakref.ref(client.get(path).request)
            assert answer() is None, path
            if path == "/handled-badly":
                continue  # raised, that exception is held by a frame of the program's
            with contextlib.suppress(Exception):
                client.get(path, raise_errors=True)
        files = {"a": ("a", LARGE)}
        for path in ("/fails", "/keeps-the-file", "/streams-the-file", "/form"):
            client.post(path, files=files)
        for path in ("/events", "/lines"):
            with client.get(path, stream=True) as stream:
                next(iter(stream))
        del answer, stream
        assert client.get("/left").json["requests"] == []
        assert all(file.closed for file in program_ends.kept)
    finally:
        gc.enable()
        logging.disable(logging.NOTSET)


# Files


def test_the_files_of_a_form_are_closed_when_the_answer_is_over_a_stream_too(door: tuple[str, int]) -> None:
    _, port = door
    before = what_is_left(port)
    for path in (b"/keeps-the-file", b"/streams-the-file"):
        assert ask(port, post(path, TYPE, FORM)) == 200
    wait_for(lambda: not what_is_left(port)["requests"], what="the end of both")
    closed = what_is_left(port)["closed"]
    assert len(closed) == len(before["closed"]) + 2 and all(closed)


def test_a_stream_reads_the_file_of_a_form_to_its_end(door: tuple[str, int]) -> None:
    _, port = door
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    client.request("POST", "/streams-the-file", FORM, {"Content-Type": "multipart/form-data; boundary=take-five"})
    assert client.getresponse().read() == LARGE


def test_all_files_of_a_form_take_one_descriptor(door: tuple[str, int]) -> None:
    _, port = door
    parts = [part(b"%d" % number, b"%d" % number * (20_000 + number)) for number in range(99)]
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    before = what_is_left(port)["descriptors"]
    client.request("POST", "/form", b"".join(parts) + b"--take-five--\r\n",
                   {"Content-Type": "multipart/form-data; boundary=take-five"})  # fmt: skip
    told = json.loads(client.getresponse().read())
    assert told.pop("descriptors") <= before + 3  # with the connection, and the file of Mongrel2's upload
    assert told == {str(number): [len(str(number)) * (20_000 + number)] * 2 for number in range(99)}


def test_idle_connections_leave_descriptors_for_files() -> None:
    with serving(files=60) as (port, child):
        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        kept.connect()
        idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(80)]
        wait_for(lambda: "cannot accept connections for now: there are 30 " in output(child), what="a line in the log")
        for _ in range(3):
            kept.request("GET", "/file/program.py")
            answer = kept.getresponse()
            assert answer.status == 200 and answer.read() == (ROOT / "tests" / "program.py").read_bytes()
        for client in idle:
            client.close()
        assert output(child).count("cannot accept") == 1  # none for want of descriptors


def test_too_many_open_files_are_503_and_one_line_in_the_log() -> None:
    with serving() as (port, child):
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        client.request("GET", "/left")
        client.getresponse().read()
        before = resource.prlimit(child.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (3, before[1]))
        for method, path in [("GET", "/file/program.py"), ("POST", "/form"), ("GET", "/file/wire.py")]:
            fields = {"Content-Type": "multipart/form-data; boundary=take-five"}
            client.request(method, path, FORM if method == "POST" else b"", fields)
            answer = client.getresponse()
            answer.read()
            assert (answer.status, answer.getheader("Retry-After")) == (503, "1")
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, before)
        client.request("GET", "/file/program.py")
        assert client.getresponse().status == 200
        assert output(child).count("too many files are open") == 3 and "Traceback" not in output(child)


# The pool


def is_served_soon(port: int) -> bool:
    return ask(port, get(b"/aborts")) == 410


@pytest.mark.parametrize("sent", [
    post(b"/body", b"", b"x" * 10, 20), post(b"/form", TYPE, FORM[:-10], len(FORM)), get(b"/lines"), get(b"/events"),
    get(b"/large"), HANDSHAKE, post(b"/body", b"Expect: 100-continue\r\n", b"", 20), get(b"/events") + get(b"/lines"),
    get(b"/class-of-streams"), get(b"/handled-by-a-stream"), get(b"/replaced-by-a-stream"),
], ids=["body", "form", "stream", "events", "slow reader", "WebSocket", "continue", "pipeline", "class",
        "error handler", "middleware"])  # fmt: skip
@pytest.mark.parametrize("door", ["http", "mongrel2"])
def test_what_waits_for_its_client_or_has_no_end_takes_no_place_in_the_pool(door: str, sent: bytes) -> None:
    with contextlib.ExitStack() as stack:
        if door == "http":
            port = stack.enter_context(serving(pool_size=2))[0]
        else:
            mongrel2 = stack.enter_context(Mongrel2())
            stack.enter_context(behind_mongrel2("program_ends:app", mongrel2, "--pool-size", "2"))
            port = mongrel2.port
        for _ in range(6):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            client.sendall(sent)
        time.sleep(0.5)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(get(b"/aborts"))
            assert client.recv(100).startswith(b"HTTP/1.1 410 ")


def test_a_client_that_leaves_before_the_stream_of_an_error_handler_begins_is_no_error() -> None:
    with serving() as (port, child):
        for _ in range(3):
            ask(port, get(b"/handled-by-a-stream"), 0.2)
        wait_for(lambda: not what_is_left(port)["requests"], what="the end of all")
        assert output(child).count("ERROR") == 0


def test_a_body_that_comes_after_all_is_read_and_answered_with_the_pool_full() -> None:
    with serving(pool_size=1) as (port, _), socket.create_connection(("127.0.0.1", port), timeout=60) as first:
        first.sendall(post(b"/body", b"", b"12345", 10))
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", port), timeout=60) as second:
            second.sendall(get(b"/waits"))
            first.sendall(b"67890")
            assert first.recv(1000).endswith(b"10")
            assert second.recv(1000).endswith(b"waited")
        assert is_served_soon(port)


def test_a_server_that_stops_waits_for_a_body_that_is_on_its_way() -> None:
    with serving() as (port, child), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(post(b"/body", b"", b"12345", 10))
        time.sleep(0.3)
        child.terminate()
        wait_for(lambda: "1 requests are to be finished" in output(child), what="the log")
        time.sleep(0.3)
        client.sendall(b"67890")
        assert client.recv(1000).endswith(b"10")
        assert child.wait(60) == 0


class Burst:
    """Clients that connect, ask once and leave, 64 at once, for as long as `more` says: how many got an answer, and how
    many were cut off after their connection was made."""

    def __init__(self, port: int) -> None:
        self.port, self.answered, self.lost = port, 0, 0
        self._selector = selectors.DefaultSelector()
        self._asking: dict[socket.socket, bool] = {}  # whether the request is sent

    def step(self, more: bool) -> None:
        while more and len(self._asking) < 64:
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", self.port))
            self._asking[client] = False
            self._selector.register(client, selectors.EVENT_WRITE)
        for key, _ in self._selector.select(0.01):
            client: Any = key.fileobj
            if self._asking[client]:
                with contextlib.suppress(ConnectionError):
                    answer = client.recv(1000)
                    self._end(client, answer.startswith(b"HTTP/1.1 410 "))
                    continue
                self._end(client, False)
            elif client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):  # it was refused: no connection was made
                self._end(client, None)
            else:
                self._asking[client] = True
                self._selector.modify(client, selectors.EVENT_READ)
                with contextlib.suppress(ConnectionError):  # which is seen when it is read
                    client.send(get(b"/aborts"))

    def _end(self, client: socket.socket, is_answered: bool | None) -> None:
        self.answered += is_answered is True
        self.lost += is_answered is False
        self._selector.unregister(client)
        client.close()
        del self._asking[client]

    def close(self) -> int:
        """How many were asking and still had no answer."""
        waiting = sum(self._asking.values())
        for client in [*self._asking]:
            self._end(client, None)
        self._selector.close()
        return waiting


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can drop what would begin a connection")
@pytest.mark.parametrize("workers", [1, 2])
def test_no_connection_that_was_made_is_lost_when_a_server_stops(workers: int) -> None:
    with behind_http("program_ends:app", "--workers", str(workers)) as (child, port):
        burst, end = Burst(port), time.monotonic() + 1
        while time.monotonic() < end:
            burst.step(more=True)
        child.send_signal(signal.SIGTERM)
        while child.poll() is None:
            burst.step(more=time.monotonic() < end + 1)
        for _ in range(50):
            burst.step(more=False)
        assert burst.answered > 100 and (burst.close(), burst.lost) == (0, 0)


# Rates


def test_a_body_that_came_fast_and_then_dribbles_is_408() -> None:
    with serving(io_timeout=1) as (port, _), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(post(b"/body", b"", b"x" * 1_000_000, 1_000_100))
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                client.sendall(b"x")
                time.sleep(0.2)
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_a_body_of_a_kilobyte_a_second_may_take_longer_than_the_longest_wait() -> None:
    with serving(io_timeout=3) as (port, _), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(post(b"/body", b"", b"", 20_000))
        for _ in range(20):
            client.sendall(b"x" * 1000)
            time.sleep(0.25)
        assert client.recv(1000).endswith(b"20000")


def read_close(client: socket.socket) -> bytes:
    """What the server sent up to the end, behind the head of the 101."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := client.recv(1 << 16):
            received += data
    return received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("beginning", [
    frame(0x01, b"first"), frame(0x81, b"half", 50), b"\x81", frame(0x01, b"")
], ids=["fragment", "half", "half a head", "empty fragment"])  # fmt: skip
def test_a_message_that_does_not_come_whole_is_closed_with_1008_whatever_comes_between(beginning: bytes) -> None:
    between = frame(0x89, b"x" * 100) if beginning[0] == 0x01 else b""
    with serving(io_timeout=1) as (port, _), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(HANDSHAKE + beginning)
        with contextlib.suppress(ConnectionError):
            for _ in range(20):
                client.sendall(between)
                time.sleep(0.2)
        assert b"\x03\xf0the message comes too slowly" in read_close(client)


def test_a_message_may_take_long_that_comes_at_a_kilobyte_a_second_and_others_begin_anew() -> None:
    with serving(io_timeout=2) as (port, _), socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(HANDSHAKE + frame(0x81, b"", 20_000))
        for _ in range(10):
            client.sendall(b"x" * 2000)
            time.sleep(0.3)
        time.sleep(2.5)
        client.sendall(frame(0x81, b"whole") + frame(0x88, b"\x03\xe8"))
        assert read_close(client) == b"\x81\x0520000\x81\x015\x88\x02\x03\xe8"


def test_half_messages_are_bounded_all_together_and_the_largest_goes_first() -> None:
    with serving() as (port, _), contextlib.ExitStack() as stack:
        small = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        small.sendall(HANDSHAKE + frame(0x81, b"sma", 5))
        large = [stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60)) for _ in range(80)]
        for client in large:
            client.sendall(HANDSHAKE + frame(0x81, b"x" * 1_000_000, 1_000_001))
        time.sleep(1)
        small.sendall(b"ll" + frame(0x88, b"\x03\xe8"))
        assert read_close(small) == b"\x81\x015\x88\x02\x03\xe8"
        received = dict.fromkeys(large, b"")

        def count_closed() -> int:
            for client in large:
                client.setblocking(False)
                with contextlib.suppress(OSError):
                    received[client] += client.recv(1 << 16)
            return sum(b"\x03\xf5" in each for each in received.values())

        wait_for(lambda: count_closed() >= 10, what="those that are too large")
        assert count_closed() <= 20


@pytest.mark.parametrize("function", [None, "close", 5])
def test_what_is_to_be_called_at_the_end_is_a_function(function: Any) -> None:
    with pytest.raises(TypeError, match=r"write request.when_done\(function\), with a function that takes nothing"):
        Request().when_done(function)


def test_a_function_for_the_end_that_takes_something_is_named_with_its_line(caplog: pytest.LogCaptureFixture) -> None:
    app = Brubeck()

    def close(response: Response) -> None: ...

    @app.get("/")
    def index(request: Request) -> str:
        request.when_done(close)  # type: ignore[arg-type]
        app.spawn(int, "five")
        return "index"

    assert app.test().get("/").text == "index"
    assert re.search(r"close \(\S*test_ends.py:\d+\) failed after the answer to", caplog.text)
    assert "int failed, a function of app.spawn" in caplog.text
