"""Before the first mask: statistics of the dense model, and how much to prune where."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from qubo_prune.allocation import Allocation, Observed, allocate, alphapruning
from qubo_prune.allocation.search import search, tried
from qubo_prune.allocation_settings import AlphaPruning, Besa, Fisher
from qubo_prune.data import Data
from qubo_prune.initial import METHODS, Evidence, initial_masks
from qubo_prune.objective import Batch, CrossEntropy, KLToDense, Objective, batch_size
from qubo_prune.patterns import Pattern
from qubo_prune.progress import Counted, OnProgress, Progress
from qubo_prune.recipe import Recipe
from qubo_prune.refine.evidence import teach
from qubo_prune.state import PruneState
from qubo_prune.statistics.collect import collect, mean_value
from qubo_prune.statistics.fisher import KroneckerDiagonal
from qubo_prune.statistics.gradients import GradientMoments
from qubo_prune.statistics.gram import InputMoments, collect_norms
from qubo_prune.statistics.label_pass import collect_diagonal
from qubo_prune.statistics.tape import frozen


def collect_evidence(
    state: PruneState, objective: Objective, data: Data, recipe: Recipe, say: OnProgress
) -> Evidence:
    """Input moments for Wanda scores and the mask's boundary; mean gradients where the first mask needs
    them."""
    method = METHODS.get(recipe.initial.method)
    need = None if method is None else method.needs
    if method is None and tried(recipe.allocation):
        need = "moments"
    batches = Counted(statistics_batches(data, recipe), "statistics", say)
    moments: InputMoments | None = None
    if need in ("moments", "diagonal") or (recipe.refine is not None and recipe.refine.steps):
        with frozen(state.model):
            moments = collect_norms(forward_pass(state.model, objective), state.layers, batches)
    gradients: dict[str, Tensor] = {}
    if need == "gradients":
        # at the dense weights the KL to the dense model has no gradient: the language loss has
        slope = CrossEntropy(objective.logits) if isinstance(objective, KLToDense) else objective
        found = GradientMoments(state.layers)
        collect(state.model, state.layers, teach(state, slope, batches), slope, found)
        gradients = {name: found.mean(name) for name in state.layers}
    diagonal: KroneckerDiagonal | None = None
    by_output = recipe.initial.by_output and recipe.pattern is None
    if need == "diagonal" or by_output or _shares_by_fisher(recipe):
        few = Counted(statistics_batches(data, recipe, fisher=True), "Fisher of the dense model", say)
        diagonal = collect_diagonal(state.model, state.layers, few, objective, recipe.seed)
    return Evidence(moments, gradients, diagonal, recipe.initial.output_power, recipe.seed)


def _shares_by_fisher(recipe: Recipe) -> bool:
    rule = recipe.allocation
    return isinstance(rule, Fisher) or (isinstance(rule, Besa) and isinstance(rule.between, Fisher))


def share_out(
    state: PruneState, objective: Objective, data: Data, recipe: Recipe, evidence: Evidence, say: OnProgress
) -> Allocation:
    """How much to prune in each layer, and in groups of which size."""
    layers, rule = state.layers, recipe.allocation
    if (pattern := pattern_of(recipe)) is not None:
        sizes = {name: layer.numel for name, layer in layers.items()}
        return Allocation("uniform", pattern.counts(layers), sizes, pattern.group)
    observed = Observed(
        state.model, forward_pass(state.model, objective), statistics_batches(data, recipe), objective,
        evidence.diagonal, evidence.moments,
    )  # fmt: skip
    if tried(rule):
        return _searched(state, objective, data, recipe, observed, evidence, say)
    return allocate(
        layers, recipe.sparsity, rule,
        on_layer=lambda done, total: say(Progress("allocation", done, total)), observed=observed,
    )  # fmt: skip


def _searched(
    state: PruneState, objective: Objective, data: Data, recipe: Recipe, observed: Observed,
    evidence: Evidence, say: OnProgress,
) -> Allocation:  # fmt: skip
    """The allocation whose first mask has the least accepting loss; the model is dense again at the end."""
    rule = recipe.allocation
    if isinstance(rule, AlphaPruning):  # the same for all values
        found = alphapruning.spectra(state.layers, tail=rule.tail, published_peak=rule.published_peak)
        observed = replace(observed, spectra=found)
    pairs = teach(state, objective, data.accept)
    # a walk for each value would take too long: other masks stand in for its own
    method = ("fisher" if recipe.initial.by_output else "wanda") if recipe.initial.by_layer else (
        recipe.initial.method
    )  # fmt: skip

    def loss(allocation: Allocation) -> float:
        masks = initial_masks(
            method, state.layers, allocation.counts, recipe.initial.granularity,
            evidence=evidence, group=allocation.group,
        )  # fmt: skip
        state.set_masks(masks)
        try:
            return mean_value(state.model, Counted(pairs, "trying allocations", say), objective)
        finally:
            state.restore_dense()  # the next rates and scores are of the dense weights again

    return search(
        rule, lambda chosen: allocate(state.layers, recipe.sparsity, chosen, observed=observed), loss
    )


def pattern_of(recipe: Recipe) -> Pattern | None:
    """The N:M pattern of a recipe."""
    return None if recipe.pattern is None else Pattern.parse(recipe.pattern)


def statistics_batches(data: Data, recipe: Recipe, *, fisher: bool = False) -> list[Batch]:
    """The first calibration batches, of as many windows as the recipe's statistics (or its Fisher) take; and
    before them the model's own text, but not for the Fisher."""
    windows = recipe.calibration.windows
    if fisher:
        windows = min(windows, recipe.calibration.fisher_windows or math.ceil(windows / 4))
    return [*(() if fisher else data.own), *_first(data.calibrate, windows)]


def _first(batches: Sequence[Batch], windows: int) -> Iterator[Batch]:
    """The first batches with so many windows in all; of a tensor that has more, so many as are missing."""
    for batch in batches:
        if windows <= 0:
            return
        size = batch_size(batch, unknown=1)
        yield batch[:windows] if size > windows and isinstance(batch, Tensor) else batch
        windows -= max(1, size)


def forward_pass(model: nn.Module, objective: Objective) -> Callable[[Batch], Any]:
    """A forward pass of one batch: only the objective knows how its batches enter the model."""
    if isinstance(objective, KLToDense | CrossEntropy):
        return lambda batch: objective.logits(model, batch)
    if objective.needs_teacher:
        return lambda batch: objective.teacher(model, batch)
    return lambda batch: objective.value(model, batch, None)


def importance_of(state: PruneState, evidence: Evidence) -> Callable[[str], Tensor]:
    """Wanda scores at the kept values: how far a weight is from the boundary of the mask."""
    assert evidence.moments is not None
    norms = {name: evidence.moments.norm(name).float() for name in state.layers}
    return lambda name: state.kept_values[name].float().abs() * norms[name]
