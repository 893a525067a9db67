"""The described recipe is the recipe, and every described setting is described in it."""

import pytest
import yaml

from qubo_prune.recipe import Recipe
from qubo_prune.recipe_files import builtin_recipes
from qubo_prune.recipe_text import WIDTH, described


@pytest.mark.parametrize("name", [*builtin_recipes()])
def test_it_is_the_recipe(name: str) -> None:
    recipe = Recipe.load(name)
    text = described(recipe)
    assert yaml.safe_load(text) == recipe.model_dump(mode="json") == yaml.safe_load(recipe.to_yaml())
    assert Recipe.parse(yaml.safe_load(text)) == recipe
    assert max(map(len, text.splitlines())) <= WIDTH


def test_what_settings_mean_stands_beside_them() -> None:
    text = described(Recipe.parse({
        "allocation": {"method": "besa", "quantise": {"bits": 3}}, "pattern": None, "include": ["*.mlp.*"],
    }))  # fmt: skip
    assert "sparsity: 0.5  # share of the pruned layers' weights that become zero\n" in text
    assert "\ninclude: ['*.mlp.*']  # layer name patterns" in text
    assert "\n  steps: 100  # gradient steps a block" in text
    assert "\n  # what a block is to answer" in text
    assert "\n    bits: 3" in text


def test_groups_that_are_left_out_stand_there_as_comments() -> None:
    """Without the marks of comments they are these groups with what is usual."""
    text = described(Recipe.parse({"refine": None}))
    names = ("rows", "refine", "reconstruct", "refit", "quantise")
    lines = [line.removeprefix("# ") if line.startswith("#   ") else line for line in text.splitlines()]
    for name in names:
        (at,) = [i for i, line in enumerate(lines) if line.startswith(f"{name}: null")]
        lines[at] = f"{name}:"
    recipe = Recipe.parse(yaml.safe_load("\n".join(lines)))
    usual = Recipe.parse({name: {} for name in names})
    assert recipe == usual
    assert "None" not in text
    assert ".py" not in text
