"""dimod's serialised ConstrainedQuadraticModel (.cqm): exact counts and radius, dense, n <= 8,192."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from qubo_solvers.dimod_bridge import from_cqm, to_cqm
from qubo_solvers.problem import CardinalityQubo


def read(path: Path) -> CardinalityQubo:
    """The problem of a .cqm file; its variables in the model's order, whatever their labels.

    Raises ValueError naming the file where it is damaged or the model is not of this class.
    """
    import dimod

    try:
        with path.open("rb") as file:
            cqm = dimod.ConstrainedQuadraticModel.from_file(file)
        problem, _ = from_cqm(cqm)
    except Exception as error:  # dimod raises whatever its zip, header and JSON parts raise
        raise ValueError(f"{path}: cannot be read as a CQM of this class: {error}") from error
    return replace(problem, name=path.stem)


def write(problem: CardinalityQubo, path: Path) -> None:
    """Write a problem, minimising its energy (objective_scale is lost). Raises ValueError where n > 4096."""
    with to_cqm(problem).to_file(compress=True) as source, path.open("wb") as file:
        shutil.copyfileobj(source, file)
