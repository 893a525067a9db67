"""A learnable pruning rate: a distribution over candidate rates, and a mask that passes gradients on to it.

BESA (arXiv 2402.16880), Section 3.2: with candidate rates p_d and learnable shares beta_d, the rate is
sum(beta_d p_d), and the weight of rank k among n by importance is pruned with the probability of those rates
that reach it. Only the D shares of a layer (or of each of its rows) are learned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qubo_prune.selection import keep_topk_global


def candidates(steps: int, device: torch.device | None = None) -> Tensor:
    """float32 (steps + 1,): 0, 1 / steps, ..., 1."""
    return torch.arange(steps + 1, device=device, dtype=torch.float32) / steps


def initial_logits(rate: float, steps: int, rows: int, device: torch.device | None = None) -> Tensor:
    """float32 (rows, steps + 1): the flattest distribution over the candidates whose mean is `rate`.

    Of all distributions with that mean the one of the largest entropy, softmax(t * p), with t by bisection.
    Departure: the published code starts at equal shares, so at 0.5 whatever the sparsity. rate is held half a
    step away from 0 and 1.
    """
    p = torch.arange(steps + 1, dtype=torch.float64) / steps
    wanted = min(1.0 - 0.5 / steps, max(0.5 / steps, rate))
    low, high = -8.0 * steps, 8.0 * steps
    for _ in range(100):
        middle = 0.5 * (low + high)
        below = float((torch.softmax(middle * p, 0) * p).sum()) < wanted
        low, high = (middle, high) if below else (low, middle)
    logits = torch.log_softmax(0.5 * (low + high) * p, 0).clamp_min(-30.0)
    return logits.float().to(device).repeat(rows, 1)


def expected_rate(logits: Tensor) -> Tensor:
    """(R,) sum(beta_d p_d) with beta = softmax(logits), logits (R, steps + 1).

    A plain softmax: any rate strictly between 0 and 1 can be reached. Departure: the published code takes the
    softmax of a sigmoid, which keeps the rate within [0.376, 0.624].
    """
    p = candidates(logits.shape[1] - 1, logits.device).to(logits.dtype)
    return torch.softmax(logits, 1) @ p


def reaching(steps: int, n: int, device: torch.device | None = None) -> Tensor:
    """float32 (steps + 1, n): 1 where candidate rate p_d prunes the weight of rank k (0: the least important
    of n), that is n p_d > k.

    The probability that a rank is pruned is softmax(logits) @ reaching: the sum of the last shares, which
    does not rise with k.
    """
    rates = torch.arange(steps + 1, device=device)[:, None] * n
    return (rates > torch.arange(n, device=device) * steps).float()


def ranked(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(order, rank), both (out, in): each row's columns by rising score, and their inverse.

    order is int64, as `gather` wants it at every step; rank int16, or int32 for many columns. Ties go by
    column, as in `selection`.
    """
    columns = scores.shape[1]
    order = (scores.float() + 0.0).argsort(dim=1, stable=True)
    places = torch.arange(columns, device=scores.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    kind = torch.int16 if columns <= torch.iinfo(torch.int16).max else torch.int32
    return order, rank.to(kind)


def even_counts(scores: Tensor, order: Tensor, count: int) -> Tensor:
    """int64 (out,) `count` weights to prune, as many of each row, and one more where the next score is
    lowest: those of `keep_topk` by output, without looking for each row's limit again. order: of `ranked`."""
    base, extra = divmod(count, len(scores))
    rows = torch.full((len(scores),), base, device=scores.device)
    if extra:
        following = scores.gather(1, order[:, base : base + 1])
        rows += ~keep_topk_global({"rows": following}, extra)["rows"].reshape(-1)
    return rows


def masked(weight: Tensor, rank: Tensor, counts: Tensor) -> Tensor:
    """(out, in) weight, 0 where the rank is below the row's count; counts: integers (out,), or (1,) for all.

    A product with the mask in the weight's dtype: on a CPU that is several times as fast as booleans.
    """
    keep = (rank - (counts.to(rank.dtype)[:, None] - 1)).clamp_(0, 1)
    return keep.to(weight.dtype) * weight


class _Straight(torch.autograd.Function):
    """weight * (rank >= counts); backward as if the mask were 1 - shares @ reaching (straight-through)."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, shares: Tensor, order: Tensor, rank: Tensor, counts: Tensor
    ) -> Tensor:
        ctx.save_for_backward(weight, shares, order, rank, counts)
        return masked(weight, rank, counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        weight, shares, order, rank, counts = ctx.saved_tensors
        gradient = gradients[0]
        of_weight = masked(gradient, rank, counts) if ctx.needs_input_grad[0] else None
        by_rank = (gradient.float() * weight.float()).gather(1, order)
        if len(shares) == 1:
            by_rank = by_rank.sum(0, keepdim=True)
        pruned = reaching(shares.shape[1] - 1, weight.shape[1], weight.device)
        return of_weight, -(by_rank @ pruned.t()).to(shares.dtype), None, None, None


def straight_through(weight: Tensor, logits: Tensor, order: Tensor, rank: Tensor) -> Tensor:
    """(out, in) weight without the least important weights of each row, differentiable in the logits.

    logits: (1, steps + 1) for a layer, (out, steps + 1) for its rows; a row of n weights loses n * rate of
    them, rounded. order, rank: from `ranked`. The gradient of a weight's mask goes to the probability that
    its rank is pruned (see `reaching`), with the sign turned, and from there to all shares (the paper's
    Section 3.2). Nothing is scattered with additions: a product of matrices adds in one order, so a run on
    the same device gives the same again.
    """
    counts = (expected_rate(logits.detach()) * weight.shape[1]).round().to(torch.int32)
    shares = torch.softmax(logits, 1)
    found: Tensor = _Straight.apply(weight, shares, order, rank, counts)  # type: ignore[no-untyped-call]
    return found
