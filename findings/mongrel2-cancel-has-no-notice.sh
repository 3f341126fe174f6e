#!/usr/bin/env bash
# Mongrel2 1.12.2 (Debian 12): a reply to a connection that is gone gives a notice, but a "cancel" gives none.
#
# Whatever a handler sends to an id that Mongrel2 does not know is answered with {"type":"disconnect"} for this id: a
# plain reply, an empty one, and a control (an extended reply, "X") that asks for "keep-alive" or for nothing. With
# "cancel" in it nothing comes, so a handler that waits for the notice waits for ever.
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



def tnetstring(value):
    if isinstance(value, dict):
        data, kind = b"".join(tnetstring(key) + tnetstring(each) for key, each in value.items()), b"}"
    elif isinstance(value, list):
        data, kind = b"".join(map(tnetstring, value)), b"]"
    elif isinstance(value, int):
        data, kind = b"%d" % value, b"#"
    else:
        data, kind = value.encode(), b","
    return b"%d:%s%s" % (len(data), data, kind)


REPLIES = {
    "plain reply": b"m 4:4242, hello",
    "empty reply": b"m 4:4242, ",
    "ctl {}": b"m 6:X 4242, " + tnetstring(["ctl", {}]),
    "ctl {keep-alive: 1}": b"m 6:X 4242, " + tnetstring(["ctl", {"keep-alive": 1}]),
    "ctl {cancel: 1}": b"m 6:X 4242, " + tnetstring(["ctl", {"cancel": 1}]),
}
print("Mongrel2 1.12.2-3+b1 (Debian), libzmq 4.3.4-6")
seen = {}
server = Mongrel2()
try:
    for name, reply in REPLIES.items():
        server.replies.send(reply)
        notice = server.message(3000)
        seen[name] = notice is not None and notice.startswith(b"m 4242 @* ") and b'"disconnect"' in notice
        print(f"{name} to the unknown id 4242: {notice}", flush=True)
    server.replies.send(REPLIES["plain reply"])
    still = server.message(3000)
    print("a plain reply again:", still)
finally:
    server.end()
if [name for name, has in seen.items() if not has] != ["ctl {cancel: 1}"] or still is None:
    sys.exit("CHANGED")
print("as stated")
PYTHON
