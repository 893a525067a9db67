"""dwave-neal through the adapter: quiet, repeatable, and good on what suits it."""

import warnings

import numpy as np
import pytest

from qubo_solvers import solve
from qubo_solvers.neal import Neal
from qubo_solvers.testing import random_problem


def test_no_warning_leaks():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solution = solve(random_problem("plain", 12), "neal", num_reads=2, num_sweeps=50)
    assert solution.work["sampler"] == "SimulatedAnnealingSampler"
    assert solution.work["reads"] == 2


def test_it_solves_a_plain_qubo():
    problem = random_problem("plain", 16)
    assert np.isclose(solve(problem, "neal").energy, solve(problem, "exhaustive").energy)


def test_a_lower_penalty_does_better_under_a_count():
    problem = random_problem("dense", 60)
    kept, adapted = (solve(problem, "neal", adapt_penalty=a, num_sweeps=200).energy for a in (False, True))
    assert adapted < kept


@pytest.mark.parametrize("options", [{"num_reads": 0}, {"num_sweeps": 0}, {"reads_per_call": 0}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match="at least 1"):
        Neal(**options)
