"""LowRankSparse: a low-rank form plus a sparse matrix, as a Fisher with Gram blocks within rows has."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qubo_solvers.quadratic_form import Float, LowRank


@dataclass(frozen=True, eq=False)
class LowRankSparse:
    """Q = 1/2 F F' + diag(d) + S: factor F (n, rank) and diagonal d (n,) as of LowRank, and S symmetric with
    a zero diagonal, by rows: that of variable i has value[start[i]:start[i + 1]] in column[start[i]:...].

    start   (n + 1,) int64
    column  (m,) int32, ascending within a row; both (i, j) and (j, i) are stored
    value   (m,) real

    Raises ValueError where the arrays do not make such a matrix, or have NaN or infinite entries.
    """

    factor: NDArray[np.floating]
    extra_diagonal: NDArray[np.floating]
    start: NDArray[np.int64]
    column: NDArray[np.int32]
    value: NDArray[np.floating]

    def __post_init__(self) -> None:
        low_rank = LowRank(self.factor, self.extra_diagonal)
        object.__setattr__(self, "factor", low_rank.factor)
        object.__setattr__(self, "extra_diagonal", low_rank.extra_diagonal)
        object.__setattr__(self, "start", np.ascontiguousarray(self.start, dtype=np.int64))
        object.__setattr__(self, "column", np.ascontiguousarray(self.column, dtype=np.int32))
        object.__setattr__(self, "value", np.ascontiguousarray(self.value))
        m = len(self.value)
        if self.start.shape != (self.n + 1,) or self.column.shape != (m,) or self.value.shape != (m,):
            raise ValueError(
                f"sparse part of {self.n} variables needs start ({self.n + 1},) and as many columns as "
                f"values, got {self.start.shape}, {self.column.shape} and {self.value.shape}"
            )
        if self.start[0] != 0 or self.start[-1] != m or (np.diff(self.start) < 0).any():
            raise ValueError(f"start of a sparse part must ascend from 0 to its {m} values")
        if m and (self.column.min() < 0 or self.column.max() >= self.n):
            raise ValueError(f"columns of a sparse part must lie in 0..{self.n - 1}")
        if not np.isfinite(self.value).all():
            raise ValueError("sparse part has NaN or infinite entries")
        place = self._rows * self.n + self.column
        if (np.diff(place) <= 0).any():
            raise ValueError("columns of a sparse part must ascend within each row")
        mirrored = self.column * np.int64(self.n) + self._rows
        order = np.argsort(mirrored)
        if not (np.array_equal(mirrored[order], place) and np.array_equal(self.value[order], self.value)):
            raise ValueError("sparse part is not symmetric: store each coupling at (i, j) and at (j, i)")
        if (self._rows == self.column).any():
            raise ValueError("sparse part has entries on its diagonal: add them to extra_diagonal")

    @property
    def n(self) -> int:
        return int(self.factor.shape[0])

    @property
    def rank(self) -> int:
        return int(self.factor.shape[1])

    @cached_property
    def low_rank(self) -> LowRank:
        """The form without its sparse part."""
        return LowRank(self.factor, self.extra_diagonal)

    @cached_property
    def _rows(self) -> NDArray[np.int64]:
        return np.repeat(np.arange(self.n), np.diff(self.start))

    @cached_property
    def _value64(self) -> Float:
        return self.value.astype(np.float64, copy=False)

    def product(self, x: ArrayLike) -> Float:
        v = np.asarray(x, dtype=np.float64)
        sparse = np.bincount(self._rows, weights=self._value64 * v[self.column], minlength=self.n)
        return np.asarray(self.low_rank.product(v) + sparse)

    def diagonal(self) -> Float:
        return self.low_rank.diagonal()

    def columns(self, indices: ArrayLike) -> Float:
        i = np.asarray(indices, dtype=np.intp)
        out = self.low_rank.columns(i)
        for k, v in enumerate(i):
            lo, hi = self.start[v], self.start[v + 1]
            out[self.column[lo:hi], k] += self._value64[lo:hi]
        return out

    def restrict(self, indices: ArrayLike) -> LowRankSparse:
        i = np.asarray(indices, dtype=np.intp)
        place = np.full(self.n, -1, np.int64)
        place[i] = np.arange(len(i))
        row, column = place[self._rows], place[self.column]
        inside = np.flatnonzero((row >= 0) & (column >= 0))
        order = inside[np.lexsort((column[inside], row[inside]))]
        start = np.concatenate([[0], np.cumsum(np.bincount(row[order], minlength=len(i)))])
        part = self.low_rank.restrict(i)
        return LowRankSparse(
            part.factor, part.extra_diagonal, start, column[order].astype(np.int32), self.value[order]
        )

    def dense(self) -> Float:
        out = self.low_rank.dense()
        out[self._rows, self.column] += self._value64
        return out
