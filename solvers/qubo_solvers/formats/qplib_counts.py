"""Linear constraints as counts of disjoint groups: what of QPLIB's constraints fits this class."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Row(NamedTuple):
    """least <= sum of terms[i] x_i <= most, infinite where there is no bound; number: as the file counts."""

    number: int
    terms: dict[int, float]
    least: float
    most: float


def grouped_rows(path: Path, n: int, rows: list[Row]) -> tuple[NDArray[np.int32], list[int], list[int]]:
    """(groups (n,), lower, upper) of the counts that the rows are.

    Raises ValueError naming file and constraint where one is no count, cannot be met, or overlaps another.
    """
    groups = np.full(n, -1, np.int32)
    lower: list[int] = []
    upper: list[int] = []
    first: list[int] = []  # number of the row that each group came from
    for row in rows:
        terms = {i: value for i, value in row.terms.items() if value}
        where = f"{path}: constraint {row.number}"
        if not terms:
            if not row.least <= 0 <= row.most:
                raise ValueError(f"{where} has no variables and cannot be met")
            continue
        least, most = _interval(where, terms, row)
        if (least, most) == (0, len(terms)):
            continue
        members = sorted(terms)
        met = {int(g) for g in groups[members]}
        if met == {-1}:
            groups[members] = len(lower)
            lower.append(least)
            upper.append(most)
            first.append(row.number)
            continue
        g = max(met)
        if len(met) > 1 or np.count_nonzero(groups == g) != len(members):
            raise ValueError(
                f"{where} shares variables with constraint {first[g]}; this class has disjoint groups only"
            )
        lower[g], upper[g] = max(lower[g], least), min(upper[g], most)
        if lower[g] > upper[g]:
            raise ValueError(f"{where} contradicts constraint {first[g]}, over the same variables")
    return groups, lower, upper


def _interval(where: str, terms: dict[int, float], row: Row) -> tuple[int, int]:
    """The least and most ones that the row allows."""
    sizes = set(terms.values())
    if len(sizes) > 1:
        a, b = min(sizes), max(sizes)
        raise ValueError(
            f"{where} has coefficients from {a:g} to {b:g}: no count of a group, which has equal ones"
        )
    (size,) = sizes
    least, most = row.least / size, row.most / size
    if size < 0:
        least, most = most, least
    slack = 1e-9
    low = 0 if least == -math.inf else max(0, math.ceil(least - slack * max(1.0, abs(least))))
    high = len(terms) if most == math.inf else min(len(terms), math.floor(most + slack * max(1.0, abs(most))))
    if low > high:
        raise ValueError(
            f"{where} allows no number of ones among its {len(terms)} variables ({least:g} to {most:g})"
        )
    return low, high
