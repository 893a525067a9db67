"""Exhaustive enumeration of every feasible assignment: the oracle that the other solvers are tested with.

The variables, sorted by group, are cut in two. Each half's assignments are listed with their energies; the
energy of a pair adds 2 x_left' Q x_right, one matrix product for a whole block of pairs. At most one group
straddles the cut, so pairs with a feasible count are found by sorting each half by that group's count. Plain
numpy, on purpose: nothing is shared with the compiled kernels that it judges.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qubo_solvers.problem import Assignment, CardinalityQubo
from qubo_solvers.quadratic_form import Float
from qubo_solvers.solution import OnIncumbent, Solution, Status
from qubo_solvers.solver import Capabilities, Recorder
from qubo_solvers.start import starting_point

_PAIRS = 1 << 20  # pairs scored between two looks at the clock: 8 MiB, some 10 ms
_HALF = 1 << 23  # the largest list of one half's assignments, in entries: 64 MiB in float64


@dataclass(frozen=True)
class Exhaustive:
    """Scores all feasible assignments in float64 and returns the best; equal ones: any, the same every time.

    max_states  refuse problems with more feasible assignments than this (2^24 take about a second)

    OPTIMAL means lowest up to float64 rounding; the bound is then the energy. A time limit or a callback that
    stops gives the best so far. work: states (feasible assignments) and scored.
    """

    name: ClassVar[str] = "exhaustive"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="enumerates every feasible assignment; exact, for up to 2^24 of them",
        exact=True,
        needs_dense=True,
        max_variables=24,
    )

    max_states: int = 1 << 24

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """See Solver; the seed is not used."""
        recorder = Recorder(problem, time_limit, on_incumbent)
        space = _Space(problem)
        total = space.states(0, problem.n)
        if total > self.max_states:
            return Solution.unavailable(
                self.name,
                f"{total:.3g} feasible assignments are more than max_states = {self.max_states}; "
                "take fewer variables or a smaller radius",
            )
        cut = min(range(problem.n + 1), key=lambda c: space.states(0, c) + space.states(c, problem.n))
        half = max(space.states(0, cut) * cut, space.states(cut, problem.n) * (problem.n - cut))
        if half > _HALF:
            return Solution.unavailable(
                self.name, f"half of the variables have {half:.3g} entries to list, more than {_HALF}"
            )
        recorder.offer(starting_point(problem, initial))
        scored = _enumerate(problem, space, cut, recorder)
        work = {"states": int(total), "scored": scored}
        if scored < int(total):
            return recorder.solution(self.name, work=work)
        return recorder.solution(self.name, status=Status.OPTIMAL, bound=recorder.energy, work=work)


class _Space:
    """The feasible set with its variables sorted by group, every free variable a group of its own."""

    def __init__(self, problem: CardinalityQubo) -> None:
        n, m = problem.n, problem.n_groups
        free = problem.groups < 0
        label = np.where(free, m + np.cumsum(free) - 1, problem.groups).astype(np.int64)
        self.order = np.argsort(label, kind="stable")
        self.group = label[self.order]
        n_free = int(free.sum())
        self.lower = np.concatenate([problem.lower, np.zeros(n_free, np.int64)])
        self.upper = np.concatenate([problem.upper, np.ones(n_free, np.int64)])
        self.size = np.bincount(self.group, minlength=m + n_free)
        limited = problem.radius is not None and problem.reference is not None
        reference = np.zeros(n, np.uint8) if problem.reference is None else problem.reference
        self.reference = reference[self.order]
        self.radius = n if not limited or problem.radius is None else min(n, problem.radius)
        self._known: dict[tuple[int, int], float] = {}

    def bounds(self, g: int, inside: int) -> tuple[int, int]:
        """What `inside` variables of group g may sum to, so that the group's others can complete it."""
        return max(0, int(self.lower[g]) - (int(self.size[g]) - inside)), min(inside, int(self.upper[g]))

    def states(self, lo: int, hi: int) -> float:
        """How many assignments of the variables lo..hi-1 a feasible one can begin with (exact below 2^53)."""
        if (lo, hi) not in self._known:
            by_distance = np.ones(1)  # coefficient d: the number at distance d from the reference
            for g in np.unique(self.group[lo:hi]):
                here = self.reference[lo:hi][self.group[lo:hi] == g]
                by_distance = np.convolve(by_distance, self._one_group(int(g), here))[: self.radius + 1]
            self._known[lo, hi] = float(by_distance.sum())
        return self._known[lo, hi]

    def _one_group(self, g: int, reference: Assignment) -> Float:
        ones = int(reference.sum())
        zeros = len(reference) - ones
        lower, upper = self.bounds(g, len(reference))
        out = np.zeros(len(reference) + 1)
        for removed in range(ones + 1):
            for added in range(max(0, lower - ones + removed), min(zeros, upper - ones + removed) + 1):
                out[removed + added] += float(comb(ones, removed) * comb(zeros, added))
        return out

    def listed(self, lo: int, hi: int, recorder: Recorder) -> NDArray[np.uint8] | None:
        """All such assignments, one a row, (states, hi - lo); None where the recorder says to stop."""
        rows = np.zeros((1, 0), np.uint8)
        distance = np.zeros(1, np.int64)
        count = np.zeros(1, np.int64)  # of the group at hand
        for v in range(lo, hi):
            if recorder.should_stop():
                return None
            g = int(self.group[v])
            if v == lo or g != self.group[v - 1]:
                count = np.zeros(len(rows), np.int64)
            inside = int((self.group[lo:hi] == g).sum())
            still = int((self.group[v + 1 : hi] == g).sum())
            lower, upper = self.bounds(g, inside)
            bit = np.repeat(np.array([0, 1], np.uint8), len(rows))
            rows = np.column_stack([np.vstack([rows, rows]), bit])
            count = np.concatenate([count, count + 1])
            distance = np.concatenate([distance, distance]) + (bit != self.reference[v])
            keep = (count <= upper) & (count + still >= lower) & (distance <= self.radius)
            rows, count, distance = rows[keep], count[keep], distance[keep]
        return rows


def _enumerate(problem: CardinalityQubo, space: _Space, cut: int, recorder: Recorder) -> int:
    """Score every feasible pair of halves, offering each block's best; returns how many were scored."""
    n = problem.n
    left, right = space.listed(0, cut, recorder), space.listed(cut, n, recorder)
    if left is None or right is None:
        return 0
    q = problem.quadratic.dense()[np.ix_(space.order, space.order)]
    linear = problem.linear[space.order]
    straddles = 0 < cut < n and space.group[cut - 1] == space.group[cut]
    g = int(space.group[cut - 1]) if straddles else 0
    count_left = left[:, space.group[:cut] == g].sum(axis=1, dtype=np.int64) * straddles
    count_right = right[:, space.group[cut:] == g].sum(axis=1, dtype=np.int64) * straddles
    lower, upper = (int(space.lower[g]), int(space.upper[g])) if straddles else (0, 0)
    right = right[np.argsort(count_right, kind="stable")]
    count_right = np.sort(count_right)
    x, y = left.astype(np.float64), right.astype(np.float64)
    energy_x = np.einsum("ij,ij->i", x @ q[:cut, :cut], x) + x @ linear[:cut] + problem.offset
    energy_y = np.einsum("ij,ij->i", y @ q[cut:, cut:], y) + y @ linear[cut:]
    cross = 2 * (x @ q[:cut, cut:])
    away_x = np.count_nonzero(left != space.reference[:cut], axis=1)
    away_y = np.count_nonzero(right != space.reference[cut:], axis=1)
    scored = 0
    for count in np.unique(count_left):
        rows = np.flatnonzero(count_left == count)
        lo, hi = np.searchsorted(count_right, [lower - count, upper - count + 1])
        step = max(1, _PAIRS // max(1, hi - lo))
        for begin in range(0, len(rows) if hi > lo else 0, step):
            for from_y in range(lo, hi, _PAIRS):
                to_y = min(hi, from_y + _PAIRS)
                block = rows[begin : begin + step]
                energy = energy_x[block, None] + energy_y[None, from_y:to_y] + cross[block] @ y[from_y:to_y].T
                if space.radius < n:
                    far = away_x[block, None] + away_y[None, from_y:to_y] > space.radius
                    energy[far] = np.inf
                    scored += int(energy.size - np.count_nonzero(far))
                else:
                    scored += energy.size
                best = int(energy.argmin())
                i, j = divmod(best, to_y - from_y)
                if energy[i, j] < recorder.energy:
                    z = np.empty(n, np.uint8)
                    z[space.order] = np.concatenate([left[block[i]], right[from_y + j]])
                    recorder.offer(z)
                if recorder.should_stop():
                    return scored
    return scored
