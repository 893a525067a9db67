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
