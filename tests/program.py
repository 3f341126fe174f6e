"""The program behind every door of the tests."""

from __future__ import annotations

import contextvars
import decimal
import hashlib
import os
import time
from collections.abc import Iterator
from typing import Any

import brubeck_lite
from brubeck_lite import (
    Brubeck,
    HTTPError,
    MessageHandler,
    Request,
    Response,
    WebMessageHandler,
    abort,
    event_stream,
    redirect,
)

app = Brubeck(
    handler_tuples=[(r"^/expression/(\d+)/(\w+)", lambda request, *groups: "-".join(groups))],
    upload_store=os.environ.get("UPLOAD_STORE"), secret="the outermost secret of the tests",
)  # fmt: skip
finished: list[str] = []
client: contextvars.ContextVar[str] = contextvars.ContextVar("client")  # set by middleware
left: contextvars.ContextVar[str] = contextvars.ContextVar("left")  # set by a handler
meetings: list[str] = []


@app.route("/")
def index(request: Request) -> str:
    return "Take five!"


@app.route("/text/<name>")
def text(request: Request, name: str) -> str:
    return f"Take five, {name}!"


@app.route("/number/<int:number>")
def number(request: Request, number: int) -> dict[str, Any]:
    return {"number": number}


@app.route("/folder/")
def folder(request: Request) -> str:
    return "folder"


@app.route("/echo", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
def echo(request: Request) -> dict[str, Any]:
    """What a handler sees of its request: the same by every door."""
    ignored = ("host", "connection", "x-forwarded-for", "content-length", "accept-encoding", "transfer-encoding")
    return {
        "method": request.method,
        "path": request.path,
        "query": {name: request.query.getall(name) for name in request.query},
        "headers": {name: value for name, value in request.headers.items() if name not in ignored},
        "cookies": {name: request.cookies.getall(name) for name in request.cookies},
        "body": request.body.decode("latin-1"),
        "host": request.host.partition(":")[0],
        "scheme": request.scheme,
        "version": request.version,
        "remote_addr": request.remote_addr,
        "connected": request.connected,
        "url": request.url.replace(request.host, "HOST"),
    }


@app.route("/path/<path:path>")
def path(request: Request, path: str) -> dict[str, str]:
    return {"path": path}


@app.post("/json")
def read_json(request: Request) -> dict[str, Any]:
    return {"json": request.json}


@app.post("/length", max_body=3 << 20)
def length(request: Request) -> str:
    return f"{len(request.body)} {hashlib.sha256(request.body).hexdigest()}"


@app.post("/stream")
def stream(request: Request) -> list[int]:
    sizes = []
    while piece := request.stream.read(1000):
        sizes.append(len(piece))
    return sizes


@app.post("/unread")
def unread(request: Request) -> str:
    return "not read"


def sha256(file: Any) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1 << 16):
        digest.update(piece)
    return digest.hexdigest()


@app.post("/form")
@app.post("/large-form", name="large_form", max_body=2 << 30)
def form(request: Request) -> dict[str, Any]:
    """All that a handler can know of a form."""
    files = [file for name in request.files for file in request.files.getall(name)]
    return {
        "form": {name: request.form.getall(name) for name in request.form},
        "files": [[file.name, file.filename, file.content_type, file.size, sha256(file)] for file in files],
    }


@app.post("/large-stream", max_body=2 << 30)
def large_stream(request: Request) -> str:
    return sha256(request.stream)


@app.route("/large/<int:size>")
def large(request: Request, size: int) -> bytes:
    return b"0123456789" * (size // 10)


@app.route("/pieces")
def pieces(request: Request) -> Iterator[str]:
    yield "one "
    yield ""
    yield "two "
    yield "three"


@app.route("/pieces-of-nothing")
def nothing(request: Request) -> Iterator[str]:
    return iter(())


@app.route("/pieces-that-fail")
def failing_pieces(request: Request) -> Iterator[str]:
    raise LookupError("a secret")
    yield ""


@app.route("/none")
def none(request: Request) -> None:
    return None


@app.route("/status/<int:status>")
def status(request: Request, status: int) -> tuple[str, int]:
    return "a body", status


@app.route("/headers")
def headers(request: Request) -> Response:
    response = Response(
        b"\x00\xff", 201, [("X-One", "1"), ("Link", "<a>"), ("Link", "<b>")], "application/octet-stream"
    )
    response.set_cookie("plain", "value")
    response.set_cookie("odd", 'a; b "c" é', max_age=60, samesite="Strict")
    return response


@app.get("/own-head")
def own_head_got(request: Request) -> str:
    return "got"


@app.route("/own-head", ["HEAD"])
def own_head(request: Request) -> tuple[str, int, dict[str, str]]:
    return "", 200, {"X-Own": "head"}


@app.get("/too-long")
def too_long(request: Request) -> Response:
    return Response(iter(["six!!!", "more"]), headers={"Content-Length": "5"})


@app.route("/own-length")
def own_length(request: Request) -> tuple[str, int, dict[str, str]]:
    return "five!", 200, {"Content-Length": "500"}


@app.route("/bad-header")
def bad_header(request: Request) -> tuple[str, int, dict[str, str]]:
    return "", 200, {"X-Bad": request.query["value"]}


@app.route("/redirect")
def go(request: Request) -> Response:
    return redirect(request.query["to"])


@app.route("/abort/<int:code>")
def stop(request: Request, code: int) -> None:
    abort(code, "as you wished", {"X-Abort": "yes"})


@app.route("/boom")
def boom(request: Request) -> None:
    raise ValueError("a secret")


@app.route("/exit")
def leave(request: Request) -> None:
    raise SystemExit("a secret") if request.sender else ValueError("a secret")


@app.route("/odd")
def odd(request: Request) -> Any:
    return object()


@app.route("/surrogate")
def surrogate(request: Request) -> str:
    return "\ud800"


@app.route("/wait/<float:seconds>")
def wait(request: Request, seconds: float) -> str:
    print("begins to wait", flush=True)
    time.sleep(seconds)
    return f"waited {seconds}"


@app.route("/meet/<name>/<int:count>")
def meet(request: Request, name: str, count: int) -> str:
    """Waits until so many requests for this name are here at once."""
    meetings.append(name)
    while meetings.count(name) < count:
        time.sleep(0.01)
    return "met"


@app.route("/spent-timeout")
def spent_timeout(request: Request) -> str:
    if request.sender is None:
        raise ValueError
    import eventlet

    with eventlet.Timeout(0.05):
        time.sleep(5)
    return "never"


@app.route("/class")
class Page(WebMessageHandler):
    def prepare(self) -> None:
        self.headers["X-Prepared"] = "yes"

    def get(self) -> str:
        return "got"

    def post(self) -> str:
        self.set_status(201)
        self.set_cookie("made", "yes")
        return "posted"

    def render(self) -> str:
        return "not for clients"

    def on_finish(self) -> None:
        finished.append(self.request.method)


@app.route("/finished")
def show_finished(request: Request) -> list[str]:
    return finished


@app.route("/plain-class/<name>")
class Plain(MessageHandler):
    def get(self, name: str) -> dict[str, str]:
        return {"name": name}


@app.route("@chat")
@app.route("<feed")
class Chat(MessageHandler):
    def message(self) -> bytes:
        return b"heard " + self.request.body


@app.error(418)
def teapot(request: Request, error: HTTPError) -> str:
    return "short and stout"


@app.error(ZeroDivisionError)
def infinite(request: Request, error: ZeroDivisionError) -> tuple[str, int]:
    return "divided", 422


@app.route("/divide")
def divide(request: Request) -> float:
    return 1 / 0


@app.route("/context")
def context(request: Request) -> list[Any]:
    """What others have left in the context; then it is left there."""
    found = [left.get(None), decimal.getcontext().prec, client.get()]
    left.set(request.url)
    decimal.getcontext().prec = 3
    return found


@app.route("/context/pieces")
@app.route("/context/events", name="events")
def context_of_pieces(request: Request) -> Any:
    def pieces() -> Iterator[str]:
        for number in range(3):
            yield f"{number} {client.get()} {left.get()}\n"
            left.set(f"{number}")

    left.set("-")
    return event_stream(pieces()) if request.path.endswith("events") else pieces()


inner = Brubeck()


@inner.route("/")
def inner_root(request: Request) -> str:
    return request.url_for("inner_page", name="x")


@inner.route("/page/<name>")
def inner_page(request: Request, name: str) -> str:
    return f"{request.path} {name}"


@inner.error(404)
def inner_missing(request: Request, error: HTTPError) -> str:
    return "not in here"


app.mount("/inner", inner)


@app.wrap
def count(respond: brubeck_lite.Respond) -> brubeck_lite.Respond:
    def counted(request: Request) -> Response:
        client.set(request.headers.get("x-client", ""))
        response = respond(request)
        response.headers["X-Wrapped"] = request.route.name or "-" if request.route else "no route"
        return response

    return counted


from program_compress import app as compressed  # noqa: E402
from program_files import app as files  # noqa: E402
from program_files import sign_out, visits  # noqa: E402

app.mount("/compressed", compressed)
app.mount("/files", files)
app.route("/visits")(visits)
app.route("/leave")(sign_out)
