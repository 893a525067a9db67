"""Swap search of dense problems with exact counts under a recorder's clock, in integers."""

from __future__ import annotations

from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from qubo_solvers import integer_rows
from qubo_solvers.clocked import Clocked
from qubo_solvers.integer_rows import Scaling
from qubo_solvers.kernels import swap_tabu, swaps
from qubo_solvers.kernels.model import Random
from qubo_solvers.kernels.swaps import BLOCK, GROUPS, WIDTH, Swaps
from qubo_solvers.problem import Assignment, CardinalityQubo
from qubo_solvers.quadratic_form import Dense
from qubo_solvers.solver import Recorder

PADDING = 1.5  # positions for each variable, at most: groups are filled up to whole blocks
SHORT_STEP, STEP = 1 << 29, 1 << 61  # between the levels of int32 and int64 keys; fields: half of it


def applies(problem: CardinalityQubo) -> bool:
    """Whether the matrix is dense, every variable is in a group with an exact count, and the groups are so
    few that each is looked at in every step and so large that blocks hold little padding."""
    if not isinstance(problem.quadratic, Dense) or problem.n == 0 or not problem.exact_counts:
        return False
    if problem.n_groups > GROUPS:  # the general kernels' queue of groups finds more in the same time
        return False
    return int(_blocks(problem).sum()) * BLOCK <= max(PADDING * problem.n, problem.n + BLOCK)


_done: set[bool] = set()
_warm: WeakSet[CardinalityQubo] = WeakSet()  # their row types were found, which reads all of the matrix


def compiled(problem: CardinalityQubo) -> None:
    """Have every kernel compiled for the types that this problem's search will have; once a process each."""
    if problem in _warm:
        return
    _warm.add(problem)
    short = _scaling(problem).short
    if short in _done:
        return
    tiny = np.ones((70, 70)) if short else np.cos(np.add.outer(np.arange(70.0), np.arange(70.0)))
    x = (np.arange(70) % 2).astype(np.uint8)
    groups = np.arange(70) // 35
    counts = np.bincount(groups[x == 1], minlength=2)
    small = CardinalityQubo.grouped(tiny, np.zeros(70), groups, counts, reference=x, radius=2)
    search = SwapSearch(small, Recorder(small))
    assert search.load(x, 0.0)
    assert search.scaling.short == short
    rng = np.array([1, 2], np.uint64)
    search.tabu(rng, 2, 20, 20)
    swaps.shake(search.state, rng, 2)
    search.walk(x)
    search.forget_best()
    _done.add(short)


class SwapSearch(Clocked):
    """The arrays of one solve. `load` before anything else; energies are kept less that of the loaded one.

    Integers are exact: multiples of one number as they are, else fixed point with 30 bits for the largest
    coupling (see integer_rows). Departure from float32 rows with a refresh now and then: nothing drifts.
    """

    def __init__(self, problem: CardinalityQubo, recorder: Recorder) -> None:
        super().__init__(problem, recorder)
        n = problem.n
        self.best: Assignment = np.zeros(n, np.uint8)
        self.chunk = max(1, 20_000_000 // max(1, n))  # swaps between looks at the clock
        self.loaded = False
        self.scaling = Scaling(1.0, True, True)
        self._linear: NDArray[np.signedinteger] = np.zeros(0, np.int32)

    def load(self, x: Assignment, energy: float) -> bool:
        """Make x, feasible and of this energy, the state and its best. False where time ended before."""
        problem = self.problem
        n, step = problem.n, self.chunk
        if not self.loaded and not self._fill():
            return False
        reference = x if problem.radius is None or problem.reference is None else problem.reference
        for first in range(0, n, step):
            if self.stop():
                return False
            swaps.load(self.state, self._linear, x, reference, first, min(n, first + step))
        self.best[:] = x
        self.start_energy = energy
        self.loaded = True
        return True

    def energy(self) -> float:
        """The best assignment's energy as maintained (the recorder's are recomputed)."""
        return self.start_energy + self._gain()

    def tabu(self, rng: Random, tenure: int, steps: int, patience: int) -> int:
        """Tabu search from the state, as the kernel says; returns the steps made, `best` has the best."""
        total = 0
        state = self.state
        state.now[1] = state.now[0]
        while total < steps and not self.stop():
            made = swap_tabu.tabu(state, self.best, rng, tenure, min(self.chunk, steps - total), patience)
            total += made
            self.publish_other(self.best, self._gain())
            if made == 0 or state.now[0] - state.now[1] >= patience:
                break
        return total

    def walk(self, x: Assignment) -> None:
        """Go to x, which is feasible; nothing is tabu any more."""
        swaps.release_all(self.state)
        swaps.walk(self.state, x)

    def forget_best(self) -> None:
        """Let the state be the best from now on (its energy stays known)."""
        self.state.energy[1] = self.state.energy[0]
        swaps.read(self.state, self.best)

    def _gain(self) -> float:
        return float(self.state.energy[1]) / self.scaling.scale

    def _fill(self) -> bool:
        """Find the scale and fill the rows; False where time ended before."""
        problem = self.problem
        assert isinstance(problem.quadratic, Dense)
        matrix = problem.quadratic.matrix
        self.scaling = _scaling(problem)
        item, place, group, first = _positions(problem)
        width = len(item)
        kind = self.scaling.field_type
        rows = np.empty((problem.n, width), self.scaling.row_type)
        for _ in integer_rows.fill(rows, matrix, item, self.scaling.scale):
            if self.stop():
                return False
        linear = np.rint((problem.linear + problem.quadratic.diagonal()) * self.scaling.scale)
        self._linear = np.where(item >= 0, linear[item], 0.0).astype(kind)
        m = problem.n_groups
        step = SHORT_STEP if self.scaling.short else STEP
        far = problem.n if problem.radius is None else problem.radius
        far = 2 * far + 2 if problem.radius is None else far
        blocks = len(group)
        self.state = Swaps(
            rows, item, place, group, first, problem.group_sizes(), np.zeros(m, np.int64),
            np.array([0, step, 2 * step], kind), np.zeros(width, kind), np.zeros(blocks, kind),
            np.zeros(blocks, kind), np.zeros(width, np.uint8), np.zeros(width, np.int64),
            np.zeros(width, np.int32), np.full(width, -1, np.int32), np.zeros(width, np.int32),
            np.zeros(2, np.int64), int(max(0, rows.max(initial=0))), far, np.zeros(2, np.int64),
            np.zeros(2, np.int64), np.zeros((2, 2 * WIDTH + 1), np.int64),
            np.zeros((2, 2 * WIDTH + 1), np.int32), np.zeros(GROUPS, np.int64), np.zeros(GROUPS, np.int32),
            np.zeros((2, m), np.int64),
        )  # fmt: skip
        return True


def _scaling(problem: CardinalityQubo) -> Scaling:
    assert isinstance(problem.quadratic, Dense)
    linear = problem.linear + problem.quadratic.diagonal()
    return integer_rows.scaling(problem.quadratic.matrix, linear, SHORT_STEP / 2, STEP / 2)


def _blocks(problem: CardinalityQubo) -> NDArray[np.int64]:
    """Blocks of each group, (m,)."""
    return -(-problem.group_sizes() // BLOCK)


def _positions(
    problem: CardinalityQubo,
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
    """(item, place, group, first) as in Swaps: variables by group, in their order."""
    blocks, sizes = _blocks(problem), problem.group_sizes()
    first = np.concatenate([[0], np.cumsum(blocks)]).astype(np.int64)
    order = np.argsort(problem.groups, kind="stable")
    begins = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    of = problem.groups[order]
    at = first[of] * BLOCK + np.arange(problem.n) - begins[of]
    item = np.full(int(first[-1]) * BLOCK, -1, np.int32)
    item[at] = order
    place = np.empty(problem.n, np.int32)
    place[order] = at
    return item, place, np.repeat(np.arange(len(sizes)), blocks).astype(np.int32), first
