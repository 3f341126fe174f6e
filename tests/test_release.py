"""What is released: the wheel and the sdist, installed into empty environments, and the types that their users get."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT, environment

import brubeck_lite

RIGHT = """\
from brubeck_lite import Brubeck, MessageHandler, Request, Response, WebSocket, redirect

app = Brubeck(secret="a secret of the tests")

@app.route("/<int:number>")
def page(request: Request, number: int) -> Response:
    response = Response(request.headers["host"], 201)
    response.set_cookie("seen", str(number), signed=True)
    return response

@app.route("/class")
class Page(MessageHandler):
    def get(self) -> Response:
        return redirect(self.request.url_for("page", number=1))

@app.websocket("/echo")
def echo(ws: WebSocket) -> None:
    for message in ws:
        ws.send(message)

reveal_type(app.test().get("/1").status)
reveal_type(page)
"""
WRONG = [
    'Brubeck(pool_size="many")',
    "Brubeck().nothing()",
    "Brubeck().test().get(1)",
    'Response("page", "200")',
    'length: int = Brubeck().test().get("/").text',
]
# Each line with a mistake says so; what stands below the last of them is right.
MISTAKES = '''\
import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import TypedDict

from brubeck_lite import (
    Brubeck, HTTPConnection, Request, Response, authenticated, basic_auth, bearer_auth, cors, redirect
)

app = Brubeck(secret="a secret of the tests")

@app.get("/one", max_bdy=10)  # wrong: a misspelt option
def one(request: Request) -> str:
    return request.path

@app.websocket("/two", origin="*")  # wrong: a misspelt option
def two(ws: object) -> None: ...

@app.post  # wrong: no parentheses
def three(request: Request) -> str:
    return request.path

@app.get("/four")
@authenticated
def four(request: Request, number: int) -> str:
    text: str = request.get_argument("number", 1, int)  # wrong: an int
    return text

four("request", 4)  # wrong: a str for the request
four(Request()).upper()  # wrong: an argument is missing

@app.error("404")  # wrong: a status is a number
def seven(request: Request, error: Exception) -> str:
    return request.path

@app.error(404)  # wrong: the handler takes one argument
def eight(request: Request) -> str:
    return request.path

@app.wrap  # wrong: the handler itself
def nine(request: Request) -> None: ...

app.run("127.0.0.1:8000", reloads=True)  # wrong: a misspelt option
app.put("/ten", timeout="5")  # wrong: seconds are a number
app.get("/guarded")(basic_auth(lambda name, password: True)(four))(Request(), "x")  # wrong: the argument is an int
bearer_auth(lambda token: True)(one)(1)  # wrong: that is no request
Brubeck(__name__)  # wrong: it has no name

@app.get("/seventeen")  # wrong: the handler takes no request
def seventeen() -> str:
    return "page"

@app.websocket("/eighteen")  # wrong: the handler takes no WebSocket
def eighteen(name: str) -> None: ...

@app.get("/nineteen")  # wrong: a number is no answer
def nineteen(request: Request) -> int:
    return 19

@app.error(500)  # wrong: an object of such a class is no answer
def twenty(request: Request, error: Exception) -> Brubeck:
    return app

@dataclasses.dataclass
class Tune:
    name: str

class Named(TypedDict):
    name: str

@app.get("/pieces")
def pieces(request: Request) -> Iterator[str]:
    yield "one"

@app.get("/more")
def more(request: Request) -> Iterable[bytes] | tuple[bytes, int, dict[str, str]] | None:
    return b"page", 201, {"X-A": "b"}

@app.get("/typed")
def typed(request: Request) -> Named | Tune | Response | tuple[Response, str]:
    return {"name": "Take Five"}

@app.get("/table")
def table(request: Request) -> tuple[list[Tune], int] | tuple[dict[str, Tune], list[tuple[str, str]]]:
    return {}, [("X-A", "b")]

@app.get("/right", name="page", max_body=1 << 20, timeout=1.5, cancel=True)
@bearer_auth(lambda token: token == "x")
def right(request: Request) -> tuple[str, int]:
    number: int = request.get_argument("number", 1, int)
    text: str | None = request.get_argument("text")
    other: str = request.get_argument("text", "")
    maybe: int | None = request.get_argument("number", type=int)
    third: float | None = request.get_argument("number", None, float)
    form: str | None = request.form.get("x")
    return f"{number}{text}{other}{maybe}{third}{form}", 200

@app.error(KeyError)
def missing(request: Request, error: KeyError) -> Response:
    return redirect("/")

@app.wrap
def timing(respond: Callable[[Request], Response]) -> Callable[[Request], Response]:
    return respond

app.wrap(cors("*"))
app.run(host="127.0.0.1", port=8000, debug=True, reload=True)
app.run(8000)
app.run(HTTPConnection(":80"))
app.run(["127.0.0.1:8000", HTTPConnection(":80")])
'''


def run(*command: str | Path, cwd: Path, succeeds: bool = True) -> str:
    """What a command prints. It finds nothing of the repository."""
    variables = {name: value for name, value in environment(measured=False).items() if name != "PYTHONPATH"}
    done = subprocess.run([str(each) for each in command], cwd=cwd, env=variables, capture_output=True, text=True,
                          timeout=300, check=False)  # fmt: skip
    assert (done.returncode == 0) == succeeds, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "build", "--outdir", folder, ROOT, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Installs what matches a pattern into an empty environment: its Python."""

    def install(pattern: str) -> Path:
        folder = tmp_path_factory.mktemp("environment")
        (distribution,) = built.glob(pattern)
        python = folder / "bin" / "python"
        run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
        run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", distribution, cwd=folder)
        return python

    return install


@pytest.fixture(scope="module")
def user(installed: Callable[[str], Path]) -> Path:
    """The Python of an environment with the wheel."""
    return installed("*.whl")


def test_the_wheel_holds_the_module_and_says_that_it_has_types(built: Path) -> None:
    version = brubeck_lite.__version__
    with zipfile.ZipFile(built / f"brubeck_lite-{version}-py3-none-any.whl") as wheel:
        names = [name for name in wheel.namelist() if ".dist-info/" not in name]
        assert sorted(names) == ["brubeck_lite.py", "brubeck_lite/py.typed"]
        assert wheel.read("brubeck_lite.py") == (ROOT / "brubeck_lite.py").read_bytes()


def test_the_sdist_holds_what_the_repository_holds(built: Path) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not in a clone")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    name = f"brubeck_lite-{brubeck_lite.__version__}"
    with tarfile.open(built / f"{name}.tar.gz") as sdist:
        assert {f"{name}/{path}" for path in listed.split()} <= set(sdist.getnames())


def test_the_wheel_works_in_an_empty_environment(user: Path, tmp_path: Path) -> None:
    assert "smoke: passed" in run(user, ROOT / "tests" / "smoke.py", cwd=tmp_path)


def test_the_sdist_works_in_an_empty_environment(installed: Callable[[str], Path], tmp_path: Path) -> None:
    assert "smoke: passed" in run(installed("*.tar.gz"), ROOT / "tests" / "smoke.py", cwd=tmp_path)


def mypy(user: Path, folder: Path) -> list[tuple[str, int, str]]:
    """What mypy --strict tells a user about `program.py` in a folder: severity, line, message."""
    output = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--output", "json", "--python-executable", user,
         "--cache-dir", user.parent / "mypy", "program.py"],
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not output.stderr, output.stderr
    told = [json.loads(line) for line in output.stdout.splitlines()]
    return [(each["severity"], each["line"], each["message"]) for each in told]


def pyright(user: Path, folder: Path) -> list[tuple[str, int, str]]:
    """What pyright tells in its strict mode, likewise."""
    (folder / "pyrightconfig.json").write_text(json.dumps({"typeCheckingMode": "strict"}))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", user, "program.py"]
    output = subprocess.run(command, cwd=folder, env={**os.environ, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"},
                            capture_output=True, text=True, check=False)  # fmt: skip
    told = json.loads(output.stdout)["generalDiagnostics"]
    return [(each["severity"], each["range"]["start"]["line"] + 1, each["message"]) for each in told]


@pytest.mark.parametrize("check", [mypy, pyright], ids=["mypy", "pyright"])
def test_types_are_those_of_the_annotations(
    check: Callable[[Path, Path], list[tuple[str, int, str]]], user: Path, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(RIGHT)
    told = check(user, tmp_path)
    assert [severity for severity, _, _ in told if severity not in ("note", "information")] == [], told
    status, handler = (message for _, _, message in told)
    assert status.endswith('is "int"')
    assert "Request, number: int) -> " in handler and "Response" in handler


@pytest.mark.parametrize("check", [mypy, pyright], ids=["mypy", "pyright"])
def test_wrong_use_is_an_error(
    check: Callable[[Path, Path], list[tuple[str, int, str]]], user: Path, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text("\n".join(["from brubeck_lite import Brubeck, Response", *WRONG]))
    wrong = {line for severity, line, _ in check(user, tmp_path) if severity == "error"}
    assert wrong == set(range(2, 2 + len(WRONG)))


@pytest.mark.parametrize("check", [mypy, pyright], ids=["mypy", "pyright"])
def test_mistakes_in_a_program_are_found_and_nothing_else(
    check: Callable[[Path, Path], list[tuple[str, int, str]]], user: Path, tmp_path: Path
) -> None:
    (tmp_path / "program.py").write_text(MISTAKES)
    marked = {number for number, line in enumerate(MISTAKES.splitlines(), 1) if "  # wrong: " in line}
    assert {line for severity, line, _ in check(user, tmp_path) if severity == "error"} == marked


def test_all_names_what_is_public_and_is_there() -> None:
    names: dict[str, object] = {}
    exec("from brubeck_lite import *", names)
    own = {name for name, value in vars(brubeck_lite).items() if getattr(value, "__module__", "") == "brubeck_lite"}
    assert set(brubeck_lite.__all__) == set(names) - {"__builtins__"} <= own
    assert {"Brubeck", "Request", "Response", "redirect", "static_file"} <= set(brubeck_lite.__all__)
