"""Lower bounds: never above the optimum, each method and every kind of problem, at any scale; and tight."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qubo_solvers import CardinalityQubo, Dense, LowRank, LowRankSparse, random_start, solve
from qubo_solvers.bounds import Bound, lower_bound
from qubo_solvers.bounds.gilmore_lawler import gilmore_lawler
from qubo_solvers.bounds.linear import least
from qubo_solvers.bounds.relaxed import relaxed
from qubo_solvers.bounds.rounding import evaluation_error
from qubo_solvers.bounds.spectral import spectral
from qubo_solvers.bounds.tangent import mean_image, tangent
from qubo_solvers.generate import KINDS, random_problem

METHODS = {
    "gilmore_lawler": gilmore_lawler,
    "spectral": lambda p: spectral(p, 30),
    "relaxed": lambda p: relaxed(p, 30),
    "tangent": lambda p: tangent(p, mean_image(p)),
}
LOW_RANK_ONLY = ("relaxed", "tangent")


def methods(problem: CardinalityQubo) -> list[str]:
    return [m for m in METHODS if isinstance(problem.quadratic, LowRank) or m not in LOW_RANK_ONLY]


@pytest.mark.parametrize("kind", KINDS)
def test_no_method_is_above_the_optimum(kind):
    for n in (1, 2, 5, 9, 12):
        for seed in range(8):
            problem = random_problem(kind, n, seed)
            optimum = solve(problem, "exhaustive").energy
            for name in methods(problem):
                assert METHODS[name](problem) <= optimum, f"{name} on {problem.name}, seed {seed}"


@settings(max_examples=150)
@given(
    st.sampled_from(KINDS), st.integers(1, 10), st.integers(0, 10**6), st.sampled_from([1e-12, 1.0, 1e12]),
    st.sampled_from([np.float64, np.float32, np.int64]), st.sampled_from([0.0, 1e9]),
)  # fmt: skip
def test_nor_where_rounding_matters(kind, n, seed, ratio, dtype, offset):
    """Few distinct values (ties, bounds that are reached), mixed magnitudes, a far offset."""
    problem = random_problem(kind, n, seed)
    form = problem.quadratic
    rng = np.random.default_rng(seed)
    if isinstance(form, LowRank):
        scales = np.where(rng.random((n, 1)) < 0.3, np.sqrt(ratio), 1.0)
        form = LowRank((np.rint(2 * form.factor) * scales).astype(np.float64), np.rint(form.extra_diagonal))
    elif isinstance(form, LowRankSparse):
        form = replace(form, factor=np.rint(2 * form.factor), value=np.rint(2 * form.value) * ratio)
    elif dtype is np.int64:
        form = Dense(np.rint(2 * form.matrix).astype(np.int64))
    else:
        whole = np.rint(form.matrix)
        scales = np.where(rng.random((n, n)) < 0.2, ratio, 1.0)
        form = Dense((whole * np.triu(scales) + (whole * np.triu(scales, 1)).T).astype(dtype))
    problem = replace(problem, quadratic=form, linear=np.rint(problem.linear) * ratio, offset=offset)
    optimum = solve(problem, "exhaustive").energy
    for name in methods(problem):
        value = METHODS[name](problem)
        assert value <= optimum, f"{name}: {value!r} above {optimum!r}"


@pytest.mark.parametrize(
    ("kind", "most"), [("dense", 0.5), ("groups", 0.6), ("plain", 0.5), ("low_rank", 0.9)]
)
def test_the_best_is_tight(kind, most):
    """Medians over ten random problems, well above what was measured (0.1 to 0.3)."""
    gaps = []
    for seed in range(10):
        problem = random_problem(kind, 14, seed)
        optimum = solve(problem, "exhaustive").energy
        gaps.append((optimum - lower_bound(problem).value) / abs(optimum))
    assert 0 <= np.median(gaps) < most


def test_exact_where_there_is_nothing_to_lose():
    rng = np.random.default_rng(0)
    matrix, linear = Dense.symmetrised(rng.normal(size=(9, 9))), rng.normal(size=9)
    for k in (0, 1, 9):
        problem = CardinalityQubo.cardinality(matrix, linear, k)
        assert gilmore_lawler(problem) == pytest.approx(solve(problem, "exhaustive").energy, abs=1e-9)
    equal = CardinalityQubo.cardinality(-np.ones((40, 40)), np.zeros(40), 13)
    assert spectral(equal) == pytest.approx(-169, abs=1e-6)
    convex = CardinalityQubo.unconstrained(LowRank(np.ones((4, 1)), np.zeros(4)), np.zeros(4), offset=3.0)
    assert relaxed(convex) == pytest.approx(3.0, abs=1e-9)


def test_the_exact_counts_are_projected_out():
    """A large multiple of (1'x - k)^2 changes nothing under the count, nor the bound."""
    problem = random_problem("dense", 16, 2)
    k, much = 8, -50.0
    form = Dense(problem.quadratic.dense() + much)
    shifted = replace(problem, quadratic=form, linear=problem.linear - 2 * much * k)
    shifted = replace(shifted, offset=problem.offset + much * k * k)
    x = random_start(problem, np.random.default_rng(0))
    assert shifted.energy(x) == pytest.approx(problem.energy(x))
    assert spectral(shifted) > spectral(problem) - 2.0
    free = replace(shifted, lower=np.zeros(1, np.int64))  # the same without an exact count
    assert spectral(free) < spectral(problem) - 20.0


def test_a_radius_is_priced():
    rng = np.random.default_rng(3)
    for seed in range(40):
        problem = random_problem("radius" if seed % 2 else "mixed", 10, seed)
        cost = rng.normal(size=10)
        linear = replace(problem, quadratic=LowRank(np.zeros((10, 1)), np.zeros(10)), linear=cost, offset=0.0)
        optimum = solve(linear, "exhaustive").energy
        value = least(problem, cost)
        free = least(replace(problem, reference=None, radius=None), cost)
        assert free - 1e-9 <= value <= optimum + 1e-12  # both are rounded
    problem = replace(problem, radius=problem.distance(problem.reference))
    assert least(problem, cost) == pytest.approx(cost @ problem.reference, abs=1e-5)


def test_what_is_affordable_is_tried_and_the_best_is_named():
    problem = random_problem("low_rank", 30, 1)
    everything = lower_bound(problem)
    assert everything.method in METHODS
    assert everything.value == max(METHODS[m](problem) for m in ("gilmore_lawler", "tangent")) or (
        everything.method in ("relaxed", "spectral")
    )
    cheap = lower_bound(problem, operations=0)
    assert (cheap.method, cheap.value <= everything.value) == ("tangent", True)
    assert lower_bound(random_problem("dense", 30), operations=0) == Bound(
        -np.inf, "none", pytest.approx(0, abs=1)
    )
    nothing = CardinalityQubo.unconstrained(np.zeros((0, 0)), [], offset=2.0)
    assert lower_bound(nothing).value == 2.0
    assert lower_bound(problem).value == everything.value


def test_the_rounding_of_an_energy_is_within_its_bound():
    """Against exact rational arithmetic."""
    from fractions import Fraction

    rng = np.random.default_rng(5)
    for kind in ("dense", "low_rank", "sparse"):
        for seed in range(5):
            problem = random_problem(kind, 12, seed)
            x = random_start(problem, rng)
            ones = np.flatnonzero(x)
            exact = Fraction(problem.offset) + sum(Fraction(float(problem.linear[i])) for i in ones)
            form = problem.quadratic
            if isinstance(form, LowRank | LowRankSparse):
                exact += sum(Fraction(float(form.extra_diagonal[i])) for i in ones)
                for r in range(form.rank):
                    exact += sum(Fraction(float(form.factor[i, r])) for i in ones) ** 2 / 2
                if isinstance(form, LowRankSparse):
                    rest = form.dense() - form.low_rank.dense()
                    exact += sum(Fraction(float(np.float32(rest[i, j]))) for i in ones for j in ones)
            else:
                exact += sum(Fraction(float(form.matrix[i, j])) for i in ones for j in ones)
            off = abs(Fraction(problem.energy(x)) - exact)
            assert off <= evaluation_error(problem) < 1e-10


def test_only_low_rank_forms_have_tangents():
    with pytest.raises(TypeError, match="LowRank form, got Dense"):
        tangent(random_problem("dense", 4), np.zeros(4))
