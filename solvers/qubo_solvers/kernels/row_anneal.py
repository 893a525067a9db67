"""Simulated annealing by swaps in rows that share one Gram matrix; a row a thread."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from qubo_solvers.kernels.jit import kernel, parallel_kernel
from qubo_solvers.kernels.random import uniform
from qubo_solvers.kernels.row_swaps import Memory, Rows, add_rows

REACH = np.float32(16.0)  # moves that cost more than this many temperatures are not proposed


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
            add_rows(fields, weights, rows.gram[i], rows.gram[j], weights[i], weights[j])
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
