"""The recipes that ship: each keeps its kind of budget and runs through prune(), steps cut short."""

from typing import Any

import pytest
import torch

from qubo_prune import prune
from qubo_prune.recipe import Recipe
from qubo_prune.recipe_files import builtin_recipes
from qubo_prune.selection import prune_count
from qubo_prune.testing import tiny_llama, tiny_tokens

NAMES = [name for name in builtin_recipes() if name.split("-")[0] in ("fast", "balanced", "best")]


def test_there_is_one_for_each_kind_of_budget() -> None:
    expected = {f"{name}{kind}" for name in ("fast", "balanced", "best") for kind in ("", "-rows", "-2-4")}
    assert set(NAMES) == expected


@pytest.mark.parametrize("name", NAMES)
def test_budgets(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.refit is not None
    short: dict[str, Any] = {"calibration.windows": 8}
    short["refit.learning_rate"] = 1e-3 if recipe.refit.rank is None else 1e-2
    if recipe.calibration.own:
        short["calibration.own"] = 4
    if recipe.refine is not None:
        short |= {"refine.steps": 2, "refine.trust.swaps": 8, "refine.candidates.max_flip": 1.0}
    report = prune(
        tiny_llama(), tiny_tokens(32 * 16, vocabulary=12).reshape(32, 16), Recipe.load(name, short)
    )
    total = sum(mask.numel() for mask in report.masks.values())
    assert sum(int((~mask).sum()) for mask in report.masks.values()) == prune_count(total, 0.5)
    for mask in report.masks.values():
        if name.endswith("-rows"):
            assert torch.equal(mask.sum(1), torch.full((mask.shape[0],), mask.shape[1] // 2))
        if name.endswith("-2-4"):
            assert bool((mask.reshape(-1, 4).sum(1) == 2).all())
    assert report.figures["refit"] <= report.figures["initial"]


def test_masks_leaves_the_kept_weights_as_they_came() -> None:
    model, dense = tiny_llama(), tiny_llama()
    short = {"calibration.windows": 8, "refine.steps": 2, "refine.trust.swaps": 8}
    windows = tiny_tokens(32 * 16, vocabulary=12).reshape(32, 16)
    report = prune(model, windows, Recipe.load("masks", short | {"refine.candidates.max_flip": 1.0}))
    assert report.swaps > 0
    for name, mask in report.masks.items():
        weight = dense.get_submodule(name).weight
        assert torch.equal(model.get_submodule(name).weight, torch.where(mask, weight, 0.0))
