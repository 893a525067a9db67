"""A CardinalityQubo and a search state as flat arrays, the arguments of every kernel.

The free variables become one more group with count 0..size, so that kernels know one constraint only. All
arithmetic is float64 whatever the dtype of the matrix or factor, which is read in place: scales
from 1e-150 to 1e150 neither overflow nor underflow, and no temperature or tolerance is an absolute number.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.low_rank_sparse import LowRankSparse
from qubo_solvers.problem import Assignment, CardinalityQubo
from qubo_solvers.quadratic_form import Dense, LowRank

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Ids = NDArray[np.int32]
Random = NDArray[np.uint64]

UNBOUNDED = 1 << 62


class Model(NamedTuple):
    """What does not change during a search.

    rows       (n, n) the dense matrix or (n, rank) the factor, C-contiguous of a `row_type`, read-only
    low_rank   which of the two
    sparse     whether a sparse part is added to a low-rank one: the pairs of variable i, ascending, are
               beside[begins[i]:begins[i + 1]] and their 2 S_ij in by; else these three are empty
    linear     (n,) the linear term with the matrix's diagonal (dense) or the extra diagonal (low-rank) in it
    bound      (n,) >= 0, pair(i, j) <= (bound_i + bound_j) / 2: |F_i|^2 (low-rank), the row's largest
               pair or 0 (dense), their sum (sparse); pair(i, j) = 2 Q_ij is what a swap of i and j gains
               beyond its two flips
    own        (n,) |F_i|^2 (low-rank; the same array as bound where nothing is sparse); dense: (0,)
    group      (n,) group of each variable; start (m + 1,) where its members begin in State.members
    lower      (m,) and upper (m,): bounds of the counts
    reference  (n,) zeros where the problem has none; radius: UNBOUNDED where it has none
    """

    rows: NDArray[Any]
    low_rank: bool
    sparse: bool
    begins: Ints
    beside: Ids
    by: Floats
    linear: Floats
    bound: Floats
    own: Floats
    group: Ids
    start: Ints
    lower: Ints
    upper: Ints
    reference: Assignment
    radius: int


class State(NamedTuple):
    """An assignment with everything that is maintained along with it.

    members    (n,) the variables by group, each group's ones before its zeros; place (n,): its inverse
    ones       (m,) the number of ones per group
    fields     (n,) dense: the energy's change when a zero i is flipped, minus that of a one; low-rank: (0,);
               with a sparse part: what that adds to them, 2 S x
    y          (rank,) low-rank: F'x; dense: (0,)
    gain       (1,) energy minus the energy at `load`
    distance   (1,) Hamming distance to the reference
    stamp      (2,) identifies the assignment: [current, last issued]
    """

    x: Assignment
    members: Ids
    place: Ids
    ones: Ints
    fields: Floats
    y: Floats
    gain: Floats
    distance: Ints
    stamp: Ints


def model_of(problem: CardinalityQubo) -> Model:
    """The problem's arrays. `bound` of a dense one is filled by the kernel `dense_rows`, row by row.

    Raises TypeError for a quadratic form that is neither Dense nor LowRank nor LowRankSparse.
    """
    form = problem.quadratic
    begins, beside = np.zeros(0, np.int64), np.zeros(0, np.int32)
    own = by = np.zeros(0)
    if isinstance(form, Dense):
        rows, low_rank = _rows(form.matrix), False
        linear = problem.linear + form.diagonal()
        bound = np.zeros(problem.n)
    elif isinstance(form, LowRank | LowRankSparse):
        rows, low_rank = _rows(form.factor), True
        linear = problem.linear + form.extra_diagonal
        own = bound = np.empty(problem.n)
        if isinstance(form, LowRankSparse):
            begins, beside, by = form.start.copy(), form.column.copy(), 2.0 * form.value.astype(np.float64)
            bound = np.empty(problem.n)
    else:
        raise TypeError(
            "the native solvers take Dense, LowRank or LowRankSparse quadratic forms, got "
            f"{type(form).__name__}; use problem.to_dense()"
        )
    free = problem.groups < 0
    m = problem.n_groups
    group = problem.groups.astype(np.int32)
    lower, upper = problem.lower.astype(np.int64), problem.upper.astype(np.int64)
    if free.any():
        group[free] = m
        lower, upper = np.append(lower, 0), np.append(upper, int(free.sum()))
    sizes = np.bincount(group, minlength=len(lower))
    reference = np.zeros(problem.n, np.uint8) if problem.reference is None else problem.reference.copy()
    return Model(
        rows, low_rank, isinstance(form, LowRankSparse), begins, beside, by,
        np.ascontiguousarray(linear), bound, own, group,
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), lower, upper, reference,
        UNBOUNDED if problem.radius is None else int(problem.radius),
    )  # fmt: skip


def empty_state(model: Model) -> State:
    """A state's arrays, to be filled by the kernel `load`."""
    n, width = model.rows.shape
    return State(
        np.zeros(n, np.uint8), np.empty(n, np.int32), np.empty(n, np.int32),
        np.zeros(len(model.lower), np.int64), np.empty(0 if model.low_rank and not model.sparse else n),
        np.empty(width if model.low_rank else 0), np.zeros(1), np.zeros(1, np.int64), np.zeros(2, np.int64),
    )  # fmt: skip


def row_type(held: np.dtype[Any]) -> type[Any]:
    """What rows of this dtype are read as: int16, int32 and float32 as they are, 8-bit integers as int16 (a
    copy), everything else as float64."""
    kept = {np.dtype(t): t for t in (np.int16, np.int32, np.float32)}
    return kept.get(held, np.int16 if held.kind in "iu" and held.itemsize == 1 else np.float64)


def _rows(array: NDArray[np.generic]) -> NDArray[Any]:
    view = np.ascontiguousarray(array.astype(row_type(array.dtype), copy=False)).view()
    view.flags.writeable = False  # one signature whether the caller's array is writeable or not
    return view
