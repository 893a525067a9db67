"""Problems to test with: random ones of every kind, and the degenerate ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from qubo_solvers.low_rank_sparse import LowRankSparse
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense, LowRank, QuadraticForm
from qubo_solvers.start import random_start

KINDS = ("dense", "low_rank", "groups", "n_m", "intervals", "plain", "radius", "mixed", "sparse")


def random_problem(kind: str, n: int, seed: int = 0) -> CardinalityQubo:
    """A random problem of n >= 1 variables, Gaussian couplings, the same for the same arguments.

    dense      one exact count n // 2                  intervals  groups with intervals, and free variables
    low_rank   the same with a rank-4 float32 factor   plain      no constraint
    groups     groups of various sizes, exact counts   radius     groups, and at most four flips
    n_m        two of every four                       mixed      low rank, intervals, free ones and a radius
    sparse     as low_rank, and pairs within each five consecutive variables coupled besides

    Raises ValueError on an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    rng = np.random.default_rng([seed, KINDS.index(kind), n])
    linear = rng.normal(size=n)
    quadratic: QuadraticForm
    if kind in ("low_rank", "mixed"):
        quadratic = LowRank(rng.normal(size=(n, 4)).astype(np.float32), rng.random(n).astype(np.float32))
    elif kind == "sparse":
        quadratic = _with_sparse_part(rng, n)
    else:
        quadratic = Dense.symmetrised(rng.normal(size=(n, n)))
    if kind in ("dense", "low_rank", "sparse"):
        groups, lower, upper = np.zeros(n, np.int64), np.array([n // 2]), np.array([n // 2])
    elif kind == "n_m":
        groups = np.arange(n) // 4
        lower = upper = np.bincount(groups) // 2
    elif kind == "plain":
        groups, lower, upper = np.full(n, -1), np.zeros(0, np.int64), np.zeros(0, np.int64)
    else:
        m = max(1, n // 5)
        loose = kind in ("intervals", "mixed")
        groups = rng.integers(-1 if loose else 0, m, n)
        sizes = np.bincount(groups[groups >= 0], minlength=m)
        lower = rng.integers(0, sizes + 1)
        upper = rng.integers(lower, sizes + 1) if loose else lower
    problem = CardinalityQubo.grouped(quadratic, linear, groups, lower, upper, offset=1.5, name=f"{kind}-{n}")
    if kind in ("radius", "mixed", "sparse"):
        problem = replace(problem, reference=random_start(problem, rng), radius=4)
    return problem


def _with_sparse_part(rng: np.random.Generator, n: int) -> LowRankSparse:
    """Rank 4 and a diagonal, and half of the pairs within each five consecutive variables, in float32."""
    row, column = np.triu_indices(n, 1)
    chosen = np.flatnonzero((row // 5 == column // 5) & (rng.random(len(row)) < 0.5))
    value = rng.normal(size=len(chosen)).astype(np.float32)
    i = np.concatenate([row[chosen], column[chosen]])
    j = np.concatenate([column[chosen], row[chosen]])
    order = np.lexsort((j, i))
    start = np.concatenate([[0], np.cumsum(np.bincount(i, minlength=n))])
    factor, diagonal = rng.normal(size=(n, 4)).astype(np.float32), rng.random(n).astype(np.float32)
    return LowRankSparse(factor, diagonal, start, j[order].astype(np.int32), np.tile(value, 2)[order])


def degenerate_problems() -> Iterator[CardinalityQubo]:
    """No choice, no or one variable, zero and equal couplings, odd dtypes, tight radii, an empty group."""
    rng = np.random.default_rng(4)
    matrix, linear = Dense.symmetrised(rng.normal(size=(8, 8))), rng.normal(size=8)
    for k in (0, 1, 8):
        yield CardinalityQubo.cardinality(matrix, linear, k, name=f"k={k} of 8")
    for k in (0, 1):
        yield CardinalityQubo.cardinality(np.array([[2.0]]), [-1.0], k, name=f"k={k} of 1")
    yield CardinalityQubo.unconstrained(np.zeros((0, 0)), [], offset=2.0, name="no variables")
    yield CardinalityQubo.unconstrained(np.array([[-2.0]]), [1.0], name="one free variable")
    yield CardinalityQubo.cardinality(np.zeros((8, 8)), np.zeros(8), 4, name="zero matrix")
    yield CardinalityQubo.cardinality(np.ones((8, 8)), np.ones(8), 4, name="all equal")
    yield CardinalityQubo.cardinality(np.eye(8, dtype=np.int8), linear, 4, name="int8 matrix")
    yield CardinalityQubo.cardinality(matrix.matrix.astype(np.float32), linear, 4, name="float32 matrix")
    yield CardinalityQubo.cardinality(LowRank(np.zeros((8, 0)), np.ones(8)), linear, 4, name="rank 0")
    reference = np.array([1, 1, 1, 1, 0, 0, 0, 0], np.uint8)
    exact = CardinalityQubo.cardinality(matrix, linear, 4, name="radius 0")
    yield replace(exact, reference=reference, radius=0)
    yield replace(exact, reference=reference, radius=1, name="radius 1")
    yield replace(exact, reference=np.ones(8, np.uint8), radius=4, name="infeasible reference")
    groups = np.array([0, 0, 2, 2, -1, 2, 0, 2])
    yield CardinalityQubo.grouped(matrix, linear, groups, [1, 0, 2], name="an empty group")
