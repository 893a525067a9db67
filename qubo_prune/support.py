"""Linear systems on the support of each row: (H_SS + ridge I) z_S = b_S, for all rows of a layer at once."""

import torch
from torch import Tensor

_ELEMENTS = 1 << 24
"""Numbers in one chunk of rows (conjugate gradients) or of their matrices (Cholesky): bounds the memory."""


@torch.no_grad()
def conjugate_gradients(
    gram: Tensor,
    mask: Tensor,
    rhs: Tensor,
    ridge: float,
    start: Tensor | None = None,
    *,
    iterations: int = 100,
    tolerance: float = 1e-5,
) -> Tensor:
    """(R, n) float32 z, zero outside `mask`, that solves the system of each row.

    gram: (n, n) float32 H, symmetric, positive semi-definite. mask: (R, n) bool, the support S of each row.
    rhs: (R, n) b, read on the support. start: (R, n), read on the support; None: zeros.
    Jacobi-preconditioned conjugate gradients, one product with H an iteration for all rows together. A row
    ends when its residual is `tolerance` times as long as its rhs, when it meets a direction of no curvature,
    or after `iterations`.
    """
    chunk = max(1, _ELEMENTS // max(1, gram.shape[0]))
    answer = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    diagonal = gram.diagonal() + ridge
    inverse = torch.where(diagonal > 0, 1 / diagonal, torch.ones_like(diagonal))
    for first in range(0, len(mask), chunk):
        rows = slice(first, first + chunk)
        support = mask[rows].float()
        z = answer[rows]
        residual = rhs[rows].float() * support
        limit = (tolerance * residual.norm(dim=1)).square()
        image = torch.empty_like(residual)
        if start is not None:
            torch.mul(start[rows].float(), support, out=z)
            torch.mm(z, gram, out=image)
            residual.sub_(image.add_(z, alpha=ridge).mul_(support))
        scaled = residual * inverse
        direction = scaled.clone()
        slope = (residual * scaled).sum(1)
        for _ in range(iterations):
            active = residual.norm(dim=1).square() > limit
            if not bool(active.any()):
                break
            torch.mm(direction, gram, out=image)
            image.add_(direction, alpha=ridge).mul_(support)
            curvature = torch.mul(direction, image, out=scaled).sum(1)
            active &= curvature > 0
            step = torch.where(active, slope / curvature, 0.0)[:, None]
            z.addcmul_(step, direction)
            residual.addcmul_(step, image, value=-1)
            torch.mul(residual, inverse, out=scaled)
            following = torch.mul(residual, scaled, out=image).sum(1)
            turn = torch.where(active & (slope > 0), following / slope, 0.0)[:, None]
            direction.mul_(turn).add_(scaled)
            slope = following
    return answer


@torch.no_grad()
def cholesky(gram: Tensor, mask: Tensor, rhs: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """((R, n) float32 z, (R,) bool solved): the same systems by Cholesky factors in float64, rows in batches.

    Arguments as for `conjugate_gradients`. A row whose matrix is not positive definite is left at zero and
    not marked as solved.
    """
    answer = torch.zeros(mask.shape, dtype=torch.float32, device=mask.device)
    solved = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
    most = int(mask.sum(1).max()) if mask.numel() else 0
    if not most:
        return answer, solved
    h = gram.double()
    chunk = max(1, _ELEMENTS // (most * most))
    for first in range(0, len(mask), chunk):
        rows = slice(first, first + chunk)
        inside, place = mask[rows].long().sort(dim=1, descending=True, stable=True)
        inside, place = inside[:, :most].bool(), place[:, :most]
        a = h[place[:, :, None], place[:, None, :]]
        a.masked_fill_(~(inside[:, :, None] & inside[:, None, :]), 0)
        a.diagonal(dim1=1, dim2=2).add_(torch.where(inside, ridge, 1.0))
        b = rhs[rows].double().gather(1, place).masked_fill(~inside, 0)
        factor, failed = torch.linalg.cholesky_ex(a)
        fine = failed == 0
        factor[~fine] = torch.eye(most, dtype=factor.dtype, device=factor.device)
        z = torch.cholesky_solve(b[:, :, None], factor)[:, :, 0] * (inside & fine[:, None])
        answer[rows] = torch.zeros_like(answer[rows]).scatter_(1, place, z.float())
        solved[rows] = fine
    return answer, solved
