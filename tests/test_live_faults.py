"""What goes wrong with live connections, in small; tests/benchmarks/faults --short and its full form are the same in
large. Each client has a token of its own and looks at every byte it gets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from live_clients import Door, Lines, restart


def check(lines: Lines) -> None:
    assert [told for told, is_right in lines if not is_right] == []


@pytest.fixture(scope="module", params=["http", "mongrel2"])
def door(request: pytest.FixtureRequest) -> Iterator[Door]:
    with Door(request.param) as opened:
        yield opened


def test_what_is_left_behind_is_seen(door: Door) -> None:
    check(door.leave())


def test_clients_that_ask_and_vanish_leave_nothing_behind(door: Door) -> None:
    check(door.vanish(400))


def test_slow_and_half_closed_clients_keep_nobody_from_being_served(door: Door) -> None:
    check(door.annoy(4, 20, 1.0))


def test_who_must_wait_for_a_handler_that_computes_is_answered(door: Door) -> None:
    check(door.compute(1.0, 1, 1.0))


def test_none_of_that_left_a_traceback_in_the_log(door: Door) -> None:
    check([door.log()])


def test_mongrel2_may_be_killed_with_everything_open_and_nobody_gets_a_byte_of_another() -> None:
    check(restart(2, 2))
