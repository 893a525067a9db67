"""Fisher allocation: the threshold over all layers by hand, tempering, and the pass it goes by."""

import pytest
import torch
from torch import Tensor

from qubo_prune import prune
from qubo_prune.allocation import Observed, allocate
from qubo_prune.allocation.fisher import global_rates
from qubo_prune.allocation_settings import Fisher
from qubo_prune.errors import InputError
from qubo_prune.forward import forward_of
from qubo_prune.initial import fisher
from qubo_prune.layers import prunable_layers
from qubo_prune.objective import CrossEntropy, CustomLoss, KLToDense, Objective
from qubo_prune.recipe import Recipe
from qubo_prune.selection import prune_count
from qubo_prune.statistics.label_pass import collect_diagonal
from qubo_prune.testing import TINY_MODELS, tiny_llama, tiny_tokens

DATA = [tiny_tokens(40, seed).reshape(2, 20) for seed in range(2)]


def test_one_threshold_over_all_layers() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    diagonal = collect_diagonal(model, layers, DATA, KLToDense())
    costs = {}
    for name, layer in layers.items():
        cost = (layer.weight.square() * diagonal.diagonal(name)).double()
        square = diagonal.output_norm(name).double().square()
        floor = 1 + 0.01 * square.mean() / square  # see `initial.fisher.row_scale`
        costs[name] = (cost * floor[:, None]).reshape(-1)
    every = torch.cat(list(costs.values()))
    threshold = every.kthvalue(prune_count(len(every), 0.4)).values
    expected = {name: float((cost <= threshold).double().mean()) for name, cost in costs.items()}
    assert global_rates(layers, diagonal, 0.4) == pytest.approx(expected, abs=2e-3)
    assert max(expected.values()) > min(expected.values()) + 0.1
    observed = Observed(model, forward_of(model), DATA, diagonal=diagonal)
    for strength in (0.0, 0.5, 1.0):
        found = allocate(layers, 0.4, Fisher(strength=strength, ceiling=1.0), observed=observed)
        for name, rate in found.rates.items():
            assert rate == pytest.approx(0.4 + strength * (expected[name] - 0.4), abs=5e-3)


def test_what_no_gradient_reached_has_the_base_rate() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    found = collect_diagonal(model, layers, DATA, KLToDense())
    first, *others = layers

    class Unreached:
        def __contains__(self, name: str) -> bool:
            return True

        def input_norm(self, name: str) -> Tensor:
            return found.input_norm(name) * (name != first)

        def output_norm(self, name: str) -> Tensor:
            return found.output_norm(name) * (name != first)

    rates = global_rates(layers, Unreached(), 0.4)
    assert rates[first] == 0.4
    alone = global_rates({name: layers[name] for name in others}, found, 0.4)
    assert {name: rates[name] for name in others} == alone
    out, inputs = layers[first].shape
    norm = torch.rand(inputs)
    expected = layers[first].weight.abs() * norm
    assert torch.equal(fisher.scores(layers[first], norm, torch.zeros(out)), expected)


@pytest.mark.parametrize("family", TINY_MODELS)
def test_pruning_by_it(family: str) -> None:
    model = TINY_MODELS[family]()
    data = tiny_tokens(16 * 16).reshape(16, 16)
    recipe = Recipe.parse(
        {
            "initial": {"method": "fisher"},
            "allocation": {"method": "fisher"},
            "refine": None,
            "sparsity": 0.45,
        }
    )
    report = prune(model, data, recipe)
    total = sum(mask.numel() for mask in report.masks.values())
    assert sum(int((~mask).sum()) for mask in report.masks.values()) == prune_count(total, 0.45)
    rates = report.allocation["rates"].values()
    assert max(rates) > min(rates)


@pytest.mark.parametrize("objective", [KLToDense(), CrossEntropy()])
def test_labels_are_sampled_from_the_model_itself(objective: Objective) -> None:
    """Averaged over many draws, the squared gradient at the head is that of the softmax's variance."""
    model = tiny_llama()
    layers = prunable_layers(model)
    name = list(layers)[-1]
    runs = [collect_diagonal(model, layers, DATA, objective, seed).output_norm(name) for seed in range(60)]
    other = [collect_diagonal(model, layers, DATA, objective, 99 + s).output_norm(name) for s in range(60)]
    first, second = (torch.stack(r).square().mean(0) for r in (runs, other))
    torch.testing.assert_close(first, second, rtol=0.3, atol=0.0)
    assert torch.equal(runs[0], collect_diagonal(model, layers, DATA, objective, 0).output_norm(name))


def test_a_loss_without_logits_gives_its_own_gradient() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    loss = CustomLoss(lambda m, batch: m(batch).logits.square().mean())
    found = collect_diagonal(model, layers, DATA, loss)
    name = next(iter(layers))
    assert bool((found.output_norm(name) > 0).any())


def test_bounds_are_refused_without_data() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    with pytest.raises(InputError, match=r"at most 0\.4"):
        allocate(layers, 0.5, Fisher(ceiling=0.4), observed=Observed(model, forward_of(model), DATA))
    with pytest.raises(InputError, match="fisher looks at calibration batches"):
        allocate(layers, 0.5, Fisher())
