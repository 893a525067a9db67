"""How hard an instance is: what couplings change against sorting, and what repeated descent finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from qubo_solvers import registry
from qubo_solvers.bench.run import exact_energy
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.solving import solve
from qubo_solvers.start import greedy_start, random_start

SAME = 1e-7
"""Two energies are the same up to this share of the spread between random assignments and the best."""


@dataclass(frozen=True)
class Hardness:
    """Energies as in CardinalityQubo, minimised; all are recomputed in float64 from assignments.

    best            the best found, by any of the solvers and descents
    found_by        which solver found it first
    sorted          that of the best assignment of the linear part alone (couplings off, diagonal kept)
    from_sorted     that of the local optimum which a descent reaches from there
    random          mean of random feasible assignments: the scale of gaps
    gap_of_sorting  (sorted - best) / (random - best): 0 where sorting solves the instance
    descents        descents from random starts
    optima          different energies (up to SAME) among the local optima they ended in
    hits            how many of them ended at the best
    """

    best: float
    found_by: str
    sorted: float
    from_sorted: float
    random: float
    gap_of_sorting: float
    descents: int
    optima: int
    hits: int

    @property
    def easy(self) -> bool:
        """Whether a descent from the sorted assignment, or every second one from random ones, solves it."""
        return self._same(self.from_sorted) or 2 * self.hits >= self.descents > 0

    def _same(self, energy: float) -> bool:
        return energy - self.best <= SAME * max(self.random - self.best, 0.0)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"easy": self.easy}


def hardness(
    problem: CardinalityQubo,
    solvers: tuple[str, ...] = ("tabu", "anneal", "path_relinking"),
    *,
    seconds: float = 2.0,
    descents: int = 100,
    seed: int = 0,
) -> Hardness:
    """Measure an instance: every solver for `seconds`, then `descents` local searches from random starts.

    "Easy" is against the best that these solvers found: an instance that all of them miss can look easy.
    """
    rng = np.random.default_rng(seed)
    descent = registry.get("descent", restarts=1, relaxation=0)
    alone = greedy_start(problem.linear_part())
    first = solve(problem, descent, initial=alone)
    found = {"descent": first.energy}
    for name in solvers:
        found[name] = solve(problem, name, seed=seed, time_limit=seconds, initial=alone).energy
    ends, starts = [], []
    for _ in range(descents):
        start = random_start(problem, rng)
        starts.append(problem.energy(start))
        ends.append(solve(problem, descent, initial=start).energy)
    found["descent"] = min([first.energy, *ends])
    best = min(found.values())
    scale = float(np.mean(starts)) if starts else exact_energy(problem, random_start(problem, rng))
    tolerance = SAME * max(scale - best, 0.0)
    levels = np.sort(np.array(ends))
    sorted_energy = exact_energy(problem, alone)
    return Hardness(
        best, next(name for name, energy in found.items() if energy <= best + tolerance), sorted_energy,
        first.energy, scale, (sorted_energy - best) / (scale - best) if scale > best else 0.0, descents,
        int(1 + (np.diff(levels) > tolerance).sum()) if len(levels) else 0,
        int((levels <= best + tolerance).sum()),
    )  # fmt: skip
