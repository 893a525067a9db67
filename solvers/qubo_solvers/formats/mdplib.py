"""The MDPLIB format: maximum diversity, the m of n elements with the largest sum of distances.

    n m
    i j d         a distance, elements numbered from 0

Maximise the sum of d_ij over chosen pairs i < j with exactly m chosen.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from qubo_solvers.formats.edges import read_pairs, written_pairs
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense


def read(path: Path) -> CardinalityQubo:
    """The maximum-diversity problem in the file; `problem.objective(x)` is the sum of distances."""
    n, m, distances = read_pairs(path, 0, "a diversity problem (elements, elements to choose)")
    if not 0 <= m <= n:
        raise ValueError(f"{path}:1: cannot choose {m} of {n} elements")
    problem = CardinalityQubo.cardinality(Dense(-0.5 * distances), np.zeros(n), m, name=path.stem)
    return replace(problem, objective_scale=-1.0)


def write(problem: CardinalityQubo, path: Path) -> None:
    """Write a problem with one exact count over all variables, couplings only, maximised.

    Raises ValueError where it is something else.
    """
    distances = -2.0 * problem.quadratic.dense()
    np.fill_diagonal(distances, 0.0)
    one = problem.n_groups == 1 and problem.exact_counts and problem.radius is None
    own = problem.linear + problem.quadratic.diagonal()
    if not one or own.any() or problem.offset or problem.objective_scale != -1.0:
        raise ValueError(f"{path}: not a maximum-diversity problem; write .npz or .cqm instead")
    _, lines = written_pairs(distances, 0)
    path.write_text(f"{problem.n} {int(problem.lower[0])}\n" + "".join(lines), encoding="utf-8")
