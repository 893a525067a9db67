"""The empirical spectral density of a weight: the eigenvalues of W'W, from the smaller Gram matrix."""

import math

import torch
from torch import Tensor

from qubo_prune.errors import InputError

CONVOLUTION_SCALE = 0.5
"""Squared factor of convolutions: the published vision code's; shape metrics do not depend on it."""

_CHUNK = 1 << 22
"""Weights converted to float64 in one go: bounds the temporary memory to 32 MiB."""


def eigenvalues(weight: Tensor, *, published: bool = False, name: str = "weight") -> Tensor:
    """float64 ascending on the weight's device: the eigenvalues of W'W that may be non-zero, none below 0.

    weight: (out, in), either way about, gives min(out, in) of them. A convolution (out, in, k, ...) is, as in
    the vision part of AlphaPruning's code, one (out, in) matrix for each position of its kernel, scaled by
    sqrt(`CONVOLUTION_SCALE`); the prod(k) * min(out, in) eigenvalues of all positions are one spectrum.

    published: float32 singular values, squared, as the published code has them. Departure without it: float64
    eigenvalues of a Gram matrix, accurate to about min(out, in) * 2e-16 of the largest.
    InputError, naming `name`: fewer than 2 dimensions, no weights, or a weight that is not finite.
    """
    if weight.ndim < 2 or not weight.numel():
        raise InputError(f"{name}: a spectrum takes a matrix or a convolution, not {tuple(weight.shape)}.")
    if not bool(torch.isfinite(weight).all()):
        raise InputError(f"{name}: it has NaN or infinite weights; check the checkpoint.")
    matrices = positions(weight.detach())
    if published:
        values = torch.linalg.svdvals(matrices.to(torch.float32)).square().to(torch.float64)
    else:
        values = torch.linalg.eigvalsh(torch.stack([_gram(matrix) for matrix in matrices])).clamp_min_(0.0)
    scale = CONVOLUTION_SCALE if weight.ndim > 2 else 1.0
    found: Tensor = values.reshape(-1).mul_(scale)
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
