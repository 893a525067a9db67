"""The sparse format of the Biq Mac library for quadratic 0-1 problems: minimise x'Qx, a plain QUBO.

    # a comment
    n m
    i j q         an entry of the symmetric Q, variables numbered from 1, given once for (i, j) and (j, i)

So q x_i for i = j, and 2 q x_i x_j otherwise. Always minimised: what is published as maximisation has its
signs changed. An offset, which the format lacks, is kept in a comment "# offset value". The library's
maximum-cut graphs (.mc: the same lines, an edge each, maximised) are the format `rudy`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qubo_solvers.formats.edges import MAX_VARIABLES, read_entries, symmetric, written_pairs
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense


def read(path: Path) -> CardinalityQubo:
    """The plain QUBO in the file. Raises ValueError naming the file, and the line where there is one, on
    anything malformed, a number of entries other than its header's, or an entry given twice."""
    n, promised, entries, comments = read_entries(path, 1, "a matrix (variables, entries)", diagonal=True)
    if len(entries) != promised:
        raise ValueError(
            f"{path}: {len(entries)} entries, but its header says {promised} (a truncated file?)"
        )
    seen: set[tuple[int, int]] = set()
    for i, j, _ in entries:
        pair = (min(i, j), max(i, j))
        if pair in seen:
            raise ValueError(f"{path}: entry {i + 1} {j + 1} is given twice, or both ways round")
        seen.add(pair)
    matrix, offset = symmetric(n, entries), _offset(path, comments)
    linear = np.diagonal(matrix).copy()
    np.fill_diagonal(matrix, 0.0)
    return CardinalityQubo.unconstrained(Dense(matrix), linear, offset=offset, name=path.stem)


def write(problem: CardinalityQubo, path: Path) -> None:
    """Write a plain QUBO, minimising its energy (objective_scale is lost).

    Raises ValueError where the problem has counts or a radius, no variables or more than 20,000.
    """
    if (problem.groups >= 0).any() or problem.radius is not None:
        raise ValueError(
            f"{path}: the Biq Mac format holds no counts and no radius; write .npz or .cqm instead"
        )
    if not 1 <= problem.n <= MAX_VARIABLES:
        raise ValueError(f"{path}: {problem.n} variables; this format is for 1 to {MAX_VARIABLES}")
    matrix = problem.quadratic.dense()
    matrix[np.diag_indices(problem.n)] += problem.linear
    count, lines = written_pairs(matrix, 1, diagonal=True)
    told = f"# offset {float(problem.offset)!r}\n" if problem.offset else ""
    path.write_text(told + f"{problem.n} {count}\n" + "".join(lines), encoding="utf-8")


def _offset(path: Path, comments: list[str]) -> float:
    for line in comments:
        words = line.lstrip("#").split()
        if words[:1] == ["offset"] and len(words) == 2:
            try:
                return float(words[1])
            except ValueError:
                raise ValueError(f"{path}: the comment {line!r} has no number") from None
    return 0.0
