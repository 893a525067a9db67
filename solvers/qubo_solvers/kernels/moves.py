"""Compiled moves over a Model and State: loading them, flips and swaps with all that is maintained.

A swap of a one i and a zero j of one group changes the energy by fields_j - fields_i - pair(i, j); flipping i
by (1 - 2 x_i) fields_i. Moves are (i, j): a swap, (i, -1): the one i to zero, (-1, j): the zero j to one.
"""

from __future__ import annotations

import numpy as np

from qubo_solvers.kernels.jit import kernel
from qubo_solvers.kernels.model import UNBOUNDED, Model, State
from qubo_solvers.problem import Assignment


@kernel
def field_of(model: Model, state: State, i: int) -> float:
    if not model.low_rank:
        return float(state.fields[i])
    total = 0.0
    for r in range(model.rows.shape[1]):
        total += model.rows[i, r] * state.y[r]
    if model.sparse:
        total += state.fields[i]
    return float(model.linear[i] + total + (0.5 - state.x[i]) * model.own[i])


@kernel
def beside_of(model: Model, i: int, j: int) -> float:
    """The pair of i and j in the sparse part, found by bisection; 0 where there is none."""
    lo, end = model.begins[i], model.begins[i + 1]
    hi = end
    while lo < hi:
        middle = (lo + hi) // 2
        if model.beside[middle] < j:
            lo = middle + 1
        else:
            hi = middle
    return float(model.by[lo]) if lo < end and model.beside[lo] == j else 0.0


@kernel
def pair_of(model: Model, i: int, j: int) -> float:
    if not model.low_rank:
        return float(2.0 * model.rows[i, j])
    total = beside_of(model, i, j) if model.sparse else 0.0
    for r in range(model.rows.shape[1]):
        total += np.float64(model.rows[i, r]) * np.float64(model.rows[j, r])
    return total


@kernel
def spread(model: Model, state: State, i: int, sign: float) -> None:
    """What turning variable i by `sign` does to the sparse part's fields."""
    for s in range(model.begins[i], model.begins[i + 1]):
        state.fields[model.beside[s]] += sign * model.by[s]


@kernel
def toward(model: Model, state: State, i: int) -> int:
    """How flipping i changes the distance to the reference; 0 without a radius."""
    if model.radius == UNBOUNDED:
        return 0
    return 1 if state.x[i] == model.reference[i] else -1


@kernel
def swap(model: Model, state: State, i: int, j: int, delta: float) -> None:
    """The one i becomes zero and the zero j one, both in one group."""
    rows, fields = model.rows, state.fields
    state.distance[0] += toward(model, state, i) + toward(model, state, j)
    if model.low_rank:
        for r in range(rows.shape[1]):
            state.y[r] += np.float64(rows[j, r]) - np.float64(rows[i, r])
        if model.sparse:
            spread(model, state, j, 1.0)
            spread(model, state, i, -1.0)
    else:
        old_i, old_j, pair = fields[i], fields[j], 2.0 * rows[i, j]
        for v in range(rows.shape[1]):
            fields[v] += 2.0 * (np.float64(rows[j, v]) - np.float64(rows[i, v]))
        fields[i] = old_i + pair
        fields[j] = old_j - pair
    pi, pj = state.place[i], state.place[j]
    state.members[pi], state.members[pj] = j, i
    state.place[i], state.place[j] = pj, pi
    state.x[i], state.x[j] = 0, 1
    state.gain[0] += delta


@kernel
def flip(model: Model, state: State, i: int, delta: float) -> None:
    rows, fields = model.rows, state.fields
    state.distance[0] += toward(model, state, i)
    sign = 1.0 - 2.0 * state.x[i]
    if model.low_rank:
        for r in range(rows.shape[1]):
            state.y[r] += sign * rows[i, r]
        if model.sparse:
            spread(model, state, i, sign)
    else:
        old = fields[i]
        for v in range(rows.shape[1]):
            fields[v] += 2.0 * sign * rows[i, v]
        fields[i] = old
    g = model.group[i]
    if state.x[i] == 1:
        state.ones[g] -= 1
    slot = model.start[g] + state.ones[g]  # the last one, or the first zero
    if state.x[i] == 0:
        state.ones[g] += 1
    other, pi = state.members[slot], state.place[i]
    state.members[slot], state.members[pi] = i, other
    state.place[i], state.place[other] = slot, pi
    state.x[i] = 1 - state.x[i]
    state.gain[0] += delta


@kernel
def apply(model: Model, state: State, i: int, j: int, delta: float) -> None:
    if i >= 0 and j >= 0:
        swap(model, state, i, j, delta)
    elif i >= 0:
        flip(model, state, i, delta)
    else:
        flip(model, state, j, delta)
    state.stamp[1] += 1
    state.stamp[0] = state.stamp[1]


@kernel
def change(model: Model, state: State, i: int, j: int) -> float:
    """What the move (i, j) does to the energy."""
    delta = 0.0
    if i >= 0:
        delta -= field_of(model, state, i)
    if j >= 0:
        delta += field_of(model, state, j)
    if i >= 0 and j >= 0:
        delta -= pair_of(model, i, j)
    return delta


@kernel
def walk(model: Model, state: State, x: Assignment) -> None:
    """Go to the assignment x: swaps within each group, flips for what is left."""
    for g in range(len(model.lower)):
        begin, end = model.start[g], model.start[g + 1]
        i, j = begin, begin + state.ones[g]
        while True:
            while i < begin + state.ones[g] and x[state.members[i]] == 1:
                i += 1
            while j < end and x[state.members[j]] == 0:
                j += 1
            a = state.members[i] if i < begin + state.ones[g] else -1
            b = state.members[j] if j < end else -1
            if a < 0 and b < 0:
                break
            apply(model, state, a, b, change(model, state, a, b))
            j = max(j, begin + state.ones[g])


# -- loading ----------------------------------------


@kernel
def load(model: Model, state: State, x: Assignment) -> None:
    """Set everything but the dense fields, which `dense_rows` adds; the low-rank bound is filled here."""
    n = len(x)
    state.gain[0] = 0.0
    state.distance[0] = 0
    state.ones[:] = 0
    state.stamp[1] += 1
    state.stamp[0] = state.stamp[1]
    for i in range(n):
        state.x[i] = x[i]
        state.ones[model.group[i]] += x[i]
        if model.radius != UNBOUNDED and x[i] != model.reference[i]:
            state.distance[0] += 1
    ones, zeros = model.start[:-1].copy(), model.start[:-1] + state.ones
    for i in range(n):
        g = model.group[i]
        if x[i] == 1:
            slot = ones[g]
            ones[g] += 1
        else:
            slot = zeros[g]
            zeros[g] += 1
        state.members[slot] = i
        state.place[i] = slot
    if model.low_rank:
        state.y[:] = 0.0
        state.fields[:] = 0.0
        for i in range(n):
            total = 0.0
            for r in range(model.rows.shape[1]):
                v = np.float64(model.rows[i, r])
                total += v * v
                state.y[r] += x[i] * v
            model.own[i] = total
            if model.sparse:
                largest = 0.0
                for s in range(model.begins[i], model.begins[i + 1]):
                    largest = max(largest, model.by[s])
                model.bound[i] = total + largest
                if x[i] == 1:
                    spread(model, state, i, 1.0)
    else:
        state.fields[:] = model.linear


@kernel
def dense_rows(model: Model, state: State, first: int, last: int) -> None:
    """Add the dense rows first..last to the fields and bound each; after all rows the fields are exact."""
    n = model.rows.shape[1]
    for i in range(first, last):
        own = state.fields[i]
        largest = 0.0
        if state.x[i] == 1:
            for v in range(n):
                state.fields[v] += 2.0 * model.rows[i, v]
            state.fields[i] = own
        for v in range(i):
            largest = max(largest, 2.0 * model.rows[i, v])
        for v in range(i + 1, n):
            largest = max(largest, 2.0 * model.rows[i, v])
        model.bound[i] = largest


@kernel
def field_range(model: Model, state: State) -> tuple[float, float]:
    """The largest |field| and the largest bound: what rounding errors and tolerances are measured against."""
    largest, bound = 0.0, 0.0
    for i in range(len(state.x)):
        largest = max(largest, abs(field_of(model, state, i)))
        bound = max(bound, model.bound[i])
    return largest, bound
