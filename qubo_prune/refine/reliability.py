"""How much of the estimated gradients comes true: their regression on fresh gradients, by kind of layer."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

LEVEL = 0.3
"""The share of a chosen estimate that comes true, over all kinds of layers: about what was measured on
SmolLM2-135M. It is not learned on the way: weights that move drag the others' gradients along, and after a
large step the regression says more of that than of noise."""

LEAST, MOST = 0.1, 3.0
"""Bounds of a kind's slope relative to the common one."""


class Reliability:
    """Candidates are chosen for large estimates, so noise is chosen too; how much differs by kind of layer.

    Estimates made before a batch was seen are compared with that batch's own gradients, which know nothing
    of the choice: slope = sum(estimate * fresh) / sum(estimate^2) over the layers whose names differ by
    numbers only (one place in every decoder block), divided by the slope over all layers. Earlier steps count
    `memory` times as much at each new one. Every kind's sums get `prior` times the common sums: with few
    samples it stays near them.
    """

    def __init__(self, names: tuple[str, ...], memory: float = 0.7, prior: float = 0.1) -> None:
        self._kind = {name: re.sub(r"\d+", "#", name) for name in names}
        self._sums = {kind: torch.zeros(2, dtype=torch.float64) for kind in self._kind.values()}
        self._memory, self._prior = memory, prior

    def observe(
        self, estimate: Mapping[str, Tensor], fresh: Mapping[str, Tensor], weight: Mapping[str, Tensor]
    ) -> None:
        """One step's (n,) estimates, fresh gradients and kept values of the same weights, by layer."""
        for sums in self._sums.values():
            sums.mul_(self._memory)
        for name, guess in estimate.items():
            scaled = guess.double() * weight[name].double().square()
            sums = self._sums[self._kind[name]]
            sums += torch.stack([scaled @ fresh[name].double(), scaled @ guess.double()]).cpu()

    def slope(self, name: str) -> float:
        """Multiplier of a layer's estimates: LEVEL times its kind's slope over the common one, at most 1."""
        common = torch.stack(list(self._sums.values())).sum(0)
        if not float(common.min()) > 0:
            return LEVEL
        own = self._sums[self._kind[name]] + self._prior * common
        relative = float(own[0] / own[1]) / float(common[0] / common[1])
        return min(1.0, LEVEL * min(MOST, max(LEAST, relative)))
