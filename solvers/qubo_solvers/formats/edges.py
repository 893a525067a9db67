"""Weighted pairs in text, as the G-set and MDPLIB files have them: a header of sizes, then "i j weight"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_VARIABLES = 20_000  # read densely: 3.2 GB


def read_pairs(path: Path, first: int, what: str) -> tuple[int, int, NDArray[np.float64]]:
    """(n, second number of the header, symmetric (n, n) float64 weights with a zero diagonal).

    first: the number of the first variable, 0 or 1. A missing weight is 1; repeated pairs are summed up.
    Raises ValueError naming file and line on anything malformed.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = [(number, line.split()) for number, line in enumerate(file, 1) if line.strip()]
    try:
        n, second = (int(word) for word in lines[0][1][:2])
    except (IndexError, ValueError):
        raise ValueError(f"{path}:1: expected the sizes of {what}, two whole numbers") from None
    if not 1 <= n <= MAX_VARIABLES:
        raise ValueError(f"{path}:1: {n} variables; this reader takes 1 to {MAX_VARIABLES}")
    weights = np.zeros((n, n))
    for number, words in lines[1:]:
        try:
            i, j = int(words[0]) - first, int(words[1]) - first
            weight = float(words[2]) if len(words) > 2 else 1.0
        except (IndexError, ValueError):
            raise ValueError(f"{path}:{number}: expected 'i j weight', got {' '.join(words)!r}") from None
        if not (0 <= i < n and 0 <= j < n and i != j):
            raise ValueError(
                f"{path}:{number}: a pair of two variables in {first}..{n - 1 + first} was expected, "
                f"got {words[0]} {words[1]}"
            )
        if not np.isfinite(weight):
            raise ValueError(f"{path}:{number}: the weight {words[2]} is not finite")
        weights[i, j] += weight
        weights[j, i] += weight
    return n, second, weights


def written_pairs(weights: NDArray[np.float64], first: int) -> tuple[int, list[str]]:
    """The number of pairs that are not zero, and their lines; floats round-trip exactly."""
    row, column = np.nonzero(np.triu(weights, 1))
    values = weights[row, column]
    return len(row), [
        f"{i + first} {j + first} {_number(v)}\n" for i, j, v in zip(row, column, values, strict=True)
    ]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
