"""The recipe's allocation: its three forms, short forms, YAML there and back, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from qubo_prune.allocation_settings import AlphaPruning, Given, Uniform
from qubo_prune.errors import InputError
from qubo_prune.recipe import Recipe


def test_recipes_without_one_are_uniform() -> None:
    assert Recipe().allocation == Uniform()
    assert Recipe.parse({"sparsity": 0.6}).allocation == Uniform()
    assert Recipe.parse({"allocation": {}}).allocation == Uniform()


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        ("alphapruning", AlphaPruning()),
        ({"method": "alphapruning", "epsilon": 0.1, "per": "mixed"}, AlphaPruning(epsilon=0.1, per="mixed")),
        ({"method": "given", "rates": {"*": 0.5}}, Given(rates={"*": 0.5})),
        ({"method": "given", "file": "rates.json", "rescale": True}, Given(file="rates.json", rescale=True)),
        ({"method": "given", "rates": {"*": 0.5}, "group": 8}, Given(rates={"*": 0.5}, group=8)),
        ("uniform", Uniform()),
    ],
)
def test_forms(data: Any, wanted: Any, tmp_path: Path) -> None:
    recipe = Recipe.parse({"allocation": data})
    assert recipe.allocation == wanted
    (tmp_path / "mine.yaml").write_text(recipe.to_yaml())
    assert Recipe.load(str(tmp_path / "mine.yaml")) == recipe


def test_overrides() -> None:
    named = {"allocation.method": "alphapruning", "allocation.epsilon": 0.2}
    assert Recipe.load("default", named).allocation == AlphaPruning(epsilon=0.2)
    assert Recipe.load("icbs-paper", {"allocation": "alphapruning"}).allocation == AlphaPruning()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"allocation": "besst"}, r"allocation: no such method: there are uniform, .*'besst'"),
        ({"allocation": {"epsilon": 0.2}}, r"allocation\.epsilon: there is no such setting"),
        ({"allocation": {"method": "alphapruning", "epsilon": 1.1}}, r"allocation\.epsilon: .*got 1\.1"),
        ({"allocation": {"method": "alphapruning", "metric": "size"}}, r"allocation\.metric: .*'alpha'"),
        ({"allocation": {"method": "alphapruning", "ceiling": 1}}, r"allocation\.ceiling"),
        ({"allocation": {"method": "alphapruning", "group": 1}}, r"allocation\.group"),
        ({"allocation": {"method": "owl", "search": [0.1, 0.6]}}, r"allocation\.search\.1"),
        (
            {"allocation": {"method": "alphapruning", "floor": 0.8, "ceiling": 0.7}},
            "floor 0.8 is above ceiling",
        ),
        (
            {"allocation": {"method": "alphapruning", "epsilon_within": 0.1}},
            "epsilon_within is of per: mixed",
        ),
        (
            {"allocation": {"method": "alphapruning", "tail": "mid", "published_peak": True}},
            "is of tail: peak",
        ),
        ({"allocation": {"method": "given"}}, "either rates or file"),
        ({"allocation": {"method": "given", "rates": {"*": 0.5}, "file": "x"}}, "either rates or file"),
        (
            {"allocation": {"method": "given", "rates": {"*": 0.5}, "group": 8, "rescale": True}},
            "rescale would leave the multiples",
        ),
        (
            {
                "allocation": {"method": "given", "rates": {"*": 0.5}, "group": 8},
                "initial": {"granularity": "output"},
                "refine": None,
            },
            "leave initial.granularity out",
        ),
        ({"allocation": {"method": "given", "rates": {"*": "much"}}}, r"allocation\.rates\.\*: .*got 'much'"),
        (
            {"allocation": "alphapruning", "initial": {"granularity": "global"}},
            "global shares out the budget: not with allocation alphapruning",
        ),
        (
            {
                "allocation": {"method": "alphapruning", "group": 8},
                "refine": {"scope": "one_layer", "candidates": {"criterion": "wanda"}},
            },
            "candidates of N:M patterns are chosen by gain",
        ),
        (
            {
                "allocation": {"method": "besa", "per": "row", "quantise": {"bits": 4}},
                "initial": {"method": "sparsegpt"},
            },
            "sparsegpt finds values of its own",
        ),
        (
            {"allocation": {"method": "besa", "quantise": {"bits": 4}}, "reconstruct": {}},
            "reconstruct would leave the grids",
        ),
        (
            {"allocation": "alphapruning", "pattern": "2:4"},
            "pattern 2:4 is the same in each layer: set allocation to uniform",
        ),
        (
            {
                "allocation": {"method": "alphapruning", "group": 8},
                "initial": {"granularity": "output"},
                "refine": None,
            },
            "leave initial.granularity out",
        ),
    ],
)
def test_what_is_wrong_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Recipe.parse(data)


def test_groups_of_a_file_go_with_what_groups_go_with(tmp_path: Path) -> None:
    file = tmp_path / "rates.yaml"
    rule = {"method": "given", "file": str(file)}
    one_layer = {"scope": "one_layer", "candidates": {"criterion": "wanda"}}
    wrong = {
        "leave initial.granularity out": {"initial": {"granularity": "layer"}, "refine": None},
        "candidates of N:M patterns are chosen by gain": {"refine": one_layer},
    }
    for changes in wrong.values():
        for text in (None, "rates: {'*': 0.5}", "'*': 0.5", "- 1", "rates: {'*': 0.5}\ngroup: many"):
            if text is not None:
                file.write_text(text)
            Recipe.parse({"allocation": rule, **changes})
        file.unlink()
    file.write_text("group: 8\nrates: {'*': 0.5}")
    for message, changes in wrong.items():
        with pytest.raises(InputError, match=message):
            Recipe.parse({"allocation": rule, **changes})
    Recipe.parse({"allocation": rule, "refine": {"steps": 0}})
