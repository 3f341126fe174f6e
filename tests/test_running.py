"""Servers in threads, which a program starts and stops, and what is done beside the requests."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import environment, free_port, output, process, wait_for

from brubeck_lite import Brubeck, Channel, Request, WebSocket, event_stream


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return str(answer.read().decode())


def hello(text: str = "Take five!") -> Brubeck:
    app = Brubeck()
    app.get("/")(lambda request: text)
    return app


# running


def test_a_program_starts_a_server_and_stops_it(caplog: pytest.LogCaptureFixture) -> None:
    before, threads = (socket.socket, threading.Thread), threading.active_count()
    with hello().running() as server:
        assert (get(server.url), server.url) == ("Take five!", f"http://127.0.0.1:{server.port}")
    with pytest.raises(urllib.error.URLError):
        get(server.url)
    assert (socket.socket, threading.Thread) == before
    assert threading.active_count() == threads
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_two_servers_run_at_once_and_of_one_application_too() -> None:
    one, two, seen = hello("one"), hello("two"), list[str]()
    one.on_start(lambda: seen.append("start"))
    one.on_stop(lambda: seen.append("stop"))
    with one.running() as first, two.running() as second:
        with one.running() as third:
            assert [get(server.url) for server in (first, second, third)] == ["one", "two", "one"]
        assert (get(first.url), seen) == ("one", ["start"])
    assert seen == ["start", "stop"]


def test_a_request_that_is_under_way_is_answered_when_the_block_ends() -> None:
    app, begun, got = Brubeck(), threading.Event(), list[str]()

    @app.get("/")
    def slow(request: Request) -> str:
        import eventlet

        begun.set()
        eventlet.sleep(0.3)
        return "answered"

    with app.running() as server:
        asking = threading.Thread(target=lambda: got.append(get(server.url)))
        asking.start()
        begun.wait(30)
    asking.join(30)
    assert got == ["answered"]


def test_a_server_that_cannot_start_is_an_error_of_the_block(capfd: pytest.CaptureFixture[str]) -> None:
    app = hello()
    with app.running() as server:
        with pytest.raises(RuntimeError, match="cannot start"), hello().running(f"127.0.0.1:{server.port}"):
            pass
        assert get(server.url) == "Take five!"
    assert "cannot listen at 127.0.0.1" in capfd.readouterr().err
    with pytest.raises(ValueError, match="not an address"), app.running("nowhere"):
        pass
    app.on_start(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="cannot start") as raised, app.running():
        pass
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_websockets_and_streams_are_served() -> None:
    from websockets.sync.client import connect

    app = Brubeck()

    @app.websocket("/socket")
    def echo(ws: WebSocket) -> None:
        for message in ws:
            ws.send(message)

    app.get("/stream")(lambda request: iter(["a", "b"]))
    with app.running() as server:
        assert get(f"{server.url}/stream") == "ab"
        with connect(f"ws://127.0.0.1:{server.port}/socket") as client:
            client.send("hello")
            assert client.recv() == "hello"


def test_many_servers_leave_no_descriptors() -> None:
    import gc

    from websockets.sync.client import connect

    app, counts = hello(), []
    app.websocket("/socket")(lambda ws: ws.follow(channel))  # beside which another coroutine receives
    app.get("/events")(lambda request: event_stream(channel))
    channel = Channel()
    for _ in range(6):
        with app.running() as server:
            assert get(server.url) == "Take five!"
            with connect(f"ws://127.0.0.1:{server.port}/socket") as client:
                list(client)
            urllib.request.urlopen(f"{server.url}/events", timeout=30).close()
        gc.collect()
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[-1] <= counts[1]


def test_run_in_a_thread_says_what_to_do() -> None:
    raised: list[BaseException] = []

    def run() -> None:
        try:
            hello().run()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(30)
    assert [type(error) for error in raised] == [RuntimeError] and "with app.running(" in str(raised[0])


# spawn


def test_what_is_asynchronous_is_not_spawned() -> None:
    async def later() -> None: ...

    with pytest.raises(TypeError, match="async def"):
        Brubeck().spawn(later)


@pytest.mark.parametrize("call", [(None,), ("print", 1), (lambda one: None,), (lambda: None, 1), (iter(()),)])
def test_what_cannot_be_called_so_is_not_spawned(call: Any) -> None:
    with pytest.raises(TypeError, match=r"it should be app.spawn\(function, \*arguments\)"):
        Brubeck().spawn(*call)


@pytest.mark.parametrize("bind", [8000, None, ("127.0.0.1", 0), "127.0.0.1"])
def test_a_server_is_started_at_an_address(bind: Any) -> None:
    with pytest.raises(ValueError, match="not an address: "), Brubeck().running(bind):
        pass


def test_in_a_test_the_client_waits_for_what_a_request_spawned(caplog: pytest.LogCaptureFixture) -> None:
    import time

    app, told = Brubeck(), list[str]()

    def later(text: str) -> None:
        time.sleep(0.05)
        told.append(text)

    @app.get("/")
    def spawn(request: Request) -> str:
        app.spawn(later, "spawned")
        app.spawn(lambda: told[9])
        return "answered"

    @app.get("/stream")
    def stream(request: Request) -> Any:
        app.spawn(later, "by a stream")
        yield "answered"

    assert (app.test().get("/").text, told) == ("answered", ["spawned"])
    assert any("failed, a function of app.spawn" in record.message for record in caplog.records)
    with app.test().get("/stream", stream=True) as answer:
        assert b"".join(answer) == b"answered"
    assert told[1:] == ["by a stream"]


def test_a_test_waits_for_what_was_spawned_by_an_application_that_each_test_mounts_anew() -> None:
    inner, told = Brubeck(), list[str]()

    def later() -> None:
        threading.Event().wait(0.05)
        told.append("spawned")

    inner.get("/")(lambda request: inner.spawn(later))
    for number in (1, 2):
        outer = Brubeck()
        outer.mount("/inner", inner)
        assert outer.test().get("/inner/").status == 200
        assert told == ["spawned"] * number


def test_a_test_does_not_wait_for_ever() -> None:
    app, end = Brubeck(), threading.Event()
    app.get("/")(lambda request: app.spawn(end.wait, 60))
    try:
        with pytest.raises(TimeoutError):
            app.test(timeout=0.1).get("/")
    finally:
        end.set()


PROGRAM = """
import time
from brubeck_lite import Brubeck

outer, app = Brubeck(), Brubeck()
outer.mount("/inner", app)
outer.on_stop(lambda: print("on_stop", flush=True))

def later(text):
    time.sleep(1)
    print(text, flush=True)

@app.get("/")
def index(request):
    app.spawn(later, "spawned")
    app.spawn(lambda: 1 / 0)
    return "answered"
"""


@pytest.mark.parametrize("server", ["http", "wsgi"])
def test_what_was_spawned_is_finished_before_the_process_ends(tmp_path: Path, server: str) -> None:
    (tmp_path / "later.py").write_text(PROGRAM)
    if server == "http":
        command = [sys.executable, "-m", "brubeck_lite", "later:outer", "--bind", "127.0.0.1:0"]
    else:
        code = "import later; environ = {'REQUEST_METHOD': 'GET', 'PATH_INFO': '/inner/'}; "
        code += "print(*later.outer(environ, lambda *_: None), flush=True)"
        command = [sys.executable, "-c", code]
    paths = os.pathsep.join([str(tmp_path), environment().get("PYTHONPATH", "")])
    settings: Any = {"env": {**environment(), "PYTHONPATH": paths}, "cwd": tmp_path, "text": True}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings)
    try:
        assert child.stderr is not None and child.stdout is not None
        if server == "http":
            line = child.stderr.readline()
            port = int(line.rstrip().rpartition(":")[2])
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            client.request("GET", "/inner/", headers={"Connection": "close"})
            assert client.getresponse().read() == b"answered"
            child.send_signal(signal.SIGTERM)
        out, errors = child.communicate(timeout=60)
    finally:
        child.kill()
    assert out.split()[-2:] == ["spawned", "on_stop"] and child.returncode == 0
    assert "ZeroDivisionError" in errors


# What other coroutines of a handler do, and what a computing handler holds up


def test_a_body_that_is_read_beside_its_answer_costs_no_place_in_the_pool_for_good() -> None:
    import eventlet

    app = Brubeck(pool_size=1)

    @app.post("/")
    def index(request: Request) -> str:
        app.spawn(request.stream.read)
        eventlet.sleep(0.05)  # the other one begins
        return "answered"

    app.get("/")(lambda request: "there")
    with app.running() as server:
        for _ in range(2):
            with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
                client.sendall(b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345")
                assert client.recv(1 << 16).endswith(b"answered")
                time.sleep(0.2)
                client.sendall(b"67890")
                time.sleep(0.2)
                assert get(server.url) == "there"


COMPUTING = """
import sys, time
from brubeck_lite import Brubeck, HTTPConnection

app = Brubeck()
app.get("/")(lambda request: "there")

@app.get("/compute")
def compute(request):
    end = time.perf_counter() + 3
    while time.perf_counter() < end:
        pass
    return "computed"

app.run(HTTPConnection("127.0.0.1:" + sys.argv[1], head_timeout=1, keep_alive=1))
"""


def test_what_came_in_time_while_a_handler_computed_is_answered(tmp_path: Path) -> None:
    (tmp_path / "computing.py").write_text(COMPUTING)
    port, ask = free_port(), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with process([sys.executable, "computing.py", str(port)], cwd=tmp_path) as child, contextlib.ExitStack() as stack:
        wait_for(lambda: "serving" in output(child), what="the server")
        kept, new, other = (stack.enter_context(socket.create_connection(("127.0.0.1", port), 20)) for _ in range(3))
        kept.sendall(ask)
        assert kept.recv(1 << 16).endswith(b"there")
        other.sendall(ask.replace(b"/ ", b"/compute "))
        time.sleep(0.3)
        kept.sendall(ask)
        new.sendall(ask)
        assert [each.recv(1 << 16)[-5:] for each in (kept, new, other)] == [b"there", b"there", b"puted"]


def test_a_half_closed_client_that_leaves_between_two_pieces_is_seen_each_time() -> None:
    import eventlet

    app, ended = Brubeck(), threading.Event()

    @app.get("/")
    def index(request: Request) -> Iterator[str]:
        try:
            for piece in ("one", "two"):
                yield piece
                eventlet.sleep(2 if piece == "one" else 600)
        finally:
            ended.set()

    with app.running() as server, socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        received = b""
        while b"two" not in received:
            received += client.recv(1 << 16)
        client.close()
        assert ended.wait(20)
