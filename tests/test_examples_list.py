"""examples/README.md: every example is there, with a picture and commands that work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pictures
import pytest
from playwright.sync_api import Browser
from support import ROOT, environment, example, markup_in_pages

pytest_plugins = ["browser"]

EXAMPLES = ROOT / "examples"
TEXT = (EXAMPLES / "README.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+\.py)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
NAMES = sorted(path.name for path in EXAMPLES.glob("*.py") if path.name != "chat_redis.py")  # a part of chat.py


def commands(name: str) -> list[str]:
    """The command lines of an example's section."""
    return [line for block in re.findall(r"```sh\n(.*?)```", SECTIONS[name], re.DOTALL) for line in block.splitlines()]


def test_every_example_is_listed_and_linked_once() -> None:
    assert sorted(SECTIONS) == NAMES
    assert {f"{name}.py" for name in pictures.PICTURES} <= {*NAMES}
    assert sorted(re.findall(r"\[(\w+\.py)\]\(#(?:\w+)\)", TEXT)) == NAMES
    assert all(anchor == name.replace(".", "") for name, anchor in re.findall(r"\[(\w+\.py)\]\(#(\w+)\)", TEXT))


@pytest.mark.parametrize("name", NAMES)
def test_every_example_has_a_picture_that_is_not_large(name: str) -> None:
    shown = re.findall(r"!\[[^]]+\]\((pictures/\w+\.png)\)", SECTIONS[name])
    if Path(name).stem in pictures.PICTURES:
        assert shown == [f"pictures/{Path(name).stem}.png"]
    for picture in shown:
        octets = (EXAMPLES / picture).read_bytes()
        assert octets.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(octets) < pictures.LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_every_example_says_how_to_run_it_in_words_that_work(name: str) -> None:
    """The command that serves is run as far as it goes without a port; the others stand in the example itself too, and
    its own tests run them."""
    lines = commands(name)
    assert any(Path(name).stem in line for line in lines)
    for line in lines:
        if line.startswith("brubeck_lite "):
            command = [sys.executable, "-m", *line.split(), "--print-mongrel2-config"]
            done = subprocess.run(
                command, cwd=EXAMPLES, env=environment(), capture_output=True, text=True, timeout=60, check=False
            )
            assert done.returncode == 0, done.stderr
            assert "servers = [main]" in done.stdout
        else:
            description = (EXAMPLES / name).read_text().partition('"""\n\n')[0]
            assert re.search(rf"^ *{re.escape(line)}(?: {{2,}}.*)?$", description, re.MULTILINE), line


@pytest.mark.parametrize("name", ["hello", "login", "classes", "regex", "templates", "upload"])
def test_no_example_sends_back_markup(name: str) -> None:
    module = example(name)
    assert markup_in_pages(module.app, (EXAMPLES / f"{name}.py").read_text()) == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("static/*.[hj]*")), ids=lambda path: path.name)
def test_no_page_of_an_example_makes_html_of_text(path: Path) -> None:
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|srcdoc", path.read_text())


def test_the_pictures_can_be_made_again(browser: Browser, tmp_path: Path) -> None:
    assert pictures.take(browser, "todo", tmp_path).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
