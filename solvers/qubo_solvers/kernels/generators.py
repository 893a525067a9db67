"""Compiled generators of published instances."""

from __future__ import annotations

from typing import Any

import numpy as np

from qubo_solvers.kernels.jit import kernel


@kernel
def palubeckis(matrix: Any, linear: Any, density: int, seed: int) -> None:
    """Fill Q = -c (off its diagonal) and linear = -c_ii; see qubo_solvers/palubeckis.py."""
    s = seed
    n = len(linear)
    scale = 1.0 / 2147483648.0
    limit = np.float32(density)
    for i in range(n):
        s = 16807 * s % 2147483647
        linear[i] = -(int(201.0 * (s * scale)) - 100)
        for j in range(i + 1, n):
            s = 16807 * s % 2147483647
            if np.float32(100.0 * (s * scale)) <= limit:
                s = 16807 * s % 2147483647
                value = int(201.0 * (s * scale)) - 100
                matrix[i, j] = -value
                matrix[j, i] = -value
