"""Batches of another size: every sample once, in order, whatever holds them."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qubo_prune.errors import InputError
from qubo_prune.rebatch import rebatched, shortened


@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6), size=st.integers(1, 7))
def test_every_sample_once_and_in_order(sizes: list[int], size: int) -> None:
    samples = torch.arange(sum(sizes) * 2).reshape(-1, 2)
    plain = list(samples.split(sizes))
    found: Any = list(rebatched(plain, size))
    assert torch.equal(torch.cat(found), samples)
    assert all(len(batch) <= size for batch in found)
    assert all(len(a) + len(b) > size for a, b in itertools.pairwise(found))
    named: Any = list(rebatched([{"a": b, "b": b[:, 0]} for b in plain], size))
    assert [batch["a"].tolist() for batch in named] == [batch.tolist() for batch in found]
    assert torch.equal(torch.cat([batch["b"] for batch in named]), samples[:, 0])


def test_what_is_not_alike_stays_apart() -> None:
    pair = (torch.zeros(1), torch.zeros(1))
    assert list(rebatched([pair, pair], 4)) == [pair, pair]
    for other in (torch.zeros(1, 3), torch.zeros(1, 2, dtype=torch.long), {"a": torch.zeros(1, 2)}):
        assert len(list(rebatched([torch.zeros(1, 2), other], 4))) == 2
    mixed = [{"a": torch.zeros(1)}, {"b": torch.zeros(1)}, {"a": torch.zeros(1), "b": 1}]
    assert len(list(rebatched(mixed, 4))) == 3


@given(tokens=st.integers(2, 40), length=st.integers(2, 50))
def test_windows_in_parts(tokens: int, length: int) -> None:
    windows = torch.arange(2 * tokens).reshape(2, tokens)
    batches = [windows[:1], windows[1:]]
    assert shortened(batches, None) == batches
    found: Any = shortened(batches, length)
    assert torch.equal(torch.cat(found, 1).reshape(2, tokens), windows)
    sizes = {part.shape[1] for part in found}
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2
    assert max(sizes) <= max(length, 3)  # three tokens are not cut


def test_what_is_no_window() -> None:
    for wrong in (torch.zeros(2, 12), torch.zeros(2, 3, 4, dtype=torch.long), {"input_ids": torch.zeros(1)}):
        with pytest.raises(InputError, match=r"refit\.length=4 .* leave it out"):
            shortened([wrong], 4)
