"""ADMM: exact budgets, its limit is least squares on the support, moved masks do better than fixed ones."""

import pytest
import torch
from torch import Tensor

from qubo_prune.reconstruct.admm import Admm, admm
from qubo_prune.selection import keep_topk
from qubo_prune.statistics.paths import PathEvidence, PathMoments


def layer(seed: int = 0, rows: int = 10, n: int = 24, tokens: int = 400) -> tuple[Tensor, PathEvidence]:
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(n, n, generator=g) + 2 * torch.eye(n)
    x = torch.randn(tokens, n, generator=g) @ mix
    e = 0.05 * torch.randn(tokens, n, generator=g) @ mix
    original = torch.randn(rows, n, generator=g)
    fit, held = PathMoments(), PathMoments()
    fit.add(x[:300], e[:300])
    held.add(x[300:], e[300:])
    return original, PathEvidence(original, fit, held)


@pytest.mark.parametrize("n_prune", [0, 1, 101, 120, 240])
@pytest.mark.parametrize("granularity", ["layer", "output", "input"])
def test_budgets_are_exact(n_prune: int, granularity: str) -> None:
    original, evidence = layer()
    for target in (original, torch.ones_like(original), torch.zeros_like(original)):
        values, kept = admm(target, evidence.gram(), evidence.cross(), n_prune, granularity)  # type: ignore[arg-type]
        assert int((~kept).sum()) == n_prune
        assert not values[~kept].any()
        if granularity != "layer":
            counts = kept.sum(1 if granularity == "output" else 0)
            assert int(counts.max() - counts.min()) <= 1


def test_its_limit_on_a_fixed_mask_is_least_squares_in_scaled_inputs() -> None:
    original, evidence = layer()
    gram, cross, damping = evidence.gram().double(), evidence.cross().double(), 0.1
    mask = keep_topk(original.abs(), 120, "output")
    values, kept = admm(
        original, evidence.gram(), evidence.cross(), 120, mask=mask, damping=damping, iterations=3000
    )
    assert torch.equal(kept, mask)
    penalty = damping * gram.diagonal().diag()
    rhs = original.double() @ (cross.T + penalty)
    for row, support in enumerate(mask):
        a = (gram + penalty)[support][:, support]
        expected = torch.linalg.solve(a, rhs[row, support])
        torch.testing.assert_close(values[row, support].double(), expected, rtol=5e-3, atol=5e-3)


def test_moving_the_mask_does_better() -> None:
    better = 0
    for seed in range(5):
        original, evidence = layer(seed)
        mask = keep_topk(original.abs(), 120, "output")
        weight = original * mask
        fixed = Admm(moves_mask=False)("a", weight, mask, evidence)
        moved = Admm()("a", weight, mask, evidence)
        assert fixed.values is not None
        assert moved.values is not None
        assert moved.mask is not None
        assert fixed.mask is None or torch.equal(fixed.mask, mask)
        assert int(moved.mask.sum()) == int(mask.sum())
        assert float(moved.details["moved"]) > 0
        assert evidence.error(fixed.values * mask) < evidence.error(weight)
        better += evidence.error(moved.values) < evidence.error(fixed.values * mask)
    assert better == 5


def test_dead_inputs_go_first_and_keep_their_values() -> None:
    original, evidence = layer()
    gram, cross = evidence.gram(), evidence.cross()
    for j in (2, 7):
        gram[j] = gram[:, j] = 0.0
        cross[j] = 0.0
    values, kept = admm(original, gram, cross, 120)
    assert not kept[:, [2, 7]].any()
    values, kept = admm(original, gram, cross, 10)
    dead = kept[:, [2, 7]]
    assert int((~dead).sum()) == 10
    assert torch.equal(values[:, [2, 7]][dead], original[:, [2, 7]][dead])


def test_nothing_to_gain_changes_nothing() -> None:
    original, _ = layer()
    moments = PathMoments()
    moments.add(torch.randn(300, 24, generator=torch.Generator().manual_seed(1)))
    keep = torch.ones_like(original, dtype=torch.bool)
    change = Admm()("a", original, keep, PathEvidence(original, moments))
    assert change.values is None
    assert change.mask is None
