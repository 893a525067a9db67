"""Budgets: how many weights to prune, from rates to whole numbers with an exact total."""

import math
from collections.abc import Mapping

from qubo_prune.errors import InputError
from qubo_prune.layers import Layer
from qubo_prune.selection import prune_count


def uniform_counts(layers: Mapping[str, Layer], sparsity: float) -> dict[str, int]:
    """`sparsity` of each layer rounded down, or one more, so that the total is exact."""
    sizes = {name: layer.numel for name, layer in layers.items()}
    total = prune_count(sum(sizes.values()), sparsity)
    return exact_counts(sizes, dict.fromkeys(sizes, sparsity), total)


def exact_counts(sizes: Mapping[str, int], rates: Mapping[str, float], total: int) -> dict[str, int]:
    """size * rate of each layer, rounded down or up so that all add up to `total` (largest remainders, then
    order).

    sizes: weights of each layer. rates: the fraction to prune of each, in [0, 1]; they must give the total
    but for rounding, that is sum(size * rate) within one weight a layer of it.
    InputError: names that differ, a rate outside [0, 1] or NaN, or rates that do not give the total.
    """
    if sizes.keys() != rates.keys():
        different = ", ".join(sorted(sizes.keys() ^ rates.keys())[:4])
        raise InputError(
            f"rates and layers have different names ({different}): give one rate for each layer."
        )
    for name, rate in rates.items():
        if not 0.0 <= rate <= 1.0:
            raise InputError(f"layer {name!r}: rate {rate} must lie between 0 and 1.")
    wanted = {name: sizes[name] * rates[name] for name in sizes}
    counts = {name: min(sizes[name], math.floor(value + 1e-9)) for name, value in wanted.items()}
    missing = total - sum(counts.values())
    order = sorted(sizes, key=lambda name: counts[name] - wanted[name])
    if missing < 0:  # the small allowance above rounded some up
        order, step = order[::-1], -1
    else:
        step = 1
    movable = [name for name in order if 0 <= counts[name] + step <= sizes[name]]
    if abs(missing) > len(movable):
        raise InputError(
            f"the rates prune {sum(wanted.values()):.1f} weights, not {total}: scale them to the total."
        )
    for name in movable[: abs(missing)]:
        counts[name] += step
    return counts
