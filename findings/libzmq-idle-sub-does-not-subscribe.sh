#!/usr/bin/env bash
# libzmq 4.3.5 (in pyzmq 27.3.0): a SUB that binds tells a new publisher its subscription only when it is next used.
#
# The I/O thread takes the connection, but the subscription is sent by the thread that owns the SUB, in its next call.
# Until then the publisher drops all that it sends, however long it waits first. A SUB that connects tells it at once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --only-binary :all: pyzmq==27.3.0; } ||
    { echo "could not be tried: no pyzmq 27.3.0" >&2; exit 2; }

timeout -k 5 60 "$folder/venv/bin/python" - <<'PYTHON'
import sys

import zmq


def trial(sub_binds):
    """What the XPUB hears in 3 seconds in which the SUB is not touched, whether a message sent then arrives, and what
    the XPUB hears after the SUB has been polled once."""
    context = zmq.Context()
    try:
        sub, xpub = context.socket(zmq.SUB), context.socket(zmq.XPUB)
        sub.setsockopt(zmq.SUBSCRIBE, b"a")
        binding, connecting = (sub, xpub) if sub_binds else (xpub, sub)
        monitor = connecting.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
        connecting.connect(f"tcp://127.0.0.1:{binding.bind_to_random_port('tcp://127.0.0.1')}")
        if not monitor.poll(10_000):
            sys.exit("CHANGED: no connection")
        idle = xpub.recv() if xpub.poll(3000) else None
        xpub.send(b"a message")
        arrived = bool(sub.poll(1000))  # the SUB is used
        used = xpub.recv() if xpub.poll(3000) else None
        return idle, arrived, used
    finally:
        context.destroy(linger=0)


print(f"pyzmq {zmq.__version__}, libzmq {zmq.zmq_version()}")
seen = {}
for sub_binds in (False, True):
    idle, arrived, used = seen[sub_binds] = trial(sub_binds)
    print(f"SUB {'binds' if sub_binds else 'connects'}: within 3 s of the handshake the XPUB has {idle}, a message "
          f"sent then {'arrives' if arrived else 'is lost'}; after a poll of the SUB the XPUB has {used}")
if seen != {False: (b"\x01a", True, None), True: (None, False, b"\x01a")}:
    sys.exit("CHANGED")
print("as stated")
PYTHON
