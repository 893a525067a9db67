"""The layer-wise phases of a run: masks and values together, row problems, reconstruction at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from qubo_prune.allocation import Allocation
from qubo_prune.initial import Evidence, fisher, gradual, sparsegpt
from qubo_prune.initial.gradual import Gradual
from qubo_prune.initial.sparsegpt import SparseGPT
from qubo_prune.layerwise import LayerMethod
from qubo_prune.objective import Batch, Objective
from qubo_prune.prefix import Run
from qubo_prune.progress import Counted, OnProgress, Progress
from qubo_prune.recipe import Recipe
from qubo_prune.recipe_parts import Reconstruct, RowProblems
from qubo_prune.reconstruct import Reconstructed
from qubo_prune.reconstruct import reconstruct as reconstruct_layers
from qubo_prune.refine.evidence import Pair
from qubo_prune.refine.rows import Rows
from qubo_prune.sequential import LayerRecord, walk
from qubo_prune.state import PruneState
from qubo_prune.statistics.collect import mean_value
from qubo_prune.statistics.output_weights import OutputWeights, collect_output_weights

Weigh = Callable[[int | None, Sequence[Batch]], OutputWeights | None]
"""(groups of channels, batches) -> the dense model's output weights on them; None where groups are None."""


def weighing(state: PruneState, objective: Objective, seed: int, say: OnProgress) -> Weigh:
    """Output weights for the phases of a run, which have the same batches: collected once a number of groups,
    when they are first asked for."""
    found: dict[int, OutputWeights] = {}

    def weigh(channel_groups: int | None, batches: Sequence[Batch]) -> OutputWeights | None:
        if channel_groups is None:
            return None
        if channel_groups not in found:
            counted = Counted(batches, "output weights", say)
            with state.dense():
                found[channel_groups] = collect_output_weights(
                    state.model, state.layers, counted, objective, channel_groups, seed=seed
                )
        return found[channel_groups]

    return weigh


def masks_and_values(
    state: PruneState,
    forward: Run,
    batches: Sequence[Batch],
    recipe: Recipe,
    allocation: Allocation,
    evidence: Evidence,
    weigh: Weigh,
    say: OnProgress,
) -> list[LayerRecord]:
    """First masks and values, block after block; the budgets are those of the other first masks."""
    first = recipe.initial
    patterns = allocation.patterns
    granularity = first.granularity or "layer"
    method: LayerMethod
    if first.method == "sparsegpt":
        damping = sparsegpt.DAMPING if first.damping is None else first.damping
        method = SparseGPT(allocation.counts, granularity, patterns, allocation.rows, damping=damping)
    else:
        damping = gradual.DAMPING if first.damping is None else first.damping
        scales: dict[str, Tensor] = {}
        if evidence.diagonal is not None and first.by_output:
            found, power = evidence.diagonal, first.output_power
            scales = {name: fisher.row_scale(found.output_norm(name), power) for name in state.layers}
        method = Gradual(
            allocation.counts,
            granularity,
            patterns,
            scales,
            allocation.rows,
            stages=first.stages,
            damping=damping,
        )
    weights = weigh(first.output_weights, batches)
    telling = _telling(first.method, len(allocation.counts), say)
    records = walk(
        state, forward, batches, method,
        blend=first.blend, keeps_budget=False, weights=weights,
        on_layer=telling,
    )  # fmt: skip
    if first.values == "original":
        masks = state.saved().masks
        state.restore_dense()
        state.set_masks(masks)
    return records


def rows(
    state: PruneState,
    forward: Run,
    batches: Sequence[Batch],
    recipe: RowProblems,
    allocation: Allocation,
    seed: int,
    weigh: Weigh,
    say: OnProgress,
    own: int = 0,
) -> list[LayerRecord]:
    """The masks of all layers by row problems, block after block; N:M patterns of the allocation hold.

    own: how many of the batches, the first ones, are the model's own text, see `sequential.walk`."""
    method = Rows(recipe.method, recipe.budget, recipe.options, allocation.patterns, seed, recipe.time_limit)
    weights = weigh(recipe.output_weights, batches)
    telling = _telling("rows", len(state.layers), say)
    return walk(
        state, forward, batches, method,
        blend=recipe.blend, held_out=recipe.held_out, own=own, by_block=recipe.by_block,
        weights=weights, on_layer=telling,
    )  # fmt: skip


def reconstruct(
    state: PruneState,
    objective: Objective,
    forward: Run,
    batches: Sequence[Batch],
    accept: Sequence[Pair],
    recipe: Reconstruct,
    allocation: Allocation,
    weigh: Weigh,
    say: OnProgress,
    own: int = 0,
) -> Reconstructed:
    """New values for the kept weights; with accept "if_better" undone unless the accepting loss falls.

    accept: accepting batches with the dense model's answers, as `refine.evidence.teach` gives them.
    allocation: its N:M patterns hold where the masks move. own: as for `rows`.
    """
    measure: Callable[[], float] | None = None
    if recipe.accept == "if_better":
        measure = lambda: mean_value(state.model, accept, objective)  # noqa: E731
    weights = weigh(recipe.output_weights, batches)
    telling = _telling("reconstruct", len(state.layers), say)
    return reconstruct_layers(
        state, forward, batches, recipe,
        own=own, patterns=allocation.patterns, measure=measure, weights=weights, on_layer=telling,
    )  # fmt: skip


def _telling(phase: str, total: int, say: OnProgress) -> Callable[[LayerRecord], None]:
    """An `on_layer` for which each layer is a piece of the phase; the phase begins at once."""
    done = 0
    say(Progress(phase, done, total))

    def tell(record: LayerRecord) -> None:
        nonlocal done
        done += 1
        say(Progress(phase, done, total))

    return tell
