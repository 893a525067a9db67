"""A numpy matrix file (.npy): minimise x'Mx over binary x, with no count or one exact count.

The array is square and real; M need not be symmetric (an upper triangle will do): (M + M')/2 has the same
x'Mx. The diagonal is the linear part. No pickles are written or read.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from qubo_solvers.formats.edges import MAX_VARIABLES
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense


def read(path: Path, k: int | None = None) -> CardinalityQubo:
    """The problem of the matrix, in its dtype where it is symmetric; k: the exact number of ones, None: any.

    Raises ValueError naming the file where it is damaged or holds no finite square real matrix.
    """
    try:
        matrix = np.load(path, allow_pickle=False)
        if not isinstance(matrix, np.ndarray):
            raise ValueError("it is an archive of arrays; this format is one matrix")
        if matrix.dtype.kind not in "fiub" or matrix.dtype.itemsize > 8:
            raise ValueError(f"the matrix must be real, of at most 64 bits, got dtype {matrix.dtype}")
        if matrix.dtype.kind == "b":
            matrix = matrix.astype(np.int8)
        same = matrix.ndim == 2 and np.array_equal(matrix, matrix.T)
        form = Dense(matrix) if same else Dense.symmetrised(matrix)
        linear = np.zeros(form.n)
        if k is None:
            return CardinalityQubo.unconstrained(form, linear, name=path.stem)
        return CardinalityQubo.cardinality(form, linear, k, name=path.stem)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path}: cannot be read as a matrix: {error}") from error


def write(problem: CardinalityQubo, path: Path) -> None:
    """Write Q with the linear part added to its diagonal, minimising the energy (objective_scale is lost).

    Raises ValueError where the problem has counts, a radius or an offset, or more than 20,000 variables.
    """
    if (problem.groups >= 0).any() or problem.radius is not None or problem.offset:
        raise ValueError(
            f"{path}: a matrix holds no counts, no radius and no offset; write .npz or .cqm instead"
        )
    if problem.n > MAX_VARIABLES:
        raise ValueError(f"{path}: {problem.n} variables; this format is for at most {MAX_VARIABLES}")
    form = problem.quadratic
    if isinstance(form, Dense) and not problem.linear.any():
        matrix = form.matrix
    else:
        matrix = form.dense()
        matrix[np.diag_indices(problem.n)] += problem.linear
    with path.open("wb") as file:
        np.save(file, matrix, allow_pickle=False)
