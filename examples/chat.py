"""Chat: several rooms, who is in them, and what was said before one came; WebSockets that carry JSON.

    python chat.py                      (http://127.0.0.1:6767)
    brubeck_lite chat:app --bind 0.0.0.0:8000
    brubeck_lite chat:app --mongrel2 tcp://127.0.0.1:9999 tcp://127.0.0.1:9998
    python chat.py --redis redis://10.0.0.1:6379 --bind 0.0.0.0:8000        (on several machines: see chat_redis.py)

A browser sends {"text": ...}, and gets {"history": [line, ...]} once, {"line": line} when somebody says something and
{"rooms": {room: [name, ...]}} when somebody comes or goes. Without --redis the rooms are in
this process: it is the only worker.
"""

import argparse
import json
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from brubeck_lite import Brubeck, Channel, Request, Response, WebSocket, static_file

STATIC = Path(__file__).parent / "static"

app = Brubeck()
app.static("/static", STATIC)


class Room:
    """Those who are in it, the last lines, and the channel by which all of them get the next one."""

    def __init__(self) -> None:
        self.people: dict[WebSocket, str] = {}
        self.elsewhere: set[str] = set()  # who is in it by another machine
        self.history: deque[dict[str, Any]] = deque(maxlen=100)
        self.channel = Channel()
        self.send: Callable[[dict[str, Any]], None] = self.hear  # or what has the other machines hear it too

    def say(self, name: str, text: str) -> None:
        self.send({"name": name, "text": text, "time": time.time()})

    def hear(self, line: dict[str, Any]) -> None:
        self.history.append(line)
        self.channel.publish({"line": line})


ROOMS = {name: Room() for name in ("birdland", "blackhawk", "storyville")}


def tell_who_is_here() -> None:
    # Two tabs are one name.
    rooms = {name: sorted({*room.people.values(), *room.elsewhere}) for name, room in ROOMS.items()}
    for room in ROOMS.values():
        room.channel.publish({"rooms": rooms})


def read_text(message: str | bytes) -> str:
    """What somebody wants to say; nothing, if this is not the JSON that we expect."""
    try:
        given = json.loads(message)
    except (ValueError, RecursionError):
        return ""
    text = given.get("text") if isinstance(given, dict) else None
    return text.strip()[:1000] if isinstance(text, str) else ""


@app.get("/")
def index(request: Request) -> Response:
    return static_file(request, "chat.html", STATIC)


@app.websocket("/rooms/<room_name>", max_message=16 << 10)
def talk(ws: WebSocket, room_name: str) -> None:
    """The whole stay of one browser in one room."""
    room, name = ROOMS.get(room_name), ws.request.query.get("name", "").strip()[:30]
    if room is None or not name:  # a browser never sees a 404 for a WebSocket, but it sees why one was closed
        ws.close(1008, "that room does not exist" if name else "one needs a name here")
        return
    ws.follow(room.channel)
    ws.send({"history": [*room.history]})
    room.people[ws] = name
    try:
        tell_who_is_here()
        for message in ws:
            if text := read_text(message):
                room.say(name, text)
    finally:  # the browser left, or vanished
        del room.people[ws]
        tell_who_is_here()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Chat.")
    parser.add_argument("--bind", metavar="ADDRESS", default="127.0.0.1:6767")
    parser.add_argument("--redis", metavar="URL", help="share the rooms with other machines")
    options = parser.parse_args()
    if options.redis:
        from chat_redis import Sharing

        app.on_start(Sharing(options.redis, ROOMS, tell_who_is_here).start)
    app.run(bind=options.bind)
