"""Output weights through the walk and through prune(): evidence against whole passes, budgets, what the masks
keep, and refusals."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qubo_prune.layer_phases
from qubo_prune.api import Data, prune
from qubo_prune.errors import InputError
from qubo_prune.forward import forward_of
from qubo_prune.initial import initial_masks
from qubo_prune.layers import prunable_layers
from qubo_prune.layerwise import LayerChange, LayerEvidence
from qubo_prune.masks import verify
from qubo_prune.objective import CrossEntropy, KLToDense
from qubo_prune.progress import Progress
from qubo_prune.recipe import Recipe
from qubo_prune.refine.rows import Rows
from qubo_prune.sequential import walk
from qubo_prune.state import PruneState
from qubo_prune.statistics.output_weights import OutputWeights, collect_output_weights
from qubo_prune.testing import TINY_MODELS, inputs_of, tiny_llama, tiny_tokens

pytestmark = pytest.mark.slow


def batches(n: int = 3) -> list[Tensor]:
    return [tiny_tokens(2 * (16 + seed), seed, 12).reshape(2, -1) for seed in range(n)]


def pruned(family: str) -> PruneState:
    model = TINY_MODELS[family]()
    layers = prunable_layers(model)
    return PruneState(model, layers, initial_masks("magnitude", layers, 0.5, "output"))


def weights_of(state: PruneState, data: list[Tensor], groups: int) -> OutputWeights:
    with state.dense():
        return collect_output_weights(state.model, state.layers, data, KLToDense(), groups)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize(("groups", "blend"), [(1, 0.0), (3, 0.4)])
def test_evidence_is_that_of_whole_passes(family: str, groups: int, blend: float) -> None:
    state, data = pruned(family), batches()
    weights = weights_of(state, data, groups)
    seen: list[str] = []

    def watch(name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        seen.append(name)
        layer, original = state.layers[name], state.original(name).double()
        x = inputs_of(state.model, layer, data)
        with state.dense():
            xt = (1 - blend) * x + blend * inputs_of(state.model, layer, data)
        every = torch.cat([call for calls in weights.positions[name] for call in calls], 1).double()
        fit = sum(batch.numel() for batch in data[:-1])
        assert evidence.tokens == fit
        assert len(evidence.groups) == groups
        errors = torch.empty(len(weight), dtype=torch.float64)
        for (rows, part), s in zip(evidence.groups, every, strict=True):
            w, held = s[:fit, None] / s[:fit].sum(), s[fit:, None] / s[fit:].sum()
            scale = float(x.square().max())
            torch.testing.assert_close(
                part.gram().double(), x[:fit].T @ (w * x[:fit]), rtol=1e-4, atol=1e-5 * scale
            )
            torch.testing.assert_close(
                part.cross().double(), x[:fit].T @ (w * xt[:fit]), rtol=1e-4, atol=1e-5 * scale
            )
            assert torch.equal(part.original, evidence.original[rows])
            gap = x[fit:] @ weight[rows].double().T - xt[fit:] @ original[rows].T
            errors[rows] = (held * gap.square()).sum(0)
        torch.testing.assert_close(evidence.errors(weight), errors, rtol=1e-3, atol=1e-6)
        prices = weights.prices(name)
        assert evidence.prices is not None
        assert torch.equal(evidence.prices, prices)
        assert evidence.error(weight) == pytest.approx(float((errors * prices).sum()), rel=1e-3)
        return LayerChange(values=weight * 1.1)

    forward = forward_of(state.model)
    records = walk(state, forward, data, watch, blend=blend, held_out=0.3, weights=weights)
    assert sorted(seen) == sorted(state.layers)
    assert all(r.changed and 0 < r.error_before < 10 for r in records)
    verify(state.layers, state.masks, state.kept_values)


def test_blocks_are_judged_by_their_weights() -> None:
    """A change that lowers a block's error where the loss looks stands, and one that raises it does not."""
    state, data = pruned("llama"), batches()
    weights = weights_of(state, data, 2)
    for better in (True, False):

        def method(
            name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence, better: bool = better
        ) -> LayerChange:
            return LayerChange(values=state.original(name) if better else -weight, mask=torch.ones_like(mask))

        saved = state.saved()
        records = walk(
            state, forward_of(state.model), data, method,
            held_out=0.3, by_block=True, keeps_budget=False, weights=weights,
        )  # fmt: skip
        assert all(("undone" in r.details) != better for r in records)
        state.restore(saved)


class Halves(nn.Module):
    """A layer of eight inputs; samples use the first four, which are large, or the last four."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 6, bias=False)
        self.layer.weight.data.sign_()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


def test_rows_keep_what_the_loss_looks_at() -> None:
    """The loss looks at the samples of the second kind alone: with weights so do the row problems."""
    g = torch.Generator().manual_seed(0)
    kind = torch.arange(40) % 2
    data = []
    for _ in range(4):
        x = torch.zeros(40, 8)
        x[kind == 0, :4] = 5 * torch.randn(20, 4, generator=g)
        x[kind == 1, 4:] = torch.randn(20, 4, generator=g)
        data.append(x)

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        y = model(x)
        return nn.functional.cross_entropy(y, y.detach().argmax(1), reduction="none") * (x[:, 0] == 0)

    kept = {}
    for groups in (None, 1, 3):
        torch.manual_seed(0)
        model = Halves()
        rows = {"by_block": False, "held_out": 0.0, "output_weights": groups}
        recipe = Recipe.parse(
            {
                "initial": {"method": "random", "granularity": "output"},
                "rows": rows,
                "refine": None,
                "include": ["*"],
            }
        )
        report = prune(model, Data(data, data), recipe, loss=loss)
        kept[groups] = report.masks["layer"]
    assert bool(kept[None][:, :4].all())
    for groups in (1, 3):
        assert bool(kept[groups][:, 4:].all())


@pytest.mark.parametrize(("family", "groups"), [("llama", 4), ("gpt2", 1), ("qwen2", 3)])
def test_all_phases_of_prune(family: str, groups: int) -> None:
    data = Data(batches(3), batches(2), batches(1))
    model = TINY_MODELS[family]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[Progress] = []
    recipe = Recipe.parse({
        "sparsity": 0.55,
        "initial": {"method": "sparsegpt", "output_weights": groups},
        "rows": {"budget": "layer", "output_weights": groups},
        "reconstruct": {"output_weights": groups, "accept": "always", "held_out": 0.3},
        "refine": None,
    })  # fmt: skip
    report = prune(model, data, recipe, on_progress=seen.append)
    layers = prunable_layers(model)
    for name, layer in layers.items():
        assert int((~report.masks[name]).sum()) in (int(layer.numel * 0.55), int(layer.numel * 0.55) + 1)
        assert not layer.weight[~report.masks[name]].any()
    total = sum(layer.numel for layer in layers.values())
    assert sum(int((~mask).sum()) for mask in report.masks.values()) == int(total * 0.55 + 0.5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) or name.removesuffix(".weight") in layers
    assert [p.done for p in seen if p.phase == "output weights"] == list(range(4))  # once for all phases
    for walked in ("rows", "reconstruct"):
        assert all(r.error_after <= r.error_before for r in report.walks[walked])
    assert any(r.changed for r in report.walks["reconstruct"])
    assert report.to_dict()["recipe"]["rows"]["output_weights"] == groups


@pytest.mark.parametrize("rows", [{"budget": "row"}, {"budget": "row", "blend": 0.5}, {"method": "anneal"}])
def test_row_counts_and_other_numbers_of_groups(rows: dict[str, Any]) -> None:
    seen: list[Progress] = []
    reconstruct = {"method": "admm", "granularity": "layer", "output_weights": 1, "accept": "always"}
    changes = {"rows": {**rows, "output_weights": 2}, "reconstruct": reconstruct, "refine": None}
    masks: dict[str, dict[str, Tensor]] = {}

    def keep(name: str, model: nn.Module) -> None:
        masks[name] = {n: layer.weight != 0 for n, layer in prunable_layers(model).items()}

    data = Data(batches(3), batches(2), batches(1))
    report = prune(tiny_llama(), data, Recipe.parse(changes), on_progress=seen.append, on_masks=keep)
    assert len([p for p in seen if p.phase == "output weights" and not p.done]) == 2
    for name, mask in masks["initial"].items():
        assert torch.equal(mask.sum(1), masks["rows"][name].sum(1))
        assert int(report.masks[name].sum()) == int(mask.sum())
    assert any(r.changed for r in report.walks["rows"])


def test_patterns_hold() -> None:
    weighted = {"output_weights": 3}
    for initial in ({"method": "wanda"}, {"method": "sparsegpt", **weighted}):
        recipe = Recipe.parse({"pattern": "2:4", "initial": initial, "rows": {"budget": "layer", **weighted},
                               "refine": None})  # fmt: skip
        report = prune(tiny_llama(), Data(batches(3), []), recipe)
        assert all(bool((m.reshape(len(m), -1, 4).sum(2) == 2).all()) for m in report.masks.values())


def test_equal_weights_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all weights and prices alike the masks are those without weights."""
    real = collect_output_weights

    def even(*args: Any, **options: Any) -> OutputWeights:
        found = real(*args, **options)
        flat = {n: [[torch.ones_like(c) for c in calls] for calls in b] for n, b in found.positions.items()}
        return OutputWeights(flat, found.mean_squares, power=0.0)

    monkeypatch.setattr(qubo_prune.layer_phases, "collect_output_weights", even)
    masks = []
    for groups in (None, 1, 3):
        rows = {"budget": "layer", "output_weights": groups}
        report = prune(tiny_llama(), Data(batches(3), []), Recipe.parse({"rows": rows, "refine": None}))
        masks.append(report.masks)
    for other in masks[1:]:
        same = sum(int((other[n] == mask).sum()) for n, mask in masks[0].items())
        assert same >= 0.999 * sum(mask.numel() for mask in masks[0].values())


def test_a_layer_that_sees_other_inputs_than_in_the_dense_model() -> None:
    class Router(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.expert = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            out = y[:, :2].clone()
            chosen = y[:, 0] > 0
            out[chosen] = out[chosen] + self.expert(y[chosen])
            return out

    torch.manual_seed(0)
    model, x = Router(), torch.randn(1, 9, 3)[0]
    state = PruneState(model, prunable_layers(model))
    objective = CrossEntropy(labels=lambda batch: torch.zeros(1, 9, dtype=torch.int64),
                             logits=lambda m, batch: m(batch)[None])  # fmt: skip
    weights = collect_output_weights(model, state.layers, [x], objective)

    def harm(name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        return LayerChange(values=-weight)

    with pytest.raises(InputError, match="'expert' sees other numbers of inputs in the dense model"):
        walk(state, model, [x], harm, weights=weights)


def test_a_method_that_knows_no_groups_is_told() -> None:
    state, data = pruned("llama"), batches()
    weights = weights_of(state, data, 2)

    def plain(name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        evidence.gram()
        return LayerChange()

    with pytest.raises(InputError, match="2 groups with moments of their own"):
        walk(state, forward_of(state.model), data, plain, weights=weights)
    walk(state, forward_of(state.model), data, Rows(), weights=weights)
    walk(state, forward_of(state.model), data, plain, weights=weights_of(state, data, 1))


def test_recipes() -> None:
    for part in ("rows", "reconstruct"):
        with pytest.raises(InputError, match=f"{part}.output_weights: .*greater than or equal to 1"):
            Recipe.parse({part: {"output_weights": 0}})
    with pytest.raises(InputError, match=r"wanda has no errors of outputs to weight: set initial\.method"):
        Recipe.parse({"initial": {"output_weights": 1}})
    assert Recipe.parse({"rows": {"output_weights": 4}}).rows.output_weights == 4  # type: ignore[union-attr]
