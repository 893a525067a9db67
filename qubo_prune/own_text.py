"""Own text: windows that the dense model writes itself, to calibrate on more than the windows there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from qubo_prune.data import Data, in_batches
from qubo_prune.errors import InputError
from qubo_prune.objective import Batch, batch_size
from qubo_prune.preparation import statistics_batches
from qubo_prune.recipe import Recipe
from qubo_prune.sequential import held_out_of
from qubo_prune.statistics.tape import frozen

NO_OWN_TEXT = "set calibration.own and refit.own to 0"

CACHE_BYTES = 2 << 30
"""As many windows are written at once as keep their keys and values in so much memory: a pass for one token
reads all weights, whatever the windows. SmolLM2-135M, two threads, 250 tokens in: 32 windows 104 tokens a
second, 64 windows 143 to 178, 128 windows 159 to 195."""


@torch.no_grad()
def write_windows(
    model: nn.Module,
    batches: Sequence[Batch],
    count: int,
    prompt: float,
    seed: int = 0,
    on_token: Callable[[int, int], None] | None = None,
) -> Tensor:
    """(count, length) token ids: prompts from the calibration windows, continued by the model.

    A continuation is sampled token by token from the model's own distribution, at temperature 1 and without
    truncation: what the model says is then right, so its KL, gradients and Fisher on this text mean what they
    mean on real text of the same kind. (Calibration text from the model itself: Williams, Chrysostomou and
    Aletras, arXiv 2410.17170; here it joins the real text.)

    batches: of token ids (B, length), all of one length. prompt: how many tokens, see `prompt_tokens`.
    Window i of n continues tokens j to j + prompt of calibration window i mod n, where j is 0 for the first n
    windows, `prompt` for the next n and so on. An end of text that the model samples is a token like any
    other.
    on_token is told (passes done, of); a pass writes one token of all windows that CACHE_BYTES let in.

    InputError: as for `check`, and a model that keeps no cache of keys and values.
    """
    check(model, batches, prompt)
    windows = torch.cat([b for b in batches if isinstance(b, Tensor)])
    length = windows.shape[1]
    given = prompt_tokens(prompt, length)
    starts = [(i % len(windows), i // len(windows) % (length // given) * given) for i in range(count)]
    prompts = torch.stack([windows[i, j : j + given] for i, j in starts])
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    done = 0

    def told() -> None:
        nonlocal done
        done += 1
        if on_token is not None:
            on_token(done, total)

    with frozen(model):
        parts = prompts.tensor_split(-(-count // _at_once(model, prompts[:1, :1], length)))
        total = len(parts) * (length - given)
        return torch.cat([_continued(model, part, length, generator, told) for part in parts])


def _at_once(model: nn.Module, token: Tensor, length: int) -> int:
    """How many windows of `length` tokens may be written at once, by the cache of one `token` (1, 1)."""
    output = model(input_ids=token.to(next(model.parameters()).device), use_cache=True)
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        raise InputError(f"the model keeps no cache of keys and values: {NO_OWN_TEXT}")
    held = [x for layer in getattr(cache, "layers", ()) for x in (layer.keys, layer.values)]
    size = sum(x.nbytes for x in held if isinstance(x, Tensor))
    return max(1, CACHE_BYTES // (size * length)) if size else 32


def _continued(
    model: nn.Module, prompts: Tensor, length: int, generator: torch.Generator, told: Callable[[], None]
) -> Tensor:
    """Token ids (B, length) that begin with `prompts`."""
    given = prompts.to(generator.device)
    text, cache = [given], None
    for _ in range(length - prompts.shape[1]):
        output = model(input_ids=given, past_key_values=cache, use_cache=True)
        if cache is None:
            cache = output.past_key_values
            _make_room(cache, length)
        given = _drawn(output.logits[:, -1], generator)
        text.append(given)
        told()
    return torch.cat(text, 1).to(prompts.device)


def _drawn(logits: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 1) tokens drawn by one uniform number each; `multinomial` draws one for each token there is."""
    chances = torch.softmax(logits.float(), -1).cumsum(-1, dtype=torch.float64)
    where = torch.rand(len(logits), 1, dtype=torch.float64, device=logits.device, generator=generator)
    return torch.searchsorted(chances, where * chances[:, -1:], right=True).clamp_(max=logits.shape[-1] - 1)


def _make_room(cache: Any, length: int) -> None:
    """As `cache_room.make_room`, where transformers has layers of a cache (4.54)."""
    with suppress(ImportError):
        from qubo_prune.cache_room import make_room

        make_room(cache, length)


def with_own_text(
    model: nn.Module, data: Data, recipe: Recipe, on_token: Callable[[int, int], None] | None = None
) -> Data:
    """The data with the windows that the recipe has the model write; the model is as it came. Batches that a
    layer-wise phase holds out give no prompts."""
    count, ranges = own_windows(recipe), recipe.calibration
    if not count:
        return data
    given = statistics_batches(replace(data, own=()), recipe)
    held = [part.held_out for part in (recipe.rows, recipe.reconstruct) if part is not None]
    given = given[: len(given) - held_out_of(len(given), max(held, default=0.0))]
    own = write_windows(model, given, count, ranges.own_prompt, recipe.seed, on_token)
    size = batch_size(given[0])
    for_all, for_refit = (in_batches(part, size) for part in own.tensor_split([ranges.own]))
    return replace(data, own=[*data.own, *for_all], own_refit=[*data.own_refit, *for_refit])


def own_windows(recipe: Recipe) -> int:
    """How many windows the model writes, for the statistics and for the refit alone."""
    return recipe.calibration.own + (0 if recipe.refit is None else recipe.refit.own)


def prompt_tokens(prompt: float, length: int) -> int:
    """How many tokens of a window of `length` are its prompt, by a number or (below 1) a share of them."""
    return int(prompt) if prompt >= 1 else max(1, int(prompt * length))


def check(model: nn.Module, batches: Sequence[Batch], prompt: float) -> None:
    """InputError: no causal language model, batches that are no token ids of one length, or prompts that
    leave nothing to write."""
    if getattr(model, "main_input_name", None) != "input_ids" or not hasattr(model, "generate"):
        raise InputError(f"only a causal language model writes own text: {NO_OWN_TEXT}")
    ids = [b for b in batches if isinstance(b, Tensor) and b.dim() == 2 and not b.is_floating_point()]
    if not ids or len(ids) < len(batches) or len({b.shape[1] for b in ids}) > 1:
        raise InputError(
            "own text continues windows of token ids (B, length) of one length: give such batches, or "
            f"{NO_OWN_TEXT}"
        )
    if prompt_tokens(prompt, ids[0].shape[1]) >= ids[0].shape[1]:
        raise InputError(
            f"calibration.own_prompt={prompt:g} leaves nothing of windows of {ids[0].shape[1]} tokens to "
            "write: make it smaller"
        )
