"""Counts from rates: the exact total, the bounds, the nearest rates."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from qubo_prune.allocation.projection import project_counts
from qubo_prune.errors import InputError

parts = st.lists(st.tuples(st.integers(1, 10**6), st.floats(-0.5, 1.5)), min_size=1, max_size=20)


@given(parts, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_total_and_bounds_are_exact(found: list[tuple[int, float]], a: float, b: float, share: float) -> None:
    sizes, rates = [size for size, _ in found], [rate for _, rate in found]
    floor, ceiling = min(a, b), max(a, b)
    least = [int(np.ceil(size * floor - 1e-9)) for size in sizes]
    most = [max(low, int(np.floor(size * ceiling + 1e-9))) for size, low in zip(sizes, least, strict=True)]
    total = round(sum(least) + share * (sum(most) - sum(least)))
    counts = project_counts(sizes, rates, total, floor=floor, ceiling=ceiling)
    assert counts.sum() == total
    assert (np.array(least) <= counts).all()
    assert (counts <= np.array(most)).all()
    assert counts.tolist() == project_counts(sizes, rates, total, floor=floor, ceiling=ceiling).tolist()


@pytest.mark.parametrize("seed", range(4))
def test_rates_are_the_nearest_that_meet_the_budget(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(100_000, 1_000_000, 6)
    rates = rng.uniform(-0.2, 1.2, 6)
    total = int(0.6 * sizes.sum())
    weight = sizes / sizes.sum()
    best = minimize(
        lambda x: float((weight * (x - rates) ** 2).sum()),
        np.full(6, 0.6),
        bounds=[(0.1, 0.95)] * 6,
        constraints={"type": "eq", "fun": lambda x: float((weight * x).sum() - total / sizes.sum())},
        options={"ftol": 1e-14, "maxiter": 500},
    )
    counts = project_counts(sizes.tolist(), rates, total, floor=0.1, ceiling=0.95)
    np.testing.assert_allclose(counts / sizes, best.x, atol=1e-4)


def test_rates_that_already_meet_it_stay() -> None:
    assert project_counts([10, 20, 30], [0.1, 0.2, 0.5], 20).tolist() == [1, 4, 15]
    assert project_counts([3, 3, 3, 3], [0.5] * 4, 6).sum() == 6
    assert project_counts([5, 5], [0.0, 0.0], 7).tolist() == [4, 3]
    assert project_counts([5, 5], [1.0, 1.0], 0).tolist() == [0, 0]


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"10 of 20 weights of a block cannot be pruned .* at most 0\.4"):
        project_counts([10, 10], [0.5, 0.5], 10, ceiling=0.4, what="a block")
    with pytest.raises(InputError, match=r"at least 0\.6"):
        project_counts([10, 10], [0.5, 0.5], 10, floor=0.6)
