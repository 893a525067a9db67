"""A dense matrix's couplings as scaled integers, exact where they are multiples of one number."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.kernels import integers
from qubo_solvers.kernels.model import Floats, Ids

SAMPLE = 1 << 16  # entries that a scale is guessed from
SCALES = (1.0, 2.0, 4.0, 8.0, 16.0, 256.0, 65536.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6)


@dataclass(frozen=True)
class Scaling:
    """Integers are coefficients times `scale`; `exact`: without rounding. Rows are int16 and fields int32
    where `short`, else int32 and int64."""

    scale: float
    exact: bool
    short: bool

    @property
    def row_type(self) -> type[Any]:
        return np.int16 if self.short else np.int32

    @property
    def field_type(self) -> type[Any]:
        return np.int32 if self.short else np.int64


def scaling(matrix: NDArray[np.generic], linear: Floats, short_field: float, field: float) -> Scaling:
    """How to keep 2Q off its diagonal and `linear`, the linear term with the diagonal of Q in it.

    short_field, field: what int32 and int64 fields must stay below. Where the coefficients are not whole at a
    scale of SCALES (over a common divisor), the scale is the power of two that fits int32 and the field: the
    largest coupling has 30 bits where no sum of a row is 2^28 times as large.
    """
    scale = _guess(matrix, linear)
    largest = widest = 0.0
    whole = scale > 0
    for first, part in parts(matrix):
        most, sums, fine = integers.survey(part, first, linear, scale if whole else 0.0)
        largest, widest, whole = max(largest, most), max(widest, sums), whole and fine
    if whole and largest * scale < 2**15 and widest * scale < short_field:
        return Scaling(scale, True, True)
    if whole and largest * scale < 2**31 and widest * scale < field:
        return Scaling(scale, True, False)
    bits = 30 - math.frexp(largest)[1] if largest > 0 else 1000
    room = math.frexp(field)[1] - 2 - math.frexp(widest)[1] if widest > 0 else 0
    return Scaling(math.ldexp(1.0, min(bits, room, 1000)), False, False)


def parts(matrix: NDArray[np.generic], entries: int = 1 << 20) -> Iterator[tuple[int, NDArray[np.generic]]]:
    """(first row, rows) of about that many entries, float32 or float64."""
    step = max(1, entries // max(1, len(matrix)))
    for first in range(0, len(matrix), step):
        part = matrix[first : first + step]
        yield first, part if part.dtype in (np.float32, np.float64) else part.astype(np.float64)


def fill(rows: NDArray[Any], matrix: NDArray[np.generic], item: Ids, scale: float) -> Iterator[int]:
    """Fill rows (n, len(item)) as the kernel says, part by part; yields how many rows are done."""
    for first, part in parts(matrix):
        integers.fill(rows, part, first, item, scale)
        yield first + len(part)


def _guess(matrix: NDArray[np.generic], linear: Floats) -> float:
    """The first scale at which a sample of the coefficients is whole, over their common divisor; 0: none."""
    n = len(matrix)
    rows = matrix[:: max(1, n * n // SAMPLE)]
    sample = np.append(2.0 * rows.astype(np.float64).ravel(), linear)
    largest = float(np.abs(sample).max(initial=0.0))
    for scale in SCALES:
        scaled = sample * scale
        if largest * scale < 2**52 and (np.abs(scaled - np.rint(scaled)) <= 2.0**-40 * np.abs(scaled)).all():
            divisor = int(np.gcd.reduce(np.abs(np.rint(scaled)).astype(np.int64)))
            return scale / max(1, divisor)
    return 0.0
