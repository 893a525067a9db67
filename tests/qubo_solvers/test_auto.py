"""auto: what it picks, and that it says so."""

from __future__ import annotations

import numpy as np
import pytest

from qubo_solvers import CardinalityQubo, LowRank, Status, solve
from qubo_solvers.auto import choose
from qubo_solvers.generate import random_problem


@pytest.mark.parametrize(
    ("kind", "n", "limit", "name"),
    [
        ("plain", 12, None, "exhaustive"),
        ("plain", 40, None, "tabu"),
        ("plain", 40, 2.0, "path_relinking"),
        ("groups", 40, None, "tabu"),
        ("groups", 40, 2.0, "path_relinking"),
        ("low_rank", 40, 2.0, "anneal"),
        ("radius", 40, 2.0, "anneal"),
    ],
)
def test_what_is_chosen(kind: str, n: int, limit: float | None, name: str) -> None:
    assert choose(random_problem(kind, n), limit)[0] == name


def test_very_large_problems_descend() -> None:
    n = 100_001
    form = LowRank(np.zeros((n, 1), np.float32), np.zeros(n, np.float32))
    assert choose(CardinalityQubo.cardinality(form, np.zeros(n), 5), 1.0)[0] == "descent"


def test_it_says_why_and_keeps_the_chosen_solver_s_claims() -> None:
    solution = solve(random_problem("dense", 10), "auto")
    assert solution.status is Status.OPTIMAL
    assert solution.solver == "auto: exhaustive"
    assert "10 variables can be enumerated" in solution.message
    assert solve(random_problem("groups", 30), "auto").status is Status.FEASIBLE
