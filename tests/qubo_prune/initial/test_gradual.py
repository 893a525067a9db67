"""Gradual pruning: exact budgets in every stage, least squares between them, patterns, groups of rows."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_prune.initial.gradual import Gradual, gradual
from qubo_prune.initial.sparsegpt import sparsegpt
from qubo_prune.selection import keep_topk
from qubo_prune.statistics.paths import PathEvidence, PathMoments


def problem(rows: int = 6, columns: int = 20, seed: int = 0, tokens: int = 80) -> tuple[Tensor, Tensor]:
    """Weights (R, n) and the Gram matrix of correlated inputs."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, columns, generator=g) @ torch.randn(columns, columns, generator=g)
    return torch.randn(rows, columns, generator=g), x.T @ x / tokens


def error(values: Tensor, weight: Tensor, gram: Tensor) -> float:
    gap = (values - weight).double()
    return float((gap @ gram.double() * gap).sum())


def exact(weight: Tensor, gram: Tensor, mask: Tensor, damping: float, drift: Tensor | None = None) -> Tensor:
    """Ridge regression towards the original weights on the mask, row by row, in float64."""
    cross = gram.double() if drift is None else gram.double() + drift.double()  # E[x x_t']
    h = gram.double()
    ridge = damping * h.diagonal().mean()
    w = torch.zeros_like(weight, dtype=torch.float64)
    for r in range(len(weight)):
        s = mask[r].nonzero().reshape(-1)
        t = weight[r].double()
        a = h[s][:, s] + ridge * torch.eye(len(s), dtype=torch.float64)
        w[r, s] = torch.linalg.solve(a, (cross @ t)[s] + ridge * t[s])
    return w


def test_one_stage_is_the_surgeons_score_and_ridge_regression() -> None:
    weight, gram = problem()
    h = gram.double() + 0.05 * gram.diagonal().double().mean() * torch.eye(20, dtype=torch.float64)
    scores = weight.double().abs() / torch.linalg.inv(h).diagonal().sqrt()
    found = gradual(weight, gram, 57, stages=1, iterations=200, damping=0.05)
    assert torch.equal(found.mask, keep_topk(scores, 57))
    torch.testing.assert_close(
        found.values.double(), exact(weight, gram, found.mask, 0.05), rtol=1e-3, atol=1e-3
    )
    assert found.damping == 0.05


@pytest.mark.parametrize("seed", range(3))
def test_the_last_values_are_ridge_regression_on_the_mask(seed: int) -> None:
    weight, gram = problem(seed=seed)
    found = gradual(weight, gram, 60, stages=4, iterations=200)
    torch.testing.assert_close(
        found.values.double(), exact(weight, gram, found.mask, 0.03), rtol=1e-3, atol=1e-3
    )


def test_the_target_may_be_of_another_input() -> None:
    weight, gram = problem()
    g = torch.Generator().manual_seed(9)
    drift = 0.1 * gram.diagonal().mean() * torch.randn(20, 20, generator=g)
    found = gradual(weight, gram, 60, stages=3, iterations=200, drift=drift)
    expected = exact(weight, gram, found.mask, 0.03, drift)
    torch.testing.assert_close(found.values.double(), expected, rtol=1e-3, atol=1e-3)


def test_stages_leave_less_error_than_one_and_than_sparsegpt() -> None:
    once = many = surgeon = 0.0
    for seed in range(5):
        weight, gram = problem(rows=24, columns=48, seed=seed, tokens=400)
        once += error(gradual(weight, gram, 576, stages=1).values, weight, gram)
        many += error(gradual(weight, gram, 576).values, weight, gram)
        surgeon += error(sparsegpt(weight, gram, 576).values, weight, gram)
    assert many < 0.9 * once
    assert many < surgeon


@pytest.mark.parametrize("n_prune", [0, 1, 37, 60, 119, 120])
@pytest.mark.parametrize("granularity", ["layer", "output", "input"])
def test_budgets_are_exact_with_ties(n_prune: int, granularity: str) -> None:
    weight, gram = problem()
    for w in (weight, torch.ones_like(weight), torch.zeros_like(weight)):
        found = gradual(w, gram, n_prune, granularity, stages=3)  # type: ignore[arg-type]
        assert int((~found.mask).sum()) == n_prune
        assert not found.values[~found.mask].any()
        if granularity != "layer":
            counts = found.mask.sum(1 if granularity == "output" else 0)
            assert int(counts.max() - counts.min()) <= 1
        if n_prune == 0:
            assert torch.equal(found.values, w)


def test_rows_may_have_counts_of_their_own() -> None:
    weight, gram = problem()
    rows = torch.tensor([0, 20, 7, 1, 12, 20])
    for w in (weight, torch.ones_like(weight), torch.zeros_like(weight)):
        found = gradual(w, gram, 60, row_counts=rows, stages=3)
        assert torch.equal((~found.mask).sum(1), rows)
        assert not found.values[~found.mask].any()
    found = gradual(weight, gram, 60, row_counts=rows, stages=3)
    alone = gradual(weight[2:3], gram, 7, stages=3)
    assert torch.equal(found.mask[2:3], alone.mask)
    torch.testing.assert_close(found.values[2:3], alone.values, rtol=1e-3, atol=1e-3)
    with pytest.raises(InputError, match="a count from 0 to 20 for each of its 6 rows"):
        gradual(weight, gram, 60, row_counts=rows[:5])
    with pytest.raises(InputError, match="its rows prune 60 weights, they must prune 61"):
        gradual(weight, gram, 61, row_counts=rows)


@pytest.mark.parametrize("pattern", [(2, 4), (1, 4), (4, 5), (1, 1), (0, 2)])
def test_patterns(pattern: tuple[int, int]) -> None:
    weight, gram = problem()
    n, m = pattern
    found = gradual(weight, gram, 0, pattern=pattern, stages=3)
    assert (found.mask.reshape(-1, m).sum(1) == n).all()


def test_rows_of_a_larger_scale_keep_more() -> None:
    weight, gram = problem()
    scale = torch.tensor([1.0, 1.0, 1.0, 1.0, 3.0, 0.0])
    kept = gradual(weight, gram, 60, row_scale=scale).mask.sum(1)
    assert kept[4] == kept.max() > gradual(weight, gram, 60).mask.sum(1)[4]
    assert kept[5] == 0


def test_groups_of_rows_have_their_own_gram() -> None:
    weight, gram = problem()
    _, other = problem(seed=1)
    halves = [slice(0, 2), slice(2, 6)]
    found = gradual(weight, [gram, other], 60, "output", groups=halves, stages=1)
    for rows, matrix in zip(halves, (gram, other), strict=True):
        alone = gradual(weight[rows], matrix, 10 * len(weight[rows]), "output", stages=1)
        assert torch.equal(found.mask[rows], alone.mask)
        torch.testing.assert_close(found.values[rows], alone.values)


def test_dead_inputs_go_first() -> None:
    weight, gram = problem()
    dead = torch.tensor([0, 3, 4, 11])
    gram[dead] = 0.0
    gram[:, dead] = 0.0
    assert not gradual(weight, gram, 60).mask[:, dead].any()
    few = gradual(weight, gram, 12)
    kept = few.mask[:, dead]
    assert int((~kept).sum()) == 12
    assert torch.equal(few.values[:, dead][kept], weight[:, dead][kept])
    nothing = gradual(weight, torch.zeros_like(gram), 60)
    assert torch.equal(nothing.values[nothing.mask], weight[nothing.mask])


def test_a_matrix_that_is_not_positive_definite_still_gives_finite_values() -> None:
    weight, gram = problem()
    found = gradual(weight, torch.outer(gram[0], gram[0]), 60, damping=0.0)
    assert found.damping > 0
    assert torch.isfinite(found.values).all()


def test_the_method_of_a_layer() -> None:
    weight, gram = problem()
    keep = torch.ones_like(weight, dtype=torch.bool)
    scale = torch.linspace(0.5, 2.0, 6)
    method = Gradual({"a": 60}, row_scales={"a": scale}, stages=4)
    change = method("a", weight, keep, PathEvidence(weight, PathMoments(80, gram.double() * 80)))
    expected = gradual(weight, gram, 60, row_scale=scale, stages=4)
    assert change.mask is not None
    assert change.values is not None
    assert torch.equal(change.mask, expected.mask)
    torch.testing.assert_close(change.values, expected.values)
    patterned = Gradual({"a": 60}, patterns={"a": (2, 4)})
    change = patterned("a", weight, keep, PathEvidence(weight, PathMoments(80, gram.double() * 80)))
    assert change.mask is not None
    assert (change.mask.reshape(-1, 4).sum(1) == 2).all()


def test_refusals() -> None:
    weight, gram = problem()
    with pytest.raises(InputError, match="cannot be global"):
        gradual(weight, gram, 1, "global")
    with pytest.raises(InputError, match="n_prune=121"):
        gradual(weight, gram, 121)
    with pytest.raises(InputError, match="2 of each 3"):
        gradual(weight, gram, 0, pattern=(2, 3))
    with pytest.raises(InputError, match="NaN"):
        gradual(weight, gram * float("nan"), 60)
