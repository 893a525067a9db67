"""The empirical spectral density of a weight: the eigenvalues of W'W, from the smaller Gram matrix."""

import math

import torch
from torch import Tensor

from qubo_prune.errors import InputError

CONVOLUTION_SCALE = 0.5
"""Squared factor of convolutions: the published vision code's; shape metrics do not depend on it."""

_CHUNK = 1 << 22
"""Weights converted to float64 in one go: bounds the temporary memory to 32 MiB."""


def eigenvalues(weight: Tensor, *, name: str = "weight") -> Tensor:
    """float64 ascending on the weight's device: the eigenvalues of W'W that may be non-zero, none below 0.

    weight: (out, in), either way about, gives min(out, in) of them. A convolution (out, in, k, ...) is, as in
    the vision part of AlphaPruning's code, one (out, in) matrix for each position of its kernel, scaled by
    sqrt(`CONVOLUTION_SCALE`); the prod(k) * min(out, in) eigenvalues of all positions are one spectrum.

    Departure: float64 eigenvalues of a Gram matrix, accurate to about min(out, in) * 2e-16 of the largest,
    where the published code squares float32 singular values.
    InputError, naming `name`: fewer than 2 dimensions, no weights, or a weight that is not finite.
    """
    if weight.ndim < 2 or not weight.numel():
        raise InputError(f"{name}: a spectrum takes a matrix or a convolution, not {tuple(weight.shape)}.")
    matrices = positions(weight.detach())
    grams = torch.stack([_gram(matrix) for matrix in matrices])
    if not bool(torch.isfinite(grams).all()):
        raise InputError(f"{name}: it has NaN, infinite or overflowing weights; check the checkpoint.")
    scale = CONVOLUTION_SCALE if weight.ndim > 2 else 1.0
    found: Tensor = torch.linalg.eigvalsh(grams).reshape(-1).mul_(scale).clamp_min_(0.0)
    return found.sort().values


def positions(weight: Tensor) -> Tensor:
    """(prod(k), out, in) view of a weight (out, in, k, ...): a matrix for each position of the kernel."""
    return weight.flatten(2).permute(2, 0, 1) if weight.ndim > 2 else weight[None]


def positive(values: Tensor) -> Tensor:
    """The eigenvalues that are not rounded zeros: above n * eps(float64) of the largest, n their number.

    values: float64 ascending (n,). The result is empty for a matrix of zeros.
    """
    if not len(values):
        return values
    return values[values > values[-1] * len(values) * torch.finfo(torch.float64).eps]


def _gram(matrix: Tensor) -> Tensor:
    """float64 W'W or WW', whichever is smaller, summed over chunks of the longer side."""
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.t()
    side = tall.shape[1]
    gram = torch.zeros((side, side), dtype=torch.float64, device=matrix.device)
    for part in tall.split(max(1, math.ceil(_CHUNK / side))):
        rows = part.to(torch.float64)
        gram.addmm_(rows.t(), rows)
    return gram
