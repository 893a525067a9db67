"""What descent, annealing and tabu search share: every constraint, honest clocks, scales, determinism."""

from __future__ import annotations

import numpy as np
import pytest

from qubo_solvers.anneal import Anneal
from qubo_solvers.descent import Descent
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense, LowRank
from qubo_solvers.solution import Status
from qubo_solvers.tabu import Tabu
from qubo_solvers.testing import assert_within

SOLVERS = {"descent": Descent, "anneal": Anneal, "tabu": Tabu}
THOROUGH = {
    "descent": {"restarts": 60},
    "anneal": {"restarts": 3},
    "tabu": {"iterations": 3000, "patience": 100},
}
SHORT = {"descent": {"restarts": 2}, "anneal": {"restarts": 2}, "tabu": {"iterations": 5000}}
ENDLESS = {"descent": {"restarts": None}, "anneal": {"restarts": None}, "tabu": {"iterations": 10**9}}
KINDS = ("cardinality", "groups", "interval", "free", "mixed", "radius", "radius_mixed")


@pytest.fixture(params=list(SOLVERS))
def name(request):
    return request.param


@pytest.mark.parametrize("form", ["dense", "lowrank", "sparse"])
@pytest.mark.parametrize("kind", KINDS)
def test_finds_the_optimum_of_small_problems(small, name, kind, form):
    for seed in range(4):
        problem = small.problem(kind, form, seed, n=9)
        solution = SOLVERS[name](**THOROUGH[name]).solve(problem, seed=seed)
        assert problem.is_feasible(solution.assignment)
        assert solution.energy == problem.energy(solution.assignment)
        assert solution.energy == pytest.approx(small.optimum(problem), abs=1e-9)
        assert solution.status is Status.FEASIBLE


@pytest.mark.parametrize("form", ["dense", "lowrank", "sparse"])
def test_same_seed_and_budget_give_the_same_answer(small, name, form):
    problem = small.problem("mixed", form, 2, n=60)
    first, again = (SOLVERS[name](**SHORT[name]).solve(problem, seed=3) for _ in range(2))
    assert np.array_equal(first.assignment, again.assignment)
    assert first.work == again.work


@pytest.mark.parametrize("form", ["dense", "lowrank", "sparse"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_changes_nothing(small, name, form, scale):
    plain = small.problem("groups", form, 1, n=30)
    scaled = small.problem("groups", form, 1, n=30, scale=scale)
    expected = SOLVERS[name](**SHORT[name]).solve(plain).energy
    assert SOLVERS[name](**SHORT[name]).solve(scaled).energy == pytest.approx(scale * expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["dense", "lowrank", "sparse"])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_float32_matrices_give_the_optimum_at_any_scale(small, name, form, scale):
    problem = small.problem("groups", form, 1, n=10, scale=scale, dtype=np.float32)
    solution = SOLVERS[name](**THOROUGH[name]).solve(problem)
    assert solution.energy == pytest.approx(small.optimum(problem), rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_an_initial_is_never_worsened_and_an_infeasible_one_repaired(small, name, kind):
    problem = small.problem(kind, "lowrank", 4, n=30)
    ones = SOLVERS[name]().solve(problem, initial=np.ones(30, np.uint8))
    assert problem.is_feasible(ones.assignment)
    again = SOLVERS[name]().solve(problem, initial=ones.assignment)
    assert again.energy <= ones.energy
    assert again.trace[0].energy == ones.energy


@pytest.mark.parametrize("k", [0, 5])
def test_one_assignment_only(name, k):
    problem = CardinalityQubo.cardinality(np.ones((5, 5)), np.arange(5.0), k)
    solution = SOLVERS[name]().solve(problem)
    assert solution.assignment.sum() == k
    assert solution.status is Status.FEASIBLE


def test_degenerate_sizes_and_zero_matrices(name):
    solver = SOLVERS[name]()
    one = CardinalityQubo.unconstrained(np.array([[1.0]]), [-3.0])
    assert solver.solve(one).energy == -2
    zero = CardinalityQubo.cardinality(LowRank(np.zeros((6, 2)), np.zeros(6)), [5.0, 1, 4, 2, 3, 0], 2)
    assert solver.solve(zero).energy == 1
    flat = CardinalityQubo.cardinality(Dense(np.zeros((6, 6))), np.zeros(6), 3, offset=2.0)
    assert solver.solve(flat).energy == 2
    empty = CardinalityQubo.unconstrained(np.zeros((0, 0)), [])
    assert solver.solve(empty).energy == 0


def test_integer_and_read_only_matrices(name):
    q = np.array([[0, 3, -2], [3, 0, 1], [-2, 1, 0]])
    q.flags.writeable = False
    assert SOLVERS[name]().solve(CardinalityQubo.cardinality(q, np.zeros(3), 2)).energy == -4


def test_large_groups_and_many_groups(name):
    rng = np.random.default_rng(0)
    n = 20_000
    form = LowRank(rng.standard_normal((n, 4)) * 0.01, np.zeros(n))
    problem = CardinalityQubo.grouped(form, rng.standard_normal(n), np.arange(n) // 4, np.full(n // 4, 2))
    solution = SOLVERS[name]().solve(problem, time_limit=5.0)
    assert solution.energy < problem.linear_part().energy(solution.assignment) + 10
    assert (problem.counts(solution.assignment) == 2).all()


@pytest.mark.parametrize("form", ["dense", "lowrank", "sparse"])
def test_time_limit_is_kept_and_the_callback_stops(name, form):
    rng = np.random.default_rng(0)
    n = 2000 if form == "dense" else 50_000
    if form == "dense":
        q = rng.standard_normal((n, n))
        problem = CardinalityQubo.cardinality(Dense(q + q.T), np.zeros(n), n // 2)
    else:
        factor = rng.standard_normal((n, 16))
        problem = CardinalityQubo.cardinality(LowRank(factor, np.zeros(n)), rng.standard_normal(n), n // 2)
    solver = SOLVERS[name](**ENDLESS[name])
    solver.warm_up(problem)
    problem.energy(np.zeros(n))
    solution = assert_within(0.4 * 1.1 + 0.25, lambda: solver.solve(problem, time_limit=0.4))
    assert problem.is_feasible(solution.assignment)
    stopped = solver.solve(problem, time_limit=30.0, on_incumbent=lambda incumbent: True)
    assert len(stopped.trace) == 1
    assert stopped.status is Status.FEASIBLE
