"""Descent: best-improvement swaps (and flips where counts may vary) to a verified local optimum.

Each group keeps a short list of promising variables and its best move; a tournament over the groups gives
the best move of all, rescored exactly before it is made (lazily: groups whose moves got better meanwhile are
found when their list is gathered again). When the lists are spent every move is checked, with a bound on the
coupling of two variables that skips nearly all pairs: |F_i|^2 in the low-rank form (2 F_i'F_j <= |F_i|^2 +
|F_j|^2), the largest coupling of a row in the dense one. Where the radius binds, a move away from the
reference is tried together with the best return.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers.local_search import LocalSearch, start_of
from qubo_solvers.native import compiled, endless, whole_number
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.relaxation import first_descent
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities, Recorder
from qubo_solvers.start import random_start


class Descent:
    """Best-improvement local search.

    restarts    descents in all: the first from the initial assignment (else the reference where there is a
                radius, else the greedy start), the others from random starts; None: until the time limit
    verify      check every move at the end and go on where one gains. The check costs O(pairs whose fields
                are inverted), little unless couplings dominate; without it only the lists are local optima
    relaxation  steps of the convex relaxation that a low-rank problem's first descent starts from instead
                (relaxation.py says where it applies), unless the initial is better than what comes of it;
                it also gives the solution's proven lower bound. 0: none

    work["verified"] tells whether the returned assignment is a local optimum: no single swap (no flip, where
    counts may vary) within the radius gains more than rounding. Exchanges of a new move with a return are
    tried from the lists, not proved absent.
    """

    name: ClassVar[str] = "descent"
    capabilities: ClassVar[Capabilities] = Capabilities(
        "best-improvement swaps to a local optimum, by candidate lists with every move checked at the end",
        requires=("numba",),
        install="pip install numba",
    )

    def __init__(self, restarts: int | None = 1, verify: bool = True, relaxation: int = 40) -> None:
        self.restarts = None if restarts is None else whole_number("descent", "restarts", restarts)
        self.verify = verify
        self.relaxation = whole_number("descent", "relaxation", relaxation, 0)

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Compile for the problem's form and dtype, on a tiny problem."""
        compiled(Descent(), problem)

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """Descend `restarts` times or until the time limit; status FEASIBLE or TIME_LIMIT."""
        self.warm_up(problem)
        recorder = Recorder(problem, time_limit, on_incumbent)
        rng = np.random.default_rng(seed)
        search = LocalSearch(problem, recorder)
        verified = False
        begun = 0
        x = start_of(problem, initial)
        search.offer(x)
        energy = recorder.energy
        limit = endless(self.name, self.restarts, time_limit)
        bound = None
        while begun < limit and not search.stop():
            best = recorder.energy
            if begun == 0:
                verified, bound = first_descent(search, x, energy, self.relaxation, self.verify)
            elif search.load(x, energy):
                local = search.descend(self.verify)
                if recorder.energy < best:
                    verified = local
            begun += 1
            if begun < limit:
                x = random_start(problem, rng)
                energy = problem.energy(x)
        counters = search.counters
        return recorder.solution(
            self.name,
            status=search.status(),
            bound=bound,
            work={
                "restarts": begun,
                "moves": counters.moves,
                "exchanges": counters.exchanges,
                "rounds": counters.rounds,
                "verified": verified,
            },
        )
