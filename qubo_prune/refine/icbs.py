"""iCBS: block coordinate descent over quadratic binary models of the loss (arXiv 2411.17796), and beyond it.

    collect gradients and curvature -> choose a block -> build its CardinalityQubo -> solve -> keep or undo

The paper works on one layer a step and applies every solution (scope "one_layer", accept "always"). The
default works on all layers at once: one set of per-sample gradients, one low-rank block, a count per layer
(or row, or one over all layers), a trust region on the number of swaps, and a step is kept only where the
accepting loss falls.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from qubo_prune import quadratic
from qubo_prune.blocks import Block
from qubo_prune.errors import InputError
from qubo_prune.exporting import export_block
from qubo_prune.icbs_settings import Icbs
from qubo_prune.objective import Batch, Objective
from qubo_prune.refine.accept import Swaps, keep_what_helps
from qubo_prune.refine.choice import Choice
from qubo_prune.refine.evidence import LossEvidence, Pair
from qubo_prune.refine.records import RefineResult, StepRecord, empty_record
from qubo_prune.refine.schedule import all_layers, one_layer
from qubo_prune.refine.trust import Trust
from qubo_prune.state import PruneState
from qubo_prune.statistics.collect import mean_value
from qubo_solvers import Solution
from qubo_solvers import get as get_solver
from qubo_solvers import solve as solve_problem

PATIENCE = 3
"""Steps in a row without an improving candidate after which the loop ends."""


@dataclass(frozen=True)
class _InFlight:
    """What puts the step that is being decided back: masks at flat indices, and the counts of swaps."""

    indices: dict[str, Tensor]
    kept: dict[str, Tensor]
    swaps_by_layer: dict[str, int]


class IcbsLoop:
    """The loop over one model; `run` returns when steps or time are spent, on Ctrl-C at the last kept mask.

    state        the model with its first masks written
    batches      an endless iterator of calibration batches
    accept       accepting batches with the dense model's answers, as `teach` gives them
    importance   layer -> (out, in) scores that say how far a weight is from the mask's boundary
    export       folder that every block is written to (see `exporting`), or None
    group        M: the masks have and keep a count in each M consecutive inputs; candidates by gain only, not
                 correlated ones
    """

    def __init__(
        self,
        state: PruneState,
        objective: Objective,
        batches: Iterator[Batch],
        accept: Sequence[Pair],
        recipe: Icbs,
        importance: Callable[[str], Tensor],
        *,
        seed: int = 0,
        export: Path | None = None,
        on_step: Callable[[StepRecord], None] | None = None,
        group: int | None = None,
    ) -> None:
        self.state, self.objective, self.recipe, self.seed = state, objective, recipe, seed
        self.export, self.on_step = export, on_step
        self.solver = get_solver(recipe.solver.name, **recipe.solver.options)
        sizes = {name: layer.numel for name, layer in state.layers.items()}
        whole = recipe.scope == "all_layers"
        self.schedule = all_layers(sizes) if whole else one_layer(sizes, recipe.steps, seed)
        self.evidence = LossEvidence(state, objective, batches, recipe, seed)
        self.choice = Choice(state, recipe, importance, self.solver.capabilities.max_variables, group)
        self._progress = 0.0  # share of the loss that the last step took away
        self._in_flight: _InFlight | None = None
        self.swaps_by_layer = dict.fromkeys(state.layers, 0)
        self.trust = Trust(recipe.trust, sum(sizes.values()))
        self.accept_pairs = accept if recipe.accept == "if_better" else []

    def run(self) -> RefineResult:
        """Refine the masks in place."""
        started = time.perf_counter()
        result = RefineResult(swaps_by_layer=self.swaps_by_layer)
        loss: float | None = None
        idle, refused, took = 0, 0, 0.0
        try:
            if self.accept_pairs:
                loss = result.accept_before = result.accept_after = self._measure()
            for step in range(self.recipe.steps):
                begun = time.perf_counter()
                limit = self.recipe.time_limit
                if limit is not None and begun - started + took / 2 > limit:
                    result.stopped = "time limit"
                    break
                record = self._step(step, loss, started)
                took = time.perf_counter() - begun
                loss = record.loss
                result.curve.append(record)
                self._in_flight = None
                if self.on_step is not None:
                    self.on_step(record)
                idle = idle + 1 if not record.variables else 0
                if idle == PATIENCE:
                    result.stopped = "no improving candidates"
                    break
                refused = 0 if record.accepted else refused + 1
                if refused == self.recipe.patience and self.recipe.scope == "all_layers":
                    result.stopped = "no progress"
                    break
        except KeyboardInterrupt:
            result.stopped = "interrupted"
            if self._in_flight is not None:  # a step without a record did not happen
                self.swaps_by_layer.update(self._in_flight.swaps_by_layer)
                self.state.assign(self._in_flight.indices, self._in_flight.kept)
            self.state.write()
        if result.curve:
            result.accept_after = result.curve[-1].loss
        return result

    # -- one step ------------------------------------------------------------------------------------------

    def _step(self, step: int, loss: float | None, started: float) -> StepRecord:
        t0 = time.perf_counter()
        names = next(self.schedule)
        self.evidence.collect(names, self._progress)
        block = self.choice.choose(step, names, self.evidence, self.trust.damping)
        t1 = time.perf_counter()
        if not block.size:
            self._progress = 0.0
            self.trust.relax()
            return empty_record(step, t1 - started, names, loss, self.trust, t1 - t0)
        built, model = self._build(step, block)
        t2 = time.perf_counter()
        solution = solve_problem(
            built.problem,
            self.solver,
            seed=self.seed + step,
            time_limit=self.recipe.solver.time_limit,
            initial=model.pruned.to(torch.uint8).cpu().numpy(),
        )
        t3 = time.perf_counter()
        if self.export is not None:
            export_block(built.problem, self.export, solution)
        if solution.assignment is None:
            raise InputError(
                f"solver {solution.solver!r} gave no answer to a block of {block.size} weights: "
                f"{solution.message or solution.status.message}"
            )
        t4 = time.perf_counter()
        swaps = self._swaps(block, model.pruned, solution)
        kept, harmful, after, measured = self._decide(step, swaps, loss)
        record = StepRecord(
            step=step,
            seconds=time.perf_counter() - started,
            layers=names[0] if len(names) == 1 else "all",
            variables=block.size,
            swaps_proposed=len(swaps),
            swaps_kept=sum(len(s) for s in kept),
            predicted_change=solution.energy if len(swaps) else 0.0,
            measured_change=measured,
            loss=after,
            accepted=bool(kept),
            radius=self.trust.radius,
            damping=self.trust.damping,
            collect_seconds=t1 - t0,
            build_seconds=built.build_seconds,
            transfer_seconds=built.transfer_seconds,
            solve_seconds=t3 - t2,
            accept_seconds=time.perf_counter() - t4,
            solver_status=solution.status.value,
            harmful=harmful,
        )
        if loss and after is not None:
            self._progress = max(0.0, loss - after) / abs(loss)  # a loss of one's own may be negative
        self.trust.adapt(record.predicted_change, record.measured_change, record.swaps_proposed)
        return record

    def _build(self, step: int, block: Block) -> tuple[quadratic.BuiltBlock, quadratic.LossModel]:
        r = self.recipe
        pruned = ~block.gather(self.state.masks)
        gradient = self.evidence.gradient(block)
        curvature = self.evidence.curvature(block, gradient, self.trust.damping)
        model = quadratic.LossModel(
            block.gather(self.state.kept_values).float(), pruned, gradient, curvature, r.gradient.gamma,
            2 * r.curvature.ridge,
        )  # fmt: skip
        groups = block.groups().to(pruned.device)
        counts = torch.zeros(int(groups.max()) + 1, dtype=torch.int64, device=pruned.device)
        counts.index_add_(0, groups, pruned.long())
        built = quadratic.build(
            model, groups, counts,
            reference=pruned if self.trust.radius is not None else None,
            radius=None if self.trust.radius is None else 2 * self.trust.radius,
            dense=self.solver.capabilities.needs_dense,
            name=f"step{step:04d}",
        )  # fmt: skip
        return built, model

    def _swaps(self, block: Block, before: Tensor, solution: Solution) -> Swaps:
        """The solution's changes as swaps, within layers as far as these keep their counts.

        Indices ascend, so where smaller groups have counts the k-th weight of a layer to prune and the k-th
        to regrow share a group: the counts of the groups before theirs are kept.
        """
        after = torch.as_tensor(solution.assignment, dtype=torch.bool, device=before.device)
        old, new = block.split(before), block.split(after)
        drops = [index[new[name] & ~old[name]] for name, index in block.indices.items()]
        adds = [index[old[name] & ~new[name]] for name, index in block.indices.items()]
        return Swaps.paired(tuple(block.indices), drops, adds)

    # -- keeping or undoing --------------------------------------------------------------------------------

    def _decide(
        self, step: int, swaps: Swaps, loss: float | None
    ) -> tuple[list[Swaps], int, float | None, float | None]:
        """(swaps kept, number found harmful, accepting loss after, measured change of the whole step)."""
        if not len(swaps):
            return [], 0, loss, None
        until = step + self.recipe.tabu_steps
        flips = swaps.flips()
        self._in_flight = _InFlight(flips, self.state.kept_at(flips), dict(self.swaps_by_layer))
        if loss is None:
            self.state.flip(flips)
            self._moved(swaps, until)
            return [swaps], 0, None, None
        trust = self.recipe.trust
        decision = keep_what_helps(
            self.state, swaps, loss, self._measure, trust.max_measurements if trust is not None else 1
        )
        for part in decision.kept:
            self._moved(part, until)
        for part in decision.harmful:
            self.choice.tabu.add(part.flips(), math.inf)
        for part in decision.untried:  # most of these may be harmless
            self.choice.tabu.add(part.flips(), until)
        refused = sum(map(len, decision.harmful + decision.untried))
        return decision.kept, refused, decision.loss, decision.full_change

    def _moved(self, swaps: Swaps, until: float) -> None:
        if self.recipe.scope == "all_layers":
            self.choice.tabu.add(swaps.flips(), until)
            self.evidence.forget(swaps.flips())
        for name, count in swaps.by_layer().items():
            self.swaps_by_layer[name] += count

    def _measure(self) -> float:
        loss = mean_value(self.state.model, self.accept_pairs, self.objective)
        return loss if math.isfinite(loss) else math.inf
