"""prune() with learned rates: every mask method, rows, refinement behind it, quantised values, errors."""

from typing import Any

import pytest
import torch
from torch import Tensor

from qubo_prune.api import prune
from qubo_prune.errors import InputError
from qubo_prune.initial import METHODS
from qubo_prune.layers import prunable_layers
from qubo_prune.recipe import Recipe
from qubo_prune.selection import keep_rows, prune_count
from qubo_prune.testing import tiny_llama, tiny_tokens

BATCHES = [tiny_tokens(2 * 32, seed).reshape(2, 32) for seed in range(6)]


def recipe(
    method: str = "wanda", steps: int = 0, rows: dict[str, Any] | None = None, **allocation: Any
) -> Recipe:
    learned = {"method": "besa", "steps": 10, "learning_rate": 0.3} | allocation
    bold = {"gradient": {"estimate": "shrunk", "shrink": 0.0}, "trust": {"swaps": 20, "damping": 0.0}}
    refine = {"steps": steps, "windows": 4, "chunk": 8} | bold if steps else None
    return Recipe.parse({
        "allocation": learned, "initial": {"method": method}, "refine": refine,
        "calibration": {"windows": 8}, "rows": rows,
    })  # fmt: skip


def pruned_of(masks: dict[str, Tensor]) -> dict[str, int]:
    return {name: int((~mask).sum()) for name, mask in masks.items()}


@pytest.mark.parametrize("per", ["layer", "row"])
@pytest.mark.parametrize("method", METHODS)
def test_every_mask_method_takes_the_rates(method: str, per: str) -> None:
    report = prune(tiny_llama(), BATCHES, recipe(method, per=per))
    counts = report.allocation["counts"]
    assert pruned_of(report.masks) == counts
    assert sum(counts.values()) == prune_count(report.allocation["total_weights"], 0.5)
    assert len(report.allocation["blocks"]) == 2
    if per == "row":
        assert any(len((~mask).sum(1).unique()) > 2 for mask in report.masks.values())


@pytest.mark.parametrize("method", ["sparsegpt", "gradual"])
def test_masks_with_values_take_the_counts_of_rows(method: str) -> None:
    report = prune(tiny_llama(), BATCHES, recipe(method, per="row"))
    learned = prune(tiny_llama(), BATCHES, recipe(per="row"))
    assert report.allocation["counts"] == learned.allocation["counts"]
    for name, mask in report.masks.items():
        assert torch.equal(mask.sum(1), learned.masks[name].sum(1))


@pytest.mark.parametrize(("method", "rows"), [("sparsegpt", None), ("wanda", {}), ("sparsegpt", {})])
def test_walks_take_the_layers_counts(method: str, rows: dict[str, Any] | None) -> None:
    report = prune(tiny_llama(), BATCHES, recipe(method, rows=rows))
    counts = report.allocation["counts"]
    assert pruned_of(report.masks) == counts
    assert len({report.allocation["rates"][name] for name in counts}) > 4
    assert ("sparsegpt" in report.walks, "rows" in report.walks) == (method == "sparsegpt", rows is not None)


@pytest.mark.parametrize("per", ["layer", "row"])
def test_refinement_keeps_the_layers_counts(per: str) -> None:
    report = prune(tiny_llama(), BATCHES, recipe(steps=3, per=per))
    assert pruned_of(report.masks) == report.allocation["counts"]
    assert sum(step.swaps_proposed for step in report.curve) > 0


def test_quantised_values_are_written_and_stay_through_refinement() -> None:
    model = tiny_llama()
    before = {name: layer.weight.clone() for name, layer in prunable_layers(model).items()}
    report = prune(model, BATCHES, recipe(steps=3, quantise={"bits": 3}))
    assert report.allocation["quantisation"] == {"bits": 3, "group": None}
    for name, layer in prunable_layers(model).items():
        assert all(len(row.unique()) <= 8 for row in layer.weight)
        assert not layer.weight[~report.masks[name]].any()
        assert not torch.equal(layer.weight[report.masks[name]], before[name][report.masks[name]])


def test_an_error_puts_the_dense_weights_back() -> None:
    model = tiny_llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def fail(name: str, model: object) -> None:
        raise RuntimeError(name)

    with pytest.raises(RuntimeError, match="initial"):
        prune(model, BATCHES, recipe(quantise={"bits": 4}), on_masks=fail)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_counts_of_rows() -> None:
    scores = torch.randn(6, 9, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    counts = torch.tensor([0, 1, 9, 4, 4, 8])
    found = keep_rows(scores, counts)
    for row, count, kept in zip(scores, counts.tolist(), found, strict=True):
        lowest = sorted(range(9), key=lambda j: (float(row[j]), j))[:count]
        assert (~kept).nonzero().reshape(-1).tolist() == sorted(lowest)
    for wrong in (counts[:5], counts - 1, counts + 1):
        with pytest.raises(InputError, match="a count from 0 to 9 for each of its 6 rows"):
            keep_rows(scores, wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"allocation": {"method": "besa", "floor": 0.6, "ceiling": 0.5}}, "floor 0.6 is above ceiling 0.5"),
        ({"allocation": {"method": "owl", "floor": 0.6, "ceiling": 0.5}}, "floor 0.6 is above ceiling 0.5"),
        ({"allocation": {"method": "besa", "between": {"method": "alphapruning", "group": 4}}}, "no N:M"),
        ({"allocation": {"method": "besa", "between": "given"}}, "allocation.between"),
        ({"allocation": {"method": "besa", "quantise": {"bits": 1}}}, "allocation.quantise.bits"),
        (
            {"allocation": {"method": "besa", "per": "row"}, "initial": {"granularity": "layer"}},
            "each output a count",
        ),
        ({"allocation": "besa", "initial": {"granularity": "global"}}, "not with allocation besa"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.parse(settings)
    assert message in str(caught.value)
