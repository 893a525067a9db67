"""From metrics to rates: the linear map, and water-filling to an exact budget between bounds."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from qubo_prune.errors import InputError

FloatArray = npt.NDArray[np.float64]

_SMALLEST = 1e-9
"""Least weight in water-filling, relative to the largest: with epsilon 1 the lowest metric maps to 0."""


def finite(values: FloatArray) -> FloatArray:
    """The values with NaN and infinity replaced by the largest finite one (0 where there is none).

    Such a layer has no tail: its weights are zeros, or its eigenvalues all equal.
    """
    good = np.isfinite(values)
    replaced = values.copy()
    replaced[~good] = values[good].max() if good.any() else 0.0
    return replaced


def linear_map(values: Sequence[float], epsilon: float) -> FloatArray:
    """float64 (n,): values mapped linearly onto [1 - epsilon, 1 + epsilon], the largest to the upper end.

    AlphaPruning (arXiv 2410.10912), Section 3.2, with its s1, s2 = 1 -+ tau. All equal: all 1 (the published
    code divides 0 by 0). Values that are not finite: see `finite`.
    """
    metric = finite(np.asarray(values, dtype=np.float64))
    low, high = float(metric.min()), float(metric.max())
    if low == high:
        return np.ones_like(metric)
    mapped: FloatArray = 1.0 - epsilon + 2.0 * epsilon * ((metric - low) / (high - low))
    return mapped


def fill(
    sizes: Sequence[int],
    weights: Sequence[float] | FloatArray,
    total: float,
    *,
    floor: float = 0.0,
    ceiling: float = 1.0,
) -> FloatArray:
    """float64 (n,) rates in proportion to `weights`, held between floor and ceiling, that prune `total`.

    sizes: weights of each layer. A rate is clip(scale * weight, floor, ceiling) with the one scale that makes
    sum(size * rate) the total, so what a layer above the ceiling would have had goes to the others. A
    layer's own ceiling is the whole number of weights just below ceiling * size, and one less than size at
    most; its own floor the whole number just above floor * size, that ceiling at most. Departure from the
    paper, which only scales: rates may pass 1 there.

    InputError: a total that no rates between floor and ceiling reach.
    """
    size = np.asarray(sizes, dtype=np.float64)
    weight = np.asarray(weights, dtype=np.float64)
    most = np.minimum(np.floor(size * ceiling + 1e-9), size - 1.0)
    least = np.minimum(np.ceil(size * floor - 1e-9), most)
    low, high = least / size, most / size
    if not least.sum() - 1e-6 <= total <= most.sum() + 1e-6:
        raise InputError(
            f"{total:,.0f} of {size.sum():,.0f} weights cannot be pruned with at least {floor:.4g} and at "
            f"most {ceiling:.4g} of each layer: change the sparsity, allocation.floor or allocation.ceiling."
        )
    weight = np.maximum(weight / weight.max(), _SMALLEST)
    scales = np.unique(np.concatenate([[0.0], low / weight, high / weight]))

    def pruned(scale: float) -> float:
        return float((size * np.clip(scale * weight, low, high)).sum())

    first, last = 0, len(scales) - 1  # pruned() is linear between neighbours and does not fall
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if pruned(scales[middle]) <= total else (first, middle)
    before, after = pruned(scales[first]), pruned(scales[last])
    share = 0.0 if after <= before else min(1.0, max(0.0, (total - before) / (after - before)))
    scale = scales[first] + share * (scales[last] - scales[first])
    rates: FloatArray = np.clip(scale * weight, low, high)
    return rates


def block_of(name: str) -> str:
    """The block of a layer: its name up to the first number ("model.layers.3" of "model.layers.3.mlp.up").

    A name without a number is a block of its own.
    """
    parts = name.split(".")
    numbered = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts) - 1)
    return ".".join(parts[: numbered + 1])


def blocks_of(names: Sequence[str]) -> dict[str, list[str]]:
    """Block -> its layers, in their order."""
    blocks: dict[str, list[str]] = {}
    for name in names:
        blocks.setdefault(block_of(name), []).append(name)
    return blocks


def rates_per_matrix(
    sizes: Mapping[str, int], metrics: Mapping[str, float], epsilon: float, total: float, **bounds: float
) -> dict[str, float]:
    """Each layer's rate from its own metric. Arguments as for `fill` and `linear_map`."""
    names = list(sizes)
    weights = linear_map([metrics[name] for name in names], epsilon)
    found = fill([sizes[name] for name in names], weights, total, **bounds)
    return dict(zip(names, map(float, found), strict=True))


def rates_per_block(
    sizes: Mapping[str, int], metrics: Mapping[str, float], epsilon: float, total: float, **bounds: float
) -> dict[str, float]:
    """One rate for all layers of a block, from the mean of their metrics (unweighted, as published)."""
    means = _block_means(sizes, metrics)
    weights = dict(zip(means, linear_map(list(means.values()), epsilon), strict=True))
    names = list(sizes)
    found = fill([sizes[n] for n in names], [weights[block_of(n)] for n in names], total, **bounds)
    return dict(zip(names, map(float, found), strict=True))


def rates_mixed(
    sizes: Mapping[str, int],
    metrics: Mapping[str, float],
    epsilon: float,
    within: float,
    total: float,
    **bounds: float,
) -> dict[str, float]:
    """Blocks as in `rates_per_block`; then each block's weights shared out by its matrices' own metrics.

    within: the epsilon of the second map. A block's total is that of `rates_per_block`.
    """
    outer = rates_per_block(sizes, metrics, epsilon, total, **bounds)
    rates: dict[str, float] = {}
    for names in blocks_of(list(sizes)).values():
        own = {name: sizes[name] for name in names}
        share = math.fsum(sizes[name] * outer[name] for name in names)
        rates |= rates_per_matrix(own, metrics, within, share, **bounds)
    return {name: rates[name] for name in sizes}


def _block_means(sizes: Mapping[str, int], metrics: Mapping[str, float]) -> dict[str, float]:
    """Block -> the mean metric of its layers."""
    names = list(sizes)
    known = dict(zip(names, finite(np.array([metrics[name] for name in names])), strict=True))
    return {
        block: float(np.mean([known[name] for name in inside])) for block, inside in blocks_of(names).items()
    }
