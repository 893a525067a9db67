"""Compiled moves over a Model and State: load, flips, swaps, candidate lists and the chunks of a descent.

Everything that kernels call lies in this file (numba's cache sees one file). A swap of a one i and a zero j
of one group changes the energy by fields_j - fields_i - pair(i, j); flipping i by (1 - 2 x_i) fields_i. With
key_i = fields_i + (x_i - 1/2) bound_i no swap gains more than key_i - key_j: that bound prunes every scan.
Moves are (i, j): a swap, (i, -1): the one i to zero, (-1, j): the zero j to one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qubo_solvers.kernels.jit import kernel
from qubo_solvers.kernels.model import UNBOUNDED, Floats, Ids, Ints, Model, Random, State
from qubo_solvers.problem import Assignment

LEVELS = 8  # temperatures' worth of cost that annealing still proposes, and sorts its pool by


class Lists(NamedTuple):
    """Per group its most promising variables: item[start[g] : start[g] + length[g]], `width` of each class.

    complete[g]: they are all of the group. used[g]: moves since they were gathered. A variable is tabu while
    until[i] > now[0], except in moves that change the energy by less than aspiration[0]. The rest is scratch.
    """

    start: Ints
    length: Ints
    width: Ints
    complete: Ints
    used: Ints
    item: Ids
    fields: Floats
    order: Ids
    rank: Floats
    picked: Ids
    until: Ints
    now: Ints
    aspiration: Floats


class Queue(NamedTuple):
    """Each group's best move as of `stamp`, and a tournament tree whose root tree[1] is the best group."""

    value: Floats
    one: Ids
    zero: Ids
    stamp: Ints
    tree: Ids


# -- primitives ----------------------------------------


@kernel
def _field(model: Model, state: State, i: int) -> float:
    if not model.low_rank:
        return float(state.fields[i])
    total = 0.0
    for r in range(model.rows.shape[1]):
        total += model.rows[i, r] * state.y[r]
    return float(model.linear[i] + total + (0.5 - state.x[i]) * model.bound[i])


@kernel
def _pair(model: Model, i: int, j: int) -> float:
    if not model.low_rank:
        return float(2.0 * model.rows[i, j])
    total = 0.0
    for r in range(model.rows.shape[1]):
        total += np.float64(model.rows[i, r]) * np.float64(model.rows[j, r])
    return total


@kernel
def _toward(model: Model, state: State, i: int) -> int:
    """How flipping i changes the distance to the reference; 0 without a radius."""
    if model.radius == UNBOUNDED:
        return 0
    return 1 if state.x[i] == model.reference[i] else -1


@kernel
def _swap(model: Model, state: State, i: int, j: int, delta: float) -> None:
    """The one i becomes zero and the zero j one, both in one group."""
    rows, fields = model.rows, state.fields
    state.distance[0] += _toward(model, state, i) + _toward(model, state, j)
    if model.low_rank:
        for r in range(rows.shape[1]):
            state.y[r] += np.float64(rows[j, r]) - np.float64(rows[i, r])
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
def _flip(model: Model, state: State, i: int, delta: float) -> None:
    rows, fields = model.rows, state.fields
    state.distance[0] += _toward(model, state, i)
    sign = 1.0 - 2.0 * state.x[i]
    if model.low_rank:
        for r in range(rows.shape[1]):
            state.y[r] += sign * rows[i, r]
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
def _apply(model: Model, state: State, i: int, j: int, delta: float) -> None:
    if i >= 0 and j >= 0:
        _swap(model, state, i, j, delta)
    elif i >= 0:
        _flip(model, state, i, delta)
    else:
        _flip(model, state, j, delta)
    state.stamp[1] += 1
    state.stamp[0] = state.stamp[1]


@kernel
def _change(model: Model, state: State, i: int, j: int) -> float:
    """What the move (i, j) does to the energy."""
    delta = 0.0
    if i >= 0:
        delta -= _field(model, state, i)
    if j >= 0:
        delta += _field(model, state, j)
    if i >= 0 and j >= 0:
        delta -= _pair(model, i, j)
    return delta


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
        for i in range(n):
            total = 0.0
            for r in range(model.rows.shape[1]):
                v = np.float64(model.rows[i, r])
                total += v * v
                state.y[r] += x[i] * v
            model.bound[i] = total
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
        largest = max(largest, abs(_field(model, state, i)))
        bound = max(bound, model.bound[i])
    return largest, bound


# -- candidate lists and the queue of groups ----------------------------------------


@kernel
def gather(model: Model, state: State, lists: Lists, g: int) -> None:
    """Choose group g's candidates afresh: the `width` best of each class by key (by field where counts vary).

    Classes: ones and zeros, with a radius each of them moved and unmoved, so that returns stay in sight.
    """
    begin, end = model.start[g], model.start[g + 1]
    at = lists.start[g]
    lists.used[g] = 0
    if lists.complete[g] == 1:
        for s in range(end - begin):
            lists.item[at + s] = state.members[begin + s]
        lists.length[g] = end - begin
        return
    width = lists.width[g]
    half = 0.5 if model.lower[g] == model.upper[g] else 0.0
    filled0 = filled1 = filled2 = filled3 = 0
    for s in range(begin, end):
        i = state.members[s]
        x = np.int64(state.x[i])
        # small is good: ones with a large field first, zeros with a small one
        value = _field(model, state, i)
        value = -(value + half * model.bound[i]) if x == 1 else value - half * model.bound[i]
        c = x + (2 if _toward(model, state, i) < 0 else 0)
        filled = filled0 if c == 0 else filled1 if c == 1 else filled2 if c == 2 else filled3
        if filled == width:
            if value >= lists.rank[c, width - 1]:
                continue
            filled -= 1
        k = filled
        while k > 0 and lists.rank[c, k - 1] > value:
            lists.rank[c, k] = lists.rank[c, k - 1]
            lists.picked[c, k] = lists.picked[c, k - 1]
            k -= 1
        lists.rank[c, k] = value
        lists.picked[c, k] = i
        filled += 1
        if c == 0:
            filled0 = filled
        elif c == 1:
            filled1 = filled
        elif c == 2:
            filled2 = filled
        else:
            filled3 = filled
    length = 0
    for kind in range(4):
        filled = filled0 if kind == 0 else filled1 if kind == 1 else filled2 if kind == 2 else filled3
        for k in range(filled):
            lists.item[at + length] = lists.picked[kind, k]
            length += 1
    lists.length[g] = length


@kernel
def _best_move(
    model: Model, state: State, lists: Lists, g: int, low: int, high: int
) -> tuple[float, int, int]:
    """The best admissible move (delta, i, j) of group g's candidates that changes the distance by low..high.

    A tabu variable's moves are admissible below the aspiration level only.
    """
    best, best_i, best_j = np.inf, -1, -1
    now, aspiration = lists.now[0], lists.aspiration[0]
    at, length = lists.start[g], lists.length[g]
    count = state.ones[g]
    n_ones, n_zeros = 0, 0  # ones are written from the front of the scratch, zeros from its back
    size = len(lists.order)
    smallest = np.inf
    for s in range(length):
        i = lists.item[at + s]
        field = _field(model, state, i)
        away = _toward(model, state, i)
        if state.x[i] == 1:
            lists.order[n_ones] = i
            lists.fields[n_ones] = field
            n_ones += 1
            level = best if lists.until[i] <= now else min(best, aspiration)
            if count > model.lower[g] and low <= away <= high and -field < level:
                best, best_i, best_j = -field, i, -1
        else:
            n_zeros += 1
            lists.order[size - n_zeros] = i
            lists.fields[size - n_zeros] = field
            smallest = min(smallest, field - 0.5 * model.bound[i])
            level = best if lists.until[i] <= now else min(best, aspiration)
            if count < model.upper[g] and low <= away <= high and field < level:
                best, best_i, best_j = field, -1, i
    for a in range(n_ones):
        i = lists.order[a]
        field = lists.fields[a]
        key = field + 0.5 * model.bound[i]
        if smallest - key >= best:
            continue
        away = _toward(model, state, i)
        tabu = lists.until[i] > now
        for b in range(size - n_zeros, size):
            j = lists.order[b]
            level = min(best, aspiration) if tabu or lists.until[j] > now else best
            if lists.fields[b] - 0.5 * model.bound[j] - key >= level:
                continue
            total = away + _toward(model, state, j)
            if total < low or total > high:
                continue
            delta = lists.fields[b] - field - _pair(model, i, j)
            if delta < level:
                best, best_i, best_j = delta, i, j
    return best, best_i, best_j


@kernel
def _enter(queue: Queue, g: int, value: float, i: int, j: int, stamp: int) -> None:
    """Set group g's best move and replay its matches up the tree."""
    queue.value[g] = value
    queue.one[g], queue.zero[g] = i, j
    queue.stamp[g] = stamp
    node = (g + len(queue.tree) // 2) >> 1
    while node >= 1:
        a, b = queue.tree[2 * node], queue.tree[2 * node + 1]
        queue.tree[node] = a if queue.value[a] <= queue.value[b] else b
        node >>= 1


@kernel
def _top(model: Model, state: State, lists: Lists, queue: Queue, low: int, high: int) -> tuple[int, int]:
    """The group whose best move is best, rescored until that is true now; and how many were rescored."""
    scored = 0
    while True:
        g = queue.tree[1]
        if queue.stamp[g] == state.stamp[0]:
            return g, scored
        delta, i, j = _best_move(model, state, lists, g, low, high)
        scored += lists.length[g]
        _enter(queue, g, delta, i, j, state.stamp[0])


@kernel
def _note(model: Model, state: State, lists: Lists, g: int) -> int:
    """Count a move in group g; gather its candidates again when half may be spent. Returns the work."""
    lists.used[g] += 1
    if lists.complete[g] == 0 and 2 * lists.used[g] >= lists.width[g]:
        gather(model, state, lists, g)
        return int(model.start[g + 1] - model.start[g])
    return 0


@kernel
def gather_all(
    model: Model, state: State, lists: Lists, queue: Queue, first: int, work: int, low: int, high: int
) -> int:
    """Candidates and best moves of the groups from `first` on, until `work` is spent: the next group."""
    g = first
    while g < len(model.lower) and work > 0:
        gather(model, state, lists, g)
        delta, i, j = _best_move(model, state, lists, g, low, high)
        _enter(queue, g, delta, i, j, state.stamp[0])
        work -= int(model.start[g + 1] - model.start[g])
        g += 1
    return g


# -- descent ----------------------------------------


@kernel
def descend(
    model: Model, state: State, lists: Lists, queue: Queue, tolerance: float, moves: int, work: int
) -> tuple[int, bool]:
    """Best moves first, while they gain more than the tolerance: (moves, whether the lists are spent)."""
    made = 0
    while made < moves and work > 0:
        slack = model.radius - state.distance[0]
        g, scored = _top(model, state, lists, queue, -2, min(2, slack))
        work -= scored
        delta, i, j = queue.value[g], queue.one[g], queue.zero[g]
        if not delta < -tolerance:
            return made, True
        _apply(model, state, i, j, delta)
        made += 1
        work -= model.rows.shape[0] // 4 if not model.low_rank else 1
        work -= _note(model, state, lists, g)
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
        g, scored = _top(model, state, lists, forward, 1, 2)
        work -= scored
        if forward.value[g] == np.inf:
            return made, True
        before, stamp = state.gain[0], state.stamp[0]
        undo_i[0], undo_j[0] = forward.one[g], forward.zero[g]
        steps = 1
        _apply(model, state, forward.one[g], forward.zero[g], forward.value[g])
        while steps < 3 and state.distance[0] > model.radius:
            h, scored = _top(model, state, lists, back, -2, -1)
            work -= scored
            if back.value[h] == np.inf:
                break
            undo_i[steps], undo_j[steps] = back.one[h], back.zero[h]
            steps += 1
            _apply(model, state, back.one[h], back.zero[h], back.value[h])
        if state.distance[0] <= model.radius and state.gain[0] < before - tolerance:
            made += 1
            failures = 0
            for s in range(steps):
                v = undo_i[s] if undo_i[s] >= 0 else undo_j[s]
                work -= _note(model, state, lists, model.group[v])
            continue
        for s in range(steps - 1, -1, -1):
            _apply(model, state, undo_j[s], undo_i[s], 0.0)
        state.gain[0], state.stamp[0] = before, stamp
        _enter(forward, g, np.inf, -1, -1, stamp)
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
                    keys[j] = _field(model, state, j)
                    smallest = min(smallest, keys[j] - 0.5 * model.bound[j])
                    zeros[n_zeros] = j
                    if _toward(model, state, j) < 0:
                        zeros[n_zeros], zeros[n_back] = zeros[n_back], j
                        n_back += 1
                    n_zeros += 1
                work -= end - begin
            if first >= state.ones[g]:  # a zero: only its flip is left to try
                best, best_i, best_j = np.inf, -1, -1
                j = state.members[begin + first]
                if state.ones[g] < model.upper[g] and _toward(model, state, j) <= slack:
                    best, best_j = keys[j], j
            else:
                i = state.members[begin + first]
                field = _field(model, state, i)
                away = _toward(model, state, i)
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
                        delta = keys[j] - field - _pair(model, i, j)
                        work -= 1
                        if delta < best:
                            best, best_j = delta, j
                            found = True
                if not found:
                    best = np.inf
            if best < -tolerance:
                _apply(model, state, best_i, best_j, best)
                made += 1
                fresh = False
                if not model.low_rank:
                    work -= model.rows.shape[0] // 4
            first += 1
        if first >= end - begin:
            g += 1
            first = 0
    return g, first, made


# -- annealing ----------------------------------------


class Pool(NamedTuple):
    """The variables that may move at this temperature, by group at model.start[g]: ones, then zeros.

    Each half has its most movable variables in front. keys: scratch (n,); fill: scratch (LEVELS,).
    """

    item: Ids
    ones: Ints
    size: Ints
    keys: Floats
    fill: Ints


@kernel
def _uniform(rng: Random) -> float:
    """The next number in [0, 1) of xorshift64* (Vigna 2016, doi 10.1145/2845077)."""
    s = rng[0]
    s ^= s >> np.uint64(12)
    s ^= s << np.uint64(25)
    s ^= s >> np.uint64(27)
    rng[0] = s
    return float(((s * np.uint64(2685821657736338717)) >> np.uint64(11)) * (1.0 / 9007199254740992.0))


@kernel
def _pool_half(
    state: State, pool: Pool, first: int, last: int, sign: float, partner: float, width: float, at: int
) -> int:
    """Write the members first..last whose key is within LEVELS widths of the partner's best, by level.

    Returns how many they are.
    """
    pool.fill[:] = 0
    for s in range(first, last):
        cost = max(0.0, sign * (partner - pool.keys[s]))
        if cost < LEVELS * width:
            pool.fill[int(cost / width)] += 1
    total = 0
    for level in range(LEVELS):
        total += pool.fill[level]
        pool.fill[level] = total - pool.fill[level]
    for s in range(first, last):
        cost = max(0.0, sign * (partner - pool.keys[s]))
        if cost < LEVELS * width:
            level = int(cost / width)
            pool.item[at + pool.fill[level]] = state.members[s]
            pool.fill[level] += 1
    return total


@kernel
def pool_groups(
    model: Model,
    state: State,
    pool: Pool,
    temperature: float,
    price: float,
    share: float,
    first: int,
    work: int,
) -> int:
    """Pool the variables, of the groups from `first` on, that may take part in a move worth proposing.

    `price` is added per unit of distance; `share` of the bound is what a coupling is counted on to gain.
    Until `work` fields are spent; returns the next group.
    """
    g = first
    while g < len(model.lower) and work > 0:
        begin, end = model.start[g], model.start[g + 1]
        varies = model.lower[g] < model.upper[g]
        lowest, highest = np.inf, -np.inf
        for s in range(begin, end):
            i = state.members[s]
            sign = 1.0 if state.x[i] == 1 else -1.0
            key = _field(model, state, i) - sign * price * _toward(model, state, i)
            key += 0.5 * share * sign * model.bound[i]
            pool.keys[s] = key
            if sign > 0:
                highest = max(highest, key)
            else:
                lowest = min(lowest, key)
        if varies:  # a flip needs no partner
            lowest, highest = min(lowest, 0.0), max(highest, 0.0)
        middle = begin + state.ones[g]
        ones = _pool_half(state, pool, begin, middle, 1.0, lowest, temperature, begin)
        pool.ones[g] = ones
        pool.size[g] = ones + _pool_half(state, pool, middle, end, -1.0, highest, temperature, begin + ones)
        work -= int(end - begin)
        g += 1
    return g


@kernel
def anneal(
    model: Model,
    state: State,
    pool: Pool,
    temperature: float,
    price: float,
    rng: Random,
    g: int,
    slot: int,
    work: int,
) -> tuple[int, int, int]:
    """One proposal for each pooled variable from (group, slot) on, accepted by Metropolis within the radius.

    A partner is a random pooled variable of the other value, more often one in front (the squared uniform);
    slots keep their chances, so a swap is as likely to be proposed back. Returns (group, slot, accepted).
    """
    accepted = 0
    limit = 16.0 * temperature
    step = 1 if model.low_rank else model.rows.shape[0] // 8
    while g < len(model.lower) and work > 0:
        begin = model.start[g]
        varies = model.lower[g] < model.upper[g]
        while slot < pool.size[g] and work > 0:
            work -= 1
            ones, size = pool.ones[g], pool.size[g]
            if varies and (ones == 0 or ones == size or _uniform(rng) < 0.5):
                i = pool.item[begin + slot]
                one = state.x[i] == 1
                away = _toward(model, state, i)
                room = state.ones[g] > model.lower[g] if one else state.ones[g] < model.upper[g]
                if room and state.distance[0] + away <= model.radius:
                    field = _field(model, state, i)
                    delta = -field if one else field
                    cost = delta + price * away
                    if cost <= 0.0 or (cost < limit and _uniform(rng) < np.exp(-cost / temperature)):
                        _flip(model, state, i, delta)
                        edge = begin + (ones - 1 if one else ones)
                        pool.item[begin + slot] = pool.item[edge]
                        pool.item[edge] = i
                        pool.ones[g] += -1 if one else 1
                        accepted += 1
                        work -= step
                slot += 1
                continue
            if ones == 0 or ones == size:
                slot = size
                break
            if slot < ones:
                a = begin + slot
                b = begin + ones + int(_uniform(rng) ** 2 * (size - ones))
            else:
                a = begin + int(_uniform(rng) ** 2 * ones)
                b = begin + slot
            slot += 1
            i, j = pool.item[a], pool.item[b]
            away = _toward(model, state, i) + _toward(model, state, j)
            if state.distance[0] + away > model.radius:
                continue
            if model.low_rank:
                delta = model.linear[j] - model.linear[i]
                for r in range(model.rows.shape[1]):
                    apart = np.float64(model.rows[j, r]) - np.float64(model.rows[i, r])
                    delta += apart * (state.y[r] + 0.5 * apart)
            else:
                delta = state.fields[j] - state.fields[i]
                if delta - model.bound[i] + price * away >= limit:
                    continue
                delta -= _pair(model, i, j)
            cost = delta + price * away
            if cost <= 0.0 or (cost < limit and _uniform(rng) < np.exp(-cost / temperature)):
                _swap(model, state, i, j, delta)
                pool.item[a], pool.item[b] = j, i
                accepted += 1
                work -= step
        if slot >= pool.size[g]:
            g += 1
            slot = 0
    return g, slot, accepted


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
            _apply(model, state, a, b, _change(model, state, a, b))
            j = max(j, begin + state.ones[g])


# -- tabu search ----------------------------------------


@kernel
def shake(model: Model, state: State, rng: Random, moves: int) -> None:
    """About that many random swaps within groups (flips where counts may vary), within the radius."""
    n = len(state.x)
    for _ in range(moves):
        v = int(_uniform(rng) * n)
        g = model.group[v]
        begin, ones, size = model.start[g], state.ones[g], model.start[g + 1] - model.start[g]
        slack = model.radius - state.distance[0]
        one = state.x[v] == 1
        room = ones > model.lower[g] if one else ones < model.upper[g]
        if room and (ones == 0 or ones == size or _uniform(rng) < 0.5):
            i, j = (v, -1) if one else (-1, v)
        elif ones == 0 or ones == size:
            continue
        elif one:
            i, j = v, state.members[begin + ones + int(_uniform(rng) * (size - ones))]
        else:
            i, j = state.members[begin + int(_uniform(rng) * ones)], v
        away = _toward(model, state, i) if i >= 0 else 0
        if j >= 0:
            away += _toward(model, state, j)
        if away <= slack:
            _apply(model, state, i, j, _change(model, state, i, j))


@kernel
def _forbid(model: Model, state: State, lists: Lists, i: int, tenure: int, rng: Random) -> None:
    """Keep i, just moved, for the tenure and up to ten steps; for fewer where few others could move."""
    g = model.group[i]
    same = state.ones[g] if state.x[i] == 1 else model.start[g + 1] - model.start[g] - state.ones[g]
    lists.until[i] = lists.now[0] + min(tenure + int(10.0 * _uniform(rng)), max(1, same // 2))


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
        delta, i, j = _best_move(model, state, lists, g, -2, high)
        _enter(queue, g, delta, i, j, state.stamp[0])
        h, scored = _top(model, state, lists, queue, -2, high)
        work -= scored + lists.length[g]
        delta, i, j = queue.value[h], queue.one[h], queue.zero[h]
        slack = model.radius - state.distance[0]
        if bounded and slack > 0:
            away, one, zero = _best_move(model, state, lists, g, 1, min(2, slack))
            _enter(forward, g, away, one, zero, state.stamp[0])
            h, scored = _top(model, state, lists, forward, 1, min(2, slack))
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
        _apply(model, state, i, j, delta)
        work -= model.rows.shape[0] // 4 if not model.low_rank else 1
        moved = i if i >= 0 else j
        work -= _note(model, state, lists, model.group[moved])
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
