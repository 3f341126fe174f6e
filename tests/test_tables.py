"""The tables of benchmarks and faults, as they are written into their page."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "benchmarks"))

import bare
import tables
from support import ROOT

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


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What a table has printed below its first two lines."""
    return capsys.readouterr().out.splitlines()[2:]


def test_ours_is_compared_with_all_that_have_an_aim(capsys: pytest.CaptureFixture[str]) -> None:
    figures = {"ours": 30.0, "theirs": 60.0, "another": 15.0, "unnamed": 1.0}
    tables.Comparison().compare("rate", figures, "{:.0f}/s", {"theirs": 0.6, "another": None}, above=True)
    assert lines(capsys) == [
        "| rate | 30/s | theirs 60/s | 0.50 | >= 0.60 | NO |",
        "| rate | 30/s | another 15/s | 2.00 |  |  |",
    ]


def test_who_is_not_installed_is_no_failure(capsys: pytest.CaptureFixture[str]) -> None:
    tables.Comparison().compare("rate", {"ours": 30.0}, "{:.0f}/s", {"theirs": 0.6}, above=True)
    assert lines(capsys) == ["| rate | 30/s | theirs: not installed |  | >= 0.60 |  |"]


def test_an_earlier_file_has_two_columns(capsys: pytest.CaptureFixture[str]) -> None:
    comparison = tables.Comparison(has_before=True)
    figures = {"ours": 2.0, "before": 8.0, "theirs": 1.0}
    comparison.compare("costs", figures, "{:.0f} us", {"theirs": None})
    comparison.bound("costs at most", figures, "{:.0f} us", 4, "4 us")
    comparison.row("never measured before", "1", "2", 0.5, None)
    assert lines(capsys) == [
        "| costs | 2 us | theirs 1 us | 2.00 |  |  | 8 us | 0.25 |",
        "| costs at most | 2 us | 4 us | 0.50 | <= 1.00 | yes | 8 us | 0.25 |",
        "| never measured before | 1 | 2 | 0.50 |  |  |  |  |",
    ]


def test_a_table_without_its_markers_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(README)
    monkeypatch.setattr(tables, "README", readme)
    with pytest.raises(ValueError, match="<!-- faults -->"):
        tables.Table("what", "held").write("faults", "try")
    assert readme.read_text() == README


def test_the_landing_page_shows_rows_that_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = tables.Comparison()
    monkeypatch.setattr(bare, "measure_rates", lambda loads, short: dict.fromkeys([*loads], 3.0))
    for compare in (bare.compare_hello, bare.compare_crowd, bare.compare_pipelined, bare.compare_json):
        compare(comparison, False)
    figures = tables.figures_of(comparison).rows[2:]
    assert figures[0] == ("a small page, by one request repeated", "3/s", "granian (WSGI) 3/s", "1.00")
    shown = (ROOT / "README.md").read_text().partition("<!-- figures -->")[2].partition("<!-- /figures -->")[0]
    assert re.findall(r"^\| (a small .+?|64 .+?) \|", shown, re.MULTILINE) == [row[0] for row in figures]


def test_a_figure_that_was_not_measured_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="HTTP, hello"):
        tables.figures_of(tables.Comparison())


def test_a_short_run_is_never_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run", "--short", "--write"])
    with pytest.raises(SystemExit):
        tables.is_to_be_written()
