"""The modules of the quality bench, for its tests."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ("cells", "figures", "plots", "recipes", "report", "run")
NAMES = ("quality", *(f"quality_{part}" for part in PARTS), "update_readme")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The bench's modules by name, imported as the script imports them; README.md is left alone."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    found = {name: importlib.import_module(name) for name in NAMES}
    monkeypatch.setattr(found["update_readme"], "main", lambda arguments: 0)
    yield found
    for name in NAMES:
        sys.modules.pop(name, None)
