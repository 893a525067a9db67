"""A conformance kit that any solver can run, here or elsewhere, with the problems it runs on.

    import pytest
    from qubo_solvers.testing import CHECKS

    @pytest.mark.parametrize("check", CHECKS)
    def test_my_solver(check):
        CHECKS[check](MySolver)          # a class or function without arguments that makes the solver

or `check_solver(MySolver)` for all of them at once. A solver need not take every problem, but must say so: it
answers `Solution.unavailable(name, reason)`, and never raises; it must take at least one kind of problem.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import numpy as np

from qubo_solvers.exhaustive import Exhaustive
from qubo_solvers.generate import KINDS, degenerate_problems, random_problem
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.solution import Incumbent, Solution, Status
from qubo_solvers.solver import Capabilities, Solver
from qubo_solvers.start import random_start, repair

__all__ = ["CHECKS", "KINDS", "assert_within", "check_solver", "degenerate_problems", "random_problem"]

Factory = Callable[[], Solver]
Result = TypeVar("Result")


def check_solver(factory: Factory, *, patient: Factory | None = None) -> None:
    """Run every check; `patient` makes the solver with a large work budget, for the time limit to cut.

    Raises AssertionError on the first promise that is not kept.
    """
    for name, check in CHECKS.items():
        check(patient if patient is not None and name == "time_limit" else factory)


def check_class_data(factory: Factory) -> None:
    """Name and capabilities are there, and the capabilities are class data."""
    solver = factory()
    assert isinstance(solver, Solver), f"{type(solver).__name__} lacks name, capabilities or solve"
    assert isinstance(solver.name, str), f"name {solver.name!r} is not a string"
    assert solver.name, "the name is empty"
    assert isinstance(type(solver).capabilities, Capabilities), "capabilities must be class data"


def check_feasible_and_honest(factory: Factory) -> None:
    """On every kind: a feasible (n,) uint8 assignment, its true energy and a falling trace, or a refusal."""
    taken: set[str] = set()
    largest = factory().capabilities.max_variables
    for n in (3, 12, 33):
        for kind in KINDS:
            problem = random_problem(kind, n, seed=n)
            before = _fingerprint(problem)
            solution = _run(factory(), problem)
            assert _fingerprint(problem) == before, f"{problem.name}: the solver changed the problem"
            if not _refused(problem, solution):
                taken.add(kind)
            elif largest is None or n <= largest:
                assert kind not in taken, f"{problem.name}: refused, though max_variables is {largest}"
    assert taken, "the solver refused every kind of problem"


def check_against_oracle(factory: Factory) -> None:
    """Against enumeration: exact solvers prove the optimum, bounds hold, heuristics do not claim OPTIMAL."""
    for kind in KINDS:
        for seed in range(2):
            problem = random_problem(kind, 10, seed)
            best = Exhaustive().solve(problem).energy
            solution = _run(factory(), problem)
            if _refused(problem, solution):
                continue
            slack, where = _slack(best), f"{problem.name} (optimum {best})"
            assert solution.energy >= best - slack, f"{where}: {solution.energy} is below"
            if solution.bound is not None:
                assert solution.bound <= best + slack, f"{where}: bound {solution.bound} is above"
            if not factory().capabilities.exact:
                assert solution.status is not Status.OPTIMAL, f"{problem.name}: a heuristic claims optimality"
            else:
                assert solution.status is Status.OPTIMAL, f"{problem.name}: exact, but {solution.status}"
                assert solution.energy <= best + slack, f"{problem.name}: {solution.energy}, optimum {best}"


def check_repeatable(factory: Factory) -> None:
    """Same seed and same work budget: same assignment."""
    for kind in KINDS:
        problem = random_problem(kind, 20, seed=3)
        first, second = (_run(factory(), problem, seed=11) for _ in range(2))
        if not _refused(problem, first):
            same = np.array_equal(first.assignment, second.assignment)  # type: ignore[arg-type]
            assert same, f"{problem.name}: two answers for one seed"


def check_time_limit(factory: Factory) -> None:
    """Where the capabilities say so, a limit is kept to 10 % + 50 ms (best of three, after warm-up)."""
    if not factory().capabilities.honours_time_limit:
        return
    for n, limit in ((12, 0.1), (120, 0.3), (300, 0.2)):
        problem = random_problem("dense", n, seed=1)
        _run(factory(), problem, time_limit=limit)
        what = f"{problem.name}, for a limit of {limit} s"
        assert_within(1.1 * limit + 0.05, partial(factory().solve, problem, time_limit=limit), what)


def assert_within(seconds: float, run: Callable[[], Result], what: str = "it", tries: int = 3) -> Result:
    """What the first run within `seconds` of wall clock answered; AssertionError after `tries` of them.

    Other work on the machine only lengthens a run: one in time shows that the code can be.
    """
    shortest = math.inf
    for _ in range(tries):
        begin = time.perf_counter()  # the kit's own clock, not the solver's word
        result = run()
        shortest = min(shortest, time.perf_counter() - begin)
        if shortest <= seconds:
            return result
    raise AssertionError(f"{what}: {shortest:.3f} s in the shortest of {tries} runs, not {seconds:.3f} s")


def check_initial(factory: Factory) -> None:
    """An initial assignment is never worsened or written to, and an infeasible one is no error."""
    for kind in KINDS:
        problem = random_problem(kind, 12, seed=5)
        best = Exhaustive().solve(problem)
        start = random_start(problem, np.random.default_rng(1))
        assert best.assignment is not None
        for initial in (best.assignment, start):
            kept = initial.copy()
            solution = _run(factory(), problem, initial=initial)
            assert np.array_equal(initial, kept), (
                f"{problem.name}: the solver wrote to the initial assignment"
            )
            if not _refused(problem, solution):
                worst = problem.energy(initial)
                assert solution.energy <= worst + _slack(worst), f"{problem.name}: worse than the initial one"
        ones = np.ones(problem.n, np.uint8)
        solution = _run(factory(), problem, initial=ones)
        if not _refused(problem, solution):
            worst = problem.energy(repair(problem, ones))
            assert solution.energy <= worst + _slack(worst), (
                f"{problem.name}: worse than the repaired initial"
            )


def check_callback(factory: Factory) -> None:
    """on_incumbent sees every incumbent of the trace, in order, and can stop the solve."""
    problem = random_problem("dense", 24, seed=8)
    seen: list[Incumbent] = []
    solution = _run(factory(), problem, on_incumbent=seen.append)
    if _refused(problem, solution):
        return
    assert tuple(seen) == solution.trace, "the callback and the trace differ"
    calls: list[Incumbent] = []

    def stop(incumbent: Incumbent) -> bool:
        calls.append(incumbent)
        return True

    stopped = assert_within(solution.seconds + 0.5, partial(_run, factory(), problem, on_incumbent=stop))
    _judge(problem, stopped)
    assert calls, "the callback was never called"


def check_degenerate(factory: Factory) -> None:
    """Nothing to choose, one variable, all-zero and all-equal couplings, integer and float32 matrices."""
    for problem in degenerate_problems():
        solution = _run(factory(), problem)
        if not _refused(problem, solution) and factory().capabilities.exact:
            best = Exhaustive().solve(problem).energy
            assert abs(solution.energy - best) <= _slack(best), (
                f"{problem.name}: {solution.energy}, not {best}"
            )


CHECKS: dict[str, Callable[[Factory], None]] = {
    "class_data": check_class_data,
    "feasible_and_honest": check_feasible_and_honest,
    "against_oracle": check_against_oracle,
    "repeatable": check_repeatable,
    "time_limit": check_time_limit,
    "initial": check_initial,
    "callback": check_callback,
    "degenerate": check_degenerate,
}


def _run(solver: Solver, problem: CardinalityQubo, **arguments: Any) -> Solution:
    """The solver's own answer: not through qubo_solvers.solve, which would correct it."""
    warm_up = getattr(solver, "warm_up", None)
    if warm_up is not None:
        warm_up(problem)
    return solver.solve(problem, **arguments)


def _refused(problem: CardinalityQubo, solution: Solution) -> bool:
    """Whether it is a proper refusal; any other answer is judged."""
    if solution.status is Status.UNAVAILABLE:
        assert solution.message, f"{problem.name}: refused without a reason"
        assert solution.assignment is None, f"{problem.name}: refused with an assignment"
        return True
    _judge(problem, solution)
    return False


def _judge(problem: CardinalityQubo, solution: Solution) -> None:
    x, name = solution.assignment, problem.name
    assert x is not None, f"{name}: no assignment, {solution.status}: {solution.message}"
    assert x.shape == (problem.n,), f"{name}: assignment of shape {x.shape}"
    assert x.dtype == np.uint8, f"{name}: assignment of dtype {x.dtype}"
    assert problem.is_feasible(x), f"{name}: infeasible assignment, counts {problem.counts(x)}"
    energy = problem.energy(x)
    assert abs(solution.energy - energy) <= _slack(energy), f"{name}: says {solution.energy}, is {energy}"
    assert solution.seconds >= 0, f"{name}: negative time"
    assert solution.trace, f"{name}: an assignment, but no incumbent in the trace"
    for earlier, later in zip(solution.trace, solution.trace[1:], strict=False):
        assert later.energy < earlier.energy, f"{name}: the trace does not fall"
        assert later.seconds >= earlier.seconds, f"{name}: the trace goes back in time"
    assert abs(solution.trace[-1].energy - energy) <= _slack(energy), f"{name}: the trace ends elsewhere"


def _slack(energy: float) -> float:
    return 1e-7 * max(1.0, abs(energy))


def _fingerprint(problem: CardinalityQubo) -> bytes:
    reference = b"" if problem.reference is None else problem.reference.tobytes()
    parts = (problem.linear, problem.groups, problem.lower, problem.upper, problem.quadratic.dense())
    return b"".join(part.tobytes() for part in parts) + reference
