"""Inverse factors of Gram matrices: damped, and damped more where they are not positive definite."""

import torch
from torch import Tensor

from qubo_prune.errors import InputError

GROWTH = 10.0
"""Factor of the damping after a factorisation that failed."""
_LEAST = 1e-6
"""The first damping after a failure at less."""
_PIVOT = 1e-7
"""Smallest square of a pivot, in means of the diagonal: a float32 matrix does not tell less from none."""


def inverse_factor(gram: Tensor, damping: float) -> tuple[Tensor, float]:
    """(U, damping used): U (n, n) upper triangular, float32, with U'U = (H + damping * m * I)^-1.

    gram: (n, n) symmetric H, in any floating dtype; factored in float64. m is the mean of its diagonal over
    inputs that are not dead (1 where all are); dead inputs, those of diagonal 0, get m there, so that they
    stay on their own. Where the matrix is not positive definite, by pivots of at least 1e-7 m, the damping
    grows tenfold until it is.
    From the factor of H with rows and columns in reverse order: H = R R' with R upper, so U = R^-1.
    InputError: entries that are not finite.
    """
    if not bool(torch.isfinite(gram).all()):
        raise InputError("the Gram matrix has NaN or infinite entries: check the layer's inputs")
    h = gram.to(torch.float64, copy=True)
    diagonal = h.diagonal()
    dead = diagonal == 0
    scale = float(diagonal[~dead].abs().mean()) if not bool(dead.all()) else 1.0
    diagonal[dead] = scale
    added = 0.0
    while True:
        diagonal += (damping - added) * scale
        added = damping
        factor, failed = torch.linalg.cholesky_ex(h.flip(0, 1))
        if not int(failed) and float(factor.diagonal().square().min()) > _PIVOT * scale:
            break
        damping = max(damping * GROWTH, _LEAST)
    upper = factor.flip(0, 1)
    one = torch.eye(len(h), dtype=h.dtype, device=h.device)
    return torch.linalg.solve_triangular(upper, one, upper=True).float(), damping
