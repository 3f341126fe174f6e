"""The figures of a running server: what is counted, how it is told to programs and to Prometheus."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import resource
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import Mongrel2, behind_http, behind_mongrel2, environment, free_port, needs_ipv6, output, wait_for

from brubeck_lite import Brubeck, StatsServer, format_stats, merge_stats

SAMPLE = re.compile(r'(brubeck_lite_\w+)(\{\w+="(?:[^"\\\n]|\\["\\n])*"(?:,\w+="(?:[^"\\\n]|\\["\\n])*")*\})? (\d\S*)')
GET = "GET /{} HTTP/1.1\r\nHost: x\r\n\r\n"


def fetch(port: int, target: str, method: str = "GET") -> tuple[int, str, Any]:
    """Status, text and header fields of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{target}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(), error.headers


def send(port: int, target: str) -> socket.socket:
    """A client that has sent a request, and waits."""
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    client.sendall(GET.format(target).encode())
    return client


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python process, to its end."""
    line = [sys.executable, *arguments]
    return subprocess.run(line, env=environment(), capture_output=True, text=True, check=False, timeout=120)


def read_samples(text: str) -> dict[str, float]:
    """What Prometheus would read, each line checked against its text format 0.0.4."""
    samples: dict[str, float] = {}
    kinds: set[str] = set()
    assert text.endswith("\n")
    for line in text[:-1].split("\n"):
        if line.startswith("#"):
            told = re.fullmatch(r"# (HELP|TYPE) (brubeck_lite_\w+) (.+)", line)
            assert told and (told[1] == "HELP" or told[3] in ("counter", "gauge")), line
            kinds.add(told[2])
        else:
            match = SAMPLE.fullmatch(line)
            assert match and match[1] in kinds, line
            samples[match[1].removeprefix("brubeck_lite_") + (match[2] or "")] = float(match[3])
    return samples


@contextlib.contextmanager
def serving(door: str) -> Iterator[tuple[int, int, Any]]:
    """program_stats.py behind a door: the ports of the program and of its figures, and the process."""
    port = free_port()
    told = ["--stats", f"127.0.0.1:{port}"]
    if door == "http":
        with behind_http("program_stats:app", *told) as (child, asked):
            yield asked, port, child
    else:
        with Mongrel2() as mongrel2, behind_mongrel2("program_stats:app", mongrel2, *told) as child:
            yield mongrel2.port, port, child


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[int, int, Any]]:
    with serving("http") as opened:
        yield opened


# What is counted


@pytest.mark.parametrize("door", ["http", "mongrel2"])
def test_answers_are_counted_by_route_and_status_and_so_are_their_seconds(door: str) -> None:
    with serving(door) as (port, stats, _):
        asked = "/ /hello/a /hello/b /boom /a /b /c /inner/page /inner/none /%22x%22"
        for target in asked.split():
            fetch(port, target)
        expected = {
            'requests_total{route="index",status="200"}': 1,
            'requests_total{route="hello",status="200"}': 2,
            'requests_total{route="boom",status="500"}': 1,
            'requests_total{route="",status="404"}': 3,
            'requests_total{route="inner_page",status="200"}': 1,
            'requests_total{route="^/\\"\\\\w+\\"$",status="200"}': 1,
        }
        wait_for(lambda: read_samples(fetch(stats, "/")[1]).items() >= expected.items(), what="the last to be counted")
        samples = read_samples(fetch(stats, "/metrics")[1])
        assert sum(value for name, value in samples.items() if name.startswith("requests_total")) == 10
        assert 0 < samples['request_seconds_total{route="hello"}'] < 10
        assert samples["requests_in_progress"] == samples["requests_waiting"] == 0
        assert samples["workers"] == 1 and samples["worker_restarts_total"] == samples["dropped_answers_total"] == 0


@pytest.mark.parametrize("door", ["http", "mongrel2"])
def test_what_is_going_on_is_told(door: str) -> None:
    with serving(door) as (port, stats, _):
        clients = [send(port, f"hold/{name}") for name in "ab"]
        wait_for(lambda: read_samples(fetch(stats, "/")[1])["requests_in_progress"] == 2, what="both to be held")
        clients.append(send(port, "release/a"))
        wait_for(lambda: read_samples(fetch(stats, "/")[1])["requests_waiting"] == 1, what="the third to wait")
        samples = read_samples(fetch(stats, "/")[1])
        assert samples["connections"] == 3 and samples["coroutines"] >= 3
        for client in clients:
            client.close()


def test_a_websocket_is_counted_without_the_seconds_that_it_lasts(server: tuple[int, int, Any]) -> None:
    port, stats, _ = server
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(
            b"GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
        wait_for(lambda: read_samples(fetch(stats, "/")[1])["websockets"] == 1, what="the WebSocket")
        assert read_samples(fetch(stats, "/")[1])["requests_in_progress"] == 0
        time.sleep(1)
    counted = 'requests_total{route="talk",status="101"}'
    wait_for(lambda: counted in read_samples(fetch(stats, "/")[1]), what="its end")
    assert read_samples(fetch(stats, "/")[1])['request_seconds_total{route="talk"}'] < 1


def test_a_handler_that_ended_because_its_client_left_is_no_error_of_the_server(server: tuple[int, int, Any]) -> None:
    port, stats, _ = server
    with send(port, "cancelled"):
        wait_for(lambda: read_samples(fetch(stats, "/")[1])["requests_in_progress"] == 1, what="the handler")
    counted = 'requests_total{route="cancelled",status="499"}'
    wait_for(lambda: read_samples(fetch(stats, "/")[1]).get(counted) == 1, what="its end")


def test_ten_thousand_paths_and_methods_leave_nothing_in_the_figures_or_in_memory(
    server: tuple[int, int, Any],
) -> None:
    port, stats, child = server
    asked = 0

    def ask(count: int) -> tuple[set[str], int]:
        """Ask for so many paths that nobody asked for before; the names of the figures, and the memory in pages."""
        nonlocal asked
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            answers = client.makefile("rb")
            for _ in range(count // 100):
                lines = []
                for number in range(asked, asked + 100):
                    method, path = (("OPTIONS", "hello"), ("OPTIONS", "inner/page"), ("M%d", "hello"))[number % 3]
                    path += f"/{number}{'x' * 300}"
                    lines.append(f"{method.replace('%d', str(number))} /{path} HTTP/1.1\r\nHost: x\r\n\r\n")
                asked += 100
                client.sendall("".join(lines).encode())
                for _ in lines:
                    fields = http.client.parse_headers(answers) if answers.readline() else {}
                    answers.read(int(fields["Content-Length"]))
        names = set(read_samples(fetch(stats, "/")[1]))
        return names, int(Path(f"/proc/{child.pid}/statm").read_text().split()[1])

    names, pages = ask(2000)
    later, more_pages = ask(8000)
    assert later == names
    assert (more_pages - pages) * resource.getpagesize() < 2 << 20


def test_what_the_door_refuses_is_counted(server: tuple[int, int, Any]) -> None:
    port, stats, _ = server
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"no HTTP\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")
    counted = 'requests_total{route="",status="400"}'  # once the answer is sent
    wait_for(lambda: read_samples(fetch(stats, "/")[1]).get(counted) == 1, what="the count")


def test_a_program_gets_its_figures_as_a_dict(server: tuple[int, int, Any]) -> None:
    port, _, _ = server
    fetch(port, "/")
    wait_for(lambda: "index" in json.loads(fetch(port, "/stats")[1])["requests"], what="it to be counted")
    told = json.loads(fetch(port, "/stats")[1])
    assert told["requests"]["index"]["200"] >= 1 and told["seconds"]["index"] > 0
    assert told["handling"] == told["workers"] == 1 and told["waiting"] == told["restarts"] == 0


def test_without_a_server_of_ours_nothing_is_counted_but_all_figures_are_there() -> None:
    app = Brubeck()
    app.route("/")(lambda request: "Take five!")
    assert app.test().get("/").status == 200
    told = app.stats()
    assert told["requests"] == told["seconds"] == told["queues"] == {}
    assert told["handling"] == told["connections"] == told["dropped"] == told["workers"] == 0


def test_replies_to_a_mongrel2_that_is_gone_are_told_as_dropped() -> None:
    stats = free_port()
    with Mongrel2() as mongrel2, behind_mongrel2("program:app", mongrel2, "--stats", f"127.0.0.1:{stats}") as child:
        with socket.create_connection(("127.0.0.1", mongrel2.port), 60) as client:
            client.sendall(b"GET /wait/2.0 HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_for(lambda: "begins to wait" in output(child), what="the handler")
            mongrel2.kill()
        wait_for(lambda: read_samples(fetch(stats, "/")[1])["dropped_answers_total"] == 1, what="the figure")


# Several processes


def test_figures_of_several_processes_are_added() -> None:
    one = {"requests": {"index": {"200": 3, "404": 1}}, "waiting": 2, "seconds": {"index": 0.5}}
    two = {"requests": {"index": {"200": 4}, "other": {"200": 1}}, "waiting": 1, "seconds": {"index": 0.25}}
    before = json.dumps([one, two])
    assert merge_stats([one, two, {}]) == {
        "requests": {"index": {"200": 7, "404": 1}, "other": {"200": 1}}, "waiting": 3, "seconds": {"index": 0.75},
    }  # fmt: skip
    assert json.dumps([one, two]) == before and merge_stats([]) == {}


def test_in_a_worker_the_figures_are_those_of_all_of_them() -> None:
    app = Brubeck()
    app.own_stats = lambda: {"workers": 1, "requests": {"index": {"200": 1}}}
    app.other_stats = {"workers": 2, "restarts": 3, "requests": {"index": {"200": 2}}}
    told = app.stats()
    assert (told["workers"], told["restarts"], told["requests"]) == (3, 3, {"index": {"200": 3}})


# How it is told


def test_a_label_cannot_pass_for_more_than_one() -> None:
    text = format_stats({"requests": {'a"} 1\nb\\': {"200": 1}}})
    assert 'requests_total{route="a\\"} 1\\nb\\\\",status="200"} 1\n' in text
    read_samples(text)


def test_it_is_told_as_prometheus_wants_it(server: tuple[int, int, Any]) -> None:
    _, stats, _ = server
    status, text, fields = fetch(stats, "/metrics")
    assert status == 200 and fields["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert len(text) == int(fields["Content-Length"])
    assert fetch(stats, "/metrics?x=1")[0] == 200
    assert fetch(stats, "/metrics", "HEAD")[:2] == (200, "")
    assert fetch(stats, "/metrics", "DELETE")[0] == fetch(stats, "/other")[0] == 404


def test_it_is_told_while_a_handler_computes(server: tuple[int, int, Any], tmp_path: Path) -> None:
    port, stats, _ = server
    client = send(port, f"compute?until={tmp_path}/now")
    wait_for(lambda: read_samples(fetch(stats, "/")[1])["requests_in_progress"] == 1, what="the handler")
    (tmp_path / "now").touch()
    assert client.recv(1000).endswith(b"computed")
    client.close()


HOSTILE = [b"", b"\x00" * 100, b"GET / HTTP/1.1\r\n\r\n", b"GET " + b"/" * 200_000, b"\r\n\r\n\r\n", b"GET /metr",
           b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n", b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n",
           b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 100]  # fmt: skip


def test_hostile_clients_take_it_from_nobody(server: tuple[int, int, Any]) -> None:
    _, stats, child = server
    clients = []
    for data in HOSTILE:
        clients.append(socket.create_connection(("127.0.0.1", stats), timeout=60))
        with contextlib.suppress(OSError):
            clients[-1].sendall(data)
        if len(data) != 9:  # but one stays, with half a request
            clients.pop().close()
    assert fetch(stats, "/metrics")[0] == 200
    assert "Traceback" not in output(child)
    clients[0].close()


def test_a_plain_process_can_tell_figures_too() -> None:
    program = (
        "import sys, urllib.request\n"
        "from brubeck_lite import StatsServer\n"
        "server = StatsServer('127.0.0.1:0', lambda: {'workers': 7}).start()\n"
        "print(urllib.request.urlopen(f'http://127.0.0.1:{server.port}/').read().decode())\n"
        "server.close()\n"
        "print('eventlet' in sys.modules)\n"
    )
    ended = run("-c", program)
    assert "brubeck_lite_workers 7\n" in ended.stdout and ended.stdout.endswith("False\n") and ended.stderr == ""


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("[::1]", marks=needs_ipv6)])
def test_figures_that_cannot_be_had_end_nothing(host: str) -> None:
    answers = iter([ZeroDivisionError(), {"workers": 5}])

    def get_stats() -> dict[str, Any]:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    with contextlib.closing(StatsServer(f"{host}:0", get_stats).start()) as server:
        for expected in (b"", b"brubeck_lite_workers 5\n"):
            with socket.create_connection((host.strip("[]"), server.port), timeout=60) as client:
                client.sendall(GET.format("").encode())
                received = b""
                with contextlib.suppress(ConnectionResetError):
                    while piece := client.recv(10_000):
                        received += piece
                assert expected in received and b"Error" not in received


# At the start and the end


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:99999", "unix:/x", "", "127.0.0.1:", ":", "99999"])
def test_what_is_no_address_is_told_in_one_line(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        StatsServer(address, dict)
    assert ended.value.code == 2
    assert re.fullmatch(r"brubeck_lite: --stats: not an address: .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("form", ["{}", ":{}", "127.0.0.1:{}"])
def test_the_address_is_like_those_of_servers(form: str) -> None:
    port = free_port()
    telling = StatsServer(form.format(port), dict).start()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            assert answer.status == 200
    finally:
        telling.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "nowhere.invalid"])
def test_an_address_where_it_cannot_listen_is_told_in_one_line(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"{host}:{taken.getsockname()[1]}"
        options = ["--bind", f"127.0.0.1:{free_port()}", "--stats", address]
        ended = run("-m", "brubeck_lite", "program_stats:app", *options)
    assert ended.returncode == 2 and ended.stdout == ""
    line = rf"brubeck_lite: cannot listen at {address}: .* \(--stats names another address\)\n"
    assert re.fullmatch(line, ended.stderr)


def test_the_address_is_free_again_at_the_end() -> None:
    server = StatsServer("127.0.0.1:0", dict).start()
    server.close()
    with contextlib.closing(StatsServer(f"127.0.0.1:{server.port}", dict).start()) as again:
        assert fetch(again.port, "/")[0] == 200


def test_the_import_installs_no_handlers_and_makes_one_logger() -> None:
    program = (
        "import logging, brubeck_lite\n"
        "ours = [name for name in logging.root.manager.loggerDict if name.startswith('brubeck')]\n"
        "print(logging.root.handlers, ours, brubeck_lite.logger.handlers, brubeck_lite.logger.level)\n"
    )
    ended = run("-c", program)
    assert ended.stdout == "[] ['brubeck_lite'] [] 0\n"
