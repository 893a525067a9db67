"""How far float64 arithmetic can be from the exact value: what a bound is lowered by to stay valid."""

from __future__ import annotations

import numpy as np

from qubo_solvers.low_rank_sparse import LowRankSparse
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense, Float, LowRank

UNIT = 2.0**-53
TINY = 2.0**-1074
CHUNK = 1 << 22  # entries of a matrix looked at together: 32 MiB


def gamma(operations: int) -> float:
    """n u / (1 - n u): the relative error of n roundings in a row, in any order (Higham 2002, lemma 3.1)."""
    return operations * UNIT / (1.0 - operations * UNIT)


def row_sums(problem: CardinalityQubo) -> Float:
    """sum_j |Q_ij| of a dense form, (n,) float64, chunk by chunk."""
    form = problem.quadratic
    n = problem.n
    if not isinstance(form, Dense):
        return np.asarray(np.abs(form.dense()).sum(axis=1))
    step = max(1, CHUNK // max(1, n))
    parts = [np.abs(form.matrix[lo : lo + step].astype(np.float64)).sum(axis=1) for lo in range(0, n, step)]
    return np.concatenate([np.zeros(0), *parts])


def evaluation_error(problem: CardinalityQubo) -> float:
    """|problem.energy(x) as computed - its exact value| is at most this for every binary x; inf: no such
    bound in float64. A worst case: n roundings that all go one way."""
    form = problem.quadratic
    n = problem.n
    with np.errstate(over="ignore", invalid="ignore"):
        rest = float(np.abs(problem.linear).sum()) + abs(problem.offset)
        if isinstance(form, LowRank | LowRankSparse):
            columns = np.abs(form.factor).sum(axis=0, dtype=np.float64)
            mass = 0.5 * float(columns @ columns) + float(np.abs(form.extra_diagonal).sum(dtype=np.float64))
            operations, products = 2 * n + form.rank + 10, n * (form.rank + 1)
            if isinstance(form, LowRankSparse):
                mass += float(np.abs(form.value).sum(dtype=np.float64))
                operations, products = operations + n + 1, products + len(form.value)
        else:
            mass = float(row_sums(problem).sum())
            operations, products = 2 * n + 10, 0
        return gamma(2 * operations) * (mass + rest) + n * products * TINY
