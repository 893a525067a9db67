"""The Gilmore-Lawler bound: each variable with its cheapest company, then the cheapest variables."""

from __future__ import annotations

import numpy as np

from qubo_solvers.bounds.linear import least
from qubo_solvers.bounds.rounding import CHUNK, evaluation_error, gamma
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Float


def gilmore_lawler(problem: CardinalityQubo) -> float:
    """A value that no feasible energy, as float64 computes it, is below; O(n^2 log n) time, chunks of memory.

    Gilmore 1962 (doi 10.1137/0110022) and Lawler 1963 (doi 10.1287/mnsc.9.4.586), for quadratic assignment;
    here for counts: energy(x) = offset + sum_i x_i (linear_i + Q_ii + sum_{j != i} Q_ij x_j), and the inner
    sum is at least its minimum over the assignments that have x_i = 1. In a group with exactly k ones that is
    the sum of its k - 1 smallest couplings with i (k in another group); where counts vary, of the negative
    ones as the interval allows, which with no counts at all is half of the negative 2 Q_ij: diagonal
    dominance. A radius binds in the outer minimum only. Exact where at most one variable is chosen, and weak
    where many are.
    """
    cost = problem.linear + problem.quadratic.diagonal() + _company(problem)
    value = least(problem, cost)
    total = value + problem.offset
    return total - gamma(4) * (abs(value) + abs(problem.offset)) - 2 * evaluation_error(problem)


def _company(problem: CardinalityQubo) -> Float:
    """The least sum_{j != i} Q_ij x_j over x with x_i = 1 under the counts, for each i, (n,)."""
    n, m = problem.n, problem.n_groups
    label = np.where(problem.groups < 0, m, problem.groups)
    order = np.argsort(label, kind="stable")
    begin = np.searchsorted(label[order], np.arange(m + 2))
    lower = [*problem.lower.tolist(), 0]
    upper = [*problem.upper.tolist(), n]
    total = np.zeros(n)
    step = max(1, CHUNK // max(1, n))
    for lo in range(0, n, step):
        i = np.arange(lo, min(n, lo + step))
        columns = problem.columns(i)
        columns[i, i - lo] = np.inf  # no company of its own: sorted last, never chosen
        for g in range(m + 1):
            rows = columns[order[begin[g] : begin[g + 1]]].T
            own = label[i] == g
            total[i[~own]] += _smallest(rows[~own], lower[g], upper[g])
            total[i[own]] += _smallest(rows[own], max(0, lower[g] - 1), min(upper[g], rows.shape[1]) - 1)
    return total


def _smallest(rows: Float, lower: int, upper: int) -> Float:
    """Each row's sum of its `lower` smallest entries and of the negative ones of the next, up to `upper`."""
    if upper <= 0 or not rows.size:
        return np.zeros(len(rows))
    if upper < rows.shape[1]:
        rows = np.partition(rows, upper - 1, axis=1)[:, :upper]
    rows = np.sort(rows, axis=1)
    return np.asarray(rows[:, :lower].sum(axis=1) + np.minimum(rows[:, lower:], 0.0).sum(axis=1))
