"""SparseGPT and reconstruction through prune(): budgets, the way back, Ctrl-C and errors, figures."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import qubo_prune.reconstruct
from qubo_prune import prune, save_model
from qubo_prune.api import Data
from qubo_prune.errors import InputError
from qubo_prune.layers import prunable_layers
from qubo_prune.layerwise import LayerChange, LayerEvidence
from qubo_prune.mask_file import load_masks
from qubo_prune.objective import KLToDense
from qubo_prune.progress import Progress
from qubo_prune.recipe import Recipe
from qubo_prune.report import PruneReport
from qubo_prune.testing import TINY_MODELS, tiny_llama, tiny_mlp, tiny_tokens

pytestmark = pytest.mark.slow

REFINE: dict[str, Any] = {
    "steps": 2,
    "windows": 2,
    "batch": 2,
    "gradient": {"estimate": "shrunk", "shrink": 0.5, "reliability": False, "clip": None},
    "candidates": {"per_side": 20, "max_flip": 1.0},
    "trust": {"swaps": 8, "damping": 0.0},
}


def recipe(**changes: Any) -> Recipe:
    return Recipe.parse({"refine": REFINE, "reconstruct": {}, **changes})


def windows(n: int = 32) -> Tensor:
    """Windows of few different tokens, so that inputs are correlated and there is something to regain."""
    return tiny_tokens(n * 16, vocabulary=12).reshape(n, 16)


def copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    now = model.state_dict()
    return all(torch.equal(now[name].view(torch.uint8), before[name].view(torch.uint8)) for name in before)


def check_model(model: nn.Module, report: PruneReport, before: dict[str, Tensor], sparsity: float) -> None:
    """Every pruned weight is zero, the budget is exact, and what is not pruned is untouched."""
    layers = prunable_layers(model)
    total = sum(layer.numel for layer in layers.values())
    assert sum(int((~mask).sum()) for mask in report.masks.values()) == int(total * sparsity + 0.5)
    for name, layer in layers.items():
        assert not layer.weight[~report.masks[name]].any()
        assert torch.isfinite(layer.weight).all()
    others = {n: v for n, v in before.items() if n.removesuffix(".weight") not in layers}
    assert unchanged(model, others)


@pytest.mark.parametrize(("first_method", "damping"), [("sparsegpt", 0.01), ("gradual", 0.03)])
@pytest.mark.parametrize("family", TINY_MODELS)
def test_masks_and_values_refined_and_reconstructed(
    family: str, first_method: str, damping: float, tmp_path: Path
) -> None:
    model = TINY_MODELS[family]()
    before = copy(model)
    method = "admm" if family in ("gpt2", "mistral") else "least_squares"
    report = prune(
        model,
        windows(),
        recipe(sparsity=0.55, initial={"method": first_method}, reconstruct={"method": method, "blend": 0.5}),
    )
    check_model(model, report, before, 0.55)
    first, again = report.walks[first_method], report.walks["reconstruct"]
    assert sorted(r.layer for r in first) == sorted(r.layer for r in again) == sorted(report.masks)
    assert all(r.error_before < 1e-9 < r.error_after < 1 for r in first)
    assert all(r.error_after <= r.error_before for r in again)
    assert report.figures["accept_reconstructed"] <= report.figures["accept_refined"]
    assert report.to_dict()["walks"][first_method][0]["details"]["damping"] == damping
    save_model(model, None, report.masks, tmp_path / "out")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert unchanged(opened, copy(model))
    assert all(torch.equal(mask, report.masks[name]) for name, mask in load_masks(tmp_path / "out").items())


@pytest.mark.parametrize("method", ["least_squares", "admm"])
def test_reconstruction_regains_what_the_mask_lost(method: str) -> None:
    report = prune(tiny_llama(), windows(64), recipe(refine=None, reconstruct={"method": method}))
    figures = report.figures
    assert figures["reconstructed"] < figures["refined"] == figures["initial"]
    assert figures["accept_reconstructed"] < figures["accept_refined"]
    assert sum(record.changed for record in report.walks["reconstruct"]) > 7


def test_sparsegpt_and_gradual_beat_wanda() -> None:
    figures = {}
    for method in ("wanda", "sparsegpt", "gradual"):
        chosen = recipe(refine=None, reconstruct=None, initial={"method": method})
        figures[method] = prune(tiny_llama(), windows(64), chosen).figures
    assert figures["sparsegpt"]["initial"] < figures["wanda"]["initial"]
    assert figures["gradual"]["initial"] < figures["sparsegpt"]["initial"]
    assert "reconstructed" not in figures["wanda"]


def test_kept_weights_stay_bit_identical_without_an_update() -> None:
    model = tiny_llama()
    before = copy(model)
    report = prune(model, windows(), recipe(reconstruct=None))
    for name, mask in report.masks.items():
        assert torch.equal(model.get_submodule(name).weight, torch.where(mask, before[f"{name}.weight"], 0.0))


@pytest.mark.parametrize("way", [{"pattern": "2:4"}, {"allocation": {"method": "alphapruning", "group": 8}}])
def test_admm_moves_masks_within_their_patterns(way: dict[str, Any]) -> None:
    def run(**settings: Any) -> Any:
        return prune(tiny_llama(), windows(), Recipe.parse({"refine": None, **way, **settings}))

    before = run().masks
    after = run(reconstruct={"method": "admm", "accept": "always"}).masks
    assert any(not torch.equal(after[name], mask) for name, mask in before.items())
    group = 4 if "pattern" in way else 8
    for name, mask in before.items():
        assert torch.equal(after[name].reshape(-1, group).sum(1), mask.reshape(-1, group).sum(1))


def test_what_does_not_help_is_undone_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    def harm(name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        return LayerChange(weight * 3, mask.flip(1))

    plain, worse, forced = tiny_llama(), tiny_llama(), tiny_llama()
    report = prune(plain, windows(), recipe(reconstruct=None))
    monkeypatch.setitem(qubo_prune.reconstruct.METHODS, "least_squares", lambda r, patterns: harm)
    undone = prune(worse, windows(), recipe())
    assert unchanged(worse, copy(plain))
    assert all(torch.equal(mask, report.masks[name]) for name, mask in undone.masks.items())
    assert undone.figures["accept_reconstructed"] == undone.figures["accept_refined"]
    assert undone.figures["reconstructed"] == undone.figures["refined"]
    kept = prune(forced, windows(), recipe(reconstruct={"accept": "always"}))
    assert kept.figures["reconstructed"] > kept.figures["refined"]
    assert "accept_reconstructed" not in kept.figures


def test_a_reconstruction_that_mends_a_loss_of_nan_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = itertools.count()
    value = KLToDense.value

    def nan_first(self: KLToDense, *arguments: Any) -> Tensor:
        found = value(self, *arguments)
        return found * float("nan") if next(measured) < 1 else found

    data = Data([windows()[:8]] * 4, [windows()[8:10]])
    monkeypatch.setattr(KLToDense, "value", nan_first)
    report = prune(tiny_llama(), data, Recipe.parse({"refine": None, "reconstruct": {}}))
    assert report.figures["accept_reconstructed"] is not None
    assert math.isfinite(report.figures["accept_reconstructed"])
    assert any(record.changed for record in report.walks["reconstruct"])


def test_a_classifier() -> None:
    g = torch.Generator().manual_seed(0)
    data = [(torch.randn(32, 6, generator=g), torch.randint(4, (32,), generator=g)) for _ in range(8)]

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(batch[0]), batch[1])

    model = tiny_mlp()
    before = copy(model)
    changes: dict[str, Any] = {"initial": {"method": "sparsegpt"}, "refine": None}
    report = prune(model, data, recipe(**changes, reconstruct={"accept": "always"}), loss=loss)
    check_model(model, report, before, 0.5)
    assert len(report.walks["reconstruct"]) == 3


def test_gradual_with_a_pattern_rows_and_output_weights() -> None:
    model = tiny_llama()
    settings = {"method": "gradual", "stages": 3, "output_weights": 2, "blend": 0.5}
    report = prune(model, windows(), recipe(initial=settings, pattern="2:4", reconstruct=None))
    assert all((mask.reshape(-1, 4).sum(1) == 2).all() for mask in report.masks.values())
    rows = recipe(initial=settings | {"granularity": "output"}, reconstruct=None, refine=None)
    counts = [mask.sum(1) for mask in prune(tiny_llama(), windows(), rows).masks.values()]
    assert all(int(c.max() - c.min()) <= 1 for c in counts)


def test_the_gradients_at_outputs_share_out_a_layer_of_gradual() -> None:
    powers = {
        power: prune(
            tiny_llama(), windows(), recipe(initial={"method": "gradual", "output_power": power}, refine=None)
        ).masks
        for power in (0.0, 1.0)
    }
    assert any(not torch.equal(powers[0.0][name].sum(1), mask.sum(1)) for name, mask in powers[1.0].items())


@pytest.mark.parametrize("method", ["sparsegpt", "gradual"])
def test_masks_alone_of_a_method_that_finds_values_too(method: str) -> None:
    model, moved = tiny_llama(), tiny_llama()
    before = copy(model)
    settings = {"method": method, "values": "original"}
    report = prune(model, windows(), recipe(initial=settings, refine=None, reconstruct=None))
    both = prune(moved, windows(), recipe(initial={"method": method}, refine=None, reconstruct=None))
    for name, mask in report.masks.items():
        assert torch.equal(mask, both.masks[name])
        assert torch.equal(model.get_submodule(name).weight, torch.where(mask, before[f"{name}.weight"], 0.0))
        assert not torch.equal(model.get_submodule(name).weight, moved.get_submodule(name).weight)
    assert report.figures["initial"] > both.figures["initial"]


# -- refusals, errors and Ctrl-C -----------------------------------------------------------------------


def test_refusals() -> None:
    model = tiny_llama()
    before = copy(model)
    one = [windows(2)] * 3
    with pytest.raises(InputError, match="give at least two"):
        prune(model, one, recipe(refine=None))
    with pytest.raises(InputError, match=r"set reconstruct.accept to always"):
        prune(model, Data([windows(2)] * 4, []), recipe(refine=None))
    assert unchanged(model, before)


class Stops:
    """A layer-wise method that raises at its nth layer."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.left, self.error = at, error

    def __call__(self, name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        self.left -= 1
        if self.left == 0:
            raise self.error("stop")
        return LayerChange(weight * 0.99)


def stopping(at: int, error: type[BaseException]) -> Callable[[Any], Stops]:
    return lambda r, patterns: Stops(at, error)


@pytest.mark.parametrize("at", [1, 6, 14])
def test_an_error_in_the_reconstruction_restores_the_dense_weights(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama()
    before = copy(model)
    monkeypatch.setitem(qubo_prune.reconstruct.METHODS, "least_squares", stopping(at, RuntimeError))
    for accept in ("if_better", "always"):
        changes: dict[str, Any] = {"initial": {"method": "sparsegpt"}, "reconstruct": {"accept": accept}}
        with pytest.raises(RuntimeError, match="stop"):
            prune(model, windows(), recipe(**changes))
        assert unchanged(model, before)
        assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("at", [1, 6, 14])
def test_an_interrupt_in_the_reconstruction_keeps_what_was_accepted(
    at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tiny_llama()
    prune(plain, windows(), recipe(reconstruct=None))
    monkeypatch.setitem(qubo_prune.reconstruct.METHODS, "least_squares", stopping(at, KeyboardInterrupt))
    model = tiny_llama()
    report = prune(model, windows(), recipe())
    assert report.stopped == "interrupted"
    assert report.figures["reconstructed"] == report.figures["refined"]
    assert unchanged(model, copy(plain))
    model = tiny_llama()
    report = prune(model, windows(), recipe(reconstruct={"accept": "always"}))
    assert report.stopped == "interrupted"
    assert (report.figures["reconstructed"] != report.figures["refined"]) == (at > 1)
    now, then = prunable_layers(model), prunable_layers(plain)
    assert sum(not torch.equal(now[name].weight, then[name].weight) for name in now) == at - 1
    check_model(model, report, copy(tiny_llama()), 0.5)


@pytest.mark.parametrize(("by_block", "at"), [(True, 3), (True, 9), (True, 14), (False, 9)])
def test_an_interrupt_in_the_row_problems_keeps_the_blocks_done(by_block: bool, at: int) -> None:
    model = tiny_llama()
    before, stop_at = copy(model), at

    def stop(progress: Progress) -> None:
        if progress.phase == "rows" and progress.done == stop_at:
            raise KeyboardInterrupt

    plain = prune(
        tiny_llama(), windows(), recipe(refine=None, reconstruct=None, initial={"method": "magnitude"})
    )
    chosen = recipe(rows={"by_block": by_block, "held_out": 0}, initial={"method": "magnitude"})
    report = prune(model, windows(), chosen, on_progress=stop)
    assert report.stopped == "interrupted"
    assert report.figures["rows"] is None
    assert report.figures["refined"] is not None
    assert report.swaps == 0
    check_model(model, report, before, 0.5)
    moved = [name for name, mask in report.masks.items() if not torch.equal(mask, plain.masks[name])]
    assert len(moved) <= (at // 7 * 7 if by_block else at)
    assert bool(moved) == (at > 7)


@pytest.mark.parametrize("where", ["accept", "held out"])
def test_nan_in_windows_to_judge_by_is_refused(where: str) -> None:
    model = tiny_llama()
    data = Data.of(windows(), 4)
    rare = 31
    with torch.no_grad():
        model.get_parameter("model.embed_tokens.weight")[rare] = torch.nan
    before = copy(model)
    judges = data.accept if where == "accept" else data.calibrate
    judges[-1][0, 3] = rare
    parts = {"rows": {}, "initial": {"method": "magnitude"}, "reconstruct": None}
    with pytest.raises(
        InputError, match="answer to batch .* is NaN" if where == "accept" else "inputs are NaN"
    ):
        prune(model, data, recipe(**(parts if where == "held out" else {})))
    assert unchanged(model, before)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_whatever_stops_sparsegpt_restores_the_dense_weights(error: type[BaseException]) -> None:
    model = tiny_llama()
    before = copy(model)

    def stop(progress: Progress) -> None:
        if progress.phase == "sparsegpt" and progress.done == 5:
            assert not unchanged(model, before)
            raise error("stop")

    with pytest.raises(error):
        prune(model, windows(), recipe(initial={"method": "sparsegpt"}), on_progress=stop)
    assert unchanged(model, before)


def test_progress_and_masks_are_told() -> None:
    seen: list[Progress] = []
    masks: list[str] = []
    prune(
        tiny_llama(), windows(), recipe(initial={"method": "sparsegpt"}),
        on_progress=seen.append, on_masks=lambda name, model: masks.append(name),
    )  # fmt: skip
    assert masks == ["initial", "refined", "reconstructed"]
    for phase in ("sparsegpt", "reconstruct"):
        assert [(p.done, p.total) for p in seen if p.phase == phase] == [(i, 14) for i in range(15)]
