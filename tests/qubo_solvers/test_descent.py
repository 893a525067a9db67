"""Descent ends in a local optimum of the full neighbourhood, and uses a binding radius well."""

from __future__ import annotations

import numpy as np
import pytest

from qubo_solvers.descent import Descent
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import LowRank

CASES = [(k, f) for k in ("cardinality", "groups", "interval", "free", "mixed", "radius", "radius_mixed")
         for f in ("dense", "lowrank", "sparse")]  # fmt: skip


@pytest.mark.parametrize(("kind", "form"), CASES)
def test_ends_in_a_local_optimum_of_every_move(small, kind, form):
    for seed in range(12):
        problem = small.problem(kind, form, seed)
        solution = Descent().solve(problem, seed=seed)
        assert problem.is_feasible(solution.assignment)
        assert solution.work["verified"]
        best = min(problem.energy(y) for y in small.neighbours(problem, solution.assignment))
        assert best >= solution.energy - 1e-9


@pytest.mark.parametrize("form", ["dense", "lowrank", "sparse"])
def test_larger_groups_with_partial_lists_end_in_a_local_optimum(small, form):
    problem = small.problem("groups", form, 3, n=400)
    solution = Descent().solve(problem)
    assert solution.work["verified"]
    x, f = solution.assignment, problem.fields(solution.assignment)
    delta = f[None, :] - f[:, None] - 2 * problem.quadratic.dense()
    allowed = (x[:, None] == 1) & (x[None, :] == 0) & (problem.groups[:, None] == problem.groups[None, :])
    assert delta[allowed].min() >= -1e-9 * np.abs(f).max()


def test_restarts_find_the_optimum_of_small_problems(small):
    for kind, form in CASES:
        problem = small.problem(kind, form, 5)
        assert Descent(restarts=60).solve(problem).energy == pytest.approx(small.optimum(problem), abs=1e-9)


def test_a_binding_radius_gets_the_best_swaps_not_the_first(small):
    """Without couplings the best S swaps are known: sort each group's gains and pair them."""
    rng = np.random.default_rng(1)
    n, m, swaps = 3000, 20, 40
    groups = np.arange(n) % m
    reference = (np.arange(n) // m % 2).astype(np.uint8)
    linear = rng.standard_normal(n)
    counts = np.bincount(groups, weights=reference).astype(int)
    problem = CardinalityQubo.grouped(
        LowRank(np.zeros((n, 2)), np.zeros(n)), linear, groups, counts, reference=reference, radius=2 * swaps
    )
    gains = []
    for g in range(m):
        out = np.sort(linear[(groups == g) & (reference == 1)])[::-1]
        into = np.sort(linear[(groups == g) & (reference == 0)])
        k = min(len(out), len(into))
        gains.extend(into[:k] - out[:k])
    best = problem.energy(reference) + np.sort(gains)[:swaps].sum()
    poor = reference.copy()  # an initial that has spent the radius on random swaps
    for g in range(m):
        poor[rng.permutation(np.flatnonzero((groups == g) & (reference == 1)))[:2]] = 0
        poor[rng.permutation(np.flatnonzero((groups == g) & (reference == 0)))[:2]] = 1
    assert problem.distance(poor) == problem.radius
    for initial in (None, reference, poor):
        assert Descent().solve(problem, initial=initial).energy == pytest.approx(best, abs=1e-9)


def test_options_are_checked():
    with pytest.raises(ValueError, match="restarts"):
        Descent(restarts=0)
