"""Exact counts and ties by position, against a stable sort."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_prune.selection import keep_topk, keep_topk_global, nm_mask, prune_count


def by_sorting(scores: Tensor, n_prune: int) -> Tensor:
    """The oracle: a stable sort prunes equal scores in order of position."""
    kept = torch.ones(scores.numel(), dtype=torch.bool)
    kept[torch.from_numpy(np.argsort(scores.reshape(-1).numpy(), kind="stable")[:n_prune].copy())] = False
    return kept.reshape(scores.shape)


def scores_with_ties(out: int, inputs: int, seed: int, levels: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randint(-levels, levels, (out, inputs), generator=generator) / 3).to(torch.float32)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 17), st.integers(0, 99), st.sampled_from([1, 4, 1000]), st.floats(0, 1)
)
def test_layer_matches_a_stable_sort(out: int, inputs: int, seed: int, levels: int, sparsity: float) -> None:
    scores = scores_with_ties(out, inputs, seed, levels)
    n_prune = prune_count(scores.numel(), sparsity)
    assert torch.equal(keep_topk(scores, n_prune), by_sorting(scores, n_prune))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 9), st.integers(1, 17), st.integers(0, 99), st.sampled_from([1, 4, 1000]), st.floats(0, 1)
)
def test_rows_are_exact(out: int, inputs: int, seed: int, levels: int, sparsity: float) -> None:
    scores = scores_with_ties(out, inputs, seed, levels)
    n_prune = prune_count(scores.numel(), sparsity)
    kept = keep_topk(scores, n_prune, "output")
    pruned = (~kept).sum(1)
    assert int(pruned.sum()) == n_prune
    assert int(pruned.max() - pruned.min()) <= 1
    for row, count in enumerate(pruned.tolist()):
        assert torch.equal(kept[row : row + 1], by_sorting(scores[row : row + 1], count))
    columns = keep_topk(scores.t().contiguous(), n_prune, "input")
    assert torch.equal(columns.t(), kept)


def test_longer_rows_are_those_with_the_lowest_next_score() -> None:
    scores = torch.tensor([[0.0, 9.0], [1.0, 3.0], [2.0, 4.0]])
    assert keep_topk(scores, 4, "output").tolist() == [[False, True], [False, False], [False, True]]


def test_global_over_layers_matches_sorting_the_concatenation() -> None:
    scores = {str(i): scores_with_ties(7, 11, i, 6) for i in range(4)}
    together = torch.cat([score.reshape(-1) for score in scores.values()])
    for n_prune in (0, 1, 77, 150, 307, 308):
        masks = keep_topk_global(scores, n_prune)
        flat = torch.cat([mask.reshape(-1) for mask in masks.values()])
        assert torch.equal(flat, by_sorting(together, n_prune))


def test_zeros_of_both_signs_and_half_precision_tie() -> None:
    scores = torch.tensor([[0.0, -0.0, 1.0, -0.0]], dtype=torch.bfloat16)
    assert keep_topk(scores, 2).tolist() == [[False, False, True, True]]
    assert keep_topk(scores, 2, "output").tolist() == [[False, False, True, True]]


def test_extreme_floats_keep_their_order() -> None:
    values = torch.tensor([[-3e38, -1.0, -1e-40, 0.0, 1e-40, 1.0, 3e38]])
    for n_prune in range(8):
        assert torch.equal(keep_topk(values, n_prune), by_sorting(values, n_prune))


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = scores_with_ties(13, 31, 0, 2)
    whole = [keep_topk(scores, 170), keep_topk(scores, 170, "output"), nm_mask(scores[:, :28], 2, 4)]
    monkeypatch.setattr("qubo_prune.selection._CHUNK", 64)
    parts = [keep_topk(scores, 170), keep_topk(scores, 170, "output"), nm_mask(scores[:, :28], 2, 4)]
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    scores = torch.zeros(2, 4)
    scores[1, 2] = bad
    with pytest.raises(InputError, match="some layer: 1 scores are NaN or infinite"):
        keep_topk(scores, 2, name="some layer")
    with pytest.raises(InputError, match="other"):
        keep_topk_global({"fine": torch.zeros(2, 2), "other": scores}, 2)


def test_large_finite_scores_are_not_mistaken_for_infinity() -> None:
    assert int((~keep_topk(torch.full((2, 4), 3e38), 3)).sum()) == 3


def test_refusals() -> None:
    scores = torch.zeros(2, 4)
    with pytest.raises(InputError, match="n_prune=9"):
        keep_topk(scores, 9)
    with pytest.raises(InputError, match="granularity='row'"):
        keep_topk(scores, 1, "row")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="must be"):
        keep_topk(scores[0], 1)
    with pytest.raises(InputError, match=r"sparsity=1\.5"):
        prune_count(4, 1.5)
    with pytest.raises(InputError, match="sparsity=nan"):
        prune_count(4, float("nan"))
    with pytest.raises(InputError, match="n_prune=9"):
        keep_topk_global({"a": scores}, 9)


def test_prune_count_rounds_to_nearest() -> None:
    assert [prune_count(n, 0.5) for n in (0, 1, 2, 3)] == [0, 1, 1, 2]
    assert prune_count(10**9 + 7, 1.0) == 10**9 + 7


def test_nm_keeps_n_of_every_m() -> None:
    scores = scores_with_ties(6, 16, 3, 3)
    kept = nm_mask(scores, 2, 4)
    assert torch.all(kept.reshape(-1, 4).sum(1) == 2)
    for group, mask in zip(scores.reshape(-1, 4), kept.reshape(-1, 4), strict=True):
        assert torch.equal(mask[None], by_sorting(group[None], 2))
    assert nm_mask(scores, 4, 4).all()
    assert not nm_mask(scores, 0, 4).any()
    with pytest.raises(InputError, match="16 inputs cannot be cut into groups of 5"):
        nm_mask(scores, 2, 5)
    with pytest.raises(InputError, match="pattern 5:4"):
        nm_mask(scores, 5, 4)
