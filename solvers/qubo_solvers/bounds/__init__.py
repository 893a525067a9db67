"""Lower bounds that float64 rounding cannot lift above the optimum: the best of those that are affordable.

bound = lower_bound(problem)
gap = solution.energy - bound.value          # proven: no assignment is better by more
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from qubo_solvers.bounds.rounding import TINY, evaluation_error, gamma
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import LowRank
from qubo_solvers.scaling import Scaled, exponent, normalised

OPERATIONS = 1e11  # some ten seconds on one core: spectral up to 1,580 variables
STEPS = 100  # of the convex relaxation


@dataclass(frozen=True)
class Bound:
    """value: no feasible energy, as float64 computes it, is below (-inf: nothing is known); method: what gave
    it; seconds: what all that were tried took."""

    value: float
    method: str
    seconds: float


def lower_bound(problem: CardinalityQubo, *, operations: float = OPERATIONS) -> Bound:
    """The best of the bounds whose cost, in floating-point operations, is within `operations`.

    gilmore_lawler  any form, written out in chunks: n^2 (log n + rank)
    spectral        any form, written out: 25 n^3 + 200 n^2
    relaxed         low-rank forms: 100 n (rank + log n)
    tangent         low-rank forms, at the average assignment: n (rank + log n), always made

    The same answer for the same problem and `operations` on one machine. A radius counts in all of them, as a
    price on the distance. The Gilmore-Lawler bound of a low-rank form could be had in O(n rank), from the
    range of each F_r'x; the relaxation is never below that one, so it is not made.

    Measured, (best known - bound) / |best known|: random Gaussian problems of 20 variables, medians of ten,
    plain 0.12, one exact count 0.18, groups 0.32, intervals 0.17, radius 4 0.33, low rank 4 0.18; published
    ones, Beasley bqp100.1, 250.1, 500.1: 0.17, 0.12, 0.16 (0.3 s), maximum cut G1 0.054, diversity of 80 of
    200 elements 0.025, all `spectral`; of 10 of 100 elements 0.22 by gilmore_lawler, 0.33 by spectral.
    """
    begin = time.perf_counter()
    value, method = -math.inf, "none"
    scaled = normalised(problem, exponent(problem))
    with np.errstate(over="ignore", invalid="ignore"):
        for name, made in _candidates(problem if scaled is None else scaled.problem, operations):
            found = made()
            if found > value:
                value, method = found, name
        if scaled is not None:
            value = _in_its_units(scaled, value)
    return Bound(value, method, time.perf_counter() - begin)


def _in_its_units(scaled: Scaled, value: float) -> float:
    """A scaled bound as one of the original, lowered by what vanished in scaling and by the rounding here."""
    n, offset = scaled.problem.n, abs(scaled.original.offset)
    vanished = float(np.ldexp(4.0 * (n + 1) ** 2 * TINY, scaled.exponent))
    found = scaled.energy(value)
    return found - gamma(8) * (abs(found) + 2 * offset) - vanished - evaluation_error(scaled.original) - TINY


def _candidates(problem: CardinalityQubo, operations: float) -> Iterator[tuple[str, Callable[[], float]]]:
    from qubo_solvers.bounds.gilmore_lawler import gilmore_lawler
    from qubo_solvers.bounds.relaxed import relaxed
    from qubo_solvers.bounds.spectral import spectral
    from qubo_solvers.bounds.tangent import mean_image, tangent

    n, form = problem.n, problem.quadratic
    if n == 0:
        yield "constant", lambda: problem.offset
        return
    rank = form.rank if isinstance(form, LowRank) else 0
    sort = math.log2(n + 1)
    if isinstance(form, LowRank):
        yield "tangent", lambda: tangent(problem, mean_image(problem))
        if STEPS * n * (rank + sort) <= operations:
            yield "relaxed", lambda: relaxed(problem, STEPS)
    if n**2 * (rank + sort) <= operations:
        yield "gilmore_lawler", lambda: gilmore_lawler(problem)
    if 25.0 * n**3 + 2 * STEPS * n**2 <= operations:
        yield "spectral", lambda: spectral(problem, STEPS)
