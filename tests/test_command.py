"""The command line, as a process: what it takes, what it says, and how it ends."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from all_kinds import CHECKS, PROGRAM
from support import (
    ROOT,
    Mongrel2,
    behind_http,
    behind_mongrel2,
    environment,
    free_port,
    is_running,
    listens,
    output,
    process,
    wait_for,
    wsgi_command,
)

import brubeck_lite
from brubeck_lite import (
    AccessLog,
    Brubeck,
    HTTPConnection,
    MessageHandler,
    Request,
    Response,
    authenticated,
    find_problems,
    format_access_line,
    load_program,
    mongrel2_config,
    parse_arguments,
)

ADDRESSES = ["--mongrel2", "tcp://127.0.0.1:9999", "tcp://127.0.0.1:9998"]


def command(*arguments: str, folder: Path = ROOT / "tests", **options: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    line = [sys.executable, "-m", "brubeck_lite", *arguments]
    settings: dict[str, object] = {"cwd": folder, "env": environment(), "timeout": 120, **options}
    return subprocess.run(line, text=True, capture_output=True, check=False, **settings)  # type: ignore[call-overload]


def fetch(port: int, target: str, **options: object) -> tuple[int, str]:
    """Status and text of an answer."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{target}", **options)  # type: ignore[arg-type]
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def free_addresses() -> list[str]:
    """The option --mongrel2 with a pair of addresses that nobody has."""
    return ["--mongrel2", f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}"]


def is_free(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


def load_config(folder: Path, config: str) -> None:
    (folder / "mongrel2.conf").write_text(config)
    load = ["m2sh", "load", "-config", "mongrel2.conf", "-db", "config.sqlite"]
    subprocess.run(load, cwd=folder, capture_output=True, check=True)


@contextlib.contextmanager
def mongrel2_of(config: str, folder: Path, *names: str) -> Iterator[None]:
    """The Mongrel2s of a configuration, started as it says, in this folder."""
    for name in ("run", "logs", "tmp"):
        (folder / name).mkdir()
    load_config(folder, config)
    start, quiet = ["m2sh", "start", "-db", "config.sqlite"], subprocess.DEVNULL
    try:
        for which in [["-name", name] for name in names] or [["-every"]]:
            subprocess.run([*start, *which], cwd=folder, check=True, stdout=quiet, stderr=quiet)
        logs = [folder / "logs" / f"error{number}.log" for number in ("", "2")][: len(names) or 1]
        wait_for(lambda: all(log.exists() and " Running. " in log.read_text() for log in logs), what="Mongrel2")
        yield
    finally:
        for file in (folder / "run").glob("*.pid"):
            pid = int(file.read_text())
            os.kill(pid, signal.SIGKILL)
            wait_for(lambda pid=pid: not is_running(pid), what="the end of Mongrel2")  # type: ignore[misc]


@pytest.fixture(scope="module")
def mongrel2() -> Iterator[Mongrel2]:
    with Mongrel2() as server:
        yield server


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "the following arguments are required: MODULE:APP"),
        (["nowhere:app"], "there is no module 'nowhere' here"),
        (["nowhere.at.all:app"], "there is no module 'nowhere.at.all' here"),
        (["program:absent"], "'absent' is not there in the module 'program'"),
        (["program:inner_root"], "'inner_root' is no Brubeck in the module 'program'"),
        ([":app"], "':app' is no MODULE:APP"),
        (["..program:app"], "'..program:app' is no MODULE:APP"),
        (["program:app", "--bind", "67670"], "not an address: '67670'"),
        (["program:app", "--bind", "127.0.0.1:99999"], "not an address"),
        (["program:app", "--port", "99999"], "not an address: '127.0.0.1:99999'"),
        (["program:app", "--port", "web"], "argument --port: 'web' is not a number"),
        (["program:app", "--host", "a b"], "not an address: 'a b:6767'"),
        (["program:app", "--bind", ":80", "--port", "80"], "--bind is a whole address: give it, or --host and --port"),
        (["program:absent()"], "'absent' is not there in the module 'program'"),
        (["program:app(1)"], "'program:app(1)' is no MODULE:APP"),
        (["program:app", "--bind", "::1:80"], "not an address"),
        (["program:app", "--bind", "nowhere.invalid:6767"], "cannot listen at nowhere.invalid:6767"),
        (["program:app", "--bind", "unix:/nowhere/at/all"], "cannot listen at unix:/nowhere/at/all"),
        (["program:app", "--mongrel2", "9999", "tcp://127.0.0.1:9998"], "not an address: '9999'"),
        (["program:app", "--mongrel2", "tcp://127.0.0.1:9999", "tcp://127.0.0.1:x"], "not an address"),
        (["program:app", "--mongrel2", "tcp://127.0.0.1:9999", "tcp://127.0.0.1:99999"], "not an address"),
        (["program:app", "--mongrel2", "tcp://*:9999", "tcp://*:9998"], "not an address"),
        (["program:app", "--chdir", "nowhere"], "--chdir: cannot go to 'nowhere': No such file or directory"),
        (["program:app", "--chdir", "program.py", "--workers", "2"], "--chdir: cannot go to 'program.py': Not a dir"),
        (["routes", "program:app", "--chdir", "nowhere"], "--chdir: cannot go to 'nowhere': No such file or directory"),
    ],
)  # fmt: skip
def test_what_cannot_start_is_told_in_one_line(arguments: list[str], expected: str) -> None:
    ended = command(*arguments)
    assert ended.returncode == 2
    assert expected in ended.stderr
    assert ended.stderr.startswith("brubeck_lite: ") and ended.stderr.count("\n") == 1
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["program:app", "--pool-size", "many"], "argument --pool-size: 'many' is not a number of at least 1"),
        (["program:app", "--pool-size", "0"], "argument --pool-size: '0' is not a number of at least 1"),
        (["program:app", "--max-body", "-1"], "argument --max-body: "),
        (["program:app", "--mongrel2", "one"], "argument --mongrel2: expected 2 arguments"),
        (["program:app", "--odd"], "unrecognized arguments: --odd"),
        (["program:app", "--debu"], "unrecognized arguments: --debu"),
        (["program:app", "routes"], "unrecognized arguments: routes"),
        (["routes"], "required: MODULE:APP"),
        (["check"], "required: MODULE:APP"),
        (["check", "program:app", "--debug"], "unrecognized arguments: --debug"),
        (["program:app", "--workers", "many"], "argument --workers: 'many' is not a number of at least 1"),
        (["program:app", "--worker-timeout", "-1"], "--worker-timeout: '-1' is not a number of seconds"),
        (["program:app", "--worker-timeout", "nan"], "--worker-timeout: 'nan' is not a number of seconds"),
    ],
)  # fmt: skip
def test_an_option_that_is_not_understood_is_refused_in_one_line(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments)
    told = capsys.readouterr().err
    assert (ended.value.code, told.count("\n")) == (2, 1)
    assert told.startswith("brubeck_lite: ") and expected in told and told.endswith(" (--help tells more)\n")


def test_help_tells_what_can_be_told_of_a_program() -> None:
    ended = command("--help")
    assert ended.returncode == 0
    for line in ("usage: brubeck_lite MODULE:APP [options]", "brubeck_lite routes MODULE:APP", "--bind ADDRESS"):
        assert line in ended.stdout
    for name in ("routes", "check"):
        told = command(name, "--help")
        assert (told.returncode, told.stderr) == (0, "") and f"brubeck_lite {name} MODULE:APP\n" in told.stdout
        assert "--bind" not in told.stdout


def test_modules_may_be_called_as_the_commands_are(tmp_path: Path) -> None:
    (tmp_path / "routes.py").write_text("import brubeck_lite\napp = brubeck_lite.Brubeck()\n")
    assert command("routes:app", "--print-mongrel2-config", folder=tmp_path).stdout.startswith("# Mongrel2")
    assert command("check", "routes:app", folder=tmp_path).stdout == "routes:app: no conflicts\n"


CONFLICT = """\
from brubeck_lite import Brubeck

app = Brubeck()

@app.route("/<name>")
def first(request, name): ...

@app.route("/<string:other>")
def second(request, other): ...
"""
MOUNTING = """\
from brubeck_lite import Brubeck

def create_app():
    import wrong
    app = Brubeck()
    app.mount("/inner", wrong.app)
    return app
"""
REFUSED = [  # and how the sentence about it begins
    ("@app.get\ndef index(request): ...", 'write @app.get("/path") above the handler'),
    ("@app.get('/')\nasync def index(request): ...", "index is `async def`: write `def`"),
    ("@app.get('/<n:int>')\ndef show(request, n): ...", "the rule '/<n:int>' cannot be understood: the converter"),
    ("@app.get('/')\ndef index(): ...", "index takes no request: its parameters should be (request)"),
    ("@app.error('404')\ndef missing(request, error): ...", "@app.error(404) is given a status"),
    ("@app.error(404)\ndef missing(request): ...", "missing: too many positional arguments; it should be `def handler"),
    ("@app.wrap\ndef timing(request):\n    print(request.path)", "timing (wrong.py:"),
    ("@app.on_start\ndef begin(app): ...", "begin: missing a required argument: 'app'; it should be `def start():`"),
    ("app.static('/static', 'nowhere')", "there is no folder "),
    ("app.mount('/x', lambda request: '')", "a Brubeck can be mounted, not <function"),
    ("app.mount(Brubeck(), '/x')", "a Brubeck can be mounted, not '/x'"),
    ("app.route('/x')(Brubeck())", 'write app.mount("/prefix", other)'),
    ("app.mount('/x', app)", "an application cannot be mounted in itself"),
    ("@app.get('/{name}')\ndef show(request, name): ...", "the rule '/{name}' has {name} in it: an argument"),
    ("@app.route('/', methods='POST')\ndef show(request): ...", "methods is a list: ['POST']"),
]
DECORATED = 8 if sys.version_info >= (3, 11) else 9  # the line in which a decorator is called


@pytest.mark.parametrize(
    ("text", "place", "reason"),
    [
        (CONFLICT, DECORATED, "<Route '/<string:other>' second> has the same rule and a method in common with"),
        ("from brubeck_lite import Brubeck\n\napp = Brubeck(pool_size=0)\n", 3, "pool_size is at least 1"),
        ("from brubeck_lite import Brubeck\n\napp = Brubeck(__name__)\n", 3, "Brubeck(...) is given a connection, or"),
        ("from brubeck_lite import Brubeck\napp = Brubeck()\napp.run()\n", 3, "run() is called while the program is"),
    ],
)  # fmt: skip
def test_what_a_program_may_not_say_is_told_with_its_place(
    tmp_path: Path, text: str, place: int, reason: str
) -> None:
    (tmp_path / "wrong.py").write_text(text)
    (tmp_path / "wrong_inside.py").write_text("from wrong import app\n")
    for arguments in (["wrong:app"], ["check", "wrong_inside:app"]):
        ended = command(*arguments, folder=tmp_path)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert ended.stderr.startswith(f"brubeck_lite: wrong.py:{place}: {reason}") and ended.stderr.count("\n") == 1


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[reason for _, reason in REFUSED])
def test_check_finds_wrong_forms_in_what_a_factory_mounts_too(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "wrong.py").write_text(f"from brubeck_lite import Brubeck\n\napp = Brubeck()\n\n{text}\n")
    (tmp_path / "factory.py").write_text(MOUNTING)
    ended = command("check", "factory:create_app()", folder=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith(f"brubeck_lite: wrong.py:5: {reason}")


def test_a_value_error_of_the_program_itself_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("int('five')\n")
    ended = command("own:app", folder=tmp_path)
    assert ended.returncode == 1 and "invalid literal" in ended.stderr and "own.py" in ended.stderr


ROUTES = """\
import functools, re
from brubeck_lite import Brubeck, MessageHandler

class Old(MessageHandler):
    def get(self): ...
    def delete(self): ...

app, inner, inmost = Brubeck(handler_tuples=[(r"^/old/\\d+", Old)]), Brubeck(), Brubeck()

def given(request, number): ...

app.route(re.compile(r"(?x) ^/spaced  $"), methods=["POST"])(lambda request: "")
app.route("/partly")(functools.partial(given, number=1))
app.route("@chat")(Old)
app.static("/static", ".")
app.route("/length")(len)

@app.websocket("/talk/<room>")
def talk(ws, room): ...

@inmost.route("/<int:number>", methods=["put", "GET", "REPORT"], name="put")
def change(request, number): ...

inner.route(re.compile("^/x"))(Old)
inner.mount("/inmost", inmost)
app.mount("/inner", inner)
"""
TABLE = """\
RULE                         METHODS         NAME     HANDLER      WHERE
r'^/old/\\d+'                DELETE,GET      -        Old          listed.py:4
r'(?x) ^/spaced $'           POST            -        <lambda>     listed.py:12
/partly                      GET             partial  given        listed.py:10
@chat                        MESSAGE         Old      Old          listed.py:4
/static/<path:name>          GET             static   static_file  -
/length                      GET             len      len          -
/talk/<room>                 WEBSOCKET       talk     talk         listed.py:18
/inner r'^/x'                DELETE,GET      -        Old          listed.py:4
/inner/inmost/<int:number>   GET,PUT,REPORT  put      change       listed.py:21
"""


def test_routes_lists_all_kinds_of_them(tmp_path: Path) -> None:
    (tmp_path / "listed.py").write_text(ROUTES)
    ended = command("routes", "listed:app", folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [re.split("  +", line) for line in ended.stdout.splitlines()] == [
        re.split("  +", line) for line in TABLE.splitlines()
    ]
    assert len({line.index(listed) for line, listed in zip(ended.stdout.splitlines(), WHERE, strict=True)}) == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["routes", "listed:app"], "listed.py:"),
        (["check", "listed:app"], "listed:app: no conflicts"),
        (["listed:app", "--print-mongrel2-config"], "send_spec"),
    ],
)
def test_what_is_told_of_a_program_in_another_folder(tmp_path: Path, arguments: list[str], expected: str) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "listed.py").write_text(ROUTES)
    ended = command(*arguments, "--chdir", "there", folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "") and expected in ended.stdout


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]])
def test_a_program_in_another_folder_is_served_with_addresses_in_that_folder(
    tmp_path: Path, workers: list[str]
) -> None:
    (tmp_path / "there").mkdir()
    shutil.copy(ROOT / "examples" / "hello.py", tmp_path / "there" / "another.py")
    line = [sys.executable, "-m", "brubeck_lite", "another:app", "--chdir", "there", "--bind", "unix:here", *workers]
    with process(line, cwd=tmp_path) as child:
        wait_for((tmp_path / "there" / "here").is_socket, what=output(child))


WHERE = [line.split()[-1] for line in TABLE.splitlines()]


def test_check_says_what_is_fine() -> None:
    for name in ("hello", "classes", "regex", "chat"):
        ended = command("check", f"{name}:app", folder=ROOT / "examples")
        assert (ended.returncode, ended.stdout) == (0, f"{name}:app: no conflicts\n")


def test_check_says_what_is_wrong_where(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(
        "from brubeck_lite import Brubeck\n\napp = Brubeck()\n\n"
        "@app.route('/hello/<name>')\ndef hello(request, nam): ...\n"
    )
    ended = command("check", "wrong:app", folder=tmp_path)
    assert (ended.returncode, ended.stderr) == (1, "")
    (line,) = ended.stdout.splitlines()
    assert line.startswith("wrong.py:5: /hello/<name>: hello cannot be called with the arguments of its route: ")
    assert line.endswith(": missing a required argument: 'nam'")


class Page(MessageHandler):
    def get(self, one: str = "") -> None: ...

    def post(self) -> None: ...


class Changing(MessageHandler):
    """Calls its methods in its own way."""

    def get(self, one: str, two: str) -> None: ...

    def __call__(self, **named: Any) -> Any:
        return self.get("1", "2")


class Unmade:
    """Takes neither an application nor a request."""

    def __call__(self, **named: Any) -> Any: ...


class Called:
    def __init__(self, app: Brubeck, request: Request) -> None: ...

    def __call__(self, one: str) -> None: ...


class Undefined(MessageHandler):
    methods = ("REPORT",)


def no_arguments(request: Request) -> None: ...


def one_argument(request: Request, one: str) -> None: ...


database = Path()


def giving_more(handler: Any) -> Any:
    @functools.wraps(handler)
    def called(request: Request, **named: Any) -> Any:
        return handler(request, database, **named)

    return called


@pytest.mark.parametrize(
    ("rule", "handler", "expected"),
    [
        ("/x", no_arguments, None),
        ("/<one>", no_arguments, "unexpected keyword argument 'one'"),
        ("/x", one_argument, "missing a required argument: 'one'"),
        ("/<int:one>", one_argument, None),
        ("/<two>", one_argument, "missing a required argument: 'one'"),
        ("/<two>", authenticated(one_argument), "missing a required argument: 'one'"),
        ("/<two>", giving_more(one_argument), None),
        (re.compile("^/(.)$"), one_argument, None),
        (re.compile("^/(.)(.)$"), one_argument, "too many positional arguments"),
        (re.compile("^/(?P<one>.)(.)$"), one_argument, None),
        (re.compile("^/(?P<two>.)$"), one_argument, "missing a required argument: 'one'"),
        ("/x", Page, None),
        ("/<one>", Page, "post cannot be called with the arguments of its route"),
        ("/<one>", Changing, None),
        ("/x", functools.partial(one_argument, one=1), None),
        ("/x", functools.partial(one_argument), "missing a required argument: 'one'"),
        ("/x", print, None),
        ("@chat", no_arguments, None),
        ("@chat", one_argument, "missing a required argument: 'one'"),
        ("@chat", Page, None),
        ("/<three>", Undefined, None),
        ("/x", Unmade, "it is made with (app, request)"),
        ("/<one>", Called, None),
        ("/x", Called, "missing a required argument: 'one'"),
    ],
)  # fmt: skip
def test_check_finds_handlers_that_cannot_work(rule: Any, handler: Any, expected: str | None) -> None:
    app = Brubeck()
    app.route(rule)(handler)
    problems = [*find_problems(app)]
    assert len(problems) == (expected is not None) and (expected or "") in "".join(problems)


GUARDED = """\
from brubeck_lite import Brubeck, authenticated, basic_auth

app, inner = Brubeck(), Brubeck()
app.mount("/inner", inner)
check = basic_auth(lambda name, password: False)

@app.get("/right")
@authenticated
@check
def right(request): ...

@app.websocket("/talk")
@check
def talk(ws): ...

@app.post("/some")
@authenticated
@inner.get("/open")
def partly(request): ...

@authenticated
@inner.get("/one")
def one(request): ...

@inner.get("/two")
@authenticated
def two(request): ...

two = check(two)
"""


def test_check_finds_guards_that_stand_above_the_route(tmp_path: Path) -> None:
    (tmp_path / "guarded.py").write_text(GUARDED)
    ended = command("check", "guarded:app", folder=tmp_path)
    told = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr, len(told)) == (1, "", 2)
    assert re.match(r"guarded.py:\d+: /inner/one: one is not guarded: a check such as @authenticated stands", told[0])
    assert re.match(r"guarded.py:\d+: /inner/two: two is not guarded", told[1])


LOST = """\
from brubeck_lite import Brubeck, redirect, render as page

app = Brubeck()

@app.post("/lost")
def lost(request):
    if request.body:
        redirect("/thanks")
    return "try again"

@app.get("/page")
def shown(request):
    page(request, "index.html")

@app.get("/fine")
def fine(request):
    answer = redirect("/elsewhere")
    return answer

if __name__ == "__main__":
    app.run(port=int(__import__("sys").argv[1]), workers=int(__import__("sys").argv[2]))
"""


def test_check_finds_answers_that_are_not_returned(tmp_path: Path) -> None:
    (tmp_path / "losing.py").write_text(LOST)
    ended = command("check", "losing:app", folder=tmp_path)
    told = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr, len(told)) == (1, "", 2)
    assert told[0] == "losing.py:5: /lost: lost does not return what it makes: write return redirect(...)"
    assert told[1].endswith("/page: shown does not return what it makes: write return page(...)")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_server_that_starts_warns_once_of_what_check_finds(tmp_path: Path, workers: str) -> None:
    (tmp_path / "losing.py").write_text(LOST)
    with process([sys.executable, "losing.py", str(free_port()), workers], cwd=tmp_path) as child:
        wait_for(lambda: "serving" in output(child) if workers == "1" else output(child).count("is ready") == 2)
        found = re.findall(r"WARNING losing.py:\d+: /(\w+): .* does not return what it makes", output(child))
        assert found == ["lost", "page"]


def test_check_finds_an_upload_store_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("from brubeck_lite import Brubeck\napp = Brubeck(upload_store='nowhere')\n")
    ended = command("check", "none:app", folder=tmp_path)
    assert (ended.returncode, "upload_store: [Errno 2] there is no such folder: 'nowhere'" in ended.stdout) == (1, True)


def test_check_finds_websockets_that_cannot_work() -> None:
    app = Brubeck()
    app.websocket("/<two>")(one_argument)
    assert "missing a required argument: 'one'" in "".join(find_problems(app))


def test_check_finds_message_sockets_that_are_never_reached() -> None:
    app, inner = Brubeck(), Brubeck()
    inner.route("@chat")(no_arguments)
    app.mount("/a", inner)
    (problem,) = find_problems(app)
    assert problem.endswith("/a@chat: never called, for message sockets of a mounted application are not served")


@pytest.mark.parametrize("folder", ["plain", "importlib"])
def test_an_error_in_the_program_itself_shows_where_it_is(tmp_path: Path, folder: str) -> None:
    tmp_path = tmp_path / folder
    tmp_path.mkdir()
    (tmp_path / "broken.py").write_text("import os\nimport brubeck_lite\nos.environ['NOT_SET']\n")
    ended = command("broken:app", folder=tmp_path)
    assert ended.returncode == 1
    places = re.findall('File "(.*)", line', ended.stderr)
    assert ended.stderr.endswith("KeyError: 'NOT_SET'\n") and places[0] == str(tmp_path / "broken.py")
    assert "brubeck_lite.py" not in ended.stderr and "importlib._bootstrap" not in ended.stderr
    assert f"{os.sep}importlib{os.sep}__init__.py" not in ended.stderr


@pytest.mark.parametrize("module", ["broken", "importing"])
def test_a_package_that_is_not_installed_is_named_in_one_line(tmp_path: Path, module: str) -> None:
    (tmp_path / "broken.py").write_text("import brubeck_lite\nimport no_such_package.inside\n")
    (tmp_path / "importing.py").write_text("import broken\n")
    ended = command(f"{module}:app", folder=tmp_path)
    assert ended.returncode == 2
    assert ended.stderr == (
        f"brubeck_lite: broken.py:2: No module named 'no_such_package': install it for {sys.executable}\n"
    )


def test_version() -> None:
    assert command("--version").stdout == f"brubeck_lite {brubeck_lite.__version__}\n"


def test_the_example_configuration_is_the_one_that_the_command_prints() -> None:
    printed = command("hello:app", "--print-mongrel2-config", folder=ROOT / "examples")
    assert printed.stdout == (ROOT / "examples" / "mongrel2.conf").read_text()


def test_the_printed_configuration_fits_the_program_and_mongrel2_loads_it(tmp_path: Path) -> None:
    printed = command("program:app", *ADDRESSES, "--print-mongrel2-config").stdout
    assert "'@chat': web" in printed and "'<feed': web" in printed
    load_config(tmp_path, printed)
    hosts = subprocess.run(["m2sh", "servers", "-db", "config.sqlite"], cwd=tmp_path, capture_output=True, check=True)
    assert b"main" in hosts.stdout


@pytest.mark.parametrize("store", [False, True], ids=["in-memory", "upload-store"])
def test_a_mongrel2_of_the_printed_configuration_serves_all_kinds_of_routes(tmp_path: Path, store: bool) -> None:
    (tmp_path / "hello.py").write_text(PROGRAM)
    (tmp_path / "folder" / "store").mkdir(parents=True)
    settings = {**environment(), **({"UPLOAD_STORE": str(tmp_path / "folder" / "store")} if store else {})}
    port, addresses = free_port(), free_addresses()
    options = ["hello:app", *addresses, "--print-mongrel2-config", "--bind", f"127.0.0.1:{port}"]
    printed = command(*options, folder=tmp_path, env=settings).stdout
    place = f"In {tmp_path}/folder with run/, logs/ and store/" if store else "In a folder with run/, logs/ and tmp/"
    assert f"{place}:\n" in printed and "chroot='./'" in printed
    line = [sys.executable, "-m", "brubeck_lite", "hello:app", *addresses]
    if not store:
        assert "if the handler is started with --upload-store FOLDER/tmp" in printed
        line += ["--upload-store", str(tmp_path / "folder" / "tmp")]
    with mongrel2_of(printed, tmp_path / "folder"), process(line, cwd=tmp_path, env=settings) as child:
        wait_for(lambda: "connected to Mongrel2" in output(child), what="the handler")
        for check in CHECKS:
            check(port)
        assert [*(tmp_path / "folder" / ("store" if store else "tmp")).iterdir()] == []


def test_several_mongrel2s_listen_at_one_port_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text(PROGRAM)
    folder = tmp_path / "folder"
    folder.mkdir()
    port = next(port for port in iter(free_port, None) if is_free(port + 1))  # that one is not kept for it
    with tempfile.TemporaryDirectory(dir="/tmp") as sockets:  # which is not in Mongrel2's folder
        addresses = [*free_addresses(), "--mongrel2", f"ipc://{sockets}/requests", f"ipc://{sockets}/replies"]
        options = ["hello:app", *addresses, "--print-mongrel2-config", "--bind", f"localhost:{port}"]
        printed = command(*options, folder=tmp_path).stdout
        assert "chroot" not in printed and printed.endswith("servers = [main, main2]\n")
        line = [sys.executable, "-m", "brubeck_lite", "hello:app", *addresses]
        line += ["--upload-store", str(folder / "tmp")]
        with mongrel2_of(printed, folder, "main", "main2"), process(line, cwd=tmp_path) as child:
            wait_for(lambda: output(child).count("connected to Mongrel2") == 2, what="the handler")
            for check in CHECKS:
                check(port)
                check(port + 1)


@pytest.mark.parametrize(
    ("pull", "bind", "expected"),
    [
        ("ipc://it's", "127.0.0.1:80", "\"ipc://it's\" cannot be said in a configuration of Mongrel2"),
        ('ipc://a"b', "127.0.0.1:80", "cannot be said"),
        ("ipc://a\nb", "127.0.0.1:80", "cannot be said"),
        ("ipc://a\\", "127.0.0.1:80", "cannot be said"),
        ("tcp://[::1]:1", "127.0.0.1:80", "cannot be said"),
        ("ipc://a", "unix:/run/x", "Mongrel2 listens at a numeric address and a port, not at unix:/run/x"),
        ("ipc://a", "example.com:80", "Mongrel2 listens at a numeric address and a port, not at example.com:80"),
        ("ipc://a", "127.0.0.1:0", "Mongrel2 listens at a numeric address and a port, not at 127.0.0.1:0"),
        ("ipc://a", "x", "not an address: 'x'"),
    ],
)  # fmt: skip
def test_what_mongrel2_cannot_do_is_refused(pull: str, bind: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        mongrel2_config(Brubeck(), [(pull, "ipc://b")], bind)


def test_a_configuration_that_cannot_be_is_told_in_one_line() -> None:
    ended = command("hello:app", "--print-mongrel2-config", "--bind", "unix:/run/x", folder=ROOT / "examples")
    assert (ended.returncode, ended.stdout) == (2, "")
    line = "brubeck_lite: Mongrel2 listens at a numeric address and a port, not at unix:/run/x\n"
    assert ended.stderr == line


@pytest.mark.parametrize("rule", ["@it's", '@a"b', "@a\\", "@a b", "@a(b", "@a\nb"])
def test_a_message_socket_that_mongrel2_cannot_route_is_refused(rule: str) -> None:
    app = Brubeck()
    app.route(rule)(lambda request: None)
    with pytest.raises(ValueError, match="cannot be said in a configuration of Mongrel2"):
        mongrel2_config(app, [("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")], "127.0.0.1:80")


def test_an_upload_store_that_cannot_be_quoted_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot be said in a configuration of Mongrel2"):
        mongrel2_config(Brubeck(upload_store="/it's"), [("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")], "127.0.0.1:80")


@pytest.mark.parametrize(
    ("settings", "largest_route", "limit"),
    [
        ({}, None, 1 << 20),
        ({"max_body": 5}, None, 5),
        ({"max_body": 5}, 5000, 5000),
        ({}, 1 << 30, 1 << 30),
        ({"max_body": 1 << 30}, None, 1 << 30),
        ({"max_body": 1 << 40}, None, (1 << 31) - 1),
        ({"upload_store": "/x/y", "max_body": 5}, None, 5),
        ({"upload_store": "/x/y", "max_body": 1 << 40}, 1 << 30, 1 << 20),
    ],
)  # fmt: skip
def test_mongrel2_holds_bodies_that_routes_take(
    settings: dict[str, Any], largest_route: int | None, limit: int
) -> None:
    app, inner = Brubeck(**settings), Brubeck(max_body=5)
    inner.post("/x", max_body=largest_route)(lambda request: None)
    app.mount("/inner", inner)
    config = mongrel2_config(app, [("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")], "127.0.0.1:80")
    assert f"'limits.content_length': {limit}," in config


def test_the_configuration_has_the_addresses_that_the_program_connects_to(tmp_path: Path) -> None:
    (tmp_path / "itself.py").write_text(
        "from brubeck_lite import Brubeck, HTTPConnection, Mongrel2Connection\n"
        "mongrel2 = Mongrel2Connection('tcp://127.0.0.1:1', 'tcp://127.0.0.1:2')\n"
        "app, both = Brubeck(mongrel2), Brubeck([HTTPConnection('127.0.0.1:80'), mongrel2])\n"
    )
    for name in ("app", "both"):
        printed = command(f"itself:{name}", "--print-mongrel2-config", folder=tmp_path).stdout
        assert "send_spec='tcp://127.0.0.1:1'" in printed and "recv_spec='tcp://127.0.0.1:2'" in printed
        assert "bind_addr='127.0.0.1', port=6767" in printed and printed.endswith("servers = [main]\n")


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


@pytest.mark.parametrize(
    "arguments",
    ["'127.0.0.1:{port}'", "{port}", "['127.0.0.1:{port}']", "port={port}", "host='127.0.0.1', port={port}",
     "HTTPConnection('127.0.0.1:{port}')", "host='localhost', port={port}, debug=True",
     "'127.0.0.1:{port}', workers=2, debug=True", "port={port}, reload=True", "'127.0.0.1', {port}",
     "'localhost', port={port}", "{port}, debug=True"],
)  # fmt: skip
def test_run_takes_an_address_or_a_host_and_a_port(arguments: str, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "itself.py").write_text(
        "from brubeck_lite import Brubeck, HTTPConnection\napp = Brubeck()\n"
        "app.route('/')(lambda request: str(app.debug))\n"
        f"if __name__ == '__main__':\n    app.run({arguments.format(port=port)})\n"
    )
    with process([sys.executable, str(tmp_path / "itself.py")]) as child:
        wait_for(lambda: re.search(rf"serving http://\S+:{port}", output(child)), what="the server")
        assert fetch(port, "/") == (200, str("debug=True" in arguments))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("'a b'", "not an address: 'a b:6767'"), ("70000", "not an address: '127.0.0.1:70000'"),
     ("'0.0.0.0:80', port=80", r"either app.run"), ("HTTPConnection(':80'), host='::1'", "either app.run"),
     ("'localhost', 80, host='::1'", r"either app.run"),
     ("host='a b'", "not an address: 'a b:6767'"), ("host='::1', port=70000", r"not an address: '\[::1\]:70000'")],
)  # fmt: skip
def test_an_address_that_cannot_be_is_a_value_error_of_run(arguments: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        eval(f"Brubeck().run({arguments})", {"Brubeck": Brubeck, "HTTPConnection": HTTPConnection})


def test_run_serves_a_given_port_though_the_application_has_a_connection(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "itself.py").write_text(
        "from brubeck_lite import Brubeck, HTTPConnection\n"
        f"Brubeck(HTTPConnection('127.0.0.1:{free_port()}')).run(port={port})\n"
    )
    with process([sys.executable, str(tmp_path / "itself.py")]) as child:
        wait_for(lambda: f"serving http://127.0.0.1:{port}" in output(child), what="the server")


@pytest.mark.parametrize("options", [["--port"], ["--host", "localhost", "--port"], ["--workers", "1", "--port"]])
def test_the_command_takes_a_host_and_a_port(options: list[str]) -> None:
    port = free_port()
    with process([sys.executable, "-m", "brubeck_lite", "program:app", *options, str(port)]) as child:
        wait_for(lambda: re.search(rf"serving http://\S+:{port}", output(child)), what="the server")


@pytest.mark.parametrize(("host", "expected"), [("::1", "[::1]:80"), ("[::1]", "[::1]:80"), ("", ":80"), ("h", "h:80")])
def test_a_host_is_joined_with_its_port(host: str, expected: str) -> None:
    assert parse_arguments(["hello:app", "--host", host, "--port", "80"]).bind == expected


FACTORY = """\
from brubeck_lite import Brubeck

def create_app(name="made"):
    app = Brubeck()
    app.get("/")(lambda request: name)
    return app

def needs_something(name): ...

def gives_nothing(): ...

class Program(Brubeck):
    pass
"""


@pytest.mark.parametrize("name", ["create_app", "create_app()"])
def test_an_application_may_be_made_by_a_function(name: str, tmp_path: Path) -> None:
    (tmp_path / "factory.py").write_text(FACTORY)
    assert command("check", f"factory:{name}", folder=tmp_path).stdout == f"factory:{name}: no conflicts\n"
    port = free_port()
    line = [sys.executable, "-m", "brubeck_lite", f"factory:{name}", "--port", str(port), "--chdir", str(tmp_path)]
    with process(line) as child:
        wait_for(lambda: f"serving http://127.0.0.1:{port}" in output(child), what="the server")
        assert fetch(port, "/") == (200, "made")


@pytest.mark.parametrize(
    ("name", "reason"),
    [("needs_something()", "'needs_something' is no Brubeck"), ("gives_nothing", "'gives_nothing' is no Brubeck"),
     ("nothing()", "'nothing' is not there")],
)  # fmt: skip
def test_what_makes_no_application_is_told_in_one_line(name: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "factory.py").write_text(FACTORY)
    ended = command(f"factory:{name}", folder=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)
    assert ended.stderr.startswith(f"brubeck_lite: {reason}")


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


# The program's own logging

FAILS = """\
import brubeck_lite
app = brubeck_lite.Brubeck()

@app.get("/")
def fails(request):
    raise LookupError("who is it?")

if __name__ == "__main__":
    app.run(bind=sys.argv[1])
"""
OWN_FORMAT = "import logging, sys\nlogging.basicConfig(level=logging.INFO, format='mine: %(message)s')\n" + FAILS
OWN_DICT = FAILS.replace(
    "app =",
    "import logging.config\nlogging.config.dictConfig({'version': 1, 'formatters': {'mine': {'format': "
    "'mine: %(message)s'}}, 'handlers': {'own': {'class': 'logging.StreamHandler', 'formatter': 'mine'}}, "
    "'root': {'level': 'INFO', 'handlers': ['own']}})\napp =",
)
OWN_HANDLER = FAILS.replace(
    "app =",
    "import logging\nown = logging.StreamHandler()\nown.setFormatter(logging.Formatter('mine: %(message)s'))\n"
    "logging.getLogger('brubeck_lite').addHandler(own)\nlogging.getLogger('brubeck_lite').setLevel('INFO')\napp =",
)


@contextlib.contextmanager
def logging_program(folder: Path, text: str, way: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A program served by the command line, with workers or not, as a script, or by a WSGI server: process and port."""
    (folder / "logs.py").write_text("import sys\n" + text)
    port = free_port()
    bind, script = f"127.0.0.1:{port}", [sys.executable, str(folder / "logs.py")]
    served = [sys.executable, "-m", "brubeck_lite", "logs:app", "--bind", bind]
    line = {"script": [*script, bind], "workers": [*served, "--workers", "2"], "quiet": [*served, "--quiet"],
            "gunicorn": wsgi_command("gunicorn", "logs:app", port)}.get(way, served)  # fmt: skip
    with process(line, cwd=folder, env={**environment(), "PYTHONPATH": f"{folder}:{ROOT}"}) as child:
        wait_for(lambda: listens(port), what=f"the server: {output(child)}")
        wait_for(lambda: fetch(port, "/")[0] == 500, what="the answer")
        yield child, port


@pytest.mark.parametrize("way", ["command", "workers", "script", "gunicorn"])
@pytest.mark.parametrize("text", [OWN_FORMAT, OWN_DICT, OWN_HANDLER], ids=["basicConfig", "dictConfig", "handler"])
def test_the_programs_own_logging_is_what_counts(tmp_path: Path, text: str, way: str) -> None:
    with logging_program(tmp_path, text, way) as (child, port):
        wait_for(lambda: "LookupError: who is it?" in output(child), what=f"the traceback: {output(child)}")
        assert "\nmine: fails failed on GET '/'\n" in f"\n{output(child)}"
        assert output(child).count("LookupError: who is it?") == 1
        if way in ("command", "script"):
            assert f"mine: serving http://127.0.0.1:{port}\n" in output(child)
        assert (" INFO " in output(child)) is (way == "workers")  # whose parent does not import the program


def test_quiet_is_quiet_though_the_program_logs_what_is_information(tmp_path: Path) -> None:
    text = OWN_FORMAT.replace("app =", "logging.info('imported')\napp =")
    with logging_program(tmp_path, text, "quiet") as (child, _):
        assert output(child).startswith("mine: imported\nmine: fails failed on GET '/'\n")


# What is older than eventlet's patches

EARLY = {
    "import urllib3": "urllib3.util.ssl_.SSLContext",
    "from time import sleep": "__main__.sleep",
    "from socket import socket as s": "__main__.s",
    "import threading\nlock = threading.Lock()": "__main__.lock",
    "import threading\nseen = threading.local()": "__main__.seen",
    "import socket\nlistening = socket.create_server(('127.0.0.1', 0))": "an object of class socket",
    "import ssl\ncontext = ssl.create_default_context()": "an object of class SSLContext",
    "import asyncio\nloop = asyncio.new_event_loop()": "an object of class EpollSelector",
    "from concurrent.futures import ThreadPoolExecutor\npool = ThreadPoolExecutor()": "an object of class SimpleQueue",
    "import threading, time\nthreading.Thread(target=time.sleep, args=(30,), daemon=True).start()": "the thread",
    "import logging.handlers, queue\nlogging.handlers.QueueListener(queue.Queue()).start()": "the thread",
}
HARMLESS = """\
import asyncio, concurrent.futures, http.server, logging.handlers, multiprocessing, queue, select, selectors, smtplib
import socketserver, sqlite3, ssl, subprocess, threading, time, urllib.request, xmlrpc.client
import bottle, jinja2, mako.template, werkzeug.serving, zmq
from socket import create_connection
from threading import Event, Thread
from time import monotonic
jobs, event, guard, context = queue.Queue(), Event(), threading.RLock(), zmq.Context()
subprocess.run(["true"])
done = Thread(target=str)
done.start()
done.join()
"""
ITSELF = """
import sys
import brubeck_lite
app = brubeck_lite.Brubeck()
app.get("/")(lambda request: "served")
app.run(bind=sys.argv[1])
"""
PATCHED = "import eventlet; eventlet.monkey_patch()\n"


def log_of(folder: Path, text: str, until: str = "serving") -> str:
    """What a script says that serves itself, until it does."""
    port = free_port()
    (folder / "itself.py").write_text(f"{text}\n{ITSELF}")
    with process([sys.executable, str(folder / "itself.py"), f"127.0.0.1:{port}"]) as child:
        wait_for(lambda: until in output(child) or child.poll() is not None, what=f"the server: {output(child)}")
        return output(child)


@pytest.mark.parametrize(("text", "named"), EARLY.items(), ids=EARLY)
def test_run_says_in_one_line_what_was_there_too_early_and_what_to_do(tmp_path: Path, text: str, named: str) -> None:
    [line] = [line for line in log_of(tmp_path, text).splitlines() if " INFO " not in line]
    assert " WARNING " in line and named in line and "brubeck_lite MODULE:APP" in line
    assert 'Put "import eventlet; eventlet.monkey_patch()" above' in line


def test_run_says_nothing_of_what_does_no_harm_or_came_after_the_patches(tmp_path: Path) -> None:
    assert " WARNING " not in log_of(tmp_path, PATCHED + "\n".join(EARLY))
    assert all(" INFO " in line for line in log_of(tmp_path, HARMLESS).splitlines())
    with_workers = ITSELF.replace("bind=sys.argv[1]", "bind=sys.argv[1], workers=2")
    assert " WARNING " not in log_of(tmp_path, f"{HARMLESS}\n{with_workers}\nsys.exit()", "is ready")


def test_https_works_in_a_script_that_patches_first(tmp_path: Path) -> None:
    use = "import urllib3\nfrom urllib3.util import create_urllib3_context\n" + ITSELF.replace(
        '"served"', "str(create_urllib3_context().minimum_version)"
    )
    port = free_port()
    (tmp_path / "itself.py").write_text(PATCHED + use)
    with process([sys.executable, str(tmp_path / "itself.py"), f"127.0.0.1:{port}"]) as child:
        wait_for(lambda: "serving" in output(child), what=f"the server: {output(child)}")
        assert fetch(port, "/")[0] == 200


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
        behind_mongrel2("program:app", mongrel2, "--pool-size", "1") as child,
        socket.socket() as first,
        socket.socket() as second,
    ):
        for number, (client, seconds) in enumerate(((first, "2.0"), (second, "0.0"))):
            wait_for(lambda number=number: output(child).count("begins") == number, what="the first")  # type: ignore[misc]
            client.settimeout(60)
            client.connect(("127.0.0.1", mongrel2.port))
            client.sendall(f"GET /wait/{seconds} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert second.recv(1000).startswith(b"HTTP/1.1 200 OK")
        first.settimeout(1)  # it was answered before: that of the second waited for it
        assert first.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_the_access_log_has_a_line_for_each_answer(mongrel2: Mongrel2) -> None:
    http_port = free_port()
    with behind_mongrel2("program:app", mongrel2, "--access-log", "--bind", f"127.0.0.1:{http_port}") as child:
        for number, port in enumerate((mongrel2.port, http_port), 1):
            headers = {"User-Agent": 'a "quoted" \\ agent', "Referer": "http://x/"}
            fetch(port, "/text/%0A%22?q=1", headers=headers)
            wait_for(lambda number=number: output(child).count("GET /") == number, what="the line")  # type: ignore[misc]
        asked = r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET /text/%0A%22\?q=1 HTTP/1\.1" 400 72 '
        for line in (line for line in output(child).splitlines() if "GET /" in line):
            assert re.fullmatch(asked + r'"http://x/" "a \\x22quoted\\x22 \\x5c agent" \d+\.\d{6}', line), line


def test_no_client_can_forge_a_line_of_the_access_log(capfd: pytest.CaptureFixture[str]) -> None:
    request = Request()
    request.method, request.path, request.query_string = "GET", '/"\n\x1b\u2028é', 'a"\r\n200 "'
    line = format_access_line(0, request, 200, 5).decode()
    assert line.count("\n") == 1 and line.isascii() and line.count('"') == 6 and "\x1b" not in line
    log = AccessLog()
    log.add(request, 200, 5)
    log.write()
    log.write()
    assert capfd.readouterr().out.count("\n") == 1


def test_a_signal_while_it_waits_for_mongrel2_ends_it() -> None:
    with process(
        [sys.executable, "-m", "brubeck_lite", "program:app", *ADDRESSES[:1], "ipc:///nowhere/a", "ipc:///nowhere/b"]
    ) as child:
        wait_for(lambda: "waiting for Mongrel2" in output(child), what="the first line")
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0


def test_a_program_may_have_its_application_by_another_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "another_name.py").write_text("import brubeck_lite\nsite = brubeck_lite.Brubeck()\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(load_program("another_name:site"), Brubeck)


def test_the_configuration_has_the_message_sockets_of_the_program() -> None:
    app = Brubeck(max_body=5)
    app.route("@a")(lambda request: Response())
    text = mongrel2_config(app, [("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")], "127.0.0.1:80")
    assert "routes={'/': web, '@a': web}" in text and "send_spec='tcp://127.0.0.1:1'" in text
