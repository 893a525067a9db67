"""Per-sample gradients of any chosen weights, from kept layer inputs and output gradients: Fisher factors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qubo_prune.layers import Layer

Indices = Mapping[str, Tensor]
"""layer name -> flat indices (int64) into its (out, in) weight."""


class FisherSamples:
    """Keeps the inputs and output gradients of N samples, and forms gradients of chosen indices from them.

    Memory is O(samples x tokens x features), never samples x weights; layers that share an input share its
    storage. `scale` is the s of H = s G'G / N: 1 in the iCBS paper (arXiv 2411.17796), the tokens of a sample
    where labels are sampled independently per token (the mean over T of them has 1/T of a token's Fisher).
    """

    def __init__(self, layers: Mapping[str, Layer], scale: float = 1.0) -> None:
        self._layers = layers
        self.scale = scale
        self._kept: dict[str, list[tuple[list[Tensor], list[Tensor]]]] = {name: [] for name in layers}

    def add(self, name: str, inputs: list[Tensor], grads: list[Tensor]) -> None:
        self._kept[name].append((inputs, grads))

    @property
    def samples(self) -> int:
        """N, the number of samples kept."""
        return max((sum(x[0].shape[0] for x, _ in kept) for kept in self._kept.values()), default=0)

    def gather(self, indices: Indices) -> Tensor:
        """(N, n) float32 per-sample gradients of the chosen weights, layers in the order of `indices`.

        A sampled matrix product: O(T) a sample and index.
        """
        parts = []
        for name, index in indices.items():
            columns = self._layers[name].shape[1]
            row, col = index // columns, index % columns
            batches = []
            for inputs, grads in self._kept[name]:
                total = None
                for x, g in zip(inputs, grads, strict=True):
                    part = torch.einsum("btk,btk->bk", g[:, :, row].float(), x[:, :, col].float())
                    total = part if total is None else total + part
                batches.append(total)
            if batches:
                parts.append(torch.cat([b for b in batches if b is not None]))
            else:
                parts.append(torch.zeros(self.samples, len(index), device=index.device))
        return torch.cat(parts, dim=1)


class KroneckerDiagonal:
    """diag(H) of every weight as E[x_j^2] E[g_o^2] (K-FAC's independence assumption): O(in + out) a layer.

    Screens candidates: no weight-sized product is needed for it. g is the gradient per token
    (tokens x the gradient of the sample's mean loss), so it estimates the token-scaled Fisher.
    """

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self._x = {n: torch.zeros(la.shape[1], device=la.weight.device) for n, la in layers.items()}
        self._g = {n: torch.zeros(la.shape[0], device=la.weight.device) for n, la in layers.items()}
        self._rows = dict.fromkeys(self._x, 0.0)

    def age(self, discount: float) -> None:
        for name in self._x:
            self._x[name].mul_(discount)
            self._g[name].mul_(discount)
            self._rows[name] *= discount

    def add(self, name: str, inputs: list[Tensor], grads: list[Tensor], tokens: int) -> None:
        for x, g in zip(inputs, grads, strict=True):
            self._x[name] += x.float().square().sum((0, 1))
            self._g[name] += (g.float() * tokens).square().sum((0, 1))
        self._rows[name] += inputs[0].shape[0] * inputs[0].shape[1]

    def diagonal(self, name: str) -> Tensor:
        """(out, in) estimate of diag(H)."""
        rows = max(self._rows[name], 1e-30)
        return torch.outer(self._g[name] / rows, self._x[name] / rows)
