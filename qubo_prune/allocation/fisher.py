"""Sparsity by layer from one threshold over all layers: what pruning each weight costs by the Fisher."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from qubo_prune.allocation.evidence import Observed
from qubo_prune.allocation.projection import project_counts
from qubo_prune.allocation.result import Allocation
from qubo_prune.allocation_settings import Fisher
from qubo_prune.initial import OutputNorms, fisher
from qubo_prune.layers import Layer
from qubo_prune.objective import KLToDense
from qubo_prune.selection import keep_topk_global, prune_count
from qubo_prune.statistics.label_pass import collect_diagonal


def global_rates(layers: Mapping[str, Layer], diagonal: OutputNorms, sparsity: float) -> dict[str, float]:
    """Layer -> share that one threshold prunes, over all layers' scores by the Fisher (`initial.fisher`).

    A layer whose outputs no gradient reached (an expert that none of the windows needed) says nothing: its
    share is `sparsity`, and the threshold is that of the others.
    """
    scores = {
        name: fisher.scores(layer, diagonal.input_norm(name), diagonal.output_norm(name))
        for name, layer in layers.items()
        if diagonal.output_norm(name).any()
    }
    rates = dict.fromkeys(layers, sparsity)
    if scores:
        masks = keep_topk_global(scores, prune_count(sum(layers[name].numel for name in scores), sparsity))
        rates |= {name: 1 - float(mask.mean(dtype=torch.float64)) for name, mask in masks.items()}
    return rates


def allocate(
    layers: Mapping[str, Layer],
    sparsity: float,
    settings: Fisher,
    observed: Observed,
    on_layer: Callable[[int, int], None] | None = None,
) -> Allocation:
    """How many weights to prune in each layer; the total is `prune_count` of all weights together.

    Rates are sparsity + strength * (the rate of `global_rates` - sparsity), moved to the exact total between
    floor and ceiling. Strength below 1 because the score adds up single weights: where most of a layer goes,
    the rest has nothing to stand in for it, and the sum says too little.
    InputError: as for `check`.
    """
    check(layers, sparsity, settings)
    diagonal: OutputNorms | None = observed.diagonal
    if diagonal is None:
        objective = observed.objective or KLToDense()
        diagonal = collect_diagonal(observed.model, layers, observed.batches, objective)
    found = global_rates(layers, diagonal, sparsity)
    if on_layer is not None:
        on_layer(len(layers), len(layers))
    sizes = {name: layer.numel for name, layer in layers.items()}
    counts = project_counts(
        list(sizes.values()), [sparsity + settings.strength * (found[name] - sparsity) for name in sizes],
        prune_count(sum(sizes.values()), sparsity), floor=settings.floor, ceiling=settings.ceiling,
    )  # fmt: skip
    seen = {name: {"global_rate": rate} for name, rate in found.items()}
    return Allocation("fisher", dict(zip(sizes, counts.tolist(), strict=True)), sizes, None, seen)


def check(layers: Mapping[str, Layer], sparsity: float, settings: Fisher) -> None:
    """What can be refused without data. InputError: a sparsity that the bounds do not reach."""
    sizes = [layer.numel for layer in layers.values()]
    total = prune_count(sum(sizes), sparsity)
    project_counts(sizes, [sparsity] * len(sizes), total, floor=settings.floor, ceiling=settings.ceiling)
