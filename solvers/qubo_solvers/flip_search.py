"""One-flip search of plain dense problems under a recorder's clock, in integers where possible."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.clocked import Clocked
from qubo_solvers.kernels import flips
from qubo_solvers.kernels.flips import BLOCK, Flips
from qubo_solvers.problem import Assignment, CardinalityQubo
from qubo_solvers.quadratic_form import Dense
from qubo_solvers.solver import Recorder


def applies(problem: CardinalityQubo) -> bool:
    """Whether the problem is a plain QUBO with a dense matrix: no counts that bind, no radius."""
    sizes = problem.group_sizes()
    free = bool((problem.lower == 0).all() and (problem.upper == sizes).all())
    return isinstance(problem.quadratic, Dense) and free and problem.radius is None and problem.n > 0


_done: set[str] = set()
_warm: WeakSet[CardinalityQubo] = WeakSet()  # their row types were found, which reads all of the matrix


def compiled(problem: CardinalityQubo) -> None:
    """Have every kernel compiled for the types that this problem's search will have; once a process each."""
    if problem in _warm:
        return
    _warm.add(problem)
    assert isinstance(problem.quadratic, Dense)
    matrix = problem.quadratic.matrix
    rows = _whole_rows(matrix, problem.linear + problem.quadratic.diagonal())
    kind = rows.dtype if rows is not None else np.dtype(np.float32 if matrix.dtype == np.float32 else float)
    if (key := kind.str) in _done:
        return
    off = 2**20 if kind == np.int32 else 1 if kind == np.int16 else 0.3
    tiny = (off * (np.ones((8, 8)) - np.eye(8))).astype(np.float32 if kind == np.float32 else float)
    plain = CardinalityQubo.unconstrained(Dense(tiny), -np.ones(8))
    x, y = np.zeros(8, np.uint8), np.ones(8, np.uint8)
    search = FlipSearch(plain, Recorder(plain))
    assert search.state.rows.dtype == kind
    search.load(x, 0.0)
    rng = np.array([1, 2], np.uint64)
    search.tabu(rng, 2, 20, 20)
    search.forget_best()
    search.settle()
    flips.shake(search.state, rng, 2)
    flips.walk(search.state, x)
    flips.relink(search.state, y, np.zeros(8, np.int32), 2)
    _done.add(key)


class FlipSearch(Clocked):
    """The arrays of one solve. `load` before anything else; energies are kept less that of the loaded one."""

    def __init__(self, problem: CardinalityQubo, recorder: Recorder) -> None:
        super().__init__(problem, recorder)
        assert isinstance(problem.quadratic, Dense)
        matrix = problem.quadratic.matrix
        linear = problem.linear + problem.quadratic.diagonal()
        rows = _whole_rows(matrix, linear)
        kind: type[Any] = np.int32 if rows is not None else np.float64
        if rows is None:
            rows = _float_rows(matrix)
        rows.flags.writeable = False
        n, blocks = problem.n, -(-problem.n // BLOCK)
        wide: type[Any] = np.int64 if kind is np.int32 else np.float64
        self.exact = kind is np.int32
        self.linear: NDArray[Any] = linear.astype(kind)
        big = np.array([np.iinfo(np.int32).max if self.exact else np.inf], kind)
        self.state = Flips(
            rows, np.zeros(n, kind), np.ones(n, kind), np.zeros(n, np.int32), np.zeros(blocks, kind),
            np.zeros(blocks, kind), big, np.zeros(2, wide), np.zeros(2, np.int64),
        )  # fmt: skip
        self.best: Assignment = np.zeros(n, np.uint8)
        self.chunk = max(1, 40_000_000 // n)  # flips between looks at the clock
        self.tolerance = 0.0

    def load(self, x: Assignment, energy: float) -> bool:
        """Make x, of this energy, the state and its best. False where time ended before."""
        n, step = self.problem.n, self.chunk
        for first in range(0, n, step):
            if self.stop():
                return False
            flips.load(self.state, self.linear, x, first, min(n, first + step))
        if not self.exact:
            self.tolerance = 1e-12 * float(np.abs(self.state.gains).max())
        self.best[:] = x
        self.start_energy = energy
        return True

    def energy(self) -> float:
        """The best assignment's energy as maintained; exact for integers (the recorder's are recomputed)."""
        return self.start_energy + float(self.state.energy[1])

    def tabu(self, rng: NDArray[np.uint64], tenure: int, steps: int, patience: int) -> int:
        """Tabu search from the state, as the kernel says; returns the steps made, `best` has the best."""
        total = 0
        state = self.state
        state.now[1] = state.now[0]
        while total < steps and not self.stop():
            made = flips.tabu(state, self.best, rng, tenure, min(self.chunk, steps - total), patience)
            total += made
            self.publish_other(self.best, float(state.energy[1]))
            if made == 0 or state.now[0] - state.now[1] >= patience:
                break
        if state.now[0] > 1 << 30:  # steps are int32 in the tabu marks
            state.until[:] = np.maximum(state.until - state.now[0], 0)
            state.now[1] -= state.now[0]
            state.now[0] = 0
        return total

    def settle(self) -> bool:
        """Descend from the best to a local optimum, which is the best then; whether time sufficed."""
        flips.walk(self.state, self.best)
        while flips.descend(self.state, self.tolerance, self.chunk) == self.chunk:
            if self.stop():
                return False
        if self.state.energy[0] < self.state.energy[1]:
            self.forget_best()
        self.publish_other(self.best, float(self.state.energy[1]), force=True)
        return True

    def forget_best(self) -> None:
        """Let the state be the best from now on (its energy stays known)."""
        self.state.energy[1] = self.state.energy[0]
        flips.read(self.state, self.best)


def _whole_rows(matrix: NDArray[np.generic], linear: NDArray[np.float64]) -> NDArray[Any] | None:
    """2Q without its diagonal as int16 or int32, or None: not integers, or gains could pass int32."""
    if not np.array_equal(linear, np.rint(linear)):
        return None
    rows = np.empty(matrix.shape, np.int32)
    largest, widest = 0.0, 0.0
    n = len(matrix)
    step = max(1, (1 << 22) // max(1, n))
    for lo in range(0, n, step):
        part = 2.0 * matrix[lo : lo + step].astype(np.float64)
        part[np.arange(len(part)), np.arange(lo, lo + len(part))] = 0.0
        size = np.abs(part)
        widest = max(widest, float((size.sum(axis=1) + np.abs(linear[lo : lo + step])).max()))
        largest = max(largest, float(size.max()))
        if widest >= 2**30 or not np.array_equal(part, np.rint(part)):
            return None
        rows[lo : lo + step] = part
    return rows.astype(np.int16) if largest < 2**15 else rows


def _float_rows(matrix: NDArray[np.generic]) -> NDArray[Any]:
    kind = np.float32 if matrix.dtype == np.float32 else np.float64
    rows: NDArray[Any] = 2 * matrix.astype(kind)
    np.fill_diagonal(rows, 0)
    return rows
