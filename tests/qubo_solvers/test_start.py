"""Starts and repairs are always feasible, optimal where they claim it, and fast at a million variables."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qubo_solvers import CardinalityQubo, LowRank, greedy_start, random_start, repair
from qubo_solvers.exhaustive import Exhaustive
from qubo_solvers.start import half_way, starting_point
from qubo_solvers.testing import KINDS, random_problem

seeds = st.integers(0, 10**6)
problems = st.builds(random_problem, st.sampled_from(KINDS), st.integers(1, 25), seeds)


@st.composite
def any_problem(draw: st.DrawFn) -> CardinalityQubo:
    """Any groups, intervals, reference (perhaps infeasible) and radius."""
    rng = np.random.default_rng(draw(seeds))
    n, m = draw(st.integers(1, 15)), draw(st.integers(0, 4))
    groups = rng.integers(-1, m, n)
    sizes = np.bincount(groups[groups >= 0], minlength=m)
    lower = rng.integers(0, sizes + 1)
    upper = rng.integers(lower, sizes + 1)
    reference = rng.integers(0, 2, n)
    counts = np.bincount(groups[groups >= 0], weights=reference[groups >= 0], minlength=m)
    need = int((np.maximum(lower - counts, 0) + np.maximum(counts - upper, 0)).sum())
    radius = need + draw(st.integers(0, 6))
    form = LowRank(rng.normal(size=(n, 3)), rng.normal(size=n))
    return CardinalityQubo.grouped(
        form, rng.normal(size=n), groups, lower, upper, reference=reference, radius=radius
    )


@given(st.one_of(problems, any_problem()), seeds)
def test_everything_is_feasible(problem, seed):
    rng = np.random.default_rng(seed)
    for x in (
        greedy_start(problem),
        random_start(problem, rng),
        repair(problem, rng.integers(0, 2, problem.n)),
    ):
        assert x.dtype == np.uint8
        assert problem.is_feasible(x)


@given(problems, seeds)
def test_repair_leaves_what_is_feasible(problem, seed):
    x = random_start(problem, np.random.default_rng(seed))
    y = repair(problem, x)
    np.testing.assert_array_equal(x, y)
    assert y is not x


@given(problems.filter(lambda p: p.radius is None), seeds)
def test_repair_flips_no_more_than_the_counts_need(problem, seed):
    x = np.random.default_rng(seed).integers(0, 2, problem.n)
    counts = problem.counts(x)
    need = np.maximum(problem.lower - counts, 0) + np.maximum(counts - problem.upper, 0)
    assert (repair(problem, x) != x).sum() == need.sum()


@given(problems.filter(lambda p: p.radius is None and p.n <= 12))
def test_greedy_solves_the_linear_part(problem):
    alone = problem.linear_part()
    assert np.isclose(alone.energy(greedy_start(problem)), Exhaustive().solve(alone).energy)


def test_the_radius_is_used_up():
    problem = random_problem("radius", 30, seed=2)
    far = 1 - problem.reference
    assert problem.distance(repair(problem, far)) in (3, 4)


def test_random_starts_differ_by_seed_and_only_by_seed():
    problem = random_problem("dense", 30)
    a, b, c = (random_start(problem, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert (a == b).all()
    assert (a != c).any()


def test_starting_point():
    problem = random_problem("dense", 10)
    np.testing.assert_array_equal(starting_point(problem, None), greedy_start(problem))
    assert problem.is_feasible(starting_point(problem, np.ones(10)))


@pytest.mark.parametrize("x", [np.zeros(9), np.full(10, 2), np.zeros((10, 1))])
def test_wrong_assignments_are_refused(x):
    with pytest.raises(ValueError, match="assignment must"):
        repair(random_problem("dense", 10), x)


def test_a_million_variables_in_a_hundred_thousand_groups():
    n, m = 10**6, 10**5
    rng = np.random.default_rng(0)
    reference = np.tile([1, 0], n // 2)
    form = LowRank(rng.normal(size=(n, 2)).astype(np.float32), np.zeros(n, np.float32))
    problem = CardinalityQubo.grouped(
        form, rng.normal(size=n), np.repeat(np.arange(m), 10), np.full(m, 5), reference=reference, radius=1000
    )
    begin = time.perf_counter()
    assert problem.is_feasible(greedy_start(problem))
    assert problem.is_feasible(repair(problem, rng.integers(0, 2, n)))
    assert time.perf_counter() - begin < 10  # about one second alone on a core


@given(problems, seeds)
def test_half_way_is_feasible_and_keeps_what_both_share(problem, seed):
    rng = np.random.default_rng(seed)
    a, b = random_start(problem, rng), random_start(problem, rng)
    x = half_way(problem, a, b, rng)
    assert problem.is_feasible(x)
    if problem.exact_counts and problem.radius is None:
        assert (x == a)[a == b].all()
        assert abs(int((x != a).sum()) - int((x != b).sum())) <= 2 * problem.n_groups
