"""First masks: the scores, exact budgets at every granularity, and refusals."""

import pytest
import torch

from qubo_prune.errors import InputError
from qubo_prune.initial import METHODS, Evidence, fisher, initial_masks
from qubo_prune.initial.fisher import row_scale
from qubo_prune.layers import prunable_layers
from qubo_prune.masks import density
from qubo_prune.objective import KLToDense
from qubo_prune.selection import keep_topk, prune_count
from qubo_prune.statistics.gram import collect_norms
from qubo_prune.statistics.label_pass import collect_diagonal
from qubo_prune.testing import tiny_gpt2, tiny_llama, tiny_tokens


def evidence_for(model: torch.nn.Module) -> Evidence:
    layers = prunable_layers(model)
    moments = collect_norms(model, layers, [tiny_tokens(40).reshape(2, 20)])
    gradients = {name: torch.randn(layer.shape) for name, layer in layers.items()}
    batches = [tiny_tokens(40).reshape(2, 20)]
    diagonal = collect_diagonal(model, layers, batches, KLToDense())
    return Evidence(moments, gradients, diagonal, output_power=0.5, seed=3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("granularity", [None, "layer", "output", "input", "global"])
def test_budgets_are_exact(method: str, granularity: str | None) -> None:
    model = tiny_gpt2()
    layers = prunable_layers(model)
    before = {name: layer.weight.clone() for name, layer in layers.items()}
    masks = initial_masks(method, layers, 0.37, granularity, evidence=evidence_for(model))  # type: ignore[arg-type]
    found = density(masks)
    assert found.total - found.kept == prune_count(found.total, 0.37)
    assert list(masks) == list(layers)
    for name, layer in layers.items():
        assert masks[name].shape == layer.weight.shape
        assert torch.equal(before[name], layer.weight)
        if granularity != "global":
            assert abs(found.layers[name][0] - 0.63 * layer.numel) < 1
        if granularity == "output" or (granularity is None and method == "wanda"):
            assert int(masks[name].sum(1).max() - masks[name].sum(1).min()) <= 1


def test_scores() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    evidence = evidence_for(model)
    name, layer = next(iter(layers.items()))
    assert evidence.moments is not None
    w = layer.weight
    assert torch.equal(METHODS["magnitude"].scores(layer, evidence), w.abs())
    torch.testing.assert_close(
        METHODS["wanda"].scores(layer, evidence), w.abs() * evidence.moments.norm(name)
    )
    torch.testing.assert_close(
        METHODS["gradient"].scores(layer, evidence), (w * evidence.gradients[name]).abs()
    )
    assert evidence.diagonal is not None
    square = evidence.diagonal.output_norm(name).square()
    rows = (square + 0.01 * square.mean()).pow(0.25)  # output_power 0.5, floor 0.1
    torch.testing.assert_close(
        METHODS["fisher"].scores(layer, evidence), w.abs() * evidence.moments.norm(name) * rows[:, None]
    )
    first = METHODS["random"].scores(layer, evidence)
    assert torch.equal(first, METHODS["random"].scores(layer, Evidence(seed=3)))
    assert not torch.equal(first, METHODS["random"].scores(layer, Evidence(seed=4)))
    assert all(method.scores(layer, evidence).dtype == torch.float32 for method in METHODS.values())


def test_rows_without_a_gradient_do_not_all_go_first() -> None:
    norm = torch.tensor([1.0, 2.0, 0.0, 1e-4])
    for power in (0.5, 0.7, 1.0):
        found = row_scale(norm, power)
        assert found[0] == pytest.approx(1.0, rel=0.01)
        assert found[1] == pytest.approx(2.0**power, rel=0.01)
        assert found[2] == pytest.approx((0.1 * 1.25**0.5) ** power)
        torch.testing.assert_close(row_scale(7 * norm, power), 7**power * found)
    assert torch.equal(row_scale(norm, 0.0), torch.ones(4))
    layers = prunable_layers(tiny_llama())
    layer = next(iter(layers.values()))
    output = torch.ones(layer.shape[0])
    output[:8] = 0
    scores = fisher.scores(layer, torch.ones(layer.shape[1]), output)
    kept = keep_topk(scores, layer.numel // 2)[:8].sum()
    assert kept > 0


def test_counts_from_an_allocation() -> None:
    layers = prunable_layers(tiny_llama())
    counts = {name: i for i, name in enumerate(layers)}
    masks = initial_masks("magnitude", layers, counts)
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == counts


def test_wanda_prunes_as_the_paper_does() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    evidence = evidence_for(model)
    masks = initial_masks("wanda", layers, 0.5, evidence=evidence)
    assert evidence.moments is not None
    for name, layer in layers.items():
        total_norm = evidence.moments.norm(name) * evidence.moments.tokens(name) ** 0.5
        lowest = (layer.weight.abs() * total_norm).argsort(1)[:, : layer.shape[1] // 2]
        assert not masks[name].gather(1, lowest).any()


def test_refusals() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    first = next(iter(layers))
    with pytest.raises(InputError, match="'nope' is unknown: use one of magnitude"):
        initial_masks("nope", layers, 0.5)
    with pytest.raises(InputError, match=r"'wanda' needs moments of every layer: .* and 13 more"):
        initial_masks("wanda", layers, 0.5)
    with pytest.raises(InputError, match="'gradient' needs gradients"):
        initial_masks("gradient", layers, 0.5)
    with pytest.raises(InputError, match="needs a count"):
        initial_masks("magnitude", layers, {first: 3})
    with pytest.raises(InputError, match="takes one sparsity"):
        initial_masks("magnitude", layers, {first: 3}, "global")
    layers[first].weight[0, 0] = torch.nan
    with pytest.raises(InputError, match=f"{first}: 1 scores are NaN"):
        initial_masks("magnitude", layers, 0.5)
