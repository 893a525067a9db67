"""Refit and rounds: masks stay, the loss falls, errors and Ctrl-C put everything back, rounds add up."""

import itertools
import math
import signal
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qubo_prune import prune
from qubo_prune.errors import InputError
from qubo_prune.layers import prunable_layers
from qubo_prune.objective import CustomLoss, KLToDense
from qubo_prune.progress import Progress
from qubo_prune.recipe import Recipe
from qubo_prune.recipe_parts import Refit
from qubo_prune.refine.evidence import teach
from qubo_prune.refine.icbs import IcbsLoop
from qubo_prune.refine.moves import Free, LowRank
from qubo_prune.refine.records import RefineResult, joined
from qubo_prune.refine.refit import _Fit, refit
from qubo_prune.selection import keep_topk
from qubo_prune.state import PruneState
from qubo_prune.statistics.collect import mean_value
from qubo_prune.testing import TINY_MODELS, tiny_llama, tiny_mlp, tiny_tokens

RECIPE: dict[str, Any] = {
    "rounds": 1,
    "refine": {
        "steps": 2,
        "windows": 2,
        "batch": 4,
        "gradient": {"estimate": "shrunk", "shrink": 0.5, "reliability": False, "clip": None},
        "candidates": {"per_side": 20, "max_flip": 1.0},
        "trust": {"swaps": 8, "damping": 0.0},
    },
    "refit": {"epochs": 2, "batch": 2, "learning_rate": 2e-3},
}


def windows(n: int = 32) -> Tensor:
    return tiny_tokens(n * 16, vocabulary=12).reshape(n, 16)


def pruned_state(model: nn.Module) -> PruneState:
    layers = prunable_layers(model)
    masks = {name: keep_topk(la.weight.abs(), la.numel // 2, name=name) for name, la in layers.items()}
    return PruneState(model, layers, masks)


@pytest.mark.parametrize("family", TINY_MODELS)
@pytest.mark.parametrize(
    ("dtype", "more"),
    [
        (torch.float32, {"learning_rate": 3e-3}),
        (torch.bfloat16, {"learning_rate": 3e-3}),
        (torch.float32, {"learning_rate": 3e-3, "products": "bfloat16"}),
        (torch.bfloat16, {"learning_rate": 3e-3, "products": "bfloat16"}),
        (torch.float32, {"learning_rate": 3e-2, "rank": 3}),
        (torch.float32, {"learning_rate": 3e-2, "rank": 3, "products": "bfloat16"}),
    ],
)
def test_values_move_and_masks_stay(family: str, dtype: torch.dtype, more: dict[str, Any]) -> None:
    model = TINY_MODELS[family]().to(dtype)
    state = pruned_state(model)
    masks = {name: mask.clone() for name, mask in state.masks.items()}
    others = {n: p.clone() for n, p in model.named_parameters() if n.removesuffix(".weight") not in masks}
    objective = KLToDense()
    pairs = teach(state, objective, list(windows().split(8)))
    before = mean_value(model, pairs, objective)
    told: list[tuple[int, int]] = []
    found = refit(
        state, objective, list(windows().split(4)), pairs,
        Refit(epochs=3, batch=2, **more),
        on_step=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert found.loss_before == before
    assert found.loss_after == mean_value(model, pairs, objective) < 0.95 * before
    assert told[-1] == (48, 48)
    for name, layer in state.layers.items():
        assert torch.equal(state.masks[name], masks[name])
        assert not layer.weight[~masks[name]].any()
        assert torch.equal(layer.weight, torch.where(masks[name], state.kept_values[name], 0))
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in others.items())
    assert [record.step for record in found.records][-1] == 48
    state.restore_dense()
    original = dict(TINY_MODELS[family]().to(dtype).named_parameters())
    assert all(torch.equal(p, original[n]) for n, p in model.named_parameters())


def test_a_step_is_adams_on_the_masked_gradient() -> None:
    """One step against torch's own backward pass and optimiser."""
    one, two = tiny_llama(), tiny_llama()
    state, other = pruned_state(one), pruned_state(two)
    batch = windows(4)
    refit(state, KLToDense(), [batch], [], Refit(batch=4, learning_rate=0.01))
    with other.dense(), torch.no_grad():
        target = two(batch).logits[:, :-1].log_softmax(-1)
    answer = two(batch).logits[:, :-1].log_softmax(-1)
    (target.exp() * (target - answer)).sum(-1).mean().backward()
    for name, layer in other.layers.items():
        gradient = two.get_submodule(name).weight.grad * other.masks[name]
        expected = layer.weight - 0.001 * gradient.sign()  # Adam's first step at a tenth of the rate
        moved = gradient.abs() > 1e-6
        torch.testing.assert_close(state.layers[name].weight[moved], expected[moved], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("rank", [None, 3])
def test_products_in_bfloat16(rank: int | None) -> None:
    """The gradient is near that of float32 products, in float32, and the loss as well."""
    found: list[tuple[float, list[Tensor | None]]] = []
    for products in (None, torch.bfloat16):
        state = pruned_state(tiny_llama())
        [(batch, answer)] = teach(state, KLToDense(), [windows(4)])
        fit = _Fit(state, rank, 0, products)
        loss = fit.step(KLToDense(), batch, answer, 1e-3)
        found.append((loss, [p.grad for p in fit._moves.parameters]))
    (exact, expected), (near, grads) = found
    assert near == pytest.approx(exact, rel=0.02)
    assert near != exact
    for grad, other in zip(grads, expected, strict=True):
        assert grad is not None
        assert other is not None
        assert grad.dtype == torch.float32
        if other.any():
            assert torch.cosine_similarity(grad.flatten(), other.flatten(), 0) > 0.995


def test_moves_of_low_rank() -> None:
    """Gradients against autograd; on the mask the change is the product, off it nothing."""
    g = torch.Generator().manual_seed(0)
    values = {name: torch.randn(shape, generator=g) for name, shape in (("a", (5, 7)), ("b", (4, 3)))}
    masks = {name: torch.rand(v.shape, generator=g) < 0.5 for name, v in values.items()}
    moves = LowRank({n: v.clone() for n, v in values.items()}, masks, 2, seed=1)
    for name, value in values.items():
        assert torch.equal(moves.value(name), value)
    left = dict(zip(values, moves.parameters[:2], strict=True))
    right = dict(zip(values, moves.parameters[2:], strict=True))
    for name, value in values.items():
        left[name].normal_(generator=g)
        gradient = torch.randn(value.shape, generator=g) * masks[name]
        b, a = left[name].clone().requires_grad_(), right[name].clone().requires_grad_()
        ((value + masks[name] * (b @ a)) * gradient).sum().backward()
        moves.take(name, gradient)
        torch.testing.assert_close(left[name].grad, b.grad)
        torch.testing.assert_close(right[name].grad, a.grad)
        torch.testing.assert_close(moves.value(name), (value + masks[name] * (b @ a)).detach())
    again = LowRank(values, masks, 2, seed=1)
    assert all(torch.equal(x, y) for x, y in zip(again.parameters[2:], moves.parameters[2:], strict=True))


def test_what_does_not_help_is_put_back() -> None:
    model = tiny_llama()
    state = pruned_state(model)
    weights = {name: layer.weight.clone() for name, layer in state.layers.items()}
    objective = KLToDense()
    pairs = teach(state, objective, [windows(8)])
    found = refit(state, objective, [windows(8)], pairs, Refit(epochs=9, learning_rate=50.0))
    assert found.loss_after == found.loss_before
    assert found.stopped == "no progress"
    assert len(found.records) <= 4
    assert all(torch.equal(layer.weight, weights[name]) for name, layer in state.layers.items())


def test_a_finite_loss_is_below_one_that_is_nan() -> None:
    """As where pruning made an overflow, which new values mend."""
    model = tiny_llama()
    state = pruned_state(model)
    held = windows(8)
    measured: list[float] = []

    class NaNFirst(KLToDense):
        def value(self, model: nn.Module, batch: Tensor, teacher: Tensor | None) -> Tensor:
            found = super().value(model, batch, teacher)
            measured.append(float(found.mean()))
            return found * float("nan") if len(measured) == 1 else found

    objective = NaNFirst()
    found = refit(state, objective, [windows(8)], teach(state, objective, [held]), Refit(learning_rate=2e-3))
    assert found.loss_before is not None
    assert math.isnan(found.loss_before)
    assert found.loss_after == pytest.approx(min(measured[1:]))
    assert mean_value(model, teach(state, objective, [held]), objective) == pytest.approx(found.loss_after)


def test_without_accepting_data_values_that_diverge_are_not_taken() -> None:
    model = tiny_llama()
    state = pruned_state(model)
    weights = {name: layer.weight.clone() for name, layer in state.layers.items()}
    refit(state, KLToDense(), [windows(8)] * 4, [], Refit(learning_rate=1e30, checks=1))
    assert all(torch.equal(layer.weight, weights[name]) for name, layer in state.layers.items())


def test_an_error_puts_the_values_back() -> None:
    model = tiny_llama()
    state = pruned_state(model)
    weights = {name: layer.weight.clone() for name, layer in state.layers.items()}

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        refit(state, KLToDense(), [windows(8)], [], Refit(), on_step=stop)
    assert all(torch.equal(layer.weight, weights[name]) for name, layer in state.layers.items())


@pytest.mark.parametrize("at", [1, 6])
def test_ctrl_c_keeps_the_best_values_so_far(at: int) -> None:
    model = tiny_llama()
    state = pruned_state(model)
    objective = KLToDense()
    pairs = teach(state, objective, [windows(8)])

    def stop(done: int, total: int) -> None:
        if done == at:
            raise KeyboardInterrupt

    recipe = Refit(learning_rate=2e-3, checks=2)
    found = refit(state, objective, [windows(8)], pairs, recipe, on_step=stop)
    assert found.stopped == "interrupted"
    assert found.loss_after == mean_value(model, pairs, objective)
    assert (found.loss_after < found.loss_before) == (at == 6)  # the first check comes after four steps


def test_a_time_limit_ends_it() -> None:
    state = pruned_state(tiny_llama())
    found = refit(state, KLToDense(), [windows(8)], [], Refit(epochs=1000, time_limit=0.2))
    assert found.stopped == "time limit"


def test_what_the_time_limit_cuts_short_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of eight steps, before the first check."""
    state = pruned_state(tiny_llama())
    pairs = teach(state, KLToDense(), [windows(8)])
    now = itertools.chain([0.0, 0.0, 1.0, 2.0], itertools.repeat(9.0))
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    found = refit(
        state, KLToDense(), [windows(8)], pairs, Refit(checks=1, learning_rate=2e-3, time_limit=8.0)
    )
    assert found.stopped == "time limit"
    assert [record.step for record in found.records] == [3]
    assert found.loss_after == mean_value(state.model, pairs, KLToDense()) < found.loss_before


@pytest.mark.parametrize("size", [1, 3, 8])
def test_windows_a_step(size: int) -> None:
    told: list[tuple[int, int]] = []
    refit(
        pruned_state(tiny_llama()), KLToDense(), list(windows(8).split(1)), [], Refit(batch=size),
        on_step=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told[-1] == (-(-8 // size),) * 2


def test_windows_in_parts() -> None:
    """Twice the steps, each on half a window; what is no window of tokens is refused before all else."""
    state = pruned_state(tiny_llama())
    steps: list[tuple[int, int]] = []
    recipe = Refit(length=8, learning_rate=2e-3)
    refit(state, KLToDense(), [windows(6)], [], recipe, on_step=lambda *step: steps.append(step))
    assert steps == [(i + 1, 12) for i in range(12)]
    model, batches = tiny_llama(), [{"input_ids": batch} for batch in windows(16).split(4)]
    with pytest.raises(InputError, match=r"refit\.length=8"):
        prune(model, batches, Recipe.model_validate(RECIPE | {"refit": {"length": 8}}))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny_llama().parameters(), strict=True))


@pytest.mark.parametrize("name", ["remember", "commit"])
def test_ctrl_c_never_leaves_halves(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    state = pruned_state(tiny_llama())
    calls = 0
    take, value = PruneState.refit, Free.value

    def interrupted(*args: Any, **kw: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            signal.raise_signal(signal.SIGINT)
        return take(*args, **kw) if name == "commit" else value(*args, **kw)

    def ran() -> None:
        refit(state, KLToDense(), [windows(8)], [], Refit(batch=8, learning_rate=2e-3))

    if name == "commit":
        monkeypatch.setattr(PruneState, "refit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ran()
    else:
        monkeypatch.setattr(_Fit, "write", lambda self: None)  # then only `remember` asks for values
        monkeypatch.setattr(Free, "value", interrupted)
        ran()
    dense = dict(tiny_llama().named_parameters())
    for layer_name, layer in state.layers.items():
        kept = state.masks[layer_name]
        assert torch.equal(layer.weight, torch.where(kept, state.kept_values[layer_name], 0))
        assert not torch.equal(layer.weight[kept], dense[f"{layer_name}.weight"][kept])


def test_a_classifier() -> None:
    g = torch.Generator().manual_seed(0)
    data = [(torch.randn(32, 6, generator=g), torch.randint(4, (32,), generator=g)) for _ in range(4)]
    model = tiny_mlp()
    state = pruned_state(model)
    loss = CustomLoss(lambda m, batch: nn.functional.cross_entropy(m(batch[0]), batch[1]))
    pairs = [(batch, None) for batch in data]
    found = refit(state, loss, data, pairs, Refit(epochs=5, learning_rate=0.01))
    assert found.loss_before is not None
    assert found.loss_after is not None
    assert found.loss_after < found.loss_before


# -- through prune() ---------------------------------------------------------------------------------------


def test_rounds() -> None:
    model = tiny_llama()
    report = prune(model, windows(), Recipe.parse(RECIPE | {"rounds": 2}))
    assert [r.step for r in report.curve] == [0, 1, 2, 3]
    assert [r.seconds for r in report.curve] == sorted(r.seconds for r in report.curve)
    assert report.figures["refit"] < report.figures["initial"]
    assert report.figures["accept_refit"] <= report.figures["accept_refined"]
    assert sum(report.swaps_by_layer.values()) == report.swaps
    total = sum(m.numel() for m in report.masks.values())
    assert sum(int((~m).sum()) for m in report.masks.values()) == (total + 1) // 2
    assert len(report.to_dict()["refits"]) == len(report.refits) > 4


def test_ctrl_c_in_the_refit_keeps_the_refined_masks() -> None:
    plain, model = tiny_llama(), tiny_llama()
    prune(plain, windows(), Recipe.parse(RECIPE | {"refit": None}))

    def stop(progress: Progress) -> None:
        if progress.phase == "refit" and progress.done == 3:
            raise KeyboardInterrupt

    report = prune(model, windows(), Recipe.parse(RECIPE | {"rounds": 3}), on_progress=stop)
    assert report.stopped == "interrupted"
    assert report.figures["refit"] == pytest.approx(report.figures["refined"])
    now, then = prunable_layers(model), prunable_layers(plain)
    assert all(torch.equal(now[name].weight, then[name].weight) for name in now)


@pytest.mark.parametrize("rounds", [1, 2])
def test_ctrl_c_before_a_refinement_keeps_what_there_is(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, model = tiny_llama(), tiny_llama()
    if rounds == 1:
        prune(plain, windows(), Recipe.parse({"refine": None}))
    else:
        prune(plain, windows(), Recipe.parse(RECIPE))
    made: list[int] = []

    def loop(*args: Any, **named: Any) -> IcbsLoop:
        made.append(1)
        if len(made) == rounds:
            raise KeyboardInterrupt
        return IcbsLoop(*args, **named)

    monkeypatch.setattr("qubo_prune.rounds.IcbsLoop", loop)
    report = prune(model, windows(), Recipe.parse(RECIPE | {"rounds": rounds}))
    assert report.stopped == "interrupted"
    now, then = prunable_layers(model), prunable_layers(plain)
    assert all(torch.equal(now[name].weight, then[name].weight) for name in now)


def test_joined() -> None:
    one = RefineResult([], 2.0, 1.5, "steps", {"a": 1})
    two = RefineResult([], 1.4, 1.2, "time limit", {"a": 2, "b": 1})
    found = joined([one, two])
    assert (found.accept_before, found.accept_after, found.stopped) == (2.0, 1.2, "time limit")
    assert found.swaps_by_layer == {"a": 3, "b": 1}


def test_figures_of_two_ways_to_values() -> None:
    """The refined mask's accepting loss is no loss of reconstructed weights; the report says why it ended."""
    recipe = {"refine": None, "reconstruct": {"accept": "always"}, "refit": {"learning_rate": 2e-3}}
    report = prune(tiny_llama(), windows(), Recipe.parse(recipe))
    assert report.figures["accept_refined"] is None
    assert report.figures["accept_refit"] is not None
    assert report.refit_stopped == report.to_dict()["refit_stopped"] == "steps"


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.parametrize("room", [0, 1 << 30])
def test_answers_ahead_change_nothing(monkeypatch: pytest.MonkeyPatch, epochs: int, room: int) -> None:
    """However many steps ahead the dense model is asked, and however many answers are kept."""
    module = "qubo_prune.refine.refit"
    asked: list[int] = []

    def counted(state: PruneState, objective: Any, batches: Any) -> Any:
        asked.append(len(batches))
        return teach(state, objective, batches)

    monkeypatch.setattr(f"{module}.teach", counted)
    monkeypatch.setattr(f"{module}.ANSWER_BYTES", room)
    weights = []
    for ahead in (0, 1 << 30):
        monkeypatch.setattr(f"{module}.AHEAD_BYTES", ahead)
        asked.clear()
        state = pruned_state(tiny_llama())
        refit(state, KLToDense(), list(windows(12).split(2)), [], Refit(epochs=epochs, batch=2, rank=2))
        weights.append({name: layer.weight.clone() for name, layer in state.layers.items()})
        again = 1 if room else epochs
        assert sum(asked) == 6 * again
        assert len(asked) == (6 * again if not ahead else 1 + again)  # the first call learns the size
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
