"""SparseGPT: the textbook's surgeon, exact budgets, dead inputs, matrices that are not positive definite."""

import pytest
import torch
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_prune.initial.sparsegpt import SparseGPT, sparsegpt
from qubo_prune.statistics.paths import PathEvidence, PathMoments


def problem(rows: int = 6, columns: int = 20, seed: int = 0, tokens: int = 80) -> tuple[Tensor, Tensor]:
    """Weights (R, n) and the Gram matrix of correlated inputs."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, columns, generator=g, dtype=torch.float64) @ torch.randn(
        columns, columns, generator=g, dtype=torch.float64
    )
    weight = torch.randn(rows, columns, generator=g, dtype=torch.float64)
    return weight, x.T @ x / tokens


def surgeon(weight: Tensor, gram: Tensor, kept_at: list[Tensor], damping: float) -> Tensor:
    """The optimal brain surgeon, row by row: each removal in order by explicit inverses, never going back."""
    n = len(gram)
    h = gram + damping * gram.diagonal().mean() * torch.eye(n, dtype=gram.dtype)
    w = weight.clone()
    for j in range(n):
        inverse = torch.linalg.inv(h[j:, j:])  # of the columns not yet done
        for row in (~kept_at[j]).nonzero().reshape(-1):
            w[row, j:] -= w[row, j].clone() / inverse[0, 0] * inverse[0]
            w[row, j] = 0.0
    return w


@pytest.mark.parametrize("seed", range(3))
def test_block_of_one_is_the_surgeon_column_by_column(seed: int) -> None:
    weight, gram = problem(seed=seed)
    rows, n = weight.shape
    h = gram + 0.01 * gram.diagonal().mean() * torch.eye(n, dtype=gram.dtype)
    w, kept = weight.clone(), torch.ones(rows, n, dtype=torch.bool)
    for j in range(n):  # the oracle chooses too: half of each column, the cheapest
        inverse = torch.linalg.inv(h[j:, j:])
        kept[(w[:, j].square() / inverse[0, 0]).argsort()[: rows // 2], j] = False
        for row in (~kept[:, j]).nonzero().reshape(-1):
            w[row, j:] -= w[row, j].clone() / inverse[0, 0] * inverse[0]
            w[row, j] = 0.0
    found = sparsegpt(weight, gram, rows * n // 2, block=1)
    assert torch.equal(found.mask, kept)
    torch.testing.assert_close(found.values.double(), w, rtol=2e-4, atol=2e-4)
    assert found.damping == 0.01


@pytest.mark.parametrize("block", [3, 7, 128])
@pytest.mark.parametrize("granularity", ["layer", "output", "input"])
def test_values_are_the_surgeons_for_any_block(block: int, granularity: str) -> None:
    weight, gram = problem()
    found = sparsegpt(weight, gram, 57, granularity, block=block)  # type: ignore[arg-type]
    expected = surgeon(weight, gram, list(found.mask.T), 0.01)
    torch.testing.assert_close(found.values.double(), expected, rtol=2e-4, atol=2e-4)
    assert not found.values[~found.mask].any()


@pytest.mark.parametrize("n_prune", [0, 1, 37, 60, 119, 120])
@pytest.mark.parametrize("granularity", ["layer", "output", "input"])
def test_budgets_are_exact_with_ties(n_prune: int, granularity: str) -> None:
    weight, gram = problem()
    for w in (weight, torch.ones_like(weight), torch.zeros_like(weight)):
        mask = sparsegpt(w, gram, n_prune, granularity, block=8).mask  # type: ignore[arg-type]
        assert int((~mask).sum()) == n_prune
        if granularity != "layer":
            counts = mask.sum(1 if granularity == "output" else 0)
            assert int(counts.max() - counts.min()) <= 1


ROWS = torch.tensor([0, 20, 7, 1, 12, 20])


def test_rows_may_have_counts_of_their_own() -> None:
    weight, gram = problem()
    for w in (weight, torch.ones_like(weight), torch.zeros_like(weight)):
        found = sparsegpt(w, gram, 60, row_counts=ROWS, block=8)
        assert torch.equal((~found.mask).sum(1), ROWS)
    found = sparsegpt(weight, gram, 60, row_counts=ROWS, block=8)
    expected = surgeon(weight, gram, list(found.mask.T), 0.01)
    torch.testing.assert_close(found.values.double(), expected, rtol=2e-4, atol=2e-4)
    even = sparsegpt(weight, gram, 60, row_counts=torch.full((6,), 10), block=8)
    assert torch.equal(even.mask, sparsegpt(weight, gram, 60, "output", block=8).mask)


@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (4, 5), (1, 1)])
def test_patterns(pattern: tuple[int, int]) -> None:
    weight, gram = problem()
    n, m = pattern
    found = sparsegpt(weight, gram, 0, pattern=pattern, block=6)
    assert (found.mask.reshape(-1, m).sum(1) == n).all()
    expected = surgeon(weight, gram, list(found.mask.T), 0.01)
    torch.testing.assert_close(found.values.double(), expected, rtol=2e-4, atol=2e-4)


def test_better_than_the_same_mask_without_update() -> None:
    weight, gram = problem(rows=12, columns=40, tokens=400)
    found = sparsegpt(weight, gram, 240)

    def error(w: Tensor) -> float:
        return float(((w - weight) @ gram * (w - weight)).sum())

    assert error(found.values.double()) < 0.9 * error(weight * found.mask)


def test_dead_inputs_go_first_and_keep_their_values() -> None:
    weight, gram = problem()
    for j in (0, 3, 4, 11):
        gram[j] = gram[:, j] = 0.0
    dead = torch.tensor([0, 3, 4, 11])
    many = sparsegpt(weight, gram, 60)
    assert not many.mask[:, dead].any()
    few = sparsegpt(weight, gram, 12)
    kept = few.mask[:, dead]
    assert int((~few.mask).sum()) == int((~kept).sum()) == 12
    assert torch.equal(few.values[:, dead][kept], weight[:, dead].float()[kept])
    alive = torch.tensor([j for j in range(20) if j not in dead])
    alone = sparsegpt(weight[:, alive], gram[alive][:, alive], 60 - 24)
    assert int((~alone.mask).sum()) == 36
    everything = sparsegpt(weight, torch.zeros_like(gram), 60)
    assert torch.equal(everything.values[everything.mask], weight.float()[everything.mask])


def test_a_matrix_that_is_not_positive_definite_is_damped_more() -> None:
    weight, gram = problem()
    gram -= 3 * gram.diagonal().mean() * torch.eye(20, dtype=gram.dtype)
    found = sparsegpt(weight, gram, 60)
    assert found.damping > 0.01
    assert torch.isfinite(found.values).all()
    assert int((~found.mask).sum()) == 60
    rank_deficient = torch.outer(gram[0], gram[0])
    assert torch.isfinite(sparsegpt(weight, rank_deficient, 60, damping=0.0).values).all()


def test_the_method_says_that_it_damped_more() -> None:
    weight, gram = problem()
    moments = PathMoments(80, gram * 80)
    method = SparseGPT({"a": 60}, damping=0.02)
    keep = torch.ones_like(weight, dtype=torch.bool)
    change = method("a", weight, keep, PathEvidence(weight, moments))
    assert change.details == {"damping": 0.02}
    assert change.mask is not None
    assert int((~change.mask).sum()) == 60
    moments.xx = gram * 80 - 300 * gram.diagonal().mean() * torch.eye(20, dtype=gram.dtype)
    change = method("a", weight, keep, PathEvidence(weight, moments))
    assert "not positive definite at damping 0.02: raised to" in str(change.details["note"])


def test_refusals() -> None:
    weight, gram = problem()
    with pytest.raises(InputError, match="cannot be global"):
        sparsegpt(weight, gram, 1, "global")
    with pytest.raises(InputError, match="n_prune=121"):
        sparsegpt(weight, gram, 121)
    with pytest.raises(InputError, match="groups of 3"):
        sparsegpt(weight, gram, 0, pattern=(1, 3))
    for wrong in (ROWS[:5], ROWS - 1, ROWS + 1):
        with pytest.raises(InputError, match="a count from 0 to 20 for each of its 6 rows"):
            sparsegpt(weight, gram, 60, row_counts=wrong)
    with pytest.raises(InputError, match="its rows prune 60 weights, they must prune 59"):
        sparsegpt(weight, gram, 59, row_counts=ROWS)
