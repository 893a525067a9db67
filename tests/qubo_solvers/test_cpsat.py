"""CP-SAT: proofs, valid bounds in spite of scaling, budgets and refusals."""

import numpy as np
import pytest

from qubo_solvers import CardinalityQubo, Dense, LowRank, Status, solve
from qubo_solvers.cpsat import CpSat
from qubo_solvers.testing import KINDS, assert_within, random_problem


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
def test_proofs_and_bounds_at_every_scale(kind, scale):
    problem = random_problem(kind, 12, seed=1)
    problem = CardinalityQubo(
        Dense(problem.quadratic.dense() * scale),
        problem.linear * scale,
        problem.offset * scale,
        problem.groups,
        problem.lower,
        problem.upper,
        problem.reference,
        problem.radius,
    )
    best = solve(problem, "exhaustive").energy
    solution = CpSat().solve(problem)
    assert solution.status is Status.OPTIMAL
    assert solution.bound <= best <= solution.energy + 1e-12 * scale
    assert solution.energy - solution.bound <= 2 * solution.work["scaling_error"] + 1e-12 * scale
    assert solution.energy - best <= 1e-9 * scale


def test_integer_data_is_not_scaled():
    rng = np.random.default_rng(0)
    q = np.triu(rng.integers(-9, 9, (12, 12)))
    problem = CardinalityQubo.cardinality(q + q.T, rng.integers(-9, 9, 12), 6)
    solution = solve(problem, "cpsat")
    assert solution.work["scaling_error"] == 0
    assert solution.bound == solution.energy == solve(problem, "exhaustive").energy


def test_the_work_budget_ends_it_with_a_bound_and_the_same_answer():
    problem = random_problem("dense", 40)
    first, second = (solve(problem, "cpsat", seed=3, deterministic_time=0.5) for _ in range(2))
    assert first.status is Status.FEASIBLE
    assert first.bound < first.energy
    np.testing.assert_array_equal(first.assignment, second.assignment)


def test_the_hint_is_the_first_incumbent():
    problem = random_problem("dense", 12)
    best = solve(problem, "exhaustive")
    solution = solve(problem, "cpsat", initial=best.assignment)
    assert len(solution.trace) == 1


@pytest.mark.parametrize("limit", [0.05, 0.4])
def test_the_time_limit_holds_while_building_and_searching(limit):
    problem = random_problem("dense", 200)
    solution = assert_within(1.1 * limit + 0.3, lambda: solve(problem, "cpsat", time_limit=limit))
    assert solution.status is Status.TIME_LIMIT
    assert solution.assignment is not None


def test_too_many_products_are_refused():
    problem = CardinalityQubo.cardinality(np.ones((20, 20)), np.zeros(20), 5)
    solution = solve(problem, "cpsat", max_products=100)
    assert solution.status is Status.UNAVAILABLE
    assert "190 nonzero couplings" in solution.message
    low_rank = CardinalityQubo.cardinality(LowRank(np.ones((10**5, 1)), np.zeros(10**5)), np.zeros(10**5), 5)
    assert "too many to write Q out" in solve(low_rank, "cpsat").message


def test_only_nonzero_couplings_count():
    problem = CardinalityQubo.cardinality(np.eye(400), np.arange(400.0), 5)
    solution = solve(problem, "cpsat", max_products=2000)
    assert solution.work["products"] == 0
    assert solution.status is Status.OPTIMAL


@pytest.mark.parametrize("options", [{"workers": 0}, {"deterministic_time": 0.0}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match="must be"):
        CpSat(**options)


@pytest.mark.parametrize("scale", [1e-300, 1e250])
def test_extreme_scales_do_not_overflow(scale):
    problem = CardinalityQubo.cardinality(np.array([[0.0, 1.0], [1.0, 0.0]]) * scale, [scale, 2.0 * scale], 1)
    solution = solve(problem, "cpsat")
    assert solution.status is Status.OPTIMAL
    assert solution.assignment.tolist() == [1, 0]
