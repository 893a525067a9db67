"""AlphaPruning on models: exact totals, the sense of the metric, spectra of every layer, N:M patterns."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from qubo_prune.allocation import Allocation, allocate
from qubo_prune.allocation.alphapruning import allocate as alphapruning
from qubo_prune.allocation.alphapruning import check, spectra
from qubo_prune.allocation.esd import eigenvalues
from qubo_prune.allocation.hill import fit_peak
from qubo_prune.allocation.metrics import METRICS
from qubo_prune.allocation_settings import AlphaPruning, Uniform
from qubo_prune.errors import InputError
from qubo_prune.layers import Layer, prunable_layers
from qubo_prune.selection import prune_count
from qubo_prune.testing import TINY_MODELS, tiny_llama, tiny_mlp


def layers_of(model: nn.Module) -> dict[str, Layer]:
    return prunable_layers(model)


def ladder(n: int = 8, side: int = 32) -> dict[str, Layer]:
    """n square layers of one size whose spectra are power laws of exponents 2, 2.5, 3, ..."""
    stack = nn.ModuleList(nn.Sequential(nn.Linear(side, side, bias=False)) for _ in range(n))
    g = torch.Generator().manual_seed(0)
    shares = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    for i, block in enumerate(stack):
        left, right = (
            torch.linalg.qr(torch.randn(side, side, generator=g, dtype=torch.float64))[0] for _ in "ab"
        )
        values = (1 - shares) ** (-1 / (1 + 0.5 * i))
        linear = block.get_submodule("0")
        assert isinstance(linear, nn.Linear)
        linear.weight.data = (left @ torch.diag(values.sqrt()) @ right).float()
    return prunable_layers(stack)


@pytest.mark.parametrize("family", TINY_MODELS)
@pytest.mark.parametrize("per", ["block", "matrix", "mixed"])
def test_totals_are_exact(family: str, per: Any) -> None:
    layers = layers_of(TINY_MODELS[family]())
    found = spectra(layers)
    total = sum(layer.numel for layer in layers.values())
    for sparsity in (0.0, 0.123, 0.5, 0.8, 0.95):
        result = alphapruning(layers, sparsity, AlphaPruning(per=per), found)
        assert list(result.counts) == list(layers)
        assert sum(result.counts.values()) == prune_count(total, sparsity)
        assert all(0 <= count < layers[name].numel for name, count in result.counts.items())
        assert max(result.rates.values()) <= 0.99


def test_heavy_tails_are_pruned_less() -> None:
    layers = ladder()
    for metric in ("alpha", "stable_rank", "entropy"):
        result = allocate(layers, 0.5, AlphaPruning(metric=metric, per="matrix", epsilon=0.4, tail="mid"))  # type: ignore[arg-type]
        rates = list(result.rates.values())
        assert rates == sorted(rates)
        assert rates[0] < 0.4
        assert rates[-1] > 0.55


def test_known_exponents_and_rates() -> None:
    """Exponents a half apart give rates evenly spread from (1 - epsilon) to (1 + epsilon) of the sparsity."""
    layers = ladder()
    result = allocate(layers, 0.7, AlphaPruning(epsilon=0.2, tail="mid", ceiling=0.9))
    alphas = [figures["alpha"] for figures in result.seen.values()]
    ratio = [(alpha - 1) / (alphas[0] - 1) for alpha in alphas]
    assert ratio == pytest.approx([1 + 0.5 * i for i in range(8)], rel=1e-4)
    assert list(result.rates.values()) == pytest.approx([0.56 + 0.04 * i for i in range(8)], abs=2e-3)


def test_spectra_and_figures() -> None:
    model = tiny_llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = layers_of(model)
    told: list[tuple[int, int]] = []
    found = spectra(layers, on_layer=lambda done, of: told.append((done, of)))
    assert told == [(i + 1, len(layers)) for i in range(len(layers))]
    for name, spectrum in found.items():
        assert len(spectrum.eigenvalues) + spectrum.zeros == min(layers[name].shape)
        assert spectrum.shape == layers[name].shape
        assert set(METRICS) < set(spectrum.figures)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_published_peak_is_that_of_float32_eigenvalues() -> None:
    layers = layers_of(tiny_llama())
    found = spectra(layers, published_peak=True)
    for name, layer in layers.items():
        values = eigenvalues(layer.weight, published=True).numpy()
        assert found[name].law == fit_peak(values, published=True)


def test_a_layer_of_zeros_or_equal_eigenvalues() -> None:
    model = tiny_mlp(sizes=(8, 8, 8, 8))
    layers = layers_of(model)
    names = list(layers)
    layers[names[0]].weight.zero_()
    layers[names[1]].weight.copy_(torch.eye(8))
    result = allocate(layers, 0.5, AlphaPruning(per="matrix"))
    assert sum(result.counts.values()) == 96
    assert result.counts[names[0]] == result.counts[names[1]]
    assert math.isnan(result.seen[names[0]]["alpha"])
    assert result.to_dict()["seen"][names[0]]["alpha"] is None
    assert result.seen[names[0]]["zeros"] == 8
    for layer in layers.values():
        layer.weight.zero_()
    assert set(allocate(layers, 0.5, AlphaPruning()).counts.values()) == {32}


def test_uniform_is_epsilon_zero() -> None:
    layers = layers_of(tiny_llama())
    assert (
        alphapruning(layers, 0.37, AlphaPruning(epsilon=0)).counts == allocate(layers, 0.37, Uniform()).counts
    )


def test_floor_and_ceiling() -> None:
    layers = ladder()
    free = alphapruning(layers, 0.7, AlphaPruning(tail="mid"))
    held = alphapruning(layers, 0.7, AlphaPruning(tail="mid", floor=0.6, ceiling=0.75))
    assert sum(held.counts.values()) == sum(free.counts.values())
    assert (min(held.rates.values()), max(held.rates.values())) == pytest.approx((0.6, 0.75), abs=1e-3)


@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.625, 0.8])
def test_mixed_n_of_8(sparsity: float) -> None:
    layers = ladder()
    result = alphapruning(layers, sparsity, AlphaPruning(tail="mid", group=8))
    kept = list(result.kept_of_group.values())
    assert kept == sorted(kept, reverse=True)
    assert len(set(kept)) > 1
    step = 32 * 32 // 8
    assert abs(sum(result.counts.values()) - sparsity * 8 * 1024) <= step / 2
    assert result.to_dict()["pattern"]["0.0"] == f"{kept[0]}:8"
    with pytest.raises(InputError, match=r"at most 0\.875 of each layer"):
        alphapruning(layers, 0.9, AlphaPruning(group=8))
    uniform = alphapruning(layers, 0.5, AlphaPruning(epsilon=0, group=8))
    assert set(uniform.kept_of_group.values()) == {4}


@pytest.mark.parametrize("per", ["block", "matrix", "mixed"])
@pytest.mark.parametrize(("floor", "ceiling"), [(0.0, 0.7), (0.3, 0.6), (0.2, 0.99)])
def test_floor_and_ceiling_hold_for_patterns(per: Any, floor: float, ceiling: float) -> None:
    layers = layers_of(tiny_llama())
    found = spectra(layers)
    whole, step = sum(layer.numel for layer in layers.values()), 24 * 16 // 8
    for sparsity in (0.31, 0.45, 0.52, 0.59):
        settings = AlphaPruning(per=per, epsilon=0.5, group=8, floor=floor, ceiling=ceiling)
        result = alphapruning(layers, sparsity, settings, found)
        assert all(floor <= rate <= ceiling for rate in result.rates.values())
        reachable = min(max(sparsity, math.ceil(8 * floor) / 8), math.floor(8 * ceiling) / 8)
        assert abs(sum(result.counts.values()) - reachable * whole) <= step / 2 + 1


def test_a_total_that_no_pattern_within_the_bounds_reaches() -> None:
    layers = ladder(2)
    settings = AlphaPruning(epsilon=0, group=8, ceiling=0.7)
    check(layers, 0.69, settings)
    assert set(alphapruning(layers, 0.69, settings).kept_of_group.values()) == {3}
    tenths = prunable_layers(tiny_mlp(sizes=(30, 30, 30)))  # bounds that floats do not meet exactly
    for bound in (0.1, 0.3, 0.6, 0.7):
        settings = AlphaPruning(group=10, floor=bound, ceiling=bound)
        assert set(alphapruning(tenths, bound, settings).counts.values()) == {round(900 * bound)}
    with pytest.raises(InputError, match="no whole number of 8 weights"):
        check(layers, 0.66, AlphaPruning(group=8, floor=0.64, ceiling=0.7))


def test_refusals() -> None:
    layers = layers_of(tiny_mlp())
    with pytest.raises(InputError, match="6 inputs, which 8 does not divide"):
        alphapruning(layers, 0.5, AlphaPruning(group=8))
    with pytest.raises(InputError, match=r"at most 0\.5 of each layer"):
        alphapruning(layers, 0.7, AlphaPruning(ceiling=0.5))
    with pytest.raises(InputError, match=r"sparsity=1\.2"):
        alphapruning(layers, 1.2)
    name = next(iter(layers))
    layers[name].weight[0, 0] = math.inf
    with pytest.raises(InputError, match=f"layer '{name}': it has NaN"):
        alphapruning(layers, 0.5)


def test_a_report_of_an_allocation() -> None:
    result = Allocation("given", {"a": 3, "b": 0}, {"a": 4, "b": 6})
    assert result.to_dict() == {
        "method": "given",
        "pruned_weights": 3,
        "total_weights": 10,
        "rates": {"a": 0.75, "b": 0.0},
        "counts": {"a": 3, "b": 0},
    }
