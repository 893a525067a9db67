"""A block called alone answers as within the model, with its own weights or with others."""

import pytest
import torch
from torch import Tensor

from qubo_prune.block_calls import call_of, hidden
from qubo_prune.errors import InputError
from qubo_prune.forward import forward_of
from qubo_prune.layers import block_stack, prunable_layers
from qubo_prune.prefix import Blocks
from qubo_prune.testing import TINY_MODELS, tiny_tokens


@pytest.mark.parametrize("family", TINY_MODELS)
@torch.no_grad()
def test_a_call_alone_is_the_call_in_the_model(family: str) -> None:
    model = TINY_MODELS[family]()
    found = block_stack(model)
    assert found is not None
    modules = list(found[1])
    blocks = Blocks(forward_of(model), modules)
    batch = tiny_tokens(24).reshape(2, 12)
    given = None
    for at, block in enumerate(modules):
        call = call_of(blocks, modules, batch, at, given)
        output = call.run(block)
        expected = hidden(blocks.run(batch, stop=at))
        assert torch.equal(hidden(output), expected)
        assert torch.equal(hidden(call.run(block)), expected)  # twice: nothing was written into
        given = output
        name, layer = next(
            (n, x) for n, x in prunable_layers(model).items() if n.startswith(f"{found[0]}.{at}.")
        )
        key = name.removeprefix(f"{found[0]}.{at}.") + ".weight"
        before = layer.parameter.clone()
        other = hidden(call.run(block, {key: before * 0.5}))
        assert not torch.equal(other, expected)
        layer.parameter.mul_(0.5)
        assert torch.equal(hidden(call.run(block)), other)
        layer.parameter.copy_(before)


def test_gradients_reach_the_weights_given() -> None:
    model = TINY_MODELS["gpt2"]()
    found = block_stack(model)
    assert found is not None
    modules = list(found[1])
    call = call_of(Blocks(forward_of(model), modules), modules, tiny_tokens(12).reshape(1, 12), 0, None)
    weight = modules[0].mlp.c_fc.weight.detach().clone().requires_grad_()  # type: ignore[union-attr]
    hidden(call.run(modules[0], {"mlp.c_fc.weight": weight})).sum().backward()
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_answers_without_tensors() -> None:
    assert hidden((torch.ones(1), None)).item() == 1
    with pytest.raises(InputError, match="must be a tensor"):
        hidden(({"a": Tensor()},))
