"""The oracle itself, against a plain loop over all assignments."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qubo_solvers import CardinalityQubo, Dense, Status, solve
from qubo_solvers.testing import KINDS, assert_within, random_problem


@given(st.sampled_from(KINDS), st.integers(1, 10), st.integers(0, 10**6))
def test_it_finds_the_best_of_all_and_counts_them(kind, n, seed):
    problem = random_problem(kind, n, seed)
    energies = [problem.energy(x) for x in product((0, 1), repeat=n) if problem.is_feasible(x)]
    solution = solve(problem, "exhaustive")
    assert solution.status is Status.OPTIMAL
    assert np.isclose(solution.energy, min(energies))
    assert np.isclose(solution.bound, min(energies))
    assert solution.work == {"states": len(energies), "scored": len(energies)}


@pytest.mark.parametrize(("n", "k", "states"), [(24, 12, 2704156), (60, 3, 34220), (1000, 1, 1000)])
def test_what_counts_is_the_number_of_states(n, k, states):
    rng = np.random.default_rng(0)
    problem = CardinalityQubo.cardinality(Dense.symmetrised(rng.normal(size=(n, n))), np.zeros(n), k)
    solution = solve(problem, "exhaustive")
    assert solution.work["scored"] == states
    assert solution.status is Status.OPTIMAL


def test_too_many_are_refused_with_the_number():
    problem = CardinalityQubo.cardinality(np.zeros((40, 40)), np.zeros(40), 20)
    solution = solve(problem, "exhaustive")
    assert solution.status is Status.UNAVAILABLE
    assert "1.38e+11 feasible assignments" in solution.message


def test_a_time_limit_ends_it_honestly():
    problem = random_problem("plain", 24)
    solution = assert_within(0.2, lambda: solve(problem, "exhaustive", time_limit=0.02))
    assert solution.status is Status.TIME_LIMIT
    assert solution.bound is None
    assert 0 <= solution.work["scored"] < solution.work["states"]


def test_a_time_limit_ends_the_listing_too():
    problem = CardinalityQubo.cardinality(np.zeros((500, 500)), np.zeros(500), 2)
    solution = solve(problem, "exhaustive", time_limit=0.05)
    assert solution.status is Status.TIME_LIMIT
    assert solution.work["scored"] == 0
    assert problem.is_feasible(solution.assignment)
    larger = CardinalityQubo.cardinality(np.zeros((900, 900)), np.zeros(900), 2)
    assert "entries to list" in solve(larger, "exhaustive").message


def test_a_callback_ends_it_honestly():
    solution = solve(random_problem("plain", 22), "exhaustive", on_incumbent=lambda incumbent: True)
    assert solution.status is Status.FEASIBLE
