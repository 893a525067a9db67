"""Inverse factors against explicit inverses; dead inputs; damping that grows until a factor exists."""

import pytest
import torch

from qubo_prune.cholesky import inverse_factor
from qubo_prune.errors import InputError


@pytest.mark.parametrize("damping", [0.0, 0.01, 1.0])
def test_is_the_upper_factor_of_the_inverse(damping: float) -> None:
    x = torch.randn(50, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gram = x.T @ x / 50
    before = gram.clone()
    factor, used = inverse_factor(gram, damping)
    assert used == damping
    assert factor.dtype == torch.float32
    assert torch.equal(gram, before)
    assert torch.equal(factor, factor.triu())
    expected = torch.linalg.inv(gram + damping * gram.diagonal().mean() * torch.eye(9))
    torch.testing.assert_close((factor.T @ factor).double(), expected, rtol=1e-4, atol=1e-5)


def test_dead_inputs_stay_on_their_own() -> None:
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 0.0
    factor, used = inverse_factor(x.T @ x / 50, 0.0)
    assert used == 0.0
    assert int(factor[2].count_nonzero()) == int(factor[:, 2].count_nonzero()) == 1
    mean = x[:, [0, 1, 3, 4, 5]].square().mean()
    torch.testing.assert_close(factor[2, 2], mean.rsqrt())
    factor, used = inverse_factor(torch.zeros(3, 3), 0.0)
    assert torch.equal(factor, torch.eye(3))


@pytest.mark.parametrize("damping", [0.0, 0.01])
def test_damping_grows_tenfold_until_it_is_enough(damping: float) -> None:
    gram = torch.tensor([[1.0, 2.0], [2.0, 1.0]])  # eigenvalues 3 and -1: needs a damping above 1
    factor, used = inverse_factor(gram, damping)
    assert used == pytest.approx(10.0 if damping else 1e-6 * 10**7)
    expected = torch.linalg.inv(gram + used * torch.eye(2))
    torch.testing.assert_close(factor.T @ factor, expected)


def test_what_is_not_finite_is_refused() -> None:
    with pytest.raises(InputError, match="NaN or infinite entries"):
        inverse_factor(torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]), 0.1)
