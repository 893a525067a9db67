"""The trust region: how many swaps a step may take and how stiff the curvature is, from measured / predicted.

A solver finds its way around a curvature that is estimated from few samples, and what a label sends back
through several chunks is counted in each alone: predictions are too good by a factor that varies by model.
The stiffness multiplies H as Levenberg-Marquardt's damping would, and follows measured / predicted.
"""

from __future__ import annotations

from qubo_prune.recipe import TrustRegion


class Trust:
    """radius: swaps of the next step (None: no limit); stiffness: multiplier of H in the next step."""

    def __init__(self, recipe: TrustRegion | None, weights: int) -> None:
        self._recipe = recipe
        self.radius: int | None = None
        self.stiffness = 1.0
        if recipe is not None:
            self.radius = recipe.swaps or max(16, round(6e-6 * weights))
            self.stiffness = recipe.stiffness

    def adapt(self, predicted: float, measured: float | None, swaps: int) -> None:
        """After a step: a refused one shrinks the radius, a good one that used it up widens it."""
        r = self._recipe
        if r is None or self.radius is None or measured is None or not swaps or not predicted < 0:
            return
        ratio = measured / predicted
        if ratio < r.good:
            self.stiffness = min(self.stiffness * r.stiffen, r.max_stiffness)
        elif ratio > r.excellent:
            self.stiffness = max(self.stiffness / r.stiffen, 1.0)
        if ratio <= 0:
            self.radius = max(1, int(min(self.radius, swaps) * r.shrink))
        elif ratio >= r.good and swaps >= 0.9 * self.radius:
            self.radius = max(self.radius + 1, int(self.radius * r.grow))
