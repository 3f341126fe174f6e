"""The example chat.py on two machines, whose rooms are shared through a real Redis."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ROOT, environment, free_port, listens, output, process, wait_for
from websockets.sync.client import ClientConnection, connect

CHAT = [sys.executable, str(ROOT / "examples" / "chat.py")]


@contextlib.contextmanager
def redis_server(port: int, folder: Path) -> Iterator[str]:
    """A Redis that keeps its data in `folder`: its URL."""
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes"]
    with process(["redis-server", *options]):
        wait_for(lambda: listens(port), what="Redis")
        yield f"redis://127.0.0.1:{port}"


@contextlib.contextmanager
def machine(url: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """The chat on a machine of its own: the process and its port."""
    port = free_port()
    with process([*CHAT, "--redis", url, "--bind", f"127.0.0.1:{port}"]) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what="the chat")
        yield child, port


def enter(port: int, name: str) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{port}/rooms/birdland?name={name}", open_timeout=60)


def hear(person: ClientConnection, is_wanted: Callable[[dict[str, Any]], object], seconds: float = 60) -> Any:
    """The first message to a person that is wanted."""
    deadline = time.monotonic() + seconds
    while not is_wanted(message := json.loads(person.recv(deadline - time.monotonic()))):
        pass
    return message


def hear_line(person: ClientConnection, text: str, seconds: float = 60) -> None:
    hear(person, lambda message: message.get("line", {}).get("text") == text, seconds)


def see(person: ClientConnection, names: list[str]) -> None:
    """Until these are in the room."""
    hear(person, lambda message: message.get("rooms", {}).get("birdland") == names)


def say(person: ClientConnection, text: str) -> None:
    person.send(json.dumps({"text": text}))


def test_people_on_two_machines_are_in_one_room(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(redis_server(free_port(), tmp_path))
        here, there = (stack.enter_context(machine(url))[1] for _ in range(2))
        dave = stack.enter_context(enter(here, "Dave"))
        with enter(there, "Paul") as paul:
            for person in (dave, paul):
                see(person, ["Dave", "Paul"])
            say(dave, "from here")
            for person in (dave, paul):
                hear_line(person, "from here")
            say(paul, "from there")
            for person in (dave, paul):
                hear_line(person, "from there")
        see(dave, ["Dave"])


def test_a_machine_that_comes_later_knows_what_was_said_and_one_that_goes_takes_its_people(tmp_path: Path) -> None:
    def knows(message: dict[str, Any]) -> bool:
        lines = [*message.get("history", ()), message.get("line", {})]
        return any(line.get("text") == "before" for line in lines)

    with redis_server(free_port(), tmp_path) as url, machine(url) as (_, here), enter(here, "Dave") as dave:
        say(dave, "before")
        hear_line(dave, "before")
        with machine(url) as (later, there), enter(there, "Paul") as paul:
            hear(paul, knows)
            see(dave, ["Dave", "Paul"])
            later.kill()
            see(dave, ["Dave"])


def test_redis_may_be_away_for_a_while(tmp_path: Path) -> None:
    port = free_port()
    with contextlib.ExitStack() as first:
        url = first.enter_context(redis_server(port, tmp_path))
        with machine(url) as (child, here), machine(url) as (_, there):
            with enter(here, "Dave") as dave, enter(there, "Paul") as paul:
                see(dave, ["Dave", "Paul"])
                first.close()
                wait_for(lambda: "Redis is away" in output(child), what="the notice")
                say(dave, "anybody?")
                hear_line(dave, "anybody?")
                with redis_server(port, tmp_path):
                    heard = False
                    for _ in range(60):  # until both machines are there again
                        say(dave, "back")
                        with contextlib.suppress(TimeoutError):
                            hear_line(paul, "back", 1)
                            heard = True
                            break
                    assert heard
            assert "Traceback" not in output(child)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--redis", "redis://127.0.0.1:1"], "chat.py: no Redis at redis://127.0.0.1:1: "),
        (["--redis", "nothing"], "chat.py: no Redis at nothing: "),
    ],
    ids=["nobody", "nothing"],
)
def test_a_redis_that_cannot_be_reached_is_one_line(arguments: list[str], said: str) -> None:
    done = subprocess.run([*CHAT, *arguments], env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith(said)


def test_a_missing_package_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "redis.py").write_text("raise ImportError\n")
    env = {**environment(), "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run([*CHAT, "--redis", "redis://x"], env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "chat.py: --redis needs a package: pip install redis\n")
