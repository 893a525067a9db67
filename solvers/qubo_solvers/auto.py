"""Chooses a solver by the problem's size, form and constraint and the time there is, and says why."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

from numpy.typing import ArrayLike

from qubo_solvers import flip_search, registry
from qubo_solvers.low_rank_sparse import LowRankSparse
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import LowRank
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities, Solver

SMALL, LARGE = 20, 100_000  # variables: enumerated in well under a second; a tabu step's queue fills slowly


def choose(problem: CardinalityQubo, time_limit: float | None) -> tuple[str, str]:
    """(name of a solver, the reason)."""
    n = problem.n
    if n <= SMALL:
        return "exhaustive", f"{n} variables can be enumerated, which proves the optimum"
    if n > LARGE:
        return "descent", f"{n:,} variables: a verified local optimum is what time allows"
    if flip_search.applies(problem):
        if time_limit is None:
            return "tabu", "a plain dense problem: one-flip tabu search"
        return "path_relinking", f"a plain dense problem and {time_limit:g} s: tabu search between elites"
    if problem.radius is not None:
        return "anneal", "a radius around a reference: annealing prices the distance"
    if isinstance(problem.quadratic, LowRank | LowRankSparse):
        return "anneal", f"a low-rank form (rank {problem.quadratic.rank}): proposals cost its rank only"
    if time_limit is None:
        return "tabu", "counted groups of a dense problem: swap tabu search"
    return "path_relinking", f"counted groups and {time_limit:g} s: swap tabu search between elites"


class Auto:
    """The solver that `choose` names, with its default options; the solution's message says which and why."""

    name: ClassVar[str] = "auto"
    capabilities: ClassVar[Capabilities] = Capabilities(
        "picks one of the others by size, form, constraint and time, and says why",
        exact=True,
        requires=("numba",),
        install="pip install numba",
    )

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Compile what may be chosen."""
        for limit in (None, 1.0):
            compile_it = getattr(registry.get(choose(problem, limit)[0]), "warm_up", None)
            if compile_it is not None:
                compile_it(problem)

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """See Solver."""
        name, reason = choose(problem, time_limit)
        solver: Solver = registry.get(name)
        found = solver.solve(
            problem, seed=seed, time_limit=time_limit, initial=initial, on_incumbent=on_incumbent
        )
        told = f"chose {name}: {reason}"
        message = f"{told}; {found.message}" if found.message else told
        return replace(found, solver=f"{self.name}: {name}", message=message)
