"""Compiled swap searches of rows that share one Gram matrix: descent, tabu search, annealing; a row a thread.

A row's fields are f_i = linear_i + w_i sum_j gram_ij w_j x_j, where gram is 2H without its diagonal and
linear has the diagonal w_i^2 H_ii in it. Swapping a one i with a zero j of its group changes the energy by
f_j - f_i - w_i w_j gram_ij, and f_t by w_t (w_j gram_jt - w_i gram_it): two rows of the matrix are read. The
same pass finds the lowest zero and the highest one of every BLOCK variables; the best LIST blocks of each
kind name the candidates, whose pairs are scored exactly.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import prange
from numpy.typing import NDArray

from qubo_solvers.kernels.jit import kernel, parallel_kernel
from qubo_solvers.kernels.random import uniform

BLOCK = 32
LIST = 6
SMALL = 16  # groups up to this size are searched pair by pair, without lists
HIGHEST, LOWEST = np.int32(2**31 - 1), np.int32(-(2**31))
ROUNDING = np.float32(2.0**-22)  # of a field's own size: fields are kept in float32
LEVELS = 32
JITTER = 10  # random steps added to a tenure, at most
REACH = np.float32(16.0)  # moves that cost more than this many temperatures are not proposed


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
def _key(bits: Any) -> Any:
    """The bits of a float32 as an int32 in the same order (minima of integers vectorise)."""
    return np.int32(bits ^ ((bits >> np.int32(31)) & HIGHEST))


@kernel
def _extremes(bits: Any, x: Any) -> Any:
    """The keys of the highest field of a one and the lowest of a zero, among those that are not tabu."""
    high, low = LOWEST, HIGHEST
    for t in range(len(bits)):
        key = _key(bits[t])
        high = max(high, key if x[t] == 1 else LOWEST)
        low = min(low, key if x[t] == 0 else HIGHEST)
    return high, low


@kernel
def _add(fields: Any, weights: Any, row_i: Any, row_j: Any, w_i: Any, w_j: Any) -> None:
    for t in range(len(fields)):
        fields[t] += weights[t] * (w_j * row_j[t] - w_i * row_i[t])


@kernel
def _scan(bits: Any, x: Any, high: Any, low: Any, begin: int, end: int) -> None:
    """Fill the extremes of the blocks of begin..end."""
    for b in range((end - begin + BLOCK - 1) // BLOCK):
        lo = begin + b * BLOCK
        hi = min(end, lo + BLOCK)
        high[b], low[b] = _extremes(bits[lo:hi], x[lo:hi])


@kernel
def _swap(rows: Rows, r: int, i: int, j: int, delta: float, high: Any, low: Any) -> None:
    """Swap the one i with the zero j; with a single group, high and low are those after it."""
    fields, weights, x = rows.fields[r], rows.weights[r], rows.x[r]
    bits = fields.view(np.int32)
    n = len(fields)
    x[i], x[j] = 0, 1
    w_i, w_j, row_i, row_j = weights[i], weights[j], rows.gram[i], rows.gram[j]
    if len(rows.start) == 2:
        for b in range((n + BLOCK - 1) // BLOCK):
            lo, hi = b * BLOCK, min(n, b * BLOCK + BLOCK)
            _add(fields[lo:hi], weights[lo:hi], row_i[lo:hi], row_j[lo:hi], w_i, w_j)
            high[b], low[b] = _extremes(bits[lo:hi], x[lo:hi])
    else:
        _add(fields, weights, row_i, row_j, w_i, w_j)
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
            if x[t] == value and _key(bits[t]) == keys[b]:
                out[c] = t
                break
    return chosen


@kernel
def _listed(
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
            _scan(bits, x, high, low, begin, end)
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
def _tolerance(rows: Rows, r: int, t: int) -> float:
    """What a field may be off by: what is below is rounding."""
    size = rows.slack[r] * abs(rows.weights[r, t]) * rows.reach[t]
    return float(size + ROUNDING * abs(rows.fields[r, t]))


@kernel
def _least(bits: Any, x: Any, values: Any) -> Any:
    """The smallest of `values` (whose bits these are) among the zeros."""
    _, low = _extremes(bits[: len(x)], x)
    bits[len(x)] = _key(low)  # the order of keys undoes itself
    return values[len(x)]


@kernel
def _checked(rows: Rows, r: int, g: int, values: Any, floor: Any) -> tuple[float, int, int, int]:
    """A swap of group g that improves, all pairs considered: (change, one, zero, rows read); zero -1: none.

    A one of width s = |w_i| reach_i can gain only where floor(s) = min_j f_j - s |w_j| reach_j over the zeros
    is below its field. The floor falls with s: its values at LEVELS widths, each 1 / sqrt 2 of the one
    before, pass most ones over without reading their row.
    """
    begin, end = rows.start[g], rows.start[g + 1]
    fields, weights, x = rows.fields[r, begin:end], rows.weights[r, begin:end], rows.x[r, begin:end]
    reach, slack = rows.reach[begin:end], rows.slack[r]
    size = end - begin
    values = values[: size + 1]
    bits = values.view(np.int32)
    widest = np.float32(0)
    for t in range(size):
        if x[t] == 1:
            widest = max(widest, abs(weights[t]) * reach[t])
    width = widest
    for level in range(LEVELS):
        for t in range(size):
            values[t] = fields[t] - width * abs(weights[t]) * reach[t]
        floor[level] = _least(bits, x, values)
        width *= np.float32(0.70710678)
    read = LEVELS
    for i in range(size):
        if x[i] == 0:
            continue
        own = abs(weights[i]) * reach[i]
        level = LEVELS - 1
        if own > widest * np.float32(2.0 ** -((LEVELS - 1) / 2)):
            level = max(0, int(2 * np.log2(widest / own) - 1e-4))
        if floor[level] >= fields[i]:
            continue
        read += 1
        row, w_i = rows.gram[begin + i, begin:end], weights[i]
        for t in range(size):
            tolerance = slack * abs(weights[t]) * reach[t] + ROUNDING * abs(fields[t])
            values[t] = fields[t] - w_i * weights[t] * row[t] + tolerance
        least = _least(bits, x, values)
        if least < fields[i] - _tolerance(rows, r, begin + i):
            for j in range(size):
                if x[j] == 0 and values[j] == least:
                    delta = fields[j] - fields[i] - w_i * weights[j] * row[j]
                    return float(delta), begin + i, begin + j, read
    return 0.0, -1, -1, read


@kernel
def _descend(rows: Rows, r: int, thorough: bool, work: int) -> None:
    """Swap in row r until nothing improves or the work (numbers read) is spent; groups take turns."""
    n, m = len(rows.reach), len(rows.start) - 1
    high, low = np.empty(n // BLOCK + 1, np.int32), np.empty(n // BLOCK + 1, np.int32)
    ones, zeros = np.empty(SMALL + 1, np.int64), np.empty(SMALL + 1, np.int64)
    held, values, floor = np.empty(0, np.int32), np.empty(n + 1, np.float32), np.empty(LEVELS, np.float32)
    if m == 1:
        _scan(rows.fields[r].view(np.int32), rows.x[r], high, low, 0, n)
    g, clean = rows.cursor[r, 0], rows.cursor[r, 1]
    while clean < m and work > 0:
        size = rows.start[g + 1] - rows.start[g]
        delta, i, j = _listed(rows, r, g, high, low, ones, zeros, held, -np.inf)
        found = i >= 0 and delta < -(_tolerance(rows, r, i) + _tolerance(rows, r, j))
        work -= size
        if thorough and not found and i >= 0 and size > SMALL:
            delta, i, j, read = _checked(rows, r, g, values, floor)
            found = j >= 0
            work -= size * read
        if found:
            _swap(rows, r, i, j, delta, high, low)
            work -= 2 * n
            clean = 0
        else:
            clean += 1
        g = g + 1 if g + 1 < m else 0
    rows.cursor[r, 0], rows.cursor[r, 1] = g, clean


@parallel_kernel
def descend(rows: Rows, first: int, last: int, thorough: bool, work: int) -> None:
    """Descend in the rows first..last; a row is done where its cursor has counted all groups: no swap of the
    lists improves, or, where the descent is thorough, no swap at all."""
    for r in prange(first, last):
        _descend(rows, r, thorough, work)


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


@kernel
def _forbid(rows: Rows, memory: Memory, r: int, v: int, until: int) -> None:
    for c in range(memory.held.shape[1]):
        if memory.held[r, c] < 0:
            memory.held[r, c], memory.until[r, c] = v, until
            rows.x[r, v] |= 2
            return


@kernel
def _exchange(rows: Rows, r: int, i: int, j: int, high: Any, low: Any) -> None:
    """Swap the one i with the zero j whatever it costs."""
    w = rows.weights[r]
    _swap(rows, r, i, j, rows.fields[r, j] - rows.fields[r, i] - w[i] * w[j] * rows.gram[i, j], high, low)


@kernel
def _restart(rows: Rows, memory: Memory, r: int, high: Any, low: Any) -> None:
    """Go back to the best assignment, nothing tabu, and on from it by 2 to max(4, n / 20) random swaps, at
    most 50 (Palubeckis 2006, Informatica 17(2))."""
    n = len(rows.reach)
    x, best, start = rows.x[r], memory.best[r], rows.start
    memory.held[r] = -1
    for t in range(n):
        x[t] &= 1
    for g in range(len(start) - 1):
        i = j = start[g]
        while True:
            while i < start[g + 1] and not (x[i] == 1 and best[i] == 0):
                i += 1
            while j < start[g + 1] and not (x[j] == 0 and best[j] == 1):
                j += 1
            if i == start[g + 1] or j == start[g + 1]:
                break
            _exchange(rows, r, i, j, high, low)
    for _ in range(2 + int(uniform(memory.rng[r : r + 1]) * (max(4, min(50, n // 20)) - 1))):
        i = int(uniform(memory.rng[r : r + 1]) * n)
        g = int(np.searchsorted(start, i, side="right")) - 1
        size = start[g + 1] - start[g]
        j = start[g] + int(uniform(memory.rng[r : r + 1]) * size)
        for _ in range(size):
            if x[j] != x[i]:
                break
            j = j + 1 if j + 1 < start[g + 1] else start[g]
        if x[i] == 1 and x[j] == 0:
            _exchange(rows, r, i, j, high, low)
        elif x[i] == 0 and x[j] == 1:
            _exchange(rows, r, j, i, high, low)


@kernel
def _tabu(rows: Rows, memory: Memory, r: int, tenure: int, patience: int, first: int, last: int) -> None:
    """The steps first..last of tabu search in row r."""
    n, m = len(rows.reach), len(rows.start) - 1
    high, low = np.empty(n // BLOCK + 1, np.int32), np.empty(n // BLOCK + 1, np.int32)
    ones, zeros = np.empty(SMALL + 1, np.int64), np.empty(SMALL + 1, np.int64)
    x, held, until = rows.x[r], memory.held[r], memory.until[r]
    bits = rows.fields[r].view(np.int32)
    if m == 1:
        _scan(bits, x, high, low, 0, n)
    pending = False
    for now in range(first, last):
        if now - memory.since[r] > patience:
            if pending:
                memory.best[r] = x & 1
                pending = False
            _restart(rows, memory, r, high, low)
            memory.since[r] = now
            if m == 1:
                _scan(bits, x, high, low, 0, n)
        for c in range(len(held)):
            v = held[c]
            if v >= 0 and until[c] <= now:
                x[v] &= 1
                held[c] = -1
                if m == 1:
                    b = v // BLOCK
                    lo, hi = b * BLOCK, min(n, b * BLOCK + BLOCK)
                    high[b], low[b] = _extremes(bits[lo:hi], x[lo:hi])
        best, i, j = np.inf, -1, -1
        needed = memory.least[r] - rows.gain[r]
        for g in range(m):
            delta, one, zero = _listed(rows, r, g, high, low, ones, zeros, held, needed)
            if delta < best:
                best, i, j = delta, one, zero
        if i < 0:  # all is tabu: wait
            continue
        if pending and best >= 0.0:
            memory.best[r] = x & 1
            pending = False
        for c in range(len(held)):  # what an aspiration moves is held anew
            if held[c] == i or held[c] == j:
                held[c] = -1
        near = _tolerance(rows, r, i) + _tolerance(rows, r, j)
        _swap(rows, r, i, j, best, high, low)
        _forbid(rows, memory, r, i, now + 1 + tenure + int(JITTER * uniform(memory.rng[r : r + 1])))
        _forbid(rows, memory, r, j, now + 1 + tenure + int(JITTER * uniform(memory.rng[r : r + 1])))
        if m == 1:
            for v in (i, j):
                b = v // BLOCK
                lo, hi = b * BLOCK, min(n, b * BLOCK + BLOCK)
                high[b], low[b] = _extremes(bits[lo:hi], x[lo:hi])
        if rows.gain[r] < memory.least[r] - near:
            memory.least[r] = rows.gain[r]
            memory.since[r] = now
            pending = True
    if pending:
        memory.best[r] = x & 1


@parallel_kernel
def tabu(
    rows: Rows, memory: Memory, tenure: int, patience: int, begin: int, end: int, first: int, last: int
) -> None:
    """The steps first..last of tabu search in the rows begin..end: the best swap that is not tabu or reaches
    a new best (Glover 1989, doi 10.1287/ijoc.1.3.190), then both its variables are tabu for the tenure and up
    to JITTER steps; swaps from lists of the best drops and adds as in Wu and Hao 2013 (doi
    10.1016/j.ejor.2013.06.002), shorter ones here. Restarts after `patience` steps without a new best.
    """
    for r in prange(begin, end):
        _tabu(rows, memory, r, tenure, patience, first, last)


@kernel
def _sweep(rows: Rows, memory: Memory, r: int, g: int, temperature: float, pool: Any) -> None:
    """One proposal for each movable variable of group g, accepted by Metropolis."""
    fields, weights, x = rows.fields[r], rows.weights[r], rows.x[r]
    begin, end = rows.start[g], rows.start[g + 1]
    limit = REACH * np.float32(temperature)
    highest, lowest = np.float32(-np.inf), np.float32(np.inf)
    for t in range(begin, end):
        if x[t]:
            highest = max(highest, fields[t])
        else:
            lowest = min(lowest, fields[t])
    ones = 0
    for t in range(begin, end):
        if x[t] and lowest - fields[t] < limit:
            pool[ones] = t
            ones += 1
    size = ones
    for t in range(begin, end):
        if not x[t] and fields[t] - highest < limit:
            pool[size] = t
            size += 1
    if ones == 0 or ones == size:
        return
    for slot in range(size):
        if slot < ones:
            a, b = slot, ones + int(uniform(memory.rng[r : r + 1]) * (size - ones))
        else:
            a, b = int(uniform(memory.rng[r : r + 1]) * ones), slot
        i, j = pool[a], pool[b]
        apart = fields[j] - fields[i]
        couple = weights[i] * weights[j]
        if apart - abs(couple) * rows.reach[i] * rows.reach[j] >= limit:
            continue
        delta = apart - couple * rows.gram[i, j]
        if delta <= 0.0 or (delta < limit and uniform(memory.rng[r : r + 1]) < np.exp(-delta / temperature)):
            x[i], x[j] = 0, 1
            _add(fields, weights, rows.gram[i], rows.gram[j], weights[i], weights[j])
            rows.gain[r] += delta
            rows.swaps[r] += 1
            pool[a], pool[b] = j, i


@parallel_kernel
def anneal(
    rows: Rows, memory: Memory, hot: Any, cold: Any, begin: int, end: int, first: int, last: int, sweeps: int
) -> None:
    """The sweeps first..last, of `sweeps`, in the rows begin..end, from hot[r] down to cold[r] geometrically.

    Variables that no swap of less than REACH temperatures moved at the start of a sweep sit that sweep out.
    """
    for r in prange(begin, end):
        pool = np.empty(len(rows.reach), np.int32)
        if hot[r] > 0.0:
            for t in range(first, last):
                temperature = hot[r] * (cold[r] / hot[r]) ** (t / max(1, sweeps - 1))
                for g in range(len(rows.start) - 1):
                    _sweep(rows, memory, r, g, temperature, pool)
                if rows.gain[r] < memory.least[r]:
                    memory.least[r] = rows.gain[r]
                    memory.best[r] = rows.x[r]
