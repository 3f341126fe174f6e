#!/usr/bin/env bash
# Mongrel2 1.12.2 (Debian 12): access.log has status 200 for what a handler answers, whatever the handler answers.
#
# The line is written when the request is handed over, before there is an answer. It says 200, and as size that of the
# request's body. Nothing is logged when the answer goes out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder" # apt-get fetches as a user of its own
cd "$folder"
packages=(mongrel2-core=1.12.2-3+b1 libzmq5=4.3.4-6 libmbedtls14=2.28.3-1 libmbedx509-1=2.28.3-1 libmbedcrypto7=2.28.3-1
    libpgm-5.3-0=5.3.128~dfsg-2 libnorm1=1.5.9+dfsg-2)
fetch() {
    python3 -m venv venv && venv/bin/pip install --quiet --only-binary :all: pyzmq==27.3.0 &&
        { apt-get download -q "${packages[@]}" || { apt-get update -q && apt-get download -q "${packages[@]}"; }; }
}
fetch >fetched 2>&1 || { cat fetched; echo "could not be tried: not all packages can be had"; exit 2; } >&2
for each in *.deb; do dpkg -x "$each" .; done
export LD_LIBRARY_PATH=$folder/usr/lib/x86_64-linux-gnu PATH=$folder/usr/bin:$PATH LOGNAME=nobody
! ldd usr/bin/mongrel2 | grep 'not found' || { echo "could not be tried: libraries are missing" >&2; exit 2; }

timeout -k 5 60 venv/bin/python - <<'PYTHON'
import os
import socket
import subprocess
import sys
import tempfile
import time

import zmq

CONFIG = """
web = Handler(send_spec='tcp://127.0.0.1:{}', send_ident='m', recv_spec='tcp://127.0.0.1:{}', recv_ident='')
main = Server(uuid='main', name='main', default_host='localhost', bind_addr='127.0.0.1', port={}, chroot='./',
    access_log='/logs/access.log', error_log='/logs/error.log', pid_file='/run/mongrel2.pid',
    hosts=[Host(name='localhost', routes={{'/': web}})])
settings = {}
servers = [main]
"""


class Mongrel2:
    """A running Mongrel2 in a folder of its own, and the two sockets of a handler that is connected to it."""

    def __init__(self, **settings):
        frees = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
        push, sub, self.port = (free.getsockname()[1] for free in frees)
        for free in frees:
            free.close()
        self.folder = tempfile.mkdtemp(dir=".")
        for name in ("run", "logs", "tmp"):
            os.mkdir(f"{self.folder}/{name}")
        with open(f"{self.folder}/conf", "w") as file:
            file.write(CONFIG.format(push, sub, self.port, {"server.daemonize": 0, **settings}))
        load = ["m2sh", "load", "-config", "conf", "-db", "db"]
        subprocess.run(load, cwd=self.folder, check=True, capture_output=True)
        self.process = subprocess.Popen(["mongrel2", "db", "main"], cwd=self.folder, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        self.context = zmq.Context()
        self.requests, self.replies = self.context.socket(zmq.PULL), self.context.socket(zmq.XPUB)
        self.requests.connect(f"tcp://127.0.0.1:{push}")
        self.replies.connect(f"tcp://127.0.0.1:{sub}")
        if not self.replies.poll(15_000):
            self.end()
            print("could not be tried: Mongrel2 does not start", file=sys.stderr)
            sys.exit(2)
        self.replies.recv()  # its subscription

    def end(self):
        self.process.kill()
        self.process.wait()
        self.context.destroy(linger=0)

    def message(self, milliseconds):
        """The next message to the handler, or None."""
        return self.requests.recv() if self.requests.poll(milliseconds) else None



def logged(server):
    with open(f"{server.folder}/logs/access.log") as file:
        return file.read().strip()


print("Mongrel2 1.12.2-3+b1 (Debian), libzmq 4.3.4-6")
server = Mongrel2()
try:
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.sendall(b"POST /guests HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
        sender, connection, _ = server.message(10_000).split(b" ", 2)
        time.sleep(1)
        before = logged(server)
        answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\n\r\nNot a guest\n"
        server.replies.send(b"%s %d:%s, %s" % (sender, len(connection), connection, answer))
        client.settimeout(10)
        is_answered = client.recv(65536) == answer
        time.sleep(1)
        after = logged(server)
finally:
    server.end()
print("the client posts 5 bytes; access.log before there is an answer:", before)
print("the client has its 404 of 12 bytes:", is_answered, "- access.log now:", after)
if not (is_answered and before == after and before.endswith("4:POST,7:/guests,8:HTTP/1.1,3:200#1:5#]")):
    sys.exit("CHANGED")
print("as stated")
PYTHON
