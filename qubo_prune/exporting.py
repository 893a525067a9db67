"""Export the blocks that a run solves: real instances for solver people, with what is known of them.

    block.npz   everything, low-rank factors included: for `qubo-prune solve` and `qubo_solvers.formats.read`
    block.cqm   the same for dimod (`dimod.ConstrainedQuadraticModel.from_file`), where it is small enough

The npz file's metadata says how quadratic a block is: the energy of the best assignment found beside the
energy of the one that sorting alone gives (couplings ignored). The energy of the mask as it was is 0.
"""

from __future__ import annotations

from pathlib import Path

from qubo_solvers import CardinalityQubo, Solution, greedy_start
from qubo_solvers.dimod_bridge import MAX_VARIABLES
from qubo_solvers.formats import cqm, npz

MAX_CQM = 1024
"""Variables up to which a .cqm is written too: it is dense, 16 bytes for each of n^2 / 2 couplings."""


def export_block(
    problem: CardinalityQubo, folder: Path, solution: Solution, max_cqm: int = MAX_CQM
) -> list[Path]:
    """Write a block under its name into `folder`, which is made where it is missing; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    found = solution.assignment is not None
    metadata = {
        "sorted_energy": problem.energy(greedy_start(problem)),
        "best_energy": solution.energy if found else None,
        "solver": solution.solver,
        "status": solution.status.value,
        "seconds": solution.seconds,
    }
    files = [folder / f"{problem.name}.npz"]
    npz.write(problem, files[0], metadata)
    if problem.n <= min(max_cqm, MAX_VARIABLES):
        files.append(folder / f"{problem.name}.cqm")
        cqm.write(problem, files[1])
    return files
