"""PruneReport: masks, figures, the quality-time curve and the provenance of one pruning run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from qubo_prune.masks import Masks, density
from qubo_prune.recipe import Recipe
from qubo_prune.refine.records import StepRecord
from qubo_prune.refine.refit import RefitRecord
from qubo_prune.sequential import LayerRecord


@dataclass
class PruneReport:
    """What came of one run.

    masks           layer -> (out, in) bool, True = kept; every weight is zero where it is False
    figures         loss on the report range: initial, refined, and dense where the loss is no distance to it;
                    accept_* are the accepting range's: a selection, not a result
    curve           one record a step: what more time bought
    seconds         by phase, `total` last
    walks           "sparsegpt" or "gradual", "rows", "reconstruct" -> one record a layer, where recipes have
                    these; errors are of the layer's outputs on calibration windows
    refits          one record a check of the refit: steps, seconds, losses
    refit_stopped   why the last one ended: "steps", "time limit", "no progress" or "interrupted"; None: none
    allocation      how the budget was shared out: see `Allocation.to_dict`; the method alone where the scores
                    of all layers together did that ("global")
    stopped         "steps", "time limit", "no improving candidates", "no progress", "interrupted" or
                    "no refinement"
    """

    recipe: Recipe
    masks: Masks
    figures: dict[str, float | None]
    curve: list[StepRecord]
    seconds: dict[str, float]
    stopped: str
    swaps_by_layer: dict[str, int]
    provenance: dict[str, Any]
    peak_memory_bytes: int
    walks: dict[str, list[LayerRecord]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    allocation: dict[str, Any] = field(default_factory=dict)
    refits: list[RefitRecord] = field(default_factory=list)
    refit_stopped: str | None = None

    @property
    def swaps(self) -> int:
        """Swaps kept over all steps."""
        return sum(record.swaps_kept for record in self.curve)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; masks only through their densities."""
        counted = density(self.masks)
        return {
            "sparsity": counted.sparsity,
            "density": {"total": counted.density, "layers": {n: counted.of(n) for n in counted.layers}},
            "pruned_weights": counted.total - counted.kept,
            "total_weights": counted.total,
            "allocation": self.allocation,
            "figures": self.figures,
            "stopped": self.stopped,
            "swaps": self.swaps,
            "swaps_by_layer": self.swaps_by_layer,
            "curve": [asdict(record) for record in self.curve],
            "walks": {name: [asdict(record) for record in records] for name, records in self.walks.items()},
            "refits": [asdict(record) for record in self.refits],
            "refit_stopped": self.refit_stopped,
            "seconds": self.seconds.get("total"),
            "seconds_by_phase": self.seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "recipe": self.recipe.model_dump(mode="json"),
            "provenance": self.provenance,
            **self.extra,
        }
