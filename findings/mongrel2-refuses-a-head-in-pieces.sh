#!/usr/bin/env bash
# Mongrel2 1.12.2 (Debian 12): a small, valid request whose head arrives in several pieces is answered with 400.
#
# 69 bytes in 8 pieces, 0.2 s apart, are refused, and no handler hears of the request; in 2 pieces they are served.
# The setting limits.client_read_retries counts the pieces, not the time (it is 5): with 1000 the same request is
# served.
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


REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nAccept-Language: en\r\n\r\n"


def trial(server, pieces):
    """Whether a handler hears of the request sent in so many pieces, 0.2 s apart, and what Mongrel2 answers."""
    size = -(-len(REQUEST) // pieces)
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(REQUEST), size):
            try:
                client.sendall(REQUEST[start : start + size])
            except ConnectionError:
                break  # it has been refused already
            time.sleep(0.2)
        is_heard = False
        while message := server.message(3000):  # or the notice that the client of the trial before has gone
            if is_heard := b" / " in message:
                break
        client.settimeout(0.5 if is_heard else 10)
        try:
            answer = client.recv(65536).partition(b"\r\n")[0]
        except TimeoutError:
            answer = None  # it waits for the handler
        return is_heard, answer


print("Mongrel2 1.12.2-3+b1 (Debian), libzmq 4.3.4-6")
seen = []
for settings in ({}, {"limits.client_read_retries": 1000}):
    server = Mongrel2(**settings)
    try:
        for pieces in (1, 2, 8):
            seen.append(trial(server, pieces))
            print(f"settings {settings}, {len(REQUEST)} bytes in {pieces} pieces: handler hears: {seen[-1][0]}, "
                  f"Mongrel2 answers: {seen[-1][1]}", flush=True)
    finally:
        server.end()
if seen != [(True, None), (True, None), (False, b"HTTP/1.1 400 Bad Request"), *[(True, None)] * 3]:
    sys.exit("CHANGED")
print("as stated")
PYTHON
