#!/usr/bin/env bash
# libzmq 4.3.5 (in pyzmq 27.3.0): whether an XPUB hears that its subscriber died depends on the option IMMEDIATE.
#
# The manual says of IMMEDIATE only that messages are not queued for connections that do not stand. On an XPUB that
# connects it also gives the unsubscription b"\x00..." when the subscriber's process is killed. Without it the XPUB
# hears nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --only-binary :all: pyzmq==27.3.0; } ||
    { echo "could not be tried: no pyzmq 27.3.0" >&2; exit 2; }

timeout -k 5 60 "$folder/venv/bin/python" - <<'PYTHON'
import subprocess
import sys

import zmq

SUBSCRIBER = """
import zmq
sub = zmq.Context().socket(zmq.SUB)
sub.setsockopt(zmq.SUBSCRIBE, b"a")
print(sub.bind_to_random_port("tcp://127.0.0.1"), flush=True)
sub.poll(50_000)
"""


def heard(immediate):
    """What the XPUB receives when it has connected, and when the subscriber has been killed."""
    context = zmq.Context()
    subscriber = subprocess.Popen([sys.executable, "-c", SUBSCRIBER], stdout=subprocess.PIPE, text=True)
    try:
        xpub = context.socket(zmq.XPUB)
        xpub.setsockopt(zmq.IMMEDIATE, immediate)
        monitor = xpub.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        xpub.connect(f"tcp://127.0.0.1:{int(subscriber.stdout.readline())}")
        first = xpub.recv() if xpub.poll(10_000) else None
        subscriber.kill()
        if not monitor.poll(10_000):
            sys.exit("CHANGED: the XPUB does not notice the end of the connection")
        return first, xpub.recv() if xpub.poll(3000) else None
    finally:
        subscriber.kill()
        subscriber.wait()
        context.destroy(linger=0)


print(f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}")
seen = {}
for immediate in (0, 1):
    seen[immediate] = heard(immediate)
    print(f"IMMEDIATE {immediate}: {seen[immediate][0]} at first, {seen[immediate][1]} after kill -9")
if seen != {0: (b"\x01a", None), 1: (b"\x01a", b"\x00a")}:
    sys.exit("CHANGED")
print("as stated")
PYTHON
