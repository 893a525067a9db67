"""Recipes: YAML there and back, overrides, and one message that names every wrong field."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from qubo_prune.allocation_settings import AlphaPruning, Fisher, Owl
from qubo_prune.errors import InputError
from qubo_prune.icbs_settings import Icbs
from qubo_prune.recipe import Recipe
from qubo_prune.recipe_files import builtin_recipes
from qubo_prune.recipe_parts import Initial


def write(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", builtin_recipes())
def test_round_trip(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    assert Recipe.load(write(tmp_path, recipe.to_yaml())) == recipe
    assert Recipe.parse(recipe.model_dump(mode="json")) == recipe


def test_every_field_survives(tmp_path: Path) -> None:
    changed = Recipe.parse(
        {
            "sparsity": 0.7,
            "seed": 3,
            "include": ["*.mlp.*"],
            "exclude": ["re:^a"],
            "objective": "cross_entropy",
            "initial": {"method": "random", "granularity": "input"},
            "refine": {
                "trust": None,
                "chunk": None,
                "solver": {"name": "anneal", "options": {"restarts": 3}},
            },
            "reconstruct": {"method": "admm", "blend": 0.5, "damping": [1.0], "moves_mask": False},
        }
    )
    assert Recipe.load(write(tmp_path, changed.to_yaml())) == changed
    assert Recipe.load(write(tmp_path, Recipe(refine=None).to_yaml())).refine is None


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert Recipe.load(write(tmp_path, "")) == Recipe()


def test_the_papers_recipe() -> None:
    recipe = Recipe.load("icbs-paper")
    r = recipe.refine
    assert r is not None
    c = r.candidates
    assert (recipe.initial.method, recipe.initial.granularity) == ("wanda", "output")
    assert (r.scope, r.accept, r.trust, r.windows, r.chunk) == ("one_layer", "always", None, 16, None)
    assert (c.criterion, c.block_size, round(c.block_size * c.block_pruned)) == ("gradient", 4096, 2048)
    assert (c.fixed_pruned, c.fixed_kept, r.tabu_fraction) == (0.42, 0.35, 0.40)
    assert (r.gradient.gamma, r.gradient.discount, r.gradient.shrink) == (0.75, 0, 0)
    assert (r.curvature.kind, r.curvature.scale_by_tokens) == ("empirical_fisher", False)
    assert (r.curvature.ridge, r.curvature.chunk, r.steps) == (0.001, None, 3000)


def test_overrides() -> None:
    recipe = Recipe.load("default", {"sparsity": 0.6, "refine.trust.swaps": 7, "refine.solver.name": "tabu"})
    assert recipe.refine is not None
    assert recipe.refine.trust is not None
    assert (recipe.sparsity, recipe.refine.trust.swaps, recipe.refine.solver.name) == (0.6, 7, "tabu")
    assert Recipe.load("default", {"refine": None}).refine is None
    assert Recipe.load("icbs-paper", {"refine.trust": None, "refine.trust.swaps": 3}).refine is not None
    with pytest.raises(InputError, match=r"cannot set 'sparsity.x'"):
        Recipe.load("default", {"sparsity.x": 1})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sparsity": 0.0}, r"sparsity: .*greater than 0 \(got 0.0\)"),
        ({"sparsity": 1.0}, r"sparsity: .*less than 1 \(got 1.0\)"),
        ({"sparsity": float("nan")}, "sparsity"),
        ({"sparsity": "half"}, r"sparsity: .*got 'half'"),
        ({"sparsty": 0.5}, r"sparsty: there is no such setting; did you mean sparsity"),
        ({"objective": "loss"}, "objective: .*'kl' or 'cross_entropy'"),
        ({"initial": {"method": "best"}}, "initial.method: .*'wanda'"),
        ({"initial": {"granularity": "row"}}, "initial.granularity"),
        ({"initial": {"damping": -1}}, "initial.damping"),
        ({"initial": {"method": "sparsegpt", "granularity": "global"}}, "set initial.granularity to layer"),
        ({"initial": {"method": "gradual", "granularity": "global"}}, "gradual goes layer by layer"),
        ({"initial": {"method": "wanda", "values": "original"}}, "leave initial.values out"),
        ({"initial": {"method": "sparsegpt", "blend": 0.5}}, "leave initial.blend out"),
        ({"initial": {"damping": 0.1}}, "wanda has no Gram matrix to damp: leave damping out"),
        ({"initial": {"damping": float("inf"), "method": "gradual"}}, "initial.damping: .*finite"),
        ({"initial": {"stages": 3}}, "stages are of gradual"),
        ({"initial": {"output_power": 0.1}}, "wanda has no gradients of outputs"),
        (
            {"initial": {"method": "gradual", "granularity": "output", "output_power": 0.1}},
            "within an output all weights share",
        ),
        ({"refine": {"curvature": {"kind": "empirical_fisher", "labels": 4}}}, "samples no labels"),
        ({"initial": None}, "some of method, .* below it, or leave it out"),
        ({"refine": 3}, "some of steps, .* below it, or null for none"),
        ({"allocation": None}, "some of method, metric, .* below it, or leave it out"),
        ({"allocation": {"method": "besa", "per": "row"}, "reconstruct": {"method": "admm"}}, "moves_mask"),
        ({"reconstruct": {"moves_mask": False}}, "moves_mask is of admm"),
        ({"rows": {"options": {"seed": 3}}}, "rows: descent has no option seed"),
        ({"rows": {"method": "tabu", "options": {"steps": 0}}}, "tabu"),
        ({"pattern": "2:4", "allocation": "owl"}, "set allocation to uniform, or take a recipe whose"),
        ({"reconstruct": {"method": "gradient"}}, "reconstruct.method"),
        ({"reconstruct": {"blend": 1.5}}, "reconstruct.blend"),
        ({"reconstruct": {"damping": []}}, "reconstruct.damping"),
        ({"reconstruct": {"damping": [0.1, -1]}}, "reconstruct.damping.1"),
        ({"reconstruct": {"held_out": 1}}, "reconstruct.held_out"),
        ({"reconstruct": {"granularity": "global"}}, "reconstruct.granularity"),
        ({"calibration": {"windows": 0}}, "calibration.windows: .*greater than or equal to 1"),
        ({"refine": {"steps": -1}}, "refine.steps"),
        ({"refine": {"time_limit": 0}}, "refine.time_limit"),
        ({"refine": {"accept": "maybe"}}, "refine.accept"),
        ({"refine": {"tabu_fraction": 1.0}}, "refine.tabu_fraction"),
        ({"refine": {"candidates": {"max_variables": 1}}}, "refine.candidates.max_variables"),
        ({"refine": {"candidates": {"fixed_kept": 1}}}, "refine.candidates.fixed_kept"),
        ({"refine": {"candidates": {"block_pruned": 0}}}, "refine.candidates.block_pruned"),
        ({"refine": {"candidates": {"max_flip": 0}}}, "refine.candidates.max_flip"),
        ({"refine": {"gradient": {"gamma": 0}}}, "refine.gradient.gamma"),
        ({"refine": {"gradient": {"discount": 1.1}}}, "refine.gradient.discount"),
        ({"refine": {"gradient": {"shrink": -1}}}, "refine.gradient.shrink"),
        ({"refine": {"curvature": {"kind": "hessian"}}}, "refine.curvature.kind"),
        ({"refine": {"curvature": {"ridge": -1}}}, "refine.curvature.ridge"),
        ({"refine": {"trust": {"shrink": 1}}}, "refine.trust.shrink"),
        ({"refine": {"trust": {"grow": 0.5}}}, "refine.trust.grow"),
        ({"refine": {"trust": {"max_measurements": 0}}}, "refine.trust.max_measurements"),
        ({"refine": {"solver": {"time_limit": -1}}}, "refine.solver.time_limit"),
        ({"refine": {"curvature": {"kind": "mean_gradient"}}}, "scale_by_tokens to false"),
        ({"refine": {"curvature": {"kind": "exact_hessian"}}}, "512 variables: set .*max_variables"),
        (
            {
                "refine": {
                    "scope": "one_layer",
                    "candidates": {"criterion": "wanda"},
                    "curvature": {"kind": "exact_hessian"},
                }
            },
            "512 variables: set .*block_size",
        ),
        ({"refine": None, "rounds": 2}, "and there is none: leave rounds out"),
        ({"refine": {"steps": 0}, "rounds": 3}, "and there is none: leave rounds out"),
        ({"refine": {"candidates": {"criterion": "random"}}}, "by random are of one layer"),
        ({"refine": {"scope": "one_layer", "trust": None}}, "need a trust region: set refine.trust"),
    ],
)
def test_what_is_wrong_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        Recipe.parse(data, "recipe 'mine'")
    assert str(error.value).startswith("recipe 'mine' is not a valid recipe:\n")
    assert "Value error" not in str(error.value)
    with pytest.raises(ValidationError):
        Recipe.model_validate(data)


def test_every_wrong_field_is_in_one_message() -> None:
    with pytest.raises(InputError) as error:
        Recipe.parse({"sparsity": 2, "refine": {"steps": "x", "what": 1}})
    assert [line.split(":")[0].strip() for line in str(error.value).splitlines()[1:]] == [
        "sparsity",
        "refine.steps",
        "refine.what",
    ]


def test_assignments_are_validated() -> None:
    recipe = Recipe()
    with pytest.raises(ValidationError):
        recipe.sparsity = 3


def test_what_was_assigned_inside_a_part_is_looked_at_again() -> None:
    recipe = Recipe.parse({"allocation": {"method": "fisher"}, "refine": {"budget": "global"}})
    assert recipe.checked() == recipe
    assert recipe.refine is not None
    recipe.refine.candidates.criterion = "gradient"
    with pytest.raises(InputError, match="candidates by gradient are of one layer"):
        recipe.checked()


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one of balanced, balanced-2-4, .*, default, .*icbs-paper"):
        Recipe.load("no-such-recipe")
    with pytest.raises(InputError, match="no recipe"):
        Recipe.load(str(tmp_path))
    with pytest.raises(InputError, match="not YAML"):
        Recipe.load(write(tmp_path, "sparsity: [0.5"))
    with pytest.raises(InputError, match="must be a mapping"):
        Recipe.load(write(tmp_path, "- 1\n- 2\n"))
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match="cannot be read"):
        Recipe.load(str(tmp_path / "binary.yaml"))
    with pytest.raises(InputError, match=r"(?s)recipe\.yaml' is not a valid recipe.*sparsity"):
        Recipe.load(write(tmp_path, "sparsity: 7"))


def test_another_allocation_comes_without_the_settings_of_the_first() -> None:
    found = Recipe.load("fast", {"allocation.epsilon": 0.1, "allocation.method": "alphapruning"}).allocation
    assert found == AlphaPruning(epsilon=0.1)
    same = Recipe.load("fast", {"allocation.method": "fisher", "allocation.floor": 0.1}).allocation
    assert same == Fisher(strength=0.7, floor=0.1)
    with pytest.raises(InputError, match=r"allocation\.epsilon"):
        Recipe.load("fast", {"allocation.epsilon": 0.1})


def test_a_file_may_name_the_allocation_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("allocation: fisher\n")
    assert Recipe.load(str(file)).allocation == Fisher()
    assert Recipe.load(str(file), {"allocation.strength": 0.5}).allocation == Fisher(strength=0.5)
    assert Recipe.load(str(file), {"allocation.method": "owl"}).allocation == Owl()


def test_rows_of_the_first_mask_stay_rows() -> None:
    rows = {"initial": {"granularity": "output"}}
    refine = Recipe.parse(rows).refine
    assert refine is not None
    assert refine.budget == "row"
    assert (Recipe.parse(rows | {"refine": {"budget": "layer"}}).refine or refine).budget == "layer"
    assert (Recipe.parse({}).refine or refine).budget == "layer"
    learned = {"allocation": {"method": "besa", "per": "row"}}
    assert (Recipe.parse(learned).refine or refine).budget == "row"
    mine = Icbs()
    assert (Recipe(initial=Initial(granularity="output"), refine=mine).refine or mine).budget == "row"
    assert mine.budget == "layer"


def test_a_pattern_on_top_brings_its_sparsity() -> None:
    assert Recipe.load("default", {"pattern": "1:4"}).sparsity == 0.75
    assert Recipe.load("default", {"pattern": 124}).sparsity == 0.5  # what YAML makes of 2:4
    with pytest.raises(InputError, match="set sparsity to that"):
        Recipe.load("default", {"pattern": "1:4", "sparsity": 0.5})
