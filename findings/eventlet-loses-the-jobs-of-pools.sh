#!/usr/bin/env bash
# eventlet 0.41.3 (CPython 3.11.7): after monkey_patch() a program ends without the jobs of its ThreadPoolExecutor, and
# without its threads, and says nothing.
#
# Python finishes both before it exits: concurrent.futures promises that for the pending jobs of a pool, and threading for
# threads that are no daemons. eventlet puts the `_shutdown` of a second copy of `threading` in place of the first one's,
# and that copy knows neither what was registered with the first nor the coroutines that now stand for threads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --only-binary :all: eventlet==0.41.3; } ||
    { echo "could not be tried: no eventlet 0.41.3" >&2; exit 2; }

cat >"$folder/program.py" <<'PYTHON'
import sys

if sys.argv[1] == "patched":
    import eventlet

    eventlet.monkey_patch()
import threading
import time
from concurrent.futures import ThreadPoolExecutor


def work(name):
    time.sleep(0.3)
    print(f"the {name} is done;", end=" ", flush=True)


pool = ThreadPoolExecutor()
pool.submit(work, "job")
threading.Thread(target=work, args=["thread"]).start()
if sys.argv[2] == "shutdown":
    pool.shutdown()
print("the program ends;", end=" ", flush=True)
PYTHON

run() { timeout -k 5 60 "$folder/venv/bin/python" -W ignore "$folder/program.py" "$@"; }
plain=$(run plain "") patched=$(run patched "") waited=$(run patched shutdown)
printf 'eventlet 0.41.3\nPython alone: %s\nmonkey_patch(): %s\nmonkey_patch() and pool.shutdown(): %s\n' \
    "$plain" "$patched" "$waited"
[[ $plain == *"job is done"* && $plain == *"thread is done"* && $patched != *done* &&
    $waited == *"job is done"* ]] || { echo CHANGED; exit 1; }
echo "as stated"
