"""The program of the tests of faults: whatever it says to a client has that client's token in it, and GET /state tells
what there is in the process."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import time
import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator

import eventlet
import greenlet

import brubeck_lite
from brubeck_lite import Brubeck, Channel, Request, Response, WebSocket, event_stream

app = Brubeck()
Respond = Callable[[Request], Response]
alive: Counter[str] = Counter()  # by "KIND LIFE", with the life that the client gave: handlers and iterators that run
channels: defaultdict[str, Channel] = defaultdict(Channel)
# What may grow up to a bound: the answers counted by route and status, and the latest paths with their routes.
BOUNDED = ("Load.counted", "Routes.found")
for name in BOUNDED:
    getattr(brubeck_lite, name.partition(".")[0])  # AttributeError where there is no such class
COLLECTIONS = (dict, set, frozenset, list, deque, weakref.WeakSet, weakref.WeakKeyDictionary,
               weakref.WeakValueDictionary)  # fmt: skip
left: list[object] = []  # by /leave


@contextlib.contextmanager
def counted(kind: str, request: Request) -> Iterator[None]:
    key = f"{kind} {request.query.get('life', '')}"
    alive[key] += 1
    try:
        yield
    finally:
        alive[key] -= 1


@app.wrap
def late(handler: Respond) -> Respond:
    """Handlers begin as late as the client says, and their answers too, perhaps when that is gone."""

    def respond(request: Request) -> Response:
        seconds = request.get_argument("late", 0.0, float)
        time.sleep(seconds)
        response = handler(request)
        time.sleep(seconds)
        return response

    return respond


def answer(token: str, body: str | bytes | Iterator[str]) -> Response:
    return Response(body, headers={"X-Token": token})


def held_by(thing: object) -> Iterator[tuple[str, Collection[object]]]:
    """The collections that are attributes of an object, with their names, whatever these are."""
    kind = type(thing)
    slots = [name for each in kind.__mro__ for name in vars(each).get("__slots__", ())]
    for name in {*getattr(thing, "__dict__", ()), *slots}:
        value = getattr(thing, name, None)
        if isinstance(value, COLLECTIONS):
            yield f"{kind.__name__}.{name}", value


@app.route("/worker/<token>")
def worker(request: Request, token: str) -> Response:
    """Which process this is, after a moment in which others are asked too."""
    time.sleep(0.2)
    return Response(json.dumps({"worker": os.getpid()}), 200, {"X-Token": token}, "application/json")


@app.route("/state/<token>")
def state(request: Request, token: str) -> Response:
    """How many there are of what must not be left behind: objects of brubeck_lite's classes, what their collections
    hold, and coroutines. Those that a collection holds are parked, for the next message: they may stay."""
    gc.collect()
    counts: Counter[str] = Counter({key: count for key, count in alive.items() if count})
    counts["handling"] = app.stats()["handling"]
    counts["process"] = os.getpid()
    life = getattr(request.peer, "life", None)  # of Mongrel2
    for thing in gc.get_objects():
        kind = type(thing)
        if kind.__module__ == "brubeck_lite":
            counts[f"objects {kind.__name__}"] += 1
            for name, held in held_by(thing):
                parked = sum(isinstance(each, greenlet.greenlet) for each in [*held])
                counts["coroutines"] -= parked
                counts[f"held by {name}"] += 0 if name in BOUNDED else len(held) - parked
        elif issubclass(kind, greenlet.greenlet):
            counts["coroutines"] += not thing.dead
        if life is not None and kind is type(life):
            counts["lives"] += 1
    hub = eventlet.hubs.get_hub()
    counts["listeners"] = len(hub.get_readers()) + len(hub.get_writers())
    counts["listened to"] = sum(len(one.subscriptions) + len(one.followers) for one in channels.values())
    return Response(json.dumps(counts), 200, {"X-Token": token}, "application/json")


@app.route("/leave/<token>")
def leave(request: Request, token: str) -> Response:
    """Leave something behind of each kind that is looked for; asked again, take it away."""
    if left:
        left[0].kill()  # type: ignore[attr-defined]
        left.clear()
        channels.pop(token, None)
        del app.left  # type: ignore[attr-defined]
    else:
        app.left = {token: token}  # type: ignore[attr-defined]
        left.extend([eventlet.spawn(time.sleep, 600), channels[token]])
    return answer(token, token)


def publish(number: int, idle: Counter[str]) -> None:
    for name, channel in [*channels.items()]:
        channel.publish(f"{name}:{number}")
        idle[name] = 0 if channel.subscriptions or channel.followers else idle[name] + 1
        if idle[name] > 40:  # those who asked for it late have come
            del channels[name], idle[name]


@app.on_start
def begin() -> None:
    """Each channel says its name, all the time."""

    def publish_on() -> None:
        with Channel().subscribe() as subscription:  # a process listens to its threads from the first wait on
            subscription.get(0)
        idle: Counter[str] = Counter()
        for number in range(1 << 40):
            publish(number, idle)
            time.sleep(0.05)

    eventlet.spawn(publish_on)


# Handlers that wait


@app.route("/poll/<token>")
def poll(request: Request, token: str) -> Response:
    """Runs to its end, whether or not its client is there."""
    with counted("poll", request):
        time.sleep(request.get_argument("seconds", 0.5, float))
    return answer(token, token)


@app.route("/held/<token>", cancel=True)
def held(request: Request, token: str) -> Response:
    with counted("held", request):
        time.sleep(600)
    return answer(token, token)


@app.route("/compute/<token>")
def compute(request: Request, token: str) -> Response:
    deadline = time.monotonic() + request.get_argument("seconds", 1.0, float)
    while time.monotonic() < deadline:
        pass
    return answer(token, token)


@app.route("/form/<token>", methods=["POST"])
def form(request: Request, token: str) -> Response:
    return answer(token, str(len(request.files["f"].read())))


@app.route("/large/<token>")
def large(request: Request, token: str) -> Response:
    return answer(token, f"{token}\n" * (8 << 20 >> 5))


# Streams


@app.route("/stream/<token>")
def stream(request: Request, token: str) -> Response:
    def pieces() -> Iterator[str]:
        with counted("stream", request):
            for number in range(1 << 40):
                yield f"{token}:{number}\n"
                time.sleep(0.02)

    return answer(token, pieces())


@app.route("/quiet/<token>")
def quiet(request: Request, token: str) -> Response:
    """Waits for long after its first piece."""

    def pieces() -> Iterator[str]:
        with counted("quiet", request):
            yield token
            time.sleep(600)

    return answer(token, pieces())


@app.route("/unbegun/<token>")
def unbegun(request: Request, token: str) -> Response:
    """Waits for long before its first piece."""

    def pieces() -> Iterator[str]:
        with counted("unbegun", request):
            time.sleep(600)
            yield token

    return answer(token, pieces())


@app.route("/endless/<token>")
def endless(request: Request, token: str) -> Response:
    """As fast as the client reads."""

    def pieces() -> Iterator[str]:
        with counted("endless", request):
            while True:
                yield f"{token}\n" * 2000

    return answer(token, pieces())


@app.route("/events/<token>")
def events(request: Request, token: str) -> Response:
    response = event_stream(channels[token])
    response.headers["X-Token"] = token
    return response


# WebSockets


@app.websocket("/echo/<token>")
def echo(ws: WebSocket, token: str) -> None:
    with counted("echo", ws.request):
        for message in ws:
            ws.send(f"{token}:{message}")


@app.websocket("/follow/<token>")
def follow(ws: WebSocket, token: str) -> None:
    with counted("follow", ws.request):
        time.sleep(0.1)  # in which its client may vanish
        ws.follow(channels[token])
        for _ in ws:
            pass


@app.websocket("/pour/<token>")
def pour(ws: WebSocket, token: str) -> None:
    with counted("pour", ws.request):
        while True:
            ws.send(f"{token}\n" * 2000)


@app.websocket("/elsewhere/<token>")
def elsewhere(ws: WebSocket, token: str) -> None:
    """Does not receive."""
    with counted("elsewhere", ws.request):
        time.sleep(600)


@app.websocket("/brief/<token>")
def brief(ws: WebSocket, token: str) -> None:
    with counted("brief", ws.request):
        ws.send(token)
