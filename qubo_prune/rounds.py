"""Rounds of a run: refine the masks, give the kept weights new values, and so on; Ctrl-C ends them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from torch import Tensor

from qubo_prune.allocation import Allocation
from qubo_prune.allocation_settings import Quantise
from qubo_prune.figures import Figures
from qubo_prune.layer_phases import Weigh, reconstruct
from qubo_prune.objective import Batch, Objective
from qubo_prune.prefix import Run
from qubo_prune.progress import OnProgress, Progress
from qubo_prune.quantisation import quantise
from qubo_prune.recipe import Recipe
from qubo_prune.reconstruct import Reconstructed
from qubo_prune.refine.evidence import Pair, teach
from qubo_prune.refine.icbs import IcbsLoop
from qubo_prune.refine.records import RefineResult, joined
from qubo_prune.refine.refit import RefitRecord, Refitted, refit
from qubo_prune.sequential import LayerRecord
from qubo_prune.state import PruneState, uninterrupted


@dataclass
class Rounds:
    """What the rounds work on, and where they leave figures.

    state        with its first masks written; forward: a pass of one batch through its model
    calibrate    an endless iterator of calibration batches; statistics: those that values are fitted on, and
    further      those that the refit has beside them; own: how many of `statistics`, the first, are own text
    accept       batches to decide by
    importance, export  as for `IcbsLoop`; allocation: its pattern holds in all that moves masks
    interrupted  Ctrl-C came before: no round is begun, the model is measured as it is
    weigh        output weights for the reconstruction, see `layer_phases.weighing`
    say          `prune`'s on_progress
    """

    state: PruneState
    objective: Objective
    recipe: Recipe
    forward: Run
    calibrate: Iterator[Batch]
    statistics: Sequence[Batch]
    further: Sequence[Batch]
    own: int
    accept: Sequence[Batch]
    importance: Callable[[str], Tensor] | None
    allocation: Allocation
    export: Path | None
    weigh: Weigh
    say: OnProgress
    figures: Figures
    walks: dict[str, list[LayerRecord]]
    refits: list[RefitRecord] = field(default_factory=list)
    refit_stopped: str | None = None
    interrupted: bool = False

    def run(self) -> RefineResult:
        """All rounds. Ctrl-C ends them with what was accepted, and the result's `stopped` says so."""
        results: list[RefineResult] = []
        for turn in range(self.recipe.rounds):
            results.append(self._refine(turn))
            self._values(turn, results[-1])
            if results[-1].stopped == "interrupted":
                break
        result = joined(results)
        if self.recipe.quantise is not None:
            self._quantise(self.recipe.quantise, result)
        self.figures.values["accept_initial"] = result.accept_before
        return result

    def _refine(self, turn: int) -> RefineResult:
        """The masks of one round."""
        recipe, refine = self.recipe, self.recipe.refine
        result = RefineResult(stopped="no refinement", swaps_by_layer=dict.fromkeys(self.state.layers, 0))
        if self.interrupted:
            result.stopped = "interrupted"
        elif refine is not None and refine.steps:
            assert self.importance is not None
            try:  # the loop itself ends well on Ctrl-C
                accept = self._accepting if refine.accept == "if_better" else []
                self.say(Progress("refine", 0, refine.steps))
                loop = IcbsLoop(
                    self.state, self.objective, self.calibrate, accept, refine, self.importance,
                    seed=recipe.seed + turn * refine.steps, export=self._folder(turn),
                    group=self.allocation.group,
                    on_step=lambda step: self.say(Progress("refine", step.step + 1, refine.steps, step)),
                )  # fmt: skip
                result = loop.run()
            except KeyboardInterrupt:
                result.stopped = "interrupted"
        self.figures.clock.lap("refine")
        self.figures.values["accept_refined"] = result.accept_after
        self._figure("refined", "loss of the refined mask", result)
        return result

    def _values(self, turn: int, result: RefineResult) -> None:
        """New values for the kept weights, where the recipe asks for them."""
        ways: list[tuple[str, str, Callable[[], Reconstructed | Refitted]]] = []
        if self.recipe.reconstruct is not None:
            ways.append(("reconstruct", "reconstructed", self._reconstruct))
        if self.recipe.refit is not None:
            ways.append(("refit", "refit", lambda: self._refit(turn)))
        for way in ways:
            self._change(*way, result, first=way is ways[0])

    def _change(
        self,
        phase: str,
        name: str,
        work: Callable[[], Reconstructed | Refitted],
        result: RefineResult,
        first: bool,
    ) -> None:
        """One way to new values (the first of a round or not), with its figures; nothing once the run is
        interrupted."""
        self.figures.values.setdefault(name, None)
        if result.stopped == "interrupted":
            return
        told = "reconstructed weights" if phase == "reconstruct" else "refitted weights"
        try:
            found = work()
        except KeyboardInterrupt:
            result.stopped = "interrupted"
            self._figure(name, f"loss of the {told}", result)
            return
        if found.loss_before is not None:
            if self.figures.values["accept_refined"] is None and first:
                self.figures.values["accept_refined"] = found.loss_before
            self.figures.values[f"accept_{name}"] = found.loss_after
        self.figures.clock.lap(phase)
        if isinstance(found, Refitted) and found.stopped == "interrupted":
            result.stopped = "interrupted"  # its best values so far are there, and measured
        self._figure(name, f"loss of the {told}", result)

    def _reconstruct(self) -> Reconstructed:
        """New values layer by layer."""
        recipe = self.recipe.reconstruct
        assert recipe is not None
        accept = self._accepting if recipe.accept == "if_better" else []
        found = reconstruct(
            self.state,
            self.objective,
            self.forward,
            self.statistics,
            accept,
            recipe,
            self.allocation,
            self.weigh,
            self.say,
            self.own,
        )
        self.walks["reconstruct"] = found.records
        return found

    def _refit(self, turn: int) -> Refitted:
        """New values for all layers together."""
        assert self.recipe.refit is not None
        self.say(Progress("refit"))
        found = refit(
            self.state, self.objective, [*self.statistics, *self.further], self._accepting,
            self.recipe.refit, seed=self.recipe.seed + turn,
            on_step=lambda done, total: self.say(Progress("refit", done, total)),
        )  # fmt: skip
        self.refits += found.records
        self.refit_stopped = found.stopped
        return found

    @cached_property
    def _accepting(self) -> list[Pair]:
        """The accepting batches with the dense model's answers, which all phases of all rounds decide by."""
        return teach(self.state, self.objective, self.accept)

    def _quantise(self, grids: Quantise, result: RefineResult) -> None:
        """The kept weights on their grids; an interrupted run ends so too, as the recipe asks for it."""
        try:
            with uninterrupted():
                for name, layer in self.state.layers.items():
                    self.state.refit(name, quantise(layer.weight.detach(), grids.bits, grids.group))
        except KeyboardInterrupt:  # which waited until all were done
            result.stopped = "interrupted"
        self.figures.clock.lap("quantise")
        self._figure("quantised", "loss of the rounded weights", result)

    def _figure(self, name: str, phase: str, result: RefineResult) -> None:
        """The loss on the report range; on Ctrl-C what was done is kept, only its figure is lost."""
        try:
            self.figures.measure(name, phase)
        except KeyboardInterrupt:
            result.stopped = "interrupted"

    def _folder(self, turn: int) -> Path | None:
        """Where the blocks of a round are written."""
        return self.export if self.export is None or self.recipe.rounds == 1 else self.export / f"round{turn}"
