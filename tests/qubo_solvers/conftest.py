"""Small random problems of every constraint kind, their optimum and their neighbourhood by enumeration."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import pytest

from qubo_solvers.low_rank_sparse import LowRankSparse
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense, LowRank, QuadraticForm

KINDS = ("cardinality", "groups", "interval", "free", "mixed", "radius", "radius_mixed")
FORMS = ("dense", "lowrank", "sparse")


class Small:
    """Problems that enumeration can answer."""

    kinds = KINDS
    forms = FORMS

    @staticmethod
    def problem(
        kind: str, form: str, seed: int = 0, n: int = 10, scale: float = 1.0, dtype: type = np.float64
    ) -> CardinalityQubo:
        rng = np.random.default_rng(seed)
        quadratic: QuadraticForm
        if form == "dense":
            q = rng.standard_normal((n, n))
            quadratic = Dense(((q + q.T) * scale).astype(dtype))
        else:
            factor = rng.standard_normal((n, 3)) * np.sqrt(scale)
            quadratic = LowRank(factor.astype(dtype), rng.standard_normal(n) * scale)
            if form == "sparse":
                quadratic = Small.with_sparse_part(quadratic, rng, scale)
        linear = rng.standard_normal(n) * scale * 2
        reference, radius = None, None
        half = n // 2
        groups = np.where(np.arange(n) < half, 0, 1)
        lower, upper = [half // 2, (n - half) // 2], [half // 2, (n - half) // 2]
        if kind == "cardinality":
            groups, lower, upper = np.zeros(n, int), [half], [half]
        elif kind == "interval":
            lower, upper = [0, 1], [2, n - half - 1]
        elif kind == "free":
            groups, lower, upper = np.full(n, -1), [], []
        elif kind in ("mixed", "radius_mixed"):
            groups = np.where(np.arange(n) < half, np.arange(n) % 2, -1)
            groups[half : half + 3] = 2
            lower, upper = [1, 0, 1], [1, 1, 2]
        rng.shuffle(groups)
        if kind.startswith("radius"):
            reference = np.zeros(n, np.uint8)
            for g, k in enumerate(lower):
                reference[rng.permutation(np.flatnonzero(groups == g))[:k]] = 1
            radius = 4 if kind == "radius" else 3
        return CardinalityQubo.grouped(
            quadratic, linear, groups, lower, upper, offset=scale, reference=reference, radius=radius
        )

    @staticmethod
    def with_sparse_part(form: LowRank, rng: np.random.Generator, scale: float) -> LowRankSparse:
        """The same with couplings within each four consecutive variables."""
        n = form.n
        near = np.arange(n)[:, None] // 4 == np.arange(n) // 4
        upper = np.triu(2 * scale * rng.standard_normal((n, n)) * near, 1)
        row, column = (upper + upper.T).nonzero()
        start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))])
        value = (upper + upper.T)[row, column]
        return LowRankSparse(form.factor, form.extra_diagonal, start, column.astype(np.int32), value)

    @staticmethod
    def feasible(problem: CardinalityQubo) -> Iterator[np.ndarray]:
        for bits in product((0, 1), repeat=problem.n):
            x = np.array(bits, np.uint8)
            if problem.is_feasible(x):
                yield x

    @classmethod
    def optimum(cls, problem: CardinalityQubo) -> float:
        return min(problem.energy(x) for x in cls.feasible(problem))

    @staticmethod
    def neighbours(problem: CardinalityQubo, x: np.ndarray) -> Iterator[np.ndarray]:
        """Every feasible flip, and every feasible swap within a group or among the free variables."""
        for i in range(problem.n):
            for j in range(i, problem.n):
                y = x.copy()
                y[i] ^= 1
                if i != j:
                    if problem.groups[i] != problem.groups[j] or x[i] == x[j]:
                        continue
                    y[j] ^= 1
                if problem.is_feasible(y):
                    yield y


@pytest.fixture
def small() -> type[Small]:
    return Small
