"""The parts that the tests stand on: what they could get wrong without a word."""

from __future__ import annotations

import functools
import socket
import subprocess
import sys

import pytest
import support
from support import Mongrel2, environment, free_port, listening_ports, listens


def test_a_port_is_given_once_to_all_processes_while_it_is_reserved() -> None:
    ours = [free_port() for _ in range(50)]
    program = "import support; print(*(support.free_port() for _ in range(50))); input()"
    command = [sys.executable, "-c", program]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment(), text=True, **pipes) as other:  # type: ignore[call-overload]
        theirs = [int(port) for port in other.stdout.readline().split()]
        with socket.socket() as late, pytest.raises(OSError, match="Address already in use"):
            late.bind(("127.0.0.1", theirs[0]))
        other.communicate("\n")
    assert len({*ours, *theirs}) == 100


def test_the_server_that_a_port_is_for_may_listen_there_and_nobody_else_then() -> None:
    port = free_port()
    assert not listens(port)
    with socket.create_server(("127.0.0.1", port)):
        assert listens(port)
        with pytest.raises(OSError, match="Address already in use"):
            socket.create_server(("127.0.0.1", port))


def test_a_mongrel2_without_one_of_its_ports_has_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(support, "wait_for", functools.partial(support.wait_for, seconds=2))
    mongrel2 = Mongrel2()
    taken = int(mongrel2.pull.rpartition(":")[2])
    with (
        socket.create_server(("127.0.0.1", taken)),
        pytest.raises(AssertionError, match=rf"in vain for Mongrel2 to listen at .*{taken}"),
        mongrel2,
    ):
        pass


def test_a_mongrel2_listens_at_all_of_its_ports_from_its_start() -> None:
    with Mongrel2() as mongrel2:
        ports = {mongrel2.port, *(int(address.rpartition(":")[2]) for address in (mongrel2.pull, mongrel2.pub))}
        assert len(ports) == 3 and listening_ports(int(mongrel2.pid_file.read_text())) >= ports
