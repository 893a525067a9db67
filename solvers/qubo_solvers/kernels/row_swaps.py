"""Swaps in rows that share one Gram matrix, and lists of promising ones: what the searches of rows stand on.

A row's fields are f_i = linear_i + w_i sum_j gram_ij w_j x_j, where gram is 2H without its diagonal and
linear has the diagonal w_i^2 H_ii in it. Swapping a one i with a zero j of its group changes the energy by
f_j - f_i - w_i w_j gram_ij, and f_t by w_t (w_j gram_jt - w_i gram_it): two rows of the matrix are read. The
same pass finds the lowest zero and the highest one of every BLOCK variables; the best LIST blocks of each
kind name the candidates, whose pairs are scored exactly.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.kernels.jit import kernel

BLOCK = 32
LIST = 6
SMALL = 16  # groups up to this size are searched pair by pair, without lists
HIGHEST, LOWEST = np.int32(2**31 - 1), np.int32(-(2**31))
ROUNDING = np.float32(2.0**-22)  # of a field's own size: fields are kept in float32


class Rows(NamedTuple):
    """Rows of a batch with the state of their search; float32 unless said.

    gram     (n, n) C-contiguous, variables in order of their groups
    reach    (n,) |gram_ij| <= reach_i reach_j
    start    (m + 1,) int64, where each group's variables begin
    weights  (R, n); fields (R, n)
    x        (R, n) uint8, bit 0 the value; bit 1 is set while a variable is tabu
    gain     (R,) float64, energy minus the energy at the start
    swaps    (R,) int64, made so far
    slack    (R,) tolerance of a change for each unit of |w_i| reach_i
    cursor   (R, 2) int64, the group to look at next and how many in a row had no improving swap
    """

    gram: NDArray[np.float32]
    reach: NDArray[np.float32]
    start: NDArray[np.int64]
    weights: NDArray[np.float32]
    fields: NDArray[np.float32]
    x: NDArray[np.uint8]
    gain: NDArray[np.float64]
    swaps: NDArray[np.int64]
    slack: NDArray[np.float32]
    cursor: NDArray[np.int64]


@kernel
def sort_key(bits: Any) -> Any:
    """The bits of a float32 as an int32 in the same order (minima of integers vectorise)."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & HIGHEST))


@kernel
def extremes(bits: Any, x: Any) -> Any:
    """The keys of the highest field of a one and the lowest of a zero, among those that are not tabu."""
    high, low = LOWEST, HIGHEST
    for t in range(len(bits)):
        key = sort_key(bits[t])
        high = max(high, key if x[t] == 1 else LOWEST)
        low = min(low, key if x[t] == 0 else HIGHEST)
    return high, low


@kernel
def add_rows(fields: Any, weights: Any, row_i: Any, row_j: Any, w_i: Any, w_j: Any) -> None:
    for t in range(len(fields)):
        fields[t] += weights[t] * (w_j * row_j[t] - w_i * row_i[t])


@kernel
def scan_blocks(bits: Any, x: Any, high: Any, low: Any, begin: int, end: int) -> None:
    """Fill the extremes of the blocks of begin..end."""
    for b in range((end - begin + BLOCK - 1) // BLOCK):
        lo = begin + b * BLOCK
        hi = min(end, lo + BLOCK)
        high[b], low[b] = extremes(bits[lo:hi], x[lo:hi])


@kernel
def swap(rows: Rows, r: int, i: int, j: int, delta: float, high: Any, low: Any) -> None:
    """Swap the one i with the zero j; with a single group, high and low are those after it."""
    fields, weights, x = rows.fields[r], rows.weights[r], rows.x[r]
    bits = fields.view(np.int32)
    n = len(fields)
    x[i], x[j] = 0, 1
    w_i, w_j, row_i, row_j = weights[i], weights[j], rows.gram[i], rows.gram[j]
    if len(rows.start) == 2:
        for b in range((n + BLOCK - 1) // BLOCK):
            lo, hi = b * BLOCK, min(n, b * BLOCK + BLOCK)
            add_rows(fields[lo:hi], weights[lo:hi], row_i[lo:hi], row_j[lo:hi], w_i, w_j)
            high[b], low[b] = extremes(bits[lo:hi], x[lo:hi])
    else:
        add_rows(fields, weights, row_i, row_j, w_i, w_j)
    rows.gain[r] += delta
    rows.swaps[r] += 1


@kernel
def _name(bits: Any, x: Any, keys: Any, value: int, begin: int, end: int, blocks: int, out: Any) -> int:
    """Write the variable of each of the LIST best blocks (value 1: highest keys, 0: lowest), best first;
    returns how many there are."""
    chosen = 0
    for b in range(blocks):
        key = -np.int64(keys[b]) if value == 1 else np.int64(keys[b])
        if keys[b] == LOWEST or keys[b] == HIGHEST:
            continue
        at = chosen
        while at > 0:
            other = np.int64(keys[out[at - 1]])
            if key >= (-other if value == 1 else other):
                break
            if at < LIST:
                out[at] = out[at - 1]
            at -= 1
        if at < LIST:
            out[at] = b
            chosen = min(chosen + 1, LIST)
    for c in range(chosen):
        b = out[c]
        lo = begin + b * BLOCK
        for t in range(lo, min(end, lo + BLOCK)):
            if x[t] == value and sort_key(bits[t]) == keys[b]:
                out[c] = t
                break
    return chosen


@kernel
def best_listed(
    rows: Rows, r: int, g: int, high: Any, low: Any, ones: Any, zeros: Any, held: Any, needed: float
) -> tuple[float, int, int]:
    """The best swap of group g among its candidates (all of a small group): (change, one, zero).

    `held` are the tabu variables: one of them takes part only in a swap that changes the energy by less than
    `needed`. Infinity where there is none.
    """
    fields, weights, x = rows.fields[r], rows.weights[r], rows.x[r]
    begin, end = rows.start[g], rows.start[g + 1]
    if end - begin <= SMALL:
        n_ones = n_zeros = 0
        for t in range(begin, end):
            if x[t] & 1:
                ones[n_ones] = t
                n_ones += 1
            else:
                zeros[n_zeros] = t
                n_zeros += 1
    else:
        bits = fields.view(np.int32)
        if len(rows.start) > 2:
            scan_blocks(bits, x, high, low, begin, end)
        blocks = (end - begin + BLOCK - 1) // BLOCK
        n_ones = _name(bits, x, high, 1, begin, end, blocks, ones)
        n_zeros = _name(bits, x, low, 0, begin, end, blocks, zeros)
        one, zero = -1, -1
        for v in held:
            if begin <= v < end:
                if x[v] & 1:
                    if one < 0 or fields[v] > fields[one]:
                        one = v
                elif zero < 0 or fields[v] < fields[zero]:
                    zero = v
        if one >= 0:
            ones[n_ones] = one
            n_ones += 1
        if zero >= 0:
            zeros[n_zeros] = zero
            n_zeros += 1
    best, best_i, best_j = np.inf, -1, -1
    for a in range(n_ones):
        i = ones[a]
        row, w_i, f_i = rows.gram[i], weights[i], fields[i]
        for c in range(n_zeros):
            j = zeros[c]
            delta = fields[j] - f_i - w_i * weights[j] * row[j]
            if delta < best and (x[i] | x[j] < 2 or delta < needed):
                best, best_i, best_j = np.float64(delta), i, j
    return best, best_i, best_j


@kernel
def field_tolerance(rows: Rows, r: int, t: int) -> float:
    """What a field may be off by: what is below is rounding."""
    size = rows.slack[r] * abs(rows.weights[r, t]) * rows.reach[t]
    return float(size + ROUNDING * abs(rows.fields[r, t]))


class Memory(NamedTuple):
    """What tabu search and annealing keep of each row.

    best   (R, n) uint8, the best assignment seen; least (R,) float64, its gain
    since  (R,) int64, the step of the best, or of the last restart
    rng    (R,) uint64
    held   (R, c) int32, the tabu variables (-1: a free place); until (R, c) int64, their last steps
    """

    best: NDArray[np.uint8]
    least: NDArray[np.float64]
    since: NDArray[np.int64]
    rng: NDArray[np.uint64]
    held: NDArray[np.int32]
    until: NDArray[np.int64]
