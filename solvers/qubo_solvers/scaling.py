"""Coefficients of extreme size brought near 1 by a power of two, and energies back."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.low_rank_sparse import LowRankSparse
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense, LowRank
from qubo_solvers.solution import Incumbent, OnIncumbent, Solution, Status

COMFORTABLE = 330  # exponents of two, about 1e99: products and sums of a million of them are normal numbers
SMALLEST = -(1 << 30)  # the exponent of zero


@dataclass(frozen=True, eq=False)
class Scaled:
    """`problem` has 2^-exponent times the coefficients of `original`, and no offset; the same assignments.

    Exact, but for coefficients far below the largest: those of less than 2^-1000 of it may vanish.
    """

    original: CardinalityQubo
    problem: CardinalityQubo
    exponent: int

    def energy(self, value: float) -> float:
        """A scaled energy in the original's units."""
        return float(np.ldexp(value, self.exponent)) + self.original.offset

    def callback(self, on_incumbent: OnIncumbent | None) -> OnIncumbent | None:
        """The caller's callback, told of energies in the original's units."""
        if on_incumbent is None:
            return None
        call: Callable[[Incumbent], bool | None] = on_incumbent
        return lambda found: call(replace(found, energy=self.energy(found.energy)))

    def solution(self, answer: Solution) -> Solution:
        """An answer to the scaled problem as one to the original; its bound, if any, rounded down."""
        energy = answer.energy
        if answer.assignment is not None:
            energy = self.original.energy(answer.assignment)
        trace = tuple(replace(point, energy=self.energy(point.energy)) for point in answer.trace)
        bound = answer.bound
        if bound is not None:
            bound = self.energy(bound)
            bound -= 2.0**-50 * (abs(bound) + abs(self.original.offset)) + 2.0**-1074
            bound = min(bound, energy) if answer.status is Status.OPTIMAL else bound
        return replace(answer, energy=energy, trace=trace, bound=bound)


def normalised(problem: CardinalityQubo, e: int) -> Scaled | None:
    """The problem, of this `exponent`, with its coefficients near 1; None where they are comfortable."""
    if e == SMALLEST or abs(e) <= COMFORTABLE:
        return None
    e += e % 2  # even: a factor's part is half of it
    form = problem.quadratic
    scaled: Dense | LowRank | LowRankSparse
    if isinstance(form, LowRank):
        scaled = LowRank(_times(form.factor, -e // 2), _times(form.extra_diagonal, -e))
    elif isinstance(form, LowRankSparse):
        scaled = replace(
            form, factor=_times(form.factor, -e // 2), extra_diagonal=_times(form.extra_diagonal, -e),
            value=_times(form.value, -e),
        )  # fmt: skip
    else:
        scaled = Dense(_times(form.matrix if isinstance(form, Dense) else form.dense(), -e))
    linear = _times(problem.linear, -e)
    return Scaled(problem, replace(problem, quadratic=scaled, linear=linear, offset=0.0), e)


def exponent(problem: CardinalityQubo) -> int:
    """The least e with every |coefficient| < 2^e (the offset left out); SMALLEST where all are zero."""
    form = problem.quadratic
    if isinstance(form, LowRank | LowRankSparse):
        parts = [2 * _exponent(form.factor), _exponent(form.extra_diagonal)]
        if isinstance(form, LowRankSparse):
            parts.append(_exponent(form.value))
    else:
        parts = [_exponent(form.matrix if isinstance(form, Dense) else form.dense())]
    return max(SMALLEST, _exponent(problem.linear), *parts)


def refuse_overflow(problem: CardinalityQubo, e: int) -> None:
    """Raises ValueError where energies of the problem, of this `exponent`, could be too large for float64."""
    n = problem.n
    rank = problem.quadratic.rank if isinstance(problem.quadratic, LowRank | LowRankSparse) else 1
    bits = 2 * math.log2(n * max(1, rank) + 1) + 2
    if e + bits >= 1023 or abs(problem.offset) >= 2.0**1023:
        raise ValueError(
            f"coefficients up to 2^{e} and an offset of {problem.offset:g}: energies of {n} variables may "
            "pass what float64 holds; divide all of them by a power of two"
        )


def _exponent(array: NDArray[np.generic]) -> int:
    if array.size == 0:
        return SMALLEST
    largest = max(float(array.max()), -float(array.min()))
    return math.frexp(largest)[1] if largest else SMALLEST


def _times(array: NDArray[np.generic], power: int) -> NDArray[np.float64]:
    """array * 2^power in float64, in two steps: a single power of two may lie outside float64 itself."""
    half = power // 2
    return np.ldexp(np.ldexp(array.astype(np.float64), half), power - half)
