"""The hybrid solvers over stand-ins with their interface: answers, limits, work, repair, failures."""

import dimod
import numpy as np
import pytest

from qubo_solvers import Status, get, solve
from qubo_solvers.quantum.leap_bqm import LeapBqm
from qubo_solvers.quantum.leap_cqm import LeapCqm
from qubo_solvers.testing import CHECKS, KINDS, random_problem

pytestmark = pytest.mark.slow


@pytest.fixture(params=["leap_bqm", "leap_cqm"])
def leap(request, hybrid_bqm, hybrid_cqm):
    """(solver class, class of the service)."""
    return (LeapBqm, hybrid_bqm) if request.param == "leap_bqm" else (LeapCqm, hybrid_cqm)


@pytest.mark.parametrize("check", CHECKS)
def test_conformance(check, leap):
    solver, service = leap
    CHECKS[check](lambda: solver(sampler=service()))


@pytest.mark.parametrize("kind", KINDS)
def test_cqm_finds_the_optimum_that_an_exact_service_finds(kind, hybrid_cqm):
    class Exact(hybrid_cqm):
        def sample_cqm(self, cqm, time_limit):
            return self.answer(dimod.ExactCQMSolver().sample_cqm(cqm), time_limit)

    problem = random_problem(kind, 8, seed=2)
    solution = solve(problem, LeapCqm(sampler=Exact()))
    assert np.isclose(solution.energy, solve(problem, "exhaustive").energy)
    assert solution.status is Status.FEASIBLE
    assert not solution.repaired


def test_what_the_work_says(leap):
    solver, service = leap
    solution = solve(random_problem("dense", 10), solver(sampler=service()))
    assert solution.work["calls"] == solution.work["reads"] == 1
    assert solution.work["problems"] == ["p1"]
    assert solution.work["microseconds"] == {
        "run_time": 3.0e6, "charge_time": 2.9e6, "qpu_access_time": 4.0e4
    }  # fmt: skip
    assert solution.work["sampler"] == service.__name__


@pytest.mark.parametrize(("limit", "asked"), [(None, 3.0), (0.5, 3.0), (9.0, 9.0)])
def test_the_limit_is_passed_on_but_never_below_the_service_s_own(leap, limit, asked):
    solver, service = leap
    sampler = service()
    solve(random_problem("dense", 10), solver(sampler=sampler), time_limit=limit)
    assert sampler.limits == [pytest.approx(asked, abs=0.5)]
    assert min(sampler.limits) >= 3.0


def test_bqm_calls_as_often_as_asked_and_the_penalty_adapts(hybrid_bqm):
    sampler = hybrid_bqm()
    solution = solve(random_problem("dense", 10), LeapBqm(num_reads=3, sampler=sampler))
    assert len(sampler.limits) == solution.work["calls"] == 3
    assert solution.work["penalty_factor"] < 1


def test_infeasible_samples_are_repaired(hybrid_cqm):
    class Broken(hybrid_cqm):
        broken = True

    problem = random_problem("dense", 10)
    solution = solve(problem, LeapCqm(sampler=Broken()))
    assert problem.is_feasible(solution.assignment)
    assert solution.repaired
    assert (solution.work["reads"], solution.work["feasible"]) == (1, 0)
    assert "1 of 1 samples were infeasible" in solution.message


@pytest.mark.parametrize("error", [OSError("no network"), ValueError("quota exceeded")])
def test_a_failure_is_one_line(leap, error):
    solver, service = leap
    solution = solve(random_problem("dense", 8), solver(sampler=service(fail_after=0, error=error)))
    assert solution.status is Status.UNAVAILABLE
    assert solution.message == f"D-Wave's service: {type(error).__name__}: {error}"


def test_bqm_keeps_what_there_is_after_a_later_failure(hybrid_bqm):
    solution = solve(random_problem("dense", 8), LeapBqm(num_reads=5, sampler=hybrid_bqm(fail_after=2)))
    assert solution.assignment is not None
    assert solution.work["calls"] == 2
    assert "ended after 2 calls" in solution.message


def test_too_large_a_problem_is_refused(leap):
    from qubo_solvers import CardinalityQubo, LowRank

    solver, service = leap
    form = LowRank(np.zeros((9000, 1)), np.zeros(9000))
    solution = solve(CardinalityQubo.cardinality(form, np.zeros(9000), 5), solver(sampler=service()))
    assert solution.status is Status.UNAVAILABLE
    assert "at most 8192" in solution.message


def test_wrong_options():
    with pytest.raises(ValueError, match="num_reads must be at least 1"):
        get("leap_bqm", num_reads=0)
