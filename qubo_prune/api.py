"""prune(model, calibration, recipe) -> PruneReport: the one way through the engine, usable in any pipeline.

    layers and their dense answers -> statistics -> allocation -> first mask -> row problems -> refinement
    -> reconstruction -> refit -> rounding -> report

In place, on any nn.Module and any batches; no global state, no output. The shell is a thin layer over it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from torch import Tensor, nn

import qubo_solvers
from qubo_prune.allocation import Allocation, check_allocation, check_found
from qubo_prune.allocation.search import tried
from qubo_prune.allocation_brings import found_to_bring
from qubo_prune.calibration import Calibration
from qubo_prune.data import Data as Data
from qubo_prune.errors import InputError
from qubo_prune.figures import Clock, Figures
from qubo_prune.initial import initial_masks
from qubo_prune.layer_phases import masks_and_values, rows, weighing
from qubo_prune.layers import Layer, check_finite, check_group, prunable_layers
from qubo_prune.objective import Batch, CrossEntropy, CustomLoss, KLToDense, Objective
from qubo_prune.own_text import check as check_prompts
from qubo_prune.own_text import own_windows, with_own_text
from qubo_prune.preparation import (
    collect_evidence,
    forward_pass,
    importance_of,
    pattern_of,
    share_out,
    statistics_batches,
)
from qubo_prune.products import quick_products
from qubo_prune.progress import Counted, OnProgress, Progress
from qubo_prune.provenance import peak_memory_bytes, provenance
from qubo_prune.rebatch import shortened
from qubo_prune.recipe import Recipe
from qubo_prune.refine.evidence import teach
from qubo_prune.report import PruneReport
from qubo_prune.rounds import Rounds
from qubo_prune.sequential import LayerRecord
from qubo_prune.state import PruneState
from qubo_prune.statistics.collect import mean_value

Loss = Callable[[nn.Module, Batch], Tensor]


@quick_products()
def prune(
    model: nn.Module,
    calibration: Calibration | Data | Tensor | Iterable[Batch],
    recipe: Recipe | None = None,
    *,
    loss: Loss | Objective | None = None,
    allocation: Allocation | None = None,
    export_blocks: str | Path | None = None,
    on_progress: OnProgress | None = None,
    on_masks: Callable[[str, nn.Module], None] | None = None,
) -> PruneReport:
    """Prune `model` in place and report.

    calibration    token windows in three ranges (`calibration.split_ranges`), a `Data`, or any finite
                   iterable of batches (token ids (B, T), dicts of inputs, images, ...); statistics and losses
                   count all positions alike, so texts must be cut or joined to one length, not padded
    recipe         what to do; default: 50 %, Wanda start, iCBS refinement
    loss           None: the recipe's objective on the model's logits. Else a function (model, batch) ->
                   scalar mean or per-sample losses (B,), or any `objective.Objective`
    allocation     how much to prune in each layer, and in each row where it says so, found before: then the
                   recipe's own rule is not asked, and a refinement keeps counts of rows unless the recipe
                   says another budget
    export_blocks  folder that every block is written to (see `exporting`)
    on_progress    called between pieces of work
    on_masks       called with "initial" and the model at the first masks, with "refined" and the model at the
                   last ones, with "rows" between them and "reconstructed" and "refit" after them where the
                   recipe has these (again in each round), with "quantised" in the end if so: to take figures
                   of one's own; the model must not be changed

    Everything is checked before a weight changes; InputError (a ValueError) names what is wrong. An error
    later puts the dense weights back. Ctrl-C from the row problems on returns normally, with the model at the
    last accepted mask and `stopped == "interrupted"` (a reconstruction that was not accepted yet is undone,
    one with accept "always" keeps the layers done, a refit its best values so far); before that it puts the
    dense weights back and is raised.
    """
    if not isinstance(recipe, Recipe | None):
        raise InputError(f"recipe is a {type(recipe).__name__}: give a Recipe, as Recipe(sparsity=0.5)")
    recipe = (recipe or Recipe()).checked()
    begun = time.perf_counter()
    if allocation is not None:
        recipe = recipe.beside(found_to_bring(allocation))
    layers, data = check(model, calibration, recipe, export_blocks)
    if allocation is not None:
        if recipe.pattern is not None:
            raise InputError(f"pattern {recipe.pattern} says how much to prune: leave `allocation` out")
        check_found(layers, recipe.sparsity, allocation)
    objective = _objective(recipe, loss)
    say = on_progress or (lambda progress: None)
    tell = on_masks or (lambda name, model: None)
    state = PruneState(model, layers)
    weigh = weighing(state, objective, recipe.seed, say)
    run = forward_pass(model, objective)
    seconds: dict[str, float] = {}
    finished = False
    try:
        clock = Clock(seconds)
        say(Progress("dense answers"))
        report_pairs = teach(state, objective, Counted(data.report, "dense answers", say))
        figures = Figures(model, objective, report_pairs, say, tell, clock)
        if not objective.needs_teacher and report_pairs:
            figures.values["dense"] = mean_value(model, report_pairs, objective)
        clock.lap("dense")
        data = with_own_text(model, data, recipe, lambda done, total: say(Progress("own text", done, total)))
        batches = statistics_batches(data, recipe)
        clock.lap("own text")
        say(Progress("statistics"))
        evidence = collect_evidence(state, objective, data, recipe, say)
        clock.lap("statistics")
        say(Progress("allocation"))
        if allocation is None:
            allocation = share_out(state, objective, data, recipe, evidence, say)
        clock.lap("allocation")
        say(Progress("first mask"))
        walks: dict[str, list[LayerRecord]] = {}
        over_all = recipe.initial.granularity == "global"  # then the scores share out the budget
        if recipe.initial.by_layer:
            walks[recipe.initial.method] = masks_and_values(
                state, run, batches, recipe, allocation, evidence, weigh, say
            )
        else:
            masks = initial_masks(
                recipe.initial.method, layers, recipe.sparsity if over_all else allocation.counts,
                recipe.initial.granularity, evidence=evidence, group=allocation.group,
                rows=allocation.rows,
            )  # fmt: skip
            for name, values in allocation.values.items():
                state.refit(name, values)
            state.set_masks(masks)
        clock.lap("initial")
        figures.measure("initial", "loss of the first mask")
        interrupted = False
        if recipe.rows is not None:
            figures.values["rows"] = None
            try:
                walks["rows"] = rows(
                    state, run, batches, recipe.rows, allocation, recipe.seed, weigh, say, len(data.own)
                )  # fmt: skip
                clock.lap("rows")
                figures.measure("rows", "loss after the row problems")
            except KeyboardInterrupt:  # the blocks done stay done
                interrupted = True
        rounds = Rounds(
            state, objective, recipe, run, itertools.cycle([*data.calibrate, *data.own]), batches,
            data.own_refit, len(data.own), data.accept,
            None if evidence.moments is None else importance_of(state, evidence), allocation,
            None if export_blocks is None else Path(export_blocks), weigh, say, figures, walks,
            interrupted=interrupted,
        )  # fmt: skip
        result = rounds.run()
        seconds["total"] = time.perf_counter() - begun
        report = PruneReport(
            recipe, state.masks, figures.values, result.curve, seconds, result.stopped, result.swaps_by_layer,
            provenance(recipe.seed), peak_memory_bytes(), walks,
            allocation={"method": "global"} if over_all else allocation.to_dict(), refits=rounds.refits,
            refit_stopped=rounds.refit_stopped,
        )  # fmt: skip
        finished = True
        return report
    finally:
        if not finished:
            state.restore_dense()


def _objective(recipe: Recipe, loss: Loss | Objective | None) -> Objective:
    if loss is None:
        return KLToDense() if recipe.objective == "kl" else CrossEntropy()
    return CustomLoss(loss) if not hasattr(loss, "signals") else loss  # type: ignore[return-value]


def check(
    model: nn.Module,
    calibration: Calibration | Data | Tensor | Iterable[Batch],
    recipe: Recipe,
    export_blocks: str | Path | None = None,
) -> tuple[dict[str, Layer], Data]:
    """What `prune` refuses, before anything is computed; returns the layers and the batches it would use."""
    check_solver(recipe)
    layers = prunable_layers(model, recipe.include, recipe.exclude)
    refine = recipe.refine
    data = Data.of(calibration, refine.batch if refine else 1)
    if own_windows(recipe):
        check_prompts(model, statistics_batches(data, recipe), recipe.calibration.own_prompt)
    if recipe.refit is not None:
        shortened(statistics_batches(data, recipe), recipe.refit.length)
    again, rows_apart = recipe.reconstruct, recipe.rows is not None and recipe.rows.held_out > 0
    if (rows_apart or again is not None) and len(statistics_batches(data, recipe)) < 2:
        what, instead = "reconstruction holds", ""
        if rows_apart:
            what, instead = "row problems hold", ", or set rows.held_out to 0"
        raise InputError(
            f"{what} one calibration batch out to judge by: give at least two (smaller batches, as by "
            f"refine.batch, or more calibration.windows){instead}"
        )
    if again is not None and again.accept == "if_better" and not len(data.accept):
        raise InputError(
            "reconstruction is kept only if the accepting loss falls: give accepting batches, or set "
            "reconstruct.accept to always"
        )
    if refine is not None and refine.steps and refine.accept == "if_better" and not len(data.accept):
        raise InputError("refinement keeps a step only if the accepting loss falls: give accepting batches")
    check_finite(layers)
    total = sum(layer.numel for layer in layers.values())
    if not 0 < round(total * recipe.sparsity) < total:
        raise InputError(f"sparsity {recipe.sparsity} of {total} weights prunes none or all of them")
    check_allocation(layers, recipe.sparsity, recipe.allocation)
    if recipe.quantise is not None:
        check_group(layers, recipe.quantise.group, "quantise.group")
    if tried(recipe.allocation) and not len(data.accept):
        raise InputError("allocation.search goes by the accepting loss: give accepting batches")
    if (pattern := pattern_of(recipe)) is not None:
        pattern.check_layers(layers)
    if export_blocks is not None:
        folder = Path(export_blocks)
        if refine is None or not refine.steps:
            raise InputError("there are no blocks to export without a refinement: set refine.steps")
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"blocks folder {str(folder)!r} exists and is not an empty folder: name another")
    return layers, data


def check_solver(recipe: Recipe) -> None:
    """ValueError where the recipe's solver is unknown, not installed, or has no such option."""
    refine = recipe.refine
    if refine is not None and refine.steps:
        try:
            solver = qubo_solvers.get(refine.solver.name, **refine.solver.options)
        except ImportError as error:
            raise InputError(f"solver {refine.solver.name!r} cannot be imported: {error}") from None
        able, reason = qubo_solvers.availability(refine.solver.name)
        if not able:
            raise InputError(f"solver {solver.name!r} is not available: {reason}")
