"""The tables that benchmarks and faults print, and write into README.md beside them between markers of their own."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path

from bare_servers import PINNED

README = Path(__file__).resolve().parent / "README.md"
LANDING_PAGE = README.parents[2] / "README.md"
# The rows of the whole table that the landing page shows: what was measured, beside whom, and its words for it.
FIGURES = (
    ("HTTP, hello, without a framework", "granian (WSGI)", "a small page, by one request repeated"),
    ("HTTP, a crowd of browsers", "granian (WSGI)", "a small page, by a crowd of browsers"),
    ("HTTP, a crowd of browsers", "ours, one repeated", "a small page, by a crowd of browsers"),
    ("HTTP, 16 pipelined", "granian (WSGI)", "a small page, 16 requests pipelined"),
    ("HTTP, an answer of 64 KB JSON", "uvicorn (ASGI), json.dumps", "64 KB of JSON, made for each request"),
)
OUR_PARTS = ("pyzmq", "eventlet", "greenlet", "werkzeug")
OTHERS = ("bottle", "falcon", "flask", "gevent", "granian", "gunicorn", "starlette", "uvicorn", "websockets")


def written(cells: Iterable[str]) -> str:
    """A row in Markdown."""
    return f"| {' | '.join(cells)} |"


class Table:
    """Lines that are printed as soon as they are known; `write` puts them all into a page."""

    def __init__(self, *columns: str) -> None:
        self.notes: list[str] = []
        self.rows: list[tuple[str, ...]] = []
        self.line(*columns)
        self.line(*["---"] * len(columns))

    def line(self, *cells: str) -> None:
        """One line of it, a cell for each column."""
        self.rows.append(cells)
        print(written(cells), flush=True)

    def write(self, name: str, command: str, others: tuple[str, ...] = (), page: Path | None = None) -> None:
        """Put it between `<!-- name -->` and `<!-- /name -->` of a page, which is README.md of this folder unless one
        is named: below one line that says what made it, where and when, and above its notes. ValueError where the page
        has not these two markers."""
        page = page or README
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, begun, rest = page.read_text().partition(begin)
        _, ended, after = rest.partition(end)
        if not begun or not ended:
            raise ValueError(f"{page.name} has no {begin} with {end} below it")
        notes = ["", *(f"* {note}" for note in self.notes)] if self.notes else []
        text = "\n".join([made_by(command, others), "", *map(written, self.rows), *notes])
        page.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def earlier(figures: Mapping[str, float], form: str) -> tuple[str, float] | None:
    """What the brubeck_lite.py "before" had, and the ratio of ours to it; None where only ours was measured."""
    ours, before = figures["ours"], figures.get("before")
    return None if before is None else (form.format(before), ours / before if before else 1.0)


class Comparison(Table):
    """Ratios of our cost to another's, or of our rate to another's, and whether they are what they ought to be; with
    `has_before` also what an earlier brubeck_lite.py had in the same rounds."""

    def __init__(self, has_before: bool = False) -> None:
        self._has_before = has_before
        super().__init__("what", "ours", "beside", "ratio", "aim", "met", *(["before", "after : before"] * has_before))

    def row(self, what: str, ours: str, beside: str, ratio: float | None, aim: float | None, above: bool = False,
            before: tuple[str, float] | None = None) -> None:  # fmt: skip
        """One line. `above`: the ratio is to be at least the aim instead of at most; None where there was nothing to
        compare with. `before`: the earlier figure, and the ratio of ours to it."""
        told = "" if aim is None else f"{'>=' if above else '<='} {aim:.2f}"
        met = "" if aim is None or ratio is None else ("yes" if (ratio >= aim if above else ratio <= aim) else "NO")
        cells = [what, ours, beside, "" if ratio is None else f"{ratio:.2f}", told, met]
        if self._has_before:
            cells += [before[0], f"{before[1]:.2f}"] if before else ["", ""]
        self.line(*cells)

    def compare(self, what: str, figures: Mapping[str, float], form: str, aims: Mapping[str, float | None],
                above: bool = False) -> None:  # fmt: skip
        """A line for each that has an aim, be it None, beside "ours". `form` writes a figure with its unit; who has an
        aim and no figure is not installed."""
        ours, before = figures["ours"], earlier(figures, form)
        for name, aim in aims.items():
            if name in figures:
                beside = f"{name} {form.format(figures[name])}"
                self.row(what, form.format(ours), beside, ours / figures[name], aim, above, before)
            else:
                self.row(what, form.format(ours), f"{name}: not installed", None, aim, above, before)

    def bound(self, what: str, figures: Mapping[str, float], form: str, most: float, told: str,
              aim: float | None = 1.0) -> None:  # fmt: skip
        """A line beside a fixed figure, which is written as `told`: ours is to be this at most."""
        self.row(what, form.format(figures["ours"]), told, figures["ours"] / most, aim, before=earlier(figures, form))


def figures_of(comparison: Comparison) -> Table:
    """The rows of it that `FIGURES` names, in words for the landing page. ValueError where one is missing."""
    figures = Table("what is asked for", "ours", "beside", "ratio")
    for what, other, words in FIGURES:
        found = [cells for cells in comparison.rows if cells[0] == what and cells[2].startswith(f"{other} ")]
        if not found:
            raise ValueError(f"there is no row of {what} beside {other}")
        figures.line(words, *found[0][1:4])
    return figures


def made_by(command: str, others: tuple[str, ...] = ()) -> str:
    """The command that measured, the day, the machine, and the versions of what took part, of `others` besides."""
    processor = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    cores = len(os.sched_getaffinity(0))
    machine = f"{cores} core{'s' * (cores > 1)} ({platform.machine()}{f', {processor[1]}' if processor else ''})"
    said = subprocess.run(["m2sh", "version"], capture_output=True, text=True, check=False)
    mongrel2 = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    versions = [f"Mongrel2 {mongrel2[0] if mongrel2 else '?'}", *(f"{each} {version(each)}" for each in OUR_PARTS)]
    beside = f"; beside {', '.join(f'{each} {PINNED.get(each) or version(each)}' for each in others)}" if others else ""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    measured = f"`{command}` on {datetime.date.today()}, {machine}, {platform.system()}, {python}"
    return f"{measured}, {', '.join(versions)}{beside}:"


def is_to_be_written() -> bool:
    """Whether `--write` is among the arguments; exit status 2 where --short is, too: it measures too little."""
    if "--write" in sys.argv and "--short" in sys.argv:
        print(f"{sys.argv[0]}: --short does not measure enough to --write it", file=sys.stderr)
        sys.exit(2)
    return "--write" in sys.argv
