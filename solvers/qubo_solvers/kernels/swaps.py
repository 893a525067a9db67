"""Compiled swaps of dense problems with exact counts: each update of the fields also finds candidates.

A swap of a one i and a zero j of one group changes the energy by fields_j - fields_i - pair(i, j) and reads
two rows of the matrix, once. All is in integers, so nothing drifts.

Variables stand at positions: group after group, each filled up to whole blocks. The key of a position is its
field, raised by a level where it is tabu or holds a one. So the smallest key of a block is that of its best
add and the largest that of its best drop, in loops that vectorise: no branches, no marks, a fixed length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.kernels.jit import inlined, kernel
from qubo_solvers.kernels.model import Ids, Ints, Random
from qubo_solvers.kernels.random import below
from qubo_solvers.problem import Assignment

BLOCK = 32  # keys of which the extremes are kept
CHUNK = 1024  # positions whose keys are updated before their blocks are looked at: they are in cache then
WIDTH = 8  # candidates of each class
GROUPS = 4  # groups looked at closely in a step


class Swaps(NamedTuple):
    """A state of the search; T is int32 or int64, p a position, v a variable.

    rows    (n, width) 2Q off its diagonal and 0 on it, [v, p]; 0 at padding; int16 (int32 where T is int64)
    item    (width,) the variable at a position, -1 at padding; place (n,): its inverse
    group   (blocks,) the group of a block; first (m + 1,) where a group's blocks begin
    size    (m,) variables of a group; ones (m,) its count
    level   (3,) T: added to the field of a zero, of a tabu position and of a one. Fields lie within half of
            the first step
    keys    (width,) T
    least   (blocks,) T, the smallest key of a block; most (blocks,) T, the largest
    x       (width,) uint8
    until   (width,) the step at which a position is free again, 0: not tabu; held (width,) those that are
    spot    (width,) the place in `moved` or -1; moved (width,) those that differ from the reference
    total   (2,) how many are in held, and in moved
    largest the largest pair, or 0
    radius  the most that may be in moved; wide enough for all where there is no radius
    energy  (2,) int64: the current energy and the best, both less the start's
    now     (2,) int64: steps done, and the step of the best
    cost    (2, 2 WIDTH + 1) int64, what an add (row 0) or a drop (row 1) alone costs; at: its position
    rank    (GROUPS,) int64 the least that a group's swaps cost without their pair; of: which group
    back    (2, m) int64, the least cost of an add or a drop that leads back to the reference
    """

    rows: NDArray[Any]
    item: Ids
    place: Ids
    group: Ids
    first: Ints
    size: Ints
    ones: Ints
    level: NDArray[Any]
    keys: NDArray[Any]
    least: NDArray[Any]
    most: NDArray[Any]
    x: Assignment
    until: Ints
    held: Ids
    spot: Ids
    moved: Ids
    total: Ints
    largest: int
    radius: int
    energy: Ints
    now: Ints
    cost: Ints
    at: Ids
    rank: Ints
    of: Ids
    back: Ints


# -- the state ----------------------------------------


@kernel
def _add(enters: Any, leaves: Any, keys: Any) -> None:
    for p in range(len(keys)):
        keys[p] += enters[p] - leaves[p]


@kernel
def _extremes(keys: Any, least: Any, most: Any) -> None:
    """The smallest and the largest key of each block; the fixed length is what makes it fast."""
    for b in range(len(least)):
        lo = keys[b * BLOCK]
        hi = lo
        for s in range(BLOCK):
            key = keys[b * BLOCK + s]
            lo = min(lo, key)
            hi = max(hi, key)
        least[b], most[b] = lo, hi


@kernel
def scan(f: Swaps) -> None:
    """Find every block's extremes anew."""
    _extremes(f.keys, f.least, f.most)


@inlined
def level_of(f: Swaps, p: int) -> Any:
    return f.level[1 if f.until[p] > 0 else 2 * f.x[p]]


@inlined
def field_of(f: Swaps, p: int) -> int:
    return int(np.int64(f.keys[p]) - np.int64(level_of(f, p)))


@inlined
def turn(f: Swaps, p: int) -> None:
    """Position p takes its other value; its key is that of the field alone until it is raised again."""
    f.keys[p] -= level_of(f, p)
    f.x[p] = 1 - f.x[p]
    s = f.spot[p]
    if s >= 0:  # back at the reference
        f.total[1] -= 1
        last = f.moved[f.total[1]]
        f.moved[s] = last
        f.spot[last] = s
        f.spot[p] = -1
    else:
        f.spot[p] = f.total[1]
        f.moved[f.total[1]] = p
        f.total[1] += 1


@inlined
def swap(f: Swaps, i: int, j: int, look: bool) -> None:
    """Update the keys for the one at i and the zero at j, both of one group and both just turned; where
    wanted the blocks' extremes, too, else `scan` is to follow."""
    width = len(f.keys)
    enters, leaves = f.rows[f.item[j]], f.rows[f.item[i]]
    f.keys[i] += level_of(f, i)
    f.keys[j] += level_of(f, j)
    for lo in range(0, width, CHUNK):
        hi = min(width, lo + CHUNK)
        _add(enters[lo:hi], leaves[lo:hi], f.keys[lo:hi])
        if look:
            a, b = lo // BLOCK, hi // BLOCK
            _extremes(f.keys[lo:hi], f.least[a:b], f.most[a:b])


@kernel
def load(f: Swaps, linear: Any, x: Assignment, reference: Assignment, first: int, last: int) -> None:
    """Set the state to x from its rows first..last; call with first = 0 first, with last = n at the end.

    linear: (width,) T by position, the diagonal of Q in it; reference: (n,), x itself without a radius.
    """
    n = len(x)
    if first == 0:
        f.total[:] = 0
        f.energy[:] = 0
        f.now[:] = 0
        f.ones[:] = 0
        f.until[:] = 0
        f.spot[:] = -1
        for p in range(len(f.keys)):
            v = f.item[p]
            f.keys[p] = linear[p]
            f.x[p] = 0
            if v < 0:
                f.keys[p] = f.level[1]
            elif x[v] == 1:
                f.keys[p] += f.level[2]
                f.x[p] = 1
                f.ones[f.group[p // BLOCK]] += 1
            if v >= 0 and x[v] != reference[v]:
                f.spot[p] = f.total[1]
                f.moved[f.total[1]] = p
                f.total[1] += 1
    for v in range(first, last):
        if x[v] == 1:
            row = f.rows[v]
            for p in range(len(f.keys)):
                f.keys[p] += row[p]
    if last == n:
        scan(f)


@kernel
def read(f: Swaps, x: Assignment) -> None:
    """Write the state's assignment to x, (n,) by variable."""
    for v in range(len(x)):
        x[v] = f.x[f.place[v]]


@inlined
def release(f: Swaps, s: int) -> None:
    """Free the one at place s of those that are tabu; the extremes do not show it yet."""
    p = f.held[s]
    f.keys[p] -= f.level[1]
    f.until[p] = 0
    f.keys[p] += level_of(f, p)
    f.total[0] -= 1
    f.held[s] = f.held[f.total[0]]


@kernel
def release_all(f: Swaps) -> None:
    """Nothing is tabu any more; the extremes do not show it yet."""
    while f.total[0] > 0:
        release(f, 0)


# -- moves ----------------------------------------


@kernel
def _move(f: Swaps, i: int, j: int) -> None:
    """Swap the one at i and the zero at j; the extremes do not show it yet."""
    delta = field_of(f, j) - field_of(f, i) - np.int64(f.rows[f.item[i], j])
    turn(f, i)
    turn(f, j)
    swap(f, i, j, False)
    f.energy[0] += delta


@kernel
def shake(f: Swaps, rng: Random, moves: int) -> None:
    """About that many random swaps within groups and the radius."""
    n = len(f.place)
    for _ in range(moves):
        p = f.place[below(rng, n)]
        g = f.group[p // BLOCK]
        if f.ones[g] == 0 or f.ones[g] == f.size[g]:
            continue
        begin = f.first[g] * BLOCK
        q = p
        while f.x[q] == f.x[p]:
            q = begin + below(rng, f.size[g])
        away = (1 if f.spot[p] < 0 else -1) + (1 if f.spot[q] < 0 else -1)
        if f.total[1] + away > f.radius:
            continue
        if f.x[p] == 1:
            _move(f, p, q)
        else:
            _move(f, q, p)
    scan(f)


@kernel
def walk(f: Swaps, x: Assignment) -> None:
    """Go to the assignment x, (n,) by variable, of the same counts: one swap for each two differences."""
    for g in range(len(f.ones)):
        begin = f.first[g] * BLOCK
        end = begin + f.size[g]
        i, j = begin, begin
        while True:
            while i < end and not (f.x[i] == 1 and x[f.item[i]] == 0):
                i += 1
            while j < end and not (f.x[j] == 0 and x[f.item[j]] == 1):
                j += 1
            if i >= end or j >= end:
                break
            _move(f, i, j)
    scan(f)
