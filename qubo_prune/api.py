"""prune(model, calibration, recipe) -> PruneReport: the one way through the engine, usable in any pipeline.

    layers and their dense answers -> statistics -> allocation -> first mask -> row problems -> refinement
    -> reconstruction -> refit -> report

In place, on any nn.Module and any batches; no global state, no output. The shell is a thin layer over it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import qubo_solvers
from qubo_prune.allocation import Allocation, Observed, allocate, check_allocation
from qubo_prune.allocation_settings import Besa, Fisher
from qubo_prune.calibration import Calibration
from qubo_prune.errors import InputError
from qubo_prune.initial import METHODS, Evidence, initial_masks
from qubo_prune.layer_phases import rows, sparsegpt, weighing
from qubo_prune.layers import Layer, prunable_layers
from qubo_prune.objective import Batch, CrossEntropy, CustomLoss, KLToDense, Objective, batch_size
from qubo_prune.patterns import Pattern
from qubo_prune.progress import Counted, OnProgress, Progress
from qubo_prune.provenance import peak_memory_bytes, provenance
from qubo_prune.recipe import Recipe
from qubo_prune.refine.evidence import teach
from qubo_prune.report import PruneReport
from qubo_prune.rounds import Clock, Rounds
from qubo_prune.sequential import LayerRecord
from qubo_prune.state import PruneState
from qubo_prune.statistics.collect import collect, mean_value
from qubo_prune.statistics.fisher import KroneckerDiagonal
from qubo_prune.statistics.gradients import GradientMoments
from qubo_prune.statistics.gram import InputMoments, collect_norms
from qubo_prune.statistics.label_pass import collect_diagonal
from qubo_prune.statistics.tape import frozen

Loss = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True)
class Data:
    """Batches of the three disjoint ranges; `report` may be empty (then no figure is reported)."""

    calibrate: Sequence[Batch]
    accept: Sequence[Batch]
    report: Sequence[Batch] = ()

    @classmethod
    def of(cls, calibration: Calibration | Data | Tensor | Iterable[Batch], batch: int) -> Data:
        """From token windows, from three ranges of batches, or from any finite iterable of batches.

        A plain iterable is cut in order: the last eighth (at least one batch) reports, the eighth before it
        accepts, the rest calibrates; it needs at least three batches. A tensor holds samples, cut into
        batches of `batch`.
        """
        if isinstance(calibration, Data | Calibration):
            c = calibration
            data = cls(*(_batches(part, batch) for part in (c.calibrate, c.accept, c.report)))
        else:
            batches = _batches(calibration, batch)
            if 0 < len(batches) < 3:
                raise InputError(
                    f"calibration has {len(batches)} batches: give at least 3 (calibrate, accept, report), "
                    "or a qubo_prune.Data with the three ranges"
                )
            part = max(1, len(batches) // 8)
            data = cls(batches[: -2 * part], batches[-2 * part : -part], batches[-part:])
        if not len(data.calibrate):
            raise InputError("calibration is empty: give at least one batch to calibrate on")
        return data


def prune(
    model: nn.Module,
    calibration: Calibration | Data | Tensor | Iterable[Batch],
    recipe: Recipe | None = None,
    *,
    loss: Loss | Objective | None = None,
    export_blocks: str | Path | None = None,
    on_progress: OnProgress | None = None,
    on_masks: Callable[[str, nn.Module], None] | None = None,
) -> PruneReport:
    """Prune `model` in place and report.

    calibration    token windows in three ranges (`calibration.split_ranges`), a `Data`, or any finite
                   iterable of batches (token ids (B, T), dicts of inputs, images, ...)
    recipe         what to do; default: 50 %, Wanda start, iCBS refinement
    loss           None: the recipe's objective on the model's logits. Else a function (model, batch) ->
                   scalar mean or per-sample losses (B,), or any `objective.Objective`
    export_blocks  folder that every block is written to (see `exporting`)
    on_progress    called between pieces of work
    on_masks       called with "initial" and the model at the first masks, with "refined" and the model at the
                   last ones, with "rows" between them and "reconstructed" and "refit" after them where the
                   recipe has these (again in each round): to take figures of one's own; the model must not
                   be changed

    Everything is checked before a weight changes; InputError (a ValueError) names what is wrong. An error
    later puts the dense weights back. Ctrl-C from the refinement on returns normally, with the model at the
    last accepted mask and `stopped == "interrupted"` (a reconstruction or refit that was not accepted yet is
    undone; a reconstruction with accept "always" keeps the layers done); before that it puts the dense
    weights back and is raised.
    """
    recipe = recipe or Recipe()
    begun = time.perf_counter()
    layers, data = check(model, calibration, recipe, export_blocks)
    objective = _objective(recipe, loss)
    say = on_progress or (lambda progress: None)
    tell = on_masks or (lambda name, model: None)
    state = PruneState(model, layers)
    weigh = weighing(state, objective, recipe.seed, say)
    seconds: dict[str, float] = {}
    finished = False
    try:
        clock = Clock(seconds)
        say(Progress("dense answers"))
        report_pairs = teach(state, objective, Counted(data.report, "dense answers", say))
        figures: dict[str, float | None] = {}
        if not objective.needs_teacher and report_pairs:
            figures["dense"] = mean_value(model, report_pairs, objective)
        clock.lap("dense")
        say(Progress("statistics"))
        evidence = _evidence(state, objective, data, recipe, say)
        clock.lap("statistics")
        say(Progress("allocation"))
        observed = Observed(
            model, _forward(model, objective), _statistics_batches(data, recipe), objective, evidence.diagonal
        )
        allocation = _allocation(layers, recipe, observed, say)
        clock.lap("allocation")
        say(Progress("first mask"))
        walks: dict[str, list[LayerRecord]] = {}
        over_all = recipe.initial.granularity == "global"  # then the scores share out the budget
        if recipe.initial.method == "sparsegpt":
            walks["sparsegpt"] = sparsegpt(
                state, _forward(model, objective), _statistics_batches(data, recipe), recipe, allocation,
                weigh, say,
            )  # fmt: skip
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
        counted = Counted(report_pairs, "loss of the first mask", say)
        figures["initial"] = mean_value(model, counted, objective) if report_pairs else None
        clock.lap("evaluate initial")
        tell("initial", model)
        clock.lap("on_masks")
        if recipe.rows is not None:
            run, batches = _forward(model, objective), _statistics_batches(data, recipe)
            walks["rows"] = rows(state, run, batches, recipe.rows, allocation, recipe.seed, weigh, say)
            clock.lap("rows")
            counted = Counted(report_pairs, "loss after the row problems", say)
            figures["rows"] = mean_value(model, counted, objective) if report_pairs else None
            clock.lap("evaluate rows")
            tell("rows", model)
            clock.lap("on_masks")
        rounds = Rounds(
            state, objective, recipe, _forward(model, objective), _endless(data.calibrate),
            _statistics_batches(data, recipe), data.accept, report_pairs,
            None if evidence.moments is None else _importance(state, evidence), allocation.group,
            None if export_blocks is None else Path(export_blocks), weigh, say, tell, clock, figures, walks,
        )  # fmt: skip
        result = rounds.run()
        seconds["total"] = time.perf_counter() - begun
        report = PruneReport(
            recipe, state.masks, figures, result.curve, seconds, result.stopped, result.swaps_by_layer,
            provenance(recipe.seed), peak_memory_bytes(), walks,
            allocation={"method": "global"} if over_all else allocation.to_dict(), refits=rounds.refits,
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


def _allocation(layers: dict[str, Layer], recipe: Recipe, observed: Observed, say: OnProgress) -> Allocation:
    """How much to prune in each layer, and in groups of which size."""
    if (pattern := _pattern(recipe)) is not None:
        sizes = {name: layer.numel for name, layer in layers.items()}
        return Allocation("uniform", pattern.counts(layers), sizes, pattern.group)
    return allocate(
        layers, recipe.sparsity, recipe.allocation,
        on_layer=lambda done, total: say(Progress("allocation", done, total)), observed=observed,
    )  # fmt: skip


def _pattern(recipe: Recipe) -> Pattern | None:
    """The N:M pattern of a recipe."""
    return None if recipe.pattern is None else Pattern.parse(recipe.pattern)


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
    again = recipe.reconstruct
    if again is not None and len(_statistics_batches(data, recipe)) < 2:
        raise InputError(
            "reconstruction holds one calibration batch out to judge by: give at least two (smaller batches, "
            "or more calibration.windows)"
        )
    if again is not None and again.accept == "if_better" and not len(data.accept):
        raise InputError(
            "reconstruction is kept only if the accepting loss falls: give accepting batches, or set "
            "reconstruct.accept to always"
        )
    if refine is not None and refine.steps and refine.accept == "if_better" and not len(data.accept):
        raise InputError("refinement keeps a step only if the accepting loss falls: give accepting batches")
    for name, layer in layers.items():
        if not bool(torch.isfinite(layer.weight).all()):
            raise InputError(f"layer {name!r} has NaN or infinite weights: the checkpoint is broken")
    total = sum(layer.numel for layer in layers.values())
    if not 0 < round(total * recipe.sparsity) < total:
        raise InputError(f"sparsity {recipe.sparsity} of {total} weights prunes none or all of them")
    check_allocation(layers, recipe.sparsity, recipe.allocation)
    if (pattern := _pattern(recipe)) is not None:
        pattern.check_layers(layers)
    if export_blocks is not None:
        folder = Path(export_blocks)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise InputError(f"blocks folder {str(folder)!r} exists and is not an empty folder: name another")
    return layers, data


def check_solver(recipe: Recipe) -> None:
    """ValueError where the recipe's solver is unknown, not installed, or has no such option."""
    refine = recipe.refine
    if refine is not None and refine.steps:
        solver = qubo_solvers.get(refine.solver.name, **refine.solver.options)
        able, reason = qubo_solvers.availability(refine.solver.name)
        if not able:
            raise InputError(f"solver {solver.name!r} is not available: {reason}")


def _evidence(
    state: PruneState, objective: Objective, data: Data, recipe: Recipe, say: OnProgress
) -> Evidence:
    """Input moments for Wanda scores and the mask's boundary; mean gradients where the first mask needs
    them."""
    method = METHODS.get(recipe.initial.method)
    need = None if method is None else method.needs
    batches = Counted(_statistics_batches(data, recipe), "statistics", say)
    moments: InputMoments | None = None
    if need in ("moments", "diagonal") or (recipe.refine is not None and recipe.refine.steps):
        with frozen(state.model):
            moments = collect_norms(_forward(state.model, objective), state.layers, batches)
    gradients: dict[str, Tensor] = {}
    if need == "gradients":
        # at the dense weights the KL to the dense model has no gradient: the language loss has
        slope = CrossEntropy(objective.logits) if isinstance(objective, KLToDense) else objective
        found = GradientMoments(state.layers)
        collect(state.model, state.layers, [(b, None) for b in batches], slope, found)
        gradients = {name: found.mean(name) for name in state.layers}
    diagonal: KroneckerDiagonal | None = None
    if need == "diagonal" or _shares_by_fisher(recipe):
        few = Counted(_statistics_batches(data, recipe, fisher=True), "Fisher of the dense model", say)
        diagonal = collect_diagonal(state.model, state.layers, few, objective, recipe.seed)
    return Evidence(moments, gradients, diagonal, recipe.initial.output_power, recipe.seed)


def _shares_by_fisher(recipe: Recipe) -> bool:
    rule = recipe.allocation
    return isinstance(rule, Fisher) or (isinstance(rule, Besa) and isinstance(rule.between, Fisher))


def _statistics_batches(data: Data, recipe: Recipe, *, fisher: bool = False) -> list[Batch]:
    """The first calibration batches, of as many windows as the recipe's statistics (or its Fisher) take."""
    windows = recipe.calibration.windows
    if fisher:
        windows = min(windows, recipe.calibration.fisher_windows or math.ceil(windows / 4))
    count = max(1, windows // max(1, batch_size(data.calibrate[0], unknown=1)))
    return list(itertools.islice(data.calibrate, count))


def _forward(model: nn.Module, objective: Objective) -> Callable[[Batch], Any]:
    """A forward pass of one batch: only the objective knows how its batches enter the model."""
    if isinstance(objective, KLToDense | CrossEntropy):
        return lambda batch: objective.logits(model, batch)
    if objective.needs_teacher:
        return lambda batch: objective.teacher(model, batch)
    return lambda batch: objective.value(model, batch, None)


def _importance(state: PruneState, evidence: Evidence) -> Callable[[str], Tensor]:
    """Wanda scores at the kept values: how far a weight is from the boundary of the mask."""
    assert evidence.moments is not None
    norms = {name: evidence.moments.norm(name).float() for name in state.layers}
    return lambda name: state.kept_values[name].float().abs() * norms[name]


def _batches(source: Tensor | Iterable[Batch], batch: int) -> Sequence[Batch]:
    """A tensor of samples in pieces of `batch`; any other sequence or iterable of batches as it is."""
    if isinstance(source, str | Mapping):
        raise InputError(f"calibration is one {type(source).__name__}: give a list of batches")
    if not isinstance(source, Tensor):
        return source if isinstance(source, Sequence) else list(source)
    if not source.numel():
        return []
    if source.dim() < 2:
        raise InputError(f"calibration has shape {tuple(source.shape)}: give token windows (n, length)")
    return list(torch.split(source, batch))


def _endless(batches: Sequence[Batch]) -> Iterator[Batch]:
    return itertools.cycle(batches)
