"""SharedGram: the quadratic form x' diag(s) H diag(s) x of a row; its Gram matrix H is shared, not copied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qubo_solvers.quadratic_form import Float


@dataclass(frozen=True, eq=False)
class SharedGram:
    """Q = diag(scale) H diag(scale): gram (n, n) symmetric, floating-point; scale (n,) float64. Never n x n
    of its own. The native solvers take the problem's `to_dense()`.

    Raises ValueError where the shapes do not fit.
    """

    gram: NDArray[Any]
    scale: Float

    def __post_init__(self) -> None:
        n = len(self.scale)
        if self.scale.shape != (n,) or self.gram.shape != (n, n):
            raise ValueError(
                "a shared Gram form needs gram (n, n) and scale (n,), "
                f"got {self.gram.shape}, {self.scale.shape}"
            )

    @property
    def n(self) -> int:
        return len(self.scale)

    def product(self, x: ArrayLike) -> Float:
        v = self.scale * np.asarray(x, dtype=np.float64)
        out = np.empty(self.n)
        step = max(1, (1 << 22) // max(1, self.n))  # rows cast to float64 a part at a time
        for lo in range(0, self.n, step):
            out[lo : lo + step] = self.gram[lo : lo + step].astype(np.float64, copy=False) @ v
        return self.scale * out

    def diagonal(self) -> Float:
        return np.asarray(self.scale**2 * np.diagonal(self.gram))

    def columns(self, indices: ArrayLike) -> Float:
        i = np.asarray(indices, dtype=np.intp)
        return np.asarray(self.scale[:, None] * self.gram[:, i] * self.scale[i])

    def restrict(self, indices: ArrayLike) -> SharedGram:
        i = np.asarray(indices, dtype=np.intp)
        return SharedGram(self.gram[np.ix_(i, i)], self.scale[i])

    def dense(self) -> Float:
        return np.asarray(self.scale[:, None] * self.gram * self.scale)
