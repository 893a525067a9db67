"""RowBatch: thousands of cardinality-constrained problems, one a row, that share a Gram matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qubo_solvers.batch.arrays import Array, as_array, double, host, is_finite, is_real, is_tensor
from qubo_solvers.batch.shared_gram import SharedGram
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Float

_NUMBERS = 1 << 22  # float64 numbers in a block of a streamed product: 32 MiB


@dataclass(frozen=True, eq=False)
class RowBatch:
    """Row r: minimise z' diag(w_r) H diag(w_r) z + linear_r'z + offset_r over z in {0,1}^n (1 = pruned) with
    exactly counts[r, g] ones in group g.

    gram     H, (n, n) symmetric floating-point, NumPy array or torch tensor; kept where it is, never copied
    weights  (R, n), row r is w_r; an array of the same kind and device as gram
    groups   (n,) int32, the group of each variable, the same for every row
    counts   (R, m) int64
    linear   (R, n) or None, an array of the same kind and device as gram
    offset   (R,) float64, on the host

    Build it with `cardinality`, `n_of_m` or `grouped`. Raises ValueError on shapes that do not fit, arrays of
    two kinds, NaN or infinity, a matrix that is not symmetric to 1e-6 of its largest entry, group ids or
    counts out of range.
    """

    gram: Array
    weights: Array
    groups: NDArray[np.int32]
    counts: NDArray[np.int64]
    linear: Array | None
    offset: Float

    # -- building --------------------------------------------------------------------------------------------

    @classmethod
    def cardinality(
        cls,
        gram: Array,
        weights: Array,
        k: ArrayLike,
        *,
        linear: Array | None = None,
        offset: ArrayLike | None = None,
    ) -> RowBatch:
        """One group of all variables: exactly k ones in every row, or k[r] in row r for k of shape (R,)."""
        ones = np.asarray(host(as_array(k)))
        n = np.shape(weights)[-1] if np.ndim(weights) else 0
        column = ones[:, None] if ones.ndim == 1 else ones.reshape(1, 1) if ones.ndim == 0 else ones
        return cls.grouped(gram, weights, np.zeros(n, np.int32), column, linear=linear, offset=offset)

    @classmethod
    def n_of_m(
        cls,
        gram: Array,
        weights: Array,
        pruned: int,
        of: int,
        *,
        linear: Array | None = None,
        offset: ArrayLike | None = None,
    ) -> RowBatch:
        """Exactly `pruned` ones in every `of` consecutive variables. ValueError where n is no multiple."""
        n = np.shape(weights)[-1] if np.ndim(weights) else 0
        if of < 1 or n % of:
            raise ValueError(f"{n} variables do not divide into groups of {of}")
        groups = np.arange(n) // of
        return cls.grouped(gram, weights, groups, np.full(n // of, pruned), linear=linear, offset=offset)

    @classmethod
    def grouped(
        cls,
        gram: Array,
        weights: Array,
        groups: ArrayLike,
        counts: ArrayLike,
        *,
        linear: Array | None = None,
        offset: ArrayLike | None = None,
    ) -> RowBatch:
        """Groups of any shape; counts (m,) for all rows alike, or (R, m)."""
        weights = as_array(weights)
        number = len(weights) if weights.ndim else 0
        ones = np.atleast_2d(_whole(counts, "counts", np.int64))
        return cls(
            as_array(gram),
            weights,
            _whole(groups, "group ids", np.int32),
            np.broadcast_to(ones, (number, ones.shape[1])) if len(ones) == 1 else ones,
            None if linear is None else as_array(linear),
            np.zeros(number) if offset is None else np.asarray(host(as_array(offset)), np.float64),
        )

    def __post_init__(self) -> None:
        self._check_arrays()
        n, number = self.n, self.n_rows
        if self.groups.shape != (n,):
            raise ValueError(f"groups must have shape ({n},), got {self.groups.shape}")
        if self.counts.ndim != 2 or len(self.counts) != number:
            raise ValueError(f"counts must have shape ({number}, groups), got {self.counts.shape}")
        m = self.counts.shape[1]
        if n and (self.groups.min() < 0 or self.groups.max() >= m):
            raise ValueError(
                f"group ids must lie in 0..{m - 1}, got {self.groups.min()}..{self.groups.max()}"
            )
        sizes = np.bincount(self.groups, minlength=m)
        bad = np.argwhere((self.counts < 0) | (self.counts > sizes))
        if len(bad):
            r, g = (int(i) for i in bad[0])
            raise ValueError(
                f"row {r} cannot have {self.counts[r, g]} ones in group {g}, which has {sizes[g]} variables"
            )
        if self.offset.shape != (number,) or not np.isfinite(self.offset).all():
            raise ValueError(f"offset must be ({number},) finite numbers, got shape {self.offset.shape}")

    def _check_arrays(self) -> None:
        gram, weights = self.gram, self.weights
        if gram.ndim != 2 or gram.shape[0] != gram.shape[1]:
            raise ValueError(f"gram must be square, got shape {tuple(gram.shape)}")
        if weights.ndim != 2 or weights.shape[1] != gram.shape[0]:
            raise ValueError(
                f"weights must have shape (rows, {gram.shape[0]}) for this gram, got {tuple(weights.shape)}"
            )
        named = [("gram", gram), ("weights", weights)]
        if self.linear is not None:
            named.append(("linear", self.linear))
            if self.linear.shape != weights.shape:
                raise ValueError(
                    f"linear must have the shape of weights, {tuple(weights.shape)}, "
                    f"got {tuple(self.linear.shape)}"
                )
        for name, array in named:
            if is_tensor(array) != is_tensor(gram):
                raise ValueError(f"gram and {name} must both be NumPy arrays or both torch tensors")
            if is_tensor(array) and array.device != gram.device:
                raise ValueError(f"gram is on {gram.device}, but {name} on {array.device}: move one of them")
            if not is_real(array):
                raise ValueError(f"{name} must hold floating-point numbers, got dtype {array.dtype}")
            if not is_finite(array):
                raise ValueError(f"{name} has NaN or infinite entries")
        if gram.shape[0]:
            largest, worst = float(abs(gram).max()), float(abs(gram - gram.T).max())
            if worst > 1e-6 * largest:
                raise ValueError(
                    f"gram is not symmetric (largest difference {worst:g} against entries up to "
                    f"{largest:g}); give (H + H')/2 if that is what you mean"
                )

    # -- size and constraint ---------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        """Variables of a row."""
        return int(self.gram.shape[0])

    @property
    def n_rows(self) -> int:
        return int(self.weights.shape[0])

    @property
    def is_tensor(self) -> bool:
        """Whether it is made of torch tensors."""
        return is_tensor(self.gram)

    def order(self) -> NDArray[np.int64]:
        """(n,) the variables by group."""
        return np.argsort(self.groups, kind="stable").astype(np.int64)

    def starts(self) -> NDArray[np.int64]:
        """(m + 1,) where each group begins in `order`."""
        sizes = np.bincount(self.groups, minlength=self.counts.shape[1])
        return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)

    def check(self, assignments: Array, what: str = "assignments") -> Array:
        """The assignments (R, n) as an array; ValueError names the first row that breaks a count, a wrong
        shape or entries other than 0 and 1."""
        x = as_array(assignments)
        shape = (self.n_rows, self.n)
        if tuple(x.shape) != shape:
            raise ValueError(f"{what} must have shape {shape}, got {tuple(x.shape)}")
        if not bool(((x == 0) | (x == 1)).all()):
            raise ValueError(f"{what} must hold only zeros and ones")
        if self.n == 0:
            return x
        starts = self.starts()
        sums = (x[:, self.order()] != 0).cumsum(1)[:, np.maximum(starts - 1, 0)]
        ends = host(sums) * (starts > 0)
        bad = np.argwhere(np.diff(ends, axis=1) != self.counts)
        if len(bad):
            r, g = (int(i) for i in bad[0])
            found = int(ends[r, g + 1] - ends[r, g])
            raise ValueError(f"{what}: row {r} has {found} ones in group {g} instead of {self.counts[r, g]}")
        return x

    # -- energy ----------------------------------------------------------------------------------------------

    def energies(self, assignments: Array) -> Array:
        """(R,) float64 energies of the assignments (R, n), where the arrays lie: streamed, 32 MiB a block.

        assignments: zeros and ones or bool, of the batch's kind; feasibility is not looked at.
        """
        x, n = as_array(assignments), self.n
        width = max(1, min(n, _NUMBERS // max(1, n)))
        height = max(1, _NUMBERS // max(1, n))
        total = double(self.weights[:, :0]).sum(1)
        for top in range(0, self.n_rows, height):
            part = slice(top, top + height)
            ones = double(x[part])
            moved = double(self.weights[part]) * ones
            found = double(self.linear[part] * ones).sum(1) if self.linear is not None else total[part]
            for lo in range(0, n, width):
                panel = double(self.gram[lo : lo + width])
                found = found + ((moved[:, lo : lo + width] @ panel) * moved).sum(1)
            total[part] = found
        offset: Any = total.new_tensor(self.offset) if self.is_tensor else self.offset
        return total + offset

    def row(self, r: int) -> CardinalityQubo:
        """Row r as a problem of its own: host arrays, the Gram matrix shared (`to_dense()` writes Q out)."""
        w = np.asarray(host(self.weights[r]), np.float64)
        linear = np.zeros(self.n) if self.linear is None else host(self.linear[r])
        return CardinalityQubo.grouped(
            SharedGram(host(self.gram), w), linear, self.groups, self.counts[r], offset=float(self.offset[r])
        )


def _whole(values: ArrayLike, what: str, dtype: type[np.integer[Any]]) -> NDArray[Any]:
    """Whole numbers as an array of the dtype. Raises ValueError on others."""
    array = host(as_array(values))
    if array.dtype.kind not in "iu" and not np.array_equal(array, np.rint(array)):
        raise ValueError(f"{what} must be whole numbers, got {array.dtype}")
    return array.astype(dtype)
