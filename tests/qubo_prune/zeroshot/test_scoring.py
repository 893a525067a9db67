"""Log-likelihoods against one token at a time, batches against none, and the split of two texts."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qubo_prune.errors import InputError
from qubo_prune.testing import TINY_MODELS, VOCABULARY, tiny_llama, tiny_tokenizer, tiny_tokens
from qubo_prune.zeroshot.scoring import LogLikelihood, Request, context_length, encode, log_likelihoods


def request(seed: int, before: int, after: int) -> Request:
    ids = tiny_tokens(before + after, seed).tolist()
    return Request(tuple(ids[:before]), tuple(ids[before:]))


REQUESTS = [request(i, 1 + 7 * i % 30, 1 + i % 4) for i in range(9)]


def one_by_one(model: nn.Module, asked: Request) -> LogLikelihood:
    """Every token of the continuation predicted by a pass of its own over what is before it, in float64."""
    total, greedy = 0.0, True
    seen = list(asked.context)
    for token in asked.continuation:
        with torch.no_grad():
            last: Tensor = model(input_ids=torch.tensor([seen])).logits[0, -1].double()
        total += float(last.log_softmax(-1)[token])
        greedy &= int(last.argmax()) == token
        seen.append(token)
    return LogLikelihood(total, greedy, len(asked.continuation))


@pytest.mark.parametrize("family", TINY_MODELS)
def test_scores_are_those_of_one_token_at_a_time(family: str) -> None:
    model = TINY_MODELS[family]()
    likely = one_by_one_greedy(model, REQUESTS[3])
    asked = [*REQUESTS, likely]
    expected = [one_by_one(model, one) for one in asked]
    assert expected[-1].greedy
    assert not all(one.greedy for one in expected)
    for batch in (1, 3, 64):
        found = log_likelihoods(model, asked, batch=batch)
        assert [one.total for one in found] == pytest.approx([one.total for one in expected], rel=1e-5)
        assert [(one.greedy, one.tokens) for one in found] == [(one.greedy, one.tokens) for one in expected]


def one_by_one_greedy(model: nn.Module, asked: Request) -> Request:
    """The same context with what greedy decoding says."""
    seen = list(asked.context)
    for _ in range(3):
        with torch.no_grad():
            seen.append(int(model(input_ids=torch.tensor([seen])).logits[0, -1].argmax()))
    return Request(asked.context, tuple(seen[-3:]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda() -> None:
    here, there = log_likelihoods(tiny_llama(), REQUESTS), log_likelihoods(tiny_llama().cuda(), REQUESTS)
    assert [one.total for one in there] == pytest.approx([one.total for one in here], rel=1e-4)


def test_long_contexts_lose_their_beginning() -> None:
    model = tiny_llama(max_position_embeddings=24)
    assert context_length(model) == 24
    asked = request(5, 60, 3)
    cut = Request(asked.context[-22:], asked.continuation)  # 24 tokens are given: all of 25 but the last
    assert log_likelihoods(model, [asked])[0].total == pytest.approx(one_by_one(model, cut).total, rel=1e-5)
    whole = log_likelihoods(model, [asked], max_length=200)[0].total
    assert whole == pytest.approx(one_by_one(model, asked).total, rel=1e-5)
    assert log_likelihoods(model, [request(5, 9, 24)], batch=1)[0].tokens == 24
    with pytest.raises(InputError, match="a continuation has 25 tokens: the model looks at 24"):
        log_likelihoods(model, [request(5, 9, 25)])


def test_ties_go_to_the_lowest_token() -> None:
    def uniform(ids: Tensor) -> Tensor:
        return torch.zeros(*ids.shape, VOCABULARY)

    first, second = log_likelihoods(uniform, [Request((5,), (0,)), Request((5,), (1,))])
    assert (first.greedy, second.greedy) == (True, False)
    assert first.total == second.total == pytest.approx(-torch.tensor(float(VOCABULARY)).log().item())


def test_progress_and_refusals() -> None:
    seen: list[tuple[int, int]] = []
    log_likelihoods(
        tiny_llama(), REQUESTS, batch=4, on_progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(4, 9), (8, 9), (9, 9)]
    assert log_likelihoods(tiny_llama(), []) == []
    with pytest.raises(InputError, match="batch=0"):
        log_likelihoods(tiny_llama(), REQUESTS, batch=0)
    broken = tiny_llama()
    next(broken.parameters()).data.fill_(float("nan"))
    with pytest.raises(InputError, match="logits are NaN"):
        log_likelihoods(broken, REQUESTS)


# -- the split ------------------------------------------------------------------------------------------


class Merging:
    """Ids of words with the space before them, as byte pairs merge them; "ab" is one token though a and b
    are two."""

    bos_token_id: int | None = None
    eos_token_id: int | None = 99

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        ids = {" the": 1, "the": 2, " mat": 3, "ab": 4, "a": 5, "b": 6, " ": 7, "mat": 8, "\n": 9}
        found = []
        while text:
            piece = max((p for p in ids if text.startswith(p)), key=len)
            found.append(ids[piece])
            text = text[len(piece) :]
        return {"input_ids": found}


def test_the_split_is_that_of_both_texts_together() -> None:
    tokenizer = Merging()
    assert encode(tokenizer, "the the", " mat") == Request((2, 1), (3,))
    assert encode(tokenizer, "the ", "the") == Request((2,), (1,))  # the space goes over, and merges
    assert encode(tokenizer, "the\n", " mat") == Request((2,), (9, 3))
    assert encode(tokenizer, "", " mat") == Request((99,), (3,))
    assert encode(tokenizer, " ", " mat") == Request((99,), (7, 3))
    with pytest.raises(InputError, match="'b' has no tokens of its own after 'a'"):
        encode(tokenizer, "a", "b")
    tokenizer.eos_token_id = None
    with pytest.raises(InputError, match="neither BOS nor EOS"):
        encode(tokenizer, "", " mat")
    tokenizer.bos_token_id = 98
    assert encode(tokenizer, "", " mat") == Request((98,), (3,))


def test_the_split_of_bytes() -> None:
    tokenizer = tiny_tokenizer()
    found = encode(tokenizer, "An é", " end")
    assert found.context == tuple(tokenizer("An é", add_special_tokens=False)["input_ids"])
    assert len(found.context) == 5
    assert tokenizer.decode(list(found.continuation)) == " end"
