"""Row problems: which weights of each output to keep, exactly, by the error of the layer's own outputs.

    walk(state, forward, batches, Rows(), held_out=0.25, by_block=True)     # see qubo_prune.sequential

With v the values that a row's weights have when they are kept, z = 1 where one is pruned, H = E[x x'] and the
target T x_t: E[(sum_j v_j (1 - z_j) x_j - T x_t)^2] = z'diag(v) H diag(v) z + linear'z + constant with
linear = 2 v o (E[x x_t'] T - H v), 0 where the target is what the row itself gives unpruned. All rows of a
layer (or of a group, where there are output weights) share H, so they are one `RowBatch`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from qubo_prune.layerwise import LayerChange, LayerEvidence
from qubo_prune.refine.exchange import exchange
from qubo_solvers.batch import RowBatch, solve_batch


@torch.no_grad()
def row_batch(
    values: Tensor,
    mask: Tensor,
    original: Tensor,
    gram: Tensor,
    drift: Tensor | None = None,
    pattern: tuple[int, int] | None = None,
    prices: Tensor | None = None,
) -> RowBatch:
    """The rows of a layer as problems, in which the energy of the mask as it is is 0.

    values    (R, n) what a weight is when it is kept; mask (R, n) bool, True = kept
    original  (R, n) T; gram (n, n) H; drift (n, n) E[x (x_t - x)'], None: x_t is x
    pattern   (kept, of): so many of each `of` consecutive inputs; None: each row's count as it is
    prices    (R,) float32 what a row's energy is times, for comparing rows; None: 1 each

    The offset is - and so energies are - of float64 sums over float32 moments.
    """
    v = values.float()
    gap = (original.float() - v) @ gram
    if drift is not None:
        gap += original.float() @ drift.t()
    linear = None if not bool(gap.any()) else 2 * v * gap
    if prices is not None:
        v = v * prices.sqrt()[:, None]
        linear = None if linear is None else linear * prices[:, None]
    if pattern is None:
        batch = RowBatch.cardinality(gram, v, (~mask).sum(1).cpu().numpy(), linear=linear)
    else:
        kept, of = pattern
        batch = RowBatch.n_of_m(gram, v, of - kept, of, linear=linear)
    now = batch.energies(~mask)
    return RowBatch(batch.gram, v, batch.groups, batch.counts, linear, -now.cpu().numpy())


@dataclass(frozen=True)
class Rows:
    """The method of a layer for `sequential.walk`: masks move, values stay.

    method   of `solve_batch`, with its options
    budget   "row": each row keeps its count, and its old mask where its held-out error does not fall;
             "layer": weights also move between rows, see `exchange`, by the rows' prices where there are
             any; the mask is then kept as a whole, or that of budget "row" where its held-out error is lower
    patterns layer -> (kept, of), for the layers that have one: then budgets hold within each group
    seed, time_limit  of a layer's solve, or of each of its groups of rows, and of the weights' moving
    """

    method: Literal["descent", "tabu", "anneal"] = "descent"
    budget: Literal["row", "layer"] = "row"
    options: Mapping[str, Any] = field(default_factory=dict)
    patterns: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    seed: int = 0
    time_limit: float | None = None

    def __call__(self, name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        values = torch.where(mask, weight, evidence.original)
        pattern = self.patterns.get(name)
        trading = self.budget == "layer" and pattern is None
        prices = evidence.prices if trading else None
        batches = [
            row_batch(
                values[rows], mask[rows], part.original, part.gram(), part.drift(), pattern,
                None if prices is None else prices[rows],
            )
            for rows, part in evidence.groups
        ]  # fmt: skip
        solutions = [
            solve_batch(
                batch, self.method, seed=self.seed, time_limit=self.time_limit, initial=~mask[rows],
                **self.options,
            )
            for (rows, _), batch in zip(evidence.groups, batches, strict=True)
        ]  # fmt: skip
        pruned = torch.cat([solution.assignments for solution in solutions])
        energy = sum(float(solution.energies.sum()) for solution in solutions)
        better = evidence.errors(torch.where(pruned, 0, values)) < evidence.errors(weight)
        new = torch.where(better[:, None], ~pruned, mask)
        moved = 0
        if trading:
            found = exchange(batches, pruned, energy, time_limit=self.time_limit)
            traded, rowwise = torch.where(found.pruned, 0, values), torch.where(new, values, 0)
            # rows hang together by the layer's count
            if found.moved and evidence.error(traded) < evidence.error(rowwise):
                new, energy, moved = ~found.pruned, found.energy, found.moved
        swaps = int((new & ~mask).sum())
        details: dict[str, float | str] = {
            "predicted_change": energy,
            "rows_changed": int((new != mask).any(1).sum()),
            "swaps": swaps,
            "moved_between_rows": moved,
        }
        return LayerChange(mask=new, details=details) if swaps else LayerChange(details=details)
