"""Weights on grids of 2^bits values: asymmetric, by row or group of inputs, with clipping to be learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def groups_of(inputs: int, group: int | None) -> int:
    """How many grids a row of `inputs` weights has; None: one."""
    return 1 if group is None else inputs // group


def quantise(
    weight: Tensor, bits: int, group: int | None = None, low: Tensor | None = None, high: Tensor | None = None
) -> Tensor:
    """(out, in) the weights rounded to their grids, as floats of the weight's dtype (dequantised).

    BESA (arXiv 2402.16880), Section 3.3: h = (high * max - low * min) / (2^bits - 1), z = -round(low * min /
    h), and the value (clamp(round(w / h) + z, 0, 2^bits - 1) - z) * h. A grid is that of a row, or of each
    `group` consecutive inputs of it (which must divide the inputs). low, high: (out, groups) factors in
    (0, 1] of the ends; None: 1, rounding to nearest. Differentiable in them: rounding passes gradients on
    (straight-through).

    Departure: min is at most 0 and max at least 0, so that 0, which pruned weights are, is on every grid.
    """
    parts = weight.float().reshape(len(weight), groups_of(weight.shape[1], group), -1)
    least, most = parts.amin(2).clamp_max(0.0), parts.amax(2).clamp_min(0.0)
    least = least if low is None else least * low
    most = most if high is None else most * high
    top = 2**bits - 1
    step = ((most - least) / top).clamp_min(torch.finfo(torch.float32).tiny * 2**bits)[:, :, None]
    zero = _rounded(-least[:, :, None] / step)
    values: Tensor = _OnGrid.apply(parts, step, zero, top)  # type: ignore[no-untyped-call]
    return values.reshape(weight.shape).to(weight.dtype)


class _OnGrid(torch.autograd.Function):
    """(clamp(round(w / h) + z, 0, top) - z) * h, for weights (out, groups, n), h and z (out, groups, 1).

    Backward as if rounding were the identity, in few passes over the weights: within the grid the gradient
    in w is 1, in h round(w / h) - w / h, in z 0; beyond it 0, the code less z, and -h.
    """

    @staticmethod
    def forward(ctx: Any, parts: Tensor, step: Tensor, zero: Tensor, top: int) -> Tensor:
        ctx.save_for_backward(parts, step, zero)
        ctx.top = top
        return (parts / step).round_().add_(zero).clamp_(0, top).sub_(zero).mul_(step)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        parts, step, zero = ctx.saved_tensors
        gradient = gradients[0]
        ratio = parts / step
        codes = ratio.round().add_(zero)
        held = codes.clamp(0, ctx.top)
        beyond = codes.sub_(held).abs_().clamp_(0, 1)  # whole numbers: 1 beyond the grid
        of_beyond = beyond.mul_(gradient)
        of_parts = gradient - of_beyond
        of_step = (held.sub_(zero).mul_(gradient) - ratio.mul_(of_parts)).sum(2, keepdim=True)
        of_zero = -step * of_beyond.sum(2, keepdim=True)
        return of_parts, of_step, of_zero, None


def _rounded(values: Tensor) -> Tensor:
    """Rounded, with the gradient of the identity."""
    rounded: Tensor = values + (values.round() - values).detach()
    return rounded
