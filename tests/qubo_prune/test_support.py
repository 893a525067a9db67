"""Systems on supports: both solvers against a solve per row, empty supports, singular and indefinite ones."""

import pytest
import torch
from torch import Tensor

from qubo_prune.support import cholesky, conjugate_gradients


def systems(rows: int = 7, n: int = 15, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(60, n, generator=g) @ torch.randn(n, n, generator=g)
    mask = torch.rand(rows, n, generator=g) < 0.5
    mask[0], mask[1] = False, True
    return x.T @ x / 60, mask, torch.randn(rows, n, generator=g)


def by_row(gram: Tensor, mask: Tensor, rhs: Tensor, ridge: float) -> Tensor:
    answer = torch.zeros(mask.shape, dtype=torch.float64)
    for row, support in enumerate(mask):
        a = gram.double()[support][:, support] + ridge * torch.eye(int(support.sum()), dtype=torch.float64)
        answer[row, support] = torch.linalg.solve(a, rhs[row, support].double())
    return answer


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ridge", [0.5, 5.0])
def test_both_solve_every_row(seed: int, ridge: float, monkeypatch: pytest.MonkeyPatch) -> None:
    gram, mask, rhs = systems(seed=seed)
    expected = by_row(gram, mask, rhs, ridge)
    for elements in (1 << 24, 500):  # all rows at once, and a few
        monkeypatch.setattr("qubo_prune.support._ELEMENTS", elements)
        found = conjugate_gradients(gram, mask, rhs, ridge, iterations=200, tolerance=1e-6)
        exact, solved = cholesky(gram, mask, rhs, ridge)
        assert solved.all()
        for z in (found, exact):
            assert z.dtype == torch.float32
            assert not z[~mask].any()
        torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(exact.double(), expected, rtol=1e-5, atol=1e-6)


def test_a_start_is_used_and_need_not_be_on_the_support() -> None:
    gram, mask, rhs = systems()
    expected = by_row(gram, mask, rhs, 1.0).float()
    assert torch.equal(conjugate_gradients(gram, mask, rhs, 1.0, expected + ~mask, iterations=0), expected)
    far = conjugate_gradients(gram, mask, rhs, 1.0, torch.full_like(rhs, 9.0), iterations=200)
    torch.testing.assert_close(far, expected, rtol=1e-3, atol=1e-4)


def test_rows_without_a_solution_stay_finite() -> None:
    gram, mask, rhs = systems()
    gram[3] = gram[:, 3] = 0.0  # a dead input: no curvature, no ridge
    rhs[:, 3] = 0.0
    z = conjugate_gradients(gram, mask, rhs, 0.0, iterations=300)
    assert torch.isfinite(z).all()
    assert not z[:, 3].any()
    z, solved = cholesky(gram, mask, rhs, 0.0)
    assert torch.equal(solved, ~mask[:, 3])
    assert not z[~solved].any()
    indefinite = gram - 5 * gram.diagonal().mean() * torch.eye(len(gram))
    assert torch.isfinite(conjugate_gradients(indefinite, mask, rhs, 0.0)).all()
    nothing = torch.zeros_like(mask)
    assert not conjugate_gradients(gram, nothing, rhs, 0.1).any()
    assert not cholesky(gram, nothing, rhs, 0.1)[0].any()
