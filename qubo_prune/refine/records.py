"""What a refinement leaves behind: one record a step (the quality-time curve) and the result of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from qubo_prune.refine.trust import Trust


@dataclass(frozen=True)
class StepRecord:
    """One row of the quality-time curve. seconds: since the refinement began; changes in the loss's units."""

    step: int
    seconds: float
    layers: str
    variables: int
    swaps_proposed: int
    swaps_kept: int
    predicted_change: float
    measured_change: float | None
    loss: float | None
    accepted: bool
    radius: int | None
    damping: float
    collect_seconds: float
    build_seconds: float
    transfer_seconds: float
    solve_seconds: float
    accept_seconds: float
    solver_status: str
    harmful: int = 0


@dataclass
class RefineResult:
    """accept_before/after: accepting loss (None where nothing was measured); stopped: why it ended."""

    curve: list[StepRecord] = field(default_factory=list)
    accept_before: float | None = None
    accept_after: float | None = None
    stopped: str = "steps"
    swaps_by_layer: dict[str, int] = field(default_factory=dict)

    @property
    def swaps(self) -> int:
        return sum(r.swaps_kept for r in self.curve)


def joined(results: Sequence[RefineResult]) -> RefineResult:
    """Refinements that followed one another as one: steps and seconds count on, swaps add up."""
    found = RefineResult(accept_before=results[0].accept_before)
    for result in results:
        first, begun = len(found.curve), found.curve[-1].seconds if found.curve else 0.0
        found.curve += [replace(r, step=r.step + first, seconds=r.seconds + begun) for r in result.curve]
        found.accept_after, found.stopped = result.accept_after, result.stopped
        for name, swaps in result.swaps_by_layer.items():
            found.swaps_by_layer[name] = found.swaps_by_layer.get(name, 0) + swaps
    return found


def empty_record(
    step: int, seconds: float, names: tuple[str, ...], loss: float | None, trust: Trust, collecting: float
) -> StepRecord:
    """The record of a step that found nothing to improve."""
    layer = names[0] if len(names) == 1 else "all"
    nothing = (0, 0, 0, 0.0, None, loss, False)
    return StepRecord(
        step, seconds, layer, *nothing, trust.radius, trust.damping, collecting, 0, 0, 0, 0, "no block"
    )
