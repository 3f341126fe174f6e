"""Brubeck's old demo: many browsers wait, and all get what one of them posts. No WebSockets: requests that take long.

    python longpoll.py                  (http://127.0.0.1:6767)
    brubeck_lite longpoll:app --bind 0.0.0.0:8000
    brubeck_lite longpoll:app --mongrel2 tcp://127.0.0.1:9999 tcp://127.0.0.1:9998

    curl 'http://127.0.0.1:6767/messages?after=0'
    curl -H 'Content-Type: application/json' -d '{"text": "Take Five"}' http://127.0.0.1:6767/messages

Each that waits is a coroutine and an open file: for thousands raise `ulimit -n`. A browser has at most six connections
to a server, so the seventh tab of one browser waits for the others. The messages are in this process: it is the only
worker.
"""

from collections import deque
from pathlib import Path
from typing import Any

from brubeck_lite import Brubeck, Channel, HTTPError, Request, Response, abort, static_file

STATIC = Path(__file__).parent / "static"
PATIENCE = 25  # seconds until a poll is answered with nothing: below what proxies allow

app = Brubeck()
app.static("/static", STATIC)

messages: deque[dict[str, Any]] = deque(maxlen=100)
channel = Channel()


def newer(after: int) -> list[dict[str, Any]]:
    """The messages with higher numbers; all of them for a browser that knows numbers from before we were restarted."""
    if not messages or after > messages[-1]["number"]:
        after = 0
    return [message for message in messages if message["number"] > after]


@app.get("/messages", cancel=True)  # who leaves does not go on waiting here, and is not counted
def poll(request: Request) -> list[dict[str, Any]]:
    """The messages after number `after`, as soon as there are any."""
    after = request.get_argument("after", 0, int)
    if not newer(after):
        with channel.subscribe() as subscription:
            subscription.get(PATIENCE)
    return newer(after)


@app.post("/messages")
def post(request: Request) -> tuple[dict[str, Any], int]:
    """Add a message, and have everybody who waits answered."""
    text = request.json.get("text") if isinstance(request.json, dict) else None
    if not isinstance(text, str) or not 1 <= len(text.strip()) <= 500:
        abort(400, "a message is a text of 1 to 500 characters")
    number = messages[-1]["number"] + 1 if messages else 1
    message = {"number": number, "text": text.strip(), "waited": len(channel.subscriptions)}
    messages.append(message)
    channel.publish(message)
    return message, 201


@app.get("/waiting")
def waiting(request: Request) -> dict[str, int]:
    return {"waiting": len(channel.subscriptions)}


@app.error(HTTPError)
def explain(request: Request, error: HTTPError) -> dict[str, Any]:
    return {"error": error.message}


@app.get("/")
def index(request: Request) -> Response:
    return static_file(request, "longpoll.html", STATIC)


if __name__ == "__main__":
    app.run()
