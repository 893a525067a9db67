"""One step's statistics of all layers: loss gradients and label-sampled Fisher from one forward pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qubo_prune.layers import Layer
from qubo_prune.objective import Batch, Objective, label_cotangent
from qubo_prune.statistics.fisher import CoherentFisher, FisherSamples, KroneckerDiagonal
from qubo_prune.statistics.gradients import GradientMoments
from qubo_prune.statistics.input_gram import InputGram
from qubo_prune.statistics.tape import Tape, frozen


@dataclass
class Collected:
    """What was seen: mean loss, number of samples, and positions of the loss in one sample of the Fisher.

    fisher_tokens is the s that makes s G'G / N the Fisher of a position, each with a label of its own.
    """

    value: float
    samples: int
    fisher_tokens: float


def collect(
    model: nn.Module,
    layers: Mapping[str, Layer],
    batches: Iterable[tuple[Batch, Tensor | None]],
    objective: Objective,
    moments: GradientMoments | None,
    fisher: FisherSamples | None = None,
    diagonal: KroneckerDiagonal | None = None,
    coherent: CoherentFisher | None = None,
    *,
    gram: InputGram | None = None,
    sampled_labels: torch.Generator | None = None,
    chunk: int | None = None,
    fisher_chunk: int | None = None,
    label_every: int = 1,
    labels: int = 1,
) -> Collected:
    """Run every (batch, teacher) once forward and once (with sampled labels: twice) backward.

    The loss gradient goes to `moments` (every weight's mean and variance). The Fisher samples come from the
    label pass where a generator is given and the objective can sample, else from the loss pass itself.
    label_every: only every so manieth batch, the first among them, gives Fisher samples; labels: how many
    times over, each with labels and a backward pass of its own.
    Nothing is sampled over weights: only layer inputs and output gradients are kept.

    chunk: positions of a sample of the gradient's moments, fisher_chunk: of the Fisher; None: the window.
    A window whose loss is a mean over P positions then counts as ceil(P / chunk) samples, split evenly by
    where a layer is used: long contexts, and still many samples to judge the noise by. (Departure from a
    per-sequence Fisher: what one label sends back into two chunks is counted in each alone.) More and shorter
    chunks raise the rank of the Fisher factor at the same cost. A loss that is no mean is not split.
    """
    total, count, fisher_positions, fisher_samples = 0.0, 0, 0, 0
    with frozen(model), Tape(model, layers) as tape:
        for i, (batch, teacher) in enumerate(batches):
            tape.forget()
            curved = i % label_every == 0
            with torch.enable_grad():
                signals = objective.signals(model, batch, teacher, sampled_labels if curved else None)
            samples, tokens, two_passes = len(signals.value), signals.tokens, signals.label is not None
            pieces, fisher_pieces = _pieces(tokens, chunk), _pieces(tokens, fisher_chunk)

            def curvature(
                name: str, x: list[Tensor], g: list[Tensor], tokens: int = tokens, pieces: int = fisher_pieces
            ) -> None:
                if fisher is not None:
                    fisher.add(name, *_chunks(x, g, pieces))
                if diagonal is not None:
                    diagonal.add(name, x, g, tokens)
                if coherent is not None:
                    coherent.add(name, x, g)
                    coherent.scale = float(tokens)
                if gram is not None:
                    gram.add(name, x)

            one_pass = curved and not two_passes

            def slope(
                name: str, x: list[Tensor], g: list[Tensor], pieces: int = pieces, both: bool = one_pass
            ) -> None:
                if moments is not None:
                    moments.add(name, *_chunks(x, g, pieces))
                if both:
                    curvature(name, x, g)

            tape.backward(signals.output, signals.loss, slope, samples, last=not two_passes)
            if signals.label is not None:
                assert sampled_labels is not None
                tape.backward(signals.output, signals.label, curvature, samples, last=labels == 1)
                for draw in range(1, labels):
                    label = label_cotangent(signals.output, sampled_labels)
                    tape.backward(signals.output, label, curvature, samples, last=draw == labels - 1)
            if gram is not None:
                gram.forget()
            total += float(signals.value.sum())
            count += samples
            if curved:
                draws = labels if two_passes else 1
                fisher_positions += draws * samples * tokens
                fisher_samples += draws * samples * fisher_pieces
    return Collected(total / max(1, count), count, fisher_positions / max(1, fisher_samples))


def _pieces(tokens: int, chunk: int | None) -> int:
    """How many samples a loss over `tokens` positions counts as."""
    return 1 if chunk is None else math.ceil(tokens / chunk)


def _chunks(inputs: list[Tensor], grads: list[Tensor], pieces: int) -> tuple[list[Tensor], list[Tensor]]:
    """(B, T, f) tensors as (B * pieces, T / pieces, f), gradients times `pieces`: the mean stays the same.

    The last piece is filled up with zeros where T does not divide.
    """
    if pieces == 1:
        return inputs, grads
    return [_cut(x, pieces) for x in inputs], [_cut(g, pieces) * pieces for g in grads]


def _cut(x: Tensor, pieces: int) -> Tensor:
    batch, length, features = x.shape
    span = math.ceil(length / pieces)
    if span * pieces != length:
        x = torch.nn.functional.pad(x, (0, 0, 0, span * pieces - length))
    return x.reshape(batch * pieces, span, features)


@torch.no_grad()
def mean_value(model: nn.Module, pairs: Sequence[tuple[Batch, Tensor | None]], objective: Objective) -> float:
    """Mean loss over the samples of (batch, teacher) pairs, float64."""
    with frozen(model):
        values = torch.cat([objective.value(model, batch, teacher).cpu() for batch, teacher in pairs])
    return float(values.mean())
