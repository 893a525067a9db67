"""Fixtures of the pruning side's tests."""

from typing import Any

import pytest

from qubo_prune.refine import icbs
from qubo_solvers import CardinalityQubo


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[CardinalityQubo, Any]]:
    """(problem, solution) of every step of the loop, as it goes on."""
    found: list[tuple[CardinalityQubo, Any]] = []
    solve = icbs.solve_problem

    def watch(problem: CardinalityQubo, *args: Any, **kw: Any) -> Any:
        found.append((problem, solve(problem, *args, **kw)))
        return found[-1][1]

    monkeypatch.setattr(icbs, "solve_problem", watch)
    return found
