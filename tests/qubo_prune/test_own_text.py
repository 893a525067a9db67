"""Own text: prompts continued by the model's own distribution, used where the recipe says so."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from qubo_prune import sequential, walker
from qubo_prune.api import Data, prune
from qubo_prune.errors import InputError
from qubo_prune.own_text import prompt_tokens, with_own_text, write_windows
from qubo_prune.progress import Progress
from qubo_prune.recipe import Recipe
from qubo_prune.testing import TINY_MODELS, tiny_llama, tiny_mlp, tiny_tokens


def batches(count: int = 4, length: int = 16) -> list[Tensor]:
    return list(tiny_tokens(count * length, vocabulary=12).reshape(count, length).split(2))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_prompts_are_continued_and_the_same_seed_writes_the_same(family: str) -> None:
    model = TINY_MODELS[family]()
    written = write_windows(model, batches(), 10, 4)
    windows = torch.cat(batches())
    assert written.shape == (10, 16)
    for i, text in enumerate(written):
        start = i // 4 * 4
        assert torch.equal(text[:4], windows[i % 4, start : start + 4])
    assert torch.equal(written, write_windows(model, batches(), 10, 4))
    assert not torch.equal(written, write_windows(model, batches(), 10, 4, seed=1))


def test_a_prompt_is_a_number_of_tokens_or_a_share_of_a_window() -> None:
    assert [prompt_tokens(p, 16) for p in (4, 0.25, 0.999, 0.01, 1, 15.0)] == [4, 4, 15, 1, 1, 15]
    model = tiny_llama()
    assert torch.equal(write_windows(model, batches(), 3, 0.25), write_windows(model, batches(), 3, 4))


@pytest.mark.parametrize("family", ["llama", "gpt2", "mistral"])
def test_room_in_the_cache_changes_nothing(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TINY_MODELS[family]()
    written = write_windows(model, batches(), 4, 4)
    made: list[int] = []
    monkeypatch.setattr("qubo_prune.own_text._make_room", lambda cache, length: made.append(length))
    assert torch.equal(written, write_windows(model, batches(), 4, 4))
    assert made == [16]


def test_as_many_windows_at_once_as_their_caches_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama()
    config = model.config
    heads = config.num_key_value_heads * config.hidden_size // config.num_attention_heads
    window = 2 * 4 * config.num_hidden_layers * heads * 16

    def note(told: list[tuple[int, int]], done: int, of: int) -> None:
        told.append((done, of))

    for room, parts in ((3 * window, 4), (7 * window - 1, 2), (1, 10), (20 * window, 1)):
        monkeypatch.setattr("qubo_prune.own_text.CACHE_BYTES", room)
        told: list[tuple[int, int]] = []
        written = write_windows(model, batches(), 10, 4, on_token=partial(note, told))
        assert written.shape == (10, 16)
        assert torch.equal(written[:, :4][:4], torch.cat(batches())[:, :4])
        assert told == [(i + 1, parts * 12) for i in range(parts * 12)]


def test_tokens_are_drawn_from_the_models_distribution() -> None:
    model = tiny_llama()
    window = batches()[0][:1]
    written = write_windows(model, [window], 4000, 15)[:, 15]
    with torch.no_grad():
        expected = torch.softmax(model(window[:, :15]).logits[0, -1].double(), -1)
    seen = torch.bincount(written, minlength=len(expected)).double() / len(written)
    assert float((seen - expected).abs().max()) < 4 * float((expected / 4000).sqrt().max())


def test_a_run_fits_on_it_too() -> None:
    def run(own: int, **settings: Any) -> tuple[Any, list[Progress]]:
        told: list[Progress] = []
        recipe = Recipe.parse(
            {"calibration": {"windows": 4, "own": own, "own_prompt": 4}, "refine": None, **settings}
        )
        data = Data(batches(8), batches(2), batches(2))
        return prune(tiny_llama(), data, recipe, on_progress=told.append), told

    for settings in ({}, {"refit": {"epochs": 1}}, {"initial": {"method": "gradual"}}):
        plain, _ = run(0, **settings)
        more, told = run(6, **settings)
        assert any(not torch.equal(mask, more.masks[name]) for name, mask in plain.masks.items())
        assert "own text" in more.seconds
        steps = [(p.done, p.total) for p in told if p.phase == "own text"]
        assert steps[-1] == (12, 12)
    again, _ = run(6, initial={"method": "gradual"})
    assert all(torch.equal(mask, more.masks[name]) for name, mask in again.masks.items())


def test_the_refit_has_windows_of_its_own() -> None:
    model = tiny_llama()
    data = Data(batches(8), batches(2), batches(2))
    ranges = {"windows": 4, "own": 3, "own_prompt": 4}

    def recipe(further: int, **changed: int) -> Recipe:
        return Recipe.parse({"calibration": {**ranges, **changed}, "refine": None, "refit": {"own": further}})

    full = with_own_text(model, data, recipe(6))
    alone = with_own_text(model, data, recipe(6, own=0))
    assert [len(b) for b in full.own] == [2, 1]
    assert [len(b) for b in full.own_refit] == [2, 2, 2]
    assert not len(alone.own)
    assert [len(b) for b in alone.own_refit] == [2, 2, 2]
    assert with_own_text(model, data, recipe(0, own=0)) is data

    told: list[Progress] = []
    prune(model, data, recipe(6), on_progress=told.append)
    last = {p.phase: (p.done, p.total) for p in told}
    assert last["statistics"] == (4, 4)  # two batches of calibration windows and two of own text
    assert last["refit"] == (4 + 3 + 6, 4 + 3 + 6)


@pytest.mark.parametrize("part", [{"rows": {}}, {"reconstruct": {}}])
def test_judged_by_windows_of_the_text_that_gave_no_prompts(
    part: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int]] = []

    class Spy(walker.Walker):
        def __init__(self, state: Any, forward: Any, data: list[Tensor], fitted: int, *rest: Any) -> None:
            super().__init__(state, forward, data, fitted, *rest)
            seen.append((fitted, len(data)))
            prompts = {tuple(window[:8].tolist()) for batch in data[:5] for window in batch}
            judges = {tuple(window[:8].tolist()) for batch in data[fitted:] for window in batch}
            assert not prompts & judges

    monkeypatch.setattr(sequential, "Walker", Spy)
    recipe = Recipe.parse({"calibration": {"windows": 8, "own": 10, "own_prompt": 8}, "refine": None, **part})
    prune(tiny_llama(), Data(batches(12), batches(2), batches(2)), recipe)
    assert seen == [(5 + 3, 5 + 4)]  # a quarter of the four batches of text


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.parse({"calibration": {"own": 2, "own_prompt": 4}, "refine": None})
    with pytest.raises(InputError, match=r"own_prompt=16 leaves nothing"):
        write_windows(tiny_llama(), batches(), 2, 16)
    with pytest.raises(InputError, match=r"own_prompt: 4\.5 tokens"):
        Recipe.parse({"calibration": {"own_prompt": 4.5}})
    with pytest.raises(InputError, match="only a causal language model"):
        prune(tiny_mlp(), [torch.randn(4, 6) for _ in range(4)], recipe, loss=lambda m, b: m(b).sum())
    model = tiny_llama()
    forgetful = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: forgetful(**given | {"use_cache": False}))
    with pytest.raises(InputError, match="keeps no cache"):
        write_windows(model, batches(), 2, 4)
    odd = [*batches(), *batches(2, 8)]
    with pytest.raises(InputError, match="of one length"):
        prune(tiny_llama(), Data(odd, odd, odd), recipe)
