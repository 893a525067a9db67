"""Masks of kept weights: applying them, counting them and checking that weights and masks agree, to the
weight.

A mask is a bool tensor (out, in), True = KEPT; `Masks` holds one for each layer by name.
`qubo_prune.selection` makes masks from scores, `qubo_prune.mask_file` stores them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qubo_prune.errors import InputError, MaskMismatch
from qubo_prune.layers import Layer
from qubo_prune.selection import keep_topk, keep_topk_global, nm_mask, prune_count

__all__ = [
    "Density",
    "Masks",
    "apply",
    "check_masks",
    "density",
    "keep_topk",
    "keep_topk_global",
    "nm_mask",
    "pack",
    "prune_count",
    "snapshot",
    "unpack",
    "verify",
]

Masks = dict[str, Tensor]
"""Layer name -> bool (out, in), True = kept."""

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class Density:
    """What masks keep, counted in the masks (a kept weight may still be zero)."""

    kept: int
    total: int
    layers: dict[str, tuple[int, int]]
    """Layer name -> (kept, total)."""

    @property
    def density(self) -> float:
        """Kept over total."""
        return self.kept / self.total

    @property
    def sparsity(self) -> float:
        """Pruned over total."""
        return (self.total - self.kept) / self.total

    def of(self, name: str) -> float:
        """The density of one layer."""
        kept, total = self.layers[name]
        return kept / total


def density(masks: Mapping[str, Tensor]) -> Density:
    """The density of each layer and of all together, counted in the masks. InputError: no masks."""
    if not masks:
        raise InputError("density: there are no masks to count.")
    layers = {name: (int(mask.count_nonzero()), mask.numel()) for name, mask in masks.items()}
    return Density(sum(k for k, _ in layers.values()), sum(t for _, t in layers.values()), layers)


def check_masks(layers: Mapping[str, Layer], masks: Mapping[str, Tensor]) -> None:
    """InputError unless every mask is a bool tensor of the shape of a layer of its name."""
    for name, mask in masks.items():
        if name not in layers:
            raise InputError(f"mask {name!r}: there is no such layer among the {len(layers)} given.")
        if mask.dtype != torch.bool or tuple(mask.shape) != layers[name].shape:
            raise InputError(
                f"mask {name!r} is {mask.dtype} {tuple(mask.shape)}: it must be bool {layers[name].shape}."
            )


def _check_originals(
    layers: Mapping[str, Layer], masks: Mapping[str, Tensor], originals: Mapping[str, Tensor]
) -> None:
    """InputError unless there is an original of the right shape for every mask."""
    for name in masks:
        if name not in originals:
            raise InputError(
                f"originals: layer {name!r} has a mask but no original weights; give them all or none."
            )
        if tuple(originals[name].shape) != layers[name].shape:
            shape = tuple(originals[name].shape)
            raise InputError(f"originals of layer {name!r} are {shape}: they must be {layers[name].shape}.")


def snapshot(layers: Mapping[str, Layer], *, device: str | torch.device | None = None) -> dict[str, Tensor]:
    """Copies (out, in) of the layers' weights, on `device` (default: where each is), for `apply`."""
    return {name: layer.weight.to(device or layer.weight.device, copy=True) for name, layer in layers.items()}


def apply(
    layers: Mapping[str, Layer], masks: Mapping[str, Tensor], originals: Mapping[str, Tensor] | None = None
) -> None:
    """Set every pruned weight to zero, in place; with `originals`, also give every kept weight its original
    value.

    Without originals kept weights stay as they are, so a weight pruned earlier stays zero. Layers without a
    mask are not touched. InputError (before any weight changes): names, shapes or dtypes that do not fit.
    """
    check_masks(layers, masks)
    if originals is not None:
        _check_originals(layers, masks, originals)
    with torch.no_grad():
        for name, mask in masks.items():
            weight = layers[name].weight
            if originals is not None:
                weight.copy_(originals[name])
            weight.masked_fill_(~mask.to(weight.device), 0)


def verify(
    layers: Mapping[str, Layer], masks: Mapping[str, Tensor], originals: Mapping[str, Tensor] | None = None
) -> None:
    """Check that every pruned weight is zero and, with `originals`, that every kept one is bit-identical to
    its own.

    A kept weight may be zero. MaskMismatch: the first layer that disagrees, and by how many weights.
    InputError: names, shapes or dtypes that do not fit.
    """
    check_masks(layers, masks)
    if originals is not None:
        _check_originals(layers, masks, originals)
    for name, mask in masks.items():
        weight = layers[name].weight
        kept = mask.to(weight.device)
        wrong = int(((weight != 0) & ~kept).count_nonzero())
        if wrong:
            raise MaskMismatch(
                f"layer {name!r}: {wrong} weights are pruned in the mask but not zero; apply the mask."
            )
        if originals is not None:
            changed = (_bits(weight) != _bits(originals[name].to(weight))) & kept
            if wrong := int(changed.count_nonzero()):
                raise MaskMismatch(f"layer {name!r}: {wrong} kept weights differ from the original weights.")


def _bits(weight: Tensor) -> Tensor:
    """The bits of floating-point weights as integers of the same width."""
    return weight.contiguous().view(_INTEGERS[weight.element_size()])


def pack(mask: Tensor) -> Tensor:
    """uint8 (out, ceil(in / 8)) on the CPU: each row's bits, high bit first, padded with zeros."""
    return torch.from_numpy(np.packbits(mask.cpu().numpy(), axis=1))


def unpack(packed: Tensor, shape: tuple[int, int]) -> Tensor:
    """The bool (out, in) mask of a packed one. InputError: it is not the packing of a mask of this shape."""
    out, inputs = shape
    if packed.dtype != torch.uint8 or tuple(packed.shape) != (out, -(-inputs // 8)):
        raise InputError(
            f"packed mask is {packed.dtype} {tuple(packed.shape)}: it does not hold a mask of {shape}."
        )
    return torch.from_numpy(np.unpackbits(packed.cpu().numpy(), axis=1, count=inputs).astype(bool))
