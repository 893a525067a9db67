"""One step's statistics: gradients of the loss and label-sampled Fisher of all layers, one forward pass for both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qubo_prune.errors import InputError
from qubo_prune.layers import Layer
from qubo_prune.objective import Batch, Objective
from qubo_prune.statistics.fisher import FisherSamples, KroneckerDiagonal
from qubo_prune.statistics.gradients import GradientMoments
from qubo_prune.statistics.tape import Tape, frozen


@dataclass
class Collected:
    """value: mean loss of the samples seen; samples: how many; tokens: positions a sample's loss is a mean over."""

    value: float
    samples: int
    tokens: int


def collect(
    model: nn.Module,
    layers: Mapping[str, Layer],
    batches: Iterable[tuple[Batch, Tensor | None]],
    objective: Objective,
    moments: GradientMoments,
    fisher: FisherSamples,
    diagonal: KroneckerDiagonal | None = None,
    *,
    sampled_labels: torch.Generator | None = None,
    chunk: int | None = None,
    fisher_chunk: int | None = None,
) -> Collected:
    """Run every (batch, teacher) once forward and once (with sampled labels: twice) backward.

    The loss gradient goes to `moments` (every weight's mean and variance). The Fisher samples come from the
    label pass where a generator is given and the objective can sample, else from the loss pass itself.
    Nothing is sampled over weights: only layer inputs and output gradients are kept.

    chunk: positions of a sample of the gradient's moments, fisher_chunk: of the Fisher. A window of T positions then counts as T / chunk samples, split by where a
    layer is used: long contexts, and still many samples to judge the noise by. (Departure from a per-sequence
    Fisher: what one label sends back into two chunks is counted in each alone.) Both must divide T. More and shorter
    chunks raise the rank of the Fisher factor at the same cost: a solver finds its way around a low rank.
    """
    total, count, tokens = 0.0, 0, 1
    with frozen(model), Tape(model, layers) as tape:
        for batch, teacher in batches:
            tape.forget()
            with torch.enable_grad():
                signals = objective.signals(model, batch, teacher, sampled_labels)
            tokens = signals.tokens

            def curvature(name: str, x: list[Tensor], g: list[Tensor], tokens: int = tokens) -> None:
                fisher.add(name, *_chunks(x, g, fisher_chunk))
                if diagonal is not None:
                    diagonal.add(name, x, g, tokens)

            def slope(name: str, x: list[Tensor], g: list[Tensor], both: bool = signals.label is None) -> None:
                moments.add(name, *_chunks(x, g, chunk))
                if both:
                    curvature(name, x, g)

            tape.backward(signals.output, signals.loss, slope, last=signals.label is None)
            if signals.label is not None:
                tape.backward(signals.output, signals.label, curvature)
            total += float(signals.value.sum())
            count += len(signals.value)
    return Collected(total / max(1, count), count, tokens)


def _chunks(inputs: list[Tensor], grads: list[Tensor], chunk: int | None) -> tuple[list[Tensor], list[Tensor]]:
    """(B, T, f) tensors as (B * T / chunk, chunk, f); gradients rescaled to those of each chunk's own mean."""
    if chunk is None or inputs[0].shape[1] == chunk:
        return inputs, grads
    if inputs[0].shape[1] % chunk:
        raise InputError(f"windows of {inputs[0].shape[1]} positions do not divide into chunks of {chunk}")
    pieces = inputs[0].shape[1] // chunk
    return (
        [x.reshape(-1, chunk, x.shape[-1]) for x in inputs],
        [g.reshape(-1, chunk, g.shape[-1]) * pieces for g in grads],
    )


def mean_value(
    model: nn.Module, pairs: Sequence[tuple[Batch, Tensor | None]], objective: Objective
) -> float:
    """Mean loss over the samples of (batch, teacher) pairs, float64."""
    with frozen(model):
        values = torch.cat([objective.value(model, batch, teacher).cpu() for batch, teacher in pairs])
    return float(values.mean())
