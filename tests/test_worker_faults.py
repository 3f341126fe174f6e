"""What goes wrong with worker processes under load, in small; tests/benchmarks/faults is the same in large."""

from __future__ import annotations

import pytest
import worker_faults
from live_clients import Lines


def check(lines: Lines) -> None:
    assert [told for told, is_right in lines if not is_right] == []


def test_sighup_replaces_all_workers_and_loses_no_request() -> None:
    check(worker_faults.hang_up(2))


def test_a_killed_worker_costs_its_own_requests_only_and_those_fail_at_once() -> None:
    check(worker_faults.kill(2))


def test_a_worker_that_hangs_is_replaced_while_others_are_served() -> None:
    check(worker_faults.hang())


def test_no_answer_of_a_worker_reaches_a_client_of_the_next_mongrel2() -> None:
    check(worker_faults.restart(2, 5))


def test_workers_end_with_their_parent() -> None:
    check(worker_faults.orphan())


@pytest.mark.parametrize("fault", ["run_out_of_descriptors", "fill_disk"])
def test_what_runs_out_is_said_and_service_resumes(fault: str) -> None:
    check(getattr(worker_faults, fault)())
