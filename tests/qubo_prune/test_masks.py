"""Applying, counting, checking and packing masks."""

import pytest
import torch

from qubo_prune.errors import InputError, MaskMismatch
from qubo_prune.layers import prunable_layers
from qubo_prune.masks import apply, density, keep_topk, pack, snapshot, unpack, verify
from qubo_prune.testing import TINY_MODELS, tiny_llama


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_apply_verify_restore(family: str, dtype: torch.dtype) -> None:
    model = TINY_MODELS[family]().to(dtype)
    layers = prunable_layers(model)
    before = snapshot(layers)
    masks = {name: keep_topk(layer.weight.abs(), layer.numel // 2) for name, layer in layers.items()}
    apply(layers, masks)
    verify(layers, masks, before)
    other = {name: ~mask for name, mask in masks.items()}
    with pytest.raises(MaskMismatch, match="pruned in the mask but not zero"):
        verify(layers, other)
    apply(layers, other, before)
    verify(layers, other, before)
    apply(layers, {name: torch.ones_like(mask) for name, mask in masks.items()}, before)
    assert all(torch.equal(layers[name].weight, before[name]) for name in layers)


def test_verify_sees_one_changed_bit() -> None:
    layers = prunable_layers(tiny_llama())
    name, layer = next(iter(layers.items()))
    before = snapshot(layers)
    masks = {name: torch.ones(layer.shape, dtype=torch.bool)}
    layer.weight[3, 3] = torch.nextafter(layer.weight[3, 3], torch.tensor(10.0))
    with pytest.raises(MaskMismatch, match="1 kept weights differ"):
        verify(layers, masks, before)


def test_pruning_an_infinite_weight_gives_zero() -> None:
    layers = prunable_layers(tiny_llama())
    name, layer = next(iter(layers.items()))
    layer.weight[0, 0] = torch.inf
    mask = torch.ones(layer.shape, dtype=torch.bool)
    mask[0, 0] = False
    apply(layers, {name: mask})
    assert layer.weight[0, 0] == 0


def test_misfits_change_nothing() -> None:
    layers = prunable_layers(tiny_llama())
    before = snapshot(layers)
    name = next(iter(layers))
    good = torch.zeros(layers[name].shape, dtype=torch.bool)
    for masks, message in (
        ({name: good, "nope": good}, "no such layer"),
        ({name: good.to(torch.uint8)}, "must be bool"),
        ({name: good[1:]}, "must be bool"),
    ):
        with pytest.raises(InputError, match=message):
            apply(layers, masks)
    with pytest.raises(InputError, match="no original weights"):
        apply(layers, {name: good}, {})
    with pytest.raises(InputError, match="originals of layer"):
        apply(layers, {name: good}, {name: torch.zeros(1, 1)})
    verify(layers, {n: torch.ones(layer.shape, dtype=torch.bool) for n, layer in layers.items()}, before)


def test_density_counts_the_masks() -> None:
    masks = {"a": torch.tensor([[True, False]]), "b": torch.ones(2, 3, dtype=torch.bool)}
    found = density(masks)
    assert (found.kept, found.total, found.density, found.sparsity) == (7, 8, 0.875, 0.125)
    assert found.of("a") == 0.5
    with pytest.raises(InputError):
        density({})


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (5, 13)])
def test_packing_round_trip(shape: tuple[int, int]) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = pack(mask)
    assert packed.shape == (shape[0], -(-shape[1] // 8))
    assert torch.equal(unpack(packed, shape), mask)
    with pytest.raises(InputError, match="does not hold"):
        unpack(packed, (shape[0] + 1, shape[1]))
