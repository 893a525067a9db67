"""Second moments of every layer's inputs that age over steps: what couples the weights of an output row."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qubo_prune.layers import Layer


class InputGram:
    """E[x_i x_j] of each layer's inputs: (in, in) float32 a layer.

    Counted and aged as `KroneckerDiagonal`, so that E[x_j^2] is the same in both. (`gram.MomentHooks` has
    float64 sums that do not age, from forward passes of their own.)
    """

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self._sum = {n: torch.zeros(2 * la.shape[1:], device=la.weight.device) for n, la in layers.items()}
        self._rows = dict.fromkeys(self._sum, 0.0)  # input vectors the layer saw, over all its calls
        self._last: tuple[Tensor, Tensor] | None = None

    def age(self, discount: float) -> None:
        """Let everything seen so far count `discount` times as much (0 forgets it)."""
        for name, total in self._sum.items():
            total.mul_(discount)
            self._rows[name] *= discount

    def add(self, name: str, inputs: list[Tensor]) -> None:
        """Count the inputs (B, T, in) of each call of one layer; call `forget` before the next batch."""
        for x in inputs:
            self._sum[name] += self._product(x)
            self._rows[name] += x.shape[0] * x.shape[1]

    def forget(self) -> None:
        """Let the last inputs go."""
        self._last = None

    def entries(self, name: str, i: Tensor, j: Tensor) -> Tensor:
        """E[x_i x_j] of a layer for input features i and j, of one shape; the same to the bit for j, i."""
        total = self._sum[name]
        return (total[i, j] + total[j, i]) * (0.5 / max(self._rows[name], 1e-30))

    def _product(self, x: Tensor) -> Tensor:
        """X'X of inputs (B, T, in); not formed again for the layer after that has the same ones (q, k and v).

        The inputs are held until others come, so that their address means them.
        """
        if self._last is not None:
            held, product = self._last
            same = held.data_ptr() == x.data_ptr() and held.stride() == x.stride()
            if same and held.shape == x.shape and held.dtype == x.dtype and held.device == x.device:
                return product
        flat = x.flatten(0, 1).float()
        self._last = x, flat.T @ flat
        return self._last[1]
