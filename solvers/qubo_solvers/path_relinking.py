"""Path relinking: tabu search from points between elite solutions, for plain and for counted problems.

Wang, Lu, Glover and Hao 2012 (doi 10.1016/j.ejor.2012.07.012): a reference set of local optima by tabu
search, all ordered pairs of it relinked greedily (their PR1), the best point of a path's middle improved by
tabu search and taken in where it beats the worst, the set rebuilt when no pair is new. The crossover of
counted problems keeps what two elites share and draws the rest, as in Wu and Hao 2013 (doi
10.1016/j.ejor.2013.06.002). Departures: tenures as in Palubeckis 2006; the whole set is rebuilt but its best,
with longer searches; counted problems search with swaps from candidate lists (see tabu.py).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers import flip_search, swap_search
from qubo_solvers.clocked import Clocked
from qubo_solvers.flip_search import FlipSearch
from qubo_solvers.kernels import flips
from qubo_solvers.local_search import LocalSearch, start_of
from qubo_solvers.native import compiled, tabu_tenure, whole_number
from qubo_solvers.problem import Assignment, CardinalityQubo
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities, Recorder
from qubo_solvers.start import half_way, random_start
from qubo_solvers.swap_search import SwapSearch

SPARSE = 0.1
"""Share of couplings that are not 0 below which a plain problem's searches are longer, each with a tenure of
its own between one and four times the usual: G14 (1.5 %) then comes to the best known in 1 to 24 s (4 seeds);
with the usual ones it stays 11 to 29 short of 3,064 after ten (6 runs)."""

SPARSE_PATIENCE = 10


class PathRelinking:
    """Tabu search, restarted between elite solutions.

    searches  tabu searches in all; None: 20 without a time limit, as many as fit with one
    elites    solutions in the reference set; None: 10, for plain dense problems of 5,000 variables or more 20
    patience  steps of a tabu search without a new best before it ends, doubled with each new set; None: 5 for
              each variable (10 beyond 5,000), at least 1,000
    """

    name: ClassVar[str] = "path_relinking"
    capabilities: ClassVar[Capabilities] = Capabilities(
        "tabu search from points between elite solutions, the one for long searches",
        requires=("numba",),
        install="pip install numba",
    )

    def __init__(
        self, searches: int | None = None, elites: int | None = None, patience: int | None = None
    ) -> None:
        self.searches = None if searches is None else whole_number(self.name, "searches", searches)
        self.elites = None if elites is None else whole_number(self.name, "elites", elites, 2)
        self.patience = None if patience is None else whole_number(self.name, "patience", patience)

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Compile for the problem's form and dtype, on a tiny problem."""
        if flip_search.applies(problem):
            flip_search.compiled(problem)
            return
        compiled(PathRelinking(searches=3, elites=2, patience=10), problem)
        if problem.radius is None and swap_search.applies(problem):
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
        """Search `searches` times or until the time limit; status FEASIBLE or TIME_LIMIT."""
        self.warm_up(problem)
        recorder = Recorder(problem, time_limit, on_incumbent)
        patience = self.patience or max(1_000, (5 if problem.n <= 5_000 else 10) * problem.n)
        improver: Improver
        if flip_search.applies(problem):
            improver = Flipping(FlipSearch(problem, recorder), seed, patience)
        elif problem.radius is None and swap_search.applies(problem):
            improver = Swapping(SwapSearch(problem, recorder), seed, patience)
        else:
            improver = Listing(LocalSearch(problem, recorder), seed, patience)
        search = improver.search
        start = start_of(problem, initial)
        search.offer(start)
        verified, made = False, 0
        if problem.n and not search.stop() and improver.load(start, recorder.energy):
            made = self._run(improver, start, seed, time_limit is not None)
            verified = improver.settle()
        return recorder.solution(
            self.name, status=search.status(), work={"searches": made, "verified": verified}
        )

    def _run(self, improver: Improver, start: Assignment, seed: int, timed: bool) -> int:
        rng = np.random.default_rng([seed, 1])
        most = self.searches or (None if timed else 20)
        large = isinstance(improver, Flipping) and not improver.sparse and len(start) >= 5_000
        elites = self.elites or (20 if large else 10)
        pool: list[Elite] = []
        pairs: deque[tuple[Elite, Elite]] = deque()
        made = 0

        def search_from(x: Assignment) -> Elite:
            nonlocal made
            made += 1
            return improver.improve(x)

        def going() -> bool:
            return (most is None or made < most) and not improver.search.stop()

        while going():
            if not pairs:  # the first set, or a new one around the best, from longer searches
                improver.patience *= 2 if pool else 1
                pool = [min(pool, key=_energy)] if pool else [search_from(start)]
                fresh = 0
                while len(pool) < elites and fresh < 2 * elites and going():
                    fresh += 1  # some may end in the same assignment
                    _take(pool, search_from(random_start(improver.search.problem, rng)), elites, pairs)
                continue
            at = int(rng.integers(len(pairs)))
            pairs.rotate(-at)
            a, b = pairs.popleft()
            x = improver.between(a.x, b.x, rng)
            if x is not None:
                _take(pool, search_from(x), elites, pairs)
        return made


@dataclass(frozen=True, eq=False)
class Elite:
    """A local optimum of tabu search and its energy as maintained."""

    x: Assignment
    energy: float


def _energy(elite: Elite) -> float:
    return elite.energy


def _take(pool: list[Elite], new: Elite, most: int, pairs: deque[tuple[Elite, Elite]]) -> None:
    """Take a solution into the pool, in place of the worst where it is full, and queue its pairs."""
    if any(new.energy == old.energy and np.array_equal(new.x, old.x) for old in pool):
        return
    if len(pool) == most:
        worst = max(pool, key=_energy)
        if new.energy >= worst.energy:
            return
        pool.remove(worst)
        kept = [pair for pair in pairs if worst not in pair]
        pairs.clear()
        pairs.extend(kept)
    for old in pool:
        pairs.extend(((old, new), (new, old)))
    pool.append(new)


class Improver(Protocol):
    """Tabu search over one kind of move. patience: steps without a new best before a search ends."""

    patience: int

    @property
    def search(self) -> Clocked:
        """The clock and the problem."""

    def load(self, x: Assignment, energy: float) -> bool:
        """Begin at x, of this energy; False where time ended before."""

    def improve(self, x: Assignment) -> Elite:
        """The best assignment that tabu search from x finds."""

    def between(self, a: Assignment, b: Assignment, rng: np.random.Generator) -> Assignment | None:
        """A promising assignment between two; None where they are too close."""

    def settle(self) -> bool:
        """Make the best found a local optimum; whether time sufficed."""


class Flipping:
    """Plain dense problems: one-flip moves, greedy paths."""

    def __init__(self, search: FlipSearch, seed: int, patience: int) -> None:
        n = search.problem.n
        self.search, self.patience = search, patience
        self.load = search.load
        self.tenure = tabu_tenure(n)
        self.sparse = np.count_nonzero(search.state.rows) < SPARSE * n * n
        self._rng = np.random.default_rng(seed).integers(1, 1 << 63, 2, dtype=np.uint64)
        self._tenures = np.random.default_rng([seed, 2])
        self._order = np.zeros(n, np.int32)

    def improve(self, x: Assignment) -> Elite:
        search = self.search
        flips.walk(search.state, x)
        search.forget_best()
        tenure, patience = self.tenure, self.patience
        if self.sparse:
            tenure, patience = int(self._tenures.integers(tenure, 4 * tenure + 1)), SPARSE_PATIENCE * patience
        search.tabu(self._rng, tenure, 1 << 62, patience)
        search.publish_other(search.best, float(search.state.energy[1]), force=True)
        return Elite(search.best.copy(), search.energy())

    def between(self, a: Assignment, b: Assignment, rng: np.random.Generator) -> Assignment | None:
        apart = int(np.count_nonzero(a != b))
        flips.walk(self.search.state, a)
        if flips.relink(self.search.state, b, self._order, max(1, apart // 3)) == 0:
            return None
        x = np.empty_like(a)
        flips.read(self.search.state, x)
        return x

    def settle(self) -> bool:
        best = self.search.recorder.assignment
        if best is None or self.search.stop():
            return False
        flips.walk(self.search.state, best)
        self.search.forget_best()
        return self.search.settle()


class Swapping:
    """Dense problems with exact counts and no radius (which descents with exchanges use better): swaps."""

    def __init__(self, search: SwapSearch, seed: int, patience: int) -> None:
        self.search, self.patience = search, patience
        self.load = search.load
        self.tenure = tabu_tenure(search.problem.n)
        self._rng = np.random.default_rng(seed).integers(1, 1 << 63, 2, dtype=np.uint64)

    def improve(self, x: Assignment) -> Elite:
        search = self.search
        search.walk(x)
        search.forget_best()
        search.tabu(self._rng, self.tenure, 1 << 62, self.patience)
        search.publish_other(search.best, search.energy() - search.start_energy, force=True)
        return Elite(search.best.copy(), search.energy())

    def between(self, a: Assignment, b: Assignment, rng: np.random.Generator) -> Assignment | None:
        return half_way(self.search.problem, a, b, rng) if np.count_nonzero(a != b) >= 4 else None

    def settle(self) -> bool:
        """With every swap checked in floats, on what may be another state of the search."""
        best = self.search.recorder.assignment
        if best is None or self.search.stop():
            return False
        local = LocalSearch(self.search.problem, self.search.recorder)
        return local.load(best, self.search.recorder.energy) and local.descend(True)


class Listing:
    """The others, low-rank or with counts that may vary: swaps and flips from candidate lists."""

    def __init__(self, search: LocalSearch, seed: int, patience: int) -> None:
        self.search, self.patience = search, min(patience, 5_000)
        self.load = search.load
        self._rng = np.random.default_rng(seed).integers(1, 1 << 63, 1, dtype=np.uint64)

    def improve(self, x: Assignment) -> Elite:
        search = self.search
        search.move_to(x)
        search.descend(False)
        best, record = search.state.x.copy(), np.array([float(search.state.gain[0]), 0.0])
        search.begin_tabu()
        search.tabu(best, record, self._rng, tabu_tenure(search.problem.n), 1 << 62, self.patience)
        search.end_tabu(best)
        search.publish(force=True)
        return Elite(best, search.energy())

    def between(self, a: Assignment, b: Assignment, rng: np.random.Generator) -> Assignment | None:
        return half_way(self.search.problem, a, b, rng) if np.count_nonzero(a != b) >= 4 else None

    def settle(self) -> bool:
        best = self.search.recorder.assignment
        if best is None or self.search.stop():
            return False
        self.search.move_to(best)
        return self.search.descend(True)
