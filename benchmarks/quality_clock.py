"""Seconds of a cell of the quality bench by part, and those of a plain Wanda pass to compare them with."""

from __future__ import annotations

import time

from qubo_prune.api import Data
from qubo_prune.calibration import Calibration
from qubo_prune.initial import Evidence, initial_masks
from qubo_prune.layers import prunable_layers
from qubo_prune.models import LoadedModel
from qubo_prune.patterns import Pattern
from qubo_prune.products import quick_products
from qubo_prune.recipe import Recipe
from qubo_prune.statistics.gram import collect_norms
from qubo_prune.statistics.tape import frozen

WANDA_WINDOWS = 4
"""Calibration windows, at most, that a Wanda pass is timed on beside each cell."""


class Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


@quick_products()
def wanda_pass(loaded: LoadedModel, ranges: Calibration, recipe: Recipe) -> tuple[float, int]:
    """Seconds of plain Wanda for the same target from the same windows, and how many of these were timed; the
    model is not changed.

    Plain Wanda's own cells are measured by the same scale as all: their multiple is near 1 where it is right.
    """
    layers, clock = prunable_layers(loaded.model, recipe.include, recipe.exclude), Clock()
    every = Data.of(ranges, 1).calibrate
    few = every[:WANDA_WINDOWS]
    with frozen(loaded.model):
        moments = collect_norms(loaded.model, layers, few)
    clock.lap("statistics")
    pattern = None if recipe.pattern is None else Pattern.parse(recipe.pattern)
    initial_masks("wanda", layers, recipe.sparsity, evidence=Evidence(moments), pattern=pattern)
    clock.lap("masks")
    # each window takes as long; masks do not grow
    scaled = clock.seconds["statistics"] * len(every) / len(few)
    return scaled + clock.seconds["masks"], len(few)
