"""Tabu search by swaps in rows that share one Gram matrix; a row a thread."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from qubo_solvers.kernels.jit import kernel, parallel_kernel
from qubo_solvers.kernels.random import uniform
from qubo_solvers.kernels.row_swaps import (
    BLOCK,
    SMALL,
    Memory,
    Rows,
    best_listed,
    extremes,
    field_tolerance,
    scan_blocks,
    swap,
)

JITTER = 10  # random steps added to a tenure, at most


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
    swap(rows, r, i, j, rows.fields[r, j] - rows.fields[r, i] - w[i] * w[j] * rows.gram[i, j], high, low)


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
        scan_blocks(bits, x, high, low, 0, n)
    pending = False
    for now in range(first, last):
        if now - memory.since[r] > patience:
            if pending:
                memory.best[r] = x & 1
                pending = False
            _restart(rows, memory, r, high, low)
            memory.since[r] = now
            if m == 1:
                scan_blocks(bits, x, high, low, 0, n)
        for c in range(len(held)):
            v = held[c]
            if v >= 0 and until[c] <= now:
                x[v] &= 1
                held[c] = -1
                if m == 1:
                    b = v // BLOCK
                    lo, hi = b * BLOCK, min(n, b * BLOCK + BLOCK)
                    high[b], low[b] = extremes(bits[lo:hi], x[lo:hi])
        best, i, j = np.inf, -1, -1
        needed = memory.least[r] - rows.gain[r]
        for g in range(m):
            delta, one, zero = best_listed(rows, r, g, high, low, ones, zeros, held, needed)
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
        near = field_tolerance(rows, r, i) + field_tolerance(rows, r, j)
        swap(rows, r, i, j, best, high, low)
        _forbid(rows, memory, r, i, now + 1 + tenure + int(JITTER * uniform(memory.rng[r : r + 1])))
        _forbid(rows, memory, r, j, now + 1 + tenure + int(JITTER * uniform(memory.rng[r : r + 1])))
        if m == 1:
            for v in (i, j):
                b = v // BLOCK
                lo, hi = b * BLOCK, min(n, b * BLOCK + BLOCK)
                high[b], low[b] = extremes(bits[lo:hi], x[lo:hi])
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
