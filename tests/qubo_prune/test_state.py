"""Weights follow masks to the bit: flips and their undoing, the dense model in between, Ctrl-C held back."""

import signal
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from qubo_prune.initial import initial_masks
from qubo_prune.layers import Layer, prunable_layers
from qubo_prune.masks import verify
from qubo_prune.state import PruneState, uninterrupted
from qubo_prune.testing import TINY_MODELS, tiny_mlp


def bits(state: PruneState) -> dict[str, Tensor]:
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return {
        name: layer.weight.contiguous().view(integers[layer.weight.element_size()]).clone()
        for name, layer in state.layers.items()
    }


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def pruned(family: str = "gpt2", dtype: torch.dtype = torch.float32) -> tuple[nn.Module, PruneState]:
    """Half of the weights pruned, negative zeros among kept and pruned ones."""
    model = TINY_MODELS[family]().to(dtype)
    layers = prunable_layers(model)
    for layer in layers.values():
        layer.weight[::3, ::2] = -0.0
    return model, PruneState(model, layers, initial_masks("random", layers, 0.5))


def some(layers: dict[str, Layer], share: float, seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randperm(la.numel, generator=g)[: int(la.numel * share)] for n, la in layers.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_flips_are_undone_to_the_bit(family: str, dtype: torch.dtype) -> None:
    _, state = pruned(family, dtype)
    before, masks = bits(state), {name: mask.clone() for name, mask in state.masks.items()}
    flips = some(state.layers, 0.3, 0)
    state.flip(flips)
    verify(state.layers, state.masks, state.kept_values)
    for name, index in flips.items():
        changed = torch.zeros(state.layers[name].numel, dtype=torch.bool)
        changed[index] = True
        assert torch.equal((state.masks[name] ^ masks[name]).reshape(-1), changed)
    state.flip(flips)
    assert same(bits(state), before)
    assert same(state.masks, masks)


def test_pruned_weights_are_positive_zeros_and_kept_ones_keep_their_sign() -> None:
    _, state = pruned()
    for name, layer in state.layers.items():
        zeros = layer.weight == 0
        assert not torch.signbit(layer.weight[~state.masks[name]]).any()
        assert torch.signbit(layer.weight[zeros & state.masks[name]]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_restore_dense_to_the_bit(dtype: torch.dtype) -> None:
    model = TINY_MODELS["gpt2"]().to(dtype)
    layers = prunable_layers(model)
    for layer in layers.values():
        layer.weight[0, 0] = -0.0
    dense = bits(PruneState(model, layers))
    state = PruneState(model, layers, initial_masks("magnitude", layers, 0.5))
    assert not same(bits(state), dense)
    state.flip(some(layers, 0.2, 1))
    pruned_bits = bits(state)
    with state.dense():
        assert same(bits(state), dense)
    assert same(bits(state), pruned_bits)
    with pytest.raises(RuntimeError), state.dense():
        raise RuntimeError
    assert same(bits(state), pruned_bits)
    state.restore_dense()
    assert same(bits(state), dense)
    assert sum(state.pruned_counts().values()) == 0


def test_masks_given_are_copied() -> None:
    model = tiny_mlp()
    layers = prunable_layers(model)
    masks = initial_masks("magnitude", layers, 0.5)
    state = PruneState(model, layers, masks)
    state.flip({"0": torch.arange(5)})
    assert not torch.equal(state.masks["0"], masks["0"])


@given(seed=st.integers(0, 1000), share=st.floats(0, 1))
def test_assign_comes_back_whether_or_not_the_flip_was_made(seed: int, share: float) -> None:
    model = tiny_mlp()
    layers = prunable_layers(model)
    state = PruneState(model, layers, initial_masks("random", layers, 0.5))
    before = bits(state)
    flips = some(layers, share, seed)
    kept = state.kept_at(flips)
    state.assign(flips, kept)
    assert same(bits(state), before)
    state.flip(flips)
    state.assign(flips, kept)
    state.assign(flips, kept)
    assert same(bits(state), before)
    verify(layers, state.masks, state.kept_values)


def test_interrupts_wait_for_the_end_of_a_flip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C inside a flip: all of it is done, then the interrupt is raised."""
    _, state = pruned()
    flips = some(state.layers, 0.2, 0)
    wanted = {name: ~kept for name, kept in state.kept_at(flips).items()}
    where: Callable[..., Tensor] = torch.where
    calls = 0

    def interrupted(*args: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            signal.raise_signal(signal.SIGINT)
        return where(*args)

    monkeypatch.setattr(torch, "where", interrupted)
    with pytest.raises(KeyboardInterrupt):
        state.flip(flips)
    assert calls == len(state.layers)
    assert same(state.kept_at(flips), wanted)
    verify(state.layers, state.masks, state.kept_values)


def test_uninterrupted_leaves_the_handler_as_it_was() -> None:
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(ValueError, match="inside"), uninterrupted():
        raise ValueError("inside")
    assert signal.getsignal(signal.SIGINT) is before
    seen = []
    signal.signal(signal.SIGINT, lambda *_: seen.append(1))
    try:
        with uninterrupted():
            signal.raise_signal(signal.SIGINT)
            assert not seen
        assert seen == [1]
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_may_flip() -> None:
    _, state = pruned()
    before = bits(state)
    flips = some(state.layers, 0.2, 0)
    errors: list[BaseException] = []

    def work() -> None:
        try:
            state.flip(flips)
            state.flip(flips)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
    assert same(bits(state), before)


def test_weights_shared_by_two_modules_stay_shared() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    layers = prunable_layers(model)
    state = PruneState(model, layers, initial_masks("magnitude", layers, 0.5))
    assert model[1].weight is model[0].weight
    assert int((model[1].weight == 0).sum()) == 8
    state.flip({"0": torch.arange(16)})
    assert int((model[1].weight == 0).sum()) == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_refitted_weights_and_the_way_back(family: str, dtype: torch.dtype) -> None:
    model = TINY_MODELS[family]().to(dtype)
    layers = prunable_layers(model)
    dense = bits(PruneState(model, layers))
    state = PruneState(model, layers, initial_masks("magnitude", layers, 0.5))
    first, second, third = list(layers)[:3]
    before, saved = bits(state), state.saved()
    values = torch.randn(layers[first].shape)
    state.refit(first, values)
    keep = state.masks[first]
    assert torch.equal(layers[first].weight, torch.where(keep, values.to(dtype), 0.0))
    turned = ~state.masks[second]
    state.refit(second, mask=turned)
    assert state.masks[second] is not turned
    assert torch.equal(layers[second].weight, torch.where(turned, state.original(second), 0.0))
    state.refit(third, torch.zeros(layers[third].shape), ~state.masks[third])
    verify(layers, state.masks, state.kept_values)
    assert same({n: b for n, b in bits(state).items() if n not in (first, second, third)},
                {n: b for n, b in before.items() if n not in (first, second, third)})  # fmt: skip
    # a pruned weight returns with the value it had when it was last kept, here the original one
    state.flip({first: (~keep).reshape(-1).nonzero().reshape(-1)})
    assert torch.equal(layers[first].weight[~keep], state.original(first)[~keep])
    state.flip({first: (~keep).reshape(-1).nonzero().reshape(-1)})
    refitted = bits(state)
    with state.dense():
        assert same(bits(state), dense)
    with state.dense([first]):
        now = bits(state)
        assert torch.equal(now[first], dense[first])
        assert same(now | {first: refitted[first]}, refitted)
    assert same(bits(state), refitted)
    state.refit(first, values * 2)
    state.restore(saved)
    assert same(bits(state), before)
    verify(layers, state.masks, state.kept_values)
    state.refit(first, values)
    state.restore_dense()
    assert same(bits(state), dense)
    assert torch.equal(state.kept_values[first], state.original(first))
