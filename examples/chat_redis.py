"""What chat.py needs to run on several machines at once: its rooms, shared through Redis.

    python chat.py --redis redis://10.0.0.1:6379 --bind 0.0.0.0:8000        (on each machine)

What is said goes to Redis, which keeps the last lines and hands each to all machines; and each machine says, again and
again, who is with it. While Redis is away, those on one machine still hear each other.
"""

import functools
import json
import logging
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, Protocol

from brubeck_lite import patch_standard_library

Line = dict[str, Any]


class Room(Protocol):
    """A room of chat.py."""

    people: dict[Any, str]
    elsewhere: set[str]
    history: deque[Line]
    send: Callable[[Line], None]

    def hear(self, line: Line) -> None: ...


def fail(message: str) -> NoReturn:
    print(f"chat.py: {message}", file=sys.stderr)
    raise SystemExit(2)


class Sharing:
    """The rooms of this machine and of all others on the same Redis."""

    ANNOUNCE = 3.0  # seconds until a machine says again who is with it
    FORGET = 10.0  # seconds without a word from a machine until it is taken to be gone

    def __init__(self, url: str, rooms: Mapping[str, Room], tell_who_is_here: Callable[[], None]) -> None:
        patch_standard_library()  # so that only a coroutine waits for Redis
        try:
            import redis
        except ImportError:
            fail("--redis needs a package: pip install redis")
        self.errors = (redis.RedisError, OSError)
        try:
            self.redis: Any = redis.Redis.from_url(
                url, decode_responses=True, socket_timeout=5, socket_connect_timeout=5
            )
            self.redis.ping()
        except (ValueError, *self.errors) as error:
            fail(f"no Redis at {url}: {error}")
        self.rooms, self.tell_who_is_here = rooms, tell_who_is_here
        self.name = secrets.token_hex(8)  # of this machine
        self.elsewhere: dict[str, tuple[float, dict[str, list[str]]]] = {}  # by machine: when it said who is with it
        for name, room in rooms.items():
            room.send = functools.partial(self.send, name)

    def send(self, room_name: str, line: Line) -> None:
        """Have all machines hear a line; this one hears it from Redis too, so that all have the same order."""
        try:
            with self.redis.pipeline() as pipeline:
                pipeline.rpush(f"chat:{room_name}", json.dumps(line))
                pipeline.ltrim(f"chat:{room_name}", -100, -1)
                pipeline.publish("chat", json.dumps({"room": room_name, "line": line}))
                pipeline.execute()
        except self.errors:
            self.rooms[room_name].hear(line)

    def start(self) -> None:
        threading.Thread(target=self.run, daemon=True).start()  # a coroutine, as all is patched

    def run(self) -> None:
        """Hear what is said anywhere, for ever."""
        while True:
            try:
                self.listen()
            except self.errors as error:
                logging.warning("Redis is away, and is tried again: %s", error)
                time.sleep(1)

    def listen(self) -> None:
        with self.redis.pubsub() as channel:
            channel.subscribe("chat")
            for name, room in self.rooms.items():
                kept = [json.loads(line) for line in self.redis.lrange(f"chat:{name}", 0, -1)]
                for line in kept:
                    if line not in room.history:
                        room.hear(line)
            said, due = {"": [""]}, 0.0
            while True:
                message = channel.get_message(ignore_subscribe_messages=True, timeout=0.5)
                if message is not None:
                    self.take(json.loads(message["data"]))
                here = {name: sorted({*room.people.values()}) for name, room in self.rooms.items()}
                if here != said or time.monotonic() > due:
                    said, due = here, time.monotonic() + self.ANNOUNCE
                    self.redis.publish("chat", json.dumps({"machine": self.name, "here": here}))
                self.show_others()

    def take(self, message: dict[str, Any]) -> None:
        """What a machine says: a line that one of its people said, or who they are."""
        if "line" in message:
            room = self.rooms.get(message["room"])
            if room is not None and message["line"] not in room.history:
                room.hear(message["line"])
        elif message["machine"] != self.name:
            self.elsewhere[message["machine"]] = time.monotonic(), message["here"]

    def show_others(self) -> None:
        """Have the rooms show who is in them by other machines, where that changed."""
        now, changed = time.monotonic(), False
        self.elsewhere = {name: said for name, said in self.elsewhere.items() if now - said[0] < self.FORGET}
        for name, room in self.rooms.items():
            others = {person for _, here in self.elsewhere.values() for person in here.get(name, ())}
            changed, room.elsewhere = changed or others != room.elsewhere, others
        if changed:
            self.tell_who_is_here()
