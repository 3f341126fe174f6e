"""Fixtures: one of each door for the whole run, all serving `program:app`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

sys.path[:0] = [
    str(Path(__file__).parent),
    str(Path(__file__).parent.parent),
    str(Path(__file__).parent.parent / "examples"),
]

from support import Mongrel2, behind_http, behind_mongrel2, behind_wsgi  # noqa: E402

# The files that take longest, the longest first: where processes share the files out, they begin with these, and end
# at about the same time. (By itself, pytest-xdist begins with those of the most tests.)
LONGEST = [
    "ending", "ends", "command", "workers", "tls", "platforms", "live_faults", "examples_live", "machines",
    "http_server", "readme", "websocket", "http_parser", "examples_pages", "connection", "forms", "release",
    "serve_mongrel2", "overload", "mongrel2_messages", "live", "auth", "doors", "examples_list", "examples_database",
    "examples_arena", "examples_queue", "examples_conduit", "examples_redis", "examples_language", "examples_upload",
    "stats", "static", "uploads",
]  # fmt: skip
# The files that `--fast` leaves out, and `tests/run --fast` with it: they need a browser, a database or a compiler, or
# take long. A new file is in the fast run unless it is named here.
NOT_FAST = [
    "ending", "ends", "command", "workers", "tls", "platforms", "live_faults", "examples_live", "machines", "readme",
    "examples_pages", "connection", "release", "serve_mongrel2", "overload", "examples_list", "examples_database",
    "examples_arena", "examples_queue", "examples_redis", "examples_language", "examples_upload", "live", "stats",
    "descriptors", "http_server", "uploads", "access_log",
]  # fmt: skip
# On a machine that is busy with other things, nothing is to fail because it took long.
hypothesis.settings.register_profile(
    "tests", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("tests")
DOORS = ("http", "mongrel2-json", "mongrel2-tnetstring", "gunicorn", "waitress", "wsgiref")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fast", action="store_true", help="leave out the files of NOT_FAST in tests/conftest.py, and "
                     "the tests by hypothesis")  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--fast") and not config.option.markexpr:
        config.option.markexpr = "not hypothesis"  # a mark of its plugin: they try hundreds of inputs each


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `--fast`, the files of `NOT_FAST`."""
    name = collection_path.stem.removeprefix("test_")
    return True if config.getoption("--fast") and name in NOT_FAST else None


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Names of tests are the same in all processes that share them out: addresses and signatures are not."""
    return argname if re.search(r"0x[0-9a-f]{6}|\.[0-9a-f]{8}\.", repr(val)) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of `LONGEST` before all others; in a file nothing changes."""
    for name in LONGEST:
        assert Path(__file__).with_name(f"test_{name}.py").exists(), f"LONGEST names {name}, which is not there"
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem.removeprefix("test_"), len(places)))


@pytest.fixture(scope="session", params=DOORS)
def door(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """The name of a door and the port behind which `program:app` answers through it."""
    name = request.param
    if name.startswith("mongrel2"):
        with Mongrel2(name.partition("-")[2]) as mongrel2, behind_mongrel2("program:app", mongrel2):
            yield name, mongrel2.port
    elif name == "http":
        with behind_http("program:app") as (_, port):
            yield name, port
    else:
        with behind_wsgi(name, "program:app") as port:
            yield name, port
