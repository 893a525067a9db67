"""Learn the pruning rates of one block's layers by the gradient of the block's reconstruction error.

BESA (arXiv 2402.16880), Sections 3.1 to 3.3: the block with masked (and quantised) weights answers to its
inputs, and the squared distance to the dense block's answers, with a penalty on the budget, is minimised over
the shares of candidate rates (and the clipping factors of the grids).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qubo_prune.allocation.learned_rate import (
    even_counts,
    expected_rate,
    initial_logits,
    masked,
    ranked,
    straight_through,
)
from qubo_prune.allocation.optimisers import Descent
from qubo_prune.allocation.projection import project_counts
from qubo_prune.allocation_settings import Besa
from qubo_prune.block_calls import Call, hidden
from qubo_prune.layers import Layer
from qubo_prune.quantisation import groups_of, quantise
from qubo_prune.resident import Resident
from qubo_prune.selection import keep_topk

CLIPPING = 4.0
"""Where the logits of clipping factors begin: factors of 0.982, which can still move either way."""


@dataclass(frozen=True, eq=False)
class LayerFit:
    """What was chosen for a layer.

    count    weights to prune
    rows     int64 (out,) weights to prune of each row, where rates are learned by row
    rate     the learned rate, before it was moved to the budget
    values   (out, in) the dequantised weights, pruned ones too, where weights are quantised
    """

    count: int
    rows: Tensor | None
    rate: float
    values: Tensor | None


@dataclass(frozen=True, eq=False)
class BlockFit:
    """What was chosen for a block.

    answers       the block's output to every call, with its weights so chosen
    error_start   the block's relative error with the counts to begin with (Wanda's mask; rounded to nearest)
    error_learned the same with the learned rates (and clipping), moved to the budget
    learned       whether these were taken: the start is kept where they are no better
    seconds       of the whole choice
    """

    layers: dict[str, LayerFit]
    answers: list[Any]
    error_start: float
    error_learned: float
    learned: bool
    seconds: float


class Reconstruction:
    """A block's relative error: the mean over features of E(y - target)^2 / E target^2.

    Departure from the paper's plain squared distance: each feature counts alike, as in the published code,
    so that a few features with massive activations do not decide alone.
    """

    def __init__(self, block: Resident, calls: Sequence[Call], targets: Sequence[Tensor]) -> None:
        self.block, self.calls, self.targets = block, calls, targets
        energy = torch.stack([t.float().reshape(-1, t.shape[-1]).square().sum(0) for t in targets]).sum(0)
        energy /= sum(t.numel() // t.shape[-1] for t in targets)
        least = float(energy.mean()) * 1e-6 + torch.finfo(torch.float32).tiny
        self._scale = block.here(energy.clamp_min(least))

    def loss(self, i: int, weights: Mapping[str, Tensor]) -> Tensor:
        """The error on one batch, differentiable in the weights."""
        return self._distance(i, self.block.run(self.calls[i], weights))

    @torch.no_grad()
    def judged(self, weights: Mapping[str, Tensor]) -> tuple[float, list[Any]]:
        """The mean error over all batches, each weighted by its positions, and the block's outputs."""
        sizes, found, answers = [t.numel() for t in self.targets], 0.0, []
        for i, call in enumerate(self.calls):
            answer = self.block.run(call, weights)
            found += float(self._distance(i, answer)) * sizes[i]
            answers.append(self.block.back(answer))
        return found / sum(sizes), answers

    def _distance(self, i: int, answer: Any) -> Tensor:
        """The error of one batch's answer."""
        target = self.block.here(self.targets[i])
        distance = hidden(answer).float() - target.float()
        return (distance.reshape(-1, target.shape[-1]).square().mean(0) / self._scale).mean()


class _Learned:
    """One layer under optimisation; weight: (out, in) its own, where the scores are."""

    def __init__(self, layer: Layer, weight: Tensor, scores: Tensor, count: int, settings: Besa) -> None:
        keep_topk(scores, 0, name=layer.name)  # InputError: scores that are NaN or infinite
        self.layer, self.weight, self.scores, self.settings = layer, weight, scores, settings
        self.order, self.rank = ranked(scores)
        out, inputs = layer.shape
        device = weight.device
        rows = out if settings.per == "row" else 1
        self.logits = initial_logits(count / layer.numel, settings.candidates, rows, device).requires_grad_()
        self.clips: list[Tensor] = []
        if settings.quantise is not None:
            shape = (out, groups_of(inputs, settings.quantise.group))
            self.clips = [torch.full(shape, CLIPPING, device=device, requires_grad=True) for _ in range(2)]

    @property
    def parameters(self) -> list[Tensor]:
        return [self.logits, *self.clips]

    def rate(self) -> Tensor:
        """Scalar: the layer's expected rate."""
        return expected_rate(self.logits).mean()

    def values(self, *, clipped: bool = True) -> Tensor:
        """(out, in) the weights, on their grids where they are quantised."""
        chosen, weight = self.settings.quantise, self.weight
        if chosen is None:
            return weight
        low, high = (clip.sigmoid() for clip in self.clips) if clipped else (None, None)
        return quantise(weight, chosen.bits, chosen.group, low, high)

    def masked(self) -> Tensor:
        """The weight as the module stores it, masked at the present rate."""
        return self.layer.oriented(straight_through(self.values(), self.logits, self.order, self.rank))

    @torch.no_grad()
    def counted(self, values: Tensor, count: int, rows: Tensor | None) -> Tensor:
        """Values as the module stores them, with exactly `count` of them pruned: `rows` of each row, or the
        mask of `keep_topk` by output."""
        chosen = even_counts(self.scores, self.order, count) if rows is None else rows.to(values.device)
        return self.layer.oriented(masked(values, self.rank, chosen))


def fit_block(
    reconstruction: Reconstruction,
    layers: Mapping[str, Layer],
    scores: Mapping[str, Tensor],
    counts: Mapping[str, int],
    settings: Besa,
) -> BlockFit:
    """Choose how much to prune of each layer of a block; the block's total is that of `counts`.

    layers: name within the block -> layer. scores: name -> (out, in) importance, by which rows are pruned.
    counts: name -> weights to prune to begin with, within the bounds; their sum is the budget. Weights are
    not changed.

    The loss is error / error at the start + penalty * ((rate - target) / target)^2 over the block's rate, as
    in the published code but for the division by the start, which makes one penalty fit every block.
    Departure: `settings.checks` times on the way, the last at the end, the rates are moved to the budget by
    one common shift (`project_counts`) and the error is taken over all batches; the best of these is chosen,
    and the start where none is better. (Published: the rates at the end, wherever the budget is then.)
    InputError: a budget that bounds do not reach, or Prodigy not installed.
    """
    begun = time.perf_counter()
    block = reconstruction.block
    learned = {
        name: _Learned(layer, layer.oriented(block.weight(name, layer.parameter)), block.here(scores[name]),
                       counts[name], settings)
        for name, layer in layers.items()
    }  # fmt: skip
    sizes = torch.tensor([layer.numel for layer in layers.values()], dtype=torch.float64)
    total = sum(counts.values())
    target = total / float(sizes.sum())
    start = best = _judged(reconstruction, learned, {name: (counts[name], None) for name in layers}, False)
    tried: list[float] = []
    if 0 < target < 1 and start.error > 0:
        parameters = [tensor for part in learned.values() for tensor in part.parameters]
        descent = Descent(settings.optimiser, parameters, settings.steps, settings.learning_rate)
        every = max(1, -(-settings.steps // settings.checks))
        for step in range(settings.steps):
            with torch.enable_grad():
                weights = {name: part.masked() for name, part in learned.items()}
                error = reconstruction.loss(step % len(reconstruction.calls), weights) / start.error
                rates = torch.stack([part.rate() for part in learned.values()])
                rate = (rates * (sizes / sizes.sum()).to(rates)).sum()
                descent.step(error + settings.penalty * ((rate - target) / target) ** 2)
            if (settings.steps - 1 - step) % every == 0:
                found = _judged(reconstruction, learned, _projected(learned, total, settings), True)
                tried.append(found.error)
                best = found if found.error < best.error else best
    seconds = time.perf_counter() - begun
    error_learned = min(tried, default=start.error)
    return BlockFit(best.layers, best.answers, start.error, error_learned, best is not start, seconds)


@dataclass(frozen=True, eq=False)
class _Candidate:
    """Counts with their error over all batches; see `BlockFit`."""

    error: float
    layers: dict[str, LayerFit]
    answers: list[Any]


@torch.no_grad()
def _judged(
    reconstruction: Reconstruction,
    learned: Mapping[str, _Learned],
    counts: Mapping[str, tuple[int, Tensor | None]],
    clipped: bool,
) -> _Candidate:
    """The candidate of these counts, with the clipping as it is now learned, or without."""
    fits, weights = {}, {}
    for name, part in learned.items():
        values = part.values(clipped=clipped)
        kept = None if part.settings.quantise is None else values.to(part.layer.weight.device)
        fits[name] = LayerFit(*counts[name], float(part.rate()), kept)
        weights[name] = part.counted(values, *counts[name])
    error, answers = reconstruction.judged(weights)
    return _Candidate(error, fits, answers)


@torch.no_grad()
def _projected(
    learned: Mapping[str, _Learned], total: int, settings: Besa
) -> dict[str, tuple[int, Tensor | None]]:
    """Name -> (count, counts of its rows or None), `total` in all."""
    bounds = {"floor": settings.floor, "ceiling": settings.ceiling}
    if settings.per == "layer":
        sizes = [part.layer.numel for part in learned.values()]
        rates = [float(part.rate()) for part in learned.values()]
        counts = project_counts(sizes, rates, total, what="a block", **bounds)
        return {name: (int(count), None) for name, count in zip(learned, counts, strict=True)}
    shapes = [part.layer.shape for part in learned.values()]
    wide = [inputs for out, inputs in shapes for _ in range(out)]
    rates_of_rows = np.concatenate([expected_rate(p.logits).double().cpu().numpy() for p in learned.values()])
    every = torch.from_numpy(project_counts(wide, rates_of_rows, total, what="a block's rows", **bounds))
    parts = every.split([out for out, _ in shapes])
    return {name: (int(rows.sum()), rows) for name, rows in zip(learned, parts, strict=True)}
