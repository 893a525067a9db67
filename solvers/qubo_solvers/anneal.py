"""Simulated annealing: Metropolis swaps within groups (flips where counts may vary) with maintained fields.

Kirkpatrick, Gelatt and Vecchi 1983 (doi 10.1126/science.220.4598.671) with a geometric temperature schedule.
Departures: it starts from a local optimum instead of a random state; temperatures are multiples of the
couplings' own strength, sampled from the instance (where they are weak against the linear terms a hotter
start would only undo the sorting); at each temperature only variables that could still take part in an
acceptable move are proposed; a radius is a hard limit together with a price on the distance that follows the
temperature, so that the search trades moves for better ones at the limit. Each anneal ends in a descent.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers.kernels import annealing as kernels
from qubo_solvers.kernels.model import Random
from qubo_solvers.local_search import LocalSearch, start_of
from qubo_solvers.native import compiled, endless, positive_number, whole_number
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.relaxation import first_descent
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities, Recorder

SAMPLE = 512  # variables whose couplings among one another set the temperatures
HOT_PRICE = 0.5  # of the price of a unit of distance: the first temperature under a binding radius, at most
MARGIN = 0.01  # of the radius, left free on average while annealing, so that exchanges find room


class Anneal:
    """Simulated annealing with swap moves.

    sweeps      temperatures per anneal, one proposal for each movable variable at each; None: 1,000, fewer
                above 20,000 variables, at least 100
    restarts    anneals in all, each from the best assignment so far; None: until the time limit
    hot, cold   the first and last temperature, in units of the sampled coupling strength of a variable
    verify      as in Descent, for the descent at the end
    relaxation  as in Descent, for the descent before
    """

    name: ClassVar[str] = "anneal"
    capabilities: ClassVar[Capabilities] = Capabilities(
        "simulated annealing with swap moves, temperatures from the instance's couplings",
        requires=("numba",),
        install="pip install numba",
    )

    def __init__(
        self,
        sweeps: int | None = None,
        restarts: int | None = 1,
        hot: float = 0.5,
        cold: float = 0.02,
        verify: bool = True,
        relaxation: int = 40,
    ) -> None:
        self.sweeps = None if sweeps is None else whole_number("anneal", "sweeps", sweeps)
        self.restarts = None if restarts is None else whole_number("anneal", "restarts", restarts)
        self.hot = positive_number("anneal", "hot", hot)
        self.cold = positive_number("anneal", "cold", cold)
        if self.cold > self.hot:
            raise ValueError(f"anneal: cold ({cold}) must not be above hot ({hot})")
        self.verify = verify
        self.relaxation = whole_number("anneal", "relaxation", relaxation, 0)

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Compile for the problem's form and dtype, on a tiny problem."""
        compiled(Anneal(sweeps=2), problem)

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """Anneal `restarts` times or until the time limit; status FEASIBLE or TIME_LIMIT."""
        self.warm_up(problem)
        recorder = Recorder(problem, time_limit, on_incumbent)
        search = LocalSearch(problem, recorder)
        rng = np.random.default_rng(seed)
        start = start_of(problem, initial)
        search.offer(start)
        verified, proposals, accepted, anneals = False, 0, 0, 0
        bound = None
        if problem.n and not search.stop():
            strength = coupling_strength(problem, rng)
            verified, bound = first_descent(
                search, start, recorder.energy, self.relaxation, self.verify and strength == 0
            )
            if strength > 0:
                state = rng.integers(1, 1 << 63, 1, dtype=np.uint64)
                run = _Annealing(search, state)
                limit = endless(self.name, self.restarts, time_limit)
                while anneals < limit and not search.stop():
                    anneals += 1
                    best = recorder.energy
                    if anneals > 1 and search.energy() > best and recorder.assignment is not None:
                        search.move_to(recorder.assignment)
                    run.anneal(self.hot * strength, self.cold * strength, self._sweeps(problem.n))
                    local = run.finish(self.verify)
                    if recorder.energy < best:
                        verified = local
                proposals, accepted = run.proposals, run.accepted
            if not verified and recorder.assignment is not None and not search.stop():
                search.move_to(recorder.assignment)
                verified = search.descend(self.verify)
        work = {
            "anneals": anneals,
            "proposals": proposals,
            "accepted": accepted,
            "moves": search.counters.moves,
            "verified": verified,
        }
        return recorder.solution(self.name, status=search.status(), bound=bound, work=work)

    def _sweeps(self, n: int) -> int:
        return max(100, min(1000, 20_000_000 // max(1, n))) if self.sweeps is None else self.sweeps


class _Annealing:
    """The pool, the price and the best state of the anneals of one solve."""

    def __init__(self, search: LocalSearch, rng: Random) -> None:
        n, m = search.problem.n, len(search.model.lower)
        self.search = search
        self.rng = rng
        self.pool = kernels.Pool(
            np.zeros(n, np.int32),
            np.zeros(m, np.int64),
            np.zeros(m, np.int64),
            np.empty(n),
            np.zeros(kernels.LEVELS, np.int64),
        )
        self.best = np.zeros(n, np.uint8)
        self.best_energy = math.inf
        rank = search.model.rows.shape[1] if search.model.low_rank else 1
        self.share = min(1.0, 2.0 / math.sqrt(rank)) if rank else 0.0
        self.proposals = 0
        self.accepted = 0

    def anneal(self, hot: float, cold: float, sweeps: int) -> None:
        """One geometric schedule from the current state."""
        search = self.search
        self.best_energy = math.inf
        known = search.recorder.energy
        price = search.price()
        if price > 0:
            factor = min(1.0, HOT_PRICE * price / hot)
            hot, cold = factor * hot, factor * cold
        radius = search.model.radius
        target = radius - max(2.0, MARGIN * radius)
        for t in range(sweeps):
            if search.stop():
                return
            temperature = hot * (cold / hot) ** (t / max(1, sweeps - 1))
            self._sweep(temperature, price)
            if search.bounded:
                away = (float(search.state.distance[0]) - target) / max(2.0, MARGIN * radius)
                price = max(0.0, price + 0.25 * temperature * max(-1.0, min(1.0, away)))
            if search.energy() < min(self.best_energy, known):
                self.best[:] = search.state.x
                self.best_energy = search.energy()
                search.publish()

    def finish(self, verify: bool) -> bool:
        """Descend from the last state, and from the best one passed if that was still better."""
        search = self.search
        local = search.descend(verify)
        if self.best_energy < search.energy():
            search.move_to(self.best)
            local = search.descend(verify)
        return local

    def _sweep(self, temperature: float, price: float) -> None:
        search, pool = self.search, self.pool
        g = 0
        while g < len(pool.ones) and not search.stop():
            g = kernels.pool_groups(
                search.model, search.state, pool, temperature, price, self.share, g, search.chunk
            )
        if g < len(pool.ones):
            return
        self.proposals += int(pool.size.sum())
        g = slot = 0
        while g < len(pool.ones) and not search.stop():
            g, slot, accepted = kernels.anneal(
                search.model, search.state, pool, temperature, price, self.rng, g, slot, search.chunk
            )
            self.accepted += accepted


def coupling_strength(problem: CardinalityQubo, rng: np.random.Generator) -> float:
    """How much the moves of other variables change a field: the upper quartile over sampled variables i of
    sqrt(sum_j (2 Q_ij)^2), the sum estimated from sampled j, over no more j than the radius lets move.
    0 where no sampled pair is coupled."""
    n = problem.n
    if n < 2:
        return 0.0
    i = rng.permutation(n)[:SAMPLE]
    block = problem.quadratic.restrict(np.sort(i))
    pairs = 2 * block.dense()
    np.fill_diagonal(pairs, 0.0)
    largest = float(np.abs(pairs).max())
    if largest == 0.0:
        return 0.0
    movable = n - 1 if problem.radius is None else min(n - 1, problem.radius)
    square = ((pairs / largest) ** 2).sum(axis=1) * (movable / (len(i) - 1))
    return largest * math.sqrt(float(np.quantile(square, 0.75)))
