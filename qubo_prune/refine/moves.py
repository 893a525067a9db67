"""How the kept values of a refit may move: each freely, or those of a layer by a product of low rank."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor


class Moves(Protocol):
    """The values on their way, as functions of what an optimiser has."""

    parameters: list[Tensor]
    """Leaves without autograd, whose .grad `take` sets."""

    def take(self, name: str, gradient: Tensor) -> None:
        """The loss's gradient (out, in) by the layer's values, 0 off the mask, for the next step."""

    def value(self, name: str) -> Tensor:
        """(out, in) float32 values as they are now; what is off the mask is not read."""

    def write(self, name: str, weight: Tensor) -> None:
        """The values as they are now into a weight (out, in), 0 off the mask."""


class Free:
    """Each value for itself, from the given ones (out, in) float32, which it changes."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        self._values = values
        self.parameters = list(values.values())

    def take(self, name: str, gradient: Tensor) -> None:
        self._values[name].grad = gradient

    def value(self, name: str) -> Tensor:
        return self._values[name]

    def write(self, name: str, weight: Tensor) -> None:
        weight.copy_(self._values[name])


class LowRank:
    """W + M * (B A) with A (rank, in) and B (out, rank), after PERP (Zimmer, Andoni, Spiegel and Pokutta,
    arXiv 2312.15230, its MaskLoRA): fewer numbers than values, so a few windows say more of each.

    B begins at 0, and A with normal numbers of variance 1 / in. Departure: theirs are scaled by a factor of
    their own, which here is left to the learning rate.
    """

    def __init__(
        self, values: Mapping[str, Tensor], masks: Mapping[str, Tensor], rank: int, seed: int
    ) -> None:
        self._values, self._masks = values, masks
        device = next(iter(values.values())).device
        generator = torch.Generator(device).manual_seed(seed)
        self._left: dict[str, Tensor] = {}
        self._right: dict[str, Tensor] = {}
        for name, value in values.items():
            out, inputs = value.shape
            drawn = torch.randn(rank, inputs, device=device, generator=generator)
            self._right[name] = (drawn / math.sqrt(inputs)).to(value.device)
            self._left[name] = torch.zeros(out, rank, device=value.device)
        self.parameters = [*self._left.values(), *self._right.values()]

    def take(self, name: str, gradient: Tensor) -> None:
        left, right = self._left[name], self._right[name]
        left.grad, right.grad = gradient @ right.t(), left.t() @ gradient

    def value(self, name: str) -> Tensor:
        values = self._values[name]
        moved = torch.addmm(values, self._left[name], self._right[name])
        return torch.where(self._masks[name], moved, values)

    def write(self, name: str, weight: Tensor) -> None:
        values, left, right = self._values[name], self._left[name], self._right[name]
        if weight.dtype == values.dtype and weight.is_contiguous():
            torch.addmm(values, left, right, out=weight)  # one pass over the weights instead of four
        else:
            weight.copy_(self.value(name))
        weight.mul_(self._masks[name])  # an eighth of masked_fill_'s time; -0 does no harm on the way
