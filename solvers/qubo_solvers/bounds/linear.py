"""The least value of a linear cost over the feasible assignments, bounded from below."""

from __future__ import annotations

import math

import numpy as np

from qubo_solvers.bounds.rounding import gamma
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Float
from qubo_solvers.start import lowest

PRICES = 25  # prices of a unit of distance that are tried: halvings of their range


def least(problem: CardinalityQubo, cost: Float) -> float:
    """No feasible x has cost'x below this; cost (n,) finite float64.

    Counts alone are a sort, and the value is then the minimum itself, rounded down. A radius is priced:
    cost'x + p (distance(x) - radius) is at most cost'x on feasible x, for any p >= 0, and its minimum under
    the counts is a sort again; the best of a bisection over p, which is concave.
    """
    x = lowest(problem, cost)
    found = _total(cost, x)
    best = found - gamma(4) * abs(found)
    if problem.radius is None or problem.reference is None or problem.distance(x) <= problem.radius:
        return best
    sign = 1.0 - 2.0 * problem.reference
    ones = int(problem.reference.sum())
    size = math.fsum(np.abs(cost))
    low, high = 0.0, 2.0 * float(np.abs(cost).max(initial=0.0))
    for _ in range(PRICES):
        price = (low + high) / 2
        priced = cost + price * sign
        x = lowest(problem, priced)
        error = gamma(8) * (size + price * (2 * problem.n + problem.radius))
        best = max(best, _total(priced, x) + price * (ones - problem.radius) - error)
        if problem.distance(x) > problem.radius:
            low = price
        else:
            high = price
    return best


def _total(cost: Float, x: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> float:
    return math.fsum(cost[x == 1])
