"""A block called with copies of its weights on another device, the block itself as it was."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qubo_prune.block_calls import Call
from qubo_prune.resident import Resident
from qubo_prune.testing import tiny_llama


class Tied(nn.Module):
    """A block in which another module has the linear layer's weight too, and comes first."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.Bilinear(1, 3, 4, bias=False)
        self.linear = nn.Linear(3, 4)
        self.odd.weight = self.linear.weight
        self.register_buffer("shift", torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.shift + x @ self.odd.weight.t()


def away(block: nn.Module) -> Resident:
    """As on another device, but that its name is the CPU's: copies are made as there."""
    resident = Resident(block, torch.device("meta"))
    copies = {id(t): t.detach().clone() for t in [*block.parameters(), *block.buffers()]}
    names = [*block.named_parameters(remove_duplicate=False), *block.named_buffers(remove_duplicate=False)]
    resident._weights = {name: copies[id(t)] for name, t in names}
    resident.device = torch.device("cpu")
    return resident


@pytest.mark.parametrize("name", ["linear.weight", "odd.weight"])
def test_a_weight_with_two_names_is_one(name: str) -> None:
    block, x = Tied(), torch.randn(2, 3)
    there, here = away(block), Resident(block)
    assert torch.equal(there.run(Call((x,), {})), block(x))
    assert Resident(block, torch.device("meta")).weight(name, block.linear.weight).device.type == "meta"
    other = {name: torch.randn(4, 3, requires_grad=True)}
    found = there.run(Call((x,), {}), other)
    assert torch.equal(found, here.run(Call((x,), {}), other))
    assert not torch.equal(found, block(x))
    (gradient,) = torch.autograd.grad(found.sum(), [other[name]])
    assert bool(gradient.abs().sum() > 0)


def test_weights_come_without_a_gradient() -> None:
    block = tiny_llama().model.layers[0]
    own = block.mlp.up_proj.weight
    assert own.requires_grad
    assert not Resident(block).weight("mlp.up_proj.weight", own).requires_grad
    assert not away(block).weight("mlp.up_proj.weight", own).requires_grad
