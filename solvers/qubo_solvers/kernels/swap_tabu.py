"""Compiled tabu search with swaps: the best of a few drops and adds, their pairs exact.

Swap moves as in Palubeckis 2007 (doi 10.1016/j.amc.2006.11.090), constrained to the best drops and adds as in
Wu and Hao 2013 (doi 10.1016/j.ejor.2013.06.002), which a list keeps as in Glover's successive filtering
(Glover and Laguna 1997, Tabu Search, section 3.2). Departures are marked at the line.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qubo_solvers.kernels.jit import inlined, kernel
from qubo_solvers.kernels.model import Random
from qubo_solvers.kernels.random import below
from qubo_solvers.kernels.swaps import BLOCK, GROUPS, WIDTH, Swaps, field_of, read, release, scan, swap, turn
from qubo_solvers.problem import Assignment

NONE = 1 << 62


# -- what is tabu ----------------------------------------


@inlined
def _hold(f: Swaps, p: int, tenure: int, rng: Random) -> None:
    """Keep p, just turned, for the tenure and up to ten steps; for fewer where few others could move."""
    g = f.group[p // BLOCK]
    same = f.ones[g] if f.x[p] == 1 else f.size[g] - f.ones[g]
    if f.until[p] == 0:
        f.held[f.total[0]] = p
        f.total[0] += 1
    f.until[p] = f.now[0] + min(tenure + below(rng, 10), same // 2)


@inlined
def _look_at_held(f: Swaps) -> tuple[int, int]:
    """Free those whose time is over; the best add and the best drop among the others, -1: none.

    Departures: a variable that is freed is a candidate one step later; aspiration looks at these two only.
    """
    s, add, drop = 0, -1, -1
    least = most = np.int64(0)
    while s < f.total[0]:
        p = f.held[s]
        if f.until[p] <= f.now[0]:
            release(f, s)
            continue
        s += 1
        key = np.int64(f.keys[p])
        if f.x[p] == 0:
            if add < 0 or key < least:
                add, least = p, key
        elif drop < 0 or key > most:
            drop, most = p, key
    return add, drop


# -- candidates ----------------------------------------


@inlined
def _insert(cost: Any, at: Any, lo: int, filled: int, room: int, c: Any, p: int) -> int:
    """Put c into the ascending list at lo, of `room` places; returns how many it has then."""
    if filled == room:
        if c >= cost[lo + room - 1]:
            return filled
        filled -= 1
    k = lo + filled
    while k > lo and cost[k - 1] > c:
        cost[k], at[k] = cost[k - 1], at[k - 1]
        k -= 1
    cost[k], at[k] = c, p
    return filled + 1


@inlined
def _best(f: Swaps, g: int, drop: int, offset: int) -> int:
    """The WIDTH best adds (drops) of group g that are not tabu, into the list's front: how many."""
    begin, end = f.first[g], f.first[g + 1]
    cost, at = f.cost[drop], f.at[drop]
    top, none = np.int64(f.level[2]), np.int64(f.level[1] // 2)
    filled = 0
    for b in range(begin, end):  # at most WIDTH blocks have keys up to the worst of the WIDTH best blocks'
        c = top - f.most[b] if drop == 1 else np.int64(f.least[b])
        if c < none:
            filled = _insert(cost, at, 0, filled, WIDTH, c, b)
    if filled == 0:
        return 0
    worst = cost[WIDTH - 1] if filled == WIDTH else none - 1
    filled = 0
    blocks = end - begin
    for t in range(blocks):
        b = begin + t + offset % blocks
        if b >= end:
            b -= blocks
        if (top - f.most[b] if drop == 1 else np.int64(f.least[b])) > worst:
            continue
        for s in range(BLOCK):
            p = b * BLOCK + ((s + offset) & (BLOCK - 1))
            c = top - f.keys[p] if drop == 1 else np.int64(f.keys[p])
            if c <= worst:
                filled = _insert(cost, at, 0, filled, WIDTH, c, p)
                if filled == WIDTH:
                    worst = min(worst, cost[WIDTH - 1])
    return filled


@inlined
def _best_back(f: Swaps, g: int, drop: int, lo: int) -> int:
    """The same of those that lead back to the reference, into the list from lo on: where it ends."""
    filled = 0
    for s in range(f.total[1]):
        p = f.moved[s]
        if f.x[p] == drop and f.until[p] == 0 and f.group[p // BLOCK] == g:
            c = -field_of(f, p) if drop == 1 else field_of(f, p)
            filled = _insert(f.cost[drop], f.at[drop], lo, filled, WIDTH, c, p)
    return lo + filled


@kernel
def _rank_groups(f: Swaps, free: bool, offset: int) -> int:
    """The GROUPS groups whose best drop and add cost least together, into rank and of: how many.

    Departure: only these groups are looked at closely, and their pairs do not count in this choice.
    """
    m = len(f.ones)
    top, none = np.int64(f.level[2]), np.int64(f.level[1] // 2)
    if not free:
        f.back[:] = NONE
        for s in range(f.total[1]):
            p = f.moved[s]
            if f.until[p] == 0:
                g = f.group[p // BLOCK]
                c = -field_of(f, p) if f.x[p] == 1 else field_of(f, p)
                f.back[f.x[p], g] = min(f.back[f.x[p], g], c)
    filled = 0
    for t in range(m):
        g = t + offset % m
        if g >= m:
            g -= m
        add, drop = none, none
        for b in range(f.first[g], f.first[g + 1]):
            add = min(add, np.int64(f.least[b]))
            drop = min(drop, top - f.most[b])
        if add >= none or drop >= none:
            continue
        both = add + drop
        if not free:
            if f.back[0, g] == NONE and f.back[1, g] == NONE:
                continue
            both = min(f.back[0, g] + drop, f.back[1, g] + add)
        filled = _insert(f.rank, f.of, 0, filled, GROUPS, both, g)
    return filled


@inlined
def _pick(f: Swaps, rng: Random) -> tuple[int, int, int]:
    """The best swap (delta, i, j) of the candidates, i and j positions; ties at random; (0, -1, -1): none.

    A tabu variable moves only where that gives a new best.
    """
    offset = below(rng, 1 << 20)
    add, drop = _look_at_held(f)
    slack = f.radius - f.total[1]
    free = slack >= 2
    groups = 1
    f.of[0] = 0
    if len(f.ones) > 1:
        groups = _rank_groups(f, free, offset)
    goal = f.energy[1] - f.energy[0]
    best, best_i, best_j, ties = NONE, -1, -1, 1
    for r in range(groups):
        g = f.of[r]
        if groups > 1 and f.rank[r] - f.largest > best:
            continue
        adds, drops = _best(f, g, 0, offset), _best(f, g, 1, offset)
        if not free:
            adds, drops = _best_back(f, g, 0, adds), _best_back(f, g, 1, drops)
        held_add, held_drop = adds, drops
        if add >= 0 and f.group[add // BLOCK] == g:
            f.cost[0, adds], f.at[0, adds] = field_of(f, add), add
            adds += 1
        if drop >= 0 and f.group[drop // BLOCK] == g:
            f.cost[1, drops], f.at[1, drops] = -field_of(f, drop), drop
            drops += 1
        for a in range(drops):
            i, cost = f.at[1, a], f.cost[1, a] - f.largest
            row = f.rows[f.item[i]]
            for b in range(adds):
                if cost + f.cost[0, b] > best:
                    continue
                j = f.at[0, b]
                if not free and (1 if f.spot[i] < 0 else -1) + (1 if f.spot[j] < 0 else -1) > slack:
                    continue
                delta = f.cost[1, a] + f.cost[0, b] - row[j]
                if (a >= held_drop or b >= held_add) and delta >= goal:
                    continue
                if delta < best:
                    best, best_i, best_j, ties = delta, i, j, 1
                elif delta == best:
                    ties += 1
                    if below(rng, ties) == 0:
                        best_i, best_j = i, j
    return (best, best_i, best_j) if best_i >= 0 else (0, -1, -1)


@kernel
def tabu(f: Swaps, best: Assignment, rng: Random, tenure: int, steps: int, patience: int) -> int:
    """The best candidate swap that is not tabu, again and again; returns the steps made.

    Both variables are tabu for `tenure` and up to ten further steps; aspiration: a new best. Ends early after
    `patience` steps without a new best, whose assignment is in `best`, (n,) by variable.
    """
    done, pending = 0, False
    while done < steps and f.now[0] - f.now[1] < patience:
        delta, i, j = _pick(f, rng)
        f.now[0] += 1
        done += 1
        if i < 0:  # all is tabu: wait
            scan(f)
            continue
        if pending and delta >= 0:
            read(f, best)
            pending = False
        turn(f, i)
        turn(f, j)
        _hold(f, i, tenure, rng)
        _hold(f, j, tenure, rng)
        swap(f, i, j, True)
        f.energy[0] += delta
        if f.energy[0] < f.energy[1]:
            f.energy[1] = f.energy[0]
            f.now[1] = f.now[0]
            pending = True
    if pending:
        read(f, best)
    return done
