"""Streamed moments against the direct product, sharing, and hooks that leave no trace."""

import pytest
import torch
from torch import Tensor, nn

from qubo_prune.errors import InputError
from qubo_prune.layers import Layer, prunable_layers
from qubo_prune.statistics.gram import MomentHooks, collect_grams, collect_norms
from qubo_prune.testing import TINY_MODELS, tiny_gpt2, tiny_llama, tiny_mlp, tiny_tokens


def inputs_of(model: nn.Module, layers: dict[str, Layer], batches: list[Tensor]) -> dict[str, Tensor]:
    """Every input vector of every layer, float64 (T, in)."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    handles = [
        layer.module.register_forward_pre_hook(
            lambda module, args, name=name: seen[name].append(args[0].detach().reshape(-1, args[0].shape[-1]))
        )
        for name, layer in layers.items()
    ]
    for batch in batches:
        model(batch)
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts).double() for name, parts in seen.items()}


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.dtype == torch.float32
    assert float((found.double() - expected).abs().max() / expected.abs().max()) < tolerance


@pytest.mark.parametrize("family", TINY_MODELS)
def test_matches_the_direct_product(family: str) -> None:
    model = TINY_MODELS[family]()
    layers = prunable_layers(model)
    batches = [tiny_tokens(3 * 20, seed).reshape(3, 20) for seed in range(4)]
    direct = inputs_of(model, layers, batches)
    grams, norms = collect_grams(model, layers, batches), collect_norms(model, layers, batches)
    for name, x in direct.items():
        assert grams.tokens(name) == norms.tokens(name) == 240
        close(grams.gram(name), x.T @ x / 240)
        close(grams.mean_square(name), x.square().mean(0))
        close(norms.norm(name), x.square().mean(0).sqrt())


def test_queries_keys_and_values_share_one() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    grams = collect_grams(model, layers, [tiny_tokens(20)[None]])
    assert len(grams.sums) == 2 * 4
    assert grams.leaders["model.layers.1.self_attn.v_proj"] == "model.layers.1.self_attn.q_proj"
    assert grams.leaders["model.layers.1.mlp.up_proj"] == "model.layers.1.mlp.gate_proj"
    assert grams.leaders["model.layers.1.mlp.down_proj"] == "model.layers.1.mlp.down_proj"


def test_bfloat16_and_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qubo_prune.statistics.gram._ROWS", 7)
    model = tiny_gpt2().to(torch.bfloat16)
    layers = prunable_layers(model)
    batches = [tiny_tokens(40).reshape(2, 20)]
    direct = inputs_of(model, layers, batches)
    for accumulator in (torch.float64, torch.float32):
        grams = collect_grams(model, layers, batches, accumulator=accumulator)
        assert {total.dtype for total in grams.sums.values()} == {accumulator}
        for name, x in direct.items():
            close(grams.gram(name), x.T @ x / 40)


def test_many_passes_stay_exact() -> None:
    model = tiny_mlp(sizes=(6, 4))
    batches = [torch.randn(50, 6, generator=torch.Generator().manual_seed(i)) + 3 for i in range(400)]
    x = torch.cat(batches).double()
    close(collect_grams(model, prunable_layers(model), batches).gram("0"), x.T @ x / len(x), 1e-6)


def test_hooks_go_even_after_an_error() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    with pytest.raises(IndexError):
        collect_grams(model, layers, [tiny_tokens(20)[None], torch.full((1, 3), 10**6)])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_layer_called_twice_counts_twice() -> None:
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    x = torch.randn(5, 3)
    second = layer(x).relu().detach()
    grams = collect_grams(model, prunable_layers(model), [x])
    both = torch.cat([x, second]).double()
    assert grams.tokens("0") == 10
    close(grams.gram("0"), both.T @ both / 10)


def test_a_tensor_written_to_is_another_input() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return y + self.b(x.mul_(2))  # type: ignore[no-any-return]

    model = InPlace()
    x = torch.randn(5, 3)
    grams = collect_grams(model, prunable_layers(model), [x.clone()])
    close(grams.gram("b"), (2 * x.double()).T @ (2 * x.double()) / 5)


def test_refusals() -> None:
    model = tiny_mlp()
    layers = prunable_layers(model)
    with pytest.raises(InputError, match="layer '0' was never called"):
        collect_norms(model, layers, [])
    with pytest.raises(InputError, match="layer '0': its calibration inputs are NaN"):
        collect_norms(model, layers, [torch.full((2, 6), torch.nan)])
    norms = collect_norms(model, layers, [torch.ones(2, 6)])
    assert "0" in norms
    assert "1" not in norms
    with pytest.raises(InputError, match="only input norms"):
        norms.gram("0")
    with pytest.raises(InputError, match="no input statistics"):
        norms.norm("nope")


def test_sharing_that_ends_is_refused() -> None:
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    with MomentHooks({"a": Layer("a", a), "b": Layer("b", b)}) as hooks:
        x = torch.ones(2, 3)
        a(x), b(x)
        with pytest.raises(InputError, match="'b' shared its input with 'a'"):
            a(torch.ones(2, 3)), b(torch.ones(2, 3))
    assert hooks.moments.leaders == {"a": "a", "b": "a"}
