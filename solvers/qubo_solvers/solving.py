"""solve(): run any solver, with compilation outside the clock and the answer scored outside the solver."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers import registry
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.scaling import exponent, normalised, refuse_overflow
from qubo_solvers.solution import OnIncumbent, Solution, Status
from qubo_solvers.solver import Solver
from qubo_solvers.start import as_assignment, repair


def solve(
    problem: CardinalityQubo,
    solver: str | Solver = "anneal",
    *,
    seed: int = 0,
    time_limit: float | None = None,
    initial: ArrayLike | None = None,
    on_incumbent: OnIncumbent | None = None,
    bound: bool = False,
    **options: Any,
) -> Solution:
    """Solve with a registered name, "package.module:Class" or an instance; `options` build a named solver.

    seed          same seed and same work budget: same answer
    time_limit    seconds, None: until the solver's own work budget is spent
    initial       (n,) zeros and ones to start from; repaired first where it is infeasible
    on_incumbent  called with each improvement; return True to stop
    bound         compute `bounds.lower_bound` as well, after the solve and outside its seconds and limit; the
                  solution has the better of it and the solver's own, and `gap` is proven against it

    The solver's optional `warm_up(problem)` (compilation) runs before the clock. Feasibility and energy are
    computed here, in float64, from the assignment: an infeasible answer becomes INFEASIBLE without an
    assignment; claims it does not bear out (a trace below its energy, a bound above it, optimality from a
    solver that proves none) are dropped, and the message says so. A solver that is not installed or
    cannot take the problem answers UNAVAILABLE with the reason.

    Coefficients beyond 1e99 or all below 1e-99 are scaled by a power of two for the solver, which then sees a
    problem without the offset; what is returned and reported is in the problem's own units.

    Raises ValueError on an unknown solver or option, a wrong `initial`, a time limit that is not positive, or
    coefficients so large that energies may overflow float64.
    """
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"time_limit must be positive seconds, got {time_limit}")
    notes: list[str] = []
    start = None
    if initial is not None:
        start = as_assignment(problem, initial, "initial")
        if not problem.is_feasible(start):
            start = repair(problem, start)
            notes.append("the initial assignment was infeasible and was repaired")
    if isinstance(solver, str):
        able, reason = registry.availability(solver)
        if not able:
            return Solution.unavailable(solver, reason)
        solver = registry.get(solver, **options)
    elif options:
        raise ValueError(
            f"options {', '.join(options)} belong to the constructor; give solver {solver.name!r} by name"
        )
    able, reason = registry.can_run(solver.name, solver.capabilities)
    if not able:
        return Solution.unavailable(solver.name, reason)
    size = exponent(problem)
    refuse_overflow(problem, size)
    scaled = normalised(problem, size)
    warm_up = getattr(solver, "warm_up", None)
    if warm_up is not None:
        warm_up(problem if scaled is None else scaled.problem)
    begin = time.perf_counter()
    answer = solver.solve(
        problem if scaled is None else scaled.problem, seed=seed, time_limit=time_limit, initial=start,
        on_incumbent=on_incumbent if scaled is None else scaled.callback(on_incumbent),
    )  # fmt: skip
    if scaled is not None:
        answer = scaled.solution(answer)
    answer = _checked(problem, solver, answer, time.perf_counter() - begin, notes, size)
    return _bounded(problem, answer) if bound else answer


def _bounded(problem: CardinalityQubo, answer: Solution) -> Solution:
    """The answer with the better of its bound and `lower_bound`."""
    from qubo_solvers.bounds import lower_bound

    if answer.assignment is None:
        return answer
    found = lower_bound(problem)
    if not math.isfinite(found.value) or (answer.bound is not None and answer.bound >= found.value):
        return answer
    return replace(answer, bound=found.value, bound_method=found.method)


def _checked(
    problem: CardinalityQubo, solver: Solver, answer: Solution, seconds: float, notes: list[str], size: int
) -> Solution:
    """The answer with what this side computes in place of what the solver claims; `size`: the problem's
    exponent, in proportion to which rounding is forgiven."""
    if answer.message:
        notes = [answer.message, *notes]
    if answer.assignment is None:
        status = answer.status
        if status not in (Status.UNAVAILABLE, Status.TIME_LIMIT):
            status = Status.INFEASIBLE
        return replace(
            answer, energy=float("inf"), status=status, seconds=seconds, trace=(), message="; ".join(notes)
        )
    if not problem.is_feasible(answer.assignment):
        notes.append(f"{solver.name} returned an infeasible assignment, which was discarded")
        return replace(
            answer, assignment=None, energy=float("inf"), status=Status.INFEASIBLE, seconds=seconds, trace=(),
            bound=None, bound_method="", message="; ".join(notes),
        )  # fmt: skip
    x = np.array(answer.assignment, dtype=np.uint8)
    energy = problem.energy(x)
    slack = 1e-9 * max(abs(energy), math.ldexp(1.0, max(-1074, min(1000, size))))
    trace = tuple(incumbent for incumbent in answer.trace if incumbent.energy >= energy - slack)
    if len(trace) < len(answer.trace):
        notes.append("trace entries below the energy of the returned assignment were dropped")
    bound, status = answer.bound, answer.status
    if bound is not None and not bound <= energy + slack:
        notes.append(f"a claimed lower bound of {bound:g} above the energy {energy:g} was dropped")
        bound = None
        status = Status.FEASIBLE
    if status is Status.OPTIMAL and not solver.capabilities.exact:
        notes.append(f"{solver.name} claimed optimality, which it cannot prove")
        status = Status.FEASIBLE
    elif status not in (Status.OPTIMAL, Status.TIME_LIMIT):
        status = Status.FEASIBLE
    return replace(
        answer, assignment=x, energy=energy, status=status, seconds=seconds, trace=trace, bound=bound,
        message="; ".join(notes),
        bound_method="" if bound is None else answer.bound_method or answer.solver or solver.name,
    )  # fmt: skip
