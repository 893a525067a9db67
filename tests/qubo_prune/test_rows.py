"""Row problems: energies are the errors they stand for, counts hold, errors fall, weights may change rows."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from qubo_prune.api import Data, prune
from qubo_prune.forward import forward_of
from qubo_prune.initial import initial_masks
from qubo_prune.layers import prunable_layers
from qubo_prune.layerwise import LayerChange
from qubo_prune.recipe import Recipe
from qubo_prune.refine import exchange as exchange_module
from qubo_prune.refine import rows as rows_module
from qubo_prune.refine.exchange import exchange, prices
from qubo_prune.refine.rows import Rows, row_batch
from qubo_prune.selection import keep_topk, nm_mask
from qubo_prune.sequential import walk
from qubo_prune.state import PruneState
from qubo_prune.statistics.paths import PathEvidence, PathMoments
from qubo_prune.testing import TINY_MODELS, tiny_llama, tiny_tokens
from qubo_solvers import RowBatch

pytestmark = pytest.mark.slow


def layer(rows: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, PathMoments]:
    """(kept values, mask, original, moments) of a layer with correlated inputs on two paths."""
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(n, n, generator=g) + torch.eye(n)
    x = torch.randn(200, n, generator=g) @ mix
    moments = PathMoments()
    moments.add(x, 0.3 * torch.randn(200, n, generator=g))
    original = torch.randn(rows, n, generator=g)
    values = original * (1 + 0.1 * torch.randn(rows, n, generator=g))
    return values, keep_topk(values.abs(), rows * n // 2, "output"), original, moments


@pytest.mark.parametrize("drifting", [False, True])
@pytest.mark.parametrize("refitted", [False, True])
def test_energies_are_changes_of_the_error(drifting: bool, refitted: bool) -> None:
    values, mask, original, moments = layer(5, 12)
    values = values if refitted else original
    evidence = PathEvidence(original, moments if drifting else PathMoments(moments.tokens, moments.xx))
    batch = row_batch(values, mask, original, evidence.gram(), evidence.drift())
    assert batch.energies(~mask).abs().max() < 1e-4
    before = evidence.errors(torch.where(mask, values, 0))
    for seed in range(5):
        order = torch.rand(mask.shape, generator=torch.Generator().manual_seed(seed))
        other = keep_topk(order, mask.numel() // 2, "output")
        found = batch.energies(~other)
        expected = evidence.errors(torch.where(other, values, 0)) - before
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3 * float(before.max()))
    assert (batch.linear is None) == (not drifting and not refitted)


@pytest.mark.parametrize("family", TINY_MODELS)
@pytest.mark.parametrize(("budget", "blend"), [("row", 0.0), ("row", 0.5), ("layer", 0.0)])
def test_counts_hold_and_no_error_rises(family: str, budget: str, blend: float) -> None:
    model = TINY_MODELS[family]()
    layers = prunable_layers(model)
    state = PruneState(model, layers, initial_masks("magnitude", layers, 0.5, "output"))
    rows = {name: mask.sum(1) for name, mask in state.masks.items()}
    kept = {name: values.clone() for name, values in state.kept_values.items()}
    counts = state.pruned_counts()
    data = [tiny_tokens(64, seed).reshape(4, 16) for seed in range(6)]
    method = Rows(budget=budget)  # type: ignore[arg-type]
    records = walk(state, forward_of(model), data, method, blend=blend, held_out=0.3)
    assert state.pruned_counts() == counts
    assert all(r.error_after <= r.error_before for r in records)
    assert any(r.error_after < 0.98 * r.error_before for r in records)
    assert all(torch.equal(state.kept_values[name], kept[name]) for name in layers)
    assert all(float(r.details["predicted_change"]) <= 1e-6 for r in records)
    if budget == "row":
        assert all(torch.equal(state.masks[name].sum(1), rows[name]) for name in layers)
    else:
        assert any(r.changed and float(r.details["moved_between_rows"]) > 0 for r in records)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8)])
def test_patterns_hold_within_every_group(n: int, m: int) -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    masks = {name: nm_mask(found.weight.abs(), n, m) for name, found in layers.items()}
    state = PruneState(model, layers, masks)
    data = [tiny_tokens(64, seed).reshape(4, 16) for seed in range(6)]
    records = walk(state, forward_of(model), data, Rows(patterns=dict.fromkeys(layers, (n, m))), held_out=0.3)
    assert any(r.changed for r in records)
    for mask in state.masks.values():
        assert bool((mask.reshape(len(mask), -1, m).sum(2) == n).all())


def solved(method: Any) -> tuple[RowBatch, Tensor]:
    """The row problems of a small layer, and the mask that the method ends with."""
    values, mask, original, moments = layer(4, 8)
    evidence = PathEvidence(original, moments)
    batch = row_batch(values, mask, original, evidence.gram(), evidence.drift())
    change = Rows(method)("layer", torch.where(mask, values, 0), mask, evidence)
    return batch, mask if change.mask is None else change.mask


def test_descent_ends_where_no_swap_improves() -> None:
    batch, chosen = solved("descent")
    found = batch.energies(~chosen)
    for r in range(4):
        for i, j in itertools.product(range(8), repeat=2):
            if chosen[r, i] and not chosen[r, j]:
                other = chosen.clone()
                other[r, i], other[r, j] = False, True
                assert (
                    float(batch.energies(~other)[r]) >= float(found[r]) - 1e-4 * abs(float(found[r])) - 1e-4
                )


def test_rows_are_solved_to_the_best_by_enumeration() -> None:
    batch, chosen = solved("anneal")
    every = torch.tensor([z for z in itertools.product((0, 1), repeat=8) if sum(z) == 4], dtype=torch.bool)
    found = batch.energies(~chosen)
    for r in range(4):
        rows = torch.zeros(len(every), 4, 8, dtype=torch.bool)
        rows[:, r] = every
        best = min(float(batch.energies(z)[r]) for z in rows)
        assert float(found[r]) == pytest.approx(best, abs=1e-3 * abs(best) + 1e-4)


def test_prices_are_changes_of_the_energy() -> None:
    values, mask, original, moments = layer(3, 10)
    evidence = PathEvidence(original, moments)
    batch = row_batch(values, mask, original, evidence.gram(), evidence.drift())
    price, cheapest, gain, dearest = prices(batch, ~mask)
    for r in range(3):
        more, fewer = (~mask).clone(), (~mask).clone()
        more[r, cheapest[r]], fewer[r, dearest[r]] = True, False
        assert float(batch.energies(more)[r]) == pytest.approx(float(price[r]), rel=1e-3, abs=1e-3)
        assert -float(batch.energies(fewer)[r]) == pytest.approx(float(gain[r]), rel=1e-3, abs=1e-3)


def test_exchange_keeps_the_total_and_lowers_the_energy() -> None:
    _, mask, original, moments = layer(16, 24)
    original = original * torch.linspace(0.2, 2, 16)[:, None]  # some rows matter more than others
    evidence = PathEvidence(original, moments)
    batch = row_batch(original, mask, original, evidence.gram())
    start = float(batch.energies(~mask).sum())
    found = exchange([batch], ~mask, start)
    assert int(found.pruned.sum()) == int((~mask).sum())
    assert found.moved > 0
    assert found.energy < start
    assert found.energy == pytest.approx(float(batch.energies(found.pruned).sum()), rel=1e-6)
    counts = found.pruned.sum(1).double()
    assert float(counts[:4].mean()) > float(counts[-4:].mean())


def test_rounds_have_fewer_trades_only_after_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    _, mask, original, moments = layer(64, 24)
    original = original * torch.linspace(0.2, 2, 64)[:, None]
    batch = row_batch(original, mask, original, PathEvidence(original, moments).gram())
    asked: list[int] = []
    pairs = exchange_module._pairs

    def spied(price: Tensor, gain: Tensor, most: int) -> tuple[Tensor, Tensor]:
        asked.append(most)
        return pairs(price, gain, most)

    monkeypatch.setattr(exchange_module, "_pairs", spied)
    start = float(batch.energies(~mask).sum())
    one = exchange([batch], ~mask, start, rounds=1)
    assert one.energy < start
    asked.clear()
    found = exchange([batch], ~mask, start)
    assert asked[:2] == [32, 32]
    assert found.energy < one.energy
    assert exchange([batch], ~mask, start, time_limit=1e-9).moved == 0


def test_where_trading_does_harm_on_held_out_data_rows_keep_their_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values, mask, original, moments = layer(16, 24)
    evidence = PathEvidence(original, moments)
    kept = torch.where(mask, values, 0)

    def harmful(batches: object, pruned: Tensor, energy: float, **_: object) -> exchange_module.Exchanged:
        return exchange_module.Exchanged(torch.ones_like(pruned), energy - 1, 5)

    row = Rows()("layer", kept, mask, evidence)
    monkeypatch.setattr(rows_module, "exchange", harmful)
    traded = Rows(budget="layer")("layer", kept, mask, evidence)
    assert row.mask is not None
    assert traded.mask is not None
    assert torch.equal(traded.mask, row.mask)
    assert traded.details == row.details


def test_a_block_whose_output_gets_worse_is_put_back() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    state = PruneState(model, layers, initial_masks("magnitude", layers, 0.5))
    masks = {name: mask.clone() for name, mask in state.masks.items()}
    kept = {name: values.clone() for name, values in state.kept_values.items()}
    data = [tiny_tokens(64, seed).reshape(4, 16) for seed in range(4)]

    def worse(name: str, weight: Tensor, mask: Tensor, evidence: object) -> LayerChange:
        return LayerChange(values=-weight) if ".0." in name else LayerChange()

    for blend in (0.0, 0.5):
        records = walk(state, forward_of(model), data, worse, blend=blend, held_out=0.3, by_block=True)
        assert all(not r.changed and r.error_after == r.error_before for r in records)
        assert all(("undone" in r.details) == (".0." in r.layer) for r in records)
        assert all(torch.equal(state.masks[name], masks[name]) for name in layers)
        assert all(torch.equal(state.kept_values[name], kept[name]) for name in layers)


@pytest.mark.parametrize("refine", [None, {"steps": 1, "windows": 2, "candidates": {"max_flip": 1.0}}])
def test_row_problems_are_a_phase_of_prune(refine: dict[str, Any] | None) -> None:
    data = Data(
        *([tiny_tokens(64, s).reshape(4, 16) for s in range(*part)] for part in ((4,), (4, 6), (6, 8)))
    )
    seen: list[str] = []
    recipe = Recipe.parse({"rows": {"method": "anneal", "budget": "layer"}, "refine": refine})
    report = prune(tiny_llama(), data, recipe, on_masks=lambda name, model: seen.append(name))
    assert seen == ["initial", "rows", "refined"]
    assert report.figures["rows"] is not None
    assert len(report.walks["rows"]) == len(report.masks)
    assert sum(int((~m).sum()) for m in report.masks.values()) * 2 == sum(
        m.numel() for m in report.masks.values()
    )


@pytest.mark.parametrize("refine", [None, {"steps": 2, "windows": 2, "candidates": {"max_flip": 1.0}}])
def test_row_problems_and_refinement_keep_the_patterns_of_an_allocation(
    refine: dict[str, Any] | None,
) -> None:
    recipe = Recipe.parse(
        {"allocation": {"method": "alphapruning", "group": 4}, "rows": {"by_block": False}, "refine": refine}
    )
    data = Data(
        [tiny_tokens(64, s).reshape(4, 16) for s in range(4)], [tiny_tokens(64, 9).reshape(4, 16)], []
    )
    report = prune(tiny_llama(), data, recipe)
    assert any(record.changed for record in report.walks["rows"])
    for mask in report.masks.values():
        assert len(mask.reshape(len(mask), -1, 4).sum(2).unique()) == 1
