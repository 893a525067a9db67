"""The Solver protocol, its capabilities, and the recorder that every solver keeps its incumbents with."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers.problem import Assignment, CardinalityQubo
from qubo_solvers.solution import Incumbent, OnIncumbent, Solution, Status


@dataclass(frozen=True)
class Capabilities:
    """What a solver can do, as class data: read without constructing it or importing what it needs.

    exact               it can prove optimality; a heuristic never answers OPTIMAL
    needs_dense         it writes Q out (8 n^2 bytes) where it is not dense already
    max_variables       the largest problem it takes whatever its couplings and counts (None: memory decides);
                        it may take larger ones and refuses, with the reason, those it cannot
    native_cardinality  counts and radius hold at every step; otherwise by penalty, and by repair at the end
    honours_time_limit  the limit is kept to 10 % + 50 ms once compiled
    requires, install   the modules that must be found, and the command that installs them
    configured          "module:function" to ask once they are found: why it cannot run even so (no token of a
                        service), "" where it can
    """

    description: str
    exact: bool = False
    needs_dense: bool = False
    max_variables: int | None = None
    native_cardinality: bool = True
    honours_time_limit: bool = True
    requires: tuple[str, ...] = ()
    install: str = ""
    configured: str = ""


@runtime_checkable
class Solver(Protocol):
    """Anything with these two class attributes and this method. An optional `warm_up(problem)` compiles.

    An instance may have capabilities of its own: those of the device that it was given.
    A problem that it cannot take is refused by `Solution.unavailable(name, reason)`, never by an exception.
    The work budget (sweeps, iterations, reads) is the constructor's; None as time_limit: until it is spent.
    Coefficients reach it between 1e-99 and 1e99 in size: `qubo_solvers.solve` scales others.
    """

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities]

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution: ...


class Recorder:
    """Keeps a solve's best assignment: rescored in float64, traced with its time, reported to the callback.

    Start it after compilation: its clock is the solve's clock.
    """

    def __init__(
        self,
        problem: CardinalityQubo,
        time_limit: float | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> None:
        if time_limit is not None and not time_limit > 0:
            raise ValueError(f"time_limit must be positive seconds, got {time_limit}")
        self.problem = problem
        self.time_limit = time_limit
        self.assignment: Assignment | None = None
        self.energy = math.inf
        self.trace: list[Incumbent] = []
        self.asked_to_stop = False
        self._on_incumbent = on_incumbent
        self._start = time.perf_counter()

    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def remaining(self) -> float:
        return math.inf if self.time_limit is None else self.time_limit - self.seconds()

    def out_of_time(self) -> bool:
        return self.remaining() <= 0

    def should_stop(self) -> bool:
        return self.asked_to_stop or self.out_of_time()

    def offer(self, x: ArrayLike) -> bool:
        """Score x in float64 and keep it if it is feasible and better; returns whether it was kept."""
        v = np.array(x, dtype=np.uint8)
        energy = self.problem.energy(v)
        if not energy < self.energy or not self.problem.is_feasible(v):
            return False
        self.assignment, self.energy = v, energy
        incumbent = Incumbent(self.seconds(), energy)
        self.trace.append(incumbent)
        if self._on_incumbent is not None and self._on_incumbent(incumbent):
            self.asked_to_stop = True
        return True

    def solution(
        self,
        solver: str,
        *,
        status: Status | None = None,
        bound: float | None = None,
        repaired: bool = False,
        work: dict[str, Any] | None = None,
        message: str = "",
    ) -> Solution:
        """The best so far; the status, where none is given, follows from the clock and from having one."""
        if status is None:
            if self.assignment is None:
                status = Status.TIME_LIMIT if self.out_of_time() else Status.INFEASIBLE
            else:
                status = Status.TIME_LIMIT if self.out_of_time() else Status.FEASIBLE
        return Solution(
            self.assignment,
            self.energy,
            status,
            solver,
            self.seconds(),
            tuple(self.trace),
            bound,
            repaired,
            work or {},
            message,
        )
