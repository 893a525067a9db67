"""Rates that the user gives: layer name patterns with a sparsity each, the rest sharing what is left."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from qubo_prune.allocation.mapping import fill
from qubo_prune.allocation.result import Allocation
from qubo_prune.budgets import exact_counts
from qubo_prune.errors import InputError
from qubo_prune.layers import Layer, check_group, match_pattern
from qubo_prune.selection import prune_count


def allocate(
    layers: Mapping[str, Layer],
    sparsity: float,
    rates: Mapping[str, float],
    *,
    rescale: bool = False,
    group: int | None = None,
) -> Allocation:
    """How many weights to prune in each layer; the total is `prune_count` of all weights together.

    rates: pattern (as for `prunable_layers`: fnmatch, or a regular expression after "re:") -> sparsity in
    [0, 1]; a layer takes the first pattern that matches it. Layers that none matches share what is left of
    the budget at one rate. rescale: scale the rates of the matched layers to the budget (none above 1, see
    `fill`); then every layer must be matched. group: M; every layer must then be matched by a rate that is
    (M - N) / M for a whole N from 1 to M, and keeps N of M inputs; the total is within the largest layer's
    step (size / M) of `prune_count`.

    InputError: a pattern that matches no layer, a rate outside [0, 1] or not of the group, a group that does
    not divide a layer's inputs or comes with rescale, or rates that cannot give the total.
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
    if group is not None:
        if rescale:
            raise InputError(f"allocation.rescale would leave the multiples of 1 / {group}: leave it out.")
        if rest:
            raise InputError(f"allocation.group needs a rate for every layer: {rest[0]!r} has none.")
        check_group(layers, group, "allocation.group")
        counts = _counts_of_groups(sizes, chosen, group)
        if abs(sum(counts.values()) - total) > max(sizes.values()) // group:
            raise InputError(f"{_differs(sum(counts.values()) / sum(sizes.values()), sparsity)}.")
        return Allocation("given", counts, sizes, group)
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
        raise InputError(f"{_differs(given, sparsity)}, or allocation.rescale to true.") from None
    return Allocation("given", counts, sizes)


def _differs(share: float, sparsity: float) -> str:
    """What is wrong where rates do not give the sparsity."""
    return (
        f"allocation.rates prune {share:.6f} of all weights and the sparsity is {sparsity}: set sparsity to "
        f"{share:.6f}"
    )


def _counts_of_groups(sizes: Mapping[str, int], rates: Mapping[str, float], group: int) -> dict[str, int]:
    """Layer -> weights to prune, as many of each `group` of its own. InputError: a rate is no such share."""
    counts = {}
    for name, size in sizes.items():
        pruned = round(rates[name] * group)
        if pruned >= group or abs(rates[name] - pruned / group) > 1e-6:
            raise InputError(
                f"layer {name!r}: the rate {rates[name]} is not (M - N) / M for M = {group} and a whole N "
                f"from 1 to {group}: change the rate, or leave allocation.group (or the file's) out."
            )
        counts[name] = size // group * pruned
    return counts


@dataclass(frozen=True)
class RatesFile:
    """rates: pattern -> rate. group: M of N:M. total_weights: of the layers that the rates were found for.
    The latter two are None where the file does not say."""

    rates: dict[str, Any]
    group: int | None = None
    total_weights: int | None = None


def read_rates(path: str | Path) -> RatesFile:
    """The rates of a YAML or JSON file.

    The file is the mapping itself, or an object that has it under `rates`, and M, if there is one, under
    `group` or in the texts "N:M" of a mapping `pattern`; `layers` is then how many rates there must be. So
    the files that `qubo-prune allocate --output` and `qubo-prune alpha --output` write can be read.
    InputError: no such file, no mapping, no such M, or another number of rates.
    """
    try:
        found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"allocation.file {str(path)!r} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"allocation.file {str(path)!r} is neither JSON nor YAML: {error}") from None
    group = total = None
    if isinstance(found, dict) and isinstance(found.get("rates"), dict):
        group, total, layers = _group(found, path), found.get("total_weights"), found.get("layers")
        found = found["rates"]
        if isinstance(layers, int) and layers != len(found):
            raise InputError(
                f"allocation.file {str(path)!r} says that it has the rates of {layers} layers, and has "
                f"{len(found)}: it is cut off; write it again, or take `layers` out where you changed it."
            )
    if not isinstance(found, dict) or not found:
        raise InputError(f"allocation.file {str(path)!r}: it must map layer name patterns to sparsities.")
    rates = {str(pattern): rate for pattern, rate in found.items()}
    return RatesFile(rates, group, total if isinstance(total, int) else None)


def _group(found: dict[str, Any], path: str | Path) -> int | None:
    """M of the N:M that a file's object gives its layers, or None. InputError: it says no M, or several."""
    group, pattern = found.get("group"), found.get("pattern")
    texts = list(pattern.values()) if isinstance(pattern, dict) else [] if pattern is None else [pattern]
    groups = {str(text).partition(":")[2].strip() for text in texts}
    if group is not None:
        groups.add(str(group))
    if not groups:
        return None
    size = groups.pop()
    if groups or not size.isdecimal() or int(size) < 2:
        raise InputError(
            f"allocation.file {str(path)!r}: `group` must be one whole number M from 2, and the texts of "
            "`pattern` N:M with that M, in quotes."
        )
    return int(size)


def group_in(path: str | Path) -> int | None:
    """M of the N:M in a file of rates; None: it has none, or `read_rates` refuses the file."""
    try:
        return read_rates(path).group
    except InputError:
        return None


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
