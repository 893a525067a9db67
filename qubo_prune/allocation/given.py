"""Rates that the user gives: layer name patterns with a sparsity each, the rest sharing what is left."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from qubo_prune.allocation.mapping import fill
from qubo_prune.allocation.result import Allocation
from qubo_prune.budgets import exact_counts
from qubo_prune.errors import InputError
from qubo_prune.layers import Layer, match_pattern
from qubo_prune.selection import prune_count


def allocate(
    layers: Mapping[str, Layer], sparsity: float, rates: Mapping[str, float], *, rescale: bool = False
) -> Allocation:
    """How many weights to prune in each layer; the total is `prune_count` of all weights together.

    rates: pattern (as for `prunable_layers`: fnmatch, or a regular expression after "re:") -> sparsity in
    [0, 1]; a layer takes the first pattern that matches it. Layers that none matches share what is left of
    the budget at one rate. rescale: scale the rates of the matched layers to the budget (none above 1, see
    `fill`); then every layer must be matched.

    InputError: a pattern that matches no layer, a rate outside [0, 1], or rates that cannot give the total.
    """
    for pattern, rate in rates.items():
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 <= rate <= 1.0:
            raise InputError(f"allocation.rates: {pattern!r} has {rate!r}, it must be a number from 0 to 1.")
    chosen, unused = _matched(layers, rates)
    if unused:
        raise InputError(f"allocation.rates: {unused[0]!r} matches none of the {len(layers)} pruned layers.")
    sizes = {name: layer.numel for name, layer in layers.items()}
    total = prune_count(sum(sizes.values()), sparsity)
    rest = [name for name in layers if name not in chosen]
    if rescale:
        if rest:
            raise InputError(f"allocation.rescale needs a rate for every layer: {rest[0]!r} has none.")
        if not any(chosen.values()):
            raise InputError("allocation.rescale: all rates are 0, which cannot be scaled to the sparsity.")
        found = fill(list(sizes.values()), [chosen[name] for name in sizes], total)
        chosen = dict(zip(sizes, map(float, found), strict=True))
    elif rest:
        left = total - sum(sizes[name] * rate for name, rate in chosen.items())
        others = sum(sizes[name] for name in rest)
        if not -len(layers) <= left <= others + len(layers):
            raise InputError(
                f"allocation.rates leave {left:,.0f} of {total:,} weights to prune, and the {len(rest)} "
                f"layers without a rate have {others:,}: change the rates or the sparsity."
            )
        chosen |= dict.fromkeys(rest, min(1.0, max(0.0, left / others)))
    ordered = {name: float(chosen[name]) for name in sizes}
    try:
        counts = exact_counts(sizes, ordered, total)
    except InputError:
        given = sum(sizes[name] * rate for name, rate in ordered.items()) / sum(sizes.values())
        raise InputError(
            f"allocation.rates prune {given:.6f} of all weights and the sparsity is {sparsity}: set sparsity "
            f"to {given:.6f}, or allocation.rescale to true."
        ) from None
    return Allocation("given", counts, sizes)


def read_rates(path: str | Path) -> dict[str, Any]:
    """Pattern -> rate from a YAML or JSON file: the mapping itself, or an object that has it under `rates`.

    So the file that `qubo-prune alpha --output` writes can be read. InputError: no such file, or no mapping.
    """
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"allocation.file {str(path)!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"allocation.file {str(path)!r} is neither JSON nor YAML: {error}") from None
    if isinstance(found, dict) and isinstance(found.get("rates"), dict):
        found = found["rates"]
    if not isinstance(found, dict) or not found:
        raise InputError(f"allocation.file {str(path)!r}: it must map layer name patterns to sparsities.")
    return {str(pattern): rate for pattern, rate in found.items()}


def _matched(layers: Mapping[str, Layer], rates: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """Layer -> the rate of its first pattern, and the patterns that match no layer at all."""
    chosen: dict[str, float] = {}
    unused = []
    for pattern, rate in rates.items():
        hits = [name for name in layers if match_pattern(pattern, name, "allocation.rates")]
        if not hits:
            unused.append(pattern)
        for name in hits:
            chosen.setdefault(name, rate)
    return chosen, unused
