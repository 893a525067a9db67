"""Log-likelihoods of continuations under a causal model, in padded batches.

found = log_likelihoods(model, [encode(tokenizer, "The cat sat on the", " mat")], batch=8)
found[0].total, found[0].greedy
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qubo_prune.errors import InputError
from qubo_prune.forward import Forward, forward_of
from qubo_prune.products import quick_products


@dataclass(frozen=True)
class Request:
    """Token ids of a context (at least one) and of what is to follow it (at least one)."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class LogLikelihood:
    """total: nats, the sum over the continuation's tokens of their log-probabilities, each given all tokens
    before it. greedy: whether every one of them is the most likely token (of equal ones the lowest id)."""

    total: float
    greedy: bool
    tokens: int


def encode(tokenizer: Any, context: str, continuation: str) -> Request:
    """The request of two texts, split as EleutherAI's lm-eval splits them.

    White space at the end of the context moves to the continuation; both are tokenised together, and the
    continuation has what is beyond the tokens of the context alone. No BOS is added; an empty context becomes
    the tokenizer's BOS, or EOS where it has none.
    InputError: a continuation without tokens, or an empty context and neither BOS nor EOS.
    """
    stripped = context.rstrip()
    continuation, context = context[len(stripped) :] + continuation, stripped
    before, whole = (_ids(tokenizer, text) for text in (context, context + continuation))
    if not context:
        ends = (getattr(tokenizer, f"{name}_token_id", None) for name in ("bos", "eos"))
        start = next((token for token in ends if token is not None), None)
        if start is None:
            raise InputError("a text has no context, and the tokenizer neither BOS nor EOS to stand for one.")
        before, whole = [start], [start, *whole]
    if len(whole) <= len(before):
        end = context[-40:]
        raise InputError(f"the continuation {continuation!r} has no tokens of its own after {end!r}.")
    return Request(tuple(before), tuple(whole[len(before) :]))


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


def context_length(model: nn.Module | Forward) -> int | None:
    """Tokens that a transformers model can look at, by its configuration; None: it does not say."""
    config = getattr(model, "config", None)
    for name in ("max_position_embeddings", "n_positions"):
        if isinstance(found := getattr(config, name, None), int):
            return found
    return None


@torch.no_grad()
@quick_products()
def log_likelihoods(
    model: nn.Module | Forward,
    requests: Sequence[Request],
    *,
    batch: int = 8,
    max_length: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[LogLikelihood]:
    """The log-likelihood of each request's continuation, in the order of the requests.

    model: a causal model in evaluation mode, or a callable (B, length) ids -> (B, length, V) logits; it runs
    where its parameters are. batch: requests per forward pass, those of like length together, padded on the
    right: a causal model does not see what comes later, so padding changes nothing but rounding. Memory: the
    logits, batch * length * V values. max_length: tokens that the model can look at (default: what its
    configuration says); of longer ones the first are cut off, as lm-eval does. on_progress: told (requests
    done, all) after each pass. Log-probabilities are formed in float32 and summed in float64.

    InputError: batch below 1, a continuation longer than max_length, or logits that are NaN.
    """
    if batch < 1:
        raise InputError(f"log_likelihoods: batch={batch}: it must be at least 1.")
    limit = context_length(model) if max_length is None else max_length
    longest = max((len(request.continuation) for request in requests), default=0)
    if limit is not None and longest > limit:
        raise InputError(f"a continuation has {longest} tokens: the model looks at {limit} at most.")
    forward = forward_of(model)
    inputs = [_input(request, limit) for request in requests]
    order = sorted(range(len(requests)), key=lambda i: -len(inputs[i]))  # too little memory shows at once
    found: list[LogLikelihood | None] = [None] * len(requests)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        ids = torch.zeros(len(chosen), len(inputs[chosen[0]]), dtype=torch.int64)
        for row, i in enumerate(chosen):
            ids[row, : len(inputs[i])] = torch.tensor(inputs[i])
        logits = forward(ids)
        for row, i in enumerate(chosen):
            end, targets = len(inputs[i]), torch.tensor(requests[i].continuation, device=logits.device)
            found[i] = _score(logits[row, end - len(targets) : end], targets)
        if on_progress is not None:
            on_progress(min(start + batch, len(order)), len(order))
    return [one for one in found if one is not None]


def _input(request: Request, limit: int | None) -> tuple[int, ...]:
    """What the model is given: all tokens but the last, the last `limit` of them."""
    ids = (request.context + request.continuation)[:-1]
    return ids if limit is None else ids[-limit:]


def _score(logits: Tensor, targets: Tensor) -> LogLikelihood:
    """The log-likelihood of targets (n,) by the logits (n, V) at the places before them."""
    logits = logits.float()
    mine = logits.gather(1, targets[:, None])
    total = float((mine[:, 0] - logits.logsumexp(1)).sum(dtype=torch.float64))
    if total != total:
        raise InputError("the model's logits are NaN: its weights are broken, or its dtype is too narrow.")
    earlier = torch.arange(logits.shape[1], device=logits.device) < targets[:, None]
    beaten = (logits > mine) | ((logits == mine) & earlier)
    return LogLikelihood(total, not bool(beaten.any()), len(targets))
