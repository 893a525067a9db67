"""One search state of a problem with its candidate lists, moved in chunks under a recorder's clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers.clocked import Clocked
from qubo_solvers.kernels import candidates, descent, list_tabu, moves
from qubo_solvers.kernels.model import (
    UNBOUNDED,
    Floats,
    Model,
    Random,
    State,
    empty_state,
    model_of,
)
from qubo_solvers.problem import Assignment, CardinalityQubo
from qubo_solvers.solver import Recorder
from qubo_solvers.start import greedy_start, repair

NEVER = UNBOUNDED  # a step that tabu marks never reach: the descents know no tabu
PATIENCE = 8  # groups in a row without a gainful exchange before the radius counts as used well


@dataclass
class Counters:
    """Work done so far, in moves and rounds."""

    moves: int = 0
    exchanges: int = 0
    rounds: int = 0
    verified: bool = False


class LocalSearch(Clocked):
    """The arrays of one solve; `widest` bounds the candidates of one class in a group.

    Call `load` before anything else; every method returns early out of time.
    """

    def __init__(self, problem: CardinalityQubo, recorder: Recorder, widest: int = 64) -> None:
        super().__init__(problem, recorder)
        self.model: Model = model_of(problem)
        self.state: State = empty_state(self.model)
        self.counters = Counters()
        self.tolerance = 0.0
        self.bounded = problem.radius is not None
        self.lists = _lists(self.model, self.bounded, widest)
        self.forward = _queue(len(self.model.lower))
        self.back = _queue(len(self.model.lower)) if self.bounded else self.forward
        n, width = self.model.rows.shape
        self.chunk = 200_000 + 4_000_000 // (1 + (width if self.model.low_rank else 0))
        self._others = self.back
        self._keys = np.empty(n)
        self._zeros = np.empty(n, np.int32)
        self.loaded = False

    # -- incumbents ----------------------------------------

    def energy(self) -> float:
        """The state's energy as maintained (the recorder's are recomputed)."""
        return self.start_energy + float(self.state.gain[0])

    def publish(self, force: bool = False) -> None:
        """Offer the state if it beats the incumbent; now and then, unless forced."""
        if int(self.state.distance[0]) <= self.model.radius:
            self.publish_other(self.state.x, float(self.state.gain[0]), force)

    # -- moving ----------------------------------------

    def load(self, x: ArrayLike, energy: float) -> bool:
        """Make x, of this energy, the state. False where time ended before, or there is nothing to move."""
        self.loaded = False
        if self.problem.n == 0:
            return False
        v = np.ascontiguousarray(x, dtype=np.uint8)
        moves.load(self.model, self.state, v)
        self.start_energy = energy
        if not self.model.low_rank:
            n = self.problem.n
            step = max(1, 4_000_000 // max(1, n))
            for first in range(0, n, step):
                moves.dense_rows(self.model, self.state, first, min(n, first + step))
                if self.stop():
                    return False
        self.loaded = True
        field, bound = moves.field_range(self.model, self.state)
        self.tolerance = 1e-12 * (field + bound)
        return True

    def move_to(self, x: Assignment) -> None:
        """Walk from the loaded state to x, one kernel move for each difference."""
        moves.walk(self.model, self.state, x)

    def descend(self, verify: bool = True) -> bool:
        """To a local optimum: candidate moves, exchanges where the radius binds, then every move checked.

        Returns whether the last check of every move within the radius found none (so it is local optimality,
        to the tolerance of rounding); False where time ended first or `verify` is off.
        """
        self.counters.verified = False
        while not self.stop():
            self.counters.rounds += 1
            self._gather(-2, 2, self.forward)
            self._descend()
            if self._exchange():
                continue
            if not verify or self.stop():
                break
            found = self._verify()
            if found == 0:
                self.counters.verified = True
                break
            if found < 0:
                break
        self.publish(force=True)
        return self.counters.verified

    def begin_tabu(self) -> None:
        """Clear the tabu marks and fill the queues."""
        self.lists.until[:] = 0
        self.lists.now[0] = 0
        self._others = self.refresh_queues()

    def tabu(
        self, best: Assignment, record: Floats, rng: Random, tenure: int, steps: int, patience: int
    ) -> int:
        """Tabu search from the state, between `begin_tabu` and `end_tabu`; returns the steps made.

        record: [gain of `best`, the step it was found at]; both follow. Ends after `patience` steps without
        a new best.
        """
        done = 0
        while done < steps and not self.stop():
            done += list_tabu.tabu(
                self.model, self.state, self.lists, self._others, self.forward, best, record, rng, tenure,
                self.tolerance, patience, steps - done, self.chunk,
            )  # fmt: skip
            self.publish_other(best, float(record[0]))
            if self.lists.now[0] - record[1] >= patience:
                break
        return done

    def end_tabu(self, best: Assignment) -> None:
        """Go to `best`; nothing is tabu any more."""
        self.lists.now[0] = NEVER
        self.move_to(best)

    def price(self) -> float:
        """What a unit of distance is worth here: half of what the best move away from the reference gains and
        of what the best return costs, averaged; 0 while the radius leaves room for a swap."""
        if not self.bounded or self.model.radius - int(self.state.distance[0]) >= 2:
            return 0.0
        self._gather(1, 2, self.forward)
        self._gather(-2, -1, self.back)
        gain = float(self.forward.value[self.forward.tree[1]])
        cost = float(self.back.value[self.back.tree[1]])
        sides = [side for side in (-gain, cost) if math.isfinite(side)]
        return max(0.0, sum(sides) / len(sides) / 2) if sides else 0.0

    def refresh_queues(self) -> candidates.Queue:
        """Fill the queues for tabu: `forward` with moves away from the reference, the one returned with the
        others; without a radius both are the same and hold every move."""
        if self.bounded:
            self._gather(1, 2, self.forward)
            self._gather(-2, 0, self.back)
            return self.back
        self._gather(-2, 2, self.forward)
        return self.forward

    def _gather(self, low: int, high: int, queue: candidates.Queue) -> None:
        if high == 2 and low == -2:
            high = int(min(2, self.model.radius - self.state.distance[0]))
        g = 0
        while g < len(self.model.lower) and not self.stop():
            g = candidates.gather_all(self.model, self.state, self.lists, queue, g, self.chunk, low, high)

    def _descend(self) -> None:
        done = False
        while not done and not self.stop():
            made, done = descent.descend(
                self.model, self.state, self.lists, self.forward, self.tolerance, 1 << 30, self.chunk
            )
            self.counters.moves += made
            self.publish()

    def _exchange(self) -> bool:
        """Pairs of a new move and a return, where the radius leaves no room for a swap; whether any was
        made."""
        if not self.bounded or self.model.radius - int(self.state.distance[0]) >= 2:
            return False
        self._gather(1, 2, self.forward)
        self._gather(-2, -1, self.back)
        total, done = 0, False
        while not done and not self.stop():
            made, done = descent.exchange(
                self.model,
                self.state,
                self.lists,
                self.forward,
                self.back,
                self.tolerance,
                PATIENCE,
                self.chunk,
            )
            total += made
            self.publish()
        self.counters.exchanges += total
        return total > 0

    def _verify(self) -> int:
        """Moves that checking everything made; -1 where time ended first."""
        g = first = total = 0
        while g < len(self.model.lower):
            if self.stop():
                return -1
            g, first, made = descent.verify(
                self.model, self.state, self._keys, self._zeros, g, first, self.tolerance, self.chunk
            )
            total += made
            self.counters.moves += made
            self.publish()
        return total


def start_of(problem: CardinalityQubo, initial: ArrayLike | None) -> Assignment:
    """Where a native search begins: the initial assignment (repaired if need be); else, under a radius, the
    reference (repaired), whose moves are then chosen with their couplings; else the greedy start."""
    if initial is not None:
        return repair(problem, initial)
    if problem.radius is not None and problem.reference is not None:
        return repair(problem, problem.reference)
    return greedy_start(problem)


def _lists(model: Model, bounded: bool, widest: int) -> candidates.Lists:
    sizes = np.diff(model.start)
    classes = 4 if bounded else 2
    width = np.clip(sizes // 16, 8, widest)
    complete = (sizes <= classes * width).astype(np.int64)
    capacity = np.minimum(sizes, classes * width)
    start = np.concatenate([[0], np.cumsum(capacity)]).astype(np.int64)
    scratch = int(capacity.max(initial=1))
    widest = int(width.max(initial=1))
    zeros = np.zeros(len(sizes), np.int64)
    return candidates.Lists(
        start, zeros, width, complete, zeros.copy(), np.zeros(int(start[-1]), np.int32), np.empty(scratch),
        np.empty(scratch, np.int32), np.empty((4, widest)), np.empty((4, widest), np.int32),
        np.zeros(len(model.group), np.int64), np.zeros(1, np.int64), np.full(1, -np.inf),
    )  # fmt: skip


def _queue(m: int) -> candidates.Queue:
    leaves = 1 << max(0, (max(1, m) - 1).bit_length())
    tree = np.zeros(2 * leaves, np.int32)
    level = np.arange(leaves, dtype=np.int32)
    while len(level):
        tree[len(level) : 2 * len(level)] = level
        level = level[::2] if len(level) > 1 else level[:0]
    none = np.full(leaves, -1, np.int32)
    return candidates.Queue(np.full(leaves, np.inf), none, none.copy(), np.full(leaves, -1, np.int64), tree)
