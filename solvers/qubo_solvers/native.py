"""What the native solvers share outside the search: compilation on a tiny problem, checks of options."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from qubo_solvers.kernels.model import row_type
from qubo_solvers.low_rank_sparse import LowRankSparse
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense, LowRank, QuadraticForm
from qubo_solvers.solver import Solver

_done: set[tuple[str, str, str]] = set()


def compiled(solver: Solver, problem: CardinalityQubo) -> None:
    """Have every kernel of this solver compiled for the problem's form and dtype; once a process."""
    form = problem.quadratic
    if not isinstance(form, Dense | LowRank | LowRankSparse):
        return
    dtype = row_type(form.matrix.dtype if isinstance(form, Dense) else form.factor.dtype)
    key = (solver.name, type(form).__name__, dtype.__name__)
    if key in _done:
        return
    _done.add(key)
    try:
        for problem in _tiny(dtype, isinstance(form, Dense)):
            solver.solve(problem)
    except BaseException:
        _done.discard(key)
        raise


def _tiny(dtype: type[Any], dense: bool) -> Iterator[CardinalityQubo]:
    """Every kind of constraint, with a radius that binds and without one: every kernel runs."""
    factor = np.rint(4 * np.cos(np.arange(24.0))).reshape(8, 3)  # whole: it may be integers
    form: QuadraticForm = (
        Dense((factor @ factor.T).astype(dtype)) if dense else LowRank(factor.astype(dtype), np.zeros(8))
    )
    linear = np.sin(np.arange(8.0))
    reference = [1, 1, 0, 0, 0, 0, 0, 0]
    mixed, exact = [0, 0, 0, 0, 1, 1, -1, -1], [0, 0, 0, 0, 1, 1, 1, 1]
    yield CardinalityQubo.grouped(form, linear, mixed, [2, 0], [2, 1], reference=reference, radius=2)
    yield CardinalityQubo.grouped(form, linear, exact, [2, 0], reference=reference, radius=2)
    yield CardinalityQubo.grouped(form, linear, exact, [2, 2])


def tabu_tenure(n: int) -> int:
    """Steps that a moved variable stays in place: n / 40, within 1 to 50."""
    return max(1, min(50, n // 40))


def endless(solver: str, restarts: int | None, time_limit: float | None) -> float:
    """How many restarts: None means until the time limit. Raises ValueError where there is none either."""
    if restarts is None and time_limit is None:
        raise ValueError(f"{solver}: restarts=None means until the time limit; give restarts or a time_limit")
    return math.inf if restarts is None else restarts


def whole_number(solver: str, option: str, value: int, least: int = 1) -> int:
    """value as an int of at least `least`. Raises ValueError otherwise."""
    if isinstance(value, bool) or int(value) != value or value < least:
        raise ValueError(f"{solver}: {option} must be a whole number of at least {least}, got {value!r}")
    return int(value)


def positive_number(solver: str, option: str, value: float) -> float:
    """value as a finite float above zero. Raises ValueError otherwise."""
    if not (value > 0 and np.isfinite(value)):
        raise ValueError(f"{solver}: {option} must be a finite number above 0, got {value!r}")
    return float(value)
