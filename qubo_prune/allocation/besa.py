"""BESA (arXiv 2402.16880): how much to prune of each layer, learned block by block from the blocks' answers.

    allocation = allocate(layers, 0.5, Besa(), Observed(model, forward_of(model), batches))

One walk through the decoder blocks: a block's calls are caught behind the blocks already pruned, the rates of
its layers are learned (see `block_fit`), and its pruned answers go on to the next block. The model is not
changed, and only one block's inputs, targets and answers are held, beside the model; with `settings.device` a
copy of the block's weights, what is learned and kept for each of them (ranks, scores, masks) and one batch at
a time are all that is on that device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qubo_prune.allocation import alphapruning, fisher, owl, uniform
from qubo_prune.allocation.block_fit import BlockFit, LayerFit, Reconstruction, fit_block
from qubo_prune.allocation.evidence import Observed
from qubo_prune.allocation.optimisers import check_optimiser
from qubo_prune.allocation.projection import project_counts
from qubo_prune.allocation.result import Allocation
from qubo_prune.allocation_settings import AlphaPruning, Besa, Fisher, Owl
from qubo_prune.block_calls import Call, call_of, hidden
from qubo_prune.devices import usable_device
from qubo_prune.errors import InputError
from qubo_prune.initial import magnitude, wanda
from qubo_prune.layers import Layer, block_stack, check_group
from qubo_prune.prefix import Blocks
from qubo_prune.quantisation import quantise
from qubo_prune.resident import Resident
from qubo_prune.statistics.gram import MomentHooks
from qubo_prune.statistics.tape import frozen

OnLayer = Callable[[int, int], None]


def allocate(
    layers: Mapping[str, Layer],
    sparsity: float,
    settings: Besa,
    observed: Observed,
    on_layer: OnLayer | None = None,
) -> Allocation:
    """How many weights to prune in each layer (or of each row); the total is `prune_count` of all together.

    A block's total is that of `settings.between`; layers outside the blocks keep the count that it gives
    them, and are rounded to nearest where weights are quantised. Allocation.values has the dequantised
    weights, Allocation.details the errors of every block and the grids. Deterministic.
    InputError: as for `check`; a model without blocks that follow one another, a layer that sees no input.
    """
    check(layers, sparsity, settings)
    modules, inside = _blocks(observed, layers)
    between = _between(layers, sparsity, settings, observed)
    if settings.per == "row":
        for name, names in inside.items():
            _check_rows(name, [layers[layer] for layer in names], sum(between[n] for n in names), settings)
    found: dict[str, LayerFit] = {}
    records: list[dict[str, Any]] = []
    with frozen(observed.model), torch.no_grad():
        path = _Paths(Blocks(observed.forward, modules), modules, observed.batches, settings)
        last = max(at for at, names in enumerate(inside.values()) if names)
        for at, (name, names) in enumerate(list(inside.items())[: last + 1]):
            own = {layer.removeprefix(f"{name}.") + ".weight": layers[layer] for layer in names}
            counts = {key: between[layer.name] for key, layer in own.items()}
            fit = path.fit(at, own, counts)
            if fit is None:
                continue
            found |= {own[key].name: chosen for key, chosen in fit.layers.items()}
            records.append(_record(name, fit, sum(counts.values()), own))
            if on_layer is not None:
                on_layer(len(found), len(layers))
    sizes = {name: layer.numel for name, layer in layers.items()}
    grids = settings.quantise
    values: dict[str, Tensor] = {}
    if grids is not None:
        for name, layer in layers.items():
            learned = found[name].values if name in found else None
            values[name] = quantise(layer.weight, grids.bits, grids.group) if learned is None else learned
    return Allocation(
        "besa",
        {name: found[name].count if name in found else between[name] for name in layers},
        sizes,
        seen={name: {"learned_rate": found[name].rate if name in found else between[name] / sizes[name]}
              for name in layers},
        rows={name: rows for name, fit in found.items() if (rows := fit.rows) is not None},
        values=values,
        norms={name: layer.norm() for name, layer in layers.items()} if values else {},
        details={"blocks": records} | ({} if grids is None else {"quantisation": grids.model_dump()}),
    )  # fmt: skip


def check(layers: Mapping[str, Layer], sparsity: float, settings: Besa) -> None:
    """What can be refused without data. InputError: bounds, a group, an optimiser that does not fit."""
    check_optimiser(settings.optimiser)
    if settings.device is not None:
        usable_device(settings.device, "allocation.device")
    between = settings.between
    if isinstance(between, AlphaPruning):
        alphapruning.check(layers, sparsity, between)
    elif isinstance(between, Owl):
        owl.check(layers, sparsity, between)
    elif isinstance(between, Fisher):
        fisher.check(layers, sparsity, between)
    if settings.per == "row":
        sizes = [inputs for out, inputs in (layer.shape for layer in layers.values()) for _ in range(out)]
    else:
        sizes = [layer.numel for layer in layers.values()]
    total = sum(uniform.allocate(layers, sparsity).values())
    project_counts(sizes, [sparsity] * len(sizes), total, floor=settings.floor, ceiling=settings.ceiling)
    if settings.quantise is not None:
        check_group(layers, settings.quantise.group, "allocation.quantise.group")


def _between(
    layers: Mapping[str, Layer], sparsity: float, settings: Besa, observed: Observed
) -> dict[str, int]:
    """Layer -> weights to prune by the rule that shares out the budget between blocks, within the bounds."""
    between = settings.between
    if isinstance(between, AlphaPruning):
        counts = alphapruning.allocate(layers, sparsity, between).counts
    elif isinstance(between, Owl):
        counts = owl.allocate(layers, sparsity, between, observed).counts
    elif isinstance(between, Fisher):
        counts = fisher.allocate(layers, sparsity, between, observed).counts
    else:
        counts = uniform.allocate(layers, sparsity)
    sizes = [layer.numel for layer in layers.values()]
    rates = [counts[name] / layer.numel for name, layer in layers.items()]
    bounded = project_counts(
        sizes, rates, sum(counts.values()), floor=settings.floor, ceiling=settings.ceiling
    )
    return dict(zip(layers, bounded.tolist(), strict=True))


def _check_rows(name: str, layers: Sequence[Layer], total: int, settings: Besa) -> None:
    """InputError: whole numbers of weights within the bounds of each row do not reach a block's total."""
    sizes = [inputs for out, inputs in (layer.shape for layer in layers) for _ in range(out)]
    if sizes:
        project_counts(sizes, [total / sum(sizes)] * len(sizes), total, floor=settings.floor,
                       ceiling=settings.ceiling, what=f"the rows of block {name}")  # fmt: skip


def _blocks(observed: Observed, layers: Mapping[str, Layer]) -> tuple[list[nn.Module], dict[str, list[str]]]:
    """The blocks, and the name of each -> its layers among those to prune."""
    found = block_stack(observed.model)
    modules = [] if found is None else list(found[1])
    if found is None or not modules:
        raise InputError(
            f"{type(observed.model).__name__} has no stack of blocks, which besa learns one by one: choose "
            "another allocation."
        )
    with torch.no_grad(), frozen(observed.model):
        if not Blocks(observed.forward, modules).in_order(observed.batches[0]):
            raise InputError(
                f"the blocks of {type(observed.model).__name__} are not called one after another, as besa "
                "needs: choose another allocation."
            )
    names = [f"{found[0]}.{i}" for i in range(len(modules))]
    inside = {name: [layer for layer in layers if layer.startswith(f"{name}.")] for name in names}
    if not any(inside.values()):
        raise InputError("none of the layers to prune is in a block, where besa learns: choose another "
                         "allocation.")  # fmt: skip
    return modules, inside


def _record(name: str, fit: BlockFit, total: int, layers: Mapping[str, Layer]) -> dict[str, Any]:
    """A block's line of the report."""
    size = sum(layer.numel for layer in layers.values())
    rate = sum(layer.numel * fit.layers[key].rate for key, layer in layers.items()) / size
    return {
        "block": name,
        "target_rate": total / size,
        "learned_rate": rate,
        "error_start": fit.error_start,
        "error_learned": fit.error_learned,
        "taken": "learned" if fit.learned else "start",
        "seconds": fit.seconds,
    }


class _Paths:
    """The answers of the block before, for every batch: behind pruned blocks, and in the dense model."""

    def __init__(
        self, blocks: Blocks, modules: Sequence[nn.Module], batches: Sequence[Any], settings: Besa
    ) -> None:
        self._blocks, self._modules, self._batches, self._settings = blocks, modules, batches, settings
        self._device = None if settings.device is None else usable_device(settings.device)
        self._given: list[Any] = [None] * len(batches)
        self._dense: list[Any] | None = [None] * len(batches) if settings.target == "dense_path" else None

    def fit(self, at: int, layers: Mapping[str, Layer], counts: Mapping[str, int]) -> BlockFit | None:
        """Learn block `at`, and go on to its answers; None where it has no layer to prune."""
        block = Resident(self._modules[at], self._device)
        calls = self._calls(at, self._given)
        self._given = []  # the calls have copies
        if not layers and self._dense is None:
            self._given = self._answers(block, calls)
            return None
        with MomentHooks(layers, diagonal=True) as hooks:
            answers = self._answers(block, calls)
        if self._dense is not None:
            self._dense = self._answers(block, self._calls(at, self._dense))
        if not layers:
            self._given = answers
            return None
        moments = hooks.moments
        scores = {
            key: magnitude.scores(layer) if self._settings.importance == "magnitude"
            else wanda.scores(layer, moments.norm(key))
            for key, layer in layers.items()
        }  # fmt: skip
        targets = [hidden(answer) for answer in (answers if self._dense is None else self._dense)]
        del answers  # on the dense path they are no targets
        fit = fit_block(Reconstruction(block, calls, targets), layers, scores, counts, self._settings)
        self._given = fit.answers
        return fit

    def _answers(self, block: Resident, calls: Sequence[Call]) -> list[Any]:
        """The dense block's output to every call."""
        return [block.back(block.run(call)) for call in calls]

    def _calls(self, at: int, given: Sequence[Any]) -> list[Call]:
        """What block `at` is called with for every batch."""
        return [
            call_of(self._blocks, self._modules, batch, at, before)
            for batch, before in zip(self._batches, given, strict=True)
        ]
