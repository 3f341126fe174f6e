"""The code and commands of the documents, each as it stands there, but for its ports, which are free ones here.

`DOCUMENTS` are those that are run. What their fences mean, in each section (which begin with ## or ###):

    ```python     A program or a part of one. The blocks of a section are run one after another as one module, in which
                  `__name__` is not "__main__". A block that begins with the line `# NAME.py` is also a file of that
                  name for the commands of all sections, of all documents.
    ```sh         Commands, one a line (a final backslash continues it), run in the order given.
    ```console    The same after `$ `; what stands below each is what it must print (first, where it goes on to serve),
                  `...` for what may differ.
    ```text       Not run. There is no other fence, and none without a word.

Commands are run in a folder that has the files of the documents, the examples, and all else of the repository: there
`.` is a clone and `hello:app` is README's. What begins with `brubeck_lite ` in `code` of the prose is such a command,
too.

A command must end with status 0, or serve: then it is ready when it says so, goes on until its section ends, and is
asked for the addresses of the section on its port, or for its front page. `NOT_RUN` are checked, but not carried out.
"""

from __future__ import annotations

import ast
import contextlib
import fnmatch
import inspect
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import ssl
import subprocess
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import bottle
import flask
import pytest
import redis
import websockets.sync.client
from flask.testing import FlaskClient
from servers import redis as redis_server
from support import ROOT, environment, free_port, is_running, listens, markup_in_pages, output, process, wait_for
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client as WSGIClient

import brubeck_lite
from brubeck_lite import HTTPConnection, parse_arguments

DOCUMENTS = ("README.md", "examples/manual.md", "tests/README.md", "tests/benchmarks/README.md")
LINKED = (*DOCUMENTS, "examples/README.md", "examples/reference.md", "findings/README.md", "tests/benchmarks/arena.md",
          "tests/benchmarks/scaling.md")  # whose links are followed  # fmt: skip
TEXT = "\n".join((ROOT / name).read_text() for name in DOCUMENTS)
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMED = re.compile(r"# (\w+\.py)\n")
PORT = re.compile(r"(?<=[:=])(\d{4,5})\b")  # 127.0.0.1:8000, port=8000
READY = re.compile(r"serving|connected to Mongrel2|[Ll]istening|Running on")
NOT_RUN = [
    (r"(tests|\.ci)/\S+", lambda words: os.access(ROOT / words[0], os.X_OK)),  # what would run this test again
    (r"git clone ", lambda words: True),
    (r"(sudo )?apt(-get)? install ", lambda words: apt_has(words[words.index("install") + 1 :])),
    (r"(\S*pip|python3? -m pip) install ['\"]?brubeck.lite", lambda words: True),
]


class Section(NamedTuple):
    """A section of a document: its python blocks, and its commands with what they print (None: anything)."""

    document: str
    title: str
    text: str
    python: list[str]
    commands: list[tuple[str, str | None]]


def commands_of(language: str, text: str) -> Iterator[tuple[str, str | None]]:
    """The commands of a sh or console block."""
    text = text.replace("\\\n", " ")
    if language == "sh":
        yield from ((line, None) for line in text.splitlines() if line and not line.startswith("#"))
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:] if language == "console" else ():
        yield part.partition("\n")[0], part.partition("\n")[2]


def sections(document: str) -> Iterator[Section]:
    page = FENCE.sub(lambda fence: fence[0].replace("\n#", "\n\0#"), (ROOT / document).read_text())
    titles = re.split(r"^#{2,3} (.+)$", page, flags=re.MULTILINE)
    for title, text in zip(["top", *titles[1::2]], (each.replace("\0", "") for each in titles[::2]), strict=True):
        python = [block for language, block in FENCE.findall(text) if language == "python"]
        commands = [each for language, block in FENCE.findall(text) for each in commands_of(language, block)]
        inline = re.findall(r"`(brubeck_lite [^`]+)`", FENCE.sub("", text))
        yield Section(document, title, text, python, [*commands, *((each, None) for each in inline)])


SECTIONS = [section for document in DOCUMENTS for section in sections(document)]
PYTHON = [block for section in SECTIONS for block in section.python]
FILES = {match[1]: block for block in PYTHON if (match := NAMED.match(block))}
PORTS = {port: str(free_port()) for port in sorted({"6767", *PORT.findall(TEXT)})}


def with_free_ports(text: str) -> str:
    return PORT.sub(lambda match: PORTS.get(match[1], match[1]), text)


def apt_has(packages: list[str]) -> bool:
    """Whether these are packages of the distribution; True where nobody knows."""
    names = [each for each in packages if not each.startswith("-")]
    lists = subprocess.run(["apt-cache", "pkgnames"], capture_output=True, text=True, check=False).stdout.split()
    return len(lists) < 10_000 or set(names) <= set(lists)


def fetch(port: int | str, path: str, scheme: str = "http") -> str:
    context = ssl._create_unverified_context() if scheme == "https" else None
    with urllib.request.urlopen(f"{scheme}://127.0.0.1:{port}{path}", timeout=60, context=context) as answer:
        return str(answer.read().decode())


@contextlib.contextmanager
def shell(line: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A command line with all that it starts; our command and gunicorn are those of this environment, our module is
    that of the folder."""
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    variables = {**environment(measured=False), "PATH": path, "PYTHONPATH": str(folder)}
    with process(["bash", "-c", line], cwd=folder, env=variables, start_new_session=True) as child:
        try:
            yield child
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """What the commands find: a copy of the repository, the examples and the documents' programs. What writes its
    process id to run/*.pid is ended."""
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT,
                            capture_output=True, text=True, check=True)  # fmt: skip
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(tmp_path / "examples", tmp_path, dirs_exist_ok=True)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    for path in [*tmp_path.glob("*.*"), *tmp_path.glob("examples/*.*")]:
        if path.suffix in (".py", ".conf"):
            path.write_text(with_free_ports(path.read_text()))
    yield tmp_path
    for pid_file in tmp_path.glob("**/run/*.pid"):
        pid = int(pid_file.read_text())
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: not is_running(pid), what="the end of Mongrel2")


def ask(command: str, section: Section) -> None:
    """Ask what serves for the addresses of its section on ports that listen, or else for its front page."""
    places = [(place[1], place[2]) for place in re.finditer(r"http://(?:127\.0\.0\.1|localhost):(\d+)([^\s`)'\",;]*)",
                                                           with_free_ports(section.text))]  # fmt: skip
    ports = [*PORT.findall(command), *PORTS.values()]
    front = [(port, "/") for port in ports if listens(int(port))][:1]
    asked = [place for place in places if listens(int(place[0]))] or front
    assert asked, f"nothing listens after {command}"
    for port, path in asked:
        fetch(port, path.rstrip(".") or "/", "https" if "--tls" in command else "http")


def carry_out(command: str, printed: str | None, section: Section, folder: Path, stack: contextlib.ExitStack) -> None:
    """Run one command to its end, or until it serves."""
    for pattern, is_right in NOT_RUN:
        if re.match(pattern, command):
            assert is_right(shlex.split(command)), command
            return
    child = stack.enter_context(shell(with_free_ports(command), folder))
    wait_for(lambda: child.poll() is not None or READY.search(output(child)), 240, command)
    if child.poll() is None:
        ask(with_free_ports(command), section)
    else:
        assert child.returncode == 0, f"{command}\n{output(child)}"
    if printed is not None:
        pattern = with_free_ports(printed).strip().replace("[", "[[]").replace("...", "*")
        pattern += "*" if child.poll() is None else ""
        assert fnmatch.fnmatchcase(output(child).strip(), pattern), f"{command} printed\n{output(child)}"


def titled(chosen: list[Section]) -> pytest.MarkDecorator:
    ids = [f"{section.document}: {section.title}" for section in chosen]
    return pytest.mark.parametrize("section", chosen, ids=ids)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_fence_says_what_it_is(document: str) -> None:
    fences = re.findall(r"^ *```(.*)$", (ROOT / document).read_text(), re.MULTILINE)
    assert set(fences[::2]) <= {"python", "sh", "console", "text"} and set(fences[1::2]) <= {""}


@titled([section for section in SECTIONS if section.python])
def test_the_code_of_a_section_runs(section: Section, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for name in FILES:
        monkeypatch.delitem(sys.modules, name.removesuffix(".py"), raising=False)
    names: dict[str, object] = {"__name__": "document"}
    for block in section.python:
        exec(compile(block, section.document, "exec", dont_inherit=True), names)


@titled([section for section in SECTIONS if section.commands])
def test_the_commands_of_a_section_do_what_they_say(section: Section, folder: Path) -> None:
    with contextlib.ExitStack() as stack:
        for command, printed in section.commands:
            carry_out(command, printed, section, folder, stack)


# -- what particular blocks promise


def block(part: str) -> str:
    """The first python block with this in it."""
    return next(text for text in PYTHON if part in text)


def test_the_program_of_the_readme_is_the_example() -> None:
    def bare(text: str) -> list[str]:
        text = NAMED.sub("", re.sub(r'^""".*?"""', "", text, flags=re.DOTALL))
        text = text.replace(": Request", "").replace(": str", "").replace(" -> str", "").replace(", Request", "")
        return [line for line in text.splitlines() if line]

    assert bare((ROOT / "examples" / "hello.py").read_text()) == bare(FILES["hello.py"])


def test_the_settings_are_the_defaults() -> None:
    names: dict[str, HTTPConnection] = {}
    exec(block("HTTPConnection("), names)
    ours, default = names["connection"], HTTPConnection("127.0.0.1:8000")
    for name in ("address", "head_timeout", "io_timeout", "keep_alive", "max_connections"):
        assert getattr(ours, name) == getattr(default, name)


@contextlib.contextmanager
def served(name: str, folder: Path, *options: str) -> Iterator[int]:
    """A program of the documents on a port."""
    (folder / f"{name}.py").write_text(FILES[f"{name}.py"])
    port = free_port()
    command = [sys.executable, "-m", "brubeck_lite", f"{name}:app", "--bind", f"127.0.0.1:{port}", *options]
    with process(command, cwd=folder):
        wait_for(lambda: listens(port), what="the server")
        yield port


def test_the_program_of_events_tells_those_who_listen_and_those_who_wait(tmp_path: Path) -> None:
    with served("news", tmp_path) as port:
        polls = [ThreadPoolExecutor(1).submit(fetch, port, "/next") for _ in range(2)]
        events = urllib.request.urlopen(f"http://127.0.0.1:{port}/news", timeout=60)
        assert events.readline() == b":\n"

        def publish() -> bool:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/news", b"text=five", timeout=60)
            return all(poll.done() for poll in polls)

        wait_for(publish, what="the long polls")
        assert [poll.result(10) for poll in polls] == ['{"text":"five"}'] * 2
        lines = [events.readline() for _ in range(3)]
        assert lines[1].startswith(b"id: ") and lines[2] == b'data: {"text":"five"}\n'


def test_the_program_of_shared_events_tells_the_clients_of_all_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server() as address:
        monkeypatch.setenv("REDIS_URL", address)
        with served("shared_news", tmp_path, "--workers", "2") as port, redis.Redis.from_url(address) as store:
            wait_for(lambda: store.pubsub_numsub("news") == [(b"news", 2)], what="both workers")
            streams = [urllib.request.urlopen(f"http://127.0.0.1:{port}/news", timeout=60) for _ in range(6)]
            assert {stream.readline() for stream in streams} == {b":\n"}
            for number in range(6):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/news", b"text=%d" % number, timeout=60)
            for stream in streams:
                told = [line for line in (stream.readline() for _ in range(13)) if line != b"\n"]
                assert told == [b'data: {"text":"%d"}\n' % number for number in range(6)]


def test_the_program_of_websockets_talks_and_sends_on_what_is_published(tmp_path: Path) -> None:
    with served("rooms", tmp_path) as port, websockets.sync.client.connect(f"ws://127.0.0.1:{port}/room/blue") as room:
        room.send("hello")
        assert json.loads(room.recv(60)) == {"room": "blue", "you said": "hello"}
        room.send("all")
        assert json.loads(room.recv(60)) == {"from": "blue"}


SHOWN = [section for section in SECTIONS if re.search(r"^app = Brubeck", "".join(section.python), re.MULTILINE)
         and "Channel" not in "".join(section.python)]  # fmt: skip


@titled(SHOWN)
def test_no_program_of_a_document_sends_back_markup(
    section: Section, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "document"}
    for block in section.python:
        if not NAMED.match(block) or "app = " in block:
            exec(compile(block, section.document, "exec", dont_inherit=True), names)
    assert markup_in_pages(names["app"], "\n".join(section.python)) == []


def test_the_docstring_begins_with_the_same_program() -> None:
    text = (brubeck_lite.__doc__ or "").partition("in front:\n\n")[2].partition("\n\nBehind")[0]
    names: dict[str, Any] = {"__name__": "docstring"}
    exec(textwrap.dedent(text), names)
    assert names["app"].test().get("/hello/Dave").text == "Take five, Dave!"
    assert markup_in_pages(names["app"], "") == []


def anchors(page: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", LINKED)
def test_links_lead_somewhere(document: str) -> None:
    page = ROOT / document
    for link in re.findall(r"\]\(([^)]+)\)", FENCE.sub("", page.read_text())):
        if not link.startswith("https://"):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


def test_a_program_that_two_documents_show_is_the_same() -> None:
    named = [(match[1], block) for block in PYTHON if (match := NAMED.match(block))]
    assert sorted(set(named)) == sorted(FILES.items())


# -- the tables for those who come from elsewhere


def pairs(title: str) -> Iterator[tuple[list[str], list[str]]]:
    """The rows of the tables below this title, as the pieces of code that stand in each column."""
    tables = [re.findall(r"^\| (.*) \|$", each.text, re.MULTILINE)[2:] for each in SECTIONS if each.title == title]
    assert tables and all(tables), f"{title} has no table"
    for row in itertools.chain(*tables):
        theirs, ours = (re.findall(r"`([^`]+)`", cell) for cell in row.split(" | "))
        yield theirs, [code for code in ours if not code.startswith("brubeck_lite ")]  # which were run


def check_names(code: str, known: Mapping[str, object]) -> None:
    """Every `name.attribute` in the code, and every `keyword=` of a call, is one of what the name stands for."""
    tree = ast.parse("def f():\n" + "\n".join(f"    {line}" for line in code.splitlines()))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and isinstance(node.ctx, ast.Load):
            assert hasattr(known[node.value.id], node.attr), code
        if isinstance(node, ast.ImportFrom) and node.module == "brubeck_lite":
            assert all(alias.name in known for alias in node.names), code
        if isinstance(node, ast.Call) and isinstance(node.func, (ast.Name, ast.Attribute)):
            function = node.func
            owner = function.value if isinstance(function, ast.Attribute) else None
            if isinstance(function, ast.Name):
                taken = inspect.signature(cast(Any, known[function.id])).parameters
            elif isinstance(owner, ast.Name):
                taken = inspect.signature(getattr(known[owner.id], function.attr)).parameters
            else:
                continue
            anything = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken.values())
            assert anything or {keyword.arg for keyword in node.keywords} <= set(taken), code


class All(brubeck_lite.TemplateMixin, brubeck_lite.AuthMixin, brubeck_lite.WebMessageHandler):
    """A handler with what ours have."""


def names_of_ours() -> dict[str, object]:
    app = brubeck_lite.Brubeck(secret="known to the tests alone")
    client = app.test()
    request = client.post("/", json={}).request
    return {**vars(brubeck_lite), "app": app, "client": client, "request": request, "re": re,
            "answer": brubeck_lite.Response(), "self": All(app, request)}  # fmt: skip


THEIRS: dict[str, dict[str, object]] = {
    "Bottle": {**vars(bottle), "app": bottle.Bottle(), "request": bottle.BaseRequest, "response": bottle.BaseResponse},
    "Flask": {**vars(flask), "app": flask.Flask("app"), "request": flask.Request, "client": FlaskClient,
              "g": SimpleNamespace(user=""), "ProxyFix": ProxyFix},
}  # fmt: skip


@pytest.mark.parametrize("title", ["Bottle", "Flask", "Brubeck"])
def test_the_tables_name_what_there_is(title: str) -> None:
    for theirs, ours in pairs(title):
        for code in theirs if title in THEIRS else ():
            check_names(code, THEIRS[title])
        for code in ours:
            check_names(code, names_of_ours())


def evaluators(code: str) -> dict[str, Callable[..., Any]]:
    """Applications that answer with what the code is worth there, as Python would write it."""
    ours, theirs, other = brubeck_lite.Brubeck(), bottle.Bottle(), flask.Flask("app")
    ours.post("/")(lambda request: repr(eval(code, {"request": request})))
    theirs.post("/")(lambda: repr(eval(code, {"request": bottle.request})))
    other.post("/")(lambda: repr(eval(code, {"request": flask.request})))
    return {"ours": ours, "Bottle": theirs, "Flask": other.wsgi_app}


@pytest.mark.parametrize("title", ["Bottle", "Flask"])
def test_what_a_request_holds_is_the_same_by_both_columns(title: str) -> None:
    rows = [row for row in pairs(title) if all(code.startswith("request.") for column in row for code in column)]
    compared = [pair for row in rows for pair in zip(*row, strict=True) if not re.search("cookie|save", pair[0])]
    assert len(compared) >= 4
    for theirs, ours in compared:
        given: dict[str, Any] = {"json": {"a": [1]}} if "json" in theirs else {"data": {"a": "ä"}}
        asked = [WSGIClient(evaluators(code)[name]).post("/?a=1&n=4", **given).text
                 for name, code in ((title, theirs), ("ours", ours))]  # fmt: skip
        assert asked[0] == asked[1] and "Error" not in asked[0], (theirs, ours)


def test_the_service_of_the_manual_has_options_that_there_are() -> None:
    command = re.search(r"^ExecStart=\S+/brubeck_lite (.+)$", TEXT, re.MULTILINE)
    assert command is not None
    assert parse_arguments(command[1].split()).workers
