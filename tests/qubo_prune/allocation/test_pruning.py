"""Allocations in whole runs: every first mask and scope, refinement, reports; refusals change nothing."""

import json
from typing import Any

import pytest
import torch

from qubo_prune import prune
from qubo_prune.allocation import Allocation, check_found
from qubo_prune.errors import InputError
from qubo_prune.initial import initial_masks
from qubo_prune.layers import prunable_layers
from qubo_prune.masks import density
from qubo_prune.patterns import Pattern
from qubo_prune.progress import Progress
from qubo_prune.recipe import Recipe
from qubo_prune.testing import tiny_gpt2, tiny_llama, tiny_tokens

REFINE: dict[str, Any] = {
    "steps": 2,
    "windows": 2,
    "batch": 1,
    "accept": "always",
    "gradient": {"estimate": "shrunk", "shrink": 0.0, "reliability": False, "clip": None},
    "candidates": {"per_side": 20, "max_flip": 1.0},
    "trust": {"swaps": 8, "damping": 0.0},
}
ONE_LAYER = REFINE | {
    "scope": "one_layer",
    "trust": None,
    "candidates": {"criterion": "gradient", "block_size": 24},
}
ALPHA = {"method": "alphapruning", "per": "mixed", "epsilon": 0.4}


def recipe(**changes: Any) -> Recipe:
    return Recipe.parse({"sparsity": 0.6, "allocation": ALPHA, "refine": None, **changes})


def windows(n: int = 12) -> torch.Tensor:
    return tiny_tokens(n * 16).reshape(n, 16)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "gradient", "random"])
@pytest.mark.parametrize("granularity", [None, "layer", "output", "input"])
def test_every_first_mask_keeps_each_layers_budget(method: str, granularity: str | None) -> None:
    model = tiny_gpt2()
    report = prune(model, windows(), recipe(initial={"method": method, "granularity": granularity}))
    counts = report.allocation["counts"]
    found = density(report.masks)
    assert {name: total - kept for name, (kept, total) in found.layers.items()} == counts
    assert sum(counts.values()) == int(0.6 * found.total + 0.5)
    assert len(set(report.allocation["rates"].values())) > 2
    if granularity == "output" or (granularity is None and method == "wanda"):
        for mask in report.masks.values():
            assert int(mask.sum(1).max() - mask.sum(1).min()) <= 1


@pytest.mark.parametrize("refine", [REFINE, ONE_LAYER])
def test_refinement_keeps_each_layers_budget(refine: dict[str, Any]) -> None:
    model = tiny_llama()
    told: list[Progress] = []
    report = prune(model, windows(), recipe(refine=refine), on_progress=told.append)
    assert report.swaps > 0
    found = density(report.masks)
    assert {n: total - kept for n, (kept, total) in found.layers.items()} == report.allocation["counts"]
    assert (14, 14) in {(p.done, p.total) for p in told if p.phase == "allocation"}
    plain = json.loads(json.dumps(report.to_dict(), allow_nan=False))["allocation"]
    assert plain["method"] == "alphapruning"
    assert plain["pruned_weights"] == int(0.6 * found.total + 0.5)
    assert set(plain["seen"]) == set(report.masks)
    assert plain["seen"]["model.layers.0.mlp.up_proj"]["alpha"] > 1
    assert "allocation" in report.seconds


def test_mixed_n_of_8_masks() -> None:
    model = tiny_llama()
    report = prune(model, windows(), recipe(sparsity=0.5, allocation=ALPHA | {"group": 8}))
    patterns = report.allocation["pattern"]
    assert len(set(patterns.values())) > 1
    for name, mask in report.masks.items():
        kept = int(patterns[name].split(":")[0])
        assert bool((mask.reshape(-1, 8).sum(1) == kept).all())
    assert density(report.masks).sparsity == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("rows", [None, {}])
@pytest.mark.parametrize("group", [None, 8])
def test_walks_keep_each_layers_budget(method: str, rows: dict[str, Any] | None, group: int | None) -> None:
    chosen = recipe(allocation=ALPHA | {"group": group}, initial={"method": method}, rows=rows)
    report = prune(tiny_llama(), windows(), chosen)
    found = density(report.masks)
    assert {n: total - kept for n, (kept, total) in found.layers.items()} == report.allocation["counts"]
    assert len(set(report.allocation["rates"].values())) > 2
    for name, pattern in report.allocation.get("pattern", {}).items():
        assert Pattern.parse(pattern).holds(report.masks[name])
    assert ("pattern" in report.allocation) == (group is not None)


def test_given_rates() -> None:
    rates = {"*.layers.0.*": 0.3}
    report = prune(tiny_llama(), windows(), recipe(allocation={"method": "given", "rates": rates}))
    for name, rate in report.allocation["rates"].items():
        assert rate == pytest.approx(0.3 if ".layers.0." in name else 0.9, abs=5e-3)


def test_uniform_is_as_before() -> None:
    layers = prunable_layers(tiny_gpt2())
    masks = initial_masks("magnitude", layers, 0.37)
    report = prune(
        tiny_gpt2(),
        windows(),
        Recipe.parse({"sparsity": 0.37, "initial": {"method": "magnitude"}, "refine": None}),
    )
    assert all(torch.equal(mask, report.masks[name]) for name, mask in masks.items())
    assert report.allocation["method"] == "uniform"
    whole = {"sparsity": 0.37, "initial": {"method": "magnitude", "granularity": "global"}, "refine": None}
    assert prune(tiny_gpt2(), windows(), Recipe.parse(whole)).allocation == {"method": "global"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"allocation": {"method": "given", "rates": {"*.nothing": 0.5}}}, "matches none"),
        ({"allocation": {"method": "given", "file": "/no/such/file"}}, "cannot be read"),
        ({"allocation": ALPHA | {"ceiling": 0.5}}, "at most 0.5 of each layer"),
        ({"allocation": ALPHA | {"group": 5}}, "which 5 does not divide"),
    ],
)
def test_refusals_change_nothing(changes: dict[str, Any], message: str) -> None:
    model = tiny_llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    told: list[Progress] = []
    with pytest.raises(InputError, match=message):
        prune(model, windows(), recipe(**changes), on_progress=told.append)
    assert not told
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_allocation_whose_groups_do_not_come_out_is_refused() -> None:
    layers = prunable_layers(tiny_llama())
    sizes = {name: layer.numel for name, layer in layers.items()}
    first = next(iter(sizes))
    counts = {name: size // 2 for name, size in sizes.items()}
    for group, changed in ((4, {first: counts[first] + 2}), (5, {})):
        found = Allocation("mine", counts | changed, sizes, group)
        with pytest.raises(InputError, match=f"{first}'.* not the same number of each {group}"):
            check_found(layers, 0.5, found)


def test_counts_that_are_no_pattern() -> None:
    layers = prunable_layers(tiny_llama())
    counts = {name: layer.numel // 8 * 3 for name, layer in layers.items()}
    masks = initial_masks("magnitude", layers, counts, group=8)
    assert all(bool((mask.reshape(-1, 8).sum(1) == 5).all()) for mask in masks.values())
    first = next(iter(counts))
    with pytest.raises(InputError, match=f"layer '{first}': .* is not N of 8"):
        initial_masks("magnitude", layers, counts | {first: 7}, group=8)
