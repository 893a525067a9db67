"""How much to prune in each layer: one file a rule, each giving whole numbers with an exact total.

`allocate` is the way to use them: METHODS has a line for each rule. A rule is a function of the layers, the
sparsity and its settings, and gives an `Allocation`.
"""

from collections.abc import Callable, Mapping

import torch

from qubo_prune.allocation import alphapruning, besa, fisher, given, owl, uniform
from qubo_prune.allocation.evidence import Observed, needed
from qubo_prune.allocation.result import Allocation
from qubo_prune.allocation_file import is_stored, read
from qubo_prune.allocation_settings import AllocationSettings, AlphaPruning, Besa, Fisher, Given, Owl
from qubo_prune.errors import InputError
from qubo_prune.layers import Layer
from qubo_prune.products import quick_products
from qubo_prune.selection import check_rows, prune_count

__all__ = ["METHODS", "Allocation", "Observed", "OnLayer", "allocate", "check_allocation", "check_found"]

OnLayer = Callable[[int, int], None]
"""Told (done, of) after each layer that was looked at."""
Method = Callable[[Mapping[str, Layer], float, AllocationSettings, OnLayer | None], Allocation]


_SAME = 1e-5
"""Relative difference of norms up to which weights count as the same."""


def _uniform(
    layers: Mapping[str, Layer], sparsity: float, settings: AllocationSettings, on_layer: OnLayer | None
) -> Allocation:
    sizes = {name: layer.numel for name, layer in layers.items()}
    return Allocation("uniform", uniform.allocate(layers, sparsity), sizes)


def _given(
    layers: Mapping[str, Layer], sparsity: float, settings: AllocationSettings, on_layer: OnLayer | None
) -> Allocation:
    assert isinstance(settings, Given)
    rates, group = settings.rates or {}, settings.group
    if settings.file is not None and is_stored(settings.file):
        if settings.rescale or group is not None:
            raise InputError(f"{settings.file!r} is a whole allocation: leave rescale and group out.")
        whole = read(settings.file)
        check_found(layers, sparsity, whole)
        return whole
    if settings.file is not None:
        found = given.read_rates(settings.file)
        if group is not None and found.group not in (None, group):
            raise InputError(
                f"allocation.group is {group}, and {settings.file!r} has patterns of {found.group}."
            )
        group = found.group if group is None else group
        weights = sum(layer.numel for layer in layers.values())
        if found.total_weights not in (None, weights) and not settings.rescale:
            raise InputError(
                f"{settings.file!r} has rates of layers with {found.total_weights:,} weights, and those to "
                f"prune have {weights:,}: find rates for this model, or set allocation.rescale to true."
            )
        rates = found.rates
    return given.allocate(layers, sparsity, rates, rescale=settings.rescale, group=group)


METHODS: dict[str, Method] = {"uniform": _uniform, "given": _given}
"""The rules that look at nothing but sizes, by name."""


@quick_products()
def allocate(
    layers: Mapping[str, Layer],
    sparsity: float,
    settings: AllocationSettings,
    *,
    on_layer: OnLayer | None = None,
    observed: Observed | None = None,
) -> Allocation:
    """How many weights to prune in each layer, by the rule that `settings.method` names.

    The total is `prune_count` of all weights together; with a pattern N:M, as near to it as that allows.
    Weights are not changed. observed: what owl, fisher and besa look at. A rule's `search` is left to
    `allocation.search`. InputError: as the rule's own function says.
    """
    if isinstance(settings, AlphaPruning):
        found = None if observed is None else observed.spectra
        if found is None:
            found = alphapruning.spectra(
                layers, tail=settings.tail, published_peak=settings.published_peak, on_layer=on_layer
            )
        return alphapruning.allocate(layers, sparsity, settings, found)
    if isinstance(settings, Owl):
        return owl.allocate(layers, sparsity, settings, needed(observed, "owl"), on_layer)
    if isinstance(settings, Fisher):
        return fisher.allocate(layers, sparsity, settings, needed(observed, "fisher"), on_layer)
    if isinstance(settings, Besa):
        return besa.allocate(layers, sparsity, settings, needed(observed, "besa"), on_layer)
    return METHODS[settings.method](layers, sparsity, settings, on_layer)


def check_allocation(layers: Mapping[str, Layer], sparsity: float, settings: AllocationSettings) -> None:
    """What can be refused without looking at the weights. InputError: as for `allocate`."""
    if isinstance(settings, AlphaPruning):
        alphapruning.check(layers, sparsity, settings)
    elif isinstance(settings, Owl):
        owl.check(layers, sparsity, settings)
    elif isinstance(settings, Fisher):
        fisher.check(layers, sparsity, settings)
    elif isinstance(settings, Besa):
        besa.check(layers, sparsity, settings)
    else:
        allocate(layers, sparsity, settings)


def check_found(layers: Mapping[str, Layer], sparsity: float, found: Allocation) -> None:
    """That an allocation from elsewhere is one of these layers at this sparsity, and its values were made
    from these weights, in whatever dtype. InputError: it is not."""
    sizes = {name: layer.numel for name, layer in layers.items()}
    if found.sizes != sizes or found.counts.keys() != sizes.keys():
        raise InputError("allocation: it is of other layers than those to prune: find one for this model.")
    wanted, total = prune_count(sum(sizes.values()), sparsity), sum(found.counts.values())
    if found.group is None and total != wanted:
        share = total / sum(sizes.values())
        raise InputError(
            f"allocation: it prunes {total:,} weights, and sparsity {sparsity} is {wanted:,}: set sparsity "
            f"to {share:.6g}, or find an allocation for this one."
        )
    for name, count in found.counts.items():
        if not 0 <= count <= sizes[name]:
            raise InputError(f"allocation: it prunes {count} of the {sizes[name]} weights of layer {name!r}.")
        group, inputs = found.group, layers[name].shape[1]
        if group is not None and (inputs % group or count * group % sizes[name]):
            raise InputError(
                f"allocation: it prunes {count} weights of layer {name!r}, which has {inputs} inputs: that "
                f"is not the same number of each {group}."
            )
    if strange := (found.rows.keys() | found.values.keys() | found.norms.keys()) - sizes.keys():
        raise InputError(f"allocation: {min(strange)!r} is not one of the layers to prune.")
    for name, values in found.values.items():
        if values.shape != layers[name].shape or not bool(torch.isfinite(values).all()):
            raise InputError(
                f"allocation: the values of layer {name!r} are of shape {tuple(values.shape)} or not finite; "
                f"they must be finite, of shape {tuple(layers[name].shape)}."
            )
    for name, norm in found.norms.items():
        if abs(layers[name].norm() - norm) > _SAME * norm:
            raise InputError(
                f"allocation: its values of layer {name!r} were made from other weights than this model has: "
                "find an allocation for this model."
            )
    for name, rows in found.rows.items():
        check_rows(rows, layers[name].weight, f"allocation of layer {name!r}", found.counts[name])
