"""examples/reference.md: it is complete, and that of the module as it stands."""

from __future__ import annotations

import reference


def test_every_public_name_has_a_docstring() -> None:
    assert reference.reference()[1] == []


def test_the_page_is_the_reference_of_this_module() -> None:
    assert reference.PAGE.read_text() == reference.reference()[0], "run tests/reference.py --write"


def test_a_name_without_a_docstring_is_told() -> None:
    reader = reference.Reader("class A:\n    'a'\n    def b(self): ...\n\ndef c(): ...\n\nd = 1\n")
    sections = reader.sections()
    told = list(reference.complaints(sections, reference.inherited(sections, reader.tree)))
    assert [each for each in told if "promised" not in each] == ["A.b has no docstring", "c has no docstring"]
