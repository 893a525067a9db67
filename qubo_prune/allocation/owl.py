"""OWL (arXiv 2310.05175): sparsity by block from the share of outliers among its weights' Wanda scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from qubo_prune.allocation.evidence import Observed
from qubo_prune.allocation.mapping import blocks_of
from qubo_prune.allocation.projection import project_counts
from qubo_prune.allocation.result import Allocation
from qubo_prune.allocation_settings import Owl
from qubo_prune.initial import InputNorms, wanda
from qubo_prune.layers import Layer
from qubo_prune.selection import prune_count
from qubo_prune.statistics.gram import collect_norms
from qubo_prune.statistics.tape import frozen


def outlier_share(layers: Mapping[str, Layer], moments: InputNorms, multiple: float) -> float:
    """Share of the weights of these layers whose |w| ||x|| is above `multiple` times the mean over all.

    The paper's layerwise outlier distribution (Section 3.2), over the layers together.
    """
    total, size = 0.0, 0
    for name, layer in layers.items():
        total += float(wanda.scores(layer, moments.norm(name)).sum(dtype=torch.float64))
        size += layer.numel
    threshold = multiple * total / size
    above = sum(
        int((wanda.scores(layer, moments.norm(name)) > threshold).count_nonzero())
        for name, layer in layers.items()
    )
    return above / size


def rates(shares: Mapping[str, float], sparsity: float, spread: float) -> dict[str, float]:
    """Name -> rate: the fewer outliers, the more is pruned.

    Shares are mapped linearly onto [0, 2 * spread]; a rate is sparsity less its distance from their mean, as
    in the published code, so rates differ by 2 * spread at most. All equal: all `sparsity`.
    """
    values = np.array(list(shares.values()), dtype=np.float64)
    width = float(values.max() - values.min())
    mapped = np.zeros_like(values) if width == 0 else (values - values.min()) / width * 2.0 * spread
    return dict(zip(shares, (sparsity - (mapped - mapped.mean())).tolist(), strict=True))


def allocate(
    layers: Mapping[str, Layer],
    sparsity: float,
    settings: Owl,
    observed: Observed,
    on_layer: Callable[[int, int], None] | None = None,
) -> Allocation:
    """How many weights to prune in each layer; the total is `prune_count` of all weights together.

    Rates are those of `rates`, by block or by matrix, moved to the exact total by one common shift between
    floor and ceiling (the published code leaves the total where it falls, and knows no bounds).
    InputError: as for `check`, and layers that the batches do not reach.
    """
    check(layers, sparsity, settings)
    moments = observed.moments
    if moments is None:
        with frozen(observed.model):
            moments = collect_norms(observed.forward, layers, observed.batches)
    groups = blocks_of(list(layers)) if settings.per == "block" else {name: [name] for name in layers}
    shares: dict[str, float] = {}
    done = 0
    for group, names in groups.items():
        shares[group] = outlier_share({name: layers[name] for name in names}, moments, settings.outlier)
        done += len(names)
        if on_layer is not None:
            on_layer(done, len(layers))
    sizes = {name: layer.numel for name, layer in layers.items()}
    of_group = rates(shares, sparsity, settings.spread)
    group_of = {name: group for group, names in groups.items() for name in names}
    counts = project_counts(
        list(sizes.values()), [of_group[group_of[name]] for name in sizes],
        prune_count(sum(sizes.values()), sparsity), floor=settings.floor, ceiling=settings.ceiling,
    )  # fmt: skip
    seen = {name: {"outliers": shares[group_of[name]]} for name in sizes}
    return Allocation("owl", dict(zip(sizes, counts.tolist(), strict=True)), sizes, None, seen)


def check(layers: Mapping[str, Layer], sparsity: float, settings: Owl) -> None:
    """What can be refused without data. InputError: a sparsity that the bounds do not reach."""
    sizes = [layer.numel for layer in layers.values()]
    total = prune_count(sum(sizes), sparsity)
    project_counts(sizes, [sparsity] * len(sizes), total, floor=settings.floor, ceiling=settings.ceiling)
