"""The command line, as a process: what it takes, what it says, and how it ends."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT, Mongrel2, behind_http, behind_mongrel2, environment, free_port, output, process, wait_for

import brubeck_lite
from brubeck_lite import AccessLog, Brubeck, Request, Response, format_access_line, load_program, mongrel2_config

ADDRESSES = ["--mongrel2", "tcp://127.0.0.1:9999", "tcp://127.0.0.1:9998"]


def command(*arguments: str, folder: Path = ROOT / "tests", **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    line = [sys.executable, "-m", "brubeck_lite", *arguments]
    settings: dict[str, object] = {"cwd": folder, "env": environment(), "timeout": 30, **options}
    return subprocess.run(line, text=True, capture_output=True, check=False, **settings)  # type: ignore[call-overload]


def fetch(port: int, target: str, **options: object) -> tuple[int, str]:
    """Status and text of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{target}", **options)  # type: ignore[arg-type]
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture(scope="module")
def mongrel2() -> Iterator[Mongrel2]:
    with Mongrel2() as server:
        yield server


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "name the application, like hello:app"),
        (["nowhere:app"], "there is no module 'nowhere' here"),
        (["nowhere.at.all:app"], "there is no module 'nowhere.at.all' here"),
        (["program:absent"], "'absent' is not there in the module 'program'"),
        (["program:inner_root"], "'inner_root' is no Brubeck in the module 'program'"),
        ([":app"], "':app' is no MODULE:APP"),
        (["..program:app"], "'..program:app' is no MODULE:APP"),
        (["program:app", "--bind", "6767"], "not an address: '6767'"),
        (["program:app", "--bind", "127.0.0.1:99999"], "not an address"),
        (["program:app", "--bind", "::1:80"], "not an address"),
        (["program:app", "--bind", "nowhere.invalid:6767"], "cannot listen at nowhere.invalid:6767"),
        (["program:app", "--bind", "unix:/nowhere/at/all"], "cannot listen at unix:/nowhere/at/all"),
        (["program:app", "--mongrel2", "9999", "tcp://127.0.0.1:9998"], "not an address: '9999'"),
        (["program:app", "--mongrel2", "tcp://127.0.0.1:9999", "tcp://127.0.0.1:x"], "not an address"),
        (["program:app", "--mongrel2", "tcp://127.0.0.1:9999", "tcp://127.0.0.1:99999"], "not an address"),
        (["program:app", "--mongrel2", "tcp://*:9999", "tcp://*:9998"], "not an address"),
    ],
)  # fmt: skip
def test_what_cannot_start_is_told_in_one_line(arguments: list[str], expected: str) -> None:
    ended = command(*arguments)
    assert ended.returncode == 2
    assert expected in ended.stderr
    assert ended.stderr.startswith("brubeck_lite: ") and ended.stderr.count("\n") == 1
    assert ended.stdout == ""


@pytest.mark.parametrize("arguments", [["--pool-size", "many"], ["--max-body", "-1"], ["--mongrel2", "one"], ["--odd"]])
def test_an_option_that_is_not_understood_is_refused_with_the_usage(arguments: list[str]) -> None:
    ended = command("program:app", *arguments)
    assert ended.returncode == 2
    assert "usage: brubeck_lite" in ended.stderr and "Traceback" not in ended.stderr


def test_an_error_in_the_program_itself_shows_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import brubeck_lite\nimport no_such_package\n")
    ended = command("broken:app", folder=tmp_path)
    assert ended.returncode == 1
    assert "broken.py" in ended.stderr and "No module named 'no_such_package'" in ended.stderr


def test_version() -> None:
    assert command("--version").stdout == f"brubeck_lite {brubeck_lite.__version__}\n"


def test_the_example_configuration_is_the_one_that_the_command_prints() -> None:
    printed = command("hello:app", "--print-mongrel2-config", folder=ROOT / "examples")
    assert printed.stdout == (ROOT / "examples" / "mongrel2.conf").read_text()


def test_the_printed_configuration_fits_the_program_and_mongrel2_loads_it(tmp_path: Path) -> None:
    printed = command("program:app", *ADDRESSES, "--max-body", "123456", "--print-mongrel2-config").stdout
    assert "'@chat': web" in printed and "'<feed': web" in printed and "'limits.content_length': 123456" in printed
    (tmp_path / "mongrel2.conf").write_text(printed)
    load = ["m2sh", "load", "-config", "mongrel2.conf", "-db", "config.sqlite"]
    assert subprocess.run(load, cwd=tmp_path, capture_output=True, check=False).returncode == 0
    hosts = subprocess.run(["m2sh", "servers", "-db", "config.sqlite"], cwd=tmp_path, capture_output=True, check=True)
    assert b"main" in hosts.stdout


def test_no_eventlet_warning_reaches_the_user() -> None:
    assert command("hello:app", "--print-mongrel2-config", folder=ROOT / "examples").stderr == ""


def test_the_program_and_the_command_share_one_copy_of_the_module(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_text(
        "import sys, brubeck_lite\napp = brubeck_lite.Brubeck()\n"
        "print('copies', isinstance(app, sys.modules['brubeck_lite'].Brubeck), brubeck_lite.__name__)\n"
    )
    assert command("one", "--print-mongrel2-config", folder=tmp_path).stdout.startswith("copies True brubeck_lite\n")


def test_the_standard_library_is_patched_before_the_program_is_imported(tmp_path: Path) -> None:
    (tmp_path / "early.py").write_text(
        "from socket import socket\nimport brubeck_lite\napp = brubeck_lite.Brubeck()\nprint(socket.__module__)\n"
    )
    assert command("early:app", "--print-mongrel2-config", folder=tmp_path).stdout.startswith("eventlet.")


def test_the_file_works_copied_alone_into_a_folder(tmp_path: Path, mongrel2: Mongrel2) -> None:
    shutil.copy(ROOT / "brubeck_lite.py", tmp_path)
    shutil.copy(ROOT / "examples" / "hello.py", tmp_path)
    line = [sys.executable, "brubeck_lite.py", "hello:app", "--mongrel2", mongrel2.pull, mongrel2.pub]
    with process(line, cwd=tmp_path, env={**environment(measured=False), "PYTHONPATH": ""}) as child:
        wait_for(lambda: "connected to Mongrel2" in output(child), what="the handler")
        assert fetch(mongrel2.port, "/hello/Dave") == (200, "Take five, Dave!")


def test_a_program_runs_itself_on_a_connection_of_its_own(tmp_path: Path, mongrel2: Mongrel2) -> None:
    (tmp_path / "itself.py").write_text(
        "import sys\nfrom brubeck_lite import Brubeck, Mongrel2Connection\n"
        "app = Brubeck(msg_conn=Mongrel2Connection(*sys.argv[1:]), handler_tuples=[(r'^/x', lambda request: 'mine')])\n"
        "if __name__ == '__main__':\n    app.run()\n"
    )
    with process([sys.executable, str(tmp_path / "itself.py"), mongrel2.pull, mongrel2.pub]) as child:
        wait_for(lambda: "connected to Mongrel2" in output(child), what="the handler")
        assert fetch(mongrel2.port, "/xyz") == (200, "mine")


def test_a_program_serves_by_itself_at_the_address_it_names(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "itself.py").write_text(
        "import sys\nfrom brubeck_lite import Brubeck\napp = Brubeck()\napp.route('/')(lambda request: 'mine')\n"
        "if __name__ == '__main__':\n    app.run(bind=sys.argv[1])\n"
    )
    with process([sys.executable, str(tmp_path / "itself.py"), f"127.0.0.1:{port}"]) as child:
        wait_for(lambda: f"serving http://127.0.0.1:{port}" in output(child), what="the server")
        assert fetch(port, "/") == (200, "mine")


def test_without_any_address_port_6767_of_the_loopback_is_served() -> None:
    line = [sys.executable, "-m", "brubeck_lite", "program:app"]
    with process(line) as child:  # where another has the port, it says so
        wait_for(lambda: "http://127.0.0.1:6767" in output(child) or child.poll() == 2, what="the address")
        assert "127.0.0.1:6767" in output(child)


def test_a_port_in_use_is_told_in_one_line() -> None:
    with behind_http("program:app") as (_, port):
        ended = command("program:app", "--bind", f"127.0.0.1:{port}")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert re.fullmatch(
        rf"brubeck_lite: cannot listen at 127\.0\.0\.1:{port}: Address already in use .*\n", ended.stderr
    )


def test_one_process_serves_http_and_mongrel2(mongrel2: Mongrel2) -> None:
    port = free_port()
    with behind_mongrel2("program:app", mongrel2, "--bind", f"127.0.0.1:{port}"):
        assert fetch(port, "/") == fetch(mongrel2.port, "/") == (200, "Take five!")


def test_it_says_what_it_waits_for_connects_to_and_loses() -> None:
    mongrel2 = Mongrel2()
    with behind_mongrel2("program:app", mongrel2, ready=False) as child:
        wait_for(lambda: f"waiting for Mongrel2 at {mongrel2.pull}" in output(child), what="the first line")
        with mongrel2:
            wait_for(
                lambda: f"connected to Mongrel2: requests from {mongrel2.pull}" in output(child), what="the second"
            )
            assert fetch(mongrel2.port, "/")[0] == 200
        wait_for(lambda: f"Mongrel2 at {mongrel2.pull} is gone" in output(child), what="the third")


def test_quiet_is_quiet(mongrel2: Mongrel2) -> None:
    with behind_mongrel2("program:app", mongrel2, "--quiet", ready=False) as child:
        wait_for(lambda: fetch(mongrel2.port, "/")[0] == 200, what="an answer")
        assert output(child) == ""


def test_debug_shows_the_traceback_in_the_page_and_only_then(mongrel2: Mongrel2) -> None:
    with behind_mongrel2("program:app", mongrel2, "--debug"):
        status, page = fetch(mongrel2.port, "/boom")
        assert status == 500 and "Traceback" in page and "a secret" in page
    with behind_mongrel2("program:app", mongrel2):
        assert fetch(mongrel2.port, "/boom") == (500, "500 Internal Server Error\n")


def test_max_body_bounds_bodies(mongrel2: Mongrel2) -> None:
    with behind_mongrel2("program:app", mongrel2, "--max-body", "10"):
        assert fetch(mongrel2.port, "/echo", data=b"x" * 10)[0] == 200
        status, page = fetch(mongrel2.port, "/echo", data=b"x" * 11)
        assert status == 413 and "limit of 10 bytes" in page


def test_pool_size_bounds_what_is_handled_at_once(mongrel2: Mongrel2) -> None:
    with (
        behind_mongrel2("program:app", mongrel2, "--pool-size", "1"),
        socket.socket() as first,
        socket.socket() as second,
    ):
        for client, seconds in ((first, "0.5"), (second, "0.0")):
            client.connect(("127.0.0.1", mongrel2.port))
            client.sendall(f"GET /wait/{seconds} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        second.settimeout(0.25)
        with pytest.raises(TimeoutError):
            second.recv(1)
        second.settimeout(5)
        assert second.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_the_access_log_has_a_line_for_each_answer(mongrel2: Mongrel2) -> None:
    http_port = free_port()
    with behind_mongrel2("program:app", mongrel2, "--access-log", "--bind", f"127.0.0.1:{http_port}") as child:
        for number, port in enumerate((mongrel2.port, http_port), 1):
            headers = {"User-Agent": 'a "quoted" \\ agent', "Referer": "http://x/"}
            fetch(port, "/text/%0A%22?q=1", headers=headers)
            wait_for(lambda number=number: output(child).count("GET /") == number, what="the line")  # type: ignore[misc]
        asked = r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /text/%0A%22\?q=1 HTTP/1\.1" 200 14 '
        for line in (line for line in output(child).splitlines() if "GET /" in line):
            assert re.fullmatch(asked + r'"http://x/" "a \\x22quoted\\x22 \\x5c agent"', line), line


def test_no_client_can_forge_a_line_of_the_access_log(capsys: pytest.CaptureFixture[str]) -> None:
    request = Request()
    request.method, request.path, request.query_string = "GET", '/"\n\x1b\u2028é', 'a"\r\n200 "'
    line = format_access_line(0, request, 200, 5)
    assert line.count("\n") == 1 and line.isascii() and line.count('"') == 6 and "\x1b" not in line
    log = AccessLog()
    log.add(request, 200, 5)
    log.write()
    log.write()
    assert capsys.readouterr().out.count("\n") == 1


def test_a_signal_while_it_waits_for_mongrel2_ends_it() -> None:
    with process(
        [sys.executable, "-m", "brubeck_lite", "program:app", *ADDRESSES[:1], "ipc:///nowhere/a", "ipc:///nowhere/b"]
    ) as child:
        wait_for(lambda: "waiting for Mongrel2" in output(child), what="the first line")
        child.send_signal(signal.SIGTERM)
        assert child.wait(5) == 0


def test_a_program_may_have_its_application_by_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "another_name.py").write_text("import brubeck_lite\nsite = brubeck_lite.Brubeck()\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_program("another_name:site"), Brubeck)


def test_the_configuration_has_the_message_sockets_of_the_program() -> None:
    app = Brubeck(max_body=5)
    app.route("@a")(lambda request: Response())
    text = mongrel2_config(app, [("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")], "127.0.0.1:80")
    assert "routes={'/': web, '@a': web}" in text and "send_spec='tcp://127.0.0.1:1'" in text
