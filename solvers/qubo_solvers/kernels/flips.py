"""Compiled one-flip search of plain dense problems: each update of the moves also finds the next one.

gains[i] is the change of the energy by flipping i alone. Flipping k changes gains[i] by s_i s_k rows[k, i]
with s = 1 - 2x before the flip, so a step reads one row of the matrix and the arrays of the state, and writes
gains; the same pass keeps the smallest gain of every BLOCK variables, so that the next move is found in one
block. Loops are written so that they vectorise: the arrays' own dtypes, no branches, no index arithmetic.
Rows are int16 or int32 with int32 gains where the coefficients are integers (then all is exact), else float.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.kernels.jit import kernel
from qubo_solvers.kernels.model import Ids, Ints, Random
from qubo_solvers.kernels.random import below
from qubo_solvers.problem import Assignment

BLOCK = 512


class Flips(NamedTuple):
    """A state of the search; T is int32 or float64.

    rows    (n, n) 2Q off its diagonal and 0 on it, C-contiguous, read-only
    gains   (n,) T
    signs   (n,) T, 1 where x is 0 and -1 where it is 1
    until   (n,) int32, the last step at which a variable is tabu
    least   (blocks,) T, the smallest gain of each block among the variables that are not tabu
    lowest  (blocks,) T, among all of them
    big     (1,) T, larger than any gain
    energy  (2,) int64 or float64: the current energy and the best, both less the start's
    now     (2,) int64: steps done, and the step of the best
    """

    rows: NDArray[Any]
    gains: NDArray[Any]
    signs: NDArray[Any]
    until: Ids
    least: NDArray[Any]
    lowest: NDArray[Any]
    big: NDArray[Any]
    energy: NDArray[Any]
    now: Ints


@kernel
def _add(row: Any, gains: Any, signs: Any, sign: Any) -> None:
    for i in range(len(gains)):
        gains[i] += (sign * signs[i]) * row[i]


@kernel
def _smallest(gains: Any, until: Any, now: Any, big: Any) -> Any:
    """The smallest gain that is not tabu, and the smallest of all."""
    least = big
    lowest = big
    for i in range(len(gains)):
        gain = gains[i]
        lowest = min(lowest, gain)
        least = min(least, big if until[i] > now else gain)
    return least, lowest


@kernel
def _scan(f: Flips) -> None:
    """Fill least and lowest anew."""
    n, now, big = len(f.gains), np.int32(f.now[0]), f.big[0]
    for b in range(len(f.least)):
        lo, hi = b * BLOCK, min(n, b * BLOCK + BLOCK)
        f.least[b], f.lowest[b] = _smallest(f.gains[lo:hi], f.until[lo:hi], now, big)


@kernel
def _flip(f: Flips, k: int) -> None:
    """Flip k; least and lowest are those after it."""
    n, now, big = len(f.gains), np.int32(f.now[0]), f.big[0]
    row, sign, gain = f.rows[k], f.signs[k], f.gains[k]
    for b in range(len(f.least)):
        lo, hi = b * BLOCK, min(n, b * BLOCK + BLOCK)
        _add(row[lo:hi], f.gains[lo:hi], f.signs[lo:hi], sign)
        if lo <= k < hi:
            f.gains[k] = -gain
            f.signs[k] = -sign
        f.least[b], f.lowest[b] = _smallest(f.gains[lo:hi], f.until[lo:hi], now, big)
    f.energy[0] += gain


@kernel
def load(f: Flips, linear: Any, x: Assignment, first: int, last: int) -> None:
    """Set the state to x from its rows first..last; call with first = 0 first, with last = n at the end.

    linear: (n,) T, the linear term with the diagonal of Q in it.
    """
    n = len(x)
    if first == 0:
        for i in range(n):
            f.signs[i] = 1 - 2 * np.int32(x[i])
            f.gains[i] = linear[i]
            f.until[i] = 0
        f.energy[:] = 0
        f.now[:] = 0
    for k in range(first, last):
        if x[k] == 1:
            row = f.rows[k]
            for i in range(n):
                f.gains[i] += row[i]
    if last == n:
        for i in range(n):
            f.gains[i] *= f.signs[i]
        _scan(f)


@kernel
def read(f: Flips, x: Assignment) -> None:
    """Write the state's assignment to x."""
    for i in range(len(x)):
        x[i] = 1 if f.signs[i] < 0 else 0


@kernel
def _pick(f: Flips, b: int, gain: Any, tabu_too: bool, rng: Random) -> int:
    """A variable of block b with this gain, the first from a random place on."""
    lo, now = b * BLOCK, np.int32(f.now[0])
    size = min(len(f.gains), lo + BLOCK) - lo
    at = lo + below(rng, size)
    for _ in range(size):
        if f.gains[at] == gain and (tabu_too or f.until[at] <= now):
            break
        at += 1
        if at == lo + size:
            at = lo
    return at


@kernel
def tabu(f: Flips, best: Assignment, rng: Random, tenure: int, steps: int, patience: int) -> int:
    """The best flip that is not tabu, again and again (Glover 1989); returns the steps made.

    A flipped variable is tabu for `tenure` and up to ten further steps; aspiration: a new best. Ends early
    after `patience` steps without a new best, whose assignment is in `best`. Ties go to the first from a
    random block and a random place in it on.
    """
    n, blocks, big = len(f.gains), len(f.least), f.big[0]
    done, pending = 0, False
    while done < steps and f.now[0] - f.now[1] < patience:
        offset = below(rng, blocks)
        least, at = big, -1
        lowest, low_at = big, -1
        for t in range(blocks):
            b = t + offset
            if b >= blocks:
                b -= blocks
            if f.least[b] < least:
                least, at = f.least[b], b
            if f.lowest[b] < lowest:
                lowest, low_at = f.lowest[b], b
        if lowest < least and f.energy[0] + lowest < f.energy[1]:
            k = _pick(f, low_at, lowest, True, rng)
        elif at >= 0:
            k = _pick(f, at, least, False, rng)
        else:  # all is tabu
            k = below(rng, n)
        if pending and f.gains[k] >= 0:
            read(f, best)
            pending = False
        f.now[0] += 1
        done += 1
        f.until[k] = f.now[0] + min(tenure + below(rng, 10), n // 2)
        _flip(f, k)
        if f.energy[0] < f.energy[1]:
            f.energy[1] = f.energy[0]
            f.now[1] = f.now[0]
            pending = True
    if pending:
        read(f, best)
    return done


@kernel
def descend(f: Flips, tolerance: float, steps: int) -> int:
    """The best flip as long as it gains more than the tolerance; returns the flips made."""
    done = 0
    while done < steps:
        b = int(np.argmin(f.lowest))
        if f.lowest[b] >= -tolerance:
            break
        for i in range(b * BLOCK, min(len(f.gains), b * BLOCK + BLOCK)):
            if f.gains[i] == f.lowest[b]:
                _flip(f, i)
                break
        done += 1
    return done


@kernel
def shake(f: Flips, rng: Random, moves: int) -> None:
    """That many flips of random variables."""
    for _ in range(moves):
        _flip(f, below(rng, len(f.gains)))


@kernel
def walk(f: Flips, x: Assignment) -> None:
    """Go to the assignment x, one flip for each difference."""
    for i in range(len(x)):
        if (f.signs[i] < 0) != (x[i] == 1):
            _flip(f, i)


@kernel
def relink(f: Flips, target: Assignment, order: Ids, nearest: int) -> int:
    """Walk to `target`, the best flip among the remaining differences first; stop where the path was best.

    Only points at least `nearest` flips away from both ends count; order: (n,) scratch. Returns how many
    flips from the start the chosen point is, 0 where the ends are too close (the state is the start then).
    """
    total = 0
    for i in range(len(target)):
        if (f.signs[i] < 0) != (target[i] == 1):
            order[total] = i
            total += 1
    if total < 2 * nearest or total == 0:
        return 0
    best, chosen = f.energy[0], 0
    for done in range(total - nearest):
        at = done
        gain = f.gains[order[done]]
        for t in range(done + 1, total):
            if f.gains[order[t]] < gain:
                gain, at = f.gains[order[t]], t
        k = order[at]
        order[at] = order[done]
        order[done] = k
        _flip(f, k)
        if done + 1 >= nearest and (chosen == 0 or f.energy[0] < best):
            best, chosen = f.energy[0], done + 1
    for t in range(total - nearest - 1, chosen - 1, -1):
        _flip(f, order[t])
    return chosen
