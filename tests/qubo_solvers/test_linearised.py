"""The linearised programme against enumeration, and the two solvers that run it: proofs, bounds, refusals."""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from qubo_solvers import CardinalityQubo, Dense, LowRank, Status, availability, get, solve
from qubo_solvers.linearised import linearise
from qubo_solvers.testing import KINDS, assert_within, random_problem

pytestmark = pytest.mark.slow

SOLVERS = ("highs", "scip")


@pytest.fixture(params=SOLVERS)
def solver(request):
    able, reason = availability(request.param)
    if not able:
        pytest.skip(reason)
    return request.param


@pytest.mark.parametrize("kind", KINDS)
def test_every_feasible_assignment_and_no_other_satisfies_the_rows(kind):
    pytest.importorskip("scipy")
    problem = random_problem(kind, 9, seed=2)
    programme = linearise(problem, 1000)
    for code in range(1 << 9):
        x = np.array([code >> i & 1 for i in range(9)], np.uint8)
        point = programme.point(x)
        rows = programme.matrix @ point
        holds = ((rows >= programme.lower - 1e-12) & (rows <= programme.upper + 1e-12)).all()
        assert holds == problem.is_feasible(x)
        if holds:
            energy = programme.cost @ point / programme.scale + programme.offset
            assert np.isclose(energy, problem.energy(x), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_no_better_than_the_true_ones(kind):
    from scipy.optimize import linprog

    problem = random_problem(kind, 8, seed=3)
    programme = linearise(problem, 1000)
    equal = programme.lower == programme.upper
    a, lower, upper = programme.matrix.toarray(), programme.lower, programme.upper
    at_least = np.isfinite(lower) & ~equal
    rng = np.random.default_rng(0)
    for _ in range(5):
        x = rng.integers(0, 2, 8).astype(np.uint8)
        if not problem.is_feasible(x):
            continue
        fixed = [(v, v) for v in x] + [(0, 1)] * len(programme.row)
        best = linprog(
            programme.cost,
            A_ub=np.vstack([a[~equal], -a[at_least]]),
            b_ub=np.concatenate([upper[~equal], -lower[at_least]]),
            A_eq=a[equal],
            b_eq=upper[equal],
            bounds=fixed,
        )
        assert np.isclose(best.fun, programme.cost @ programme.point(x), atol=1e-9)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e12])
@pytest.mark.parametrize("kind", KINDS)
def test_proofs_and_bounds_at_every_scale(solver, kind, scale):
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
    solution = solve(problem, solver)
    assert solution.status is Status.OPTIMAL
    assert solution.bound <= best + 1e-12 * scale
    assert solution.energy - best <= 1e-6 * scale


def test_the_work_budget_ends_it_with_a_bound_and_the_same_answer(solver):
    problem = random_problem("dense", 24)
    first, second = (solve(problem, solver, seed=3, max_nodes=1) for _ in range(2))
    assert first.status is Status.FEASIBLE
    assert first.bound < first.energy
    np.testing.assert_array_equal(first.assignment, second.assignment)


def test_the_initial_assignment_is_the_first_incumbent(solver):
    problem = random_problem("dense", 12)
    best = solve(problem, "exhaustive")
    solution = solve(problem, solver, initial=best.assignment)
    assert len(solution.trace) == 1
    assert solution.status is Status.OPTIMAL


@pytest.mark.parametrize("limit", [0.05, 0.4])
def test_the_time_limit_holds_while_building_and_searching(solver, limit):
    problem = random_problem("dense", 90)
    solution = assert_within(
        1.1 * limit + 0.3, lambda: solve(problem, solver, time_limit=limit, max_nodes=None)
    )
    assert solution.status is Status.TIME_LIMIT
    assert solution.assignment is not None


def test_a_callback_stops_it(solver):
    problem = random_problem("dense", 40)
    seen = []
    solution = solve(
        problem, solver, max_nodes=None, time_limit=60.0,
        on_incumbent=lambda incumbent: seen.append(incumbent) or len(seen) == 2,
    )  # fmt: skip
    assert len(solution.trace) == 2
    assert solution.status is Status.FEASIBLE


def test_too_many_products_are_refused(solver):
    problem = CardinalityQubo.cardinality(np.ones((20, 20)), np.zeros(20), 5)
    solution = solve(problem, solver, max_products=100)
    assert solution.status is Status.UNAVAILABLE
    assert "190 nonzero couplings" in solution.message
    low_rank = CardinalityQubo.cardinality(LowRank(np.ones((10**5, 1)), np.zeros(10**5)), np.zeros(10**5), 5)
    assert "too many to write Q out" in solve(low_rank, solver).message


def test_missing_couplings_leave_the_counts_valid(solver):
    rng = np.random.default_rng(5)
    sparse = np.triu(rng.normal(size=(14, 14)) * (rng.random((14, 14)) < 0.4), 1)
    problem = CardinalityQubo.cardinality(sparse + sparse.T, rng.normal(size=14), 6)
    solution = solve(problem, solver)
    assert solution.status is Status.OPTIMAL
    assert np.isclose(solution.energy, solve(problem, "exhaustive").energy)


def test_wrong_options(solver):
    with pytest.raises(ValueError, match="max_nodes must be"):
        get(solver, max_nodes=0)


@pytest.mark.parametrize("order", ["cpsat highs scip", "scip highs cpsat", "highs cpsat scip"])
def test_the_exact_solvers_share_a_process(order):
    names = [name for name in order.split() if availability(name)[0]]
    code = (
        "import qubo_solvers as q\n"
        "from qubo_solvers.testing import random_problem\n"
        f"print([q.solve(random_problem('dense', 6), n).status.value for n in {names}])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.stdout.strip() == str(["optimal"] * len(names)), out.stderr


def test_what_a_callback_raises_comes_out(solver):
    def fail(incumbent):
        seen.append(incumbent)
        if len(seen) == 2:
            raise ZeroDivisionError("mine")

    seen = []
    with pytest.raises(ZeroDivisionError, match="mine"):
        solve(random_problem("dense", 40), solver, max_nodes=None, time_limit=60.0, on_incumbent=fail)


def test_ctrl_c_ends_it(solver):
    problem = random_problem("dense", 60)
    get(solver).warm_up(problem)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        solve(problem, solver, max_nodes=None, time_limit=60.0)
    timer.join()
