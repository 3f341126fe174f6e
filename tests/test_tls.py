"""HTTPS by the embedded server: what clients of many kinds get, and what a certificate that cannot be used gets."""

from __future__ import annotations

import contextlib
import ctypes.util
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h11
import pytest
from playwright.sync_api import Browser
from servers import make_certificate
from support import ROOT, environment, free_port, listens, output, process, wait_for
from websockets.sync.client import connect as connect_websocket

from brubeck_lite import Brubeck, HTTPConnection

pytest_plugins = ["browser"]

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


@contextlib.contextmanager
def serving(files: tuple[str, str], **settings: Any) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """wire.py by HTTPS with these settings: its port and process."""
    port, settings = free_port(), {"tls": files, **settings}
    with process([sys.executable, str(ROOT / "tests" / "wire.py"), str(port), json.dumps(settings)]) as child:
        wait_for(lambda: "serving" in output(child) or child.poll() is not None, what="the server")
        assert child.poll() is None, output(child)
        yield port, child


@pytest.fixture(scope="module")
def server(files: tuple[str, str]) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    with serving(files) as served:
        yield served


@pytest.fixture(scope="module")
def port(server: tuple[int, subprocess.Popen[str]]) -> int:
    return server[0]


@pytest.fixture(scope="module")
def context(files: tuple[str, str]) -> ssl.SSLContext:
    """What a client of that server speaks TLS with."""
    return ssl.create_default_context(cafile=files[0])


def connect(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    plain = socket.create_connection(("127.0.0.1", port), timeout=60)
    return context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False)


def read_all(client: ssl.SSLSocket) -> bytes:
    """What comes until close_notify; ssl.SSLEOFError or ConnectionResetError where that is missing."""
    received = b""
    while piece := client.recv(65536):
        received += piece
    return received


def ask(port: int, context: ssl.SSLContext, data: bytes) -> bytes:
    with connect(port, context) as client:
        client.sendall(data)
        return read_all(client)


def get(path: str, *fields: bytes, version: bytes = b"1.1") -> bytes:
    line = b"GET %s HTTP/%s" % (path.encode(), version)
    return b"\r\n".join([line, b"Host: x", *fields, b"Connection: close", b"\r\n"])


def body_of(received: bytes) -> bytes:
    """The body of one answer, as h11 reads it."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=b"GET", target=b"/", headers=[(b"Host", b"x")]))
    connection.receive_data(received)
    connection.receive_data(b"")
    body = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        assert not isinstance(event, type(h11.NEED_DATA)) or event is not h11.NEED_DATA
        body += bytes(event.data) if isinstance(event, h11.Data) else b""
    return body


def curl(port: int, files: tuple[str, str], path: str, *options: str) -> str:
    command = ["curl", "--silent", "--show-error", "--cacert", files[0], *options, f"https://localhost:{port}{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def logged(child: subprocess.Popen[str], text: str) -> None:
    """Wait until the server has written this."""
    wait_for(lambda: text in output(child), what=lambda: f"{text!r} in {output(child)}")


# What clients get


def test_the_log_says_where_it_is_served_by_https(server: tuple[int, subprocess.Popen[str]]) -> None:
    port, child = server
    assert f"serving https://127.0.0.1:{port}" in output(child)


def test_the_scheme_of_a_request_is_https_and_its_cookies_are_secure(port: int, files: tuple[str, str]) -> None:
    answer = curl(port, files, "/where", "--include")
    assert answer.endswith(f"\n\nhttps://localhost:{port}/where")
    assert "; Secure" in answer


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_and_1_3_are_spoken(port: int, files: tuple[str, str], version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cafile=files[0])
    context.minimum_version = context.maximum_version = version
    assert ask(port, context, GET + LAST).count(b"Take five!") == 2


def test_tls_1_1_is_refused(port: int, files: tuple[str, str]) -> None:
    context = ssl.create_default_context(cafile=files[0])
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
        connect(port, context)


@pytest.mark.parametrize(
    "version, command, sign", [("-tls1_2", b"R\n", b"no renegotiation"), ("-tls1_3", b"K\n", b"Take five!")]
)
def test_renegotiation_is_refused_and_new_keys_are_taken(port: int, version: str, command: bytes, sign: bytes) -> None:
    with subprocess.Popen(["openssl", "s_client", "-connect", f"127.0.0.1:{port}", version], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0) as client:  # fmt: skip
        assert client.stdin
        assert client.stdout
        for line in (command, LAST):  # it takes a command from a line that comes alone
            time.sleep(0.5)
            with contextlib.suppress(BrokenPipeError):
                client.stdin.write(line)
        assert sign in client.stdout.read()
        client.kill()


def test_of_http_1_1_and_2_the_first_is_chosen(port: int, files: tuple[str, str]) -> None:
    context = ssl.create_default_context(cafile=files[0])
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connect(port, context) as client:
        assert client.selected_alpn_protocol() == "http/1.1"


def test_pipelined_requests_are_answered_in_order(port: int, context: ssl.SSLContext) -> None:
    requests = b"".join(b"GET /large/%d HTTP/1.1\r\nHost: x\r\n\r\n" % (10 * n) for n in range(1, 100))
    received = ask(port, context, requests + LAST)
    sizes = [int(line[16:]) for line in received.split(b"\r\n") if line.startswith(b"Content-Length: ")]
    assert sizes == [*range(10, 1000, 10), 10]


def test_pipelined_answers_of_many_records_do_not_wait_for_one_that_takes_long(
    port: int, context: ssl.SSLContext, tmp_path: Path
) -> None:
    requests = (f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in ("/large/50000", f"/until{tmp_path}/done"))
    with connect(port, context) as client:
        client.settimeout(20)
        client.sendall("".join(requests).encode())
        received = b""
        while len(received) < 50_000:
            received += client.recv(65536)
        (tmp_path / "done").touch()
        while not received.endswith(b"it is there"):
            received += client.recv(65536)


def test_a_handshake_and_a_request_may_come_octet_by_octet(port: int, context: ssl.SSLContext) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def repeat(step: Any) -> Any:
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    for octet in outgoing.read():
                        plain.send(bytes([octet]))
                    incoming.write(plain.recv(65536))

        repeat(tls.do_handshake)
        tls.write(GET)
        assert repeat(lambda: tls.read(65536)).endswith(b"Take five!")


def test_a_client_that_reads_slowly_gets_all_of_a_large_answer(port: int, context: ssl.SSLContext) -> None:
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(("127.0.0.1", port))
    with context.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as client:
        client.sendall(get("/large/3000000"))
        assert body_of(read_all(client)) == b"0123456789" * 300_000


def test_files_are_sent_whole_and_in_part(port: int, files: tuple[str, str], tmp_path: Path) -> None:
    content = os.urandom(3_000_001)
    (tmp_path / "tune.bin").write_bytes(content)
    path = f"/file{tmp_path}/tune.bin"
    context = ssl.create_default_context(cafile=files[0])
    assert body_of(ask(port, context, get(path))) == content
    assert body_of(ask(port, context, get(path, b"Range: bytes=1000000-2000000"))) == content[1_000_000:2_000_001]


def test_a_body_without_length_ends_with_close_notify(port: int, context: ssl.SSLContext) -> None:
    assert ask(port, context, get("/pieces", version=b"1.0")).endswith(b"\r\n\r\nonetwothree")


def test_a_body_without_length_that_is_not_whole_ends_without_it(port: int, context: ssl.SSLContext) -> None:
    with pytest.raises((ssl.SSLEOFError, ConnectionResetError)):
        ask(port, context, get("/fails-later", version=b"1.0"))


def test_an_idle_connection_ends_with_close_notify(files: tuple[str, str], context: ssl.SSLContext) -> None:
    with serving(files, keep_alive=0.5) as (port, _):
        assert ask(port, context, GET).endswith(b"Take five!")


def test_bodies_come_after_100_continue(port: int, files: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "tune.bin").write_bytes(bytes(900_000))
    answer = curl(port, files, "/body", "--include", "--header", "Expect: 100-continue", "--data-binary",
                  f"@{tmp_path}/tune.bin")  # fmt: skip
    assert answer.startswith("HTTP/1.1 100 Continue")
    assert "\n900000 " in answer


def test_a_body_is_mirrored_while_it_comes(port: int, files: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "tune.bin").write_bytes(content := os.urandom(1_000_000))
    curl(port, files, "/mirror", "--data-binary", f"@{tmp_path}/tune.bin", "--output", f"{tmp_path}/mirrored.bin")
    assert (tmp_path / "mirrored.bin").read_bytes() == content


def test_websockets_are_served(port: int, context: ssl.SSLContext) -> None:
    with connect_websocket(f"wss://localhost:{port}/echo", ssl=context, max_size=None) as ws:
        for message in ("Take five!", os.urandom(1_000_000), "", "x" * 100_000):
            ws.send(message)
            assert ws.recv() == message


def test_a_browser_gets_a_secure_cookie_and_a_secure_websocket(browser: Browser, port: int) -> None:
    page = browser.new_context(ignore_https_errors=True).new_page()
    page.goto(f"https://localhost:{port}/where", timeout=60_000)
    assert [(each["name"], each["secure"]) for each in page.context.cookies()] == [("tune", True)]
    said = page.evaluate(f"""() => new Promise((resolve, reject) => {{
        const ws = new WebSocket("wss://localhost:{port}/echo");
        ws.onopen = () => ws.send("Take five!");
        ws.onmessage = (event) => resolve(event.data);
        ws.onerror = reject;
    }})""")
    page.context.close()
    assert said == "Take five!"


# Who leaves, and who only says that nothing more comes


@pytest.mark.parametrize("path", ["/wait/0.5", "/pieces", "/large/1000000"])
def test_a_client_that_has_half_closed_gets_its_whole_answer(port: int, context: ssl.SSLContext, path: str) -> None:
    with connect(port, context) as client:
        client.sendall(get(path))
        socket.socket.shutdown(client, socket.SHUT_WR)  # the method of its class would say goodbye to TLS, too
        received = read_all(client)
    assert body_of(received)[:10] in (b"waited 0.5", b"onetwothre", b"0123456789")


def test_a_half_closed_client_that_is_asked_for_gets_its_whole_answer(
    server: tuple[int, subprocess.Popen[str]], context: ssl.SSLContext, tmp_path: Path
) -> None:
    port, _ = server
    with connect(port, context) as client:
        client.sendall(get(f"/asks{tmp_path}/done"))
        socket.socket.shutdown(client, socket.SHUT_WR)
        assert client.recv(1) == b"H"  # by which the server looks whether the client is there
        (tmp_path / "done").touch()
        assert body_of(b"H" + read_all(client)) == b"connected: True"


def test_a_client_that_leaves_is_missed(server: tuple[int, subprocess.Popen[str]], context: ssl.SSLContext) -> None:
    port, child = server
    with connect(port, context) as client:
        client.sendall(get("/leaving"))
        with contextlib.suppress(OSError):
            client.settimeout(0.5)
            client.unwrap()
    logged(child, "connected: False")


def test_a_request_that_comes_while_its_client_is_asked_for_is_answered(
    port: int, context: ssl.SSLContext, tmp_path: Path
) -> None:
    with connect(port, context) as client:
        client.sendall(get(f"/asks{tmp_path}/done").replace(b"Connection: close\r\n", b""))
        time.sleep(0.3)  # by now it is asked for
        client.sendall(LAST)
        time.sleep(0.3)
        (tmp_path / "done").touch()
        assert read_all(client).endswith(b"Take five!")


@pytest.mark.parametrize(
    ("sent", "answers"),
    [(GET + GET, [b"Take five!"] * 2),
     (b"POST /body HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nTake", [b"\nthe body ended early\n"])],
    ids=["whole", "half"],
)  # fmt: skip
def test_close_notify_behind_a_request_ends_the_connection_after_its_answer(
    port: int, context: ssl.SSLContext, sent: bytes, answers: list[bytes]
) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as plain:
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        plain.sendall(outgoing.read())
        incoming.write(plain.recv(65536))
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                incoming.write(plain.recv(65536))
        tls.write(sent)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.unwrap()
        plain.sendall(outgoing.read())
        while piece := plain.recv(65536):
            incoming.write(piece)
    received = b""
    with contextlib.suppress(ssl.SSLZeroReturnError):  # close_notify
        while True:
            received += tls.read(65536)
    assert [answer for answer in answers if answer in received] == answers
    assert received.count(b"HTTP/1.1 ") == len(answers)


# Who speaks no TLS, or does not finish its handshake


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "DELETE"])
def test_a_plain_request_is_told_that_this_is_for_https(port: int, method: str) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(f"{method} / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode())
        received = b""
        while piece := client.recv(65536):
            received += piece
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"Content-Type: text/plain" in received
    assert b"https://" in received


@pytest.mark.parametrize("octets", [b"\x16\x03\x01\x40\x01" + bytes(9000), bytes(100), b"\x80\x2e\x01", b"\xff" * 40])
def test_what_is_no_handshake_harms_nobody(
    server: tuple[int, subprocess.Popen[str]], context: ssl.SSLContext, octets: bytes
) -> None:
    port, child = server
    before = output(child)
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(octets)
        client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while client.recv(65536):
                pass
    assert ask(port, context, LAST).endswith(b"Take five!")
    assert output(child) == before


def test_handshakes_that_do_not_come_end_like_heads_and_hold_up_nobody(
    files: tuple[str, str], context: ssl.SSLContext
) -> None:
    with serving(files, head_timeout=1) as (port, _), contextlib.ExitStack() as stack:
        silent = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(20)]
        for number, client in enumerate(silent):
            stack.enter_context(client)
            client.sendall(b"\x16\x03\x01"[: number % 4])
        assert ask(port, context, LAST).endswith(b"Take five!")
        assert [client.recv(10) for client in silent] == [b""] * 20


def test_many_handshakes_at_once_are_all_answered(port: int, context: ssl.SSLContext) -> None:
    clients = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(100)]
    ended: list[bytes] = []

    def talk(plain: socket.socket) -> None:
        with context.wrap_socket(plain, server_hostname="localhost") as client:
            client.sendall(LAST)
            ended.append(read_all(client)[-10:])

    threads = [threading.Thread(target=talk, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == [b"Take five!"] * 100


def ask_for_keys(path: Path, most: int) -> int:
    """Be a client that asks for new keys so often (RFC 8446, 4.6.3), and reads nothing: how often that could be sent.
    Python's own ssl has no call for it."""
    name = ctypes.util.find_library("ssl") or pytest.skip("there is no libssl.so")
    tls, pointer = ctypes.CDLL(name), ctypes.c_void_p
    tls.TLS_client_method.restype = tls.SSL_CTX_new.restype = tls.SSL_new.restype = pointer
    connection = pointer(tls.SSL_new(pointer(tls.SSL_CTX_new(pointer(tls.TLS_client_method())))))
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(path))
        tls.SSL_set_fd(connection, plain.fileno())
        assert tls.SSL_connect(connection) == 1
        for count in range(most):
            if tls.SSL_key_update(connection, 1) != 1 or tls.SSL_do_handshake(connection) != 1:
                return count
    return most


@pytest.mark.skipif(sys.platform != "linux", reason="macOS ends who loads its own libssl")
def test_a_client_that_asks_for_new_keys_and_reads_none_is_cut_off(files: tuple[str, str], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with serving(files, address=f"unix:{path}", head_timeout=600):
        assert ask_for_keys(path, 200_000) < 200_000


# Certificates, and contexts of the program


def refused(*options: str, **settings: Any) -> str:
    """What the command line says before it ends with status 2."""
    command = [sys.executable, "-m", "brubeck_lite", "wire:app", *options]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False, timeout=60,
                          stdin=subprocess.DEVNULL, **settings)  # fmt: skip
    assert done.returncode == 2, done.stderr
    return done.stderr


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_a_certificate_that_cannot_be_used_is_one_line(
    files: tuple[str, str], tmp_path: Path, workers: list[str]
) -> None:
    certificate, key = files
    (tmp_path / "other").mkdir()
    (tmp_path / "locked").mkdir()
    (tmp_path / "weak").mkdir()
    (tmp_path / "text.pem").write_text("no certificate")
    _, other = make_certificate(tmp_path / "other")
    locked = make_certificate(tmp_path / "locked", passphrase="a secret")
    subprocess.run(["openssl", "genrsa", "-out", str(tmp_path / "rsa.pem")], check=True, capture_output=True)
    for pair, reason in {
        (certificate, str(tmp_path / "nowhere")): "No such file",
        (str(tmp_path / "nowhere"), key): "No such file",
        (str(tmp_path), key): "Is a directory",
        (certificate, other): "of another",
        (certificate, str(tmp_path / "rsa.pem")): "of another",
        (str(tmp_path / "text.pem"), key): "PEM",
        locked: "passphrase",
        make_certificate(tmp_path / "weak", algorithm="rsa:512"): "too weak",
    }.items():
        said = [line for line in refused("--bind", f"127.0.0.1:{free_port()}", "--tls", *pair, *workers).splitlines()
                if "INFO" not in line]  # fmt: skip
        assert len(said) == 1, said
        assert reason in said[0]
        assert pair[0] in said[0]


SCRIPT = """
{first}
import ssl

from brubeck_lite import Brubeck, HTTPConnection

app = Brubeck()
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain({certificate!r}, {key!r})


@app.route("/")
def index(request):
    return request.scheme


app.run(HTTPConnection("127.0.0.1:{port}", tls=context))
"""


@pytest.mark.parametrize("first", ["", "import eventlet; eventlet.monkey_patch()"])
def test_a_context_made_before_or_after_patching_serves(files: tuple[str, str], tmp_path: Path, first: str) -> None:
    port, script = free_port(), tmp_path / "script.py"
    script.write_text(SCRIPT.format(first=first, certificate=files[0], key=files[1], port=port))
    with process([sys.executable, str(script)]) as child:
        logged(child, "serving https://")
        assert curl(port, files, "/") == "https"
        assert "WARNING" not in output(child)


def test_run_takes_a_certificate_and_its_key(files: tuple[str, str], tmp_path: Path) -> None:
    port, script = free_port(), tmp_path / "script.py"
    script.write_text("from wire import app\n" f"app.run(bind='127.0.0.1:{port}', tls={files!r})\n")
    with process([sys.executable, str(script)]) as child:
        logged(child, "serving https://")
        assert curl(port, files, "/") == "Take five!"


def test_what_is_no_context_for_servers_is_refused_where_it_is_written(files: tuple[str, str]) -> None:
    for wrong in (ssl.create_default_context(), (*files, files[0]), (files[0], None), (1, 2), files[0], True):
        with pytest.raises(ValueError, match=r"tls is \(certificate, key\)"):
            HTTPConnection("127.0.0.1:0", tls=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="HTTPConnection"):
        Brubeck().run(HTTPConnection("127.0.0.1:0"), tls=files)


def test_workers_take_a_new_certificate_on_sighup(tmp_path: Path) -> None:
    files, port = make_certificate(tmp_path), free_port()
    command = [sys.executable, "-m", "brubeck_lite", "wire:app", "--bind", f"127.0.0.1:{port}", "--workers", "2"]
    with process([*command, "--tls", *files]) as child:
        wait_for(lambda: output(child).count("is ready") == 2, what=lambda: output(child))
        assert f"serving https://127.0.0.1:{port}" in output(child)
        former = ssl.get_server_certificate(("127.0.0.1", port))
        assert former == Path(files[0]).read_text()

        shutil.copy(files[0], files[1])  # with a key that is none, those who serve go on
        child.send_signal(signal.SIGHUP)
        logged(child, "before it was ready")
        assert "cannot use the certificate" in output(child)
        assert ssl.get_server_certificate(("127.0.0.1", port)) == former

        make_certificate(tmp_path)
        child.send_signal(signal.SIGHUP)
        wait_for(lambda: output(child).count("has ended") == 2, what=lambda: output(child))
        assert ssl.get_server_certificate(("127.0.0.1", port)) == Path(files[0]).read_text() != former
        assert listens(port)
