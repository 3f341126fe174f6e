"""Rounds in which everything is measured in turn, and the files brubeck_lite.py that take part in them: "ours", and
with `tests/benchmarks/run --before FOLDER` that of this folder, which is called "before"."""

from __future__ import annotations

import importlib.util
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from support import ROOT, environment

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
FOLDERS = {"ours": ROOT}


def add_before(folder: Path) -> None:
    """From now on the brubeck_lite.py of this folder is measured beside ours. ValueError where there is none."""
    if not (folder / "brubeck_lite.py").is_file():
        raise ValueError(f"there is no brubeck_lite.py in {folder}")
    FOLDERS["before"] = folder.resolve()


def variables(name: str) -> dict[str, str]:
    """The environment of a server, in which `import brubeck_lite` finds ours, or the one before if that is its name.
    Coverage, which tests may be measured with, is left out."""
    found = environment(measured=False)
    return {**found, "PYTHONPATH": f"{FOLDERS.get(name, ROOT)}:{found['PYTHONPATH']}:{HERE}"}


def load(name: str) -> ModuleType:
    """Our module, or the one before, for what is measured in this process."""
    module_name = "brubeck_lite" if name == "ours" else f"brubeck_lite_{name}"
    if module_name not in sys.modules:
        spec = importlib.util.spec_from_file_location(module_name, FOLDERS[name] / "brubeck_lite.py")
        assert spec and spec.loader
        sys.modules[module_name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[module_name])
    return sys.modules[module_name]


def with_each(names: Iterable[str] = ()) -> list[str]:
    """Who takes part: ours, the one before if there is one, and these others."""
    return [*FOLDERS, *names]


def interleave(rounds: int, probes: Mapping[str, Callable[[], T]]) -> dict[str, list[T]]:
    """What each probe found, all of which are called in turn in every round."""
    found: dict[str, list[T]] = {name: [] for name in probes}
    for _ in range(rounds):
        for name, probe in probes.items():
            found[name].append(probe())
    return found


def medians(found: Mapping[str, Iterable[float]]) -> dict[str, float]:
    """The median of each."""
    return {name: statistics.median(values) for name, values in found.items()}


def medians_of(part: int | str, found: Mapping[str, Iterable[Any]]) -> dict[str, float]:
    """The median of one part of what each probe found, where that has several."""
    return medians({name: [values[part] for values in rounds] for name, rounds in found.items()})
