"""Compiled tabu search over groups of every kind, from candidate lists."""

from __future__ import annotations

import numpy as np

from qubo_solvers.kernels.candidates import Lists, Queue, best_move, enter, gather, note, top
from qubo_solvers.kernels.jit import kernel
from qubo_solvers.kernels.model import UNBOUNDED, Floats, Model, Random, State
from qubo_solvers.kernels.moves import apply, change, toward
from qubo_solvers.kernels.random import uniform
from qubo_solvers.problem import Assignment


@kernel
def shake(model: Model, state: State, rng: Random, moves: int) -> None:
    """About that many random swaps within groups (flips where counts may vary), within the radius."""
    n = len(state.x)
    for _ in range(moves):
        v = int(uniform(rng) * n)
        g = model.group[v]
        begin, ones, size = model.start[g], state.ones[g], model.start[g + 1] - model.start[g]
        slack = model.radius - state.distance[0]
        one = state.x[v] == 1
        room = ones > model.lower[g] if one else ones < model.upper[g]
        if room and (ones == 0 or ones == size or uniform(rng) < 0.5):
            i, j = (v, -1) if one else (-1, v)
        elif ones == 0 or ones == size:
            continue
        elif one:
            i, j = v, state.members[begin + ones + int(uniform(rng) * (size - ones))]
        else:
            i, j = state.members[begin + int(uniform(rng) * ones)], v
        away = toward(model, state, i) if i >= 0 else 0
        if j >= 0:
            away += toward(model, state, j)
        if away <= slack:
            apply(model, state, i, j, change(model, state, i, j))


@kernel
def _forbid(model: Model, state: State, lists: Lists, i: int, tenure: int, rng: Random) -> None:
    """Keep i, just moved, for the tenure and up to ten steps; for fewer where few others could move."""
    g = model.group[i]
    same = state.ones[g] if state.x[i] == 1 else model.start[g + 1] - model.start[g] - state.ones[g]
    lists.until[i] = lists.now[0] + min(tenure + int(10.0 * uniform(rng)), max(1, same // 2))


@kernel
def tabu(
    model: Model,
    state: State,
    lists: Lists,
    queue: Queue,
    forward: Queue,
    best: Assignment,
    record: Floats,
    rng: Random,
    tenure: int,
    tolerance: float,
    patience: int,
    steps: int,
    work: int,
) -> int:
    """Make the best admissible move, again and again; returns the steps taken.

    record: [the best gain, the step (lists.now) it was reached at]; its assignment is in `best`. With a
    radius `queue` has the moves that do not lead away from the reference and `forward` the others, which wait
    there for room. Ends early after `patience` steps without a new best.
    """
    m = len(model.lower)
    bounded = model.radius != UNBOUNDED
    high = 0 if bounded else 2
    done, pending = 0, False
    while done < steps and work > 0 and lists.now[0] - record[1] < patience:
        done += 1
        lists.now[0] += 1
        now = lists.now[0]
        lists.aspiration[0] = record[0] - tolerance - state.gain[0]
        g = now % m  # one group a step is looked at afresh, whatever its last value
        size = model.start[g + 1] - model.start[g]
        if not model.low_rank or (now // m) % (1 + size // (8 * max(1, lists.length[g]))) == 0:
            gather(model, state, lists, g)
            work -= int(size)
        delta, i, j = best_move(model, state, lists, g, -2, high)
        enter(queue, g, delta, i, j, state.stamp[0])
        h, scored = top(model, state, lists, queue, -2, high)
        work -= scored + lists.length[g]
        delta, i, j = queue.value[h], queue.one[h], queue.zero[h]
        slack = model.radius - state.distance[0]
        if bounded and slack > 0:
            away, one, zero = best_move(model, state, lists, g, 1, min(2, slack))
            enter(forward, g, away, one, zero, state.stamp[0])
            h, scored = top(model, state, lists, forward, 1, min(2, slack))
            work -= scored
            if forward.value[h] < delta:
                delta, i, j = forward.value[h], forward.one[h], forward.zero[h]
        if delta == np.inf:  # all is tabu: wait
            state.stamp[1] += 1
            state.stamp[0] = state.stamp[1]
            continue
        if pending and delta >= 0.0:
            best[:] = state.x
            pending = False
        apply(model, state, i, j, delta)
        work -= model.rows.shape[0] // 4 if not model.low_rank else 1
        moved = i if i >= 0 else j
        work -= note(model, state, lists, model.group[moved])
        _forbid(model, state, lists, moved, tenure, rng)
        if i >= 0 and j >= 0:
            _forbid(model, state, lists, j, tenure, rng)
        if state.gain[0] < record[0] - tolerance:
            record[0], record[1] = state.gain[0], now
            pending = True
    if pending:
        best[:] = state.x
    lists.aspiration[0] = -np.inf
    return done
