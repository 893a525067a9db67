"""Fisher factors: per-sample gradients of any chosen weights, from kept layer inputs and output gradients."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qubo_prune.layers import Layer

Indices = Mapping[str, Tensor]
"""layer name -> flat indices (int64) into its (out, in) weight."""

GATHER_BYTES = 64 << 20
"""Products of inputs and output gradients at chosen indices are formed in pieces of about this size."""


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
        """Keep the B samples of one layer; every layer must be given the same samples in the same order."""
        self._kept[name].append((inputs, grads))

    @property
    def samples(self) -> int:
        """N, the number of samples kept."""
        return max((sum(x[0].shape[0] for x, _ in kept) for kept in self._kept.values()), default=0)

    def gather(self, indices: Indices) -> Tensor:
        """(N, n) float32 per-sample gradients of the chosen weights, layers in the order of `indices`.

        A sampled matrix product: O(T) a sample and index, formed in pieces of about GATHER_BYTES.
        """
        return torch.cat([self._gather(name, index) for name, index in indices.items()], dim=1)

    def _gather(self, name: str, index: Tensor) -> Tensor:
        columns = self._layers[name].shape[1]
        row, col = index // columns, index % columns
        out = torch.zeros(self.samples, len(index), device=index.device)
        lo = 0
        for inputs, grads in self._kept[name]:
            hi = lo + inputs[0].shape[0]
            for x, g in zip(inputs, grads, strict=True):
                step = max(1, GATHER_BYTES // (4 * x.shape[0] * x.shape[1]))
                for i in range(0, len(index), step):
                    part = g[:, :, row[i : i + step]].float() * x[:, :, col[i : i + step]].float()
                    out[lo:hi, i : i + step] += part.sum(1)
            lo = hi
        return out


class CoherentFisher:
    """What the positions of a sample have in common: (sum_t g_t) (mean_t x_t)' for each layer and sample.

    Chunks of a sample miss what their positions do together, which is most of the curvature along moves that
    shift a feature's mean (in attention values above all). This part is rank one a layer: out + in floats, so
    that the samples of many steps can be kept. `most`: the newest samples that are kept.
    """

    def __init__(self, layers: Mapping[str, Layer], most: int) -> None:
        self._layers, self._most = layers, most
        self._kept: dict[str, list[list[tuple[Tensor, Tensor]]]] = {name: [] for name in layers}
        self.scale = 1.0

    def add(self, name: str, inputs: list[Tensor], grads: list[Tensor]) -> None:
        """Keep the B samples of one layer; inputs (B, T, in), grads (B, T, out) of each call of it."""
        calls = [(g.float().sum(1), x.float().mean(1)) for x, g in zip(inputs, grads, strict=True)]
        kept = self._kept[name]
        kept += [[(g[b], x[b]) for g, x in calls] for b in range(len(calls[0][0]))]
        del kept[: max(0, len(kept) - self._most)]

    @property
    def samples(self) -> int:
        """N, the number of samples kept."""
        return max((len(kept) for kept in self._kept.values()), default=0)

    def gather(self, indices: Indices) -> Tensor:
        """(N, n) float32, as `FisherSamples.gather`."""
        parts = []
        for name, index in indices.items():
            columns = self._layers[name].shape[1]
            row, col = index // columns, index % columns
            part = torch.zeros(self.samples, len(index), device=index.device)
            for sample, calls in enumerate(self._kept[name]):
                for g, x in calls:
                    part[sample] += g[row] * x[col]
            parts.append(part)
        return torch.cat(parts, dim=1)


class KroneckerDiagonal:
    """diag(H) of every weight as E[x_j^2] E[g_o^2] (K-FAC's independence assumption): O(in + out) a layer.

    Screens candidates: no weight-sized product is needed for it. It estimates the token-scaled Fisher: a
    position counts alone, with the gradient of its own loss (P times that of the mean over P positions).
    """

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self._x = {n: torch.zeros(la.shape[1], device=la.weight.device) for n, la in layers.items()}
        self._g = {n: torch.zeros(la.shape[0], device=la.weight.device) for n, la in layers.items()}
        self._rows = dict.fromkeys(self._x, 0.0)  # input vectors the layer saw, over all its calls
        self._positions = dict.fromkeys(self._x, 0.0)  # positions of the loss

    def __contains__(self, name: str) -> bool:
        return name in self._x

    def age(self, discount: float) -> None:
        """Let everything seen so far count `discount` times as much (0 forgets it)."""
        for name in self._x:
            self._x[name].mul_(discount)
            self._g[name].mul_(discount)
            self._rows[name] *= discount
            self._positions[name] *= discount

    def add(self, name: str, inputs: list[Tensor], grads: list[Tensor], tokens: int) -> None:
        """Count B samples of one layer; grads (B, T, out) of losses that are means over `tokens`."""
        for x, g in zip(inputs, grads, strict=True):
            self._x[name] += x.float().square().sum((0, 1))
            self._g[name] += (g.float() * tokens).square().sum((0, 1))
            self._rows[name] += x.shape[0] * x.shape[1]
        self._positions[name] += inputs[0].shape[0] * tokens

    def outputs(self, name: str) -> Tensor:
        """(out,) E[g_o^2] of a position: sum over positions of g_o^2, over the loss's positions."""
        return self._g[name] / max(self._positions[name], 1e-30)

    def diagonal(self, name: str) -> Tensor:
        """(out, in) estimate of diag(H): sum over positions of g_o^2 x_j^2, over the loss's positions."""
        return torch.outer(self.outputs(name), self._input_squares(name))

    def input_norm(self, name: str) -> Tensor:
        """(in,) root mean square of each input of a layer."""
        return self._input_squares(name).sqrt()

    def output_norm(self, name: str) -> Tensor:
        """(out,) root mean square over positions of the gradient at each output of a layer."""
        return self.outputs(name).sqrt()

    def _input_squares(self, name: str) -> Tensor:
        return self._x[name] / max(self._rows[name], 1e-30)
