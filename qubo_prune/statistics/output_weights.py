"""What an error of a layer's outputs costs the end loss, position by position: squared output gradients.

    weights = collect_output_weights(model, layers, batches, objective, channel_groups=4, seed=0)
    walk(state, forward, batches, method, weights=weights)      # see qubo_prune.sequential

With g_to the gradient of a position's loss by output o at position t, and d_to an error of that output, the
loss grows by about 1/2 E[sum_o g_to^2 d_to^2]. A Gram matrix for each row would cost too much, so the
channels of a layer are cut into groups, each with one weight a position (GuidedQuant, arXiv 2505.07004,
equations 4 and 7): s_t = mean over the group's channels of g_to^2. What differs between rows of a group is
left to their prices (departure: the paper's groups have none).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qubo_prune.errors import InputError
from qubo_prune.layers import Layer, block_stack
from qubo_prune.objective import Batch, Objective, label_signals
from qubo_prune.prefix import first_tensor
from qubo_prune.statistics.tape import Tape, frozen

LEAST_PRICE = 0.01
"""Of the mean: a saturated output has no gradient, but pruned down to nothing it is saturated no longer; see
`initial.fisher.row_scale`."""


@dataclass(frozen=True, eq=False)
class OutputWeights:
    """Weights of the positions of each layer's inputs, and what the rows of a layer are worth.

    positions     name -> batch -> call of the layer -> (groups, vectors) float32 s, in the order of the
                  forward pass; in the loss's units squared per unit of output squared
    mean_squares  name -> (out,) float32 E[g_o^2] over all input vectors of the layer
    power         of E[g_o^2] in a row's price; 0: all rows cost alike

    The names are those of the layers and of the model's blocks, whose outputs are a layer's here.
    """

    positions: Mapping[str, Sequence[Sequence[Tensor]]]
    mean_squares: Mapping[str, Tensor]
    power: float = 1.0

    def __contains__(self, name: str) -> bool:
        """Whether there are weights of this layer or block."""
        return name in self.positions

    def groups(self, name: str) -> list[slice]:
        """The rows of each group of channels. InputError: the dense model never called the layer."""
        if name not in self:
            raise InputError(
                f"layer {name!r} was never called where output weights were collected: set output_weights to "
                "null, or leave the layer out with `exclude`"
            )
        number = next(len(call) for batch in self.positions[name] for call in batch)
        return channel_slices(len(self.mean_squares[name]), number)

    def prices(self, name: str) -> Tensor:
        """(out,) float32 E[g_o^2]^power in units of its mean over the rows, at least `LEAST_PRICE`."""
        price = self.mean_squares[name].double().pow(self.power)
        mean = price.mean()
        return (price / mean if float(mean) else torch.ones_like(price)).clamp(min=LEAST_PRICE).float()

    def of(self, name: str, batch: int, inputs: Sequence[Tensor]) -> list[Tensor]:
        """(groups, vectors) for each of the inputs (..., in) that a layer got in a pass of a batch.

        InputError: the dense model called the layer with other numbers of input vectors.
        """
        calls = self.positions[name][batch][: len(inputs)]
        seen = [x.numel() // x.shape[-1] for x in inputs]
        if [s.shape[1] for s in calls] != seen:
            raise InputError(
                f"layer {name!r} sees other numbers of inputs in the dense model, so its output weights do "
                "not fit: set output_weights to null, or leave the layer out with `exclude`"
            )
        return list(calls)

    def square_error(self, name: str, batch: int, gap: Tensor) -> float:
        """Sum over positions and outputs of the squares of gap (..., out), each at its weight and price, in
        units of their means."""
        squares = gap.reshape(-1, gap.shape[-1]).float().square() * self.prices(name)
        (s,) = self.of(name, batch, [gap])
        means = torch.cat([call for calls in self.positions[name] for call in calls], 1).double().mean(1)
        by_group = torch.stack([squares[:, rows].sum(1) for rows in self.groups(name)])
        return float(((by_group * s).sum(1, dtype=torch.float64) / means).sum())


def channel_slices(channels: int, groups: int) -> list[slice]:
    """Contiguous groups of channels whose sizes differ by at most one; at most one group a channel."""
    groups = min(groups, channels)
    bounds = [channels * i // groups for i in range(groups + 1)]
    return [slice(lo, hi) for lo, hi in itertools.pairwise(bounds)]


def collect_output_weights(
    model: nn.Module,
    layers: Mapping[str, Layer],
    batches: Sequence[Batch],
    objective: Objective,
    channel_groups: int = 1,
    *,
    seed: int = 0,
    power: float = 1.0,
) -> OutputWeights:
    """One pass forward and one backward over the batches, through the model as it is (it should be dense).

    The loss of a position is the cross-entropy to a label that is sampled from the model's own prediction,
    independently of the others; where the objective cannot sample, its own loss (see
    `objective.label_signals`). Gradients are scaled by the positions that a sample's loss is a mean over.
    A group of channels whose gradients are all zero gets equal weights.

    Memory: groups x vectors floats for each layer and block, besides the pass of one batch with its graph.
    InputError: no groups, a layer some of whose calls alone reach the loss, or which shares its weight with
    another module that is called, NaN or infinite gradients; see also `Tape`.
    """
    if channel_groups < 1:
        raise InputError(f"channel_groups={channel_groups}: give at least one group of output channels")
    found = _Squares(channel_groups)
    generator = torch.Generator().manual_seed(seed)
    stack = block_stack(model)
    blocks = {} if stack is None else {f"{stack[0]}.{i}": block for i, block in enumerate(stack[1])}
    with frozen(model), Tape(model, layers) as tape, ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.module.register_forward_pre_hook(found.counting(name)).remove)
        for name, block in blocks.items():
            hooks.callback(block.register_forward_hook(found.watching(name)).remove)
        for batch in batches:
            tape.forget()
            found.begin()
            with torch.enable_grad():
                signals = label_signals(objective, model, batch, generator)
            found.scale = float(signals.tokens)
            tape.backward(signals.output, signals.loss, found.add, len(signals.value))
    return found.weights(power)


class _Squares:
    """Squared output gradients as they come, one batch after another; `scale` is what gradients are times."""

    def __init__(self, channel_groups: int) -> None:
        self._number = channel_groups
        self.scale = 1.0
        self._batches = 0
        self._calls: dict[str, list[int]] = {}
        self._positions: dict[str, list[list[Tensor]]] = {}
        self._sums: dict[str, Tensor] = {}
        self._vectors: dict[str, int] = {}

    def begin(self) -> None:
        """Before the forward pass of a batch."""
        self._batches += 1
        self._calls.clear()

    def counting(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        """A hook that counts the input vectors of each call of a layer; a teacher's passes have no graph."""

        def count(module: nn.Module, args: tuple[Any, ...]) -> None:
            if not torch.is_grad_enabled():
                return
            self._calls.setdefault(name, []).append(args[0].numel() // args[0].shape[-1])

        return count

    def watching(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        """A hook that takes the gradient of a block's hidden state, where there is one."""

        def receive(grad: Tensor) -> None:
            if len(self._calls[name]) == 1:
                self.add(name, [], [grad])

        def watch(module: nn.Module, args: Any, output: Any) -> None:
            if not torch.is_grad_enabled():
                return
            state = first_tensor(output)
            self._calls.setdefault(name, []).append(state.numel() // state.shape[-1])
            if state.requires_grad:
                state.register_hook(receive)

        return watch

    @torch.no_grad()
    def add(self, name: str, inputs: list[Tensor], grads: list[Tensor]) -> None:
        """A consumer of `Tape`: gradients (B, T, out) of each call of a layer."""
        calls, channels = self._calls.get(name, []), grads[0].shape[-1]
        # autograd goes through the calls in the reverse of their order
        by_call = [g.reshape(-1, channels) for g in reversed(grads)]
        if [len(g) for g in by_call] != calls:
            if any(bool(g.any()) for g in by_call):
                raise InputError(
                    f"layer {name!r}: some of its calls do not reach the loss, or another module shares its "
                    "weight, so its output weights are not known: set output_weights to null, or leave the "
                    "layer out with `exclude`"
                )
            by_call = [grads[0].new_zeros(n, channels) for n in calls]
        slices = channel_slices(channels, self._number)
        parts = []
        for g in by_call:
            squares = (g.float() * self.scale).square()
            parts.append(torch.stack([squares[:, rows].mean(1) for rows in slices]))
            total = squares.sum(0, dtype=torch.float64)
            if not bool(torch.isfinite(total).all()):
                raise InputError(f"layer {name!r}: its output gradients are NaN or infinite; try float32.")
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._vectors[name] = self._vectors.get(name, 0) + len(g)
        self._positions.setdefault(name, []).append(parts)

    def weights(self, power: float) -> OutputWeights:
        """What was collected of the layers that were called, and of the blocks that were in every batch."""
        whole = {name: self._positions[name] for name in self._sums}
        whole = {name: batches for name, batches in whole.items() if len(batches) == self._batches}
        for batches in whole.values():
            calls = [call for batch in batches for call in batch]
            reached = torch.stack([call.any(1) for call in calls]).any(0)
            for call in calls:
                call[~reached] = 1.0
        squares = {name: (self._sums[name] / self._vectors[name]).float() for name in whole}
        return OutputWeights(whole, squares, power)
