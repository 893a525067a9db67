"""The bound of the convex relaxation of a low-rank problem, whatever its constraint."""

from __future__ import annotations

from dataclasses import replace

from qubo_solvers.bounds.tangent import tangent
from qubo_solvers.local_search import LocalSearch
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Float
from qubo_solvers.relaxation import applies, relax
from qubo_solvers.solver import Recorder
from qubo_solvers.start import greedy_start


def relaxed(problem: CardinalityQubo, steps: int = 100) -> float:
    """A value that no feasible energy, as float64 computes it, is below; O(steps n (rank + log n)) time."""
    return tangent(problem, relaxed_dual(problem, steps))


def relaxed_dual(problem: CardinalityQubo, steps: int) -> Float:
    """F'x near the relaxation's optimum, (rank,), for a LowRank form.

    A radius that `relaxation.applies` refuses is left out here; the tangent at the result may use it again.
    """
    search = LocalSearch(problem, Recorder(problem))
    if not applies(search.model):
        problem = replace(problem, reference=None, radius=None)
        search = LocalSearch(problem, Recorder(problem))
    start = greedy_start(problem)
    return relax(search, start, problem.energy(start), steps).dual
