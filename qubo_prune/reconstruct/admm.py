"""ADMM (arXiv 2401.02938): values and mask of a layer together, the mask gradually sparser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qubo_prune.cholesky import inverse_factor
from qubo_prune.layerwise import LayerChange, LayerEvidence
from qubo_prune.reconstruct.least_squares import LADDER
from qubo_prune.selection import Granularity, keep_topk

ITERATIONS = 20
GRADUAL = 15
"""Iterations in all, and those in which the mask still moves: the paper's."""


@torch.no_grad()
def admm(
    original: Tensor,
    gram: Tensor,
    cross: Tensor,
    n_prune: int,
    granularity: Granularity = "output",
    *,
    mask: Tensor | None = None,
    damping: float = 0.1,
    penalty: float = 1.0,
    iterations: int = ITERATIONS,
    gradual: int = GRADUAL,
    name: str = "layer",
) -> tuple[Tensor, Tensor]:
    """(values (R, n) float32, mask (R, n) bool) with exactly `n_prune` weights pruned.

    Minimises E|W x - T x_t|^2 + damping |W - T|^2, in inputs scaled to a mean square of 1, over matrices W of
    so many zeros, by the alternating direction method of multipliers (algorithm 1 of the paper):

        W = (T (C' + damping I) + penalty (Z - U)) (H + (damping + penalty) I)^-1
        Z = the largest entries of W + U, the others 0;   U = U + W - Z

    original: (R, n) T. gram: (n, n) H = E[x x']; cross: (n, n) C = E[x x_t'], both unscaled.
    mask: None: Z's entries are chosen anew in each of the first `gradual` iterations, the pruned share rising
    as 1 - (1 - t / gradual)^3 to its end; then they stay. A mask (its own count holds) fixes them.
    granularity: what the count holds over, see `keep_topk`.
    Inputs that are always 0 go first, and a weight there that is kept keeps its value.
    Departures: the count is met exactly, ties by position; the target may be of another input x_t; Z's mask
    is chosen by |W + U| in scaled inputs over whatever the granularity says, where the paper's holds over the
    layer.
    """
    size = gram.diagonal().float().clamp(min=0).sqrt()
    dead = size == 0
    divisor = size.masked_fill(dead, 1)
    h = gram.float() / divisor[:, None] / divisor
    target = original.float() * size
    rhs = (original.float() @ cross.float().t()) / divisor + damping * target
    factor, _ = inverse_factor(h, damping + penalty)
    inverse = factor.t() @ factor
    kept = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    z, u = target.masked_fill(~kept, 0), torch.zeros_like(target)
    for step in range(1, iterations + 1):
        w = (rhs + penalty * (z - u)) @ inverse
        u += w
        if mask is None and step <= max(1, min(gradual, iterations)):
            count = round(n_prune * (1 - (1 - step / max(1, min(gradual, iterations))) ** 3))
            kept = keep_topk(u.abs(), count, granularity, name=name)
        z = u.masked_fill(~kept, 0)
        u -= z
    return torch.where(dead & kept, original.float(), z / divisor), kept


@dataclass(frozen=True)
class Admm:
    """The method of a layer for `sequential.walk`.

    Each damping of the ladder is tried, and the answer with the least held-out error is taken; the layer
    stays as it is unless that error is below its present one. moves_mask: False keeps the mask. Each layer
    keeps its count of pruned weights in any case; with granularity "output" the rows of a new mask have equal
    counts, but for one.
    """

    dampings: Sequence[float] = LADDER
    granularity: Granularity = "output"
    moves_mask: bool = True
    iterations: int = ITERATIONS

    def __call__(self, name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        gram, cross = evidence.gram(), evidence.cross()
        least, best, details = evidence.error(weight), LayerChange(), {}
        for damping in self.dampings:
            values, kept = admm(
                evidence.original, gram, cross, int((~mask).sum()), self.granularity,
                mask=None if self.moves_mask else mask, damping=damping, iterations=self.iterations,
                gradual=round(self.iterations * GRADUAL / ITERATIONS), name=f"layer {name!r}",
            )  # fmt: skip
            values = values.to(weight.dtype)
            error = evidence.error(values)
            if error < least:
                details = {"damping": damping, "moved": float((kept ^ mask).sum()) / mask.numel()}
                least, best = error, LayerChange(values, kept, details)
        return best
