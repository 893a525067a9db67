"""Compiled candidate lists of groups, and the queue that has the group with the best move in front.

With key_i = fields_i + (x_i - 1/2) bound_i no swap gains more than key_i - key_j: that prunes every scan.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qubo_solvers.kernels.jit import kernel
from qubo_solvers.kernels.model import Floats, Ids, Ints, Model, State
from qubo_solvers.kernels.moves import field_of, pair_of, toward


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
        value = field_of(model, state, i)
        value = -(value + half * model.bound[i]) if x == 1 else value - half * model.bound[i]
        c = x + (2 if toward(model, state, i) < 0 else 0)
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
def best_move(
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
        field = field_of(model, state, i)
        away = toward(model, state, i)
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
        away = toward(model, state, i)
        tabu = lists.until[i] > now
        for b in range(size - n_zeros, size):
            j = lists.order[b]
            level = min(best, aspiration) if tabu or lists.until[j] > now else best
            if lists.fields[b] - 0.5 * model.bound[j] - key >= level:
                continue
            total = away + toward(model, state, j)
            if total < low or total > high:
                continue
            delta = lists.fields[b] - field - pair_of(model, i, j)
            if delta < level:
                best, best_i, best_j = delta, i, j
    return best, best_i, best_j


@kernel
def enter(queue: Queue, g: int, value: float, i: int, j: int, stamp: int) -> None:
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
def top(model: Model, state: State, lists: Lists, queue: Queue, low: int, high: int) -> tuple[int, int]:
    """The group whose best move is best, rescored until that is true now; and how many were rescored."""
    scored = 0
    while True:
        g = queue.tree[1]
        if queue.stamp[g] == state.stamp[0]:
            return g, scored
        delta, i, j = best_move(model, state, lists, g, low, high)
        scored += lists.length[g]
        enter(queue, g, delta, i, j, state.stamp[0])


@kernel
def note(model: Model, state: State, lists: Lists, g: int) -> int:
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
        delta, i, j = best_move(model, state, lists, g, low, high)
        enter(queue, g, delta, i, j, state.stamp[0])
        work -= int(model.start[g + 1] - model.start[g])
        g += 1
    return g
