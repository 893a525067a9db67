"""Perplexity, KL and density against their definitions."""

import math

import pytest
import torch
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_prune.evaluate import DenseReference, density_report, kl_to_dense, perplexity, token_nll
from qubo_prune.forward import forward_of
from qubo_prune.layers import prunable_layers
from qubo_prune.masks import apply, keep_topk
from qubo_prune.testing import TINY_MODELS, VOCABULARY, tiny_llama, tiny_mlp, tiny_tokens


def uniform(ids: Tensor) -> Tensor:
    return torch.zeros(*ids.shape, VOCABULARY)


def test_a_uniform_model_has_the_vocabulary_as_perplexity() -> None:
    result = perplexity(uniform, tiny_tokens(100), length=20)
    assert result.perplexity == pytest.approx(VOCABULARY)
    assert (result.windows, result.tokens, result.length, result.stride) == (5, 95, 20, 20)


@pytest.mark.parametrize("family", TINY_MODELS)
def test_perplexity_is_what_transformers_says(family: str) -> None:
    model = TINY_MODELS[family]()
    tokens = tiny_tokens(70)
    windows = tokens[:60].reshape(3, 20)
    with torch.no_grad():
        losses = [float(model(input_ids=w[None], labels=w[None]).loss) for w in windows]
    for batch in (1, 2, 3):
        result = perplexity(model, tokens, length=20, windows=3, batch=batch)
        assert result.nll == pytest.approx(sum(losses) / 3, rel=1e-5)
        assert result.perplexity == pytest.approx(math.exp(result.nll))


def test_stride_counts_each_token_once() -> None:
    model = tiny_llama()
    tokens = tiny_tokens(50)
    result = perplexity(model, tokens, length=20, stride=10, batch=3)
    assert (result.windows, result.tokens) == (4, 49)
    expected = token_nll(model, tokens[None, :20]).sum()
    for start in (10, 20, 30):
        expected += token_nll(model, tokens[None, start : start + 20])[0, -10:].sum()
    assert result.nll == pytest.approx(float(expected) / 49, rel=1e-5)


def test_parts_of_a_window_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = tiny_llama(), tiny_tokens(64)
    whole = perplexity(model, tokens, length=32).nll
    reference = kl_to_dense(tiny_llama(1), DenseReference(model, tokens.reshape(2, 32)))
    monkeypatch.setattr("qubo_prune.evaluate._POSITIONS", 5)
    assert perplexity(model, tokens, length=32).nll == pytest.approx(whole, rel=1e-6)
    assert kl_to_dense(tiny_llama(1), DenseReference(model, tokens.reshape(2, 32))) == pytest.approx(
        reference
    )


def test_perplexity_refusals() -> None:
    tokens = tiny_tokens(100)
    with pytest.raises(InputError, match="6 windows of 20 asked for, the text of 100 tokens has 5"):
        perplexity(uniform, tokens, length=20, windows=6)
    with pytest.raises(InputError, match="has 0"):
        perplexity(uniform, tokens, length=200)
    for wrong in ({"length": 1}, {"length": 20, "stride": 21}, {"length": 20, "batch": 0}):
        with pytest.raises(InputError, match="stride between 1 and length"):
            perplexity(uniform, tokens, **wrong)
    with pytest.raises(InputError, match="one sequence"):
        perplexity(uniform, tokens.reshape(2, 50), length=20)


def test_infinite_perplexity_is_said() -> None:
    def certain(ids: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(torch.zeros_like(ids), VOCABULARY) * 1e5

    assert perplexity(certain, torch.ones(10, dtype=torch.int64), length=10).perplexity == math.inf


def test_kl_matches_the_definition() -> None:
    dense, pruned = tiny_llama(), tiny_llama(1)
    windows = tiny_tokens(60).reshape(3, 20)
    with torch.no_grad():
        p, q = ((m(windows).logits[:, :-1].double().log_softmax(-1)) for m in (dense, pruned))
    expected = float((p.exp() * (p - q)).sum(-1).mean())
    assert expected > 0.1
    for batch in (1, 2):
        assert kl_to_dense(pruned, dense, windows, batch=batch) == pytest.approx(expected, rel=1e-5)
        exact = DenseReference(dense, windows, store=torch.float32, batch=batch)
        assert kl_to_dense(pruned, exact, batch=batch) == pytest.approx(expected, rel=1e-5)
        half = DenseReference(dense, windows, batch=batch)
        assert kl_to_dense(pruned, half) == pytest.approx(expected, rel=1e-3)
        assert abs(kl_to_dense(dense, exact)) < 1e-6
        assert 0 <= kl_to_dense(dense, half) < 1e-5
    assert len(half) == 3
    assert half.nbytes == 3 * 19 * VOCABULARY * 2
    torch.testing.assert_close(half.log_probs(1).logsumexp(-1), torch.zeros(19))


def test_the_reference_outlives_the_dense_weights() -> None:
    model = tiny_llama()
    windows = tiny_tokens(40).reshape(2, 20)
    expected = kl_to_dense(tiny_llama(1), model, windows)
    reference = DenseReference(model, windows, store=torch.float32)
    model.load_state_dict(tiny_llama(1).state_dict())
    assert kl_to_dense(model, reference) == pytest.approx(expected, rel=1e-5)


def test_impossible_tokens_do_not_break_the_reference() -> None:
    def certain(ids: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(ids, VOCABULARY) * 1e6

    windows = tiny_tokens(20)[None]
    assert kl_to_dense(uniform, DenseReference(certain, windows)) == pytest.approx(
        math.log(VOCABULARY), rel=1e-4
    )


def test_kl_refusals() -> None:
    windows = tiny_tokens(20)[None]
    reference = DenseReference(uniform, windows)
    with pytest.raises(InputError, match="leave `windows` out"):
        kl_to_dense(uniform, reference, windows)
    with pytest.raises(InputError, match="give `windows`"):
        kl_to_dense(uniform, uniform)
    with pytest.raises(InputError, match="must be"):
        DenseReference(uniform, windows[0])
    with pytest.raises(InputError, match="bfloat16"):
        DenseReference(uniform, windows, store=torch.bfloat16)


def test_density_report() -> None:
    layers = prunable_layers(tiny_llama())
    masks = {name: keep_topk(layer.weight.abs(), layer.numel // 4) for name, layer in layers.items()}
    apply(layers, masks)
    name, layer = next(iter(layers.items()))
    row, column = masks[name].nonzero()[0].tolist()
    layer.weight[row, column] = 0
    report = density_report(layers, masks)
    assert report["density"] == 0.75
    assert report["layers"][0] == {
        "name": name,
        "shape": [16, 16],
        "kept": 192,
        "total": 256,
        "density": 0.75,
        "zeros": 65,
    }


def test_forward_of_any_model() -> None:
    ids = tiny_tokens(12).reshape(2, 6)
    model = tiny_llama()
    with torch.no_grad():
        by_tensor, by_dict = forward_of(model)(ids), forward_of(model)({"input_ids": ids})
        assert torch.equal(by_tensor, by_dict)
        assert forward_of(tiny_mlp())(torch.ones(2, 6)).shape == (2, 4)
    assert forward_of(uniform) is uniform
