"""Shared runs of tokens are found, to the token; near misses are not."""

import time

import pytest
import torch

from qubo_prune.errors import InputError
from qubo_prune.overlap import refuse_overlap
from qubo_prune.testing import tiny_tokens


def test_a_shared_run_is_refused_and_located() -> None:
    calibration, evaluation = tiny_tokens(5000, 0), tiny_tokens(4000, 1)
    refuse_overlap(calibration, evaluation)
    evaluation[1000:1064] = calibration[321:385]
    with pytest.raises(
        InputError, match=r"64 tokens from token 1000 are those from token 321 .*\(1 such runs"
    ):
        refuse_overlap(calibration, evaluation)
    evaluation[1010] = 999
    refuse_overlap(calibration, evaluation)


@pytest.mark.parametrize("run", [1, 2, 3, 7, 37, 63, 65, 100])
def test_any_length_of_run(run: int) -> None:
    calibration, evaluation = torch.arange(500), torch.arange(1000, 1600)
    evaluation[40 : 40 + run] = calibration[-run:]
    refuse_overlap(calibration, evaluation, run + 1)
    with pytest.raises(InputError, match="from token 40 "):
        refuse_overlap(calibration, evaluation, run)


def test_windows_are_apart() -> None:
    tokens = tiny_tokens(1000)
    windows = tokens[:640].reshape(10, 64)
    with pytest.raises(InputError, match="from token 64 are those from window 1, token 0"):
        refuse_overlap(windows[1:3].roll(1, 0), tokens[:130].clone().index_fill_(0, torch.tensor([10]), 999))
    refuse_overlap(windows[:, :63], tokens)
    refuse_overlap(windows[:5, 1:], windows[5:], 32)


def test_short_texts_share_nothing() -> None:
    refuse_overlap(torch.arange(63), torch.arange(63))
    refuse_overlap(torch.arange(0), torch.arange(100))
    with pytest.raises(InputError, match="run=0"):
        refuse_overlap(torch.arange(3), torch.arange(3), 0)


def test_hashes_that_collide_are_not_overlaps(monkeypatch: pytest.MonkeyPatch) -> None:
    def same(rows: torch.Tensor, run: int) -> object:
        return (rows[:, : rows.shape[1] - run + 1] * 0).astype("uint64")

    monkeypatch.setattr("qubo_prune.overlap._run_hashes", same)
    refuse_overlap(tiny_tokens(100, 0), tiny_tokens(90, 1))
    with pytest.raises(InputError, match="from token 5 are those from token 15"):
        refuse_overlap(tiny_tokens(100, 0), torch.cat([tiny_tokens(5, 1), tiny_tokens(100, 0)[15:85]]))


@pytest.mark.slow
def test_a_million_tokens_take_about_a_second() -> None:
    calibration, evaluation = tiny_tokens(10**6, 0, 50_000), tiny_tokens(10**6, 1, 50_000)
    started = time.perf_counter()
    refuse_overlap(calibration, evaluation)
    assert time.perf_counter() - started < 5
