#!/usr/bin/env bash
# hypercorn 0.18.0: a WSGI application that returns [] is answered with 500, whatever status it gave to start_response.
#
# PEP 3333 allows an iterable that yields nothing: the usual answer to HEAD, 204, 304 and many redirects. hypercorn
# sends the status with the first item only. With [b""] it sends the application's answer.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
{ python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --only-binary :all: hypercorn==0.18.0 \
    h11==0.16.0 h2==4.4.1 hpack==4.2.0 hyperframe==6.1.0 priority==2.0.0 wsproto==1.3.2; } ||
    { echo "could not be tried: no hypercorn 0.18.0" >&2; exit 2; }

cat >"$folder/program.py" <<'PYTHON'
def app(environ, start_response):
    start_response("302 Found", [("Location", "/there"), ("Content-Length", "0")])
    return [] if environ["PATH_INFO"] == "/empty" else [b""]
PYTHON

cd "$folder"
timeout -k 5 60 "$folder/venv/bin/python" - <<'PYTHON'
import http.client
import importlib.metadata
import socket
import subprocess
import sys
import time

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
server = subprocess.Popen([sys.executable, "-m", "hypercorn", "--bind", f"127.0.0.1:{port}", "wsgi:program:app"],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.2)
    print("hypercorn", importlib.metadata.version("hypercorn"), "with an application that answers 302")
    seen = []
    for method in ("GET", "HEAD"):
        for path in ("/one-empty-string", "/empty"):
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            client.request(method, path)
            seen.append(client.getresponse().status)
            client.close()
            print(f"{method}, it returns {'[]' if path == '/empty' else [b'']}: {seen[-1]}")
finally:
    server.terminate()
    server.wait()
if seen != [302, 500, 302, 500]:
    sys.exit("CHANGED")
print("as stated")
PYTHON
