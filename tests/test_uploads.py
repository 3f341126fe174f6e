"""Forms and large bodies through every door; and what Mongrel2 calls uploads: bodies that it writes to files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import support
from support import Mongrel2, behind_http, behind_mongrel2, is_running, output, process, wait_for
from urllib3.filepost import encode_multipart_formdata

Door = tuple[str, int]
Behind = tuple[Mongrel2, "subprocess.Popen[str]"]

MIB = 1 << 20
LARGE = int(os.environ.get("UPLOAD_MIB", "200")) * MIB
CLOSE = "Connection: close"


def send(port: int, target: str, pieces: Iterable[bytes], *fields: str, method: str = "POST") -> tuple[int, str]:
    """Send one request, with these header fields besides Host: status and text of the answer. A server that refuses it
    may close before all is sent."""
    head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", CLOSE, *fields, "", ""])
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            coming = iter(pieces)
            connection.sendall(head.encode("latin-1") + next(coming, b""))
            for piece in coming:
                connection.sendall(piece)
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
    head_received, _, text = received.partition(b"\r\n\r\n")
    return int(head_received.split(b" ")[1]), text.decode("latin-1")


def post(port: int, target: str, body: bytes, content_type: str = "x/x", *fields: str) -> tuple[int, str]:
    return send(port, target, [body], f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *fields)


def post_chunked(port: int, target: str, body: bytes, content_type: str = "x/x", *fields: str) -> tuple[int, str]:
    pieces = [body[start : start + 100_000] for start in range(0, len(body), 100_000)]
    chunks = [f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in pieces]
    return send(
        port, target, [*chunks, b"0\r\n\r\n"], f"Content-Type: {content_type}", "Transfer-Encoding: chunked", *fields
    )


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# The same form, the same answer

FIELDS = [("name", "é & =;+%\r\n"), ("empty", ""), ("again", "1"), ("again", "2")]
CONTENT = bytes(range(256)) + b"\r\n--boundary\r\n"


@pytest.mark.parametrize("size", [10, 600_000, 3_000_000])
@pytest.mark.parametrize("by", [post, post_chunked])
@pytest.mark.parametrize("encoding", ["urlencoded", "multipart"])
def test_a_form_is_the_same_by_every_door(door: Door, encoding: str, size: int, by: Any) -> None:
    by = post if door[0] == "wsgiref" else by  # wsgiref takes no chunked body
    content = (CONTENT * (size // len(CONTENT) + 1))[:size]
    fields, files = [*FIELDS, ("large", "x" * size)], []
    if encoding == "urlencoded":
        body, content_type = urlencode(fields).encode(), "application/x-www-form-urlencoded"
    else:
        parts = [
            *fields,
            ("file", ("é.bin", content, "image/png")),
            ("none", ("", b"", "image/png")),
            ("file", ("b", b"")),
        ]
        body, content_type = encode_multipart_formdata(parts)
        files = [
            ["file", "é.bin", "image/png", size, sha256(content)],
            ["file", "b", "application/octet-stream", 0, sha256(b"")],
        ]
    status, text = by(door[1], "/large-form", body, content_type)
    assert status == 200, text
    seen = json.loads(text if text.startswith("{") else text.partition("\r\n")[2].partition("\r\n")[0])
    assert seen["form"].pop("large") == ["x" * size]
    assert seen == {"form": {"name": ["é & =;+%\r\n"], "empty": [""], "again": ["1", "2"]}, "files": files}


@pytest.mark.parametrize("size", [1000, 3 * MIB])
def test_bodies_and_streams_are_the_same_by_every_door(door: Door, size: int) -> None:
    body = (CONTENT * (size // len(CONTENT) + 1))[:size]
    assert post(door[1], "/length", body) == (200, f"{size} {sha256(body)}")
    assert post(door[1], "/large-stream", body) == (200, sha256(body))
    assert post(door[1], "/missing", body)[0] in (404, 413)
    assert post(door[1], "/large-stream", body[:-1]) == (200, sha256(body[:-1]))


@pytest.mark.parametrize("target", ["/form", "/echo", "/json", "/stream", "/unread"])
@pytest.mark.parametrize("by", [post, post_chunked])
def test_a_body_over_the_limit_is_413_that_names_it(door: Door, target: str, by: Any) -> None:
    if target == "/unread" or door[0] == "wsgiref":
        by = post  # nobody counts it, and wsgiref takes no chunked body
    body, content_type = encode_multipart_formdata([("file", ("a", b"x" * MIB))])
    status, text = by(door[1], target, body, "application/json" if target == "/json" else content_type)
    assert (status, str(MIB) in text) == (413, True)


@pytest.mark.parametrize("size", [10, 2 * MIB])
def test_a_malformed_form_is_400_by_every_door(door: Door, size: int) -> None:
    body = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"x" * size
    status, text = post(door[1], "/large-form", body, "multipart/form-data; boundary=x")
    assert (status, "Bad Request" in text) == (400, True)
    assert post(door[1], "/form", b"a=1", "application/x-www-form-urlencoded")[0] == 200


# Mongrel2's uploads: the files that it makes


@pytest.fixture(scope="module")
def behind() -> Iterator[Behind]:
    """A Mongrel2 of our own, and the process that handles its requests."""
    with Mongrel2() as mongrel2, behind_mongrel2("program:app", mongrel2) as child:
        yield mongrel2, child


def store(mongrel2: Mongrel2) -> list[Path]:
    return list((mongrel2.folder / "tmp").iterdir())


def expect_empty_store(mongrel2: Mongrel2) -> None:
    wait_for(lambda: not store(mongrel2), what=lambda: f"an empty store, not {store(mongrel2)}")


@pytest.mark.parametrize("by", [post, post_chunked])
@pytest.mark.parametrize(
    "target",
    [
        "/large-form",
        "/large-stream",
        "/length",
        "/stream",
        "/form",
        "/unread",
        "/missing",
        "/",
        "/boom",
        "/abort/418",
        "/class",
    ],
)
def test_an_upload_leaves_no_file(behind: Behind, target: str, by: Any) -> None:
    mongrel2, _ = behind
    by(mongrel2.port, target, b"x" * 2 * MIB)
    expect_empty_store(mongrel2)


def begin_upload(mongrel2: Mongrel2, field: str, body: bytes) -> socket.socket:
    """A connection on which an upload has begun: Mongrel2 has made its file."""
    connection = socket.create_connection(("127.0.0.1", mongrel2.port), timeout=60)
    connection.sendall(f"POST /large-form HTTP/1.1\r\nHost: x\r\n{field}\r\n\r\n".encode() + body)
    wait_for(lambda: store(mongrel2), what="the upload's file")
    return connection


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("Content-Length: 5000000", b"x" * 2_000_000),
        ("Transfer-Encoding: chunked", (b"10000\r\n" + b"x" * 65536 + b"\r\n") * 30),
    ],
)
def test_an_aborted_upload_leaves_no_file_and_the_handler_goes_on(behind: Behind, field: str, body: bytes) -> None:
    mongrel2, child = behind
    begin_upload(mongrel2, field, body).close()
    expect_empty_store(mongrel2)
    assert send(mongrel2.port, "/", [], method="GET") == (200, "Take five!")
    assert is_running(child.pid)


def test_a_connection_serves_requests_after_an_upload(behind: Behind) -> None:
    mongrel2, _ = behind
    body = b"x" * 2 * MIB
    with socket.create_connection(("127.0.0.1", mongrel2.port), timeout=60) as connection:
        for _ in range(3):
            connection.sendall(
                f"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
            received = b""
            while not received.endswith(f"{len(body)} {sha256(body)}".encode()):
                received += connection.recv(65536) or pytest.fail(f"closed after {received!r}")
    expect_empty_store(mongrel2)


def test_many_uploads_at_once_are_each_others_neighbours(behind: Behind) -> None:
    mongrel2, _ = behind
    bodies = [str(number).encode() * 2 * MIB for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: post(mongrel2.port, "/large-stream", body), bodies))
    assert answers == [(200, sha256(body)) for body in bodies]
    expect_empty_store(mongrel2)


def test_an_upload_over_the_limit_is_refused_before_it_is_there(behind: Behind) -> None:
    mongrel2, _ = behind
    with socket.create_connection(("127.0.0.1", mongrel2.port), timeout=60) as connection:
        connection.sendall(b"POST /length HTTP/1.1\r\nHost: x\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 100_000)
        assert b" 413 " in connection.recv(65536)
    expect_empty_store(mongrel2)


@pytest.fixture(scope="module")
def without_store() -> Iterator[Behind]:
    with Mongrel2() as mongrel2:
        line = [sys.executable, "-m", "brubeck_lite", "program_refusals:app", "--mongrel2", mongrel2.pull, mongrel2.pub]
        with process(line) as child:
            wait_for(lambda: "connected to Mongrel2" in output(child), what="the handler")
            yield mongrel2, child


@pytest.mark.parametrize("prefix", ["", "/inner"])
def test_a_handler_without_a_store_refuses_the_bodies_of_files_by_its_own_pages(
    without_store: Behind, prefix: str
) -> None:
    (mongrel2, child), name = without_store, prefix[1:] or "outer"
    for size in (0, 10, 2 * MIB):
        text = f"{name} page for {prefix}/length: a body without a Content-Length is not taken here"
        assert post_chunked(mongrel2.port, f"{prefix}/length", b"x" * size) == (411, text)
    status, text = post(mongrel2.port, f"{prefix}/large", b"x" * (MIB + 1))
    assert (status, text) == (413, f"{name} page for {prefix}/large: the body is over the limit for this server")
    assert post(mongrel2.port, f"{prefix}/length", b"x" * 9) == (200, "9")
    assert output(child).count("by --upload-store or Brubeck(upload_store=)") == 1


def test_what_does_not_read_a_body_does_not_miss_it(without_store: Behind) -> None:
    mongrel2, _ = without_store
    for prefix in ("", "/inner"):
        assert post_chunked(mongrel2.port, f"{prefix}/unread", b"x" * 10) == (200, "not read")
        assert post_chunked(mongrel2.port, f"{prefix}/nowhere", b"x" * 10)[0] == 404


def dribble(port: int, target: str, size: int) -> tuple[int, str]:
    """The answer to a chunked body that begins with so many bytes, and does not end."""
    head = f"POST {target} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(head + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * (size // 0x8000))
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(65536):
                received += piece
    return int(received.split(b" ")[1]), received.partition(b"\r\n\r\n")[2].decode()


def test_a_chunked_body_ends_where_it_is_over_the_limit_of_its_route() -> None:
    with Mongrel2() as mongrel2, behind_mongrel2("program_refusals:app", mongrel2):
        for target, limit in (("/length", 100_000), ("/inner/length", 500_000), ("/inner/large", 2_000_000)):
            name = "inner" if "inner" in target else "outer"
            status, text = dribble(mongrel2.port, target, limit + 100_000)
            assert (status, text.startswith(f"{name} page for {target}: "), str(limit) in text) == (413, True, True)
            assert post_chunked(mongrel2.port, target, b"x" * limit) == (200, str(limit))
        expect_empty_store(mongrel2)


# A Mongrel2 of another user


@contextlib.contextmanager
def of_another_user(*options: str, store_mode: int) -> Iterator[Behind]:
    """A Mongrel2 of the user 12345, and a handler that is not allowed more than another user is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(support, "CONFIG", support.CONFIG.replace("0660", "0660" if "0660" in options else "0600"))
        mongrel2 = Mongrel2()
    for path in (mongrel2.folder, *mongrel2.folder.rglob("*")):
        os.chown(path, 12345, 12345)
    mongrel2.folder.chmod(0o755)
    (mongrel2.folder / "tmp").chmod(store_mode)
    line = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--groups=12345", sys.executable, "-m", "brubeck_lite"]
    line += ["program_refusals:app", "--mongrel2", mongrel2.pull, mongrel2.pub]
    line += ["--upload-store", str(mongrel2.folder / "tmp")]
    with mongrel2, process(line) as child:
        wait_for(lambda: "connected to Mongrel2" in output(child) or child.poll() is not None, what="the handler")
        yield mongrel2, child


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="Mongrel2 takes another user only where root starts it")


@needs_root
def test_a_handler_of_the_group_takes_the_uploads_of_another_user() -> None:
    with of_another_user("0660", store_mode=0o2770) as (mongrel2, child):
        assert post_chunked(mongrel2.port, "/length", b"x" * 10) == (200, "10")
        assert post(mongrel2.port, "/large", b"x" * (MIB + 1)) == (200, str(MIB + 1))
        expect_empty_store(mongrel2)
        assert "upload" not in output(child)


@needs_root
@pytest.mark.parametrize("store_mode", [0o777, 0o755])
def test_uploads_that_the_handler_may_not_read_are_500_and_a_line_that_says_what_to_set(store_mode: int) -> None:
    with of_another_user(store_mode=store_mode) as (mongrel2, child):
        for _ in range(2):
            assert post_chunked(mongrel2.port, "/length", b"x" * 10)[0] == 500
            assert post(mongrel2.port, "/large", b"x" * (MIB + 1))[0] == 500
        assert dribble(mongrel2.port, "/large", 100_000)[0] == 500  # before it is there: Mongrel2 removes it then
        log = output(child)
        assert "Traceback" not in log and log.count("cannot take the file of an upload from Mongrel2") == 1
        assert "'upload.temp_store_mode': '0660'" in log
        if store_mode == 0o777:
            expect_empty_store(mongrel2)
        else:
            assert log.count("uploads from Mongrel2 will fail") == log.count("files of uploads stay in") == 1


def test_a_store_that_is_not_mongrel2s_is_told(tmp_path: Path) -> None:
    with Mongrel2() as mongrel2:
        line = [sys.executable, "-m", "brubeck_lite", "program_refusals:app", "--mongrel2", mongrel2.pull, mongrel2.pub]
        with process([*line, "--upload-store", str(tmp_path)]) as child:
            wait_for(lambda: "connected to Mongrel2" in output(child), what="the handler")
            assert post_chunked(mongrel2.port, "/length", b"x" * 10)[0] == 503
            log = output(child)
            assert "upload_store names the folder of its upload.temp_store" in log and "Traceback" not in log


# What Mongrel2's limits would do


def test_heads_and_cookies_that_mongrel2_would_refuse_by_default_are_told_once(without_store: Behind) -> None:
    mongrel2, child = without_store
    assert send(mongrel2.port, "/cookie/100", [], method="GET")[0] == 200
    assert "limits.buffer_size" not in output(child)
    for _ in range(2):
        assert send(mongrel2.port, "/cookie/2600", [], method="GET")[0] == 200
        assert send(mongrel2.port, "/cookie/100", [], f"Cookie: a={'x' * 3600}", method="GET")[0] == 200
    assert output(child).count("limits.buffer_size") == 1


# Forged uploads

SECRET = "nobody may read this"


@pytest.fixture
def secret(behind: Behind) -> Iterator[Path]:
    """A file in the store, and a link to it, which must stay there unread."""
    mongrel2, _ = behind
    secret, link = (mongrel2.folder / "tmp" / name for name in ("secret", "link"))
    secret.write_text(SECRET)
    link.symlink_to("secret")
    try:
        yield secret
        wait_for(lambda: set(store(mongrel2)) <= {secret, link}, what=f"a store without {store(mongrel2)}")
        assert secret.exists() and secret.read_text() == SECRET and link.is_symlink()
    finally:
        secret.unlink(missing_ok=True)
        link.unlink(missing_ok=True)


NINE, LARGER = b"x" * 9, b"x" * (MIB + 9)
CHUNKED = "Transfer-Encoding: chunked"
FORGED: dict[str, tuple[list[str], bytes, bytes]] = {  # header fields, the body, and how it is sent
    "nothing": ([], b"", b""),
    "an empty body": (["Content-Length: 0"], b"", b""),
    "a body": (["Content-Length: 9"], NINE, NINE),
    "a chunked body": ([CHUNKED], NINE, b"9\r\n" + NINE + b"\r\n0\r\n\r\n"),
    "an empty chunked body": ([CHUNKED], b"", b"0\r\n\r\n"),
    "an upload": ([f"Content-Length: {len(LARGER)}"], LARGER, LARGER),
    # What Mongrel2 takes for no body at all:
    "Chunked": (["Transfer-Encoding: Chunked"], b"", b""),
    "chunked twice": (["Transfer-Encoding: chunked, chunked"], b"", b""),
    "chunked beside a length": ([CHUNKED, "Content-Length: 0"], b"", b""),
    "chunked after another": (["Transfer-Encoding: x", CHUNKED], b"", b""),
    "a length over its limit": (["Content-Length: 4294967296"], b"", b""),
    "a length of -5": (["Content-Length: -5"], b"", b""),
    "two lengths": (["Content-Length: 0", "Content-Length: 5"], b"", b""),
    "a digit that is none": (["Content-Length: 0\xb2"], b"", b""),
}


@pytest.mark.parametrize("named", ["/etc/hostname", "/tmp/secret", "/tmp/link"])
@pytest.mark.parametrize("headers", ["done", "start", "start done", "start start done done"])
@pytest.mark.parametrize("how", FORGED)
def test_a_forged_upload_reads_nothing(behind: Behind, secret: Path, named: str, headers: str, how: str) -> None:
    mongrel2, child = behind
    fields, body, sent = FORGED[how]
    forged = [f"X-Mongrel2-Upload-{name.title()}: {named}" for name in headers.split()]
    status, text = send(mongrel2.port, "/large-stream", [sent], *fields, *forged)
    if status == 200:  # Mongrel2 has put its own name in the place of that one
        assert (text, sent == b"") == (sha256(body), False)
    else:
        assert 400 <= status < 500
    assert is_running(child.pid)


@pytest.mark.parametrize("field", ["Content-Length: 5", CHUNKED])
def test_the_empty_frames_of_a_websocket_are_no_uploads(behind: Behind, secret: Path, field: str) -> None:
    mongrel2, _ = behind
    forged = [f"X-Mongrel2-Upload-{name}: /tmp/secret" for name in ("Start", "Done")]
    head = [
        "GET /large-stream HTTP/1.1",
        "Host: x",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: eA==",
    ]
    opening = "\r\n".join([*head, "Sec-WebSocket-Version: 13", field, *forged, "", ""]).encode()
    for _ in range(5):
        with socket.create_connection(("127.0.0.1", mongrel2.port), timeout=60) as connection:
            connection.sendall(opening + b"\x82\x80mask" * 5)
            with contextlib.suppress(ConnectionResetError):
                connection.recv(65536)
        assert send(mongrel2.port, "/", [], method="GET") == (200, "Take five!")


# Flat memory


def high_water(pid: int) -> int:
    """How many bytes of memory the process has used at the most since it was asked last."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            Path(f"/proc/{pid}/clear_refs").write_text("5")
            return int(line.split()[1]) << 10
    raise AssertionError(f"the process {pid} has no VmHWM")


PIECE = CONTENT * (MIB // len(CONTENT))


@pytest.fixture(scope="module")
def large_sha256() -> str:
    digest = hashlib.sha256()
    for _ in range(LARGE // MIB):
        digest.update(PIECE)
    return digest.hexdigest()


@contextlib.contextmanager
def ready(door: str) -> Iterator[tuple[int, int]]:
    """Process id and port of `program:app` behind a server."""
    if door == "http":
        with behind_http("program:app") as (child, port):
            yield child.pid, port
    else:
        with Mongrel2() as mongrel2, behind_mongrel2("program:app", mongrel2) as child:
            yield child.pid, mongrel2.port
            expect_empty_store(mongrel2)


@pytest.mark.parametrize("door_name", ["http", "mongrel2"])
def test_a_large_upload_is_read_in_flat_memory(door_name: str, large_sha256: str) -> None:
    size = LARGE // MIB * len(PIECE)
    before = b'--x\r\nContent-Disposition: form-data; name="file"; filename="large"\r\n\r\n'
    pieces = [PIECE] * (LARGE // MIB)
    with ready(door_name) as (pid, port):
        post(port, "/large-form", before + b"\r\n--x--", "multipart/form-data; boundary=x")
        start = high_water(pid)
        status, text = send(port, "/large-stream", pieces, f"Content-Length: {size}")
        assert (status, text) == (200, large_sha256)
        fields = [f"Content-Length: {len(before) + size + 7}", "Content-Type: multipart/form-data; boundary=x"]
        status, text = send(port, "/large-form", [before, *pieces, b"\r\n--x--"], *fields)
        assert status == 200
        assert json.loads(text)["files"] == [["file", "large", "application/octet-stream", size, large_sha256]]
        assert high_water(pid) - start < 32 * MIB
