"""The README's code and commands, as they stand there (but for ports, which are free ones)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import websockets.sync.client
from support import ROOT, environment, free_port, is_running, listens, output, process, wait_for

from brubeck_lite import HTTPConnection

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
PROGRAM, SETTINGS, TUNES, TUNES_CLIENT, MEMBERS, MEMBERS_CLIENT, LIVE = PYTHON
COMMANDS = [text.strip() for language, text in BLOCKS if language == "sh"]
SET_UP, TEST, SERVE_HTTP, START_MONGREL2, SERVE_MONGREL2, SERVE_WSGI = COMMANDS


def fetch(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return str(answer.read().decode())


@contextlib.contextmanager
def shell(line: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A command line with all that it starts; our command and gunicorn are those of this environment."""
    bin_folder = str(Path(sys.executable).parent)
    variables = {**environment(), "PATH": bin_folder + os.pathsep + os.environ["PATH"]}
    with process(["bash", "-c", line], cwd=folder, env=variables, start_new_session=True) as child:
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """A folder with the README's program."""
    (tmp_path / "hello.py").write_text(PROGRAM)
    return tmp_path


def test_the_program_of_the_readme_is_the_example() -> None:
    def bare(text: str) -> list[str]:
        text = re.sub(r'^""".*?"""', "", text, flags=re.DOTALL)
        text = text.replace(": Request", "").replace(": str", "").replace(" -> str", "").replace(", Request", "")
        return [line for line in text.splitlines() if line]

    assert bare((ROOT / "examples" / "hello.py").read_text()) == bare(PROGRAM)


def test_one_command_sets_up_and_serves(tmp_path: Path) -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in listed.splitlines():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    port = free_port()
    example = tmp_path / "examples" / "hello.py"
    example.write_text(example.read_text().replace("app.run()", f'app.run(bind="127.0.0.1:{port}")'))
    with shell(SET_UP, tmp_path) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, 240, "the server")
        assert child.poll() is None, output(child)
        assert fetch(port, "/hello/Dave") == "Take five, Dave!"


def test_the_command_line_serves_by_itself(hello: Path) -> None:
    port = free_port()
    with shell(SERVE_HTTP.replace("8000", str(port)), hello) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what="the server")
        assert fetch(port, "/hello/Dave") == "Take five, Dave!", output(child)
        wait_for(lambda: '"GET /hello/Dave HTTP/1.1" 200' in output(child), what="the access log")


def test_the_settings_are_the_defaults() -> None:
    names: dict[str, HTTPConnection] = {}
    exec(SETTINGS, names)
    ours, default = names["connection"], HTTPConnection("127.0.0.1:8000")
    for name in ("address", "head_timeout", "io_timeout", "keep_alive", "max_connections"):
        assert getattr(ours, name) == getattr(default, name)


def test_one_command_passes_the_tests() -> None:
    assert TEST == "tests/run"
    assert os.access(ROOT / TEST, os.X_OK) and os.access(ROOT / ".ci" / "run", os.X_OK)


def test_mongrel2_is_started_and_served(hello: Path) -> None:
    ports = {name: str(free_port()) for name in ("6767", "9998", "9999")}
    config = (ROOT / "examples" / "mongrel2.conf").read_text()
    serve = SERVE_MONGREL2
    for name, port in ports.items():
        config, serve = config.replace(name, port), serve.replace(name, port)
    (hello / "mongrel2.conf").write_text(config)
    port, pid_file = int(ports["6767"]), hello / "run" / "mongrel2.pid"
    with shell(START_MONGREL2, hello):
        try:
            wait_for(lambda: listens(port) and pid_file.exists() and pid_file.read_text().strip(), what="Mongrel2")
            with shell(serve, hello) as child:
                wait_for(lambda: "connected to Mongrel2" in output(child), what="the handler")
                assert fetch(port, "/hello/Dave") == "Take five, Dave!"
                assert fetch(port, "/") == "Take five!"
        finally:
            pid = int(pid_file.read_text())
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda: not is_running(pid), what="the end of Mongrel2")


def test_a_wsgi_server_serves(hello: Path) -> None:
    port = free_port()
    with shell(SERVE_WSGI.replace("8000", str(port)), hello) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what="the server")
        assert fetch(port, "/hello/Dave") == "Take five, Dave!", output(child)


@pytest.mark.parametrize("text", [TUNES + TUNES_CLIENT, MEMBERS + MEMBERS_CLIENT], ids=["tunes", "members"])
def test_the_longer_programs_do_what_their_tests_say(text: str) -> None:
    exec(compile(text, "README.md", "exec"), {"__name__": "readme"})


def test_the_program_of_live_connections_serves_them(tmp_path: Path) -> None:
    (tmp_path / "live.py").write_text(LIVE)
    port = free_port()
    with shell(f"brubeck_lite live:app --bind 127.0.0.1:{port}", tmp_path) as child:
        wait_for(lambda: listens(port), what="the server")
        polls = [ThreadPoolExecutor(1).submit(fetch, port, "/next") for _ in range(2)]
        events = urllib.request.urlopen(f"http://127.0.0.1:{port}/news", timeout=10)
        assert events.readline() == b":\n"
        with websockets.sync.client.connect(f"ws://127.0.0.1:{port}/room/blue") as room:
            room.send("hello")
            assert json.loads(room.recv(10)) == {"room": "blue", "you said": "hello"}
            time.sleep(0.5)
            urllib.request.urlopen(f"http://127.0.0.1:{port}/news", b"text=five", timeout=10)
            assert json.loads(room.recv(10)) == {"text": "five"}
        assert [poll.result(10) for poll in polls] == ['{"text":"five"}'] * 2, output(child)
        lines = [events.readline() for _ in range(3)]
        assert lines[1].startswith(b"id: ") and lines[2] == b'data: {"text":"five"}\n'
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/count", timeout=10).read(4) == b"0\n1\n"
