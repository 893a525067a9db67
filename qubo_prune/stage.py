"""One stage of a run: from the weights as they are to masks and values at one sparsity."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from qubo_prune.allocation import Allocation
from qubo_prune.data import Data
from qubo_prune.initial import Evidence, initial_masks
from qubo_prune.layer_phases import Weigh, masks_and_values, rows
from qubo_prune.objective import Objective
from qubo_prune.prefix import Run
from qubo_prune.preparation import collect_evidence, importance_of, share_out, statistics_batches
from qubo_prune.progress import Counted, OnProgress, Progress
from qubo_prune.recipe import Recipe
from qubo_prune.refine.evidence import Pair
from qubo_prune.refine.records import RefineResult
from qubo_prune.rounds import Clock, Rounds
from qubo_prune.sequential import LayerRecord
from qubo_prune.state import PruneState
from qubo_prune.statistics.collect import mean_value


@dataclass(frozen=True)
class Work:
    """What the stages of a run share.

    forward: a pass of one batch through the state's model. report: the report range with its dense answers.
    say, tell: `prune`'s on_progress and on_masks. export: a folder for blocks, or None.
    """

    state: PruneState
    objective: Objective
    data: Data
    forward: Run
    report: Sequence[Pair]
    weigh: Weigh
    say: OnProgress
    tell: Callable[[str, nn.Module], None]
    clock: Clock
    export: Path | None = None


@dataclass(frozen=True)
class Staged:
    """What came of a stage; its figures, walks and refits are those of `rounds`."""

    result: RefineResult
    rounds: Rounds


def evidence_of(work: Work, recipe: Recipe) -> Evidence:
    """Statistics of the model as it is."""
    work.say(Progress("statistics"))
    found = collect_evidence(work.state, work.objective, work.data, recipe, work.say)
    work.clock.lap("statistics")
    return found


def on_the_way(work: Work, recipe: Recipe, allocation: Allocation, evidence: Evidence) -> float | None:
    """A stage before the last, by its share of the last one's allocation; its weights are what the next one
    begins with. Returns the loss on the report range. KeyboardInterrupt: Ctrl-C, also where a last stage
    would end well."""
    state, told = work.state, f" at {100 * recipe.sparsity:.3g} %"
    quiet = replace(
        work, report=(), export=None, tell=lambda name, model: None,
        say=lambda progress: work.say(replace(progress, phase=progress.phase + told)),
    )  # fmt: skip
    if recipe.pattern is None:
        early = allocation.scaled(recipe.sparsity)
    else:
        early = share_out(state, work.objective, work.data, recipe, evidence, quiet.say)
    if stage(quiet, recipe, early, evidence).result.stopped == "interrupted":
        raise KeyboardInterrupt
    state.settle()
    counted = Counted(work.report, "loss" + told, work.say)
    loss = mean_value(state.model, counted, work.objective) if work.report else None
    work.clock.lap("evaluate stages")
    return loss


def stage(work: Work, recipe: Recipe, allocation: Allocation, evidence: Evidence) -> Staged:
    """First masks, row problems and the rounds. On Ctrl-C from the row problems on, `result.stopped` says so;
    before that it is raised."""
    state, clock = work.state, work.clock
    batches = statistics_batches(work.data, recipe)
    figures: dict[str, float | None] = {}
    walks: dict[str, list[LayerRecord]] = {}

    def figure(name: str, phase: str) -> None:
        figures[name] = None
        if work.report:
            figures[name] = mean_value(state.model, Counted(work.report, phase, work.say), work.objective)
        clock.lap(f"evaluate {name}")
        work.tell(name, state.model)
        clock.lap("on_masks")

    work.say(Progress("first mask"))
    if recipe.initial.by_layer:
        walks[recipe.initial.method] = masks_and_values(
            state, work.forward, batches, recipe, allocation, evidence, work.weigh, work.say
        )
    else:
        over_all = recipe.initial.granularity == "global"  # then the scores share out the budget
        masks = initial_masks(
            recipe.initial.method, state.layers, recipe.sparsity if over_all else allocation.counts,
            recipe.initial.granularity, evidence=evidence, group=allocation.group, rows=allocation.rows,
        )  # fmt: skip
        for name, values in allocation.values.items():
            state.refit(name, values)
        state.set_masks(masks)
    clock.lap("initial")
    figure("initial", "loss of the first mask")
    interrupted = False
    if recipe.rows is not None:
        figures["rows"] = None
        try:
            walks["rows"] = rows(
                state, work.forward, batches, recipe.rows, allocation, recipe.seed, work.weigh, work.say
            )
            clock.lap("rows")
            figure("rows", "loss after the row problems")
        except KeyboardInterrupt:  # the blocks done stay done
            interrupted = True
    data = work.data
    rounds = Rounds(
        state, work.objective, recipe, work.forward, itertools.cycle([*data.calibrate, *data.own]), batches,
        data.own_refit, data.accept, work.report,
        None if evidence.moments is None else importance_of(state, evidence), allocation, work.export,
        work.weigh, work.say, work.tell, clock, figures, walks, interrupted=interrupted,
    )  # fmt: skip
    return Staged(rounds.run(), rounds)
