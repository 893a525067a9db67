"""SparseGPT (arXiv 2301.00774): prune column by column, and let the columns to the right make up for it.

    walk(state, forward, batches, SparseGPT(counts))        # see qubo_prune.sequential

Mask and values come together, so this is no score of `initial.METHODS` but a layer-wise method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qubo_prune.cholesky import inverse_factor
from qubo_prune.errors import InputError
from qubo_prune.layerwise import LayerChange, LayerEvidence
from qubo_prune.selection import Granularity, check_rows, keep_rows, keep_topk, nm_mask

BLOCK = 128
"""Columns whose mask is chosen at once, and whose updates reach the columns behind them in one product."""


DAMPING = 0.01
"""In means of the Gram matrix's diagonal."""


@dataclass(frozen=True, eq=False)
class Sparse:
    """A pruned layer: values (out, in) float32, 0 where mask (out, in) bool is False; the damping used."""

    values: Tensor
    mask: Tensor
    damping: float

    def details(self, asked: float) -> dict[str, float | str]:
        """For a layer's record: the damping, and a note where it is more than was asked for."""
        details: dict[str, float | str] = {"damping": self.damping}
        if self.damping > asked:
            details["note"] = (
                f"the Gram matrix is not positive definite at damping {asked:g}: raised to {self.damping:g}"
            )
        return details


@torch.no_grad()
def sparsegpt(
    weight: Tensor,
    gram: Tensor | Sequence[Tensor],
    n_prune: int,
    granularity: Granularity = "layer",
    *,
    groups: Sequence[slice] = (),
    prices: Tensor | None = None,
    row_counts: Tensor | None = None,
    pattern: tuple[int, int] | None = None,
    damping: float = DAMPING,
    block: int = BLOCK,
    name: str = "layer",
) -> Sparse:
    """Prune exactly `n_prune` weights of a layer and update the others (algorithm 1 of the paper).

    weight: (out, in). gram: (in, in) H = E[x x']. With F the inverse of H + damping * mean(diag H) * I over
    the columns not yet done, a weight costs w_j^2 / F_jj (the optimal brain surgeon's), and its removal adds
    -w_j F_j: / F_jj to the weights right of it in its row. U'U = F gives both, column by column.

    granularity: "layer": of each block of columns its share is pruned, the cheapest over all rows;
        "output": the same in each row, whose counts differ by at most one; "input": in each column.
    groups: consecutive rows that have Gram matrices of their own; then gram is one for each group.
    prices: (out,) what a row's error counts in the layer's: its costs are times that; None: 1 each.
    row_counts: (out,) integers that add up to `n_prune`: what each row prunes; then `granularity` is not
        read.
    pattern: (n, m) keeps n of each m consecutive inputs of a row instead; then `n_prune`, `granularity` and
        `row_counts` are not read. damping: see `inverse_factor`, which may raise it.

    Departures: budgets are exact, ties go by position, and no column's share is lost to rounding, where the
    published code prunes all ties of each block. Inputs that are always 0 cost nothing, so they go first; a
    weight there that the budget keeps keeps its value (the published code sets it to 0).
    InputError: a granularity or a pattern that does not fit, counts that do not fit the layer or its rows.
    """
    out, inputs = weight.shape
    if granularity == "global":
        raise InputError(f"{name}: SparseGPT prunes layer by layer: its granularity cannot be global.")
    if not 0 <= n_prune <= weight.numel():
        raise InputError(f"{name}: n_prune={n_prune} must lie between 0 and its {weight.numel()} weights.")
    if pattern is not None:
        n, m = pattern
        if inputs % m:
            raise InputError(
                f"{name}: {inputs} inputs cannot be cut into groups of {m}; choose an m that divides them."
            )
        block = max(m, block // m * m)
    w = weight.to(torch.float32, copy=True)
    grams = [gram] if isinstance(gram, Tensor) else gram
    groups = groups or [slice(0, out)]
    factors, dampings = zip(*(inverse_factor(matrix, damping) for matrix in grams), strict=True)
    group_of = torch.zeros(out, dtype=torch.int64, device=weight.device)
    for c, rows_of in enumerate(groups):
        group_of[rows_of] = c

    def by_row(of_group: Tensor) -> Tensor:
        """(groups, ...) as (out, ...), or as (1, ...), which broadcasts, where all rows are one group."""
        return of_group if len(grams) == 1 else of_group[group_of]

    pivots = torch.stack([factor.diagonal().square() for factor in factors])
    dead = torch.stack([matrix.diagonal() == 0 for matrix in grams])

    def costs_of(part: Tensor, at: slice) -> Tensor:
        """(out, k) what the layer's error grows by when a weight of these columns goes; 0 for dead inputs."""
        costs = (part.square() / by_row(pivots[:, at])).masked_fill(by_row(dead[:, at]), 0)
        return costs if prices is None else costs * prices[:, None]

    kept = torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    rows: Tensor | None = None
    if row_counts is not None and pattern is None:
        rows = check_rows(row_counts, weight, name, n_prune)
    elif granularity == "output" and pattern is None:
        rows = (~keep_topk(costs_of(w, slice(0, inputs)), n_prune, "output", name=name)).sum(1)
    for start in range(0, inputs, block):
        stop = min(inputs, start + block)
        part, u = w[:, start:stop], torch.stack([factor[start:stop, start:stop] for factor in factors])
        errors = torch.zeros_like(part)
        if pattern is None:
            costs = costs_of(part, slice(start, stop))
            if rows is not None:
                share_of = rows * stop // inputs - rows * start // inputs
                kept[:, start:stop] = keep_rows(costs, share_of, name=name)
            else:
                share = n_prune * stop // inputs - n_prune * start // inputs
                kept[:, start:stop] = keep_topk(costs, share, granularity, name=name)
        for j in range(stop - start):
            at = start + j
            if pattern is not None and at % m == 0:
                group = slice(at, at + m)
                kept[:, group] = nm_mask(costs_of(w[:, group], group), n, m, name=name)
            errors[:, j] = torch.where(kept[:, at], 0.0, part[:, j] / by_row(u[:, j, j]))
            part[:, j:] -= errors[:, j, None] * by_row(u[:, j, j:])
        for rows_of, factor in zip(groups, factors, strict=True):
            w[rows_of, stop:] -= errors[rows_of] @ factor[start:stop, stop:]
    return Sparse(w.masked_fill_(~kept, 0), kept, max(dampings))


@dataclass(frozen=True)
class SparseGPT:
    """The method of a layer for `sequential.walk`: mask and values from `sparsegpt`.

    counts: layer name -> weights to prune. patterns: layer name -> (n, m), and row_counts: layer name ->
    (out,) weights to prune of each row, for those that have them; the others are as for `sparsegpt`. A
    damping that had to be raised is in the details.
    """

    counts: Mapping[str, int]
    granularity: Granularity = "layer"
    patterns: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    row_counts: Mapping[str, Tensor] = field(default_factory=dict)
    damping: float = DAMPING
    block: int = BLOCK

    def __call__(self, name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        found = sparsegpt(
            weight, [part.gram() for _, part in evidence.groups], self.counts[name], self.granularity,
            groups=[rows for rows, _ in evidence.groups], prices=evidence.prices,
            row_counts=self.row_counts.get(name), pattern=self.patterns.get(name),
            damping=self.damping, block=self.block, name=f"layer {name!r}",
        )  # fmt: skip
        return LayerChange(found.values, found.mask, found.details(self.damping))
