"""Fixtures of the pruning side's tests."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from qubo_prune.initial import initial_masks
from qubo_prune.layers import prunable_layers
from qubo_prune.objective import KLToDense
from qubo_prune.recipe import Recipe
from qubo_prune.refine import icbs
from qubo_prune.refine.evidence import teach
from qubo_prune.state import PruneState
from qubo_prune.testing import tiny_gpt2, tiny_tokens
from qubo_solvers import CardinalityQubo


@pytest.fixture
def solved(monkeypatch: pytest.MonkeyPatch) -> list[tuple[CardinalityQubo, Any]]:
    """(problem, solution) of every step of the loop, as it goes on."""
    found: list[tuple[CardinalityQubo, Any]] = []
    solve = icbs.solve_problem

    def watch(problem: CardinalityQubo, *args: Any, **kw: Any) -> Any:
        found.append((problem, solve(problem, *args, **kw)))
        return found[-1][1]

    monkeypatch.setattr(icbs, "solve_problem", watch)
    return found


@pytest.fixture
def loop() -> Callable[..., tuple[icbs.IcbsLoop, PruneState]]:
    """Makes a refinement of tiny GPT-2 with magnitude masks, and its state; keywords: those of IcbsLoop."""

    def make(recipe: dict[str, Any], **kw: Any) -> tuple[icbs.IcbsLoop, PruneState]:
        model = tiny_gpt2()
        layers = prunable_layers(model)
        state = PruneState(model, layers, initial_masks("magnitude", layers, 0.5))
        refine = Recipe.parse({"refine": recipe}).refine
        assert refine is not None
        batches = [tiny_tokens(16, seed).reshape(1, 16) for seed in range(12)]
        return icbs.IcbsLoop(
            state, KLToDense(), itertools.cycle(batches[:8]), teach(state, KLToDense(), batches[8:]), refine,
            lambda n: state.kept_values[n].abs(), **kw,
        ), state  # fmt: skip

    return make
