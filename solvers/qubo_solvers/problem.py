"""CardinalityQubo: minimise x'Qx + linear'x + offset over binary x with group counts and a radius."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qubo_solvers.quadratic_form import Dense, Float, LowRank, QuadraticForm

Assignment = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class CardinalityQubo:
    """A quadratic binary model whose variables are partitioned into counted groups.

    energy(x) = x'Qx + linear'x + offset, minimised over x in {0,1}^n subject to
    lower[g] <= sum of x over group g <= upper[g] for each group g, and, where a radius is given,
    Hamming distance(x, reference) <= radius (a swap costs two).

    quadratic        Dense, LowRank or LowRankSparse, symmetric
    linear           (n,) float64
    offset           constant of the energy
    groups           (n,) int32, the group of each variable; -1: in no group (free)
    lower, upper     (m,) int64, bounds of each group's count; equal: an exact count
    reference        (n,) uint8 or None
    radius           int or None; needs a reference
    objective_scale  a file's own objective is objective_scale * energy (-1 for a file that maximises)

    Build it with `cardinality`, `grouped` or `unconstrained`. Raises ValueError on wrong shapes, NaN or
    infinity, counts outside their group's size, a negative radius or an infeasible combination of the two.
    """

    quadratic: QuadraticForm
    linear: Float
    offset: float
    groups: NDArray[np.int32]
    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    reference: Assignment | None = None
    radius: int | None = None
    name: str = ""
    objective_scale: float = 1.0

    # -- building --------------------------------------------------------------------------------------------

    @classmethod
    def cardinality(
        cls,
        quadratic: QuadraticForm | ArrayLike,
        linear: ArrayLike,
        k: int,
        *,
        offset: float = 0.0,
        name: str = "",
    ) -> CardinalityQubo:
        """One group of all variables with exactly k ones."""
        linear = np.asarray(linear, dtype=np.float64)
        return cls.grouped(quadratic, linear, np.zeros(len(linear), np.int32), [k], offset=offset, name=name)

    @classmethod
    def grouped(
        cls,
        quadratic: QuadraticForm | ArrayLike,
        linear: ArrayLike,
        groups: ArrayLike,
        lower: ArrayLike,
        upper: ArrayLike | None = None,
        *,
        offset: float = 0.0,
        reference: ArrayLike | None = None,
        radius: int | None = None,
        name: str = "",
    ) -> CardinalityQubo:
        """Groups with counts in [lower, upper]; upper=None means exact counts. ValueError: as for the class,
        and counts that are no whole numbers."""
        lower = _whole(lower)
        return cls(
            quadratic if isinstance(quadratic, QuadraticForm) else Dense(np.asarray(quadratic)),
            np.asarray(linear, dtype=np.float64),
            offset,
            np.asarray(groups, dtype=np.int32),
            lower,
            lower.copy() if upper is None else _whole(upper),
            None if reference is None else np.asarray(reference, dtype=np.uint8),
            radius,
            name,
        )

    @classmethod
    def unconstrained(
        cls, quadratic: QuadraticForm | ArrayLike, linear: ArrayLike, *, offset: float = 0.0, name: str = ""
    ) -> CardinalityQubo:
        """A plain QUBO: no group."""
        linear = np.asarray(linear, dtype=np.float64)
        free = np.full(len(linear), -1, np.int32)
        return cls.grouped(quadratic, linear, free, np.zeros(0, np.int64), offset=offset, name=name)

    def __post_init__(self) -> None:
        n = self.quadratic.n
        if self.linear.shape != (n,) or self.groups.shape != (n,):
            raise ValueError(
                f"{n} variables, but linear has shape {self.linear.shape} and groups {self.groups.shape}"
            )
        if not (np.isfinite(self.linear).all() and np.isfinite(self.offset)):
            raise ValueError("linear terms or offset have NaN or infinite entries")
        m = len(self.lower)
        if self.lower.shape != (m,) or self.upper.shape != (m,):
            raise ValueError(f"lower and upper differ in shape: {self.lower.shape} and {self.upper.shape}")
        if n and (self.groups.min() < -1 or self.groups.max() >= m):
            raise ValueError(
                f"group ids must lie in -1..{m - 1}, got {self.groups.min()}..{self.groups.max()}"
            )
        sizes = self.group_sizes()
        bad = np.flatnonzero((self.lower < 0) | (self.lower > self.upper) | (self.upper > sizes))
        if len(bad):
            g = int(bad[0])
            raise ValueError(
                f"group {g} has {sizes[g]} variables, so its count cannot lie in "
                f"[{self.lower[g]}, {self.upper[g]}]: need 0 <= lower <= upper <= size"
            )
        if self.reference is not None and (
            self.reference.shape != (n,) or (n and int(self.reference.max()) > 1)
        ):
            raise ValueError(f"reference must be {n} zeros and ones")
        if self.radius is not None:
            if self.reference is None:
                raise ValueError("a radius needs a reference assignment")
            short = np.maximum(self.lower - self.counts(self.reference), 0)
            over = np.maximum(self.counts(self.reference) - self.upper, 0)
            need = int((short + over).sum())
            if self.radius < need:
                raise ValueError(f"radius {self.radius} is below the {need} flips the group counts need")

    # -- size and constraint ---------------------------------------------------------------------------------

    @property
    def n(self) -> int:
        return self.quadratic.n

    @property
    def n_groups(self) -> int:
        return len(self.lower)

    @property
    def exact_counts(self) -> bool:
        """Whether every variable is in a group and every group's count is exact (then swaps suffice)."""
        return bool((self.lower == self.upper).all() and (self.n == 0 or self.groups.min() >= 0))

    def group_sizes(self) -> NDArray[np.int64]:
        return np.bincount(self.groups[self.groups >= 0], minlength=self.n_groups).astype(np.int64)

    def counts(self, x: ArrayLike) -> NDArray[np.int64]:
        """Ones per group, shape (m,)."""
        v = np.asarray(x)
        inside = self.groups >= 0
        return np.bincount(self.groups[inside], weights=v[inside], minlength=self.n_groups).astype(np.int64)

    def distance(self, x: ArrayLike) -> int:
        """Hamming distance to the reference (0 where there is none)."""
        return 0 if self.reference is None else int(np.count_nonzero(np.asarray(x) != self.reference))

    def is_feasible(self, x: ArrayLike) -> bool:
        v = np.asarray(x)
        if v.shape != (self.n,) or not np.isin(v, (0, 1)).all():
            return False
        c = self.counts(v)
        if ((c < self.lower) | (c > self.upper)).any():
            return False
        return self.radius is None or self.distance(v) <= self.radius

    # -- energy ----------------------------------------------------------------------------------------------

    def energy(self, x: ArrayLike) -> float:
        """x'Qx + linear'x + offset in float64; x of shape (n,)."""
        v = np.asarray(x, dtype=np.float64)
        if v.shape != (self.n,):
            raise ValueError(f"assignment must have shape ({self.n},), got {v.shape}")
        return float(v @ self.quadratic.product(v) + self.linear @ v + self.offset)

    def objective(self, x: ArrayLike) -> float:
        """The value a file means, in its own sense."""
        return self.objective_scale * self.energy(x)

    def fields(self, x: ArrayLike) -> Float:
        """f_i = linear_i + 2 sum_{j != i} Q_ij x_j + Q_ii, shape (n,): flipping i changes the energy by
        f_i (1 - 2 x_i); swapping a one i with a zero j changes it by f_j - f_i - 2 Q_ij."""
        v = np.asarray(x, dtype=np.float64)
        diagonal = self.quadratic.diagonal()
        return np.asarray(self.linear + 2 * (self.quadratic.product(v) - diagonal * v) + diagonal)

    def columns(self, indices: ArrayLike) -> Float:
        """Q[:, indices] in float64."""
        return self.quadratic.columns(indices)

    # -- derived problems ------------------------------------------------------------------------------------

    def subproblem(self, free: ArrayLike, x: ArrayLike) -> CardinalityQubo:
        """The problem over the variables `free` (indices), all others fixed at their value in x.

        Its energy of x[free] is this problem's energy of x. Counts and radius are reduced by what is fixed.
        """
        i = np.asarray(free, dtype=np.intp)
        v = np.array(x, dtype=np.float64)
        if v.shape != (self.n,):
            raise ValueError(f"assignment must have shape ({self.n},), got {v.shape}")
        if len(np.unique(i)) != len(i):
            raise ValueError("free variables must not repeat")
        fixed = v.copy()
        fixed[i] = 0
        q_fixed = self.quadratic.product(fixed)
        sizes = np.bincount(self.groups[i][self.groups[i] >= 0], minlength=self.n_groups)
        taken = self.counts(fixed)
        lower = np.maximum(self.lower - taken, 0)
        upper = np.minimum(self.upper - taken, sizes)
        if (lower > upper).any():
            g = int(np.flatnonzero(lower > upper)[0])
            raise ValueError(f"group {g} cannot meet its count with the variables fixed so")
        radius = self.radius
        if radius is not None and self.reference is not None:
            still = np.ones(self.n, bool)
            still[i] = False
            radius -= int(np.count_nonzero(fixed[still] != self.reference[still]))
        return replace(
            self,
            quadratic=self.quadratic.restrict(i),
            linear=self.linear[i] + 2 * q_fixed[i],
            offset=float(self.offset + fixed @ q_fixed + self.linear @ fixed),
            groups=self.groups[i],
            lower=lower.astype(np.int64),
            upper=upper.astype(np.int64),
            reference=None if self.reference is None else self.reference[i],
            radius=radius,
        )

    def to_dense(self) -> CardinalityQubo:
        """The same problem with Q written out (8 n^2 bytes)."""
        return replace(self, quadratic=Dense(self.quadratic.dense()))

    def linear_part(self) -> CardinalityQubo:
        """The problem with every coupling off (diagonal kept): what sorting alone would solve."""
        return replace(self, quadratic=LowRank(np.zeros((self.n, 1)), self.quadratic.diagonal()))

    def to_dimod(self, kind: Literal["bqm", "cqm"] = "cqm") -> Any:
        """This problem as a dimod model over variables 0..n-1: "cqm" with its constraints, "bqm" by penalty.

        Dense and for n <= 4096: raises ValueError beyond. See qubo_solvers.dimod_bridge for the penalty.
        """
        from qubo_solvers import dimod_bridge

        if kind not in ("bqm", "cqm"):
            raise ValueError(f"kind must be 'bqm' or 'cqm', got {kind!r}")
        return dimod_bridge.to_cqm(self) if kind == "cqm" else dimod_bridge.to_bqm(self)


def _whole(counts: ArrayLike) -> NDArray[np.int64]:
    """Counts as integers; ValueError where one is no whole number."""
    found = np.asarray(counts)
    if found.dtype.kind == "f" and not (np.isfinite(found) & (found == np.floor(found))).all():
        raise ValueError(f"counts must be whole numbers, not {found.tolist()}")
    return found.astype(np.int64)
