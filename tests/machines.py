"""Several machines: processes that join and leave Mongrel2s under load, and clients that count what has no answer. A
machine is a network namespace where we may make one (which takes root and `ip`), else a process like any other."""

from __future__ import annotations

import contextlib
import os
import random
import select
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from live_clients import Lines
from support import Mongrel2, environment, output, process, wait_for

from brubeck_lite import Brubeck, Request

app = Brubeck()


@app.route("/")
def who(request: Request) -> str:
    return f"process {os.getpid()}."


class Clients(threading.Thread):
    """Ask a port over and over, each on a connection of its own, until `stop`."""

    PATIENCE = 60.0  # seconds without an answer after which there will be none, on a machine that is busy
    REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def __init__(self, port: int, count: int) -> None:
        super().__init__(daemon=True)
        self._port, self._count, self._stopping = port, count, threading.Event()
        self.answered: Counter[int] = Counter()  # by the process that did
        self.lost = 0  # no answer, no whole one, or one that is wrong
        self._poll = select.epoll()
        self._asked: dict[int, tuple[socket.socket, float]] = {}  # by descriptor: its connection, and when

    def _connect(self) -> None:
        client = socket.create_connection(("127.0.0.1", self._port))
        self._poll.register(client, select.EPOLLIN)
        self._ask(client)

    def _ask(self, client: socket.socket) -> None:
        client.sendall(self.REQUEST)
        self._asked[client.fileno()] = client, time.monotonic()

    def _lose(self, descriptor: int) -> None:
        self.lost += 1
        self._asked.pop(descriptor)[0].close()
        if not self._stopping.is_set():
            self._connect()

    def run(self) -> None:
        for _ in range(self._count):
            self._connect()
        while self._asked:
            for descriptor, _ in self._poll.poll(0.1):
                (client, _), answer = self._asked.pop(descriptor), b""
                with contextlib.suppress(ConnectionError):
                    answer = client.recv(65536)
                head, _, name = answer.partition(b"\r\n\r\nprocess ")
                if not (head.startswith(b"HTTP/1.1 200 ") and name.endswith(b".")):
                    self._asked[descriptor] = client, 0.0
                    self._lose(descriptor)
                    continue
                self.answered[int(name[:-1])] += 1
                if self._stopping.is_set():
                    client.close()
                else:
                    self._ask(client)
            overdue = time.monotonic() - self.PATIENCE
            for descriptor, (_, since) in [*self._asked.items()]:
                if since < overdue:
                    self._lose(descriptor)

    def stop(self) -> None:
        self._stopping.set()
        self.join()


class Network:
    """A bridge, and namespaces that are plugged into it: a machine that is switched on gets the next one."""

    def __init__(self) -> None:
        self._name = self._net = ""
        self._stack = contextlib.ExitStack()
        self._count = 1
        self.has_namespaces = False
        self.address = "127.0.0.1"

    def _ip(self, command: str) -> bool:
        return subprocess.run(["ip", *command.split()], check=False, capture_output=True).returncode == 0

    def _add_bridge(self) -> bool:
        """A bridge with a network that no other run of the tests has: its name can be had once."""
        for number in random.sample(range(256), 256) if shutil.which("ip") else ():
            self._name, self._net = f"brubeck{number}", f"10.213.{number}"
            if self._ip(f"link add {self._name} type bridge"):
                return True
            if not Path("/sys/class/net", self._name).exists():
                break  # it is not taken: we may not
        return False

    def _add_namespace(self) -> list[str]:
        """What a command begins with to run there."""
        self._count += 1
        name, cable = f"{self._name}-{self._count}", f"{self._name}v{self._count}"
        made = self._ip(f"netns add {name}")
        self._stack.callback(self._ip, f"netns del {name}")
        made = made and self._ip(f"link add {cable} type veth peer name eth0 netns {name}")
        made = made and self._ip(f"link set {cable} master {self._name} up")
        made = made and self._ip(f"-n {name} addr add {self._net}.{self._count}/24 dev eth0")
        made = made and self._ip(f"-n {name} link set eth0 up")
        self.has_namespaces = made
        return ["ip", "netns", "exec", name] if made else []

    def __enter__(self) -> Network:
        if self._add_bridge():
            self._stack.callback(self._ip, f"link del {self._name}")
            if self._ip(f"addr add {self._net}.1/24 dev {self._name}") and self._ip(f"link set {self._name} up"):
                self._add_namespace()  # to see whether we may
        if self.has_namespaces:
            self.address = f"{self._net}.1"
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def machine(self, servers: Sequence[Mongrel2]) -> Iterator[subprocess.Popen[str]]:
        """One that serves these Mongrel2s, from when it is connected to all."""
        command = self._add_namespace() if self.has_namespaces else []
        command += [sys.executable, "-m", "brubeck_lite", "machines:app"]
        for server in servers:
            command += ["--mongrel2", server.pull, server.pub]
        with process(command, env=environment(measured=False)) as child:
            wait_for(lambda: output(child).count("connected to Mongrel2") == len(servers), what="the machine")
            yield child


def join_and_leave(times: int, count: int) -> Lines:
    """Two Mongrel2s under load, a machine that serves both, and another that comes and goes."""
    with Network() as network, contextlib.ExitStack() as stack:
        servers = [stack.enter_context(Mongrel2(host=network.address)) for _ in range(2)]
        stack.enter_context(network.machine(servers))
        clients = [Clients(server.port, count) for server in servers]
        for each in clients:
            each.start()
        codes = Counter[int]()
        try:
            for _ in range(times):
                with network.machine(servers) as child:
                    for each in clients:
                        wait_for(lambda: each.answered[child.pid] > 20, what="answers of the new machine")  # noqa: B023
                    child.terminate()
                    codes[child.wait(60)] += 1
        finally:
            for each in clients:
                each.stop()
    lost, answered = sum(each.lost for each in clients), sum(each.answered.total() for each in clients)
    kind = "network namespaces" if network.has_namespaces else "processes"
    told = f"handler machine ({kind}) added to two Mongrel2s and removed {times} times: {lost} of {answered:,} lost"
    return [(told, lost == 0), (f"each time it ended well: {dict(codes)}", codes == {0: times})]
