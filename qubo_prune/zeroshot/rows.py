"""Rows of a task: JSON lines from a file, and a deterministic subset of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from qubo_prune.errors import InputError
from qubo_prune.sources import file_path

T = TypeVar("T")


@dataclass(frozen=True)
class Subset:
    """limit: rows at most, at least 1 (else InputError); None: all. seed None: the first ones; else drawn
    without replacement, in the file's order."""

    limit: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise InputError(f"limit={self.limit}: it must be at least 1, or left out for all rows.")

    def of(self, rows: Sequence[T]) -> list[T]:
        """The rows it chooses."""
        if self.limit is None or self.limit >= len(rows):
            return list(rows)
        if self.seed is None:
            return list(rows[: self.limit])
        chosen = np.random.default_rng(self.seed).choice(len(rows), self.limit, replace=False)
        return [rows[i] for i in sorted(chosen.tolist())]

    def described(self, total: int) -> str:
        """Which rows these are, in words."""
        if self.limit is None or self.limit >= total:
            return f"all {total} rows"
        which = "the first" if self.seed is None else f"drawn with seed {self.seed},"
        return f"{which} {self.limit} of {total} rows"


def read_rows(spec: str, fields: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file: objects that have these fields, each a text; other fields are kept.

    spec: a path, `data:PATH` or `package:NAME/PATH`. InputError: no such file, not UTF-8, a line that is no
    such object (with its number), or no rows.
    """
    rows = []
    for number, line in enumerate(read_lines(file_path(spec), spec), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InputError(f"{spec!r}, line {number}: not JSON ({error}).") from None
        if not isinstance(row, dict) or not all(isinstance(row.get(field), str) for field in fields):
            wanted = ", ".join(fields)
            raise InputError(f"{spec!r}, line {number}: it must be an object with the texts {wanted}.")
        rows.append(row)
    if not rows:
        raise InputError(f"{spec!r}: there are no rows in it.")
    return rows


def read_lines(path: Path, spec: str) -> list[str]:
    """The lines of a UTF-8 file, split at line feeds only: texts may hold other separators."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{spec!r} cannot be read as UTF-8 text: {error}.") from None
    return text.split("\n")
