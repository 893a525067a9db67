"""What the budget of a refinement holds over: candidates against brute force, exact counts in every state."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import qubo_prune.refine.icbs as icbs
from qubo_prune.api import prune
from qubo_prune.errors import InputError
from qubo_prune.initial import initial_masks
from qubo_prune.layers import prunable_layers
from qubo_prune.masks import Masks, verify
from qubo_prune.patterns import Pattern
from qubo_prune.recipe import Recipe
from qubo_prune.refine.icbs import IcbsLoop
from qubo_prune.refine.pairs import (
    best_group_pairs,
    block_of_pairs,
    block_of_sides,
    cheapest_sides,
    whole_rows,
)
from qubo_prune.state import PruneState
from qubo_prune.testing import TINY_MODELS, tiny_gpt2, tiny_llama, tiny_tokens
from qubo_solvers import CardinalityQubo

Loop = Callable[..., tuple[IcbsLoop, PruneState]]

SMALL: dict[str, Any] = {
    "steps": 6,
    "windows": 4,
    "batch": 2,
    "chunk": 8,
    "candidates": {"per_side": 30, "max_flip": 1.0, "fixed_pruned": 0.0, "fixed_kept": 0.0},
    "gradient": {"estimate": "shrunk", "shrink": 0.5, "reliability": False, "clip": None},
    "curvature": {"chunk": 4},
    "trust": {"swaps": 12, "damping": 0.0},
}


def tokens() -> Tensor:
    return tiny_tokens(48 * 16).reshape(48, 16)


def random_layer(g: torch.Generator, rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """(cost, keep, free) with ties and flips that must not be made."""
    cost = (torch.randn(rows, columns, generator=g) * 3).round()
    cost[torch.rand(rows, columns, generator=g) < 0.1] = torch.inf
    keep = torch.rand(rows, columns, generator=g) < torch.rand(1, generator=g)
    return cost, keep, torch.rand(rows, columns, generator=g) < 0.8


# -- candidates ----------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 10**6),
    shapes=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6)), min_size=1, max_size=3),
    most=st.integers(1, 12),
    largest=st.one_of(st.none(), st.integers(2, 20)),
)
def test_exchange_takes_the_cheapest_of_all_layers(
    seed: int, shapes: list[tuple[int, int]], most: int, largest: int | None
) -> None:
    g = torch.Generator().manual_seed(seed)
    layers = {str(i): random_layer(g, *shape) for i, shape in enumerate(shapes)}
    block = block_of_sides({name: cheapest_sides(*t, most) for name, t in layers.items()}, largest)
    drops, adds = [], []
    for cost, keep, free in layers.values():
        flat, kept, open_ = cost.reshape(-1), keep.reshape(-1), free.reshape(-1)
        drops += sorted(flat[kept & open_].tolist())[: max(0, min(most, int(kept.sum()) - 1))]
        adds += sorted(flat[~kept & open_].tolist())[:most]
    pairs = [(a, b) for a, b in zip(sorted(drops), sorted(adds), strict=False) if a + b < 0]
    pairs = pairs[: None if largest is None else largest // 2]
    found: tuple[list[float], list[float]] = ([], [])
    for name, index in block.indices.items():
        cost, keep, free = (t.reshape(-1)[index] for t in layers[name])
        assert index.tolist() == sorted(set(index.tolist()))
        assert free.all()
        assert int(keep.sum()) < int(layers[name][1].sum()) or not keep.any()
        found[0].extend(cost[keep].tolist())
        found[1].extend(cost[~keep].tolist())
    assert sorted(found[0]) == [a for a, _ in pairs]
    assert sorted(found[1]) == [b for _, b in pairs]
    assert not block.indices or set(block.groups().tolist()) == {0}


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 5),
    columns=st.integers(1, 9),
    per_row=st.integers(2, 5),
    most=st.integers(1, 25),
)
def test_pairs_of_rows_are_the_best_of_every_row(
    seed: int, rows: int, columns: int, per_row: int, most: int
) -> None:
    cost, keep, free = random_layer(torch.Generator().manual_seed(seed), rows, columns)
    found = best_group_pairs(cost, keep, free, most, columns, per_row)
    expected = []
    for row in range(rows):
        drops = sorted(cost[row][keep[row] & free[row]].tolist())
        adds = sorted(cost[row][~keep[row] & free[row]].tolist())
        expected += [a + b for a, b in zip(drops, adds, strict=False) if a + b < 0][:per_row]
    assert found.cost.tolist() == sorted(expected)[:most]
    flat = cost.reshape(-1)
    assert (flat[found.drop] + flat[found.add]).tolist() == found.cost.tolist()
    assert len({*found.drop.tolist(), *found.add.tolist()}) == 2 * len(found.cost)
    assert keep.reshape(-1)[found.drop].all()
    assert not keep.reshape(-1)[found.add].any()
    assert free.reshape(-1)[torch.cat([found.drop, found.add])].all()
    assert torch.equal(found.drop // columns, found.add // columns)


@given(
    seed=st.integers(0, 10**6),
    rows=st.integers(1, 5),
    groups=st.integers(1, 3),
    per_row=st.integers(1, 5),
    most=st.integers(1, 25),
    by_group=st.booleans(),
)
def test_whole_rows_are_those_that_promise_most(
    seed: int, rows: int, groups: int, per_row: int, most: int, by_group: bool
) -> None:
    columns = 4 * groups
    cost, keep, free = random_layer(torch.Generator().manual_seed(seed), rows, columns)
    size, k = (4, 1) if by_group else (columns, per_row)
    every = best_group_pairs(cost, keep, free, cost.numel(), size, k)
    found = whole_rows(every, columns, per_row, most)
    of_row: dict[int, list[float]] = {}
    for drop, value in zip(every.drop.tolist(), every.cost.tolist(), strict=True):
        of_row.setdefault(drop // columns, []).append(value)
    best = {row: sorted(values)[:per_row] for row, values in of_row.items()}
    ranked = sorted((sum(values), row) for row, values in best.items())
    expected = [(total, row, value) for total, row in ranked for value in best[row]][:most]
    flat = cost.reshape(-1)
    assert found.cost.tolist() == [total for total, _, _ in expected]
    assert (found.drop // columns).tolist() == (found.add // columns).tolist()
    assert (found.drop // columns).tolist() == [row for _, row, _ in expected]
    assert (flat[found.drop] + flat[found.add]).tolist() == [value for _, _, value in expected]
    assert len({*found.drop.tolist(), *found.add.tolist()}) == 2 * len(expected)
    block = block_of_pairs({"a": found}, 4)
    assert block.size == min(4, 2 * len(expected))
    if len(expected) > 2:
        assert block.indices["a"].tolist() == sorted([*found.drop[:2].tolist(), *found.add[:2].tolist()])


# -- the loop ------------------------------------------------------------------------------------------


def merged(changes: dict[str, Any]) -> dict[str, Any]:
    both = {key: {**SMALL[key], **value} for key, value in changes.items() if isinstance(value, dict)}
    return {**SMALL, **changes, **both}


def total(masks: Masks) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


def per_layer(masks: Masks) -> list[int]:
    return [int((~mask).sum()) for mask in masks.values()]


def per_row(masks: Masks) -> list[list[int]]:
    return [(~mask).sum(1).tolist() for mask in masks.values()]


COUNTS: dict[str, Callable[[Masks], Any]] = {"row": per_row, "layer": per_layer, "global": total}


@pytest.mark.parametrize("budget", COUNTS)
@pytest.mark.parametrize(
    ("family", "concentrated"), [("llama", False), ("gpt2", False), ("opt", False), ("llama", True)]
)
def test_every_state_keeps_the_budget(
    budget: str, family: str, concentrated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every measurement, of whole steps and of their halves, kept or undone later."""
    seen: list[Masks] = []
    parts: list[icbs.Swaps] = []
    decide = icbs.keep_what_helps

    def watch(state: PruneState, swaps: icbs.Swaps, loss: float, measure: Any, most: int) -> Any:
        def measured() -> float:
            seen.append({name: mask.clone() for name, mask in state.masks.items()})
            return float(measure()) + (len(seen) % 3 == 0)  # every third is refused

        parts.append(swaps)
        return decide(state, swaps, loss, measured, most)

    monkeypatch.setattr(icbs, "keep_what_helps", watch)
    model = TINY_MODELS[family]()
    layers = prunable_layers(model)
    start = initial_masks("magnitude", layers, 0.5)
    refine = merged({"budget": budget, "candidates": {"concentrated": concentrated}})
    recipe = Recipe.parse({"initial": {"method": "magnitude"}, "refine": refine})
    report = prune(model, tokens(), recipe)
    assert report.swaps > 0
    assert len(seen) > len(parts) > 3  # some were halved
    count = COUNTS[budget]
    assert [count(masks) for masks in (*seen, report.masks)] == [count(start)] * (len(seen) + 1)
    verify(layers, report.masks)
    assert sum(report.swaps_by_layer.values()) == report.swaps
    assert report.to_dict()["sparsity"] == 0.5
    between = sum(int((s.from_layer != s.to_layer).sum()) for s in parts)
    assert (between > 0) == (budget == "global")


def test_the_problem_of_a_global_budget_has_one_count(solved: list[tuple[CardinalityQubo, Any]]) -> None:
    prune(tiny_llama(), tokens(), Recipe.parse({"refine": merged({"budget": "global"})}))
    assert solved
    for problem, _ in solved:
        assert problem.n_groups == 1
        assert problem.lower == problem.upper == problem.n // 2
        assert abs(problem.energy(problem.reference)) < 1e-9


def test_rows_that_have_more_than_one_swap(solved: list[tuple[CardinalityQubo, Any]]) -> None:
    """Groups of the problems are rows, of at most two times `per_row` weights, some of more than two."""
    changes = merged({"budget": "row", "scope": "one_layer", "candidates": {"per_row": 3}})
    prune(tiny_gpt2(), tokens(), Recipe.parse({"refine": changes}))
    problems = [problem for problem, _ in solved]
    sizes = [int(size) for problem in problems for size in problem.group_sizes()]
    assert set(sizes) == {2, 4, 6}
    assert all((problem.lower == problem.group_sizes() // 2).all() for problem in problems)
    assert all(abs(problem.energy(problem.reference)) < 1e-9 for problem in problems)


def rows_of(run: IcbsLoop, state: PruneState) -> tuple[int, int]:
    """(variables, output rows) of the block of a first step."""
    names = tuple(state.layers)
    run.evidence.collect(names, 0.0)
    block = run.choice.choose(0, names, run.evidence)
    rows = [(i // state.layers[name].shape[1]).unique() for name, i in block.indices.items()]
    return block.size, sum(map(len, rows))


@pytest.mark.parametrize("budget", COUNTS)
def test_concentrated_candidates_stand_in_fewer_rows(budget: str, loop: Loop) -> None:
    found = {}
    for concentrated in (False, True):
        candidates = {"concentrated": concentrated, "max_variables": 60}
        found[concentrated] = rows_of(*loop(merged({"budget": budget, "candidates": candidates})))
    assert found[True][0] == found[False][0] == 60
    assert found[True][1] < 0.7 * found[False][1]


def test_concentrated_candidates_keep_a_pattern() -> None:
    refine = merged({"candidates": {"concentrated": True, "per_row": 3}})
    report = prune(tiny_gpt2(), tokens(), Recipe.parse({"pattern": "2:4", "refine": refine}))
    assert report.swaps > 0
    assert all(Pattern(2, 4).holds(mask) for mask in report.masks.values())


@pytest.mark.parametrize("left", [0, 1, 5])
def test_no_layer_is_emptied(left: int) -> None:
    """Every flip of one layer promises much, and it has few weights left: one of them stays."""
    layers = prunable_layers(tiny_llama())
    masks = initial_masks("magnitude", layers, 0.5)
    first = next(iter(layers))
    masks[first] = torch.zeros_like(masks[first])
    masks[first][0, :left] = True
    cost = {name: torch.full(mask.shape, -1.0 if name == first else 0.1) for name, mask in masks.items()}
    block = block_of_sides(
        {name: cheapest_sides(cost[name], mask, torch.ones_like(mask), 500) for name, mask in masks.items()},
        None,
    )
    kept = masks[first].reshape(-1)[block.indices[first]]
    assert int(kept.sum()) == max(0, left - 1)


@pytest.mark.parametrize("budget", COUNTS)
@pytest.mark.parametrize("at", range(2, 7))
def test_an_interrupt_restores_the_last_recorded_masks(budget: str, at: int, loop: Loop) -> None:
    recorded: list[Masks] = []
    run, state = loop(
        merged({"budget": budget}),
        on_step=lambda _: recorded.append({n: m.clone() for n, m in state.masks.items()}),
    )
    start = {n: m.clone() for n, m in state.masks.items()}
    calls = itertools.count(1)
    measure = run._measure

    def stop() -> float:
        if next(calls) == at:
            raise KeyboardInterrupt
        return measure()

    run._measure = stop  # type: ignore[method-assign]
    result = run.run()
    last = recorded[-1] if recorded else start
    assert result.stopped == "interrupted"
    assert all(torch.equal(state.masks[n], last[n]) for n in last)
    assert COUNTS[budget](state.masks) == COUNTS[budget](start)
    assert sum(result.swaps_by_layer.values()) == result.swaps
    verify(state.layers, state.masks, state.kept_values)


def test_same_seed_same_masks(loop: Loop) -> None:
    curves = []
    for _ in range(2):
        run, _state = loop(merged({"budget": "global"}), seed=3)
        curves.append([(r.swaps_kept, r.predicted_change, r.loss) for r in run.run().curve])
    assert curves[0] == curves[1]


# -- recipes -------------------------------------------------------------------------------------------


def test_a_pattern_keeps_its_own_counts() -> None:
    """Whatever the budget is, with a pattern the masks are those of the default."""
    masks = []
    for budget in ("layer", *COUNTS):
        recipe = Recipe.parse({"pattern": "2:4", "refine": merged({"budget": budget, "steps": 3})})
        masks.append(prune(tiny_llama(), tokens(), recipe).masks)
    for other in masks[1:]:
        assert all(torch.equal(mask, other[name]) for name, mask in masks[0].items())


def test_refusals() -> None:
    with pytest.raises(InputError, match="candidates by random cannot be concentrated"):
        Recipe.parse(
            {
                "refine": {
                    "scope": "one_layer",
                    "candidates": {"criterion": "random", "concentrated": True},
                }
            }
        )
    with pytest.raises(InputError, match="candidates by wanda are not chosen within rows"):
        Recipe.parse(
            {"refine": {"budget": "row", "scope": "one_layer", "candidates": {"criterion": "wanda"}}}
        )
    with pytest.raises(InputError, match=r"set refine\.scope to all_layers"):
        Recipe.parse({"refine": {"budget": "global", "scope": "one_layer"}})
    with pytest.raises(InputError, match=r"refine\.budget"):
        Recipe.parse({"refine": {"budget": "block"}})
