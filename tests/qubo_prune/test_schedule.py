"""A schedule: lower sparsities on the way, each pruned and fitted before the next, exact at the end."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qubo_prune import prune
from qubo_prune.allocation.result import Allocation
from qubo_prune.errors import InputError
from qubo_prune.layers import prunable_layers
from qubo_prune.progress import Progress
from qubo_prune.recipe import Recipe
from qubo_prune.selection import prune_count
from qubo_prune.state import PruneState
from qubo_prune.testing import tiny_llama, tiny_tokens

BATCHES = [tiny_tokens(2 * 32, seed, vocabulary=12).reshape(2, 32) for seed in range(6)]
VALUES: dict[str, Any] = {"initial": {"method": "gradual"}, "refine": None, "refit": {"rank": 2}}


def recipe(**parts: Any) -> Recipe:
    return Recipe.parse(VALUES | {"schedule": [0.4, 0.8]} | parts)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"allocation": {"method": "besa", "per": "row", "steps": 3}, "initial": {"method": "wanda"}},
        {"pattern": "2:4", "schedule": [0.7]},
        {"allocation": "alphapruning", "refine": {"steps": 1, "windows": 2}, "refit": None},
        {"initial": {"method": "wanda", "granularity": "global"}, "rows": {"budget": "row"}, "rounds": 2},
        {"quantise": {"bits": 4}, "objective": "cross_entropy"},
    ],
)
def test_every_stage_is_exact_and_all_are_judged_by_the_dense_model(parts: dict[str, Any]) -> None:
    model, wanted = tiny_llama(), recipe(**parts)
    layers, seen = prunable_layers(model), {}
    total = sum(layer.numel for layer in layers.values())

    def on_progress(progress: Progress) -> None:
        if progress.phase.startswith("loss at ") and not progress.done:
            zeros = sum(int((layer.weight == 0).sum()) for layer in layers.values())
            seen[progress.phase.removeprefix("loss at ")] = zeros

    report = prune(model, BATCHES, wanted, on_progress=on_progress)
    stages = [wanted.at(share).sparsity for share in wanted.schedule]
    assert stages == pytest.approx([0.25] if wanted.pattern else [0.2, 0.4])
    assert seen == {f"{100 * s:.3g} %": prune_count(total, s) for s in stages}
    assert sum(int((~mask).sum()) for mask in report.masks.values()) == prune_count(total, 0.5)
    on_the_way = [report.figures[f"at {s:g}"] for s in stages]
    assert all(loss is not None and loss > 0 for loss in on_the_way)
    assert {"initial", "refined"} <= report.figures.keys()


def test_a_schedule_prunes_a_model_that_was_fitted_in_between() -> None:
    """The last stage is what a run of its own does from the model of the first, but for the teacher."""
    models = tiny_llama(), tiny_llama()
    found = prune(models[0], BATCHES, recipe(schedule=[0.6]))
    by_two = prune(models[1], BATCHES, recipe(schedule=[], sparsity=0.3))
    assert found.figures["at 0.3"] == pytest.approx(by_two.figures["refit"], rel=1e-4)
    assert found.figures["refit"] > found.figures["at 0.3"]


@pytest.mark.parametrize("phase", ["refit at 20 %", "statistics", "loss at 40 %"])
def test_an_interrupt_on_the_way_puts_the_dense_weights_back(phase: str) -> None:
    model, before = tiny_llama(), tiny_llama().state_dict()
    seen: list[str] = []

    def on_progress(progress: Progress) -> None:
        seen.append(progress.phase)
        if progress.phase == phase and any(p.endswith("20 %") for p in seen):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prune(model, BATCHES, recipe(), on_progress=on_progress)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_an_interrupt_in_the_last_stage_keeps_its_masks() -> None:
    model = tiny_llama()

    def on_progress(progress: Progress) -> None:
        if progress.phase == "refit" and progress.done:
            raise KeyboardInterrupt

    report = prune(model, BATCHES, recipe(), on_progress=on_progress)
    assert report.stopped == "interrupted"
    layers = prunable_layers(model)
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers.values())
    assert zeros == prune_count(sum(layer.numel for layer in layers.values()), 0.5)


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ({"schedule": [0.4, 0.2]}, "must rise"),
        ({"schedule": [1.0]}, "below 1"),
        ({"schedule": [0.0]}, "above 0"),
        ({"pattern": "1:2", "schedule": [0.7]}, "gives 1:2 on the way to 1:2"),
        ({"pattern": "2:4", "schedule": [0.4, 0.6]}, "gives 3:4, 3:4 on the way to 2:4"),
        ({"allocation": {"method": "alphapruning", "group": 8}}, "leave schedule out"),
        ({"allocation": {"method": "besa", "quantise": {"bits": 4}}, "refit": None,
          "initial": {"method": "wanda"}}, "leave schedule out"),
    ],
)  # fmt: skip
def test_what_leads_nowhere_is_refused(parts: dict[str, Any], why: str) -> None:
    with pytest.raises(InputError, match=why):
        recipe(**parts)


def test_an_allocation_found_before_that_cannot_be_scaled_is_refused() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    sizes = {name: layer.numel for name, layer in layers.items()}
    found = Allocation("mine", {name: size // 2 for name, size in sizes.items()}, sizes, group=4)
    with pytest.raises(InputError, match="leave schedule out"):
        prune(model, BATCHES, recipe(), allocation=found)


def test_scaled_shares_are_exact_and_in_proportion() -> None:
    sizes = {"a": 100, "b": 60}
    rows = {"b": torch.tensor([15, 3, 0, 12])}
    found = Allocation("mine", {"a": 50, "b": 30}, sizes, rows=rows).scaled(0.3)
    assert sum(found.counts.values()) == 48
    assert found.counts == {"a": 30, "b": 18}
    assert found.rows["b"].tolist() == [9, 2, 0, 7]
    assert int(found.rows["b"].sum()) == found.counts["b"]


def test_settling_keeps_the_dense_model_to_the_bit() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    before = {name: layer.weight.clone() for name, layer in layers.items()}
    state = PruneState(model, layers)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for name, layer in layers.items():
            mask = torch.rand(layer.shape, generator=generator) < 0.5
            state.refit(name, layer.weight * 1.5, mask)
        present = {name: layer.weight.clone() for name, layer in layers.items()}
        state.settle()
        assert all(bool(mask.all()) for mask in state.masks.values())
        with state.dense():
            assert all(torch.equal(layer.weight, before[name]) for name, layer in layers.items())
        with state.dense(list(layers)):
            assert all(torch.equal(layer.weight, present[name]) for name, layer in layers.items())
        assert all(torch.equal(layer.weight, present[name]) for name, layer in layers.items())
        state.set_masks({name: torch.zeros(layer.shape, dtype=torch.bool) for name, layer in layers.items()})
        state.restart()
        assert all(torch.equal(layer.weight, present[name]) for name, layer in layers.items())
    state.restore_dense()
    assert all(torch.equal(layer.weight, before[name]) for name, layer in layers.items())
