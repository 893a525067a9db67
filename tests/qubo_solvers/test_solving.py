"""solve() believes nothing: it scores, checks and corrects what a solver answers."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest

from qubo_solvers import Capabilities, CardinalityQubo, Incumbent, Solution, Status, solve
from qubo_solvers.exhaustive import Exhaustive
from qubo_solvers.testing import random_problem

PROBLEM = CardinalityQubo.cardinality(np.zeros((3, 3)), [3.0, 2.0, 1.0], 1)


@dataclass
class Told:
    """Answers what it was told to, and remembers how it was called."""

    name: ClassVar[str] = "told"
    capabilities: ClassVar[Capabilities] = Capabilities("answers what it is told")

    answer: Solution

    def solve(self, problem, *, seed=0, time_limit=None, initial=None, on_incumbent=None):
        self.initial = initial
        return self.answer


def said(x, **changes):
    answer = Solution(None if x is None else np.array(x), -99.0, Status.FEASIBLE, "told", 0.0)
    return Told(replace(answer, **changes))


def test_the_energy_is_recomputed():
    solution = solve(PROBLEM, said([0, 1, 0]))
    assert (solution.energy, solution.status) == (2.0, Status.FEASIBLE)
    assert solution.assignment.dtype == np.uint8


def test_an_infeasible_answer_is_discarded():
    solution = solve(PROBLEM, said([1, 1, 0]))
    assert solution.status is Status.INFEASIBLE
    assert solution.assignment is None
    assert solution.energy == float("inf")
    assert "infeasible" in solution.message


def test_a_heuristic_cannot_claim_optimality():
    solution = solve(PROBLEM, said([0, 0, 1], status=Status.OPTIMAL))
    assert solution.status is Status.FEASIBLE
    assert "claimed optimality" in solution.message


def test_an_impossible_bound_is_dropped():
    solution = solve(PROBLEM, said([0, 1, 0], bound=2.5))
    assert solution.bound is None
    assert "bound" in solution.message
    assert solve(PROBLEM, said([0, 1, 0], bound=1.0)).bound == 1.0


def test_a_bound_on_request_and_the_gap_it_proves():
    problem = random_problem("dense", 14, 1)
    plain = solve(problem, "descent")
    assert (plain.bound, plain.gap, plain.bound_method) == (None, None, "")
    bounded = solve(problem, "descent", bound=True)
    optimum = solve(problem, "exhaustive")
    assert bounded.bound <= optimum.energy <= bounded.energy
    assert bounded.gap == (bounded.energy - bounded.bound) / abs(bounded.energy)
    assert bounded.bound_method in ("spectral", "gilmore_lawler")
    assert (optimum.gap, optimum.bound_method) == (0.0, "exhaustive")
    assert solve(problem, "exhaustive", bound=True).bound_method == "exhaustive"
    assert solve(problem, said([2], bound=1.0), bound=True).gap is None


def test_a_trace_below_the_answer_is_dropped():
    trace = (Incumbent(0.1, 3.0), Incumbent(0.2, 2.0), Incumbent(0.3, -5.0))
    solution = solve(PROBLEM, said([0, 1, 0], trace=trace))
    assert solution.trace == trace[:2]
    assert "trace" in solution.message


def test_no_answer_is_no_answer():
    solution = solve(PROBLEM, said(None, status=Status.OPTIMAL, energy=-1.0))
    assert (solution.status, solution.energy) == (Status.INFEASIBLE, float("inf"))
    refused = solve(PROBLEM, Told(Solution.unavailable("told", "too large")))
    assert (refused.status, refused.message) == (Status.UNAVAILABLE, "too large")


def test_an_infeasible_initial_is_repaired_first():
    solver = said([0, 1, 0])
    solution = solve(PROBLEM, solver, initial=[1, 1, 1])
    assert PROBLEM.is_feasible(solver.initial)
    assert "repaired" in solution.message


def test_what_is_not_installed_is_unavailable():
    class Missing(Told):
        capabilities = Capabilities("cannot run", requires=("no_such_package",), install="pip install x")

    solution = solve(PROBLEM, Missing(Solution.unavailable("", "")))
    assert solution.status is Status.UNAVAILABLE
    assert "no_such_package" in solution.message
    assert "pip install x" in solution.message
    assert solve(PROBLEM, "no_such_package.x:Y").status is Status.UNAVAILABLE


def test_compilation_is_outside_the_clock():
    calls = []

    class Compiled(Exhaustive):
        def warm_up(self, problem):
            calls.append(problem)

    assert solve(PROBLEM, Compiled()).status is Status.OPTIMAL
    assert calls == [PROBLEM]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"initial": [0, 1]}, "initial must have shape"),
        ({"initial": [0, 1, 5]}, "zeros and ones"),
        ({"time_limit": -1.0}, "positive"),
        ({"solver": "nothing"}, "unknown solver"),
        ({"solver": "exhaustive", "states": 3}, "no option 'states'"),
        ({"solver": Exhaustive(), "max_states": 3}, "give solver 'exhaustive' by name"),
    ],
)
def test_wrong_input_is_named(arguments, what):
    with pytest.raises(ValueError, match=what):
        solve(PROBLEM, **arguments)


def test_by_name_with_options():
    problem = random_problem("dense", 10)
    assert solve(problem, "exhaustive").status is Status.OPTIMAL
    assert solve(problem, "exhaustive", max_states=3).status is Status.UNAVAILABLE
