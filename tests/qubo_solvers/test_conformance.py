"""Every registered solver through the public conformance kit, and the kit through solvers that lie."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from qubo_solvers import Capabilities, Recorder, Solution, Status, availability, capabilities, get, names
from qubo_solvers.testing import CHECKS, KINDS, check_solver, random_problem

BUDGETS = {  # work small enough for tests
    "cpsat": {"deterministic_time": 0.5},
    "neal": {"num_reads": 4, "num_sweeps": 100},
    "highs": {"max_nodes": 3},
    "scip": {"max_nodes": 3},
    "dwave_tabu": {"num_reads": 4, "moves_per_variable": 50},
    "dwave_descent": {"num_reads": 50},
    "openjij": {"num_reads": 4, "num_sweeps": 100},
    "simulated_bifurcation": {"runs": 2, "agents": 8, "max_steps": 100},
}
PATIENT = {
    "cpsat": {"deterministic_time": None},
    "highs": {"max_nodes": None},
    "scip": {"max_nodes": None},
}


SLOW = ("auto", "highs", "scip")


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in names()])
def test_conformance(name, check):
    able, reason = availability(name)
    if not able:
        pytest.skip(reason)
    if capabilities(name).configured:
        pytest.skip("a service: its checks run offline, in tests/qubo_solvers/quantum")
    budget = PATIENT.get(name, {}) if check == "time_limit" else BUDGETS.get(name, {})
    CHECKS[check](lambda: get(name, **budget))


@dataclass
class Random:
    """An honest solver: one random start. `wrong` makes it break one promise."""

    name: ClassVar[str] = "random"
    capabilities: ClassVar[Capabilities] = Capabilities("one random start")

    wrong: str = ""

    def solve(self, problem, *, seed=0, time_limit=None, initial=None, on_incumbent=None):
        from qubo_solvers.start import random_start, repair

        recorder = Recorder(problem, time_limit, on_incumbent)
        if initial is not None and self.wrong != "worsens":
            recorder.offer(repair(problem, initial))
        rng = np.random.default_rng(None if self.wrong == "unseeded" else seed)
        recorder.offer(random_start(problem, rng))
        answer = recorder.solution(self.name)
        x = answer.assignment
        if self.wrong == "raises" and problem.radius is not None:
            raise ValueError("no radius, please")
        changes = {
            "energy": {"energy": answer.energy - 1},
            "infeasible": {"assignment": np.ones_like(x)},
            "dtype": {"assignment": x.astype(float)},
            "optimal": {"status": Status.OPTIMAL, "bound": answer.energy},
            "bound": {"bound": answer.energy + 1},
            "trace": {"trace": ()},
        }
        if self.wrong == "mute":
            return Solution.unavailable(self.name, "")
        if self.wrong == "refuses all":
            return Solution.unavailable(self.name, "not today")
        if self.wrong == "writes" and initial is not None:
            initial[:] = 1 - initial
        return replace(answer, **changes.get(self.wrong, {}))


def test_an_honest_solver_passes():
    check_solver(Random, patient=Random)


@pytest.mark.parametrize(
    "wrong",
    [
        "energy",
        "infeasible",
        "dtype",
        "optimal",
        "bound",
        "trace",
        "mute",
        "refuses all",
        "unseeded",
        "worsens",
        "writes",
    ],
)
def test_a_broken_promise_is_caught(wrong):
    with pytest.raises(AssertionError):
        check_solver(lambda: Random(wrong))


def test_an_exception_is_no_refusal():
    with pytest.raises(ValueError, match="no radius"):
        check_solver(lambda: Random("raises"))


def test_a_slow_solver_is_caught():
    class Slow(Random):
        def solve(self, problem, **arguments):
            import time

            time.sleep(0.3)
            return super().solve(problem, **arguments)

    with pytest.raises(AssertionError, match="for a limit of"):
        CHECKS["time_limit"](Slow)


@pytest.mark.parametrize("kind", KINDS)
def test_random_problems_are_repeatable_and_of_any_size(kind):
    for n in (1, 2, 7, 30):
        a, b, c = (random_problem(kind, n, seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(a.linear, b.linear)
        assert (a.linear != c.linear).any()
        assert a.n == n
    with pytest.raises(ValueError, match="unknown kind"):
        random_problem("other", 3)
