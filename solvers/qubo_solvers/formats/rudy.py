"""The rudy format of the G-set and of Biq Mac's .mc files: maximum cut, as a plain QUBO.

    # a comment
    n m
    i j w         an edge, variables numbered from 1; without w its weight is 1

The cut of x is the sum of w_ij over edges whose ends differ, = sum w_ij (x_i + x_j - 2 x_i x_j), maximised.
Further numbers in the header are ignored (G1 has one).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from qubo_solvers.formats.edges import read_pairs, written_pairs
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense


def read(path: Path) -> CardinalityQubo:
    """The maximum-cut problem in the file; `problem.objective(x)` is the cut."""
    _, edges, weights = read_pairs(path, 1, "a graph (vertices, edges)")
    found = int(np.count_nonzero(np.triu(weights)))
    if found > edges:
        raise ValueError(f"{path}: {found} edges, but its header says {edges}")
    problem = CardinalityQubo.unconstrained(Dense(weights), -weights.sum(axis=1), name=path.stem)
    return replace(problem, objective_scale=-1.0)


def write(problem: CardinalityQubo, path: Path) -> None:
    """Write a plain QUBO that is a maximum cut: maximised, with a linear term that the edges imply.

    Raises ValueError where it is none.
    """
    weights = problem.quadratic.dense()
    plain = not (problem.groups >= 0).any() and problem.radius is None
    np.fill_diagonal(weights, 0.0)
    own = problem.linear + problem.quadratic.diagonal()
    slack = 1e-9 * max(1.0, float(np.abs(weights).sum(axis=1).max(initial=0.0)))
    cut = problem.objective_scale == -1.0 and np.allclose(own, -weights.sum(axis=1), rtol=0, atol=slack)
    if not (plain and cut and problem.offset == 0):
        raise ValueError(f"{path}: not a maximum-cut problem; write .qubo, .npz or .cqm instead")
    count, lines = written_pairs(weights, 1)
    path.write_text(f"{problem.n} {count}\n" + "".join(lines), encoding="utf-8")
