"""A clock that ticks in every browser, with a chart of how late it was: server-sent events.

    python clock.py                     (http://127.0.0.1:6767)
    brubeck_lite clock:app --bind 0.0.0.0:8000 --workers 2
    brubeck_lite clock:app --mongrel2 tcp://127.0.0.1:9999 tcp://127.0.0.1:9998

    curl -N http://127.0.0.1:6767/ticks

A browser that was cut off connects again by itself and says in Last-Event-ID which tick it saw last: it gets those that
it missed. (With several workers each has its own clock, and tells how late that one was.)
"""

import os
import time
from collections import deque
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import eventlet

from brubeck_lite import Brubeck, Channel, Event, Request, Response, event_stream, static_file

STATIC = Path(__file__).parent / "static"
PERIOD = 0.5  # seconds between two ticks

app = Brubeck()
app.static("/static", STATIC)

channel = Channel()
history: deque[Event] = deque(maxlen=120)  # the last minute


def tick(late: float) -> None:
    """Tell all who watch what time it is. The id of a tick is its time, which grows also when we are restarted."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    load = os.getloadavg()[0]
    data = {"time": now, "late": 1000 * late, "load": load, "watching": len(channel.subscriptions)}
    event = Event(data, id=now, retry=1000)
    history.append(event)
    channel.publish(event)


def run_clock() -> None:
    """Tick for ever. When other coroutines compute instead of waiting, this one wakes late."""
    while True:
        before = time.monotonic()
        time.sleep(PERIOD)
        tick(time.monotonic() - before - PERIOD)


@app.on_start
def start_clock() -> None:
    eventlet.spawn(run_clock)


def ticks_after(last_id: str) -> Iterator[Event]:
    """The ticks after the one with this id: those that we still have, then each as it comes, until the client leaves
    (or is too slow, and dropped: then it connects again, and goes on where it was)."""
    with channel.subscribe() as subscription:
        yield from [event for event in history if str(event.id) > last_id]
        yield from subscription


@app.get("/ticks")
def ticks(request: Request) -> Response:
    return event_stream(ticks_after(request.headers.get("Last-Event-ID", "")))


@app.get("/")
def index(request: Request) -> Response:
    return static_file(request, "clock.html", STATIC)


if __name__ == "__main__":
    app.run()
