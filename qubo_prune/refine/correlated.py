"""Swaps within output rows by what both flips cost together: correlated inputs replace each other."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qubo_prune.refine.pairs import Pairs, by_side, cheapest_of_rows


def correlated_pairs(
    cost: Tensor,
    keep: Tensor,
    free: Tensor,
    values: Tensor,
    outputs: Tensor,
    entries: Callable[[Tensor, Tensor], Tensor],
    most: int,
    per_row: int,
) -> Pairs:
    """The best swaps of one layer, each within a row: of the row's `per_row` cheapest weights to prune and as
    many to regrow the pair that costs least together, then the next of those left, and so on; of all rows
    the `most` best, as far as they improve.

    cost      (out, in) predicted change of the loss when the weight flips alone; inf: must not
    values    (out, in) the weights as they are when kept
    outputs   (out,) E[g_o^2] of the loss's gradient at each output
    entries   (i, j) -> E[x_i x_j] of the inputs

    Pruning w_i and regrowing w_j of row o costs cost_i + cost_j - E[g_o^2] E[x_i x_j] w_i w_j: the last term
    is the coupling of `row_couplings`, which pairing by separate costs (`best_group_pairs`) does not see.
    """
    k = min(per_row, cost.shape[1])
    drops, adds = (cheapest_of_rows(side, k) for side in by_side(cost, keep, free))
    w_drop, w_add = values.gather(1, drops.indices).float(), values.gather(1, adds.indices).float()
    coupling = entries(drops.indices[:, :, None], adds.indices[:, None, :])
    coupling = coupling * outputs[:, None, None] * w_drop[:, :, None] * w_add[:, None, :]
    total = drops.values[:, :, None] + adds.values[:, None, :] - coupling
    row = torch.arange(len(total), device=total.device)
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(k):
        best, at = total.flatten(1).min(1)
        if not bool((best < 0).any()):
            break
        i, j = at // k, at % k
        first = row * cost.shape[1]
        found.append((first + drops.indices[row, i], first + adds.indices[row, j], best))
        total[row, i, :] = torch.inf
        total[row, :, j] = torch.inf
    if not found:
        nothing = drops.indices.new_empty(0)
        return Pairs(nothing, nothing, cost.new_empty(0))
    drop, add, together = (torch.cat(parts) for parts in zip(*found, strict=True))
    order = together.argsort(stable=True)[: min(most, int((together < 0).sum()))]
    return Pairs(drop[order], add[order], together[order])
