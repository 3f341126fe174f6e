"""More requests than the pool and its queue can take, in small; tests/benchmarks/overload.py is the same in large."""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import sys
from pathlib import Path

import pytest
from support import Mongrel2, behind_http, behind_mongrel2, free_port, output, wait_for

sys.path.append(str(Path(__file__).parent / "benchmarks"))

from overload import figures, overload

REQUEST = b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n"


def ask(port: int, path: bytes, times: int = 1) -> socket.socket:
    """A client that has asked for this, and waits."""
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(REQUEST % path * times)
    return client


@pytest.mark.parametrize("door", ["http", "mongrel2"])
def test_in_a_burst_each_request_is_answered_what_waits_is_bounded_and_nothing_is_left(door: str) -> None:
    assert [told for told, is_right in overload(door, "small", 700, 2) if not is_right] == []


def test_nobody_overtakes_those_who_wait() -> None:
    """Eleven clients whose next request has always come: between two turns of one of them each other has one."""
    stats = free_port()
    with contextlib.ExitStack() as stack:
        _, port = stack.enter_context(behind_http("program_turns:app", "--stats", f"127.0.0.1:{stats}"))
        for _ in range(10):
            stack.enter_context(ask(port, b"/turn", 30))
        wait_for(lambda: figures(stats)["waiting"] == 9, what="nine to wait")
        last, received = stack.enter_context(ask(port, b"/turn", 6)), b""
        while len(turns := re.findall(rb"\r\n\r\n([0-9]+)", received)) < 6:
            data = last.recv(1000)
            assert data, received
            received += data
    assert [int(after) - int(before) for before, after in itertools.pairwise(turns)] == [11] * 5


def test_a_timeout_that_a_handler_left_behind_ends_no_receiving_from_mongrel2() -> None:
    with Mongrel2() as mongrel2, behind_mongrel2("wire:app", mongrel2) as child:
        for times in range(1, 3):
            with ask(mongrel2.port, b"/left-behind") as client:
                assert client.recv(1000).endswith(b"left")
            wait_for(lambda times=times: output(child).count("a coroutine was ended") == times, what="the Timeout")  # type: ignore[misc]
            with ask(mongrel2.port, b"/") as client:
                assert client.recv(1000).endswith(b"Take five!")
