"""The trust region: how many swaps a step may take, from measured / predicted change.

A Fisher of few samples is blind in most directions, and a solver finds them: along its answers the sampled
curvature is next to nothing and the true one is not. So H also gets `damping` times its Kronecker diagonal
(Levenberg-Marquardt with Marquardt's scaling). Predictions are cautious then: the gradients that are chosen
come true better than the average of the candidates, by which they were scaled (see refine/reliability.py).
"""

from __future__ import annotations

from qubo_prune.icbs_settings import TrustRegion


class Trust:
    """radius: swaps of the next step (None: no limit); damping: diag(H) times this is added to H."""

    def __init__(self, recipe: TrustRegion | None, weights: int) -> None:
        self._recipe = recipe
        self.radius: int | None = None
        self.damping = 0.0 if recipe is None else recipe.damping
        if recipe is not None:
            self.radius = recipe.swaps or max(16, round(6e-6 * weights))

    def relax(self) -> None:
        """No candidate promised to improve: damp half as much."""
        self.damping /= 2

    def adapt(self, predicted: float, measured: float | None, swaps: int) -> None:
        """After a step: a poor one shrinks the radius, a good one that used it up widens it."""
        r = self._recipe
        if r is None or self.radius is None or measured is None or not swaps or not predicted < 0:
            return
        ratio = measured / predicted
        if ratio < r.poor:
            self.radius = max(1, int(min(self.radius, swaps) * r.shrink))
        elif ratio >= r.good and swaps >= 0.9 * self.radius:
            self.radius = max(self.radius + 1, int(self.radius * r.grow))
