"""The paths of a walk over the blocks of a model, and the moments of inputs at the layer it has reached."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_prune.layers import Layer, block_stack
from qubo_prune.prefix import Blocks, Run, first_tensor
from qubo_prune.state import PruneState
from qubo_prune.statistics.output_weights import OutputWeights
from qubo_prune.statistics.paths import PathEvidence, PathMoments
from qubo_prune.statistics.row_groups import GroupedEvidence

DENSE_BYTES = 2 << 30
"""Of dense inputs that are kept for the layers of a block; those that do not fit are computed again."""


class _Path:
    """The output of block `at` for every batch, on one path; -1: nothing was run yet."""

    def __init__(self, blocks: Blocks, batches: Sequence[Any]) -> None:
        self._blocks, self._batches = blocks, batches
        self.at = -1
        self._outputs: list[Any] = [None] * len(batches)

    def advance(self, to: int) -> None:
        """On to block `to`, with the weights as they are."""
        for i, batch in enumerate(self._batches):
            self._outputs[i] = self._blocks.run(batch, stop=to, **self._from(i))
        self.at = to

    def inputs(self, i: int, layer: Layer, calls: int, stop: int | None) -> list[Tensor]:
        return self._blocks.inputs(self._batches[i], layer, calls, stop=stop, **self._from(i, stop))

    def inputs_of(
        self, i: int, wanted: Mapping[str, tuple[Layer, int]], stop: int | None
    ) -> dict[str, list[Tensor]]:
        return self._blocks.inputs_of(self._batches[i], wanted, stop=stop, **self._from(i, stop))

    def output(self, i: int, stop: int) -> Tensor:
        """What block `stop` gives, the hidden state alone."""
        return first_tensor(self._blocks.run(self._batches[i], stop=stop, **self._from(i)))

    def groups(
        self, i: int, layers: Mapping[str, Layer], stop: int | None
    ) -> dict[str, tuple[list[str], int]]:
        return self._blocks.groups(self._batches[i], layers, stop=stop, **self._from(i, stop))

    def _from(self, i: int, stop: int | None = 0) -> dict[str, Any]:
        """Where a pass of batch i begins; passes through the whole model begin at the start."""
        return {} if stop is None else {"start": self.at, "given": self._outputs[i]}


class Walker:
    """Where the walk is: the paths, and what is collected at a layer.

    stages  (block, its layers) in order; a block of None is the whole model
    """

    def __init__(
        self,
        state: PruneState,
        forward: Run,
        batches: Sequence[Any],
        fitted: int,
        blend: float,
        weights: OutputWeights | None,
    ) -> None:
        self._state, self._batches, self._fitted, self._blend = state, batches, fitted, blend
        self._weights = weights
        self._inside: list[list[str]] = []
        found = block_stack(state.model)
        name, stack = ("", []) if found is None else (found[0], list(found[1]))
        self._stack = name
        blocks = Blocks(forward, stack)
        if stack and not (len(batches) and blocks.in_order(batches[0])):
            blocks = Blocks(forward, [])
        for i in range(len(blocks)):
            self._inside.append([layer for layer in state.layers if layer.startswith(f"{name}.{i}.")])
        # what a block is dense by: also weights that it shares with another one, under whose name they are
        owned = [{id(p) for p in block.parameters()} for block in stack[: len(blocks)]]
        self._weights_of = [[n for n, la in state.layers.items() if id(la.parameter) in own] for own in owned]
        self._pruned = _Path(blocks, batches)
        self._dense = _Path(blocks, batches) if blend else None
        self._leaders: dict[str, str] = {}  # of the stage's layers
        self._wanted: dict[str, tuple[Layer, int]] = {}
        self._dense_inputs: dict[int, dict[str, list[Tensor]]] = {}  # batch -> leader -> inputs
        self._dense_bytes = 0
        self.stages: list[tuple[int | None, list[str]]] = [
            (i, names) for i, names in enumerate(self._inside) if names
        ]
        inside = {name for names in self._inside for name in names}
        if outside := [name for name in state.layers if name not in inside]:
            self.stages.append((None, outside))

    def go_to(self, stop: int | None) -> None:
        """Both paths on to the block before `stop`."""
        if stop is None or stop - 1 <= self._pruned.at:
            return
        self._pruned.advance(stop - 1)
        if self._dense is not None:
            passed = self._weights_of[self._dense.at + 1 : stop]
            with self._state.dense([name for names in passed for name in names]):
                self._dense.advance(stop - 1)

    def judge(self, stop: int) -> Callable[[], float]:
        """Measures the mean square of what block `stop` gives, with the weights as they are, less what it
        should give, over the batches that errors are measured on; by the weights of the block, where there
        are any."""
        weights, block = self._weights, f"{self._stack}.{stop}"
        targets: dict[int, Tensor] = {}
        with self._state.dense(self._weights_of[stop]):
            for i in range(self._fitted if self._fitted < len(self._batches) else 0, len(self._batches)):
                targets[i] = self._pruned.output(i, stop)
                if self._dense is not None:
                    targets[i] = torch.lerp(targets[i], self._dense.output(i, stop), self._blend)

        def error() -> float:
            total, count = 0.0, 0
            for i, target in targets.items():
                gap = self._pruned.output(i, stop).float() - target.float()
                if weights is not None and block in weights:
                    total += weights.square_error(block, i, gap)
                    count += gap.numel()
                    continue
                total += float(gap.square().sum(dtype=torch.float64))
                count += gap.numel()
            return total / max(1, count)

        return error

    def groups(self, stop: int | None, names: Iterable[str]) -> dict[str, tuple[list[str], int]]:
        """leader -> (the layers that read the same tensor, how often they are called), in order.

        Where a batch does not reach every layer (experts), the following batches are asked.
        """
        left = {name: self._state.layers[name] for name in names}
        found: dict[str, tuple[list[str], int]] = {}
        for i in range(len(self._batches)):
            found |= self._pruned.groups(i, left, stop)
            for members, _ in found.values():
                for name in members:
                    left.pop(name, None)
            if not left:
                break
        for name in left:
            PathMoments().check(name)
        self._leaders = {name: leader for leader, (members, _) in found.items() for name in members}
        self._wanted = {leader: (self._state.layers[leader], calls) for leader, (_, calls) in found.items()}
        self._dense_inputs.clear()
        self._dense_bytes = 0
        return found

    def evidence(
        self, stop: int | None, names: Sequence[str], calls: int
    ) -> Iterator[tuple[str, PathEvidence | GroupedEvidence]]:
        """What is known of each of the layers that read the same tensor, at its turn; the `tokens` of one
        that only held-out batches reach (an expert) are 0."""
        layers, weights = self._state.layers, self._weights
        if weights is None:
            ((fit, held),) = self._moments(stop, layers[names[0]], calls)
            _check(fit, held, names[0])
            for name in names:
                yield name, PathEvidence(self._state.original(name), fit, held)
            return
        for name in names:
            original, parts = self._state.original(name), []
            moments = self._moments(stop, layers[name], calls)
            for rows, (fit, held) in zip(weights.groups(name), moments, strict=True):
                _check(fit, held, name)
                parts.append((rows, PathEvidence(original[rows], fit, held)))
            yield name, GroupedEvidence(original, parts, weights.prices(name))

    def _moments(
        self, stop: int | None, layer: Layer, calls: int
    ) -> list[tuple[PathMoments, PathMoments | None]]:
        """For each group of channels (one without weights) the moments of the layer's inputs over the batches
        to fit on, and over those held out, if any."""
        groups = 1 if self._weights is None else len(self._weights.groups(layer.name))
        fit, held = [PathMoments() for _ in range(groups)], [PathMoments() for _ in range(groups)]
        for i in range(len(self._batches)):
            into = fit if i < self._fitted else held
            seen = self._pruned.inputs(i, layer, calls, stop)
            distances = self._distances(i, seen, layer, stop)
            weights = None if self._weights is None else self._weights.of(layer.name, i, seen)
            for call, (x, e) in enumerate(zip(seen, distances, strict=True)):
                for c, moments in enumerate(into):
                    moments.add(x, e, None if weights is None else weights[call][c])
        return [(f, h if h.tokens else None) for f, h in zip(fit, held, strict=True)]

    def _distances(
        self, i: int, seen: Sequence[Tensor], layer: Layer, stop: int | None
    ) -> Sequence[Tensor | None]:
        """blend * (input in the dense model - input seen), call by call; None each without a dense path."""
        if self._dense is None:
            return [None] * len(seen)
        there = self._inputs_in_dense(self._dense, i, self._leaders[layer.name], stop)
        if [x.shape for x in there] != [x.shape for x in seen]:
            raise InputError(
                f"layer {layer.name!r} sees other numbers of inputs in the dense model: set blend to 0"
            )
        return [self._blend * (y.float() - x.float()) for x, y in zip(seen, there, strict=True)]

    def _inputs_in_dense(self, path: _Path, i: int, leader: str, stop: int | None) -> list[Tensor]:
        """Of a group of layers; those of all groups of the stage come from one pass and are kept for the rest
        of the stage, as far as they fit."""
        if i in self._dense_inputs:
            return self._dense_inputs[i][leader]
        fits = self._dense_bytes < DENSE_BYTES
        wanted = self._wanted if fits else {leader: self._wanted[leader]}
        with self._state.dense(self._state.layers if stop is None else self._weights_of[stop]):
            found = path.inputs_of(i, wanted, stop)
        if fits:
            self._dense_inputs[i] = found
            self._dense_bytes += sum(x.nbytes for inputs in found.values() for x in inputs)
        return found[leader]


def _check(fit: PathMoments, held: PathMoments | None, name: str) -> None:
    """InputError, naming the layer: moments that are not finite, or no input in either of them."""
    seen = [moments for moments in (fit, held) if moments is not None and moments.tokens]
    for moments in seen or [fit]:
        moments.check(name)
