"""The quadratic forms x'Qx a problem can have: Dense and LowRank, both symmetric operators on n variables."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Index = NDArray[np.intp]


@runtime_checkable
class QuadraticForm(Protocol):
    """A symmetric matrix Q of shape (n, n) known through its products; every answer is float64."""

    @property
    def n(self) -> int:
        """Number of variables."""

    def product(self, x: ArrayLike) -> Float:
        """Q x for x of shape (n,)."""

    def diagonal(self) -> Float:
        """diag(Q), shape (n,)."""

    def columns(self, indices: ArrayLike) -> Float:
        """Q[:, indices], shape (n, len(indices))."""

    def restrict(self, indices: ArrayLike) -> QuadraticForm:
        """Q[indices][:, indices], in the same form."""

    def dense(self) -> Float:
        """The whole of Q as float64 (n, n): 8 n^2 bytes."""


@dataclass(frozen=True, eq=False)
class Dense:
    """Q held as a symmetric C-contiguous (n, n) array of any real dtype.

    Raises ValueError where the matrix is not square, not finite or not symmetric to 1e-6 of its largest
    entry. An input with asymmetry below that is symmetrised. `Dense.symmetrised` takes any square matrix.
    """

    matrix: NDArray[np.generic]

    def __post_init__(self) -> None:
        q = np.ascontiguousarray(self.matrix)
        if q.ndim != 2 or q.shape[0] != q.shape[1]:
            raise ValueError(f"quadratic matrix must be square, got shape {q.shape}")
        if q.dtype.kind not in "fiu":
            raise ValueError(f"quadratic matrix must be real, got dtype {q.dtype}")
        if q.dtype.kind == "f" and not np.isfinite(q).all():
            raise ValueError("quadratic matrix has NaN or infinite entries")
        if not np.array_equal(q, q.T):
            wide = q.astype(np.float64)
            largest = float(np.abs(wide).max())
            with np.errstate(over="ignore"):
                worst = float(np.abs(wide - wide.T).max())
            if worst > 1e-6 * largest:
                raise ValueError(
                    f"quadratic matrix is not symmetric (largest difference {worst:g} against entries up to "
                    f"{largest:g}); use Dense.symmetrised(matrix) if (Q + Q')/2 is what you mean"
                )
            q = np.ascontiguousarray(_mean(wide).astype(q.dtype))
        object.__setattr__(self, "matrix", q)

    @classmethod
    def symmetrised(cls, matrix: ArrayLike) -> Dense:
        """The form of (M + M')/2, which has the same x'Mx for every x (e.g. for an upper-triangular M)."""
        m = np.asarray(matrix, dtype=np.float64)
        if m.ndim != 2 or m.shape[0] != m.shape[1]:
            raise ValueError(f"quadratic matrix must be square, got shape {m.shape}")
        return cls(_mean(m))

    @property
    def n(self) -> int:
        return int(self.matrix.shape[0])

    def product(self, x: ArrayLike) -> Float:
        v = np.asarray(x, dtype=np.float64)
        if self.matrix.dtype == np.float64:
            return np.asarray(self.matrix.astype(np.float64, copy=False) @ v)
        out = np.empty(self.n)
        step = max(1, (1 << 22) // max(1, self.n))  # rows cast to float64 a chunk at a time: no n x n copy
        for lo in range(0, self.n, step):
            out[lo : lo + step] = self.matrix[lo : lo + step].astype(np.float64) @ v
        return out

    def diagonal(self) -> Float:
        return np.array(np.diagonal(self.matrix), dtype=np.float64)

    def columns(self, indices: ArrayLike) -> Float:
        return self.matrix[:, np.asarray(indices, dtype=np.intp)].astype(np.float64)

    def restrict(self, indices: ArrayLike) -> Dense:
        i = np.asarray(indices, dtype=np.intp)
        return Dense(self.matrix[np.ix_(i, i)])

    def dense(self) -> Float:
        return self.matrix.astype(np.float64)


def _mean(matrix: Float) -> Float:
    """(M + M')/2, without overflow where M has none."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = (matrix + matrix.T) / 2
        if not np.isfinite(mean).all():
            mean = matrix / 2 + matrix.T / 2
    return np.asarray(mean)


@dataclass(frozen=True, eq=False)
class LowRank:
    """Q = 1/2 F F' + diag(d): factor F of shape (n, rank), extra diagonal d of shape (n,). Never n x n.

    Row i of F belongs to variable i (so a proposal reads one contiguous row). A Fisher block has
    F = sqrt(s/N) diag(w0) G' from N per-sample gradients G and d = 1/2 rho w0^2.
    """

    factor: NDArray[np.floating]
    extra_diagonal: NDArray[np.floating]

    def __post_init__(self) -> None:
        factor = np.ascontiguousarray(self.factor)
        extra = np.ascontiguousarray(self.extra_diagonal)
        if factor.ndim != 2 or extra.shape != (factor.shape[0],):
            raise ValueError(
                f"low-rank form needs factor (n, rank) and diagonal (n,), got {factor.shape}, {extra.shape}"
            )
        if not (np.isfinite(factor).all() and np.isfinite(extra).all()):
            raise ValueError("low-rank form has NaN or infinite entries")
        object.__setattr__(self, "factor", factor)
        object.__setattr__(self, "extra_diagonal", extra)

    @property
    def n(self) -> int:
        return int(self.factor.shape[0])

    @property
    def rank(self) -> int:
        return int(self.factor.shape[1])

    @cached_property
    def _factor64(self) -> Float:
        return self.factor.astype(np.float64, copy=False)

    def product(self, x: ArrayLike) -> Float:
        v = np.asarray(x, dtype=np.float64)
        f = self._factor64
        return np.asarray(0.5 * (f @ (f.T @ v)) + self.extra_diagonal * v)

    def diagonal(self) -> Float:
        f = self._factor64
        return np.asarray(0.5 * np.einsum("ij,ij->i", f, f) + self.extra_diagonal)

    def columns(self, indices: ArrayLike) -> Float:
        i = np.asarray(indices, dtype=np.intp)
        out = 0.5 * (self._factor64 @ self._factor64[i].T)
        out[i, np.arange(len(i))] += self.extra_diagonal[i]
        return np.asarray(out)

    def restrict(self, indices: ArrayLike) -> LowRank:
        i = np.asarray(indices, dtype=np.intp)
        return LowRank(self.factor[i], self.extra_diagonal[i])

    def dense(self) -> Float:
        f = self._factor64
        out = 0.5 * (f @ f.T)
        out[np.diag_indices(self.n)] += self.extra_diagonal
        return np.asarray(out)
