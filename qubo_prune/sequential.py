"""Walk the blocks of a model once, front to back: moments of each layer's inputs behind the layers already
changed, then a layer-wise method, then on with the new weights.

    records = walk(state, forward_of(model), batches, LeastSquares(), held_out=0.25)

After SparseGPT (arXiv 2301.00774), whose published code has a sequence of layers for each family of models;
here layers go together that read the same tensor, in the order in which they are called.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_prune.layerwise import LayerChange, LayerMethod
from qubo_prune.prefix import Run
from qubo_prune.state import PruneState
from qubo_prune.statistics.output_weights import OutputWeights
from qubo_prune.statistics.paths import PathEvidence
from qubo_prune.statistics.row_groups import GroupedEvidence
from qubo_prune.statistics.tape import frozen
from qubo_prune.walker import Walker


@dataclass(frozen=True)
class LayerRecord:
    """What became of one layer.

    error_before, error_after  E|W x - T x_t|^2 / E|T x|^2 over the held-out batches (see
                               `layerwise.LayerEvidence`), with x behind the layers changed before this one;
                               with output weights both sums over rows are by their prices
    changed                    whether the method answered with values or a mask; it is not asked about a
                               layer that only held-out batches reach (an expert)
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
    own: int = 0,
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
    own       so many batches, the first ones, are the model's own text: none of them is held out, nor do
              they count for the share
    keeps_budget  refuse a mask with another number of pruned weights than the one before
    by_block  a block's layers are put back, and their records say "undone", unless the error of the block's
              output over the held-out batches falls: its squared distance from what the original weights of
              the block give at its present input, or (blended) in the dense model
    weights   what errors of outputs cost the end loss, collected on the same batches: moments, errors and the
              errors of blocks are weighted by them; None: all positions and outputs count alike
    on_layer  called after each layer

    Memory: the output of one block for all batches (with blend two, and up to `walker.DENSE_BYTES` of
    inputs), in the model's dtype, and for one group of layers the sums of moments: up to 3 * 8 * in^2 bytes,
    twice with held-out batches; with weights for one layer, times its groups of channels, at the cost of a
    pass for each layer. Layers outside the blocks come last, each group at the cost of passes through the
    whole model; so does every layer of a model without blocks, or which does not call them one after another.

    InputError: nothing to hold out, a layer that saw no input or none that is finite, or whose inputs differ
    in number on the two paths or from what the weights were collected at, an answer of the method that does
    not fit. Layers changed before stay changed, as they do on Ctrl-C (but with by_block those of a block that
    was not judged yet): `PruneState.saved` first where that is not wanted.
    """
    held = held_out_of(len(batches) - own, held_out)
    records: list[LayerRecord] = []
    with frozen(state.model):
        walker = Walker(state, forward, batches, len(batches) - held, blend, weights)
        for stop, layers in walker.stages:
            walker.go_to(stop)
            first = len(records)
            judge = walker.judge(stop) if by_block and stop is not None else None
            saved = state.saved() if judge is not None else None
            before = judge() if judge is not None else 0.0
            try:
                for names, calls in walker.groups(stop, layers).values():
                    for name, evidence in walker.evidence(stop, names, calls):
                        records.append(_change(state, name, method, evidence, keeps_budget))
                        if on_layer is not None:
                            on_layer(records[-1])
                if judge is None or saved is None or not any(r.changed for r in records[first:]):
                    continue
                after = judge()
            except BaseException:
                if saved is not None:
                    state.restore(saved)
                raise
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


def held_out_of(batches: int, share: float) -> int:
    """How many batches are held out. InputError: there are too few."""
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
    if not evidence.tokens:
        return LayerRecord(name, before, before, False, 0.0, {"left": "only held-out batches reach it"})
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
