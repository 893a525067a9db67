"""Dense, LowRank and LowRankSparse are the same operator as the matrix they write out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qubo_solvers import Dense, LowRank, LowRankSparse, QuadraticForm


def sparse(rng: np.random.Generator, n: int, dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(start, column, value) of a random symmetric matrix with a zero diagonal, about half of it zero."""
    upper = np.triu(rng.normal(size=(n, n)) * (rng.random((n, n)) < 0.5), 1).astype(dtype)
    matrix = upper + upper.T
    row, column = matrix.nonzero()
    start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=n))])
    return start, column, matrix[row, column]


@st.composite
def forms(draw: st.DrawFn) -> QuadraticForm:
    n = draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    dtype = draw(st.sampled_from([np.float64, np.float32]))
    kind = draw(st.sampled_from(["dense", "low_rank", "sparse"]))
    if kind != "dense":
        rank = draw(st.integers(0, 4))
        low_rank = rng.normal(size=(n, rank)).astype(dtype), rng.normal(size=n).astype(dtype)
        return LowRank(*low_rank) if kind == "low_rank" else LowRankSparse(*low_rank, *sparse(rng, n, dtype))
    return Dense(Dense.symmetrised(rng.normal(size=(n, n))).matrix.astype(dtype))


@given(forms(), st.integers(0, 10**6))
def test_products_columns_diagonal_and_restriction_agree_with_the_dense_matrix(form, seed):
    q, rng = form.dense(), np.random.default_rng(seed)
    assert q.dtype == np.float64
    np.testing.assert_array_equal(q, q.T)
    x = rng.normal(size=form.n)
    np.testing.assert_allclose(form.product(x), q @ x, atol=1e-9)
    np.testing.assert_allclose(form.diagonal(), np.diagonal(q), atol=1e-12)
    i = rng.permutation(form.n)[: rng.integers(0, form.n + 1)]
    np.testing.assert_allclose(form.columns(i), q[:, i], atol=1e-12)
    np.testing.assert_allclose(form.restrict(i).dense(), q[np.ix_(i, i)], atol=1e-12)
    assert type(form.restrict(i)) is type(form)


@given(st.integers(1, 8), st.integers(0, 10**6))
def test_symmetrised_keeps_the_quadratic_form(n, seed):
    rng = np.random.default_rng(seed)
    m, x = rng.normal(size=(n, n)), rng.integers(0, 2, n)
    assert np.isclose(x @ Dense.symmetrised(m).dense() @ x, x @ m @ x)


def test_slight_asymmetry_is_symmetrised():
    m = np.array([[0.0, 1.0], [1.0 + 1e-9, 0.0]])
    q = Dense(m).dense()
    assert q[0, 1] == q[1, 0]


@pytest.mark.parametrize(
    ("matrix", "what"),
    [
        (np.zeros((2, 3)), "square"),
        (np.zeros(4), "square"),
        (np.array([[0, 1], [0, 0]]), "symmetrised"),
        (np.array([[np.nan]]), "NaN"),
        (np.array([[1j]]), "real"),
    ],
)
def test_dense_refuses(matrix, what):
    with pytest.raises(ValueError, match=what):
        Dense(matrix)


def test_low_rank_refuses():
    with pytest.raises(ValueError, match="factor"):
        LowRank(np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(ValueError, match="NaN"):
        LowRank(np.full((3, 2), np.inf), np.zeros(3))


@pytest.mark.parametrize(
    ("start", "column", "value", "what"),
    [
        ([0, 1, 2], [1, 0], [1.0, 1.0], r"start \(4,\)"),
        ([0, 1, 2, 3], [1, 0], [1.0, 1.0], "ascend from 0 to its 2 values"),
        ([0, 2, 1, 2], [1, 0], [1.0, 1.0], "ascend from 0 to its 2 values"),
        ([0, 1, 2, 2], [1, 3], [1.0, 1.0], r"lie in 0\.\.2"),
        ([0, 1, 2, 2], [1, 0], [1.0, np.nan], "NaN"),
        ([0, 2, 3, 4], [2, 1, 0, 0], [1.0, 1.0, 1.0, 1.0], "within each row"),
        ([0, 1, 2, 2], [1, 0], [1.0, 2.0], "not symmetric"),
        ([0, 1, 1, 1], [1], [1.0], "not symmetric"),
        ([0, 1, 1, 1], [0], [1.0], "on its diagonal"),
    ],
)
def test_sparse_refuses(start, column, value, what):
    with pytest.raises(ValueError, match=what):
        LowRankSparse(np.zeros((3, 2)), np.zeros(3), np.array(start), np.array(column), np.array(value))
