"""Walk the blocks of a model once, front to back: moments of each layer's inputs behind the layers already
changed, then a layer-wise method, then on with the new weights.

    records = walk(state, forward_of(model), batches, LeastSquares(), held_out=0.25)

After SparseGPT (arXiv 2301.00774), whose published code has a sequence of layers for each family of models;
here layers go together that read the same tensor, in the order in which they are called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_prune.layers import Layer, block_stack
from qubo_prune.layerwise import LayerChange, LayerMethod
from qubo_prune.prefix import Blocks, Run, first_tensor
from qubo_prune.state import PruneState
from qubo_prune.statistics.output_weights import OutputWeights
from qubo_prune.statistics.paths import PathEvidence, PathMoments
from qubo_prune.statistics.row_groups import GroupedEvidence
from qubo_prune.statistics.tape import frozen

DENSE_BYTES = 2 << 30
"""Of dense inputs that are kept for the layers of a block; those that do not fit are computed again."""


@dataclass(frozen=True)
class LayerRecord:
    """What became of one layer.

    error_before, error_after  E|W x - T x_t|^2 / E|T x|^2 over the held-out batches (see
                               `layerwise.LayerEvidence`), with x behind the layers changed before this one;
                               with output weights both sums over rows are by their prices
    changed                    whether the method answered with values or a mask
    seconds                    the method's, without collecting moments
    details                    what the method says of its work
    """

    layer: str
    error_before: float
    error_after: float
    changed: bool
    seconds: float
    details: dict[str, float | str]


@torch.no_grad()
def walk(
    state: PruneState,
    forward: Run,
    batches: Sequence[Any],
    method: LayerMethod,
    *,
    blend: float = 0.0,
    held_out: float = 0.0,
    keeps_budget: bool = True,
    by_block: bool = False,
    weights: OutputWeights | None = None,
    on_layer: Callable[[LayerRecord], None] | None = None,
) -> list[LayerRecord]:
    """Change every layer of `state` by `method`, in the order of the forward pass, and write the weights.

    forward   a pass of one batch through the state's model
    batches   all positions count: they must hold no padding
    blend     0: a layer's target is what its original weights make of its present inputs; 1: its outputs in
              the dense model; between: of the blended inputs. Above 0 a dense path is run too, at twice the
              time and memory
    held_out  share of the batches, the last ones, on which errors are measured and which the moments to fit
              on leave out (at least one); 0: errors are measured on the batches that are fitted on
    keeps_budget  refuse a mask with another number of pruned weights than the one before
    by_block  a block's layers are put back, and their records say "undone", unless the error of the block's
              output over the held-out batches falls: its squared distance from what the original weights of
              the block give at its present input, or (blended) in the dense model
    weights   what errors of outputs cost the end loss, collected on the same batches: moments, errors and the
              errors of blocks are weighted by them; None: all positions and outputs count alike
    on_layer  called after each layer

    Memory: the output of one block for all batches (with blend two, and up to DENSE_BYTES of inputs), in the
    model's dtype, and for one group of layers the sums of moments: up to 3 * 8 * in^2 bytes, twice with
    held-out batches; with weights for one layer, times its groups of channels, at the cost of a pass for each
    layer. Layers outside the blocks come last, each group at the cost of passes through the whole model; so
    does every layer of a model without blocks, or which does not call them one after another.

    InputError: nothing to hold out, a layer that saw no input or none that is finite, or whose inputs differ
    in number on the two paths or from what the weights were collected at, an answer of the method that does
    not fit. Layers changed before stay changed, as they do on Ctrl-C: `PruneState.saved` first where that is
    not wanted.
    """
    held = _held_out(len(batches), held_out)
    records: list[LayerRecord] = []
    with frozen(state.model):
        walker = _Walker(state, forward, batches, len(batches) - held, blend, weights)
        for stop, layers in walker.stages:
            walker.go_to(stop)
            first, saved = len(records), state.saved()
            judge = walker.judge(stop) if by_block and stop is not None else None
            before = judge() if judge is not None else 0.0
            for names, calls in walker.groups(stop, layers).values():
                for name, evidence in walker.evidence(stop, names, calls):
                    records.append(_change(state, name, method, evidence, keeps_budget))
                    if on_layer is not None:
                        on_layer(records[-1])
            if judge is not None and any(r.changed for r in records[first:]):
                after = judge()
                if not after < before:
                    state.restore(saved)
                    rise = after / before - 1 if before else 0.0
                    records[first:] = [_undone(record, rise) for record in records[first:]]
    return records


def _undone(record: LayerRecord, rise: float) -> LayerRecord:
    """The record of a layer that was put back with its block, whose output error rose by this share."""
    return replace(
        record, error_after=record.error_before, changed=False,
        details={**record.details, "undone": f"the block's error rose by {100 * rise:.3g} %"},
    )  # fmt: skip


def _held_out(batches: int, share: float) -> int:
    """How many batches are held out."""
    if not share:
        return 0
    if batches < 2:
        raise InputError(
            f"there are {batches} calibration batches: give at least 2, as one is held out to judge by"
        )
    return min(batches - 1, max(1, round(batches * share)))


def _change(
    state: PruneState,
    name: str,
    method: LayerMethod,
    evidence: PathEvidence | GroupedEvidence,
    keeps_budget: bool,
) -> LayerRecord:
    """Ask the method about one layer, and take its answer over."""
    layer, mask = state.layers[name], state.masks[name]
    energy = evidence.energy() or 1.0
    before = evidence.error(layer.weight) / energy
    started = time.perf_counter()
    change = method(name, layer.weight, mask, evidence)
    seconds = time.perf_counter() - started
    _check(name, mask, change, keeps_budget)
    changed = change.values is not None or change.mask is not None
    if changed:
        state.refit(name, change.values, change.mask)
    after = evidence.error(layer.weight) / energy if changed else before
    return LayerRecord(name, before, after, changed, seconds, dict(change.details))


def _check(name: str, mask: Tensor, change: LayerChange, keeps_budget: bool) -> None:
    """InputError unless a method's answer fits the layer."""
    new = mask if change.mask is None else change.mask
    if new.dtype != torch.bool or new.shape != mask.shape:
        raise InputError(
            f"layer {name!r}: the method gave a mask {new.dtype} {tuple(new.shape)}, it must be bool "
            f"{tuple(mask.shape)}"
        )
    if keeps_budget and int(new.sum()) != int(mask.sum()):
        raise InputError(
            f"layer {name!r}: the method keeps {int(new.sum())} weights, it must keep {int(mask.sum())}"
        )
    if change.values is not None:
        if change.values.shape != mask.shape:
            raise InputError(
                f"layer {name!r}: the method gave values {tuple(change.values.shape)}, they must be "
                f"{tuple(mask.shape)}"
            )
        if not bool(torch.isfinite(change.values[new]).all()):
            raise InputError(f"layer {name!r}: the method gave NaN or infinite values")


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


class _Walker:
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
            passed = self._inside[self._dense.at + 1 : stop]
            with self._state.dense([name for names in passed for name in names]):
                self._dense.advance(stop - 1)

    def judge(self, stop: int) -> Callable[[], float]:
        """Measures the mean square of what block `stop` gives, with the weights as they are, less what it
        should give, over the batches that errors are measured on; by the weights of the block, where there
        are any."""
        weights, block = self._weights, f"{self._stack}.{stop}"
        targets: dict[int, Tensor] = {}
        with self._state.dense(self._inside[stop]):
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
        """What is known of each of the layers that read the same tensor, at its turn."""
        layers, weights = self._state.layers, self._weights
        if weights is None:
            ((fit, held),) = self._moments(stop, layers[names[0]], calls)
            fit.check(names[0])
            for name in names:
                yield name, PathEvidence(self._state.original(name), fit, held)
            return
        for name in names:
            original, parts = self._state.original(name), []
            moments = self._moments(stop, layers[name], calls)
            for rows, (fit, held) in zip(weights.groups(name), moments, strict=True):
                fit.check(name)
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
        with self._state.dense(self._state.layers if stop is None else self._inside[stop]):
            found = path.inputs_of(i, wanted, stop)
        if fits:
            self._dense_inputs[i] = found
            self._dense_bytes += sum(x.nbytes for inputs in found.values() for x in inputs)
        return found[leader]
