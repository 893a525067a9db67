"""Whole allocations in files: what is written is read, prune takes it as it takes the allocation itself."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from qubo_prune import prune
from qubo_prune.allocation import Allocation, allocate
from qubo_prune.allocation_file import found_in, header, read, write
from qubo_prune.allocation_settings import AlphaPruning, Besa
from qubo_prune.errors import InputError
from qubo_prune.forward import forward_of
from qubo_prune.layers import prunable_layers
from qubo_prune.preparation import Observed
from qubo_prune.recipe import Recipe
from qubo_prune.recipe_files import sparsity_in
from qubo_prune.testing import tiny_llama, tiny_tokens

BATCHES = [tiny_tokens(2 * 32, seed).reshape(2, 32) for seed in range(6)]


def found(**settings: Any) -> Allocation:
    """What besa finds for the tiny model."""
    model = tiny_llama()
    observed = Observed(model, forward_of(model), BATCHES)
    return allocate(prunable_layers(model), 0.5, Besa(steps=4, **settings), observed=observed)


def recipe(file: Path, **parts: Any) -> Recipe:
    return Recipe.parse({"allocation": {"method": "given", "file": str(file)}, "refine": None} | parts)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("settings", [{}, {"per": "row"}, {"quantise": {"bits": 3, "group": 8}}])
def test_written_read_and_pruned_by(settings: dict[str, Any], tmp_path: Path) -> None:
    file, allocation = tmp_path / "new" / "rates.safetensors", found(**settings)
    write(file, allocation, sparsity=0.5)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    again = read(file)
    for name in ("method", "counts", "sizes", "group", "seen", "norms", "details"):
        assert getattr(again, name) == getattr(allocation, name), name
    assert same(again.rows, allocation.rows)
    assert same(again.values, allocation.values)
    assert header(file)["more"] == {"sparsity": 0.5}
    assert sparsity_in(str(file)) == 0.5
    expected = [name for name, key in (("rows", "per"), ("values", "quantise")) if key in settings]
    assert found_in(file) == (expected, None)
    models = tiny_llama(), tiny_llama()
    by_file = prune(models[0], BATCHES, recipe(file))
    plain = Recipe.parse({"refine": None})
    by_itself = prune(models[1], BATCHES, plain, allocation=allocation)
    assert by_file.allocation == by_itself.allocation
    assert same(by_file.masks, by_itself.masks)
    assert same(models[0].state_dict(), models[1].state_dict())


def test_figures_that_are_not_finite(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    write(file, Allocation("owl", {"a": 1}, {"a": 2}, seen={"a": {"x": math.inf}}))
    assert read(file).seen == {"a": {"x": math.inf}}
    assert sparsity_in(str(file)) is None


def test_what_does_not_go_together(tmp_path: Path) -> None:
    rows, values = tmp_path / "rows.safetensors", tmp_path / "values.safetensors"
    write(rows, found(per="row"), sparsity=0.5)
    write(values, found(quantise={"bits": 3}), sparsity=0.5)
    with pytest.raises(InputError, match=r"gives each output a count: not with initial\.granularity layer"):
        recipe(rows, initial={"granularity": "layer"})
    with pytest.raises(InputError, match=r"gradual finds values of its own, .* allocation"):
        recipe(values, initial={"method": "gradual"})
    with pytest.raises(InputError, match="refit would leave the values of the allocation"):
        recipe(values, refit={})
    wrong = Recipe.parse({
        "allocation": {"method": "given", "file": str(rows), "rescale": True}, "refine": None,
    })  # fmt: skip
    refused(wrong, "is a whole allocation: leave rescale and group out")
    refused(recipe(rows, sparsity=0.6), r"it prunes 1,920 weights, and sparsity 0\.6 is")
    refused(recipe(rows, include=["*.mlp.*"]), "it is of other layers than those to prune")


@pytest.mark.parametrize(
    ("settings", "parts", "told"),
    [
        (
            {"quantise": {"bits": 3}},
            {"initial": {"method": "sparsegpt"}},
            "sparsegpt finds values of its own",
        ),
        ({"quantise": {"bits": 3}}, {"refit": {}}, "refit would leave the values of the allocation"),
        ({"per": "row"}, {"initial": {"granularity": "global"}}, "global shares out the budget"),
        ({"per": "row"}, {"reconstruct": {"method": "admm"}}, r"set reconstruct\.moves_mask to false"),
    ],
)
def test_prune_refuses_what_would_undo_an_allocation_found_before(
    settings: dict[str, Any], parts: dict[str, Any], told: str
) -> None:
    model, allocation = tiny_llama(), found(**settings)
    with pytest.raises(InputError, match=told):
        prune(model, BATCHES, Recipe.parse({"refine": None} | parts), allocation=allocation)
    assert same(model.state_dict(), tiny_llama().state_dict())


def test_a_refinement_keeps_counts_of_rows() -> None:
    allocation = found(per="row")
    free = {"candidates": {"max_flip": 1.0}, "trust": {"damping": 0.0}}
    refine = {"steps": 2, "windows": 2, "batch": 1, "accept": "always"} | free
    plain = Recipe.parse({"initial": {"method": "magnitude"}, "refine": refine})
    report = prune(tiny_llama(), BATCHES, plain, allocation=allocation)
    assert report.swaps > 0
    for name, rows in allocation.rows.items():
        assert torch.equal((~report.masks[name]).sum(1), rows)
    assert report.recipe.refine is not None
    assert report.recipe.refine.budget == "row"


def test_values_of_other_weights(tmp_path: Path) -> None:
    file = tmp_path / "values.safetensors"
    write(file, found(quantise={"bits": 3}), sparsity=0.5)
    with pytest.raises(InputError, match="made from other weights than this model has"):
        prune(tiny_llama(seed=3), BATCHES, recipe(file))
    prune(tiny_llama().bfloat16(), BATCHES, recipe(file))


def test_a_group_in_the_file_goes_with_no_granularity_of_the_masks(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    layers = prunable_layers(tiny_llama())
    write(file, allocate(layers, 0.5, AlphaPruning(group=8)), sparsity=0.5)
    assert found_in(file) == ([], 8)
    given = {"method": "given", "file": str(file)}
    with pytest.raises(InputError, match="granularity of its own"):
        Recipe.parse({"allocation": given, "initial": {"granularity": "layer"}})


def test_other_files(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    refused(recipe(file), "cannot be read")
    file.write_bytes(b"no tensors")
    refused(recipe(file), "cannot be read")
    for metadata in ({}, {"qubo_prune.allocation": "{"}, {"qubo_prune.allocation": '{"allocation": 1}'}):
        save_file({"weight": torch.zeros(1)}, file, metadata=metadata)
        refused(recipe(file), r"is no allocation.*--output rates\.safetensors")
        assert found_in(file) == ([], None)
    save_file({"weight": torch.zeros(1)}, file, metadata={
        "qubo_prune.allocation": json.dumps({"allocation": {"method": "owl"}, "more": {}})
    })  # fmt: skip
    refused(recipe(file), "is no allocation")
    allocation = found()
    name = next(iter(allocation.counts))
    for part, told in (({name: torch.zeros(2, 2)}, "they must be finite"), ({"b": torch.zeros(1)}, "'b' is")):
        write(file, Allocation("besa", allocation.counts, allocation.sizes, values=part))
        refused(recipe(file), told)


def refused(wrong: Recipe, told: str) -> None:
    """InputError, and the model as it was."""
    model = tiny_llama()
    with pytest.raises(InputError, match=told):
        prune(model, BATCHES, wrong)
    assert same(model.state_dict(), tiny_llama().state_dict())
