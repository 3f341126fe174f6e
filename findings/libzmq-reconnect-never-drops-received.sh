#!/usr/bin/env bash
# libzmq 4.3.5 (in pyzmq 27.3.0): with RECONNECT_IVL = -1 a PULL throws away what it has received, when its peer closes.
#
# The manual says of -1 only "no reconnection". But messages that have arrived, and that the program has not read yet,
# go with the connection. With 100 (the default), or with an interval so long that it never ends, they can all be
# read.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --only-binary :all: pyzmq==27.3.0; } ||
    { echo "could not be tried: no pyzmq 27.3.0" >&2; exit 2; }

timeout -k 5 60 "$folder/venv/bin/python" - <<'PYTHON'
import sys
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

SENT = 100


def readable_after_the_end(reconnect_ivl):
    """How many of the messages can be read after the PUSH has closed; one was read before."""
    context = zmq.Context()
    try:
        push, pull = context.socket(zmq.PUSH), context.socket(zmq.PULL)
        port = push.bind_to_random_port("tcp://127.0.0.1")
        pull.setsockopt(zmq.RECONNECT_IVL, reconnect_ivl)
        monitor = pull.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        pull.connect(f"tcp://127.0.0.1:{port}")
        for _ in range(SENT):
            push.send(b"message")
        pull.recv()
        time.sleep(1)  # the other 99 arrive
        push.close()  # its linger is unlimited: what it has still to send is sent
        if not monitor.poll(10_000):
            sys.exit("CHANGED: the PULL does not notice that its peer has closed")
        recv_monitor_message(monitor)
        time.sleep(0.5)
        count = 0
        while pull.poll(500):
            pull.recv()
            count += 1
        return count
    finally:
        context.destroy(linger=0)


print(f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}; {SENT} messages sent, 1 read before the peer closes")
counts = {}
for interval in (100, 1 << 30, -1):
    counts[interval] = readable_after_the_end(interval)
    print(f"RECONNECT_IVL {interval}: {counts[interval]} can be read afterwards")
if counts != {100: SENT - 1, 1 << 30: SENT - 1, -1: 0}:
    sys.exit("CHANGED: expected 99, 99 and 0")
print("as stated")
PYTHON
