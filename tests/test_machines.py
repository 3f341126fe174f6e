"""Several processes serve one Mongrel2, and one process several: they may come and go at any time."""

from __future__ import annotations

from machines import join_and_leave


def test_machines_join_and_leave_two_mongrel2s_under_load_and_no_request_is_lost() -> None:
    assert [told for told, is_right in join_and_leave(3, 8) if not is_right] == []
