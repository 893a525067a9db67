"""A learnable pruning rate: a distribution over candidate rates, and a mask that passes gradients on to it.

BESA (arXiv 2402.16880), Section 3.2: with candidate rates p_d and learnable shares beta_d, the rate is
sum(beta_d p_d), and the weight of rank k among n by importance is pruned with the probability of those rates
that reach it. Only the D shares of a layer (or of each of its rows) are learned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


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


def pruning_probability(logits: Tensor, n: int) -> Tensor:
    """(R, n): the probability that the weight of rank k (0: the least important of n) is pruned.

    The share of candidate rates p_d with n p_d > k: the sum of the last shares, which does not rise with k.
    A product of matrices, so that the backward pass too adds in one order on every device.
    """
    steps = logits.shape[1] - 1
    rates = torch.arange(steps + 1, device=logits.device)[:, None] * n
    reaching = rates > torch.arange(n, device=logits.device) * steps
    return torch.softmax(logits, 1) @ reaching.to(logits.dtype)


def ranked(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(order, rank), both (out, in), int16 or int32: each row's columns by rising score, and their inverse.

    Ties go by column, as in `selection`.
    """
    columns = scores.shape[1]
    order = (scores.float() + 0.0).argsort(dim=1, stable=True)
    places = torch.arange(columns, device=scores.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    kind = torch.int16 if columns <= torch.iinfo(torch.int16).max else torch.int32
    return order.to(kind), rank.to(kind)


class _Straight(torch.autograd.Function):
    """weight * (rank >= counts); backward as if the mask were 1 - probability (straight-through)."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, probability: Tensor, order: Tensor, rank: Tensor, counts: Tensor
    ) -> Tensor:
        keep = rank >= counts[:, None]
        ctx.save_for_backward(weight, keep, order)
        ctx.shared = len(probability) == 1
        return weight.masked_fill(~keep, 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        weight, keep, order = ctx.saved_tensors
        gradient = gradients[0]
        of_weight = gradient.masked_fill(~keep, 0) if ctx.needs_input_grad[0] else None
        by_rank = (gradient.float() * weight.float()).gather(1, order.long())
        of_probability = -(by_rank.sum(0, keepdim=True) if ctx.shared else by_rank)
        return of_weight, of_probability, None, None, None


def straight_through(weight: Tensor, logits: Tensor, order: Tensor, rank: Tensor) -> Tensor:
    """(out, in) weight without the least important weights of each row, differentiable in the logits.

    logits: (1, steps + 1) for a layer, (out, steps + 1) for its rows; a row of n weights loses n * rate of
    them, rounded. order, rank: from `ranked`. The gradient of a weight's mask goes to its
    `pruning_probability`, with the sign turned, and from there to all shares (the paper's Section 3.2).
    Nothing is scattered with additions, so a run on the same device gives the same again.
    """
    columns = weight.shape[1]
    counts = (expected_rate(logits.detach()) * columns).round().to(torch.int32)
    probability = pruning_probability(logits, columns)
    found: Tensor = _Straight.apply(weight, probability, order, rank, counts)  # type: ignore[no-untyped-call]
    return found
