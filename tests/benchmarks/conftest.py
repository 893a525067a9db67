"""The modules of the quality bench and the other scripts of benchmarks/, for their tests."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ("allocations", "cells", "clock", "figures", "models", "plots", "recipes", "report", "run", "workers")
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


@pytest.fixture(scope="session")
def load_script() -> Callable[[str], ModuleType]:
    """A script by its path in benchmarks/, run as a module of its own."""

    def load(path: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(Path(path).stem, BENCHMARKS / path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
