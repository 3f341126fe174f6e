#!/usr/bin/env bash
# pyzmq 27.3.0: Poller.poll(timeout) of a poller with nothing registered returns at once instead of after the timeout.
#
# zmq_poll(3) and poll(2) with no items wait for the timeout, and so does select.poll of Python. A loop that lives by the
# timeout of its poller takes a whole core from the moment when it has unregistered its last socket.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --only-binary :all: pyzmq==27.3.0; } ||
    { echo "could not be tried: no pyzmq 27.3.0" >&2; exit 2; }

timeout -k 5 60 "$folder/venv/bin/python" - <<'PYTHON'
import select
import sys
import time

import zmq


def seconds(poll):
    """How long a poll of 1000 ms takes, and what it gives."""
    began = time.monotonic()
    got = poll(1000)
    return time.monotonic() - began, got


context = zmq.Context()
with_socket, without = zmq.Poller(), zmq.Poller()
socket = context.socket(zmq.PULL)
with_socket.register(socket, zmq.POLLIN)
print(f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}")
waited = {}
for name, poll in (("zmq.Poller with a quiet socket", with_socket.poll), ("zmq.Poller with nothing", without.poll),
                   ("select.poll with nothing", select.poll().poll)):
    took, got = seconds(poll)
    waited[name] = took > 0.9
    print(f"{name}: poll(1000) gave {got} after {took:.1f} s")
context.destroy(linger=0)
if [*waited.values()] != [True, False, True]:
    sys.exit("CHANGED")
print("as stated")
PYTHON
