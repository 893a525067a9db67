"""The 21 random QUBOs p3000.1 to p7000.3 of Palubeckis 2004, exact to the bit, from their generator.

G. Palubeckis, Multistart tabu search strategies for the unconstrained binary quadratic optimization problem,
Annals of Operations Research 131 (2004), doi 10.1023/B:ANOR.0000039522.58036.68. Random numbers are those of
s <- 16807 s mod (2^31 - 1), u = s / 2^31. Row by row: c_ii = int(201 u) - 100; then for each j > i one u says
whether the entry exists (the comparison with the density is in float32, which matters for five of them) and,
if so, the next one is c_ij = int(201 u) - 100. Maximise sum c_ii x_i + 2 sum_{i<j} c_ij x_i x_j.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense

DENSITIES = (50, 80, 80, 100, 100)

INSTANCES: dict[str, tuple[int, int, int]] = {
    # name: variables, density in percent, seed
    f"p{n}.{k}": (n, density, 10 * n + 1_000 * k)
    for n in (3000, 4000, 5000)
    for k, density in enumerate(DENSITIES, 1)
} | {
    "p6000.1": (6000, 50, 61_000),
    "p6000.2": (6000, 80, 62_000),
    "p6000.3": (6000, 100, 64_000),
    "p7000.1": (7000, 50, 71_000),
    "p7000.2": (7000, 80, 72_000),
    "p7000.3": (7000, 100, 74_000),
}


def check_name(name: str) -> None:
    """ValueError where there is no such instance."""
    if name not in INSTANCES:
        raise ValueError(f"no instance {name!r}; known: {', '.join(INSTANCES)}")


def palubeckis(name: str) -> CardinalityQubo:
    """An instance by its name, e.g. "p3000.1"; `problem.objective(x)` is what the paper maximises.

    Q is (n, n) int16 and symmetric: 18 to 98 MB. Needs numba. Raises ValueError on another name.
    """
    check_name(name)
    n, density, seed = INSTANCES[name]
    return from_seed(n, density, seed, name)


def from_seed(n: int, density: int, seed: int, name: str = "") -> CardinalityQubo:
    """An instance of any size of the same generator; density in percent."""
    from qubo_solvers.kernels.generators import palubeckis as fill

    matrix: NDArray[np.int16] = np.zeros((n, n), np.int16)
    linear = np.zeros(n)
    fill(matrix, linear, density, seed)
    problem = CardinalityQubo.unconstrained(Dense(matrix), linear, name=name)
    return replace(problem, objective_scale=-1.0)
