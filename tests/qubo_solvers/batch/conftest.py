"""Small batches of every kind, and the proof of swap-local optimality by trying all swaps."""

from __future__ import annotations

import numpy as np
import pytest

from qubo_solvers import RowBatch

KINDS = ("cardinality", "counts", "n_of_m", "groups", "uneven")


class Batches:
    """Correlated activations whose features differ in scale, as those of a layer do."""

    kinds = KINDS

    @staticmethod
    def gram(n: int, seed: int = 0) -> np.ndarray:
        rng = np.random.default_rng(seed)
        shared = rng.normal(size=(2 * n, max(1, n // 4))) @ rng.normal(size=(max(1, n // 4), n))
        x = (shared + rng.normal(size=(2 * n, n))) * np.exp(0.7 * rng.normal(size=n))
        return x.T @ x / (2 * n)

    @classmethod
    def make(cls, kind: str, n: int = 12, rows: int = 5, seed: int = 0, linear: bool = False) -> RowBatch:
        rng = np.random.default_rng(seed + 1)
        gram = cls.gram(n, seed).astype(np.float32)
        weights = rng.normal(size=(rows, n)).astype(np.float32)
        extra = {}
        if linear:
            extra = {"linear": rng.normal(size=(rows, n)).astype(np.float32), "offset": np.arange(rows) - 1.0}
        if kind == "cardinality":
            return RowBatch.cardinality(gram, weights, n // 2, **extra)
        if kind == "counts":
            return RowBatch.cardinality(gram, weights, np.arange(rows) * n // max(1, rows - 1), **extra)
        if kind == "n_of_m":
            return RowBatch.n_of_m(gram, weights, 2, 4, **extra)
        groups = np.arange(n) % 3 if kind == "groups" else np.sort(rng.integers(0, 3, n))
        rng.shuffle(groups)
        sizes = np.bincount(groups, minlength=3)
        return RowBatch.grouped(gram, weights, groups, rng.integers(0, sizes + 1, (rows, 3)), **extra)

    @staticmethod
    def gains(batch: RowBatch, r: int, x: np.ndarray) -> np.ndarray:
        """The change by every swap of row r within a group, relative to what float32 fields can resolve."""
        problem = batch.row(r)
        q, f = problem.quadratic.dense(), problem.fields(x)
        change = f[None, :] - f[:, None] - 2 * q
        width = np.abs(2 * q).sum(axis=1) + np.abs(problem.linear) + np.abs(f)
        allowed = (x[:, None] == 1) & (x[None, :] == 0) & (batch.groups[:, None] == batch.groups[None, :])
        return (change / (width[:, None] + width[None, :] + 1e-300))[allowed]


@pytest.fixture
def batches() -> type[Batches]:
    return Batches
