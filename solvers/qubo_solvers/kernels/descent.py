"""Compiled chunks of a descent: candidate moves, exchanges at the radius, and every move checked."""

from __future__ import annotations

import numpy as np

from qubo_solvers.kernels.candidates import Lists, Queue, enter, note, top
from qubo_solvers.kernels.jit import kernel
from qubo_solvers.kernels.model import Floats, Ids, Model, State
from qubo_solvers.kernels.moves import apply, field_of, pair_of, toward


@kernel
def descend(
    model: Model, state: State, lists: Lists, queue: Queue, tolerance: float, moves: int, work: int
) -> tuple[int, bool]:
    """Best moves first, while they gain more than the tolerance: (moves, whether the lists are spent)."""
    made = 0
    while made < moves and work > 0:
        slack = model.radius - state.distance[0]
        g, scored = top(model, state, lists, queue, -2, min(2, slack))
        work -= scored
        delta, i, j = queue.value[g], queue.one[g], queue.zero[g]
        if not delta < -tolerance:
            return made, True
        apply(model, state, i, j, delta)
        made += 1
        work -= model.rows.shape[0] // 4 if not model.low_rank else 1
        work -= note(model, state, lists, g)
    return made, False


@kernel
def exchange(
    model: Model,
    state: State,
    lists: Lists,
    forward: Queue,
    back: Queue,
    tolerance: float,
    patience: int,
    work: int,
) -> tuple[int, bool]:
    """Where the radius binds: the best move away from the reference, paid for by the best return.

    A pair is kept where both together gain more than the tolerance, else undone and the move set aside.
    Returns (pairs kept, whether `patience` groups in a row found none).
    """
    made, failures = 0, 0
    undo_i, undo_j = np.empty(3, np.int64), np.empty(3, np.int64)
    while failures < patience and work > 0:
        g, scored = top(model, state, lists, forward, 1, 2)
        work -= scored
        if forward.value[g] == np.inf:
            return made, True
        before, stamp = state.gain[0], state.stamp[0]
        undo_i[0], undo_j[0] = forward.one[g], forward.zero[g]
        steps = 1
        apply(model, state, forward.one[g], forward.zero[g], forward.value[g])
        while steps < 3 and state.distance[0] > model.radius:
            h, scored = top(model, state, lists, back, -2, -1)
            work -= scored
            if back.value[h] == np.inf:
                break
            undo_i[steps], undo_j[steps] = back.one[h], back.zero[h]
            steps += 1
            apply(model, state, back.one[h], back.zero[h], back.value[h])
        if state.distance[0] <= model.radius and state.gain[0] < before - tolerance:
            made += 1
            failures = 0
            for s in range(steps):
                v = undo_i[s] if undo_i[s] >= 0 else undo_j[s]
                work -= note(model, state, lists, model.group[v])
            continue
        for s in range(steps - 1, -1, -1):
            apply(model, state, undo_j[s], undo_i[s], 0.0)
        state.gain[0], state.stamp[0] = before, stamp
        enter(forward, g, np.inf, -1, -1, stamp)
        failures += 1
        work -= model.rows.shape[0] if not model.low_rank else 1
    return made, failures >= patience


@kernel
def verify(
    model: Model, state: State, keys: Floats, zeros: Ids, g: int, first: int, tolerance: float, work: int
) -> tuple[int, int, int]:
    """Try every move within the radius from group g on, from its member `first`; make those that gain.

    Each one i takes its best zero. Returns (group, member to go on from, moves made); keys and zeros are
    scratch.
    """
    made = 0
    while g < len(model.lower) and work > 0:
        begin, end = model.start[g], model.start[g + 1]
        fresh = False
        while first < end - begin and work > 0:
            slack = model.radius - state.distance[0]
            if not fresh:  # zeros, the moved ones (a return) in front; their keys and the smallest
                fresh = True
                smallest = np.inf
                n_back, n_zeros = 0, 0
                for s in range(begin + state.ones[g], end):
                    j = state.members[s]
                    keys[j] = field_of(model, state, j)
                    smallest = min(smallest, keys[j] - 0.5 * model.bound[j])
                    zeros[n_zeros] = j
                    if toward(model, state, j) < 0:
                        zeros[n_zeros], zeros[n_back] = zeros[n_back], j
                        n_back += 1
                    n_zeros += 1
                work -= end - begin
            if first >= state.ones[g]:  # a zero: only its flip is left to try
                best, best_i, best_j = np.inf, -1, -1
                j = state.members[begin + first]
                if state.ones[g] < model.upper[g] and toward(model, state, j) <= slack:
                    best, best_j = keys[j], j
            else:
                i = state.members[begin + first]
                field = field_of(model, state, i)
                away = toward(model, state, i)
                best, best_i, best_j = -tolerance, i, -1
                if state.ones[g] > model.lower[g] and away <= slack:
                    best = min(best, -field)
                key = field + 0.5 * model.bound[i]
                found = best < -tolerance
                if smallest - key < best:
                    reach = (
                        n_zeros if away + 1 <= slack or away == 0 else (n_back if away - 1 <= slack else 0)
                    )
                    work -= reach // 8
                    for b in range(reach):
                        j = zeros[b]
                        if keys[j] - 0.5 * model.bound[j] - key >= best:
                            continue
                        delta = keys[j] - field - pair_of(model, i, j)
                        work -= 1
                        if delta < best:
                            best, best_j = delta, j
                            found = True
                if not found:
                    best = np.inf
            if best < -tolerance:
                apply(model, state, best_i, best_j, best)
                made += 1
                fresh = False
                if not model.low_rank:
                    work -= model.rows.shape[0] // 4
            first += 1
        if first >= end - begin:
            g += 1
            first = 0
    return g, first, made
