"""Compiled conversion of a matrix's rows to scaled integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from qubo_solvers.kernels.jit import kernel
from qubo_solvers.kernels.model import Floats, Ids

ROUNDING = 2.0**-40  # of a number: by how much it may miss a whole one


@kernel
def survey(part: Any, first: int, linear: Floats, scale: float) -> tuple[float, float, bool]:
    """The largest |2Q| off the diagonal in these rows, the largest sum of a row's with its |linear|, and
    whether all of them times `scale` are whole numbers, to rounding; scale 0: not looked at.

    part: (some, n) float32 or float64, the rows of Q from `first` on.
    """
    largest, widest, whole = 0.0, 0.0, scale > 0.0
    for i in range(len(part)):
        total, most = 0.0, 0.0
        row = part[i]
        for v in range(len(row)):
            size = abs(2.0 * np.float64(row[v]))
            total += size
            most = max(most, size if v != first + i else 0.0)
        largest = max(largest, most)
        widest = max(widest, total + abs(linear[first + i]))
        if whole:
            off = 0.0
            for v in range(len(row)):
                size = abs(2.0 * np.float64(row[v])) * scale
                miss = abs(size - np.rint(size)) - ROUNDING * size
                off = max(off, miss if v != first + i else 0.0)
            whole = off <= 0.0
    return largest, widest, whole


@kernel
def fill(rows: Any, part: Any, first: int, item: Ids, scale: float) -> None:
    """rows[first + i, p] = 2 scale part[i, item[p]], rounded; 0 where item[p] is -1 and on the diagonal."""
    for i in range(len(part)):
        row, out = part[i], rows[first + i]
        for p in range(len(item)):
            v = item[p]
            out[p] = 0 if v < 0 or v == first + i else np.rint(2.0 * np.float64(row[v]) * scale)
