"""The convex relaxation: its bound holds, its start is feasible and good, and where it applies."""

from __future__ import annotations

import numpy as np
import pytest

from qubo_solvers.anneal import Anneal
from qubo_solvers.descent import Descent
from qubo_solvers.local_search import LocalSearch
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import LowRank
from qubo_solvers.relaxation import applies, relax
from qubo_solvers.solver import Recorder
from qubo_solvers.start import greedy_start

KINDS = ("cardinality", "groups", "interval", "free", "mixed", "radius")


def heavy_tailed(n: int, swaps: int, seed: int = 0) -> CardinalityQubo:
    """Energy 0 at the reference, as in pruning; a few variables with couplings far above the others'."""
    rng = np.random.default_rng(seed)
    groups = np.arange(n) % 20
    reference = (np.arange(n) // 20 % 2).astype(np.uint8)
    factor = 0.01 * rng.standard_normal((n, 8)) * np.exp(rng.normal(0, 1.5, n))[:, None]
    linear = 0.01 * rng.standard_normal(n) - factor @ (factor.T @ reference)
    counts = np.bincount(groups, weights=reference).astype(int)
    offset = -CardinalityQubo.grouped(LowRank(factor, np.zeros(n)), linear, groups, counts).energy(reference)
    return CardinalityQubo.grouped(
        LowRank(factor, np.zeros(n)),
        linear,
        groups,
        counts,
        offset=offset,
        reference=reference,
        radius=2 * swaps,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_bound_is_below_the_optimum_and_the_start_feasible(small, kind):
    for seed in range(6):
        problem = small.problem(kind, "lowrank", seed)
        search = LocalSearch(problem, Recorder(problem))
        assert applies(search.model)
        start = greedy_start(problem)
        relaxed = relax(search, start, problem.energy(start), 50)
        assert problem.is_feasible(relaxed.assignment)
        assert relaxed.energy == pytest.approx(problem.energy(relaxed.assignment), abs=1e-9)
        assert relaxed.bound <= small.optimum(problem) + 1e-9
        assert Descent().solve(problem).bound == pytest.approx(relaxed.bound, abs=1.0)


def test_it_applies_where_the_best_linear_assignment_is_a_sort(small):
    for kind, form, expected in (("radius_mixed", "lowrank", False), ("groups", "dense", False)):
        problem = small.problem(kind, form)
        assert applies(LocalSearch(problem, Recorder(problem)).model) is expected
        assert Descent().solve(problem).bound is None


def test_starts_near_the_bound_where_swaps_alone_do_not_get():
    problem = heavy_tailed(4000, 200)
    relaxed = Descent().solve(problem)
    plain = Descent(relaxation=0).solve(problem)
    assert relaxed.bound is not None
    assert relaxed.bound <= relaxed.energy <= plain.energy
    assert relaxed.energy < 0.9 * relaxed.bound
    annealed = Anneal(sweeps=50).solve(problem)
    assert annealed.energy <= relaxed.energy + 1e-3 * abs(relaxed.energy)


def test_a_good_initial_is_not_lost_to_the_relaxation():
    problem = heavy_tailed(1000, 50, seed=1)
    good = Anneal(restarts=3).solve(problem)
    for solver in (Descent(), Anneal(sweeps=5)):
        assert solver.solve(problem, initial=good.assignment).energy <= good.energy
