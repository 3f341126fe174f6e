#!/usr/bin/env bash
# lighttpd 1.4.69 (Debian 12): its proxy makes a whole answer of a chunked one that its origin cut off in the middle.
#
# By default (server.stream-response-body = 0) it collects the answer first. When the origin's connection ends without
# the last chunk, lighttpd sends on what it has with status 200 and a Content-Length that it counted: the client
# cannot tell that anything is missing. RFC 9112, section 8, calls such an answer incomplete. With
# stream-response-body = 1 the client sees it.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder" # apt-get fetches as a user of its own
cd "$folder"
package=lighttpd=1.4.69-1
fetch() { apt-get download -q "$package" || { apt-get update -q && apt-get download -q "$package"; }; }
fetch >fetched 2>&1 || { cat fetched; echo "could not be tried: no $package"; exit 2; } >&2
dpkg -x lighttpd_*.deb .
! ldd usr/sbin/lighttpd | grep 'not found' || { echo "could not be tried: libraries are missing" >&2; exit 2; }

timeout -k 5 60 python3 - <<'PYTHON'
import http.client
import os
import socket
import subprocess
import sys
import threading
import time

origin = socket.create_server(("127.0.0.1", 0))


def serve_half():
    """Send the head and the first chunk of an answer, and close."""
    while True:
        connection, _ = origin.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
                               b"a\r\nfirst half\r\n")
            time.sleep(0.5)


def through_lighttpd(stream):
    """The Content-Length that the client gets, its body, and the error that it sees at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with open("lighttpd.conf", "w") as file:
        file.write(f"""
server.modules = ("mod_proxy")
server.document-root = "{os.getcwd()}"
server.bind = "127.0.0.1"
server.port = {port}
server.errorlog = "{os.getcwd()}/error.log"
server.stream-response-body = {stream}
proxy.server = ("/" => (("host" => "127.0.0.1", "port" => {origin.getsockname()[1]})))
""")
    server = subprocess.Popen(["usr/sbin/lighttpd", "-D", "-f", "lighttpd.conf", "-m", "usr/lib/lighttpd"])
    try:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                time.sleep(0.1)
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        client.request("GET", "/")
        response = client.getresponse()
        try:
            return response.status, response.getheader("Content-Length"), response.read(), None
        except http.client.IncompleteRead as error:
            return response.status, response.getheader("Content-Length"), error.partial, "IncompleteRead"
    finally:
        server.kill()
        server.wait()


threading.Thread(target=serve_half, daemon=True).start()
print(subprocess.run(["usr/sbin/lighttpd", "-v"], capture_output=True, text=True).stdout.strip())
print("the origin sends a chunk of 10 bytes, no last chunk, and closes")
seen = {}
for stream in (0, 1):
    status, length, body, error = seen[stream] = through_lighttpd(stream)
    print(f"stream-response-body = {stream}: {status}, Content-Length {length}, {body}, error: {error}")
if seen != {0: (200, "10", b"first half", None), 1: (200, None, b"first half", "IncompleteRead")}:
    sys.exit("CHANGED")
print("as stated")
PYTHON
