"""The qbsolv .qubo text format: plain QUBOs, in the sense (minimise or maximise) that the file means.

    c a comment
    p qubo <topology> <max nodes> <diagonal entries> <couplings>
    i i value        a diagonal entry: value x_i
    i j value        a coupling, i < j: value x_i x_j (so 2 Q_ij: off-diagonals are doubled)

Variables are numbered from 0; max nodes is their number. Topology is 0 (or "unconstrained"). The format does
not hold the sense: qbsolv takes it as an option and minimises by default.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from qubo_solvers.formats.edges import MAX_VARIABLES
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense

Sense = Literal["min", "max"]


def read(path: Path, sense: Sense | None = None) -> CardinalityQubo:
    """The plain QUBO in the file; `problem.objective(x)` is the file's objective, in its own sense.

    sense  "min" or "max"; None: what a comment "c sense max" (or min) says, as `write` leaves one; else max
    for
           files whose comments name Beasley (the OR-Library instances, published as maximisation); else min

    Raises ValueError naming file and line on anything malformed.
    """
    size: tuple[int, int, int] | None = None
    entries: dict[tuple[int, int], float] = {}
    offset, said, name = 0.0, None, path.stem
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if not words:
                continue
            if words[0] == "c":
                said = words[2] if words[1:2] == ["sense"] and len(words) > 2 else said
                said = said or ("max" if "beasley" in line.lower() else None)
                offset = float(words[2]) if words[1:2] == ["offset"] and len(words) > 2 else offset
            elif words[0] == "p":
                if size is not None:
                    raise ValueError(f"{path}:{number}: a second 'p' line")
                size = _header(path, number, words)
            else:
                if size is None:
                    raise ValueError(f"{path}:{number}: an entry before the 'p qubo' line")
                i, j, value = _entry(path, number, words, size[0])
                if (i, j) in entries:
                    raise ValueError(f"{path}:{number}: entry {i} {j} occurs twice")
                entries[i, j] = value
    if size is None:
        raise ValueError(f"{path}: no 'p qubo' line: not a qbsolv file")
    diagonal = sum(i == j for i, j in entries)
    if (diagonal, len(entries) - diagonal) != size[1:]:
        raise ValueError(
            f"{path}: {diagonal} diagonal entries and {len(entries) - diagonal} couplings, "
            f"but its 'p' line says {size[1]} and {size[2]} (a truncated file?)"
        )
    sense = sense or ("max" if said == "max" else "min")
    if sense not in ("min", "max"):
        raise ValueError(f"sense must be 'min' or 'max', got {sense!r}")
    scale = -1.0 if sense == "max" else 1.0
    matrix, linear = np.zeros((size[0], size[0])), np.zeros(size[0])
    for (i, j), value in entries.items():
        if i == j:
            linear[i] = scale * value
        else:
            matrix[i, j] = matrix[j, i] = scale * value / 2
    problem = CardinalityQubo.unconstrained(Dense(matrix), linear, offset=scale * offset, name=name)
    return replace(problem, objective_scale=scale)


def write(problem: CardinalityQubo, path: Path) -> None:
    """Write a plain QUBO in its own sense, with its sense and offset as comments; floats round-trip exactly.

    Raises ValueError where the problem has counts or a radius (`to_dimod("bqm")` makes penalties of them), or
    an objective_scale other than 1 and -1.
    """
    if (problem.groups >= 0).any() or problem.radius is not None:
        raise ValueError(
            f"{path}: the qbsolv format holds no counts and no radius; write .npz or .cqm instead"
        )
    if problem.objective_scale not in (1.0, -1.0):
        raise ValueError(
            f"{path}: an objective_scale of {problem.objective_scale} has no place in this format"
        )
    scale = problem.objective_scale
    matrix = problem.quadratic.dense()
    diagonal = scale * (problem.linear + np.diagonal(matrix))
    row, column = np.nonzero(np.triu(matrix, 1))
    nodes = np.flatnonzero(diagonal)
    with path.open("w", encoding="utf-8") as file:
        file.write(f"c {problem.name}\n" if problem.name and "\n" not in problem.name else "")
        file.write(f"c sense {'max' if scale < 0 else 'min'}\n")
        if problem.offset:
            file.write(f"c offset {float(scale * problem.offset)!r}\n")
        file.write(f"p qubo 0 {problem.n} {len(nodes)} {len(row)}\n")
        file.writelines(f"{i} {i} {float(diagonal[i])!r}\n" for i in nodes)
        file.writelines(
            f"{i} {j} {float(scale * 2 * matrix[i, j])!r}\n" for i, j in zip(row, column, strict=True)
        )


def _header(path: Path, number: int, words: list[str]) -> tuple[int, int, int]:
    try:
        kind, topology = words[1], words[2]
        n, nodes, couplings = (int(word) for word in words[3:6])
    except (IndexError, ValueError):
        raise ValueError(
            f"{path}:{number}: expected 'p qubo <topology> <max nodes> <diagonals> <couplings>', "
            f"got {' '.join(words)!r}"
        ) from None
    if kind != "qubo" or topology not in ("0", "unconstrained"):
        raise ValueError(f"{path}:{number}: only 'p qubo' with topology 0 (unconstrained) is known")
    if not 0 <= n <= MAX_VARIABLES:
        raise ValueError(f"{path}:{number}: {n} variables; this reader takes 0 to {MAX_VARIABLES}")
    return n, nodes, couplings


def _entry(path: Path, number: int, words: list[str], n: int) -> tuple[int, int, float]:
    try:
        i, j, value = int(words[0]), int(words[1]), float(words[2])
    except (IndexError, ValueError):
        raise ValueError(f"{path}:{number}: expected 'i j value', got {' '.join(words)!r}") from None
    if not (0 <= i <= j < n):
        raise ValueError(f"{path}:{number}: indices {i} {j}; need 0 <= i <= j < {n}")
    if not np.isfinite(value):
        raise ValueError(f"{path}:{number}: the value {words[2]} is not finite")
    return i, j, value
