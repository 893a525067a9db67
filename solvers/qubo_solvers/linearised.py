"""The problem as a mixed-integer linear programme: one continuous product per coupling, counts as rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Float

Ints = NDArray[np.intp]

TOLERANCE = 1e-9  # of feasibility and optimality, asked of the solvers for scaled coefficients


@dataclass(frozen=True)
class Linearised:
    """Minimise cost'z / scale + offset where lower <= A z <= upper, z = (x, y), x in {0,1}^n, y in [0,1]^m.

    cost          (n + m,) float64, scaled so that the largest magnitude lies in [1/2, 1)
    scale         a power of two, so that scaling rounds nothing
    row, column   (m,) intp, the product y_k stands for x[row_k] x[column_k]
    matrix        scipy.sparse CSR array A of shape (rows, n + m); lower, upper (rows,) float64
    """

    n: int
    cost: Float
    scale: float
    offset: float
    row: Ints
    column: Ints
    matrix: Any
    lower: Float
    upper: Float

    def point(self, x: NDArray[np.uint8]) -> Float:
        """(n + m,) float64: x with its products."""
        return np.concatenate([x, x[self.row] * x[self.column]]).astype(np.float64)

    def bound(self, dual: float) -> float | None:
        """A lower bound of the energy from a solver's dual bound of cost'z; None where that is infinite.

        Reduced costs that are wrong by up to TOLERANCE err by at most that much for each of the n + m
        columns, as they lie in [0, 1]; so much is subtracted.
        """
        if not abs(dual) < 1e19:  # solvers write infinity as 1e20
            return None
        return (dual - TOLERANCE * len(self.cost)) / self.scale + self.offset

    def proves(self, energy: float, bound: float | None) -> bool:
        """Whether a bound is as near to an energy as twice the tolerance allows, and rounding."""
        slack = 2 * TOLERANCE * len(self.cost) / self.scale + 1e-12 * max(abs(energy), abs(self.offset))
        return bound is not None and energy - bound <= slack


def linearise(problem: CardinalityQubo, max_products: int) -> Linearised | str:
    """The programme of a problem, or why it is too large: more than `max_products` nonzero couplings.

    Products (Fortet 1960), one-sided: minimising pulls y_ij down where its cost is positive, so there only
    y >= x_i + x_j - 1 is needed, and up where it is negative, so there only y <= x_i and y <= x_j.

    Counts and the radius are rows of x. Each exact count k of a group g is also multiplied by every x_i
    (Adams and Sherali 1986, doi 10.1287/mnsc.32.10.1274): the products of x_i with the other members of g
    sum to (k - [i in g]) x_i; at most, where some of these products have no coupling and so no column.
    """
    from scipy.sparse import csr_array

    n = problem.n
    if n * (n - 1) // 2 > 50 * max_products:
        return f"{n} variables are too many to write Q out for max_products = {max_products}"
    couplings = np.triu(problem.quadratic.dense(), 1)
    row, column = np.nonzero(couplings)
    m = len(row)
    if m > max_products:
        return (
            f"{m} nonzero couplings are more than max_products = {max_products}; "
            "take a smaller block or raise max_products"
        )
    cost = np.concatenate([problem.linear + problem.quadratic.diagonal(), 2 * couplings[row, column]])
    largest = float(np.abs(cost).max(initial=0))
    scale = 2.0 ** min(1000, -math.frexp(largest)[1]) if largest else 1.0
    rows = _Rows()
    for g in range(problem.n_groups):
        members = np.flatnonzero(problem.groups == g)
        if len(members):
            rows.add(members, np.ones(len(members)), float(problem.lower[g]), float(problem.upper[g]))
    if problem.radius is not None and problem.reference is not None:
        most = float(problem.radius - int(problem.reference.sum()))
        signs = 1.0 - 2.0 * problem.reference.astype(np.float64)
        rows.add(np.arange(n), signs, -np.inf, most)
    pairs = n + np.arange(m)
    up, down = np.flatnonzero(cost[n:] > 0), np.flatnonzero(cost[n:] < 0)
    rows.add_all(np.stack([row[up], column[up], pairs[up]], 1), np.array([1.0, 1.0, -1.0]), 1.0)
    for end in (row, column):
        rows.add_all(np.stack([pairs[down], end[down]], 1), np.array([1.0, -1.0]), 0.0)
    product = np.full((n, n), -1)
    product[row, column] = product[column, row] = pairs
    for g in np.flatnonzero(problem.lower == problem.upper).tolist():
        members = np.flatnonzero(problem.groups == g)
        for i in range(n):
            others = members[members != i]
            present = product[i, others]
            present = present[present >= 0]
            if len(present):
                count = float(problem.lower[g]) - float(problem.groups[i] == g)
                least = 0.0 if len(present) == len(others) else -np.inf
                rows.add(np.append(present, i), np.append(np.ones(len(present)), -count), least, 0.0)
    data, indices, start = rows.arrays()
    matrix = csr_array((data, indices, start), shape=(len(start) - 1, n + m))
    lower, upper = np.array(rows.lower), np.array(rows.upper)
    return Linearised(n, cost * scale, scale, problem.offset, row, column, matrix, lower, upper)


class _Rows:
    """Rows of a sparse matrix, gathered one or many at a time."""

    def __init__(self) -> None:
        self._columns: list[Ints] = []
        self._values: list[Float] = []
        self._sizes: list[int] = []
        self.lower: list[float] = []
        self.upper: list[float] = []

    def add(self, columns: Ints, values: Float, lower: float, upper: float) -> None:
        self._columns.append(columns)
        self._values.append(values)
        self._sizes.append(len(columns))
        self.lower.append(lower)
        self.upper.append(upper)

    def add_all(self, columns: Ints, values: Float, upper: float) -> None:
        """A row for each of columns (rows, width), all with the same values (width,) and upper bound."""
        count, width = columns.shape
        self._columns.append(columns.ravel())
        self._values.append(np.tile(values, count))
        self._sizes += [width] * count
        self.lower += [-np.inf] * count
        self.upper += [upper] * count

    def arrays(self) -> tuple[Float, NDArray[np.int32], NDArray[np.int32]]:
        """(values, column indices, row starts) of the CSR matrix."""
        start = np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int32)
        columns = np.concatenate([np.zeros(0, np.intp), *self._columns]).astype(np.int32)
        return np.concatenate([np.zeros(0), *self._values]), columns, start
