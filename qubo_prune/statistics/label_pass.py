"""The Kronecker diagonal of the Fisher from one pass with sampled labels, nothing else collected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from qubo_prune.layers import Layer
from qubo_prune.objective import Batch, Objective, label_signals
from qubo_prune.statistics.fisher import KroneckerDiagonal
from qubo_prune.statistics.tape import Tape, frozen


def collect_diagonal(
    model: nn.Module,
    layers: Mapping[str, Layer],
    batches: Iterable[Batch],
    objective: Objective,
    seed: int = 0,
) -> KroneckerDiagonal:
    """Inputs and output gradients of every layer, squared and averaged, at the weights as they are.

    One forward and one backward pass a batch: gradients of the cross-entropy to labels that are sampled from
    the model's own prediction, one a position; of the loss itself where the objective has no logits to
    sample from (see `objective.label_signals`). Memory: in + out floats a layer.
    """
    found = KroneckerDiagonal(layers)
    generator = torch.Generator().manual_seed(seed)
    with frozen(model), Tape(model, layers) as tape:
        for batch in batches:
            tape.forget()
            with torch.enable_grad():
                signals = label_signals(objective, model, batch, generator)
            tokens = signals.tokens

            def take(name: str, x: list[Tensor], g: list[Tensor], tokens: int = tokens) -> None:
                found.add(name, x, g, tokens)

            tape.backward(signals.output, signals.loss, take, len(signals.value))
    return found
