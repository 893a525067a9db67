"""The samplers of other packages through the adapter: small problems, seeds, limits, options."""

import warnings

import numpy as np
import pytest

from qubo_solvers import Status, availability, get, random_start, solve
from qubo_solvers.testing import CHECKS, assert_within, random_problem

pytestmark = pytest.mark.slow

CASES = {
    "dwave_tabu": ("dwave_tabu", {}),
    "dwave_descent": ("dwave_descent", {}),
    "openjij sa": ("openjij", {}),
    "openjij sqa": ("openjij", {"method": "sqa"}),
    "discrete": ("simulated_bifurcation", {"mode": "discrete"}),
    "ballistic": ("simulated_bifurcation", {"mode": "ballistic"}),
    "heated": ("simulated_bifurcation", {"heated": True}),
}
BUDGETS = {"simulated_bifurcation": {"runs": 3}}
SHORT = {
    "openjij": {"num_reads": 4, "num_sweeps": 100},
    "simulated_bifurcation": {"runs": 2, "agents": 8, "max_steps": 100},
}
WEAK = {
    "dwave_tabu": {"num_reads": 1, "moves_per_variable": 1},
    "dwave_descent": {"num_reads": 1},
    "openjij": {"num_reads": 1, "num_sweeps": 1},
    "simulated_bifurcation": {"runs": 1, "agents": 1, "max_steps": 2},
}


def skip_without(name):
    able, reason = availability(name)
    if not able:
        pytest.skip(reason)


@pytest.fixture(params=CASES)
def case(request):
    name, options = CASES[request.param]
    skip_without(name)
    return name, options


def test_it_finds_the_optimum_of_a_plain_qubo(case):
    name, options = case
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = random_problem("plain", 16)
        solution = solve(problem, name, **options, **BUDGETS.get(name, {}))
    assert np.isclose(solution.energy, solve(problem, "exhaustive").energy)
    assert solution.status is Status.FEASIBLE
    assert solution.bound is None
    assert not solution.work["sampler"].startswith("_")


def test_it_comes_near_the_optimum_under_constraints(case):
    name, options = case
    for kind in ("groups", "intervals", "radius"):
        problem = random_problem(kind, 12, seed=4)
        best = solve(problem, "exhaustive").energy
        rng = np.random.default_rng(0)
        usual = np.mean([problem.energy(random_start(problem, rng)) for _ in range(50)])
        energy = solve(problem, name, **options, **BUDGETS.get(name, {})).energy
        assert best - 1e-9 <= energy <= best + 0.25 * (usual - best)


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("case", ["openjij sqa", "ballistic", "heated"], indirect=True)
def test_conformance_of_the_other_methods(case, check):
    name, options = case
    CHECKS[check](lambda: get(name, **SHORT[name], **options))


def test_another_seed_gives_other_samples(case):
    name, options = case
    problem = random_problem("plain", 60)
    energies = {solve(problem, name, seed=seed, **options, **WEAK[name]).energy for seed in range(6)}
    assert len(energies) > 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("dwave_tabu", {"num_reads": 10**6, "moves_per_variable": 10**8}),
        ("simulated_bifurcation", {"runs": 10**6, "max_steps": 10**9}),
    ],
)
def test_a_limit_reaches_the_search_that_is_running(name, options):
    skip_without(name)
    problem = random_problem("dense", 50)
    solution = assert_within(2.0, lambda: solve(problem, name, time_limit=0.2, **options))
    assert solution.status is Status.TIME_LIMIT


def test_openjij_reads_differ():
    skip_without("openjij")
    seen = []
    solve(
        random_problem("plain", 60), "openjij", num_reads=12, num_sweeps=1,
        on_incumbent=lambda incumbent: seen.append(incumbent.energy),
    )  # fmt: skip
    assert len(seen) > 1


def test_torch_s_generator_is_left_alone():
    skip_without("simulated_bifurcation")
    import torch

    before = torch.random.get_rng_state()
    solve(random_problem("dense", 10), "simulated_bifurcation", **SHORT["simulated_bifurcation"])
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    ("name", "options", "what"),
    [
        ("dwave_tabu", {"num_reads": 0}, "at least 1"),
        ("dwave_tabu", {"tenure": -1}, "tenure"),
        ("dwave_descent", {"reads_per_call": 0}, "at least 1"),
        ("openjij", {"method": "qa"}, "unknown method 'qa'; known: sa, sqa"),
        ("openjij", {"num_sweeps": 0}, "at least 1"),
        ("simulated_bifurcation", {"mode": "both"}, "unknown mode 'both'; known: ballistic, discrete"),
        ("simulated_bifurcation", {"agents": 0}, "at least 1"),
    ],
)
def test_wrong_options(name, options, what):
    with pytest.raises(ValueError, match=what):
        get(name, **options)


def test_a_problem_of_any_tenure():
    skip_without("dwave_tabu")
    solution = solve(random_problem("plain", 3), "dwave_tabu", tenure=50)
    assert solution.assignment is not None
