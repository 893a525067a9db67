"""Annealing: temperatures from the instance, the radius as a limit that is traded at, and its options."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from qubo_solvers.anneal import Anneal, coupling_strength
from qubo_solvers.descent import Descent
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import LowRank


def test_coupling_strength_follows_the_scale_and_vanishes_without_couplings(small):
    problem = small.problem("cardinality", "dense", 0, n=40)
    rng = np.random.default_rng
    strength = coupling_strength(problem, rng(0))
    pairs = 2 * problem.quadratic.dense()
    np.fill_diagonal(pairs, 0)
    assert strength == pytest.approx(np.quantile(np.sqrt((pairs**2).sum(axis=1)), 0.75), rel=0.05)
    scaled = small.problem("cardinality", "dense", 0, n=40, scale=1e30)
    assert coupling_strength(scaled, rng(0)) == pytest.approx(1e30 * strength)
    assert coupling_strength(problem.linear_part(), rng(0)) == 0
    assert Anneal().solve(problem.linear_part()).work["anneals"] == 0


@pytest.mark.parametrize("form", ["dense", "lowrank", "sparse"])
def test_beats_descent_where_couplings_matter(small, form):
    problem = small.problem("groups", form, 7, n=300)
    problem = replace(problem, linear=0.1 * problem.linear)
    descent = Descent(relaxation=0).solve(problem)
    annealed = Anneal(restarts=4, relaxation=0).solve(problem, initial=descent.assignment)
    assert annealed.work["verified"]
    assert annealed.energy < descent.energy


def test_a_coupled_problem_at_its_radius_is_near_the_best_of_many_anneals():
    rng = np.random.default_rng(4)
    n, m, swaps = 400, 8, 12
    groups = np.arange(n) % m
    reference = (np.arange(n) // m % 2).astype(np.uint8)
    factor = rng.standard_normal((n, 6))
    linear = rng.standard_normal(n) - factor @ (factor.T @ reference)
    counts = np.bincount(groups, weights=reference).astype(int)
    problem = CardinalityQubo.grouped(
        LowRank(factor, np.zeros(n)), linear, groups, counts, reference=reference, radius=2 * swaps
    )
    at_reference = problem.energy(reference)
    solution = Anneal().solve(problem)
    best = Anneal(restarts=20).solve(problem, seed=9)
    assert problem.distance(solution.assignment) <= problem.radius
    assert at_reference - solution.energy >= 0.9 * (at_reference - best.energy)


def test_options_are_checked():
    with pytest.raises(ValueError, match="sweeps"):
        Anneal(sweeps=0)
    with pytest.raises(ValueError, match="hot"):
        Anneal(hot=-1)
    with pytest.raises(ValueError, match="must not be above"):
        Anneal(hot=0.1, cold=0.2)
    with pytest.raises(ValueError, match="until the time limit"):
        Anneal(restarts=None).solve(CardinalityQubo.cardinality(np.eye(3)[::-1].copy(), np.zeros(3), 1))
