"""The access log: whole lines in the combined format, whatever becomes of who reads them, and at nobody's cost."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from support import environment, free_port, listens, output, process, wait_for

from brubeck_lite import AccessLog, Brubeck, Mongrel2Request, Request, WSGIRequest, format_access_line, read_mongrel2

LINE = re.compile(
    r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /[!-~]* HTTP/1\.1" \d{3} \d+ "[^"]*" "[^"]*"'
    r" \d+\.\d{6}\n"
)


@contextlib.contextmanager
def logging_to(stdout: IO[bytes] | int, **settings: object) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """program.py with its access log on this file: its port and process, with what else it says on standard error."""
    port = free_port()
    line = [sys.executable, "-m", "brubeck_lite", "program:app", "--bind", f"127.0.0.1:{port}", "--access-log"]
    with open(os.devnull, "w") as nothing, process(line, stdout=stdout, stderr=nothing, **settings) as child:
        wait_for(lambda: listens(port), what="the server")
        yield port, child


def ask(port: int, count: int, target: str = "/", agent: str = "-") -> None:
    """So many requests on one connection, each answered."""
    request = f"GET {target} HTTP/1.1\r\nHost: x\r\nUser-Agent: {agent}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        for _ in range(count):
            client.sendall(request)
            received = b""
            while not received.endswith(b"Take five!"):
                piece = client.recv(10_000)
                assert piece, received
                received += piece


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines(keepends=True)


def test_a_signal_ends_it_with_every_line_written(tmp_path: Path) -> None:
    with open(tmp_path / "log", "ab") as log, logging_to(log) as (port, child):
        ask(port, 350)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
    lines = lines_of(tmp_path / "log")
    assert len(lines) == 350 and all(LINE.fullmatch(line) for line in lines)


def ask_both(ports: list[int], count: int) -> None:
    threads = [threading.Thread(target=ask, args=(port, count, "/", "x" * 600)) for port in ports]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_lines_of_several_processes_never_mix_in_a_file(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(open(tmp_path / "log", "ab")) for _ in range(2)]
        ask_both([stack.enter_context(logging_to(log))[0] for log in logs], 1500)
    lines = lines_of(tmp_path / "log")
    assert len(lines) == 3000 and all(LINE.fullmatch(line) for line in lines)


def test_lines_of_several_processes_never_mix_in_a_pipe() -> None:
    reading, writing = os.pipe()
    received: list[bytes] = []

    def read() -> None:
        while piece := os.read(reading, 1000):
            received.append(piece)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        with contextlib.ExitStack() as stack:
            ask_both([stack.enter_context(logging_to(writing))[0] for _ in range(2)], 1500)
    finally:
        os.close(writing)
        reader.join()
        os.close(reading)
    lines = b"".join(received).decode().splitlines(keepends=True)
    assert len(lines) == 3000 and all(LINE.fullmatch(line) for line in lines)


def test_a_pipe_that_nobody_reads_holds_up_no_request() -> None:
    reading, writing = os.pipe()
    capacity = 64 << 10
    with logging_to(writing) as (port, child):
        os.close(writing)
        ask(port, capacity // 600 + 200, agent="x" * 600)
        assert select.select([reading], [], [], 0)[0]
        with open(reading, "rb") as pipe:
            child.send_signal(signal.SIGTERM)  # what it still holds is written, now that somebody reads
            lines = pipe.read().decode().splitlines(keepends=True)
        assert child.wait(60) == 0
    assert len(lines) == capacity // 600 + 200 and all(LINE.fullmatch(line) for line in lines)


def test_a_pipe_whose_reader_is_gone_ends_nothing() -> None:
    reading, writing = os.pipe()
    with logging_to(writing) as (port, child):
        os.close(writing)
        os.close(reading)
        ask(port, 500)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0


def test_after_a_full_disk_it_goes_on_with_a_line_of_its_own(tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk's: both leave a line that was written in part."""
    log_file = tmp_path / "log"
    with open(log_file, "ab") as log, logging_to(log) as (port, child):
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        ask(port, 300)
        wait_for(lambda: log_file.stat().st_size == 1000, what="the disk to be full")
        ask(port, 10)
        resource.prlimit(child.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ask(port, 5, "/?after=it")
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
    wrong = [line for line in lines_of(log_file) if not LINE.fullmatch(line)]
    assert len(wrong) <= 1, wrong
    assert [LINE.fullmatch(line) is not None for line in lines_of(log_file) if "after" in line][-5:] == [True] * 5


def test_a_log_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with open("/dev/full", "w") as full:
        log = AccessLog(full.fileno())
        for _ in range(3):
            log.add(WSGIRequest({"PATH_INFO": "/", "REQUEST_METHOD": "GET"}), 200, 5)
            log.write()
    assert [record.message for record in caplog.records] == [
        "the access log cannot be written: No space left on device"
    ]
    assert not log.lines and not log.noted


def test_what_nobody_reads_is_kept_within_bounds(caplog: pytest.LogCaptureFixture) -> None:
    reading, writing = os.pipe()
    log = AccessLog(writing)
    log.MOST = 2000  # type: ignore[misc]
    request = Request()
    request.method = request.path = "/"
    for _ in range(5000):
        log.add(request, 200, 5)
        assert len(log.lines) + len(log.noted) <= log.MOST + log.HELD
    os.close(reading)
    os.close(writing)
    assert [record.message for record in caplog.records] == ["the access log cannot be written: nobody reads it"]


def test_without_standard_output_it_does_not_start() -> None:
    line = f"exec {shlex.quote(sys.executable)} -m brubeck_lite program:app --bind 127.0.0.1:{free_port()} --access-log"
    line += " >&-"
    ended = subprocess.run(["sh", "-c", line], env=environment(), stderr=subprocess.PIPE, check=False)
    assert ended.returncode == 2
    assert ended.stderr == b"brubeck_lite: --access-log: standard output is closed\n"


@pytest.mark.parametrize("text", ["a" * 100_000, '"' * 100_000, "\u2028" * 100_000])
def test_a_line_is_short_enough_to_be_written_in_one_piece(text: str) -> None:
    request = WSGIRequest(
        {"REQUEST_METHOD": text, "PATH_INFO": "/" + text.encode().decode("latin-1"), "QUERY_STRING": text,
         "REMOTE_ADDR": text, "HTTP_REFERER": text, "HTTP_USER_AGENT": text, "SERVER_PROTOCOL": "HTTP/1.1"}
    )  # fmt: skip
    line = format_access_line(0, request, 200, 10**12)
    assert len(line) < select.PIPE_BUF
    assert line.count(b"\n") == 1 and line.isascii() and line.count(b'"') == 6


def test_an_address_that_a_proxy_noted_cannot_pass_for_more_than_one_field() -> None:
    request = WSGIRequest({"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": '1.2.3.4 - eve [now] "GET'})
    assert format_access_line(0, request, 200, 5).split(b" ", 3)[1:3] == [b"-", b"-"]


def test_a_message_of_mongrel2_whose_fields_cannot_be_read_has_its_line_behind_a_proxy_too() -> None:
    fields = (b'{"x-forwarded-for":5,"METHOD":"GET","VERSION":"HTTP/1.1","URI":"/a","PATH":"/a","URL_SCHEME":"http",'
              b'"REMOTE_ADDR":"1.2.3.4"}')  # fmt: skip
    request = read_mongrel2(b"sender 1 /a %d:%b,0:," % (len(fields), fields))
    assert Brubeck(proxies=1).handle(request).code == 404
    assert format_access_line(0, request, 404, 5).startswith(b"- - - [")


def test_a_websocket_has_its_line_when_it_ends(tmp_path: Path) -> None:
    port = free_port()
    line = [sys.executable, "-m", "brubeck_lite", "program_stats:app", "--bind", f"127.0.0.1:{port}", "--access-log"]
    with process(line) as child:
        wait_for(lambda: listens(port), what="the server")
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(
                b"GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
        wait_for(lambda: '"GET /socket HTTP/1.1" 101 0 ' in output(child), what="the line")


def test_a_line_ends_with_the_seconds_that_the_answer_took() -> None:
    request = WSGIRequest({"REQUEST_METHOD": "GET", "PATH_INFO": "/"})
    assert format_access_line(0, request, 200, 5, 1.25).endswith(b'"-" "-" 1.250000\n')


@pytest.mark.parametrize("workers", [(), ("--workers", "2")])
def test_it_goes_on_in_a_new_file_when_the_old_one_was_moved_away(tmp_path: Path, workers: tuple[str, ...]) -> None:
    port, log = free_port(), tmp_path / "access.log"
    line = [sys.executable, "-m", "brubeck_lite", "program:app", "--bind", f"127.0.0.1:{port}", *workers,
            "--access-log", str(log)]  # fmt: skip
    with process(line) as child:
        wait_for(lambda: listens(port), what="the server")
        for number in range(3):
            if number:
                log.rename(tmp_path / f"access.log.{number}")
            ask_both([port, port], 50)
            wait_for(lambda: log.exists() and len(lines_of(log)) == 100, what="the lines")
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
    files = [log, tmp_path / "access.log.1", tmp_path / "access.log.2"]
    assert [len(lines_of(file)) for file in files] == [100, 100, 100]
    assert all(LINE.fullmatch(line) for file in files for line in lines_of(file))


def test_several_logs_at_one_file_keep_the_lines_of_each_other(tmp_path: Path) -> None:
    logs = [AccessLog(path=str(tmp_path / "log")) for _ in range(2)]
    for log in logs * 3:
        log.add(WSGIRequest({"PATH_INFO": "/", "REQUEST_METHOD": "GET", "REMOTE_ADDR": "127.0.0.1"}), 200, 5)
        log.write()
    assert len(lines_of(tmp_path / "log")) == 6 and all(LINE.fullmatch(line) for line in lines_of(tmp_path / "log"))


def test_without_a_file_the_program_may_stand_behind_the_option() -> None:
    port = free_port()
    line = [sys.executable, "-m", "brubeck_lite", "--access-log", "program:app", "--bind", f"127.0.0.1:{port}"]
    with process(line) as child:
        wait_for(lambda: listens(port), what="the server")
        ask(port, 1)
        wait_for(lambda: '"GET / HTTP/1.1" 200 10 ' in output(child), what="the line")


def test_a_file_that_cannot_be_written_is_told_at_the_start(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "brubeck_lite", "program:app", "--bind", f"127.0.0.1:{free_port()}"]
    line += ["--access-log", str(tmp_path / "no" / "log")]
    ended = subprocess.run(line, env=environment(), stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr.count("\n")) == (2, 1)
    assert ended.stderr.startswith("brubeck_lite: --access-log: cannot write to ")


def test_an_answer_to_fields_that_could_not_be_read_has_a_line_as_the_others_have(tmp_path: Path) -> None:
    fields = b'{"x":nothing,"METHOD":"GET","VERSION":"HTTP/1.1","URL_SCHEME":"http","REMOTE_ADDR":"127.0.0.1"}'
    log = AccessLog(path=str(tmp_path / "log"))
    log.add(WSGIRequest({"PATH_INFO": "/before", "REQUEST_METHOD": "GET"}), 200, 1)
    log.add(Mongrel2Request("server", "1", b"/unreadable", fields, b""), 400, 1)
    log.add(WSGIRequest({"PATH_INFO": "/after", "REQUEST_METHOD": "GET"}), 200, 1)
    log.write()
    targets = re.findall('"GET (/[a-z]*) ', (tmp_path / "log").read_text())
    assert targets == ["/before", "/unreadable", "/after"]
