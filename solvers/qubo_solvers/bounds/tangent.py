"""The certificate of the convex relaxation: a tangent plane of the quadratic part, minimised exactly."""

from __future__ import annotations

import math

import numpy as np

from qubo_solvers.bounds.linear import least
from qubo_solvers.bounds.rounding import evaluation_error, gamma
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Float, LowRank


def tangent(problem: CardinalityQubo, y: Float) -> float:
    """A value that no feasible energy, as float64 computes it, is below: `exact_tangent` less the rounding of
    `problem.energy`. O(n (rank + log n)) time."""
    return exact_tangent(problem, y) - evaluation_error(problem)


def exact_tangent(problem: CardinalityQubo, y: Float) -> float:
    """A value that no feasible energy in exact arithmetic is below, for a low-rank problem and any y (rank,).

    1/2 |F'x|^2 >= y'F'x - 1/2 |y|^2, so the energy is at least offset - 1/2 |y|^2 + (linear + d + F y)'x,
    whose minimum is a sort. Best at y = F'x for an optimal x of the convex relaxation
    (`qubo_solvers.relaxation`), where it equals the relaxation's optimum. Rounding of the sums made here is
    taken off. Raises TypeError where the form is not LowRank.
    """
    form = problem.quadratic
    if not isinstance(form, LowRank):
        raise TypeError(f"the tangent bound takes a LowRank form, got {type(form).__name__}")
    factor, extra = form.factor, form.extra_diagonal.astype(np.float64)
    cost = problem.linear + extra + factor.astype(np.float64, copy=False) @ y
    half = 0.5 * math.fsum(y * y)
    value = least(problem, cost) + problem.offset - half
    columns = np.abs(factor).sum(axis=0, dtype=np.float64)
    size = float(columns @ np.abs(y)) + math.fsum(np.abs(problem.linear)) + math.fsum(np.abs(extra))
    error = gamma(form.rank + 10) * 2 * (size + half + abs(problem.offset))
    return value - error


def mean_image(problem: CardinalityQubo) -> Float:
    """F'x, (rank,), at the x that spreads the middle of each group's interval evenly (free ones: 1/2)."""
    form = problem.quadratic
    if not isinstance(form, LowRank):
        raise TypeError(f"the tangent bound takes a LowRank form, got {type(form).__name__}")
    share = np.append((problem.lower + problem.upper) / 2 / np.maximum(problem.group_sizes(), 1), 0.5)
    return np.asarray(form.factor.astype(np.float64, copy=False).T @ share[problem.groups])
