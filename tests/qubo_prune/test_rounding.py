"""The recipe's `quantise`: kept weights on their grids at the very end, masks and budgets as they were."""

from __future__ import annotations

import signal
from typing import Any

import pytest
import torch
from torch import Tensor

from qubo_prune.api import prune
from qubo_prune.errors import InputError
from qubo_prune.layers import prunable_layers
from qubo_prune.progress import Progress
from qubo_prune.quantisation import quantise
from qubo_prune.recipe import Recipe
from qubo_prune.testing import tiny_llama, tiny_tokens


def windows(n: int = 32) -> Tensor:
    return tiny_tokens(n * 16, vocabulary=12).reshape(n, 16)


def recipe(**settings: Any) -> Recipe:
    return Recipe.parse({"refine": None, **settings})


@pytest.mark.parametrize("group", [None, 8])
@pytest.mark.parametrize("further", [{}, {"refit": {"learning_rate": 1e-3}}])
def test_the_result_is_what_rounding_makes_of_the_run_without_it(
    group: int | None, further: dict[str, Any]
) -> None:
    plain, rounded = tiny_llama(), tiny_llama()
    before = prune(plain, windows(), recipe(**further))
    after = prune(rounded, windows(), recipe(quantise={"bits": 3, "group": group}, **further))
    values = prunable_layers(plain)
    for name, layer in prunable_layers(rounded).items():
        assert torch.equal(layer.weight, quantise(values[name].weight, 3, group))
        assert torch.equal(after.masks[name], before.masks[name])
        assert not layer.weight[~after.masks[name]].any()
    last = before.recipe.stages[-1]
    assert after.figures[last] == before.figures[last]
    assert after.figures["quantised"] != after.figures[last]
    assert after.recipe.stages[-1] == "quantised"


def test_an_interrupted_run_is_rounded_too() -> None:
    def stop(progress: Progress) -> None:
        if progress.phase == "refit" and progress.done:
            raise KeyboardInterrupt

    model = tiny_llama()
    report = prune(model, windows(), recipe(quantise={"bits": 2}, refit={}), on_progress=stop)
    assert report.stopped == "interrupted"
    assert report.figures["quantised"] is not None
    assert all(len(row.unique()) <= 4 for la in prunable_layers(model).values() for row in la.weight)


def test_ctrl_c_while_rounding_leaves_no_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def interrupting(*args: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return quantise(*args)

    monkeypatch.setattr("qubo_prune.rounds.quantise", interrupting)
    model = tiny_llama()
    report = prune(model, windows(), recipe(quantise={"bits": 2}))
    assert report.stopped == "interrupted"
    assert len(calls) == 14
    assert all(len(row.unique()) <= 4 for la in prunable_layers(model).values() for row in la.weight)


def test_refusals() -> None:
    model = tiny_llama()
    with pytest.raises(InputError, match=r"5 does not divide: choose another quantise\.group"):
        prune(model, windows(), recipe(quantise={"group": 5}))
    learned = {"method": "besa", "quantise": {"bits": 4}}
    for part in ("rows", "refit", "reconstruct", "quantise"):
        with pytest.raises(InputError, match=f"{part} would leave the grids of allocation"):
            recipe(allocation=learned, **{part: {}})
