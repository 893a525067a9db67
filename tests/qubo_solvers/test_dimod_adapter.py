"""Any dimod sampler solves, its infeasible samples are repaired and counted."""

import dimod
import numpy as np
import pytest

from qubo_solvers import Status, solve
from qubo_solvers.dimod_adapter import DimodSolver
from qubo_solvers.testing import CHECKS, random_problem


class Constant(dimod.Sampler):
    """Samples one value everywhere, and writes down how it was asked."""

    def __init__(self, value=1):
        self.value, self.asked = value, []

    @property
    def parameters(self):
        return {"num_reads": [], "seed": []}

    @property
    def properties(self):
        return {}

    def sample(self, bqm, num_reads=1, seed=None):
        self.asked.append((num_reads, seed))
        rows = np.full((num_reads, bqm.num_variables), self.value)
        return dimod.SampleSet.from_samples_bqm((rows, list(bqm.variables)), bqm)


def test_samples_are_repaired_and_counted():
    problem = random_problem("dense", 10)
    solution = solve(problem, DimodSolver(Constant(), num_reads=5, reads_per_call=2))
    assert solution.repaired
    assert solution.work["reads"] == 5
    assert solution.work["feasible"] == 0
    assert "5 of 5 samples were infeasible" in solution.message


def test_reads_come_in_chunks_with_their_own_seeds():
    sampler = Constant()
    DimodSolver(sampler, num_reads=5, reads_per_call=2).solve(random_problem("dense", 6), seed=4)
    assert [reads for reads, _ in sampler.asked] == [2, 2, 1]
    assert len({seed for _, seed in sampler.asked}) == 3


def test_the_penalty_adapts_only_downwards_from_the_sufficient_one():
    problem = random_problem("dense", 8)
    high = DimodSolver(Constant(), num_reads=3).solve(problem)
    assert high.work["penalty_factor"] == 1.0
    plain = random_problem("intervals", 8, seed=1)
    exact = DimodSolver(dimod.ExactSolver()).solve(plain)
    assert exact.work["penalty_factor"] <= 1.0


def test_a_sampler_that_returns_every_state_is_used_once():
    problem = random_problem("dense", 6)
    solution = solve(problem, DimodSolver(dimod.ExactSolver()))
    assert solution.work["reads"] == 64
    assert np.isclose(solution.energy, solve(problem, "exhaustive").energy)
    assert solution.status is Status.FEASIBLE
    assert not solution.repaired


def test_a_time_limit_stops_between_calls():
    solution = solve(random_problem("dense", 8), DimodSolver(Constant(), num_reads=10**9), time_limit=0.05)
    assert solution.status is Status.TIME_LIMIT
    assert solution.work["reads"] < 10**6


@pytest.mark.parametrize("check", CHECKS)
def test_conformance(check):
    CHECKS[check](lambda: DimodSolver(dimod.IdentitySampler(), 4, parameters=IDENTITY))


IDENTITY = {"initial_states_generator": "random"}


def test_wrong_options():
    with pytest.raises(ValueError, match="at least 1"):
        DimodSolver(Constant(), num_reads=0)
