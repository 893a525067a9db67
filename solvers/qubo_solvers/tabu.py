"""Tabu search: the best admissible swap (flip where counts may vary) a step, restarted from the incumbent.

Glover 1989 (doi 10.1287/ijoc.1.3.190); one-flip moves, a tenure in proportion to n plus up to ten steps,
and perturbed restarts as in Palubeckis 2006 (Informatica 17(2)); swaps of the best drops and adds as in
Wu and Hao 2013 (doi 10.1016/j.ejor.2013.06.002). Plain dense problems, and large dense ones with few
exact counts, have kernels of their own (flip_search, swap_search). Departures in the others: each group
has a short candidate list instead of a full scan (all of a small group, else its best by field, gathered
again in turn), and groups are rescored lazily, best first, so that a step costs little however many
groups there are; the move is the best of the lists, not of the whole neighbourhood.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers import flip_search, swap_search
from qubo_solvers.flip_search import FlipSearch
from qubo_solvers.kernels import flips, list_tabu, swaps
from qubo_solvers.local_search import LocalSearch, start_of
from qubo_solvers.native import compiled, tabu_tenure, whole_number
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense
from qubo_solvers.relaxation import first_descent
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities, Recorder
from qubo_solvers.swap_search import SwapSearch

COUNTED = 1_000  # variables from which a problem with exact counts is searched by swap_search's kernels


class Tabu:
    """Tabu search over swaps and flips.

    iterations  steps in all; None: 50 for each variable, at most 2 * 10^8 / n, at least 20,000
    patience    steps without a new best before a restart; None: 5 for each variable, within 500 to 5,000
    tenure      steps that a moved variable stays, to which up to ten random ones are added; None: n / 40,
                within 1 to 50. Never more than half of the variables with its value in its group
    verify      as in Descent, for the descent at the end
    relaxation  as in Descent, for the descent before

    A restart goes back to the incumbent and makes 2 to max(4, n / 20) random moves, at most 500. The
    aspiration level is the incumbent. work["verified"]: whether the answer is a verified local optimum.
    """

    name: ClassVar[str] = "tabu"
    capabilities: ClassVar[Capabilities] = Capabilities(
        "tabu search with swap and flip moves from candidate lists, restarted from the incumbent",
        requires=("numba",),
        install="pip install numba",
    )

    def __init__(
        self,
        iterations: int | None = None,
        patience: int | None = None,
        tenure: int | None = None,
        verify: bool = True,
        relaxation: int = 40,
    ) -> None:
        self.iterations = None if iterations is None else whole_number("tabu", "iterations", iterations)
        self.patience = None if patience is None else whole_number("tabu", "patience", patience)
        self.tenure = None if tenure is None else whole_number("tabu", "tenure", tenure, 0)
        self.verify = verify
        self.relaxation = whole_number("tabu", "relaxation", relaxation, 0)

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Compile for the problem's form and dtype, on a tiny problem."""
        if flip_search.applies(problem):
            flip_search.compiled(problem)
            return
        compiled(Tabu(iterations=100, patience=10), problem)
        if problem.n >= COUNTED and swap_search.applies(problem):
            swap_search.compiled(problem)

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """Search for `iterations` steps or until the time limit; status FEASIBLE or TIME_LIMIT."""
        self.warm_up(problem)
        recorder = Recorder(problem, time_limit, on_incumbent)
        if flip_search.applies(problem):
            return self._solve_plain(problem, recorder, initial, seed)
        dense = isinstance(problem.quadratic, Dense)  # every step gathers: keep the lists short
        search = LocalSearch(problem, recorder, 8 if dense else 64)
        start = start_of(problem, initial)
        search.offer(start)
        verified, steps, restarts = False, 0, 0
        bound = None
        if problem.n and not search.stop():
            _, bound = first_descent(search, start, recorder.energy, self.relaxation, False)
            if search.loaded:
                counted = problem.n >= COUNTED and swap_search.applies(problem)
                steps, restarts = (self._swap if counted else self._search)(search, seed)
                search.publish(force=True)
                verified = search.descend(self.verify)
        work = {
            "iterations": steps,
            "restarts": restarts,
            "moves": search.counters.moves,
            "verified": verified,
        }
        return recorder.solution(self.name, status=search.status(), bound=bound, work=work)

    def _solve_plain(
        self, problem: CardinalityQubo, recorder: Recorder, initial: ArrayLike | None, seed: int
    ) -> Solution:
        search = FlipSearch(problem, recorder)
        start = start_of(problem, initial)
        search.offer(start)
        verified, steps, restarts = False, 0, 0
        if not search.stop() and search.load(start, recorder.energy):
            steps, restarts = self._flip(search, seed)
            verified = search.settle()
        work = {"iterations": steps, "restarts": restarts, "moves": steps, "verified": verified}
        return recorder.solution(self.name, status=search.status(), work=work)

    def _search(self, search: LocalSearch, seed: int) -> tuple[int, int]:
        """Steps and restarts from the state, a local optimum; leaves the state at the best assignment."""
        n = search.problem.n
        rng = np.random.default_rng(seed).integers(1, 1 << 63, 1, dtype=np.uint64)
        moves = np.random.default_rng(seed + 1)
        iterations, patience, tenure = self._sizes(n)
        best = search.state.x.copy()
        record = np.array([float(search.state.gain[0]), 0.0])
        search.begin_tabu()
        steps = restarts = 0
        while steps < iterations and not search.stop():
            steps += search.tabu(best, record, rng, tenure, iterations - steps, patience)
            if steps < iterations and not search.stop():
                restarts += 1
                search.move_to(best)
                list_tabu.shake(search.model, search.state, rng, self._shakes(moves, n))
                record[1] = search.lists.now[0]
        search.end_tabu(best)
        return steps, restarts

    def _swap(self, local: LocalSearch, seed: int) -> tuple[int, int]:
        """The same with the kernels of dense problems with exact counts."""
        n = local.problem.n
        rng = np.random.default_rng(seed).integers(1, 1 << 63, 2, dtype=np.uint64)
        moves = np.random.default_rng(seed + 1)
        iterations, patience, tenure = self._sizes(n)
        search = SwapSearch(local.problem, local.recorder)
        steps = restarts = 0
        if not search.load(local.state.x, local.energy()):
            return steps, restarts
        while steps < iterations and not search.stop():
            steps += search.tabu(rng, tenure, iterations - steps, patience)
            if steps < iterations and not search.stop():
                restarts += 1
                search.walk(search.best)
                swaps.shake(search.state, rng, self._shakes(moves, n))
        local.move_to(search.best)
        return steps, restarts

    def _flip(self, search: FlipSearch, seed: int) -> tuple[int, int]:
        """The same with one-flip moves, for a plain dense problem."""
        n = search.problem.n
        rng = np.random.default_rng(seed).integers(1, 1 << 63, 2, dtype=np.uint64)
        moves = np.random.default_rng(seed + 1)
        iterations, patience, tenure = self._sizes(n)
        steps = restarts = 0
        while steps < iterations and not search.stop():
            steps += search.tabu(rng, tenure, iterations - steps, patience)
            if steps < iterations and not search.stop():
                restarts += 1
                flips.walk(search.state, search.best)
                flips.shake(search.state, rng, self._shakes(moves, n))
        return steps, restarts

    def _sizes(self, n: int) -> tuple[int, int, int]:
        """Iterations, patience and tenure."""
        iterations = max(20_000, min(50 * n, 200_000_000 // max(1, n)))
        patience = max(500, min(5_000, 5 * n))
        return (
            iterations if self.iterations is None else self.iterations,
            patience if self.patience is None else self.patience,
            tabu_tenure(n) if self.tenure is None else self.tenure,
        )

    def _shakes(self, rng: np.random.Generator, n: int) -> int:
        return int(rng.integers(2, 1 + max(4, min(500, n // 20))))
