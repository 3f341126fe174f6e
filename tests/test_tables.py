"""The tables of benchmarks and faults, as they are written into README.md."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "benchmarks"))

import tables

README = "Above.\n\n<!-- benchmarks -->\nearlier\n<!-- /benchmarks -->\n\nBelow.\n"


def test_a_comparison_is_written_between_its_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    monkeypatch.setattr(tables, "README", readme)
    comparison = tables.Comparison()
    comparison.row("costs", "1 us", "theirs 4 us", 0.25, 0.5)
    comparison.row("rate", "1/s", "theirs 4/s", 0.25, 0.5, above=True)
    comparison.row("no aim", "1 us", "theirs 1 us", 1.0, None)
    comparison.notes.append("A note.")
    comparison.write("benchmarks", "measure --write", ("pytest",))
    assert re.fullmatch(
        r"Above\.\n\n<!-- benchmarks -->\n"
        r"`measure --write` on \d{4}-\d\d-\d\d, \d+ cores? \(.+\), Linux, CPython 3\..+, Mongrel2 .+; "
        r"beside pytest .+:\n\n"
        r"\| what \| ours \| beside \| ratio \| aim \| met \|\n"
        r"\| --- \| --- \| --- \| --- \| --- \| --- \|\n"
        r"\| costs \| 1 us \| theirs 4 us \| 0\.25 \| <= 0\.50 \| yes \|\n"
        r"\| rate \| 1/s \| theirs 4/s \| 0\.25 \| >= 0\.50 \| NO \|\n"
        r"\| no aim \| 1 us \| theirs 1 us \| 1\.00 \|  \|  \|\n\n"
        r"\* A note\.\n<!-- /benchmarks -->\n\nBelow\.\n",
        readme.read_text(),
    )


def test_a_table_without_its_markers_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    monkeypatch.setattr(tables, "README", readme)
    with pytest.raises(ValueError, match="<!-- faults -->"):
        tables.Table("what", "held").write("faults", "try")
    assert readme.read_text() == README


def test_a_short_run_is_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "--short", "--write"])
    with pytest.raises(SystemExit):
        tables.is_to_be_written()
