"""Pairs by joint cost: against loops, against the quadratic model that iCBS builds, and through the loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qubo_prune.api import prune
from qubo_prune.errors import InputError
from qubo_prune.layers import prunable_layers
from qubo_prune.recipe import Recipe
from qubo_prune.refine.correlated import correlated_pairs
from qubo_prune.testing import tiny_llama, tiny_tokens

OUT, IN = 5, 9


def case(seed: int) -> dict[str, Any]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(20, IN, generator=g)
    gram = x.t() @ x / 20
    cost = torch.randn(OUT, IN, generator=g)
    cost[torch.rand(OUT, IN, generator=g) < 0.1] = torch.inf
    return {
        "cost": cost,
        "keep": torch.rand(OUT, IN, generator=g) < 0.5,
        "free": torch.rand(OUT, IN, generator=g) < 0.8,
        "values": torch.randn(OUT, IN, generator=g),
        "outputs": torch.rand(OUT, generator=g) * 2,
        "entries": lambda i, j: gram[i, j],
    }


def by_loops(c: dict[str, Any], most: int, per_row: int) -> list[tuple[float, int, int]]:
    found = []
    for o in range(OUT):
        sides: list[list[int]] = []
        for kept in (True, False):
            able = [
                i for i in range(IN)
                if c["free"][o, i] and bool(c["keep"][o, i]) == kept and c["cost"][o, i] < torch.inf
            ]  # fmt: skip
            sides.append(sorted(able, key=lambda i: float(c["cost"][o, i]))[:per_row])
        drops, adds = sides
        while drops and adds:
            best = min(
                (
                    float(
                        c["cost"][o, i] + c["cost"][o, j]
                        - c["outputs"][o] * c["entries"](i, j) * c["values"][o, i] * c["values"][o, j]
                    ),
                    i, j,
                )
                for i in drops for j in adds
            )  # fmt: skip
            if best[0] >= 0:
                break
            found.append((best[0], o * IN + best[1], o * IN + best[2]))
            drops.remove(best[1])
            adds.remove(best[2])
    return sorted(found)[:most]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("most", "per_row"), [(100, 9), (100, 2), (4, 9), (100, 50)])
def test_pairs_are_those_of_loops(seed: int, most: int, per_row: int) -> None:
    c = case(seed)
    found = correlated_pairs(**c, most=most, per_row=per_row)
    expected = by_loops(c, most, per_row)
    got = list(zip(found.cost.tolist(), found.drop.tolist(), found.add.tolist(), strict=True))
    assert [(i, j) for _, i, j in got] == [(i, j) for _, i, j in expected]
    assert [v for v, _, _ in got] == pytest.approx([v for v, _, _ in expected], rel=1e-5)


def test_nothing_improves() -> None:
    c = case(0)
    c["cost"], c["outputs"] = torch.ones(OUT, IN), torch.zeros(OUT)
    assert not len(correlated_pairs(**c, most=10, per_row=4).drop)


def windows(n: int = 32) -> Tensor:
    return tiny_tokens(n * 16, vocabulary=12).reshape(n, 16)


REFINE: dict[str, Any] = {
    "steps": 3, "windows": 4, "batch": 4, "gradient": {"reliability": False, "clip": None},
    "candidates": {"per_side": 20, "max_flip": 1.0, "correlated": True, "per_row": 8},
    "curvature": {"gram": True}, "trust": {"swaps": 8, "damping": 0.0},
}  # fmt: skip


@pytest.mark.parametrize("further", [{}, {"concentrated": True}])
@pytest.mark.parametrize("budget", ["row", "layer", "global"])
def test_the_loop_goes_by_them_and_keeps_counts(budget: str, further: dict[str, Any]) -> None:
    model = tiny_llama()
    refine = REFINE | {"budget": budget, "candidates": REFINE["candidates"] | further}
    report = prune(model, windows(), Recipe.parse({"refine": refine}))
    start = prune(tiny_llama(), windows(), Recipe.parse({"refine": None}))
    assert report.swaps > 0
    total = sum(int(mask.sum()) for mask in start.masks.values())
    assert sum(int(mask.sum()) for mask in report.masks.values()) == total
    for name in prunable_layers(model):
        if budget != "global":
            assert int(report.masks[name].sum()) == int(start.masks[name].sum())
        if budget == "row":
            assert torch.equal(report.masks[name].sum(1), start.masks[name].sum(1))


@pytest.mark.parametrize("further", [{}, {"concentrated": True}])
def test_no_layer_is_emptied(further: dict[str, Any]) -> None:
    """Every weight of one layer is worth pruning, and each of the other one's worth having."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8, bias=False), nn.Linear(8, 64, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.a(x).sum(1) - self.b(x).sum(1)
            return found * 1e-4

    g = torch.Generator().manual_seed(0)
    data = [torch.rand(8, 8, generator=g) + 1 for _ in range(16)]
    refine = {
        "budget": "global", "accept": "always", "steps": 2, "windows": 16,
        "candidates": {
            "fixed_kept": 0, "fixed_pruned": 0, "max_flip": 1e9, "correlated": True, "per_row": 8, **further
        },
        "curvature": {"gram": True}, "trust": {"swaps": 400, "damping": 0.0},
        "gradient": {"reliability": False, "estimate": "shrunk", "shrink": 0.0},
    }  # fmt: skip
    settings = {"initial": {"method": "random", "granularity": "output"}, "refine": refine}

    def masks_of(model: nn.Module, **changed: Any) -> dict[str, Tensor]:
        return prune(model, data, Recipe.parse(settings | changed), loss=lambda m, batch: m(batch)).masks

    model, first = Two(), masks_of(Two(), refine=None)  # random masks look at no weight
    with torch.no_grad():
        model.a.weight.copy_(torch.where(first["a"], 2.0, 1.0))
        model.b.weight.copy_(torch.where(first["b"], 0.5, 2.0))
    masks = masks_of(model)
    assert int(masks["a"].sum()) == 1
    assert sum(int(mask.sum()) for mask in masks.values()) == 36 * 8


def test_refusals() -> None:
    with pytest.raises(InputError, match="correlated candidates go by gain and by Gram blocks"):
        Recipe.parse({"refine": REFINE | {"curvature": {"gram": False}}})
    for way in ({"pattern": "2:4"}, {"allocation": {"method": "alphapruning", "group": 8}}):
        model = tiny_llama()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(InputError, match="correlated candidates are paired within rows"):
            prune(model, windows(), Recipe.parse({"refine": REFINE} | way))
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
