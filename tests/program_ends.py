"""A program whose requests end in every way, and that tells which of them are still there: the garbage collector is
off, so that whatever is held in a cycle stays. Also as a script: `python program_ends.py PORT '{"pool_size": 2}'`."""

from __future__ import annotations

import errno
import gc
import json
import os
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import eventlet

from brubeck_lite import (
    Brubeck,
    HTTPConnection,
    HTTPError,
    Request,
    Response,
    WebMessageHandler,
    WebSocket,
    abort,
    event_stream,
    static_file,  # fmt: skip
)

gc.disable()
app = Brubeck(max_body=4 << 20, upload_store=os.environ.get("UPLOAD_STORE"), secret="a secret of the tests only")
seen: weakref.WeakSet[Request] = weakref.WeakSet()
kept: list[Any] = []  # files of forms whose requests are over


@app.wrap
def see(respond: Callable[[Request], Response]) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        seen.add(request)
        return respond(request)

    return answer


@app.route("/left")
def left(request: Request) -> dict[str, Any]:
    """The requests that are still there, but for this one, and how many descriptors are open."""
    return {"requests": [repr(each) for each in seen if each is not request],
            "descriptors": len(os.listdir("/proc/self/fd")), "closed": [file.closed for file in kept]}  # fmt: skip


told: list[str] = []  # by the functions of `when_done`


@app.route("/told")
def tell(request: Request) -> list[str]:
    before = [*told]
    told.clear()
    return before


@app.route("/done/<how>")
def done(request: Request, how: str) -> str | Iterator[str]:
    request.when_done(lambda: told.append("first"))
    request.when_done(lambda: told[5])
    request.when_done(lambda: told.append("second"))
    told.append("handler")
    if how == "fails":
        raise LookupError(request.path)
    return stream() if how == "streams" else "done"


def stream() -> Iterator[str]:
    try:
        for _ in range(200):
            yield "x" * 1000
            eventlet.sleep(0.01)
    finally:
        told.append("stream")


@app.post("/form", max_body=64 << 20)
def form(request: Request) -> dict[str, Any]:
    return {file.filename: [file.size, len(file.read())] for name in request.files for file in
            request.files.getall(name)} | {"descriptors": len(os.listdir("/proc/self/fd"))}  # fmt: skip


@app.post("/small-form", max_body=1 << 20)
def small_form(request: Request) -> str:
    return str(len(request.files))


@app.post("/keeps-the-file")
def keeps_the_file(request: Request) -> str:
    kept.append(request.files["a"])
    return "kept"


@app.post("/streams-the-file")
def streams_the_file(request: Request) -> Iterator[bytes]:
    file = request.files["a"]
    kept.append(file)
    while piece := file.read(100_000):
        eventlet.sleep(0)
        yield piece


@app.post("/catches")
def catches(request: Request) -> str:
    try:
        return str(len(request.files))
    except HTTPError as error:
        return f"caught {error.status}"


@app.post("/no-json")
def no_json(request: Request) -> str:
    return str(request.json)


@app.route("/fails", methods=["GET", "POST"])
def fails(request: Request) -> str:
    if request.method == "POST":
        len(request.files)
    raise LookupError(request.path)


@app.route("/fails-twice", methods=["POST"])
def fails_twice(request: Request) -> str:
    first: HTTPError | None = None
    try:
        len(request.files)
    except HTTPError as error:
        first = error
    raise LookupError(request.path) from first


def keep_and_fail(request: Request) -> None:
    """Fail by an error that a frame of its traceback keeps."""
    first = LookupError(request.path)
    raise first


def fail_later(request: Request) -> Iterator[str]:
    yield "begun"
    keep_and_fail(request)


def fail_in_the_end(request: Request) -> Iterator[str]:
    try:
        yield "begun"
    finally:
        keep_and_fail(request)


@app.route("/keeps/<how>")
def keeps(request: Request, how: str) -> Any:
    if how == "done":
        request.when_done(lambda: keep_and_fail(request))
    elif how == "spawned":
        app.spawn(keep_and_fail, request)
    elif how == "stream":
        return fail_later(request)
    elif how == "events":
        return event_stream(fail_later(request))
    elif how == "closed":
        return fail_in_the_end(request)
    elif how == "beside":
        try:
            keep_and_fail(request)
        except LookupError:
            raise ValueError(how) from KeyError(how)  # two are behind it: its cause and its context
    return how


@app.route("/handled")
def handled(request: Request) -> str:
    raise ZeroDivisionError(request.path)


@app.error(ZeroDivisionError)
def handle(request: Request, error: Exception) -> tuple[str, int]:
    return "handled", 500


@app.route("/handled-badly")
def handled_badly(request: Request) -> str:
    raise FloatingPointError(request.path)


@app.error(FloatingPointError)
def handle_badly(request: Request, error: Exception) -> str:
    raise error


@app.route("/aborts")
def aborts(request: Request) -> str:
    abort(410, request.path)


@app.route("/too-long", timeout=0.1)
def too_long(request: Request) -> str:
    eventlet.sleep(30)
    return request.path


@app.route("/stream-fails")
def stream_fails(request: Request) -> Iterator[str]:
    yield request.path
    raise LookupError(request.path)


@app.route("/stream-fails-at-once")
def stream_fails_at_once(request: Request) -> Iterator[str]:
    if request.path:
        raise LookupError(request.path)
    yield "never"


@app.route("/events-fail")
def events_fail(request: Request) -> Response:
    def events() -> Iterator[str]:
        yield request.path
        raise LookupError(request.path)

    return event_stream(events())


@app.route("/events")
def events(request: Request) -> Response:
    def each() -> Iterator[str]:
        while True:
            yield request.path
            eventlet.sleep(0.05)

    return event_stream(each())


@app.route("/lines")
def lines(request: Request) -> Iterator[str]:
    while True:
        yield request.path + "\n"
        eventlet.sleep(0.05)


def never_begins() -> Iterator[str]:
    eventlet.sleep(3600)
    yield "never"


@app.route("/class-of-streams")
class ClassOfStreams(WebMessageHandler):
    def get(self) -> Iterator[str]:
        return never_begins()


@app.route("/handled-by-a-stream")
def handled_by_a_stream(request: Request) -> str:
    raise ArithmeticError(request.path)


@app.error(ArithmeticError)
def handle_by_a_stream(request: Request, error: Exception) -> Iterator[str]:
    return never_begins()


@app.wrap
def replace_by_a_stream(respond: Callable[[Request], Response]) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        return Response(never_begins()) if request.path == "/replaced-by-a-stream" else respond(request)

    return answer


@app.route("/waits")
def waits(request: Request) -> str:
    eventlet.sleep(1)
    return "waited"


@app.route("/large")
def large(request: Request) -> bytes:
    return b"0123456789" * 5_000_000


@app.post("/body", max_body=4 << 20)
def body(request: Request) -> str:
    return str(len(request.body))


@app.websocket("/socket", max_message=1 << 20)
def socket(ws: WebSocket) -> None:
    for message in ws:
        if message == "keep":
            keep_and_fail(ws.request)
        if message == "fail":
            raise LookupError(ws.request.path)
        ws.send(str(len(message)))


@app.route("/file/<name>")
def file(request: Request, name: str) -> Response:
    return static_file(request, name, os.path.dirname(__file__))


@app.route("/too-many-files")
def too_many_files(request: Request) -> str:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


if __name__ == "__main__":
    settings = json.loads(sys.argv[2]) if len(sys.argv) > 2 else {}
    app.pool_size = settings.pop("pool_size", app.pool_size)
    app.run(HTTPConnection(f"127.0.0.1:{sys.argv[1]}", **settings))
