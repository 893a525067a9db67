"""Penalties suffice, CQMs are exact, and models come back as they went."""

from itertools import product

import dimod
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qubo_solvers import CardinalityQubo, LowRank, solve
from qubo_solvers.dimod_bridge import from_bqm, from_cqm, sufficient_penalties, to_bqm, to_cqm
from qubo_solvers.testing import KINDS, random_problem

problems = st.builds(random_problem, st.sampled_from(KINDS), st.integers(1, 8), st.integers(0, 10**6))


@given(problems)
def test_every_minimiser_of_the_bqm_is_an_optimum(problem):
    best = solve(problem, "exhaustive").energy
    bqm = problem.to_dimod("bqm")
    energies = dimod.ExactSolver().sample(bqm)
    first = energies.first
    x = np.array([first.sample[i] for i in range(problem.n)])
    assert problem.is_feasible(x)
    assert np.isclose(problem.energy(x), best)
    weights, radius_weight = sufficient_penalties(problem)
    largest = max([0.0, radius_weight, *weights])
    assert abs(first.energy - best) <= 1e-12 * (1 + largest) * bqm.num_variables**2


@given(problems.filter(lambda p: p.exact_counts and p.radius is None))
def test_with_exact_counts_no_infeasible_assignment_is_even_a_local_minimum(problem):
    bqm = to_bqm(problem)
    energy = {x: bqm.energy(dict(enumerate(x))) for x in product((0, 1), repeat=problem.n)}
    for x, here in energy.items():
        if not problem.is_feasible(x):
            assert any(energy[(*x[:i], 1 - x[i], *x[i + 1 :])] < here for i in range(problem.n))


@given(problems)
def test_cqm_round_trip(problem):
    back, labels = from_cqm(to_cqm(problem))
    assert labels == list(range(problem.n))
    for x in product((0, 1), repeat=problem.n):
        assert problem.is_feasible(x) == back.is_feasible(x)
        assert np.isclose(problem.energy(x), back.energy(x))


@given(st.integers(1, 8), st.integers(0, 10**6))
def test_bqm_round_trip(n, seed):
    problem = random_problem("plain", n, seed)
    back, labels = from_bqm(to_bqm(problem))
    assert labels == list(range(n))
    for x in product((0, 1), repeat=n):
        assert np.isclose(problem.energy(x), back.energy(x))


def test_spins_and_labels():
    bqm = dimod.BinaryQuadraticModel({"a": 1.0, "b": -2.0}, {("a", "b"): 3.0}, 0.5, "SPIN")
    problem, labels = from_bqm(bqm)
    for x in product((0, 1), repeat=2):
        spins = {label: 2 * v - 1 for label, v in zip(labels, x, strict=True)}
        assert np.isclose(problem.energy(x), bqm.energy(spins))


def test_a_chosen_penalty_and_factor():
    problem = CardinalityQubo.cardinality(np.zeros((2, 2)), np.zeros(2), 1)
    assert to_bqm(problem, 5.0).energy({0: 1, 1: 1}) == 5.0
    assert to_bqm(problem, 5.0, factor=0.5).energy({0: 0, 1: 0}) == 2.5
    with pytest.raises(ValueError, match="positive"):
        to_bqm(problem, -1.0)


def test_too_large_is_refused():
    n = 9000
    problem = CardinalityQubo.cardinality(LowRank(np.zeros((n, 1)), np.zeros(n)), np.zeros(n), 2)
    for kind in ("bqm", "cqm"):
        with pytest.raises(ValueError, match="at most 8192"):
            problem.to_dimod(kind)


def model(*constraints):
    x = list(dimod.Binaries(["a", "b", "c", "d"]))
    cqm = dimod.ConstrainedQuadraticModel()
    cqm.set_objective(sum(x) - 2 * x[0] * x[1])
    for make in constraints:
        cqm.add_constraint(make(*x))
    return cqm


def test_other_spellings_of_counts_are_read():
    cqm = model(
        lambda a, b, c, d: 2 * a + 2 * b <= 3,
        lambda a, b, c, d: -c - d <= -1,
        lambda a, b, c, d: c + d - 1 <= 0,
    )
    problem, labels = from_cqm(cqm)
    assert labels == ["a", "b", "c", "d"]
    assert problem.lower.tolist() == [0, 1]
    assert problem.upper.tolist() == [1, 1]
    radius, _ = from_cqm(model(lambda a, b, c, d: a + b - c - d <= 0))
    assert radius.reference.tolist() == [0, 0, 1, 1]
    assert radius.radius == 2


@pytest.mark.parametrize(
    ("constraints", "what"),
    [
        ([lambda a, b, c, d: a + 2 * b <= 2], "different size"),
        ([lambda a, b, c, d: a * b <= 0], "quadratic"),
        ([lambda a, b, c, d: a + b == 1, lambda a, b, c, d: b + c == 1], "in two counts"),
        ([lambda a, b, c, d: a - b <= 0], "mixes signs"),
        ([lambda a, b, c, d: a + b >= 3], "no value left"),
        ([lambda a, b, c, d: a + b - c - d == 0], "equality"),
    ],
)
def test_what_does_not_fit_is_named(constraints, what):
    with pytest.raises(ValueError, match=what):
        from_cqm(model(*constraints))


def test_soft_constraints_and_integers_are_refused():
    cqm = model()
    cqm.add_constraint(dimod.Binary("a") + dimod.Binary("b") == 1, weight=2.0, label="soft")
    with pytest.raises(ValueError, match="'soft' is soft"):
        from_cqm(cqm)
    other = dimod.ConstrainedQuadraticModel()
    other.set_objective(dimod.Integer("i", upper_bound=3))
    with pytest.raises(ValueError, match="'i' is INTEGER"):
        from_cqm(other)
