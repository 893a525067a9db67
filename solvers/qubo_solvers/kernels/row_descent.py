"""Descent by swaps in rows that share one Gram matrix, to where no swap improves; a row a thread."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import prange

from qubo_solvers.kernels.jit import kernel, parallel_kernel
from qubo_solvers.kernels.row_swaps import (
    BLOCK,
    ROUNDING,
    SMALL,
    Rows,
    best_listed,
    extremes,
    field_tolerance,
    scan_blocks,
    sort_key,
    swap,
)

LEVELS = 32


@kernel
def _least(bits: Any, x: Any, values: Any) -> Any:
    """The smallest of `values` (whose bits these are) among the zeros."""
    _, low = extremes(bits[: len(x)], x)
    bits[len(x)] = sort_key(low)  # the order of keys undoes itself
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
        if least < fields[i] - field_tolerance(rows, r, begin + i):
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
        scan_blocks(rows.fields[r].view(np.int32), rows.x[r], high, low, 0, n)
    g, clean = rows.cursor[r, 0], rows.cursor[r, 1]
    while clean < m and work > 0:
        size = rows.start[g + 1] - rows.start[g]
        delta, i, j = best_listed(rows, r, g, high, low, ones, zeros, held, -np.inf)
        found = i >= 0 and delta < -(field_tolerance(rows, r, i) + field_tolerance(rows, r, j))
        work -= size
        if thorough and not found and i >= 0 and size > SMALL:
            delta, i, j, read = _checked(rows, r, g, values, floor)
            found = j >= 0
            work -= size * read
        if found:
            swap(rows, r, i, j, delta, high, low)
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
