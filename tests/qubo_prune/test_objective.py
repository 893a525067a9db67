"""Losses and their cotangents against autograd; labels drawn from the model's own distribution."""

import math
from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qubo_prune.errors import InputError
from qubo_prune.objective import (
    CrossEntropy,
    CustomLoss,
    KLToDense,
    Objective,
    batch_size,
    logits_of,
    sample_labels,
)
from qubo_prune.testing import tiny_gpt2, tiny_llama, tiny_mlp, tiny_tokens


class Table(nn.Module):
    """A model whose logits are its parameter: what autograd says of them is what the cotangent must be."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits


def table(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Table:
    return Table(2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype))


def cotangent(
    objective: Objective, model: nn.Module, batch: Any, teacher: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(the objective's own, autograd's) for the sum over samples of the losses, with regard to the output."""
    signals = objective.signals(model, batch, teacher, None)
    value = objective.value(model, batch, teacher)
    assert value.dtype == signals.value.dtype == torch.float64
    assert torch.allclose(signals.value, value.detach(), rtol=1e-5)
    assert signals.label is None
    parameters = list(model.parameters())
    own = torch.autograd.grad(signals.output, parameters, signals.loss)
    return torch.cat([g.flatten() for g in own]), torch.cat(
        [g.flatten() for g in torch.autograd.grad(value.sum(), parameters)]
    )


@pytest.mark.parametrize("shape", [(3, 5, 7), (4, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_kl_cotangent(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    dense, model = table(*shape, seed=1, dtype=dtype), table(*shape, dtype=dtype)
    teacher = KLToDense().teacher(dense, torch.zeros(1))
    assert teacher.dtype == torch.float16
    own, expected = cotangent(KLToDense(), model, torch.zeros(1), teacher)
    assert torch.allclose(own, expected, atol=1e-6)
    direct = nn.functional.kl_div(
        model.logits.log_softmax(-1), dense.logits.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    direct = direct.reshape(shape[0], -1).mean(1).double()
    assert torch.allclose(KLToDense().value(model, torch.zeros(1), teacher), direct, atol=2e-3)


def test_kl_to_itself_is_zero_and_has_no_slope() -> None:
    model = table(2, 3, 9)
    teacher = model.logits.detach().log_softmax(-1)
    own, _ = cotangent(KLToDense(), model, torch.zeros(1), teacher)
    assert own.abs().max() < 1e-6
    assert KLToDense().value(model, torch.zeros(1), teacher).abs().max() < 1e-6


def test_teachers_far_below_float16_stay_finite() -> None:
    dense = Table(torch.tensor([[[0.0, -1e6, 5.0]]]))
    teacher = KLToDense().teacher(dense, torch.zeros(1))
    assert teacher.isfinite().all()
    assert KLToDense().value(table(1, 1, 3), torch.zeros(1), teacher).isfinite().all()


def test_cross_entropy_cotangent() -> None:
    labels = torch.tensor([[0, 3, 6], [2, 2, 1]])
    objective = CrossEntropy(labels=lambda batch: labels)
    own, expected = cotangent(objective, table(2, 3, 7), torch.zeros(1), None)
    assert torch.allclose(own, expected, atol=1e-6)
    per_class = CrossEntropy(logits=lambda model, batch: model(batch[0]), labels=lambda batch: batch[1])
    model = tiny_mlp()
    batch = (torch.randn(5, 6), torch.tensor([0, 1, 2, 3, 0]))
    own, expected = cotangent(per_class, model, batch, None)
    assert torch.allclose(own, expected, atol=1e-6)
    direct = nn.functional.cross_entropy(model(batch[0]), batch[1])
    value = per_class.value(model, batch, None).mean().detach()
    assert float(value) == pytest.approx(float(direct.detach()), rel=1e-5)


@pytest.mark.parametrize(
    "wrap", [lambda ids: ids, lambda ids: {"input_ids": ids}, lambda ids: UserDict(input_ids=ids)]
)
@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_language_models_predict_the_next_token(build: Any, wrap: Any) -> None:
    model, ids = build(), tiny_tokens(2 * 9).reshape(2, 9)
    assert logits_of(model, wrap(ids)).shape == (2, 8, 258)
    with torch.no_grad():
        direct = model(input_ids=ids, labels=ids).loss
        value = CrossEntropy().value(model, wrap(ids), None)
    assert value.shape == (2,)
    assert float(value.mean()) == pytest.approx(float(direct), rel=1e-5)
    assert CrossEntropy().signals(model, wrap(ids), None, None).tokens == 8


@pytest.mark.parametrize("batch", [(torch.zeros(2, 5), 1), {"pixels": torch.zeros(2, 5)}, torch.zeros(5)])
def test_cross_entropy_needs_token_ids(batch: Any) -> None:
    objective = CrossEntropy(logits=lambda model, batch: torch.zeros(2, 4, 7))
    with pytest.raises(InputError, match=f"no token ids in a {type(batch).__name__}: without a causal"):
        objective.value(nn.Identity(), batch, None)


def test_custom_losses() -> None:
    model, x = tiny_mlp(), torch.randn(4, 6)

    def each(model: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = model(x).square().sum(1)
        return out

    for loss in (each, lambda model, x: each(model, x).mean()):
        own, expected = cotangent(CustomLoss(loss), model, x, None)
        assert torch.allclose(own, expected, rtol=1e-5, atol=1e-6)
        assert CustomLoss(loss).value(model, x, None).shape == (4,)
        assert CustomLoss(loss).signals(model, x, None, torch.Generator()).label is None


def test_wrong_losses_are_refused() -> None:
    model, x = tiny_mlp(), torch.randn(4, 6)
    with pytest.raises(InputError, match=r"shape \(4, 4\)"):
        CustomLoss(lambda model, x: model(x)).value(model, x, None)
    with pytest.raises(InputError, match="not float"):
        CustomLoss(lambda model, x: 1.5).signals(model, x, None, None)  # type: ignore[arg-type, return-value]


def test_batch_size() -> None:
    x = torch.zeros(3, 2)
    for batch in (
        x,
        (x, x[:1]),
        [x],
        {"a": x},
        UserDict(a=x),
        {"n": 3, "a": {"b": x}},
        (torch.tensor(1.0), x),
    ):
        assert batch_size(batch) == 3
    for batch in ("text", ["text"], 5, {}, object(), torch.tensor(1.0)):
        with pytest.raises(InputError, match="one value per sample"):
            batch_size(batch)


# -- sampled labels ------------------------------------------------------------------------------------


def test_labels_follow_the_distribution() -> None:
    p = torch.tensor([[0.0, 0.5, 0.3, 0.2, 0.0], [0.25, 0.25, 0.25, 0.25, 0.0]])
    n = 40_000
    y = sample_labels(p.expand(n, 2, 5), torch.Generator().manual_seed(0))
    for position in range(2):
        share = torch.bincount(y[:, position], minlength=5) / n
        assert (share - p[position]).abs().max() < 5 * math.sqrt(0.25 / n)
        assert not share[p[position] == 0].any()
    together = torch.bincount(5 * y[:, 0] + y[:, 1], minlength=25).reshape(5, 5) / n
    assert (together - torch.outer(p[0], p[1])).abs().max() < 5 * math.sqrt(0.25 / n)  # independent positions


def test_a_draw_of_exactly_zero_takes_no_impossible_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape))
    assert sample_labels(torch.tensor([[[0.0, 0.0, 1.0]]]), torch.Generator()).tolist() == [[2]]


def test_labels_of_a_certain_model() -> None:
    p = nn.functional.one_hot(torch.tensor([[3, 0, 6]]), 7).float()
    assert sample_labels(p, torch.Generator()).tolist() == [[3, 0, 6]]


@pytest.mark.parametrize(
    "objective", [KLToDense(), CrossEntropy(labels=lambda batch: torch.zeros(2, 3).long())]
)
def test_label_cotangent_is_that_of_the_sampled_cross_entropy(objective: Any) -> None:
    model = table(2, 3, 7)
    teacher = torch.zeros(2, 3, 7) if objective.needs_teacher else None
    plain = objective.signals(model, torch.zeros(1), teacher, None)
    signals = objective.signals(model, torch.zeros(1), teacher, torch.Generator().manual_seed(0))
    assert torch.equal(plain.loss, signals.loss)
    y = sample_labels(model.logits.softmax(-1), torch.Generator().manual_seed(0))
    loss = nn.functional.cross_entropy(model.logits.flatten(0, 1), y.flatten(), reduction="none")
    expected = torch.autograd.grad(loss.reshape(2, 3).mean(1).sum(), model.logits)[0]
    assert torch.allclose(signals.label, expected, atol=1e-6)


def test_bfloat16_cotangents_have_the_output_s_dtype() -> None:
    model = table(2, 3, 7, dtype=torch.bfloat16)
    signals = KLToDense().signals(model, torch.zeros(1), torch.zeros(2, 3, 7), torch.Generator())
    assert signals.label is not None
    assert signals.output.dtype == signals.loss.dtype == signals.label.dtype == torch.bfloat16
