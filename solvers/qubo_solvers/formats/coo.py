"""dimod's COO text format (.coo): plain QUBOs as "i j value" lines under a "# vartype=BINARY" header.

dimod's own writer keeps six decimals; this one writes enough of them for float64 to round-trip, without the
exponents that dimod's reader does not know. An offset, which the format lacks, goes into a comment.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from qubo_solvers.dimod_bridge import MAX_VARIABLES, from_bqm
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense

_LINE = re.compile(r"^(\d+)\s+(\d+)\s+([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)$")


def read(path: Path) -> CardinalityQubo:
    """The plain QUBO in the file (a SPIN header is rewritten to binary); variables 0 to the largest index.

    A file without a header is taken as BINARY. Repeated entries add up, as in dimod. Raises ValueError naming
    file and line on anything malformed.
    """
    offset, spin = 0.0, False
    entries: list[tuple[int, int, float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        text = line.strip()
        if text.startswith("#"):
            if match := re.search(r"vartype[:=]\s*(\w+)", text):
                if match[1] not in ("BINARY", "SPIN"):
                    raise ValueError(f"{path}:{number}: vartype {match[1]!r} is neither BINARY nor SPIN")
                spin = match[1] == "SPIN"
            elif match := re.match(r"#\s*offset[:=]\s*(\S+)$", text):
                offset = float(match[1])
        elif text:
            if not (match := _LINE.match(text)):
                raise ValueError(f"{path}:{number}: expected 'i j value', got {text!r}")
            entries.append((int(match[1]), int(match[2]), float(match[3])))
    n = 1 + max((max(i, j) for i, j, _ in entries), default=-1)
    if n > MAX_VARIABLES:
        raise ValueError(
            f"{path}: variable {n - 1}; this reader is dense, for at most {MAX_VARIABLES} variables"
        )
    matrix, linear = np.zeros((n, n)), np.zeros(n)
    for i, j, value in entries:
        if i == j:
            linear[i] += value
        else:
            matrix[i, j] += value
    if spin:
        import dimod

        row, column = np.nonzero(matrix)
        both = (row, column, matrix[row, column])
        model = dimod.BinaryQuadraticModel.from_numpy_vectors(linear, both, offset, "SPIN")
        return from_bqm(model)[0]
    return CardinalityQubo.unconstrained(Dense.symmetrised(matrix), linear, offset=offset, name=path.stem)


def write(problem: CardinalityQubo, path: Path) -> None:
    """Write a plain QUBO, minimising its energy. Raises ValueError on counts, a radius or n > 4096."""
    if (problem.groups >= 0).any() or problem.radius is not None:
        raise ValueError(f"{path}: the COO format holds no counts and no radius; write .npz or .cqm instead")
    if problem.n > MAX_VARIABLES:
        raise ValueError(f"{path}: {problem.n} variables; this format is for at most {MAX_VARIABLES}")
    matrix = problem.quadratic.dense()
    diagonal = problem.linear + np.diagonal(matrix)
    with path.open("w", encoding="utf-8") as file:
        file.write("# vartype=BINARY\n")
        if problem.offset:
            file.write(f"# offset={float(problem.offset)!r}\n")
        for i in range(problem.n):
            if diagonal[i] or i == problem.n - 1:  # the last one always: it tells the number of variables
                file.write(f"{i} {i} {_fixed(diagonal[i])}\n")
            for j in i + 1 + np.flatnonzero(matrix[i, i + 1 :]):
                file.write(f"{i} {j} {_fixed(2 * matrix[i, j])}\n")


def _fixed(value: float) -> str:
    return np.format_float_positional(value, unique=True, trim="0")
