"""Tabu search: escapes local optima, keeps counts and radius at every step, checks its options."""

from __future__ import annotations

from dataclasses import replace

import pytest

from qubo_solvers.descent import Descent
from qubo_solvers.solution import Status
from qubo_solvers.tabu import Tabu


@pytest.mark.parametrize("form", ["dense", "lowrank", "sparse"])
@pytest.mark.parametrize("kind", ["groups", "free", "radius_mixed"])
def test_escapes_the_local_optima_of_descent(small, kind, form):
    problem = small.problem(kind, form, 11, n=120)
    radius = None if problem.radius is None else 31
    problem = replace(problem, linear=0.1 * problem.linear, radius=radius)
    descent = Descent(relaxation=0).solve(problem)
    solution = Tabu(iterations=5000, relaxation=0).solve(problem, initial=descent.assignment)
    assert solution.energy < descent.energy
    assert problem.is_feasible(solution.assignment)
    assert solution.work["verified"]
    assert solution.work["iterations"] == 5000


def test_improves_with_its_budget_and_restarts(small):
    problem = small.problem("cardinality", "dense", 2, n=200)
    runs = [Tabu(iterations=k, patience=200).solve(problem) for k in (1, 300, 20_000)]
    assert runs[0].energy >= runs[1].energy >= runs[2].energy
    assert runs[2].work["restarts"] > runs[1].work["restarts"]


def test_goes_on_where_everything_is_tabu(small):
    problem = small.problem("cardinality", "dense", 2, n=2)
    solution = Tabu(iterations=500, tenure=1000).solve(problem)
    assert solution.energy == small.optimum(problem)
    assert solution.status is Status.FEASIBLE


def test_options_are_checked():
    with pytest.raises(ValueError, match="iterations"):
        Tabu(iterations=0)
    with pytest.raises(ValueError, match="patience"):
        Tabu(patience=-1)
    with pytest.raises(ValueError, match="tenure"):
        Tabu(tenure=1.5)
