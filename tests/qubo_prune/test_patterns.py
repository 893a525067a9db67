"""N:M patterns: first masks against brute force, refinement within the groups, recipes, refusals."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qubo_prune.api import prune
from qubo_prune.blocks import Block
from qubo_prune.cli.output import assignments
from qubo_prune.errors import InputError
from qubo_prune.initial import METHODS, Evidence, initial_masks
from qubo_prune.layers import prunable_layers
from qubo_prune.mask_file import load_masks
from qubo_prune.masks import verify
from qubo_prune.objective import KLToDense
from qubo_prune.patterns import Pattern
from qubo_prune.recipe import Recipe
from qubo_prune.refine import icbs
from qubo_prune.refine.pairs import best_group_pairs, block_of_pairs
from qubo_prune.saving import save_model
from qubo_prune.statistics.gram import collect_norms
from qubo_prune.statistics.label_pass import collect_diagonal
from qubo_prune.testing import TINY_MODELS, tiny_gpt2, tiny_llama, tiny_mlp, tiny_tokenizer, tiny_tokens
from qubo_solvers import CardinalityQubo

SMALL: dict[str, Any] = {
    "calibration": {"windows": 8},
    "refine": {
        "steps": 6,
        "windows": 4,
        "batch": 2,
        "chunk": 8,
        "candidates": {"per_side": 30, "max_flip": 1.0, "fixed_pruned": 0.0, "fixed_kept": 0.0},
        "gradient": {"estimate": "shrunk", "shrink": 0.5, "reliability": False, "clip": None},
        "curvature": {"chunk": 4},
        "trust": {"swaps": 12, "damping": 0.0},
    },
}


def tokens() -> Tensor:
    return tiny_tokens(48 * 16).reshape(48, 16)


def lowest(scores: Tensor, kept: int, group: int) -> Tensor:
    """The mask by a stable sort of every group: the lowest scores go, of equal ones the first."""
    mask = torch.ones(scores.shape, dtype=torch.bool)
    for row in range(scores.shape[0]):
        for start in range(0, scores.shape[1], group):
            places = sorted(range(start, start + group), key=lambda j: float(scores[row, j]))
            mask[row, places[: group - kept]] = False
    return mask


def test_reading() -> None:
    assert Pattern.parse("2:4") == Pattern(2, 4)
    assert (str(Pattern.parse(" 4 : 8 ")), Pattern(1, 4).sparsity) == ("4:8", 0.75)
    for text in ("4:2", "4:4", "0:4", "2/4", "2:4:8", "", "-1:4"):
        with pytest.raises(InputError, match=r"write N:M with 1 <= N < M"):
            Pattern.parse(text)


@pytest.mark.parametrize("text", ["2:4", "4:8", "1:4", "5:8"])
@pytest.mark.parametrize("method", METHODS)
def test_first_masks_are_the_best_of_every_group(method: str, text: str) -> None:
    """Conv1D layers too, which store (in, out); with ties."""
    model, pattern = tiny_gpt2(), Pattern.parse(text)
    layers = prunable_layers(model)
    for layer in layers.values():
        layer.weight.copy_((layer.weight * 8).round())
    batches = [tiny_tokens(40).reshape(2, 20)]
    moments = collect_norms(model, layers, batches)
    diagonal = collect_diagonal(model, layers, batches, KLToDense())
    gradients = {name: torch.randn(layer.shape).round() for name, layer in layers.items()}
    evidence = Evidence(moments, gradients, diagonal, seed=3)
    masks = initial_masks(method, layers, pattern.sparsity, evidence=evidence, pattern=pattern)
    assert list(masks) == list(layers)
    for name, layer in layers.items():
        assert torch.equal(masks[name], lowest(METHODS[method].scores(layer, evidence), *groups(pattern)))
        assert pattern.holds(masks[name])


def groups(pattern: Pattern) -> tuple[int, int]:
    return pattern.kept, pattern.group


def test_holds() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 1, 0, 1, 0]], dtype=torch.bool)
    assert Pattern(2, 4).holds(mask)
    other = torch.tensor([[1, 1, 1, 0, 1, 0, 0, 0]], dtype=torch.bool)
    assert not Pattern(2, 4).holds(other)
    assert Pattern(4, 8).holds(other)
    assert not Pattern(1, 3).holds(mask)


# -- candidates and groups ------------------------------------------------------------------------------


@given(seed=st.integers(0, 10**6), group=st.sampled_from([2, 4, 8]), most=st.integers(1, 20))
def test_pairs_are_the_best_of_every_group(seed: int, group: int, most: int) -> None:
    g = torch.Generator().manual_seed(seed)
    cost = torch.randn(3, 16, generator=g)
    cost[torch.rand(3, 16, generator=g) < 0.2] = torch.inf
    keep = torch.rand(3, 16, generator=g) < 0.5
    free = torch.rand(3, 16, generator=g) < 0.8
    found = best_group_pairs(cost, keep, free, most, group)
    expected = []
    flat, kept, open_ = cost.reshape(-1), keep.reshape(-1), free.reshape(-1)
    for start in range(0, 48, group):
        places = [i for i in range(start, start + group) if open_[i]]
        sums = [float(flat[a] + flat[b]) for a in places for b in places if kept[a] and not kept[b]]
        if sums and min(sums) < 0:
            expected.append(min(sums))
    assert found.cost.tolist() == pytest.approx(sorted(expected)[:most])
    torch.testing.assert_close(flat[found.drop] + flat[found.add], found.cost)
    assert kept[found.drop].all()
    assert not kept[found.add].any()
    assert torch.equal(found.drop // group, found.add // group)
    assert (open_[found.drop] & open_[found.add]).all()


def test_groups_of_a_block() -> None:
    block = Block({"a": torch.tensor([0, 3, 8, 9]), "b": torch.tensor([0, 2, 7])}, {"a": 4, "b": 4})
    assert block.groups().tolist() == [0, 0, 1, 1, 2, 2, 3]
    cost = torch.tensor([[-1.0, -1.0, 5.0, 5.0, -2.0, 5.0, -2.0, 5.0]])
    keep = torch.tensor([[True, False] * 2 + [True, True, False, False]])
    pairs = {"a": best_group_pairs(cost, keep, torch.ones_like(keep), 9, 4)}
    assert block_of_pairs(pairs, None, {"a": 4}).indices["a"].tolist() == [0, 1, 4, 6]
    assert block_of_pairs(pairs, 2, {"a": 4}).indices["a"].tolist() == [4, 6]


# -- the whole way --------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("text", ["2:4", "4:8"])
def test_refinement_keeps_every_group(family: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern, model = Pattern.parse(text), TINY_MODELS[family]()
    layers = prunable_layers(model)
    seen: list[Mapping[str, Tensor]] = []
    decide = icbs.keep_what_helps

    def watch(state: Any, swaps: Any, loss: float, measure: Any, most: int) -> Any:
        """Every part that is tried, kept or undone has whole groups."""

        def measured() -> float:
            seen.append({name: mask.clone() for name, mask in state.masks.items()})
            return float(measure())

        return decide(state, swaps, loss, measured, most)

    monkeypatch.setattr(icbs, "keep_what_helps", watch)
    report = prune(model, tokens(), Recipe.parse(SMALL | {"pattern": text}))
    assert report.swaps > 0
    assert len(seen) > 3
    for masks in (*seen, report.masks):
        assert all(pattern.holds(mask) for mask in masks.values())
    verify(layers, report.masks)
    assert report.to_dict()["sparsity"] == pattern.sparsity
    assert report.figures["accept_refined"] < report.figures["accept_initial"]


def test_the_problems_have_a_count_for_each_group(solved: list[tuple[CardinalityQubo, Any]]) -> None:
    prune(tiny_llama(), tokens(), Recipe.parse(SMALL | {"pattern": "2:4"}))
    assert solved
    for problem, _ in solved:
        assert (problem.group_sizes() == 2).all()
        assert (problem.lower == 1).all()
        assert (problem.upper == 1).all()
        assert abs(problem.energy(problem.reference)) < 1e-9


def test_one_layer_a_step() -> None:
    settings = SMALL["refine"] | {"scope": "one_layer", "steps": 16}
    recipe = Recipe.parse(SMALL | {"pattern": "4:8", "refine": settings})
    report = prune(tiny_gpt2(), tokens(), recipe)
    assert report.swaps > 0
    assert all(Pattern(4, 8).holds(mask) for mask in report.masks.values())


def test_masks_reload(tmp_path: Path) -> None:
    model = tiny_gpt2()
    report = prune(model, tokens(), Recipe.parse({"pattern": "2:4", "refine": None}))
    save_model(model, tiny_tokenizer(), report.masks, tmp_path / "out")
    found = load_masks(tmp_path / "out")
    assert all(torch.equal(found[name], mask) for name, mask in report.masks.items())
    assert all(Pattern(2, 4).holds(mask) for mask in found.values())


# -- recipes and refusals -------------------------------------------------------------------------------


def test_recipes(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    for line in ("pattern: 1:4", "pattern: '1:4'"):  # the first is the number 64 in YAML 1.1
        file.write_text(f"sparsity: 0.75\n{line}\n")
        recipe = Recipe.load(str(file))
        assert recipe.pattern == "1:4"
        file.write_text(recipe.to_yaml())
        assert Recipe.load(str(file)) == recipe
    recipe = Recipe.load("default", assignments(["pattern=2:4"]))  # as --set has it
    assert recipe.pattern == "2:4"
    for data, message in (
        ({"pattern": "4:2"}, r"write N:M with 1 <= N < M"),
        ({"pattern": "1:4"}, r"pattern 1:4 prunes 0\.75 of each layer: set sparsity"),
        ({"pattern": "2:4", "initial": {"granularity": "output"}}, "leave initial.granularity out"),
        ({"pattern": [2, 4]}, "pattern: .*string"),
    ):
        with pytest.raises(InputError, match=message):
            Recipe.parse(data)
    with pytest.raises(InputError, match="candidates by gradient are not chosen within the groups"):
        Recipe.load("icbs-paper", {"pattern": "2:4", "initial.granularity": None})
    assert Recipe.load("default", {"pattern": "2:4", "refine.solver.name": "tabu"}).pattern == "2:4"


def test_what_is_refused_changes_nothing() -> None:
    model = tiny_mlp()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"layer '0' has 6 inputs, which cannot be cut into groups of 4"):
        prune(model, torch.randn(12, 6), Recipe(pattern="2:4"), loss=lambda m, b: m(b).square().mean())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    layers = prunable_layers(tiny_llama())
    with pytest.raises(InputError, match=r"'model.layers.0.self_attn.q_proj' \(and 13 more\) has 16 inputs"):
        initial_masks("magnitude", layers, 2 / 5, pattern=Pattern(3, 5))
    for sparsity in (0.4, dict.fromkeys(layers, 3)):
        with pytest.raises(InputError, match=r"set sparsity to that"):
            initial_masks("magnitude", layers, sparsity, pattern=Pattern(2, 4))
    with pytest.raises(InputError, match="leave the granularity out"):
        initial_masks("magnitude", layers, 0.5, "layer", pattern=Pattern(2, 4))
