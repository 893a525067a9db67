"""Weighted pairs in text, as the G-set, MDPLIB and Biq Mac files have them: sizes, then "i j weight"."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAX_VARIABLES = 20_000  # read densely: 3.2 GB

Entry = tuple[int, int, float]


def read_entries(
    path: Path, first: int, what: str, diagonal: bool = False
) -> tuple[int, int, list[Entry], list[str]]:
    """(n, second number of the header, the entries i, j, weight counted from 0, the comments).

    first: the number of the first variable, 0 or 1. A missing weight is 1. Lines that begin with # are
    comments. diagonal: whether i = j may be. Raises ValueError naming file and line on anything malformed.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        everything = [(number, line.strip()) for number, line in enumerate(file, 1) if line.strip()]
    lines = [(number, line.split()) for number, line in everything if not line.startswith("#")]
    comments = [line for _, line in everything if line.startswith("#")]
    try:
        n, second = (int(word) for word in lines[0][1][:2])
    except (IndexError, ValueError):
        at = lines[0][0] if lines else 1
        raise ValueError(f"{path}:{at}: expected the sizes of {what}, two whole numbers") from None
    if not 1 <= n <= MAX_VARIABLES:
        raise ValueError(f"{path}:{lines[0][0]}: {n} variables; this reader takes 1 to {MAX_VARIABLES}")
    entries = []
    for number, words in lines[1:]:
        try:
            i, j = int(words[0]) - first, int(words[1]) - first
            weight = float(words[2]) if len(words) > 2 else 1.0
        except (IndexError, ValueError):
            raise ValueError(f"{path}:{number}: expected 'i j weight', got {' '.join(words)!r}") from None
        if not (0 <= i < n and 0 <= j < n and (diagonal or i != j)):
            pair = "variables" if diagonal else "a pair of two variables"
            raise ValueError(
                f"{path}:{number}: {pair} in {first}..{n - 1 + first} was expected, got {words[0]} {words[1]}"
            )
        if not np.isfinite(weight):
            raise ValueError(f"{path}:{number}: the weight {words[2]} is not finite")
        entries.append((i, j, weight))
    return n, second, entries, comments


def read_pairs(path: Path, first: int, what: str) -> tuple[int, int, NDArray[np.float64]]:
    """(n, second number of the header, symmetric (n, n) float64 weights with a zero diagonal); repeated pairs
    are summed up. See `read_entries`."""
    n, second, entries, _ = read_entries(path, first, what)
    return n, second, symmetric(n, entries)


def symmetric(n: int, entries: Iterable[Entry]) -> NDArray[np.float64]:
    """(n, n) with each weight at (i, j) and at (j, i), summed up."""
    weights = np.zeros((n, n))
    for i, j, weight in entries:
        weights[i, j] += weight
        if i != j:
            weights[j, i] += weight
    return weights


def written_pairs(weights: NDArray[np.float64], first: int, diagonal: bool = False) -> tuple[int, list[str]]:
    """The number of pairs that are not zero, and their lines; floats round-trip exactly."""
    row, column = np.nonzero(np.triu(weights, 0 if diagonal else 1))
    values = weights[row, column]
    return len(row), [
        f"{i + first} {j + first} {_number(v)}\n" for i, j, v in zip(row, column, values, strict=True)
    ]


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
