"""Parts of a forward pass against the whole one: outputs, inputs, shared inputs; no hook is left behind."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from qubo_prune.forward import forward_of
from qubo_prune.layers import block_stack, prunable_layers
from qubo_prune.prefix import Blocks, mapped
from qubo_prune.testing import TINY_MODELS, tiny_llama, tiny_mlp, tiny_tokens


def blocks_of(model: nn.Module) -> Blocks:
    found = block_stack(model)
    assert found is not None
    return Blocks(forward_of(model), list(found[1]))


def untouched(model: nn.Module) -> bool:
    return not any(
        m._forward_pre_hooks or m._forward_hooks or "forward" in m.__dict__ for m in model.modules()
    )


@pytest.mark.parametrize("family", TINY_MODELS)
def test_a_pass_from_the_middle_sees_what_the_whole_pass_sees(family: str) -> None:
    model = TINY_MODELS[family]()
    layers = prunable_layers(model)
    batch = tiny_tokens(2 * 20).reshape(2, 20)
    blocks = blocks_of(model)
    assert blocks.in_order(batch)
    seen: dict[str, Tensor] = {}
    handles = [
        layer.module.register_forward_pre_hook(
            lambda module, args, name=name: seen.__setitem__(name, args[0].detach().clone())
        )
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        model(batch)
    for handle in handles:
        handle.remove()
    first = blocks.run(batch, stop=0)
    second = blocks.run(batch, stop=1)
    again = blocks.run(batch, start=0, given=first, stop=1)
    hidden, expected = (o if isinstance(o, Tensor) else o[0] for o in (again, second))
    assert torch.equal(hidden, expected)
    assert not hidden.requires_grad
    half = len(layers) // 2
    for name, layer in list(layers.items())[half:]:
        (x,) = blocks.inputs(batch, layer, 1, stop=1, start=0, given=first)
        assert torch.equal(x, seen[name])
    assert untouched(model)


def test_layers_that_read_the_same_tensor_go_together() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    blocks, batch = blocks_of(model), tiny_tokens(20)[None]
    given = blocks.run(batch, stop=0)
    groups = blocks.groups(batch, layers, stop=1, start=0, given=given)
    short = [([name.split(".")[-1] for name in names], calls) for names, calls in groups.values()]
    assert short == [
        (["q_proj", "k_proj", "v_proj"], 1),
        (["o_proj"], 1),
        (["gate_proj", "up_proj"], 1),
        (["down_proj"], 1),
    ]
    assert all(name.startswith("model.layers.1.") for name in groups)
    everything = blocks.groups(batch, layers, stop=None)
    assert len(everything) == 8


def test_a_layer_called_twice_and_a_tensor_written_to() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = (nn.Linear(3, 3) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(self.a(x)) + self.c(x)
            return y + self.b(x.mul_(2))  # type: ignore[no-any-return]

    model = Twice()
    layers = prunable_layers(model)
    x = torch.randn(5, 3)
    blocks = Blocks(lambda batch: model(batch.clone()), [])
    groups = blocks.groups(x, layers, stop=None)
    assert groups == {"a": (["a"], 2), "c": (["c"], 1), "b": (["b"], 1)}
    first, second = blocks.inputs(x, layers["a"], 2, stop=None)
    assert torch.equal(first, x)
    torch.testing.assert_close(second, model.a(x))


def test_hooks_go_even_after_an_error() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    blocks, bad = blocks_of(model), torch.full((1, 3), 10**6)
    for attempt in (
        lambda: blocks.run(bad, stop=1, start=0, given=torch.zeros(1, 3, 16)),
        lambda: blocks.groups(bad, layers, stop=1),
        lambda: blocks.inputs(bad, next(iter(layers.values())), 1, stop=1),
        lambda: blocks.in_order(bad),
    ):
        with pytest.raises(IndexError):
            attempt()
        assert untouched(model)


def test_blocks_that_are_not_called_in_order() -> None:
    class Odd(nn.Module):
        def __init__(self, order: list[int]) -> None:
            super().__init__()
            self.layers = nn.ModuleList(tiny_mlp(sizes=(4, 4, 4)) for _ in range(3))
            self.order = order

        def forward(self, x: Tensor) -> Tensor:
            for i in self.order:
                x = self.layers[i](x)
            return x

    for order, fine in (([0, 1, 2], True), ([2, 1, 0], False), ([0, 1], False), ([0, 0, 1, 2], False)):
        model = Odd(order)
        assert Blocks(model, list(model.layers)).in_order(torch.zeros(1, 4)) is fine


def test_mapped_keeps_tuples_lists_and_mappings() -> None:
    class Answer(NamedTuple):
        states: Tensor
        rest: Any

    one = torch.ones(2)
    found = mapped(Answer(one, [{"a": one, "b": None}, (one, 3)]), lambda tensor: tensor + 1)
    assert isinstance(found, Answer)
    assert torch.equal(found.states, one + 1)
    first, second = found.rest
    assert torch.equal(first["a"], one + 1)
    assert first["b"] is None
    assert torch.equal(second[0], one + 1)
    assert second[1] == 3
