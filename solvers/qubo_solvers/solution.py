"""What a solver answers: an assignment with an honest status, its bound and its anytime trace."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from qubo_solvers.problem import Assignment


class Status(Enum):
    """How a solve ended; the value is what JSON carries, `message` what a person reads."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    TIME_LIMIT = "time_limit"
    UNAVAILABLE = "unavailable"

    @property
    def message(self) -> str:
        return _MESSAGES[self]


_MESSAGES = {
    Status.OPTIMAL: "optimality was proved",
    Status.FEASIBLE: "the work budget ended with a feasible assignment; nothing is claimed about optimality",
    Status.INFEASIBLE: "no feasible assignment was found or exists",
    Status.TIME_LIMIT: "the time limit ended the search; the best assignment found is returned",
    Status.UNAVAILABLE: "the solver cannot run here",
}


@dataclass(frozen=True)
class Incumbent:
    """One improvement: when (seconds since the solve began, compilation excluded) and the float64 energy."""

    seconds: float
    energy: float


OnIncumbent = Callable[[Incumbent], bool | None]
"""Called at each improvement; return True to stop the solve."""


@dataclass(frozen=True, eq=False)
class Solution:
    """assignment (n,) uint8 or None where there is none; energy recomputed in float64 from it (inf for None).

    bound         a proven lower bound of the energy, or None
    repaired      whether the assignment returned had to be repaired into feasibility
    work          what was done, in the solver's own units (sweeps, iterations, moves, reads, ...)
    message       what a person should know: why unavailable, what was refused, how it was repaired
    bound_method  who proved the bound: the solver, or a method of `qubo_solvers.bounds`; "" where none
    """

    assignment: Assignment | None
    energy: float
    status: Status
    solver: str
    seconds: float
    trace: tuple[Incumbent, ...] = ()
    bound: float | None = None
    repaired: bool = False
    work: dict[str, Any] = field(default_factory=dict)
    message: str = ""
    bound_method: str = ""

    @property
    def gap(self) -> float | None:
        """The proven relative gap, `relative_gap` to the bound; None without one. Against a bound, never a
        best known value: no assignment is better by more.
        """
        if self.bound is None or not math.isfinite(self.energy):
            return None
        return relative_gap(self.energy, self.bound)

    @classmethod
    def unavailable(cls, solver: str, reason: str) -> Solution:
        """A refusal: the solver is not installed, or cannot take this problem. How every solver says no."""
        return cls(None, math.inf, Status.UNAVAILABLE, solver, 0.0, message=reason)


def relative_gap(energy: float, bound: float) -> float:
    """(energy - bound) / |energy|; 0 where the bound is reached, infinite where else the energy is 0."""
    if energy <= bound:
        return 0.0
    scale = abs(energy)
    return (energy - bound) / scale if scale > 0 else math.inf
