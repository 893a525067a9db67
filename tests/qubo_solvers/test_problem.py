"""CardinalityQubo: energy, fields, feasibility and subproblems against their definitions."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qubo_solvers import CardinalityQubo, random_start
from qubo_solvers.testing import KINDS, random_problem

problems = st.builds(random_problem, st.sampled_from(KINDS), st.integers(1, 14), st.integers(0, 10**6))
seeds = st.integers(0, 10**6)


def energy(problem, x):
    """The definition, as a loop."""
    q = problem.quadratic.dense()
    total = problem.offset
    for i in range(problem.n):
        total += problem.linear[i] * x[i]
        for j in range(problem.n):
            total += q[i, j] * x[i] * x[j]
    return total


@given(problems, seeds)
def test_energy_is_its_definition(problem, seed):
    x = np.random.default_rng(seed).integers(0, 2, problem.n)
    assert np.isclose(problem.energy(x), energy(problem, x))
    assert np.isclose(replace(problem, objective_scale=-2.0).objective(x), -2 * energy(problem, x))


@given(problems, seeds)
def test_fields_predict_flips_and_swaps(problem, seed):
    x = np.random.default_rng(seed).integers(0, 2, problem.n)
    f, q, e = problem.fields(x), problem.quadratic.dense(), problem.energy(x)
    for i in range(problem.n):
        y = x.copy()
        y[i] = 1 - y[i]
        assert np.isclose(problem.energy(y) - e, f[i] * (1 - 2 * x[i]), atol=1e-9)
        for j in np.flatnonzero(x == 0) if x[i] else []:
            z = y.copy()
            z[j] = 1
            assert np.isclose(problem.energy(z) - e, f[j] - f[i] - 2 * q[i, j], atol=1e-9)


@given(problems, seeds)
def test_a_subproblem_is_the_problem_with_the_others_fixed(problem, seed):
    rng = np.random.default_rng(seed)
    x = random_start(problem, rng)
    free = rng.permutation(problem.n)[: rng.integers(0, problem.n + 1)]
    part = problem.subproblem(free, x)
    assert np.isclose(part.energy(x[free]), problem.energy(x))
    for _ in range(5):
        y = x.copy()
        y[free] = rng.integers(0, 2, len(free))
        assert np.isclose(part.energy(y[free]), problem.energy(y))
        assert part.is_feasible(y[free]) == problem.is_feasible(y)


@given(problems, seeds)
def test_dense_and_linear_parts(problem, seed):
    x = np.random.default_rng(seed).integers(0, 2, problem.n)
    assert np.isclose(problem.to_dense().energy(x), problem.energy(x))
    alone = problem.linear + problem.quadratic.diagonal()
    assert np.isclose(problem.linear_part().energy(x), alone @ x + problem.offset)


@given(problems, seeds)
def test_feasibility_is_its_definition(problem, seed):
    x = np.random.default_rng(seed).integers(0, 2, problem.n)
    fits = all(
        problem.lower[g] <= x[problem.groups == g].sum() <= problem.upper[g] for g in range(problem.n_groups)
    )
    if problem.radius is not None:
        fits = fits and (x != problem.reference).sum() <= problem.radius
    assert problem.is_feasible(x) == fits
    assert not problem.is_feasible(np.full(problem.n, 2))
    assert not problem.is_feasible(np.zeros(problem.n + 1))


def test_exact_counts():
    assert random_problem("groups", 9).exact_counts
    assert not random_problem("plain", 9).exact_counts
    q, groups = np.zeros((2, 2)), [0, 0]
    assert not CardinalityQubo.grouped(q, [0, 0], groups, [0], [1]).exact_counts


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"linear": np.zeros(3)}, "4 variables"),
        ({"linear": np.array([0, 0, 0, np.nan])}, "NaN"),
        ({"offset": np.inf}, "infinite"),
        ({"lower": np.array([3]), "upper": np.array([2])}, "lower <= upper"),
        ({"upper": np.array([5])}, "group 0 has 4 variables"),
        ({"lower": np.array([-1])}, "group 0"),
        ({"groups": np.array([0, 0, 0, 1], np.int32)}, "group ids"),
        ({"reference": np.array([0, 0, 0, 3], np.uint8)}, "zeros and ones"),
        ({"radius": 2}, "needs a reference"),
        ({"reference": np.zeros(4, np.uint8), "radius": 1}, "below the 2 flips"),
        ({"lower": np.array([1, 2])}, "differ in shape"),
    ],
)
def test_wrong_input_is_named(change, what):
    problem = CardinalityQubo.cardinality(np.eye(4), np.zeros(4), 2)
    with pytest.raises(ValueError, match=what):
        replace(problem, **change)


def test_wrong_arguments_are_named():
    problem = CardinalityQubo.cardinality(np.eye(4), np.zeros(4), 2)
    with pytest.raises(ValueError, match="shape"):
        problem.energy(np.zeros(3))
    with pytest.raises(ValueError, match="repeat"):
        problem.subproblem([0, 0], np.zeros(4))
    with pytest.raises(ValueError, match="cannot meet its count"):
        problem.subproblem([0], np.zeros(4))
    with pytest.raises(ValueError, match="bqm"):
        problem.to_dimod("qubo")


def test_counts_are_whole_numbers() -> None:
    for k in (2, 2.0, np.int32(2), np.float32(2)):
        problem = CardinalityQubo.cardinality(np.eye(4), np.zeros(4), k)
        assert problem.lower.tolist() == problem.upper.tolist() == [2]
    for k in (2.5, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="counts must be whole numbers"):
            CardinalityQubo.cardinality(np.eye(4), np.zeros(4), k)
