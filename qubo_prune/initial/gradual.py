"""Gradual: prune a layer in stages, and let least squares move the kept weights between them.

    walk(state, forward, batches, Gradual(counts))        # see qubo_prune.sequential

What one stage leaves is what the next one scores, so weights that can stand in for one another do not go
together. Mask and values come together, so this is no score of `initial.METHODS` but a layer-wise method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qubo_prune.cholesky import inverse_factor
from qubo_prune.errors import InputError
from qubo_prune.initial.sparsegpt import Sparse
from qubo_prune.layerwise import LayerChange, LayerEvidence
from qubo_prune.selection import Granularity, check_rows, keep_rows, keep_topk, nm_mask
from qubo_prune.support import conjugate_gradients

STAGES = 10
"""Of the schedule."""

ITERATIONS = 5
"""Of conjugate gradients a stage; each goes on from where the last one ended."""

DAMPING = 0.03
"""In means of the Gram matrix's diagonal; pulls the kept weights towards their original values."""


@torch.no_grad()
def gradual(
    weight: Tensor,
    gram: Tensor | Sequence[Tensor],
    n_prune: int,
    granularity: Granularity = "layer",
    *,
    drift: Tensor | Sequence[Tensor] | None = None,
    groups: Sequence[slice] = (),
    row_scale: Tensor | None = None,
    row_counts: Tensor | None = None,
    pattern: tuple[int, int] | None = None,
    stages: int = STAGES,
    iterations: int = ITERATIONS,
    damping: float = DAMPING,
    name: str = "layer",
) -> Sparse:
    """Prune exactly `n_prune` weights of a layer, and give the others the values that make up for it.

    Stage t of T ends with n_prune * (1 - (1 - t/T)^2) weights pruned, after the schedule of Zhu and Gupta
    (arXiv 1710.01878, equation 1, with power 2 for their 3: the last stages are not as short). A kept weight
    scores |w_j| / sqrt((H^-1)_jj) * row_scale: the root of twice what the optimal brain surgeon (Hassibi and
    Stork, 1993) says that it costs. Departure: H is that of all inputs, not of those a row still has, so one
    inverse serves all rows and stages. Then the kept weights are moved towards the least of
    E[(w x - w_0 x_t)^2] + damping * mean(diag H) * |w - w_0|^2 over the mask, w_0 the original ones and x_t
    their input that counts, by a few conjugate gradients from where they are. Pruned weights stay so. Boza
    (arXiv 2401.02938) has this scheme with ADMM for the values and the input norm for 1 / sqrt((H^-1)_jj).

    weight: (out, in). gram: (in, in) H = E[x x']. granularity: what a stage's count holds over, see
    `keep_topk`. drift: (in, in) E[x (x_t - x)'], None: x_t is x. groups: consecutive rows that have moments
    of their own; then gram and drift are one for each group. row_scale: (out,), None: 1 each.
    row_counts: (out,) integers that add up to `n_prune`: what each row prunes, each stage its share;
    `granularity` is not read then.
    pattern: (n, m) keeps n of each m consecutive inputs of a row instead; then `n_prune`, `granularity` and
    `row_counts` are not read, and on the way to it no group prunes more.
    damping: also in the inverse, where it may be raised, see `cholesky.inverse_factor`.

    Inputs that are always 0 cost nothing, so they go first.
    InputError: a granularity or a pattern that does not fit, counts that do not fit the layer or its rows.
    """
    out, inputs = weight.shape
    if granularity == "global":
        raise InputError(f"{name}: gradual pruning goes layer by layer: its granularity cannot be global.")
    if pattern is not None:
        n, m = pattern
        if inputs % m or not 0 <= n <= m:
            raise InputError(f"{name}: {inputs} inputs do not fit a pattern that keeps {n} of each {m}.")
        n_prune, granularity, row_counts = out * inputs // m * (m - n), "layer", None
    if not 0 <= n_prune <= weight.numel():
        raise InputError(f"{name}: n_prune={n_prune} must lie between 0 and its {weight.numel()} weights.")
    if row_counts is not None:
        row_counts = check_rows(row_counts, weight, name, n_prune)
    grams = [matrix.float() for matrix in ([gram] if isinstance(gram, Tensor) else gram)]
    groups = groups or [slice(0, out)]
    drifts = [drift] * len(grams) if drift is None or isinstance(drift, Tensor) else list(drift)
    constants: list[Tensor | float] = [
        0.0 if moved is None else weight[rows].float() @ moved.t().float()
        for rows, moved in zip(groups, drifts, strict=True)
    ]
    scale = torch.empty(out, inputs, device=weight.device)
    raised = damping
    for rows, matrix in zip(groups, grams, strict=True):
        factor, used = inverse_factor(matrix, damping)
        raised = max(raised, used)
        scale[rows] = factor.square().sum(0).rsqrt().masked_fill_(matrix.diagonal() == 0, 0)
    if row_scale is not None:
        scale *= row_scale.to(scale)[:, None]
    original = weight.float()
    values, mask = original.clone(), torch.ones(weight.shape, dtype=torch.bool, device=weight.device)
    for stage in range(1, stages + 1):
        share = 1 - (1 - stage / stages) ** 2
        scores = (values.abs() * scale).sub_((~mask).float())  # what is pruned, at 0, goes first again
        if pattern is not None:
            scores.masked_fill_(nm_mask(scores, n, m, name=name), torch.finfo(scores.dtype).max)
        if row_counts is None:
            mask = keep_topk(scores, round(n_prune * share), granularity, name=name)
        else:
            mask = keep_rows(scores, (row_counts.double() * share).round().to(torch.int64), name=name)
        values.mul_(mask).add_(0.0)  # without -0, in a sixth of masked_fill_'s time
        if bool(mask.all()):
            continue
        for rows, matrix, constant in zip(groups, grams, constants, strict=True):
            ridge = damping * float(matrix.diagonal().mean())
            gap = original[rows] - values[rows]
            slope = gap @ matrix + constant + ridge * gap
            values[rows] += conjugate_gradients(
                matrix, mask[rows], slope, ridge, iterations=iterations, tolerance=1e-4
            )
    return Sparse(values, mask, raised)


@dataclass(frozen=True)
class Gradual:
    """The method of a layer for `sequential.walk`: mask and values from `gradual`.

    counts: layer name -> weights to prune. patterns: layer name -> (n, m), and row_counts: layer name ->
    (out,) weights to prune of each row, for those that have them. row_scales: layer name -> (out,) positive.
    The others are as for `gradual`. With output weights in the walk a row's scores are also times the root of
    its price.
    """

    counts: Mapping[str, int]
    granularity: Granularity = "layer"
    patterns: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    row_scales: Mapping[str, Tensor] = field(default_factory=dict)
    row_counts: Mapping[str, Tensor] = field(default_factory=dict)
    stages: int = STAGES
    damping: float = DAMPING

    def __call__(self, name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        scale, prices = self.row_scales.get(name), evidence.prices
        if prices is not None:
            scale = prices.sqrt() if scale is None else scale.to(prices) * prices.sqrt()
        drifts = [moved for _, part in evidence.groups if (moved := part.drift()) is not None]
        found = gradual(
            weight, [part.gram() for _, part in evidence.groups], self.counts[name], self.granularity,
            drift=drifts or None, groups=[rows for rows, _ in evidence.groups], row_scale=scale,
            row_counts=self.row_counts.get(name), pattern=self.patterns.get(name),
            stages=self.stages, damping=self.damping, name=f"layer {name!r}",
        )  # fmt: skip
        return LayerChange(found.values, found.mask, found.details(self.damping))
