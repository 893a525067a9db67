"""The walk: moments behind the layers already changed, both paths, what stays untouched, and refusals."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qubo_prune.budgets import uniform_counts
from qubo_prune.errors import InputError
from qubo_prune.forward import forward_of
from qubo_prune.initial import initial_masks
from qubo_prune.initial.sparsegpt import SparseGPT
from qubo_prune.layers import Layer, prunable_layers
from qubo_prune.layerwise import LayerChange, LayerEvidence
from qubo_prune.masks import verify
from qubo_prune.sequential import LayerRecord, walk
from qubo_prune.state import PruneState
from qubo_prune.testing import TINY_MODELS, inputs_of, tiny_llama, tiny_mlp, tiny_qwen2, tiny_tokens


def batches(n: int = 4) -> list[Tensor]:
    return [tiny_tokens(2 * 20, seed).reshape(2, 20) for seed in range(n)]


def pruned(family: str = "llama", **settings: Any) -> PruneState:
    model = TINY_MODELS[family](**settings)
    layers = prunable_layers(model)
    return PruneState(model, layers, initial_masks("magnitude", layers, 0.5))


class Watch:
    """A method that checks the evidence of every layer against whole passes of the model as it is then, and
    scales the kept weights, so that the inputs of the layers behind change."""

    def __init__(self, state: PruneState, data: list[Tensor], blend: float, held: int) -> None:
        self.state, self.fit, self.held = state, data[: len(data) - held], data[len(data) - held :] or data
        self.blend, self.seen = blend, list[str]()

    def __call__(self, name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        self.seen.append(name)
        layer = self.state.layers[name]
        (x, xt), (hx, hxt) = (self.both(layer, data) for data in (self.fit, self.held))
        assert evidence.tokens == len(x)
        close(evidence.gram(), x.T @ x / len(x))
        close(evidence.cross(), x.T @ xt / len(x))
        drift = evidence.drift()
        assert (drift is None) == (self.blend == 0)
        if drift is not None:
            close(drift, x.T @ (xt - x) / len(x), 1e-3)
        original = self.state.original(name)
        assert torch.equal(evidence.original, original)
        for w in (weight, original, torch.randn_like(weight)):
            errors = (hx @ w.double().T - hxt @ original.double().T).square().mean(0)
            torch.testing.assert_close(evidence.errors(w), errors, rtol=1e-4, atol=1e-8)
            assert evidence.error(w) == pytest.approx(float(errors.sum()), rel=1e-4, abs=1e-8)
        assert torch.equal(weight, torch.where(mask, self.state.kept_values[name], 0.0))
        return LayerChange(values=weight * 1.1, details={"of": name})

    def both(self, layer: Layer, data: list[Tensor]) -> tuple[Tensor, Tensor]:
        x = inputs_of(self.state.model, layer, data)
        with self.state.dense():
            dense = inputs_of(self.state.model, layer, data)
        return x, (1 - self.blend) * x + self.blend * dense


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    assert found.dtype == torch.float32
    scale = max(float(expected.abs().max()), 1e-6)
    assert float((found.double() - expected).abs().max()) / scale < tolerance


@pytest.mark.parametrize("family", TINY_MODELS)
@pytest.mark.parametrize(("blend", "held"), [(0.0, 0), (0.3, 1), (1.0, 2)])
def test_evidence_is_that_of_whole_passes(family: str, blend: float, held: int) -> None:
    state, data = pruned(family), batches()
    watch = Watch(state, data, blend, held)
    told: list[LayerRecord] = []
    records = walk(
        state, forward_of(state.model), data, watch,
        blend=blend, held_out=held / len(data), on_layer=told.append,
    )  # fmt: skip
    assert sorted(watch.seen) == sorted(state.layers)
    assert [record.layer for record in records] == watch.seen
    assert told == records
    assert all(r.changed and r.details == {"of": r.layer} and r.seconds > 0 for r in records)
    assert all(0 < r.error_before < 10 and r.error_before != r.error_after for r in records)
    verify(state.layers, state.masks, state.kept_values)


def test_a_weight_that_blocks_share_is_dense_on_the_dense_path() -> None:
    model = tiny_llama()
    first, second = (block.mlp for block in model.model.layers[:2])
    second.gate_proj.weight = first.gate_proj.weight
    layers = prunable_layers(model)
    assert "model.layers.1.mlp.gate_proj" not in layers
    state = PruneState(model, layers, initial_masks("magnitude", layers, 0.5))
    watch = Watch(state, batches(), 1.0, 1)
    walk(state, forward_of(model), batches(), watch, blend=1.0, held_out=0.25)
    assert watch.seen[-1] == "model.layers.1.mlp.down_proj"


def test_an_interrupt_while_a_block_is_judged_puts_it_back() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    state = PruneState(model, layers, initial_masks("magnitude", layers, 0.5))
    before = {name: mask.clone() for name, mask in state.masks.items()}
    changed: list[str] = []

    def other(name: str, weight: Tensor, mask: Tensor, evidence: object) -> LayerChange:
        changed.append(name)
        return LayerChange(mask=mask.flip(1))

    def interrupted(batch: Any) -> Any:
        if len(changed) == 7:  # the last of the first block: its output is judged now
            raise KeyboardInterrupt
        return forward(batch)

    forward = forward_of(model)
    with pytest.raises(KeyboardInterrupt):
        walk(state, interrupted, batches(), other, held_out=0.25, by_block=True)
    assert len(changed) == 7
    assert all(torch.equal(state.masks[name], before[name]) for name in layers)
    verify(state.layers, state.masks, state.kept_values)


@pytest.mark.parametrize("room", [0, 4000])
def test_inputs_of_the_dense_path_that_do_not_fit(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qubo_prune.walker.DENSE_BYTES", room)
    test_evidence_is_that_of_whole_passes("llama", 0.3, 1)


def test_layers_outside_the_blocks_and_models_without_blocks() -> None:
    model = tiny_llama()
    layers = prunable_layers(model, include=["*.mlp.*", "lm_head"])
    state = PruneState(model, layers, initial_masks("magnitude", layers, 0.5))
    watch = Watch(state, batches(), 0.5, 1)
    walk(state, forward_of(model), batches(), watch, blend=0.5, held_out=0.25)
    assert watch.seen[-1] == "lm_head"
    mlp = tiny_mlp()
    layers = prunable_layers(mlp)
    state = PruneState(mlp, layers, initial_masks("magnitude", layers, 0.5))
    data = [torch.randn(9, 6, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    watch = Watch(state, data, 0.5, 1)
    walk(state, forward_of(mlp), data, watch, blend=0.5, held_out=0.3)
    assert watch.seen == ["0", "2", "4"]


def test_only_a_late_block() -> None:
    model = tiny_llama(num_hidden_layers=4)
    layers = prunable_layers(model, include=["*.layers.2.*"])
    state = PruneState(model, layers, initial_masks("magnitude", layers, 0.5))
    watch = Watch(state, batches(), 1.0, 1)
    walk(state, forward_of(model), batches(), watch, blend=1.0, held_out=0.25)
    assert len(watch.seen) == 7


@pytest.mark.parametrize("family", TINY_MODELS)
@pytest.mark.parametrize("granularity", ["layer", "output"])
def test_sparsegpt_meets_every_budget_and_touches_nothing_else(family: str, granularity: str) -> None:
    model = TINY_MODELS[family]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = prunable_layers(model)
    state = PruneState(model, layers)
    counts = uniform_counts(layers, 0.4)
    method = SparseGPT(counts, granularity)  # type: ignore[arg-type]
    walk(state, forward_of(model), batches(), method, keeps_budget=False)
    assert state.pruned_counts() == counts
    verify(layers, state.masks, state.kept_values)
    for name, value in model.state_dict().items():
        layer = name.removesuffix(".weight")
        assert torch.equal(value, before[name]) == (layer not in layers)
    with state.dense():
        assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    state.restore_dense()
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_tied_weights_stay_untouched() -> None:
    model = tiny_qwen2()
    embedding = model.get_input_embeddings().weight  # type: ignore[operator, union-attr]
    before = embedding.clone()
    layers = prunable_layers(model)
    state = PruneState(model, layers)
    method = SparseGPT(uniform_counts(layers, 0.5))
    walk(state, forward_of(model), batches(), method, keeps_budget=False)
    assert model.get_output_embeddings().weight is embedding  # type: ignore[operator, union-attr]
    assert torch.equal(embedding, before)


def test_bfloat16_is_rounded_once() -> None:
    model = tiny_llama().to(torch.bfloat16)
    layers = prunable_layers(model)
    state = PruneState(model, layers)
    records = walk(
        state, forward_of(model), batches(), SparseGPT(uniform_counts(layers, 0.5)), keeps_budget=False
    )
    assert {layer.weight.dtype for layer in layers.values()} == {torch.bfloat16}
    verify(layers, state.masks, state.kept_values)
    assert all(0 < record.error_after < 1 for record in records)


def test_experts_that_the_first_batch_does_not_reach() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.experts["a" if float(x.sum()) > 0 else "b"](x)
            return y

    model = Experts()
    state = PruneState(model, prunable_layers(model))
    seen: dict[str, int] = {}

    def method(name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        seen[name] = evidence.tokens
        return LayerChange()

    data = [torch.ones(2, 3), -torch.ones(5, 3), torch.ones(1, 3)]
    records = walk(state, model, data, method)
    assert seen == {"experts.a": 3, "experts.b": 5}
    assert not any(record.changed for record in records)
    with pytest.raises(InputError, match=r"'experts.b' was never called"):
        walk(state, model, data[:1], method)
    seen.clear()
    records = walk(state, model, data[:2], method, held_out=0.5)
    assert seen == {"experts.a": 2}
    assert records[1].layer == "experts.b"
    assert records[1].details == {"left": "only held-out batches reach it"}
    assert records[1].error_before == records[1].error_after == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda w, m: LayerChange(w[:, :3]), r"values \(16, 3\), they must be \(16, 16\)"),
        (lambda w, m: LayerChange(w * torch.nan), "NaN or infinite values"),
        (lambda w, m: LayerChange(mask=m.float()), "it must be bool"),
        (lambda w, m: LayerChange(mask=torch.ones_like(m)), "keeps 256 weights, it must keep 128"),
    ],
)
def test_answers_that_do_not_fit(answer: Callable[[Tensor, Tensor], LayerChange], message: str) -> None:
    state = pruned()
    before = {name: layer.weight.clone() for name, layer in state.layers.items()}
    with pytest.raises(InputError, match=f"q_proj': .*{message}"):
        walk(state, forward_of(state.model), batches(), lambda n, w, m, e: answer(w, m))
    assert all(torch.equal(layer.weight, before[name]) for name, layer in state.layers.items())


def test_refusals() -> None:
    state = pruned()
    forward = forward_of(state.model)
    with pytest.raises(InputError, match="1 calibration batches: give at least 2"):
        walk(state, forward, batches(1), lambda n, w, m, e: LayerChange(), held_out=0.2)
    with pytest.raises(InputError, match="was never called"):
        walk(state, forward, [], lambda n, w, m, e: LayerChange())
    with torch.no_grad():
        state.model.get_input_embeddings().weight[:] = torch.nan  # type: ignore[operator, union-attr]
    with pytest.raises(InputError, match="inputs are NaN or infinite"):
        walk(state, forward, batches(), lambda n, w, m, e: LayerChange())
