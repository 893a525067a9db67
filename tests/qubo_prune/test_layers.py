"""Finding the prunable layers of every family, and writing to them through the (out, in) view."""

import pytest
import torch
from torch import nn

from qubo_prune.errors import InputError
from qubo_prune.layers import prunable_layers
from qubo_prune.testing import TINY_MODELS, tiny_gpt2, tiny_llama, tiny_mlp, tiny_qwen2

PER_BLOCK = {"llama": 7, "gpt2": 4, "opt": 6, "qwen2": 7, "mistral": 7, "gemma": 7}


@pytest.mark.parametrize("family", TINY_MODELS)
def test_decoder_blocks_only(family: str) -> None:
    model = TINY_MODELS[family]()
    layers = prunable_layers(model)
    assert len(layers) == 2 * PER_BLOCK[family]
    assert not any("embed" in name or "head" in name or "wte" in name for name in layers)
    modules = dict(model.named_modules())
    for name, layer in layers.items():
        assert layer.module is modules[name]
        assert layer.name == name
        assert layer.numel == layer.shape[0] * layer.shape[1]
        x = torch.randn(3, layer.shape[1])
        direct = x @ layer.weight.T
        bias = getattr(layer.module, "bias", None)
        torch.testing.assert_close(layer.module(x), direct if bias is None else direct + bias)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_writes_go_through(family: str) -> None:
    layer = next(iter(prunable_layers(TINY_MODELS[family]()).values()))
    layer.weight[1, 2] = 7.0
    stored = layer.parameter
    assert (stored[2, 1] if layer.transposed else stored[1, 2]) == 7.0
    assert layer.transposed == (family == "gpt2")


def test_gradient_is_oriented() -> None:
    model = tiny_gpt2()
    layer = prunable_layers(model)["transformer.h.0.mlp.c_fc"]
    assert layer.grad is None
    layer.module(torch.ones(1, 16)).sum().backward()
    assert layer.grad is not None
    assert layer.grad.shape == layer.weight.shape == (64, 16)


def test_include_and_exclude() -> None:
    model = tiny_llama()
    assert list(prunable_layers(model, include=["lm_head"])) == ["lm_head"]
    assert len(prunable_layers(model, include=["*.q_proj", r"re:layers\.1\..*k_proj$"])) == 3
    assert len(prunable_layers(model, exclude=["*.layers.0.*", "lm_head"])) == 7
    assert len(prunable_layers(model, all_linear=True)) == 15
    with pytest.raises(InputError, match=r"include pattern '\*\.nope' matches no linear layer.*q_proj"):
        prunable_layers(model, include=["*.nope"])
    with pytest.raises(InputError, match="exclude pattern"):
        prunable_layers(model, exclude=["nope"])
    with pytest.raises(InputError, match="not a regular expression"):
        prunable_layers(model, include=["re:("])
    with pytest.raises(InputError, match="list of patterns"):
        prunable_layers(model, include="lm_head")
    with pytest.raises(InputError, match="no prunable linear layer"):
        prunable_layers(model, exclude=["*"])


def test_tied_head_only_when_asked() -> None:
    model = tiny_qwen2()
    assert "lm_head" not in prunable_layers(model, all_linear=True)
    head = prunable_layers(model, include=["lm_head"])["lm_head"]
    head.weight[0, 0] = 5.0
    assert model.get_input_embeddings().weight[0, 0] == 5.0  # type: ignore[operator, union-attr]


def test_shared_weight_appears_once() -> None:
    model = tiny_mlp(sizes=(6, 6, 6))
    model[2].weight = model[0].weight
    assert list(prunable_layers(model)) == ["0"]


def test_plain_modules() -> None:
    assert list(prunable_layers(tiny_mlp())) == ["0", "2", "4"]
    with pytest.raises(InputError, match="Conv2d: no prunable linear layer"):
        prunable_layers(nn.Conv2d(1, 1, 1))


def test_experts_inside_blocks_do_not_count_as_the_stack() -> None:
    block = nn.ModuleDict(
        {"experts": nn.ModuleList(nn.Linear(3, 3) for _ in range(9)), "out": nn.Linear(3, 3)}
    )
    other = nn.ModuleDict(
        {"experts": nn.ModuleList(nn.Linear(3, 3) for _ in range(9)), "out": nn.Linear(3, 3)}
    )
    model = nn.ModuleDict({"layers": nn.ModuleList([block, other]), "head": nn.Linear(3, 3)})
    assert len(prunable_layers(model)) == 20


def test_quantised_weights_are_refused() -> None:
    model = tiny_mlp()
    model[2].weight = nn.Parameter(torch.zeros(8, 8, dtype=torch.int8), requires_grad=False)
    with pytest.raises(InputError, match="layer 2: its weights are"):
        prunable_layers(model)
