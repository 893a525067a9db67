"""Promising swaps by the predicted change of each flip alone: of a layer, of its groups, over all layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from qubo_prune.blocks import Block


@dataclass(frozen=True)
class Pairs:
    """Promising swaps of one layer, best first: flat indices to prune and to regrow, and the summed cost, by
    which layers are compared (`whole_rows`: that of the row, whose best swap comes first)."""

    drop: Tensor
    add: Tensor
    cost: Tensor


class Cheapest(NamedTuple):
    """Costs, ascending, and the flat indices they stand at."""

    values: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Sides:
    """The cheapest weights of one layer to prune and to regrow, not paired."""

    drops: Cheapest
    adds: Cheapest


def best_pairs(cost: Tensor, keep: Tensor, free: Tensor, most: int) -> Pairs:
    """The cheapest weights of one layer to prune, each beside the equally ranked one to regrow.

    cost  (out, in) predicted change of the loss when the weight flips alone; inf: must not
    most  pairs at most; pairs whose two costs do not sum to an improvement are left out
    """
    drop, add = by_side(cost, keep, free)
    drops, adds = _cheapest(drop.reshape(-1), most), _cheapest(add.reshape(-1), most)
    total = drops.values + adds.values
    m = int((total < 0).sum())  # both sides ascend, so the improving pairs come first
    return Pairs(drops.indices[:m], adds.indices[:m], total[:m])


def best_group_pairs(
    cost: Tensor, keep: Tensor, free: Tensor, most: int, group_size: int, per_group: int = 1
) -> Pairs:
    """As `best_pairs`, each pair within one group of `group_size` consecutive inputs: the group's cheapest
    weights to prune, each beside its equally ranked one to regrow, up to `per_group` pairs of a group and
    the `most` best pairs of all groups."""
    k = min(per_group, group_size)
    drops, adds = (cheapest_of_rows(side.reshape(-1, group_size), k) for side in by_side(cost, keep, free))
    best = _cheapest((drops.values + adds.values).reshape(-1), most)
    found = best.indices[: int((best.values < 0).sum())]
    first = found // k * group_size
    drop, add = first + drops.indices.reshape(-1)[found], first + adds.indices.reshape(-1)[found]
    return Pairs(drop, add, best.values[: len(found)])


def whole_rows(pairs: Pairs, columns: int, per_row: int, most: int) -> Pairs:
    """The swaps of the output rows that promise most together, so that weights whose inputs are correlated
    come into one block: of each row its best `per_row` swaps, whose costs add up to that of the row.

    pairs    swaps of one layer of `columns` inputs, each within a row, best first
    most     swaps at most; the last row may lose its lesser ones
    """
    row = pairs.drop // columns
    order = row.argsort(stable=True)
    counts = row[order].unique_consecutive(return_counts=True)[1]
    place = torch.arange(len(order), device=order.device)
    order = order[place - torch.repeat_interleave(counts.cumsum(0) - counts, counts) < per_row]
    row = row[order].unique_consecutive(return_inverse=True)[1]
    total = torch.zeros(len(counts), dtype=pairs.cost.dtype, device=row.device)
    total = total.index_add_(0, row, pairs.cost[order])[row]
    best = total.argsort(stable=True)[:most]
    return Pairs(pairs.drop[order][best], pairs.add[order][best], total[best])


def cheapest_sides(cost: Tensor, keep: Tensor, free: Tensor, most: int) -> Sides:
    """The `most` cheapest weights on each side of one layer, as `best_pairs` ranks them, without pairs.

    One kept weight at least is no candidate: however many of these are pruned and none regrown, the layer is
    not empty.
    """
    drop, add = by_side(cost, keep, free)
    droppable = max(0, min(most, int(keep.sum()) - 1))
    return Sides(_cheapest(drop.reshape(-1), droppable), _cheapest(add.reshape(-1), most))


def by_side(cost: Tensor, keep: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in) costs of the weights that may be pruned, and of those that may be regrown; inf elsewhere."""
    return _where(keep & free, cost), _where(~keep & free, cost)


def _where(allowed: Tensor, cost: Tensor) -> Tensor:
    """`cost` where allowed, elsewhere inf: 1 / 0. On a CPU in a fifth of the time of torch.where, which
    branches at each weight."""
    return allowed.to(cost.dtype).reciprocal_().sub_(1).add_(cost)


def cheapest_of_rows(cost: Tensor, k: int) -> Cheapest:
    """The k smallest entries of each row, ascending, and their columns: (rows, k)."""
    if k == 1:
        return Cheapest(*cost.min(dim=1, keepdim=True))
    return Cheapest(*cost.topk(k, dim=1, largest=False))


def _cheapest(cost: Tensor, most: int) -> Cheapest:
    """The `most` smallest entries, ascending; where a guessed bound leaves enough, only those are sorted."""
    stride = cost.numel() // 8192
    if stride > 8:
        sample = cost[::stride]
        bound = sample.kthvalue(min(len(sample), 16 + 2 * most // stride)).values
        few = (cost < bound).nonzero().reshape(-1)
        if len(few) >= most:
            found = cost[few].topk(most, largest=False)
            return Cheapest(found.values, few[found.indices])
    return Cheapest(*cost.topk(min(most, cost.numel()), largest=False))


def block_of_pairs(
    pairs: Mapping[str, Pairs],
    largest: int | None,
    counted_over: Literal["layer", "global"] | Mapping[str, int] = "layer",
) -> Block:
    """The block of all pairs, or of the best pairs over all layers where `largest` variables are too few."""
    if largest is not None and sum(2 * len(p.cost) for p in pairs.values()) > largest:
        every = torch.cat([p.cost for p in pairs.values()])
        worst = every.kthvalue(max(1, largest // 2)).values
        take = {name: int((p.cost < worst).sum()) for name, p in pairs.items()}
        spare = largest // 2 - sum(take.values())
        for name, p in pairs.items():  # ties at the threshold, in the order of the layers
            extra = min(spare, int((p.cost == worst).sum()))
            take[name] += extra
            spare -= extra
        pairs = {name: Pairs(p.drop[: take[name]], p.add[: take[name]], p.cost) for name, p in pairs.items()}
    found = {name: torch.cat([p.drop, p.add]).sort().values for name, p in pairs.items() if len(p.drop)}
    return Block(found, counted_over)


def block_of_sides(sides: Mapping[str, Sides], largest: int | None) -> Block:
    """The block that exchanges weights between layers: the cheapest to prune of all layers, ranked together,
    each beside the equally ranked one to regrow, as long as the two improve; one count over all."""
    if not sides:
        return Block({}, "global")
    drops = torch.cat([s.drops.values for s in sides.values()]).sort(stable=True)
    adds = torch.cat([s.adds.values for s in sides.values()]).sort(stable=True)
    n = min(len(drops.values), len(adds.values))
    if largest is not None:
        n = min(n, largest // 2)
    n = int((drops.values[:n] + adds.values[:n] < 0).sum())
    dropped = torch.zeros_like(drops.values, dtype=torch.bool)
    added = torch.zeros_like(adds.values, dtype=torch.bool)
    dropped[drops.indices[:n]] = True
    added[adds.indices[:n]] = True
    found = {}
    pieces = zip(
        dropped.split([len(s.drops.values) for s in sides.values()]),
        added.split([len(s.adds.values) for s in sides.values()]),
        strict=True,
    )
    for (name, side), (drop, add) in zip(sides.items(), pieces, strict=True):
        index = torch.cat([side.drops.indices[drop], side.adds.indices[add]])
        if len(index):
            found[name] = index.sort().values
    return Block(found, "global")
