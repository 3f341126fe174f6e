"""The program of the tests of live connections. What its handlers went through is in `notes`, by the key that the
client gave: GET /notes/KEY."""

from __future__ import annotations

import gc
import os
import queue
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if "eventlet" in sys.modules:  # not under a WSGI server
    import eventlet
    import eventlet.tpool

from brubeck_lite import Brubeck, Channel, Event, Request, Response, WebSocket, abort, event_stream

app = Brubeck()
notes: defaultdict[str, list[Any]] = defaultdict(list)
gates: defaultdict[str, queue.Queue[str]] = defaultdict(queue.Queue)
channels: defaultdict[str, Channel] = defaultdict(Channel)
WebSocket.IDLE = float(os.environ.get("IDLE", WebSocket.IDLE))


def note(request: Request, what: Any) -> None:
    notes[request.query.get("key", "")].append(what)


@app.route("/notes/<key>")
def show(request: Request, key: str) -> list[Any]:
    return notes[key]


@app.route("/memory")
def memory(request: Request) -> str:
    """Bytes of this process that are in memory."""
    gc.collect()
    return str(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))


@app.post("/open/<key>")
def open_gate(request: Request, key: str) -> str:
    """Let the one who waits at this gate go on, with the body."""
    gates[key].put(request.body.decode())
    return "opened"


def in_thread(function: Callable[..., Any], *arguments: Any) -> None:
    threads = eventlet.patcher.original("threading") if "eventlet" in sys.modules else threading
    threads.Thread(target=function, args=arguments).start()


def in_pool(function: Callable[..., Any], *arguments: Any) -> None:
    eventlet.tpool.execute(function, *arguments)


def in_coroutine(function: Callable[..., Any], *arguments: Any) -> None:
    function(*arguments)


CALLS = {"coroutine": in_coroutine, "tpool": in_pool, "thread": in_thread}


@app.post("/publish/<name>")
def publish(request: Request, name: str) -> dict[str, float]:
    """The body, this often, by a thread of the system's where one is asked for; how many seconds that took."""
    message, began = request.body.decode(), time.monotonic()
    call = CALLS[request.query.get("by", "coroutine")]
    for _ in range(request.get_argument("times", 1, int)):
        call(channels[name].publish, message)
        time.sleep(request.get_argument("pause", 0.0, float))
    return {"seconds": time.monotonic() - began}


@app.route("/listeners/<name>")
def listeners(request: Request, name: str) -> str:
    return str(len(channels[name].subscriptions) + len(channels[name].followers))


# Streams


@app.route("/gated")
def gated(request: Request) -> Iterator[str]:
    """A piece, then one for each time that the gate is opened, until that says "end"."""
    yield "first"
    while (piece := gates[request.query["key"]].get()) != "end":
        yield piece


@app.route("/waits")
def waits(request: Request) -> Iterator[str]:
    yield from waiting(request, request.get_argument("silent", 0, int))


def waiting(request: Request, is_silent: int = 0) -> Iterator[str]:
    note(request, "began")
    try:
        if not is_silent:
            yield "first"
        time.sleep(600)
        yield "second"
    except BaseException as error:
        note(request, type(error).__name__)
        raise
    finally:
        note(request, "finally")


@app.route("/ends-slowly")
def ends_slowly(request: Request) -> Response:
    def events() -> Iterator[str]:
        try:
            yield "first"
            time.sleep(600)
        finally:
            time.sleep(0.1)
            note(request, "finally")

    return event_stream(events())


@app.route("/fails")
def fails(request: Request) -> Iterator[str]:
    yield "first"
    time.sleep(0.2)
    raise LookupError("a secret")


@app.route("/burst/<int:count>")
def burst(request: Request, count: int) -> Iterator[str]:
    """So many pieces at once, then nothing for long."""
    for number in range(count):
        yield f"{number};"
    time.sleep(600)


@app.route("/large/<int:pieces>")
def large(request: Request, pieces: int) -> Iterator[bytes]:
    """Pieces of 64 KiB; how many were asked for is noted."""
    piece, made = b"0123456789abcdef" * 4096, notes[request.query["key"]]
    made.append(0)
    for _ in range(pieces):
        made[0] += 1
        yield piece
    made.append("end")


# Server-sent events


@app.route("/events")
def events(request: Request) -> Response:
    return event_stream(["text", {"a": 1}, Event("two\nlines", "kind", "7", 1500)])


@app.route("/last-event-id")
def last_event_id(request: Request) -> Response:
    return event_stream([request.headers.get("Last-Event-ID", "none")])


@app.route("/heartbeats")
def heartbeats(request: Request) -> Response:
    return event_stream(waiting(request), heartbeat=0.3)


@app.route("/channel/<name>")
def channel(request: Request, name: str) -> Response:
    return event_stream(channels[name], heartbeat=request.get_argument("heartbeat", 15, float))


@app.route("/gives-up")
def gives_up(request: Request) -> Response:
    """Its iterator ends with what is no Exception."""

    def events() -> Iterator[str]:
        import eventlet

        yield "first"
        with eventlet.Timeout(0.2):
            time.sleep(600)

    return event_stream(events(), heartbeat=0.2)


# Waiting


@app.route("/slow", timeout=0.5)
def slow(request: Request) -> str:
    try:
        time.sleep(600)
    except Exception:
        return "held back"
    finally:
        note(request, "finally")
    return "never"


@app.route("/slow-stream", timeout=0.5)
def slow_stream(request: Request) -> Iterator[str]:
    yield "first "
    time.sleep(1)
    yield "second"


@app.route("/cancelled", cancel=True)
def cancelled(request: Request) -> str:
    return next(waiting(request, is_silent=1))


@app.route("/leaving")
def leaving(request: Request) -> str:
    """Is not ended when its client leaves, but can see that it did."""
    note(request, "began")
    deadline = time.monotonic() + 60
    while request.connected and time.monotonic() < deadline:
        time.sleep(0.1)
    note(request, request.connected)
    return "left"


@app.route("/poll/<name>")
def poll(request: Request, name: str) -> dict[str, Any]:
    with channels[name].subscribe() as subscription:
        return {"message": subscription.get(request.get_argument("seconds", 60, float))}


# WebSockets


def noted(handler: Callable[..., None]) -> Callable[..., None]:
    """Note with what a conversation ended."""

    def talk(ws: WebSocket, **arguments: Any) -> None:
        try:
            handler(ws, **arguments)
        finally:
            note(ws.request, ws.closed)

    talk.__name__ = handler.__name__
    return talk


@app.websocket("/echo")
@noted
def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


@app.websocket("/echo-large", max_message=32 << 20)
def echo_large(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)


@app.websocket("/asleep-then-echo/<float:seconds>")
def asleep_then_echo(ws: WebSocket, seconds: float) -> None:
    time.sleep(seconds)
    for message in ws:
        ws.send(message)


@app.websocket("/small", max_message=1000)
@noted
def small(ws: WebSocket) -> None:
    ws.FAREWELL = 60.0  # seconds for the client to answer a close
    for message in ws:
        ws.send(message)


@app.websocket("/one/<int:size>")
@noted
def one(ws: WebSocket, size: int) -> None:
    """A message of so many bytes; what the client answers is noted, if it is asked to answer."""
    ws.FAREWELL = 0.5  # seconds for the client to answer a close
    ws.send(bytes(size))
    if "answer" in ws.request.query:
        note(ws.request, ws.receive())


@app.websocket("/two", subprotocols=["second", "first"])
def two(ws: WebSocket) -> None:
    ws.send({"offered": ws.request.headers.get("sec-websocket-protocol"), "path": ws.request.path})


@app.websocket("/from-elsewhere", origins=["https://a.example", "https://b.example:8443"])
def from_elsewhere(ws: WebSocket) -> None:
    ws.send("welcome")


@app.websocket("/from-everywhere", origins="*")
def from_everywhere(ws: WebSocket) -> None:
    ws.send("welcome")


@app.websocket("/hello/<name>")
def hello(ws: WebSocket, name: str) -> None:
    ws.send(f"Take five, {name}!")


@app.websocket("/raises")
def raises(ws: WebSocket) -> None:
    raise LookupError("a secret")


@app.websocket("/refuses-half-a-character")
@noted
def refuses_half_a_character(ws: WebSocket) -> None:
    abort(400, "no such command: \ud800")


@app.websocket("/needs-a-room")
def needs_a_room(ws: WebSocket) -> None:
    ws.send(ws.request.query["room"])


@app.websocket("/closes/<int:code>")
def closes(ws: WebSocket, code: int) -> None:
    ws.close(code, "as you wished")
    try:
        ws.send("more")
    except ConnectionError as error:
        note(ws.request, str(error))


@app.websocket("/asleep/<float:seconds>")
@noted
def asleep(ws: WebSocket, seconds: float) -> None:
    """Does not look at what comes for so long, unless another coroutine does, then says what came."""
    if "reads" in ws.request.query:
        threading.Thread(target=list, args=[ws]).start()
    try:
        time.sleep(seconds)
    except BaseException as error:
        note(ws.request, type(error).__name__)
        raise
    ws.send(list(iter(lambda: ws.receive(0.2), None)))


@app.websocket("/forgets-the-end")
def forgets_the_end(ws: WebSocket) -> None:
    """Receives without a look at what it gets."""
    try:
        while True:
            ws.receive(1)
    except RuntimeError as error:
        note(ws.request, str(error))
        raise


taken = [0]  # messages, by /counts


@app.websocket("/counts")
def counts(ws: WebSocket) -> None:
    for _ in ws:
        taken[0] += 1


@app.route("/counted-in-a-turn")
def counted_in_a_turn(request: Request) -> str:
    """How many of the next 20,000 of them are taken at the most before this one has its turn."""
    note(request, "begun")
    began, most, deadline = taken[0], 0, time.monotonic() + 50
    while taken[0] - began < 20_000 and time.monotonic() < deadline:
        before = taken[0]
        eventlet.sleep(0)
        most = max(most, taken[0] - before)
    return str(most)


@app.websocket("/patient")
def patient(ws: WebSocket) -> None:
    """Waits for a message for long, then twice for a short time."""
    for seconds in (60, 0.3, 0.3):
        ws.send({"received": ws.receive(seconds), "closed": ws.closed})


@app.websocket("/pings")
def pings(ws: WebSocket) -> None:
    ws.ping(b"are you there?")
    ws.receive()


@app.websocket("/follow/<name>")
@noted
def follow(ws: WebSocket, name: str) -> None:
    ws.follow(channels[name])
    for _ in ws:
        pass


@app.websocket("/follow-late/<name>")
@noted
def follow_late(ws: WebSocket, name: str) -> None:
    """Follows when its client has left already."""
    for _ in ws:
        pass
    ws.follow(channels[name])


@app.websocket("/pours/<int:messages>")
@noted
def pours(ws: WebSocket, messages: int) -> None:
    """Messages of 64 KiB; how many were sent is noted."""
    made = notes[ws.request.query["key"]]
    made.append(0)
    for _ in range(messages):
        ws.send(b"0123456789abcdef" * 4096)
        made[0] += 1


@app.websocket("/duet")
@noted
def duet(ws: WebSocket) -> None:
    """Two coroutines send at the same time to a client that is slow."""
    import eventlet

    def sing(letter: bytes) -> None:
        for _ in range(100):
            ws.send(letter * 65536)
        note(ws.request, letter.decode())

    singers = [eventlet.spawn(sing, letter) for letter in (b"a", b"b")]
    for singer in singers:
        singer.wait()


inner = Brubeck()


@inner.websocket("/talk")
def talk(ws: WebSocket) -> None:
    ws.send(ws.request.url_for("talk"))


app.mount("/inner", inner)
