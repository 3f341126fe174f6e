"""Mongrel2Connection and run(), with a real Mongrel2: it may come late, go and come back; nobody gets another's
answer."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmq
from machines import Clients
from relay import Relay
from support import SENDER, Mongrel2, behind_mongrel2, environment, free_port, output, process, wait_for

import brubeck_lite
from brubeck_lite import Mongrel2Connection, format_reply, parse_mongrel2


def get(port: int, target: str, seconds: float = 60.0) -> bytes:
    """The body of the answer; ConnectionError or OSError where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request("GET", target)
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.fixture
def mongrel2() -> Iterator[Mongrel2]:
    with Mongrel2() as server:
        yield server


# The road to the first answer


def test_the_first_request_is_answered_though_it_was_sent_before_the_handler_started(mongrel2: Mongrel2) -> None:
    for _ in range(4):
        with ThreadPoolExecutor(1) as pool:
            early = pool.submit(get, mongrel2.port, "/")
            time.sleep(0.2)
            with behind_mongrel2("program:app", mongrel2):
                assert early.result() == b"Take five!"


def test_mongrel2_may_start_after_the_handler() -> None:
    mongrel2 = Mongrel2()
    with behind_mongrel2("program:app", mongrel2, ready=False) as child:
        wait_for(lambda: "waiting for Mongrel2" in output(child))
        time.sleep(0.8)
        with mongrel2:
            assert get(mongrel2.port, "/") == b"Take five!"
            assert output(child).count("waiting for Mongrel2") == 1


@contextlib.contextmanager
def through_relays(
    mongrel2: Mongrel2, pull: float, pub: float, delay: float, *options: str
) -> Iterator[subprocess.Popen[str]]:
    """A handler to which its two connections bring nothing for so many seconds, and then all with this delay."""
    ports = [int(address.rpartition(":")[2]) for address in (mongrel2.pull, mongrel2.pub)]
    with Relay(ports[0], delay, pull) as requests, Relay(ports[1], delay, pub) as replies:
        command = [sys.executable, "-m", "brubeck_lite", "machines:app", *options]
        with process([*command, "--mongrel2", requests.address, replies.address]) as child:
            yield child


@contextlib.contextmanager
def asked_by(mongrel2: Mongrel2, count: int) -> Iterator[Clients]:
    """Clients that ask over and over, of which none may get no answer."""
    clients = Clients(mongrel2.port, count)
    clients.PATIENCE = 60.0  # handlers are started meanwhile
    clients.start()
    try:
        yield clients
    finally:
        clients.stop()
    assert clients.lost == 0


@pytest.mark.parametrize(
    ("workers", "pull", "pub", "delay"),
    [
        ("1", 0.0, 0.6, 0.0),
        ("1", 0.0, 2.0, 0.0),
        ("1", 2.0, 1.0, 0.0),
        ("1", 0.0, 0.0, 0.25),
        ("2", 0.6, 0.6, 0.0),
        ("2", 0.0, 0.0, 0.15),
    ],
)
def test_however_late_the_network_brings_its_connections_a_handler_answers_what_waits(
    mongrel2: Mongrel2, workers: str, pull: float, pub: float, delay: float
) -> None:
    with through_relays(mongrel2, pull, pub, delay, "--workers", workers) as child:
        with asked_by(mongrel2, 20) as clients:
            wait_for(lambda: clients.answered.total() + clients.lost > 60, 60, "answers")
        assert output(child).count("connected to Mongrel2") == 1
        assert "is gone" not in output(child)


def test_handlers_join_and_leave_by_a_slow_network_while_another_serves_and_nothing_is_lost(mongrel2: Mongrel2) -> None:
    with behind_mongrel2("machines:app", mongrel2), asked_by(mongrel2, 200) as clients:
        for pull, pub, delay in ((0.0, 0.6, 0.0), (0.3, 0.0, 0.02)):
            with through_relays(mongrel2, pull, pub, delay) as child:
                wait_for(lambda: clients.answered[child.pid] > 20, 60, "its answers")
                child.terminate()
                assert child.wait(60) == 0


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("wrong", [0, 1])
def test_one_wrong_address_of_two_is_said_once_and_nobody_is_connected(
    mongrel2: Mongrel2, wrong: int, workers: str
) -> None:
    addresses = [mongrel2.pull, mongrel2.pub]
    addresses[wrong] = f"tcp://127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "brubeck_lite", "program:app", "--mongrel2", *addresses, "--workers", workers]
    with process(command) as child:
        wait_for(lambda: "waiting for Mongrel2" in output(child), what="the line")
        time.sleep(1)
        assert output(child).count("waiting for Mongrel2") == 1
        assert "connected to" not in output(child) and "is gone" not in output(child)


@pytest.mark.parametrize("times", [3])
def test_mongrel2_restarts_under_load_and_nobody_gets_the_answer_of_another(mongrel2: Mongrel2, times: int) -> None:
    wrong: list[bytes] = []
    right = 0
    done = threading.Event()

    def client() -> None:
        nonlocal right
        while not done.is_set():
            token = uuid.uuid4().hex
            try:
                body = get(mongrel2.port, f"/slow/{token}", 3)
            except (OSError, http.client.HTTPException):
                time.sleep(0.02)
                continue
            if body == token.encode():
                right += 1
            else:
                wrong.append(body)

    with behind_mongrel2("slow:app", mongrel2) as child:
        clients = [threading.Thread(target=client) for _ in range(16)]
        for thread in clients:
            thread.start()
        try:
            for life in range(times):
                wait_for(lambda: right > 20 * (life + 1), what="answers")  # noqa: B023
                mongrel2.kill()
                mongrel2.start()
                before = right
                wait_for(lambda: right > before, what="service after the restart")  # noqa: B023
        finally:
            done.set()
            for thread in clients:
                thread.join()
        assert child.poll() is None
        assert output(child).count("is gone") == times
        assert "Traceback" not in output(child)
    assert wrong == []
    assert right > 20 * times


def test_several_connections_serve_several_mongrel2s(mongrel2: Mongrel2) -> None:
    with Mongrel2("tnetstring") as other:
        options = ("--mongrel2", other.pull, other.pub)
        with behind_mongrel2("program:app", mongrel2, *options) as child:
            wait_for(lambda: output(child).count("connected to Mongrel2") == 2)
            for _ in range(5):
                assert get(mongrel2.port, "/text/a") == b"Take five, a!"
                assert get(other.port, "/text/b") == b"Take five, b!"


def test_a_prefix_that_swallows_every_reply_is_reported() -> None:
    with Mongrel2(recv_ident="somebody-else") as mongrel2, behind_mongrel2("program:app", mongrel2) as child:
        with pytest.raises(TimeoutError):
            get(mongrel2.port, "/", 1)
        wait_for(lambda: "ERROR no reply will arrive: " in output(child), what="the report")
        report = re.search(r"ERROR no reply will arrive: .*", output(child))
        assert report and SENDER in report[0] and "'somebody-else'" in report[0]


# Alone in a plain script


def test_in_a_plain_script_recv_blocks_as_pyzmq_does(mongrel2: Mongrel2) -> None:
    connection = Mongrel2Connection(mongrel2.pull, mongrel2.pub)
    try:
        with ThreadPoolExecutor(1) as pool:
            client = pool.submit(get, mongrel2.port, "/any?x=1")
            request = connection.recv()
            assert (request.method, request.path, request.query["x"]) == ("GET", "/any", "1")
            connection.reply(request, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")
            assert client.result() == b"plain"
            client = pool.submit(get, mongrel2.port, "/none")
            while (request := connection.recv()).path == "@*":
                pass
            connection.close_client(request)
            with pytest.raises(ConnectionError):
                client.result()
    finally:
        connection.close()
    with pytest.raises(EOFError):
        connection.recv()


def test_deliver_reaches_many_clients_with_one_payload(mongrel2: Mongrel2) -> None:
    connection = Mongrel2Connection(mongrel2.pull, mongrel2.pub)
    try:
        with ThreadPoolExecutor(10) as pool:
            clients = [pool.submit(get, mongrel2.port, "/") for _ in range(10)]
            requests = []
            while len(requests) < 10:
                request = connection.recv()
                if request.path != "@*":
                    requests.append(request)
            connection.deliver(requests, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nall")
            assert [client.result() for client in clients] == [b"all"] * 10
    finally:
        connection.close()


def test_a_plain_script_does_not_answer_the_clients_of_a_former_life(mongrel2: Mongrel2) -> None:
    connection = Mongrel2Connection(mongrel2.pull, mongrel2.pub)
    try:
        with ThreadPoolExecutor(2) as pool:
            first = pool.submit(get, mongrel2.port, "/first")
            old = connection.recv()
            mongrel2.kill()
            mongrel2.start()
            second = pool.submit(get, mongrel2.port, "/second")
            new = connection.recv()
            while new.path == "@*":
                new = connection.recv()
            assert (old.conn_id, old.connected, new.path) == (new.conn_id, False, "/second")
            connection.reply(old, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")
            connection.reply(new, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew")
            assert second.result() == b"new"
            assert connection.dropped == 1
            with pytest.raises(OSError):
                first.result()
    finally:
        connection.close()


def test_constructors_open_nothing_and_refuse_what_is_no_address() -> None:
    Mongrel2Connection("tcp://127.0.0.1:1", "ipc:///nowhere/at/all")
    Mongrel2Connection("ipc://" + "x" * 107, "ipc://" + "é" * 53)
    for address in ("", "127.0.0.1:9999", "tcp://127.0.0.1", "tcp://*", "http://127.0.0.1:80", "tcp://a b:1", "tcp://é:1",
                    "ipc://" + "x" * 108, "ipc://" + "é" * 54):  # fmt: skip
        with pytest.raises(ValueError, match="not an address"):
            Mongrel2Connection("tcp://127.0.0.1:9999", address)


# Against a PUSH and a SUB of our own, where the real server could not be made to do it


class Peer:
    """The sockets of a Mongrel2, for messages that the real one would not send."""

    def __init__(self) -> None:
        self.context = zmq.Context()
        self.push, self.sub = self.context.socket(zmq.PUSH), self.context.socket(zmq.SUB)
        self.pull, self.pub = (f"tcp://127.0.0.1:{free_port()}" for _ in range(2))
        self.push.bind(self.pull)
        self.sub.bind(self.pub)
        self.sub.setsockopt(zmq.SUBSCRIBE, b"")

    def wait(self) -> None:
        """Wait for a handler. A SUB subscribes while its thread is in one of its calls."""
        wait_for(lambda: self.sub.poll(20) or self.push.poll(20, zmq.POLLOUT), what="a handler")

    def send(self, conn_id: int, path: str, more: str = "") -> None:
        headers = f'{{"PATH":"{path}",{more}"METHOD":"GET","VERSION":"HTTP/1.1","URI":"{path}"}}'
        self.push.send(f"{SENDER} {conn_id} {path} {len(headers)}:{headers},0:,".encode())

    def give_back(self, conn_id: int, credit: int) -> None:
        """Tell that the client has read so many bytes."""
        headers = f'{{"METHOD":"JSON","DOWNLOAD_CREDITS":"{credit}"}}'
        self.push.send(f'{SENDER} {conn_id} @* {len(headers)}:{headers},18:{{"type":"credits"}},'.encode())

    def receive(self, seconds: float = 60.0) -> bytes:
        """The next reply; what keeps connections alive is none."""
        while self.sub.poll(int(seconds * 1000)):
            reply = bytes(self.sub.recv())
            if b":X " not in reply[:60]:
                return reply
        raise AssertionError("no reply")

    def close(self) -> None:
        self.push.close(0)
        self.sub.close(0)
        self.context.term()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


@contextlib.contextmanager
def behind_peer(peer: Peer, program: str = "program:app") -> Iterator[subprocess.Popen[str]]:
    with process([sys.executable, "-m", "brubeck_lite", program, "--mongrel2", peer.pull, peer.pub]) as child:
        peer.wait()
        yield child


def test_what_is_no_request_is_dropped_with_one_line_and_service_goes_on(peer: Peer) -> None:
    with behind_peer(peer) as child:
        for message in (b"", b"garbage", b"a 1 / 5:abc", b"\xff\xfe\r\n 1 / 2:{},0:,", b"x" * 1_000_000):
            peer.push.send(message)
        peer.send(7, "/")
        assert b"Take five!" in peer.receive()
        assert output(child).count("sent a message that is no request") == 5
        assert max(map(len, output(child).splitlines())) < 500
        assert "Traceback" not in output(child)


def test_nothing_is_lost_at_a_full_queue(peer: Peer) -> None:
    """The SUB's side reads nothing until thousands of replies are due: more than any queue holds."""
    peer.sub.setsockopt(zmq.RCVHWM, 10)
    with behind_peer(peer):
        sent = 4000
        for number in range(sent):
            peer.send(number, "/large/5000")
        time.sleep(1)
        replies = {peer.receive().split(b" ")[1] + b" " + peer_id(number) for number in range(sent)}
        assert len(replies) == sent


def peer_id(number: int) -> bytes:
    return str(number).encode()


def test_waiting_requests_beyond_the_pool_wait_and_beyond_that_get_503(peer: Peer) -> None:
    with behind_peer(peer, program="small:app"):
        for number in range(10):
            peer.send(number, "/wait")
        answers = [peer.receive() for _ in range(10)]
        assert sum(b" 503 " in answer and b"Retry-After: 1" in answer for answer in answers) == 10 - 2 - 3
        assert sum(b"waited" in answer for answer in answers) == 2 + 3
        assert [answer for answer in answers[:5] if b"waited" in answer] == []
        peer.send(11, "/")
        assert b"small" in peer.receive()


def test_no_more_is_sent_at_once_than_may_be_on_its_way_though_a_former_answer_is_read_late(peer: Peer) -> None:
    with behind_peer(peer) as child:
        peer.send(1, "/", '"DOWNLOAD_CREDITS":"10000",')
        former = peer.receive().partition(b", ")[2]
        peer.send(1, "/large/50000")
        assert len(peer.receive().partition(b", ")[2]) == 10_000
        child.send_signal(signal.SIGSTOP)  # until both notices are there
        for credit in (len(former), 10_000):
            peer.give_back(1, credit)
        time.sleep(0.2)
        child.send_signal(signal.SIGCONT)
        assert len(peer.receive().partition(b", ")[2]) <= 10_000


def test_a_message_socket_gets_the_bare_payload(peer: Peer) -> None:
    with behind_peer(peer):
        headers = '{"PATH":"@chat","METHOD":"JSON"}'
        peer.push.send(f'{SENDER} 5 @chat {len(headers)}:{headers},10:{{"a": "b"}},'.encode())
        assert peer.receive() == f'{SENDER} 1:5, heard {{"a": "b"}}'.encode()
        peer.push.send(f"{SENDER} 5 @other {len(headers)}:{headers},0:,".encode())
        assert b"404" in peer.receive()


def test_a_message_socket_of_the_real_mongrel2(mongrel2: Mongrel2) -> None:
    import base64

    with behind_mongrel2("program:app", mongrel2), socket.create_connection(("127.0.0.1", mongrel2.port), 60) as client:
        client.sendall(b'@chat {"a": 1}\x00')
        expected = base64.b64encode(b'heard {"a": 1}')
        received = b""
        while len(received) < len(expected):
            received += client.recv(1000)
        assert received.rstrip(b"\x00") == expected


def test_pipelined_requests_are_answered_in_their_order(mongrel2: Mongrel2) -> None:
    paths = ["/wait/0.4", "/large/300000", "/wait/0.0", "/text/last"]
    expected = [b"waited 0.4", b"0123456789" * 30_000, b"waited 0.0", b"Take five, last!"]
    with behind_mongrel2("program:app", mongrel2), socket.create_connection(("127.0.0.1", mongrel2.port), 60) as client:
        client.sendall(b"".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in paths))
        received = b""
        while not received.endswith(expected[-1]):
            piece = client.recv(65536)
            assert piece, received[-100:]
            received += piece
    for body in expected:
        head, _, received = received.partition(b"\r\n\r\n")
        assert b"200 OK" in head and received.startswith(body)
        received = received[len(body) :]


def test_a_client_that_pipelines_without_measure_is_closed(mongrel2: Mongrel2) -> None:
    with behind_mongrel2("program:app", mongrel2) as child:
        with socket.create_connection(("127.0.0.1", mongrel2.port), 60) as client:
            client.sendall(b"GET /wait/3.0 HTTP/1.1\r\nHost: x\r\n\r\n" * 120)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
        assert get(mongrel2.port, "/text/next") == b"Take five, next!"
        wait_for(lambda: "requests wait on one connection" in output(child), what="the line in the log")


@pytest.mark.parametrize("post", [
    b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000,
    b"POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
], ids=["bodies", "uploads"])  # fmt: skip
def test_bodies_that_wait_behind_an_answer_without_an_end_take_little_memory_and_few_files(
    mongrel2: Mongrel2, post: bytes
) -> None:
    with behind_mongrel2("program_ends:app", mongrel2) as child:
        with socket.create_connection(("127.0.0.1", mongrel2.port), 60) as client:
            client.sendall(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
            assert client.recv(100)
            with contextlib.suppress(ConnectionError):
                for _ in range(100):
                    client.sendall(post)
            wait_for(lambda: "requests wait on one connection" in output(child), 20, "the line in the log")
        assert json.loads(get(mongrel2.port, "/left"))["requests"] == []


def test_a_client_that_left_is_known_to_have_left(mongrel2: Mongrel2) -> None:
    with behind_mongrel2("slow:app", mongrel2) as child:
        with socket.create_connection(("127.0.0.1", mongrel2.port), 60) as client:
            client.sendall(b"GET /notice HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.3)
        wait_for(lambda: "connected: False" in output(child), what="the notice")


def test_a_client_that_reads_slowly_gets_a_large_answer_whole(mongrel2: Mongrel2) -> None:
    with behind_mongrel2("program:app", mongrel2), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", mongrel2.port))
        client.settimeout(60)
        client.sendall(b"GET /large/2000000 HTTP/1.0\r\nHost: x\r\n\r\n")
        received = 0
        while piece := client.recv(20000):
            received += len(piece)
            time.sleep(0.005)
            if received % 7 == 0:
                assert get(mongrel2.port, "/") == b"Take five!"
        assert received > 2_000_000


# Stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_requests_finish_and_ends_with_0(mongrel2: Mongrel2, number: int) -> None:
    with behind_mongrel2("program:app", mongrel2) as child, ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(get, mongrel2.port, "/wait/1.0") for _ in range(5)]
        wait_for(lambda: output(child).count("begins to wait") == 5, what="the handlers")
        child.send_signal(number)
        assert [answer.result() for answer in answers] == [b"waited 1.0"] * 5
        assert child.wait(60) == 0
        assert "stopping: 5 requests" in output(child)


def test_an_idle_process_ends_without_waiting(mongrel2: Mongrel2) -> None:
    with behind_mongrel2("program:app", mongrel2) as child:
        assert get(mongrel2.port, "/") == b"Take five!"
        child.terminate()
        assert child.wait(60) == 0
        assert "could not pause Mongrel2" not in output(child)


def test_where_mongrel2_cannot_be_left_without_loss_the_log_says_so(peer: Peer) -> None:
    """This one goes on sending, and reads no reply."""
    with behind_peer(peer) as child:
        child.terminate()
        with contextlib.suppress(zmq.Again):
            while child.poll() is None:
                peer.push.send(f"{SENDER} 7 / 2:{{}},0:,".encode(), zmq.NOBLOCK)
                time.sleep(0.01)
        child.wait(60)
        assert output(child).count("could not pause Mongrel2") == 1
        assert "may be lost" in output(child)


STILL = 11.0  # seconds
UPLOAD = b"POST /large-stream HTTP/1.1\r\nHost: x\r\nContent-Length: 3000000\r\n\r\n"


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_mongrel2_that_stands_still_is_not_given_up(mongrel2: Mongrel2, workers: str) -> None:
    pid = int(mongrel2.pid_file.read_text())
    with behind_mongrel2("program:app", mongrel2, "--workers", workers) as child, ThreadPoolExecutor(12) as pool:
        wait_for(lambda: workers == "1" or output(child).count("is ready") == 2, what="workers")
        waiting = [pool.submit(get, mongrel2.port, f"/wait/{seconds}", 60) for seconds in (1.0, STILL - 1, STILL + 1)]
        with socket.create_connection(("127.0.0.1", mongrel2.port), 60) as upload:
            upload.sendall(UPLOAD + bytes(2_000_000))
            time.sleep(0.5)
            os.kill(pid, signal.SIGSTOP)
            try:
                waiting += [pool.submit(get, mongrel2.port, "/", 60) for _ in range(3)]
                time.sleep(STILL)
            finally:
                os.kill(pid, signal.SIGCONT)
            upload.sendall(bytes(1_000_000))
            answer = b""
            while not answer.endswith(hashlib.sha256(bytes(3_000_000)).hexdigest().encode()):
                piece = upload.recv(1000)
                assert piece, answer
                answer += piece
        bodies = [f"waited {seconds}".encode() for seconds in (1.0, STILL - 1, STILL + 1)]
        assert [each.result() for each in waiting] == [*bodies, *[b"Take five!"] * 3]
        assert "is gone" not in output(child) and "Traceback" not in output(child)


FLOODING = """
import os
import eventlet
from brubeck_lite import Brubeck, HTTPConnection, Mongrel2Connection

app = Brubeck()

@app.route("/flood")
def flood(request):
    open("asked", "w").close()
    while not os.path.exists("stands still"):
        eventlet.sleep(0.01)
    for _ in range(6000):  # more than the sockets take
        request.peer.life.send(b"%b 1:0, %b" % (request.peer.sender, bytes(4000)))
    return "flooded"

app.run([HTTPConnection("127.0.0.1:{}", head_timeout=0.2), Mongrel2Connection("{}", "{}")])
"""


def test_a_mongrel2_that_takes_no_more_holds_up_nothing_else(tmp_path: Path) -> None:
    port = free_port()
    with Mongrel2() as own, socket.create_connection(("127.0.0.1", own.port), 60) as client:
        (tmp_path / "flooding.py").write_text(FLOODING.format(port, own.pull, own.pub))
        with process([sys.executable, "flooding.py"], cwd=tmp_path) as child:
            client.sendall(b"GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_for((tmp_path / "asked").exists, what=lambda: output(child))
            os.kill(int(own.pid_file.read_text()), signal.SIGSTOP)
            (tmp_path / "stands still").touch()
            for _ in range(6):  # more time than until Mongrel2 is told to keep the connection
                with socket.create_connection(("127.0.0.1", port), 30) as slow:
                    slow.sendall(b"GET / HT")
                    assert slow.recv(100).startswith(b"HTTP/1.1 408 ")
            child.kill()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_nothing_is_kept_for_clients_that_came_and_went_where_two_share_a_mongrel2(
    mongrel2: Mongrel2, workers: str
) -> None:
    """Each of the two hears of half the connections that end."""
    ports = free_port(), free_port()
    with contextlib.ExitStack() as stack:
        for port in ports:
            options = ("--workers", workers, "--stats", f"127.0.0.1:{port}")
            child = stack.enter_context(behind_mongrel2("program:app", mongrel2, *options))
            wait_for(lambda: workers == "1" or output(child).count("is ready") == 2, what="workers")  # noqa: B023
        paths = ["/", "/large/90000", "/pieces", "/missing"]
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(get, mongrel2.port, paths[number % len(paths)]) for number in range(400)]
            assert all(answer.result() is not None for answer in answers)

        def kept() -> list[str]:
            lines = [line for port in ports for line in get(port, "/").decode().splitlines()]
            names = ("brubeck_lite_connections ", "brubeck_lite_queue_length")
            return [line for line in lines if line.startswith(names) and not line.endswith(" 0")]

        wait_for(lambda: not kept(), what="nothing to be kept")


def test_an_upload_that_stops_on_its_way_is_408_and_its_file_is_gone(mongrel2: Mongrel2) -> None:
    hasty = "import brubeck_lite as b; b.Mongrel2Connection.PATIENCE = 0.5; b.main()"
    command = [sys.executable, "-c", hasty, "program:app", "--mongrel2", mongrel2.pull, mongrel2.pub]
    folder = mongrel2.folder / "tmp"
    with process(command, env={**environment(), "UPLOAD_STORE": str(folder)}) as child:
        wait_for(lambda: "connected to Mongrel2" in output(child), what="the handler")
        with socket.create_connection(("127.0.0.1", mongrel2.port), 60) as client:
            client.sendall(UPLOAD + bytes(10_000))
            wait_for(lambda: [*folder.glob("upload*")], what="its file")
            answer = client.makefile("rb").read()
            assert answer.startswith(b"HTTP/1.1 408 ")
            wait_for(lambda: not [*folder.glob("upload*")], what="the end of its file")
        assert get(mongrel2.port, "/") == b"Take five!"


def test_the_refusal_of_an_upload_is_not_taken_for_the_answer_to_the_request_before_it(mongrel2: Mongrel2) -> None:
    address = "127.0.0.1", mongrel2.port
    with behind_mongrel2("program_workers:app", mongrel2), socket.create_connection(address, 60) as client:
        chunked = "POST /body HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        client.sendall(f"GET /wait/3.0 HTTP/1.1\r\nHost: x\r\n\r\n{chunked}".encode())
        with contextlib.suppress(OSError):  # it is closed
            for _ in range(100):
                client.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
                time.sleep(0.02)
        with contextlib.suppress(ConnectionError):
            assert client.recv(100) == b""
        wait_for(lambda: os.listdir(mongrel2.folder / "tmp") == [], what="the file to be removed")


def test_requests_wait_in_mongrel2_while_its_only_handler_is_replaced(mongrel2: Mongrel2) -> None:
    answers: list[bytes] = []
    done = threading.Event()

    def client() -> None:
        while not done.is_set():
            answers.append(get(mongrel2.port, "/", 30))

    with ThreadPoolExecutor(8) as pool:
        clients = [pool.submit(client) for _ in range(8)]
        for _ in range(2):
            with behind_mongrel2("program:app", mongrel2) as child:
                before = len(answers)
                wait_for(lambda: len(answers) > before + 100, what="answers")  # noqa: B023
                child.terminate()
                assert child.wait(60) == 0
        with behind_mongrel2("program:app", mongrel2):
            done.set()
            for each in clients:
                each.result()
    assert {*answers} == {b"Take five!"}


def test_an_answer_that_is_being_read_when_the_signal_comes_is_sent_whole(mongrel2: Mongrel2) -> None:
    with behind_mongrel2("program:app", mongrel2) as child, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", mongrel2.port))
        client.settimeout(60)
        client.sendall(b"GET /large/9000000 HTTP/1.0\r\nHost: x\r\n\r\n")
        received = len(client.recv(20000))
        child.terminate()
        while piece := client.recv(65536):
            received += len(piece)
        assert received > 9_000_000
        assert child.wait(60) == 0


def test_two_handlers_serve_one_connection_for_longer_than_it_has_credits(mongrel2: Mongrel2) -> None:
    with behind_mongrel2("program:app", mongrel2), behind_mongrel2("program:app", mongrel2):
        connection = http.client.HTTPConnection("127.0.0.1", mongrel2.port, timeout=60)
        with contextlib.closing(connection):
            for _ in range(40):
                connection.request("GET", "/large/50000")
                assert len(connection.getresponse().read()) == 50_000


def test_a_second_signal_ends_at_once(mongrel2: Mongrel2) -> None:
    with behind_mongrel2("program:app", mongrel2) as child, socket.socket() as client:
        client.connect(("127.0.0.1", mongrel2.port))
        client.sendall(b"GET /wait/9.0 HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for(lambda: "begins to wait" in output(child), what="the handler")
        child.send_signal(signal.SIGTERM)
        wait_for(lambda: "stopping: 1 requests" in output(child), what="the first signal")
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
        client.settimeout(0.2)
        with contextlib.suppress(TimeoutError):  # nobody waited for the answer
            assert client.recv(1) == b""


def test_on_start_and_on_stop_are_called_once(mongrel2: Mongrel2) -> None:
    with behind_mongrel2("slow:app", mongrel2) as child:
        get(mongrel2.port, "/slow/x")
        child.terminate()
        child.wait(60)
        assert (output(child).count("started"), output(child).count("stopped")) == (1, 1)


def test_run_in_a_program_patches_and_serves(mongrel2: Mongrel2, tmp_path: object) -> None:
    text = (
        "from brubeck_lite import Brubeck, Mongrel2Connection\nimport time\n"
        "here = []\n"
        "def wait(request):  # until all ten are here at once\n"
        "    here.append(request)\n    while len(here) < 10:\n        time.sleep(0.01)\n    return 'ran'\n"
        f"Brubeck(Mongrel2Connection({mongrel2.pull!r}, {mongrel2.pub!r}), [(r'^/', wait)]).run()\n"
    )
    with process([sys.executable, "-c", text]) as child:
        wait_for(lambda: "connected to Mongrel2" in output(child))
        with ThreadPoolExecutor(10) as pool:
            assert list(pool.map(lambda _: get(mongrel2.port, "/"), range(10))) == [b"ran"] * 10
        child.terminate()
        assert child.wait(60) == 0
        assert "Warning" not in output(child)


def test_importing_it_imports_neither_zmq_nor_eventlet() -> None:
    text = (
        "import sys, brubeck_lite; print([n for n in ('zmq', 'eventlet', 'greenlet', 'argparse') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", text],
        env=environment(measured=False),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_module_names_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", brubeck_lite.__version__)


def test_a_request_made_by_hand_is_answered_on_the_present_life(peer: Peer) -> None:
    connection = Mongrel2Connection(peer.pull, peer.pub)
    try:
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(connection.recv)
            peer.wait()
            peer.send(3, "/")
            assert first.result().conn_id == "3"
        by_hand = parse_mongrel2(f"{SENDER} 9 / 2:{{}},0:,".encode())
        connection.reply(by_hand, b"hello")
        assert peer.receive() == format_reply(SENDER, [9], b"hello")[0]
    finally:
        connection.close()
