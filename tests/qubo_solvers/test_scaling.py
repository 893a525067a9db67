"""Scaling by powers of two: exact, there and back, and only where it is needed."""

from __future__ import annotations

import numpy as np
import pytest

from qubo_solvers import CardinalityQubo, Dense, LowRank, LowRankSparse, Solution, Status
from qubo_solvers.generate import random_problem
from qubo_solvers.scaling import SMALLEST, exponent, normalised, refuse_overflow
from qubo_solvers.solution import Incumbent, relative_gap

MATRIX = Dense.symmetrised(np.random.default_rng(0).normal(size=(6, 6))).matrix
LINEAR = np.random.default_rng(1).normal(size=6)


def test_problems_of_a_comfortable_size_are_left_alone():
    for kind in ("dense", "low_rank", "plain"):
        problem = random_problem(kind, 6)
        assert normalised(problem, exponent(problem)) is None
    zero = CardinalityQubo.unconstrained(np.zeros((3, 3)), np.zeros(3), offset=1e300)
    assert exponent(zero) == SMALLEST
    assert normalised(zero, SMALLEST) is None
    nothing = CardinalityQubo.unconstrained(np.zeros((0, 0)), [])
    assert exponent(nothing) == SMALLEST


@pytest.mark.parametrize("power", [-1040, -500, 500, 1000])
@pytest.mark.parametrize("kind", ["dense", "low_rank", "sparse"])
def test_there_and_back(power, kind):
    scale = float(np.ldexp(1.0, power))
    whole = np.rint(8 * MATRIX)
    if kind != "dense":
        form = LowRank(np.rint(4 * MATRIX[:, :2]) * float(np.ldexp(1.0, power // 2)), whole[0] * scale)
        if kind == "sparse":
            pair = np.full(2, 3 * scale)
            form = LowRankSparse(form.factor, form.extra_diagonal, [0, 1, 1, 1, 1, 2, 2], [4, 0], pair)
    else:
        form = Dense(whole * scale)
    problem = CardinalityQubo.cardinality(form, np.rint(8 * LINEAR) * scale, 3, offset=3 * scale)
    scaled = normalised(problem, exponent(problem))
    assert scaled is not None
    assert abs(exponent(scaled.problem)) <= 1
    assert scaled.problem.offset == 0
    for x in np.random.default_rng(2).integers(0, 2, (10, 6)):
        assert scaled.energy(scaled.problem.energy(x)) == problem.energy(x)


def test_an_answer_in_the_units_that_were_given():
    scale = 2.0**600
    problem = CardinalityQubo.cardinality(np.rint(8 * MATRIX) * scale, np.zeros(6), 3, offset=scale)
    scaled = normalised(problem, exponent(problem))
    assert scaled is not None
    x = np.array([1, 1, 1, 0, 0, 0], np.uint8)
    energy = scaled.problem.energy(x)
    told: list[float] = []
    scaled.callback(lambda found: told.append(found.energy))(Incumbent(0.5, energy))
    assert told == [problem.energy(x)]
    assert scaled.callback(None) is None
    answer = Solution(x, energy, Status.FEASIBLE, "s", 0.1, (Incumbent(0.5, energy),), bound=energy - 1)
    back = scaled.solution(answer)
    assert back.energy == back.trace[0].energy == problem.energy(x)
    assert back.bound < scaled.energy(energy - 1)
    assert back.bound == pytest.approx(scaled.energy(energy - 1), rel=1e-12)


def test_refusals_and_integers_at_their_limits():
    for matrix in (np.full((6, 6), -128, np.int8), np.full((6, 6), -(2**63), np.int64)):
        problem = CardinalityQubo.unconstrained(matrix, np.zeros(6))
        assert 2.0 ** (exponent(problem) - 1) == -float(matrix[0, 0])
        refuse_overflow(problem, exponent(problem))
    large = CardinalityQubo.unconstrained(np.full((6, 6), 1e307), np.zeros(6))
    with pytest.raises(ValueError, match="energies of 6 variables may pass"):
        refuse_overflow(large, exponent(large))


def test_relative_gaps():
    assert relative_gap(-10.0, -15.0) == 0.5
    assert relative_gap(1e-300, 0.0) == 1.0
    assert relative_gap(0.0, 0.0) == relative_gap(3.0, 3.5) == 0.0
    assert relative_gap(0.0, -1e-9) == np.inf
