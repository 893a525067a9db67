"""ADMM (arXiv 2401.02938): values and mask of a layer together, the mask gradually sparser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qubo_prune.cholesky import inverse_factor
from qubo_prune.layerwise import LayerChange, LayerEvidence
from qubo_prune.reconstruct.least_squares import LADDER
from qubo_prune.selection import Granularity, keep_topk, nm_mask

ITERATIONS = 20
GRADUAL = 15
"""Iterations in all, and those in which the mask still moves: the paper's."""


@torch.no_grad()
def admm(
    original: Tensor,
    gram: Tensor | Sequence[Tensor],
    cross: Tensor | Sequence[Tensor],
    n_prune: int,
    granularity: Granularity = "output",
    *,
    groups: Sequence[slice] = (),
    prices: Tensor | None = None,
    mask: Tensor | None = None,
    pattern: tuple[int, int] | None = None,
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
    groups: consecutive rows that have moments of their own; then gram and cross are one each for a group.
    prices: (R,) what a row's error counts in the layer's, for the choice of the mask; None: 1 each.
    mask: None: Z's entries are chosen anew in each of the first `gradual` iterations, the pruned share rising
    as 1 - (1 - t / gradual)^3 to its end; then they stay. A mask (its own count holds) fixes them.
    granularity: what the count holds over, see `keep_topk`. pattern: (n, m): of each m consecutive inputs n
    are kept, from the first iteration on, whatever the count.
    Inputs that are always 0 go first, and a weight there that is kept keeps its value.
    Departures: the count is met exactly, ties by position; the target may be of another input x_t; Z's mask
    is chosen by |W + U| in scaled inputs over whatever the granularity says, where the paper's holds over the
    layer.
    """
    grams = [gram] if isinstance(gram, Tensor) else gram
    crosses = [cross] if isinstance(cross, Tensor) else cross
    groups = groups or [slice(0, len(original))]
    parts = [
        _scaled(original[rows].float(), h, c, damping, penalty)
        for rows, h, c in zip(groups, grams, crosses, strict=True)
    ]
    target, rhs = torch.cat([part.target for part in parts]), torch.cat([part.rhs for part in parts])
    divisor, dead = torch.cat([part.divisor for part in parts]), torch.cat([part.dead for part in parts])
    worth = None if prices is None else prices.sqrt()[:, None]
    kept = torch.ones_like(target, dtype=torch.bool) if mask is None else mask
    z, u = target.masked_fill(~kept, 0), torch.zeros_like(target)
    for step in range(1, iterations + 1):
        w = rhs + penalty * (z - u)
        u += torch.cat([w[rows] @ part.inverse for rows, part in zip(groups, parts, strict=True)])
        if mask is None and step <= max(1, min(gradual, iterations)):
            count = round(n_prune * (1 - (1 - step / max(1, min(gradual, iterations))) ** 3))
            scores = u.abs() if worth is None else u.abs() * worth
            if pattern is None:
                kept = keep_topk(scores, count, granularity, name=name)
            else:
                kept = nm_mask(scores, *pattern, name=name)
        z = u.masked_fill(~kept, 0)
        u -= z
    return torch.where(dead & kept, original.float(), z / divisor), kept


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Rows of a layer in inputs scaled to a mean square of 1.

    target, rhs    (R, n) T, and T (C' + damping I)
    inverse        (n, n) of H + (damping + penalty) I
    divisor, dead  (R, n) what takes values back to inputs unscaled; inputs that are always 0. Each row alike
    """

    target: Tensor
    rhs: Tensor
    inverse: Tensor
    divisor: Tensor
    dead: Tensor


def _scaled(original: Tensor, gram: Tensor, cross: Tensor, damping: float, penalty: float) -> _Scaled:
    """Rows (R, n) that share moments (n, n), made ready for the iterations."""
    size = gram.diagonal().float().clamp(min=0).sqrt()
    dead = size == 0
    divisor = size.masked_fill(dead, 1)
    h = gram.float() / divisor[:, None] / divisor
    target = original * size
    rhs = (original @ cross.float().t()) / divisor + damping * target
    factor, _ = inverse_factor(h, damping + penalty)
    return _Scaled(
        target, rhs, factor.t() @ factor, divisor.expand_as(target), dead.expand_as(target)
    )  # fmt: skip


@dataclass(frozen=True)
class Admm:
    """The method of a layer for `sequential.walk`.

    Each damping of the ladder is tried, and the answer with the least held-out error is taken; the layer
    stays as it is unless that error is below its present one. moves_mask: False keeps the mask. Each layer
    keeps its count of pruned weights in any case; with granularity "output" the rows of a new mask have equal
    counts, but for one. patterns: layer -> (n, m), for those that keep n of each m inputs.
    """

    dampings: Sequence[float] = LADDER
    granularity: Granularity = "output"
    moves_mask: bool = True
    iterations: int = ITERATIONS
    patterns: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def __call__(self, name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        gram = [part.gram() for _, part in evidence.groups]
        cross = [part.cross() for _, part in evidence.groups]
        least, best, details = evidence.error(weight), LayerChange(), {}
        for damping in self.dampings:
            values, kept = admm(
                evidence.original, gram, cross, int((~mask).sum()), self.granularity,
                groups=[rows for rows, _ in evidence.groups], prices=evidence.prices,
                mask=None if self.moves_mask else mask, pattern=self.patterns.get(name), damping=damping,
                iterations=self.iterations,
                gradual=round(self.iterations * GRADUAL / ITERATIONS), name=f"layer {name!r}",
            )  # fmt: skip
            values = values.to(weight.dtype)
            error = evidence.error(values)
            if error < least:
                details = {"damping": damping, "moved": float((kept ^ mask).sum()) / mask.numel()}
                least, best = error, LayerChange(values, kept, details)
        return best
