"""RowBatch is its rows as problems of their own; wrong input is named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from qubo_solvers import QuadraticForm, RowBatch, SharedGram
from qubo_solvers.batch import problem as module

GRAM, WEIGHTS = np.eye(4), np.ones((3, 4))


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("block", [7, 1 << 22])
def test_energies_are_those_of_the_rows(batches, linear, block, monkeypatch):
    monkeypatch.setattr(module, "_NUMBERS", block)
    batch = batches.make("cardinality", 12, linear=linear)
    x = np.random.default_rng(0).integers(0, 2, (5, 12)).astype(np.uint8)
    found = batch.energies(x)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [batch.row(r).energy(x[r]) for r in range(5)], rtol=1e-12)
    tensors = torch_batch(batch)
    on_torch = tensors.energies(torch.from_numpy(x).bool())
    assert on_torch.dtype == torch.float64
    np.testing.assert_allclose(on_torch.numpy(), found, rtol=1e-12)


def test_the_energy_is_its_definition(batches):
    batch = batches.make("groups", 9, linear=True)
    x = np.random.default_rng(0).integers(0, 2, (5, 9))
    for r in range(5):
        d = np.diag(batch.weights[r].astype(float))
        expected = x[r] @ d @ batch.gram @ d @ x[r] + batch.linear[r] @ x[r] + batch.offset[r]
        assert batch.energies(x)[r] == pytest.approx(expected, rel=1e-6)


def test_a_row_is_a_problem_that_shares_the_matrix(batches):
    batch = batches.make("uneven", 12, linear=True)
    problem = batch.row(3)
    assert np.shares_memory(problem.quadratic.gram, batch.gram)
    assert np.shares_memory(torch_batch(batch).row(0).quadratic.gram, batch.gram)
    assert np.array_equal(problem.groups, batch.groups)
    assert np.array_equal(problem.lower, batch.counts[3])
    assert np.array_equal(problem.upper, batch.counts[3])
    x = np.random.default_rng(1).integers(0, 2, 12)
    assert problem.to_dense().energy(x) == pytest.approx(problem.energy(x))


def test_the_shared_form_is_the_operator_of_the_matrix_it_writes_out(batches):
    rng = np.random.default_rng(2)
    form = SharedGram(batches.gram(9), rng.normal(size=9))
    assert isinstance(form, QuadraticForm)
    q, x, i = form.dense(), rng.normal(size=9), np.array([4, 0, 7])
    np.testing.assert_allclose(form.product(x), q @ x)
    np.testing.assert_allclose(form.diagonal(), np.diagonal(q))
    np.testing.assert_allclose(form.columns(i), q[:, i])
    np.testing.assert_allclose(form.restrict(i).dense(), q[np.ix_(i, i)])
    with pytest.raises(ValueError, match="gram"):
        SharedGram(np.eye(3), np.ones(4))


def test_groups_of_n_of_m_are_consecutive():
    batch = RowBatch.n_of_m(np.eye(8), np.ones((2, 8)), 1, 4)
    assert batch.groups.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert batch.counts.tolist() == [[1, 1], [1, 1]]


def test_assignments_are_checked(batches):
    batch = RowBatch.grouped(np.eye(4), np.ones((2, 4)), [0, 2, 0, 2], [1, 0, 2])
    good = np.array([[1, 1, 0, 1], [0, 1, 1, 1]])
    assert batch.check(good) is good
    with pytest.raises(ValueError, match="row 1 has 2 ones in group 0 instead of 1"):
        batch.check(np.array([[1, 1, 0, 1], [1, 1, 1, 1]]))
    with pytest.raises(ValueError, match="shape"):
        batch.check(good[:1])
    with pytest.raises(ValueError, match="zeros and ones"):
        batch.check(2 * good)
    assert torch_batch(batch).check(torch.from_numpy(good) == 1).dtype == torch.bool


def test_slight_asymmetry_is_taken():
    gram = np.array([[1.0, 0.5], [0.5 + 1e-8, 1.0]])
    batch = RowBatch.cardinality(gram, np.ones((1, 2)), 1)
    assert batch.row(0).to_dense().quadratic.matrix[0, 1] == batch.row(0).to_dense().quadratic.matrix[1, 0]


def test_counts_may_be_one_number_one_a_row_or_one_a_group_and_row():
    assert RowBatch.cardinality(GRAM, WEIGHTS, 2).counts.tolist() == [[2]] * 3
    assert RowBatch.cardinality(GRAM, WEIGHTS, [0, 1, 4]).counts.tolist() == [[0], [1], [4]]
    assert RowBatch.cardinality(GRAM, WEIGHTS, torch.tensor([0, 1, 4])).counts.tolist() == [[0], [1], [4]]
    counts = [[0, 1], [1, 1], [2, 2]]
    assert RowBatch.grouped(GRAM, WEIGHTS, [0, 0, 1, 1], counts).counts.tolist() == counts


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"gram": np.ones((4, 3))}, "gram must be square"),
        ({"gram": np.ones(4)}, "gram must be square"),
        ({"weights": np.ones((3, 5))}, "weights must have shape"),
        ({"weights": np.ones(4)}, "weights must have shape"),
        ({"linear": np.ones((3, 5))}, "linear must have the shape"),
        ({"gram": np.triu(np.ones((4, 4)))}, "not symmetric"),
        ({"gram": np.full((4, 4), np.nan)}, "gram has NaN"),
        ({"weights": np.full((3, 4), np.inf)}, "weights has NaN"),
        ({"linear": np.full((3, 4), np.nan)}, "linear has NaN"),
        ({"gram": np.eye(4, dtype=int)}, "floating-point"),
        ({"weights": torch.ones(3, 4)}, "both be"),
        ({"groups": np.zeros(3, np.int32)}, "groups must have shape"),
        ({"groups": np.full(4, 1, np.int32)}, "group ids"),
        ({"groups": np.full(4, -1, np.int32)}, "group ids"),
        ({"counts": np.full((3, 1), 5)}, "row 0 cannot have 5 ones in group 0, which has 4"),
        ({"counts": np.full((3, 1), -1)}, "row 0 cannot have -1"),
        ({"counts": np.full((2, 1), 2)}, "counts must have shape"),
        ({"offset": np.zeros(2)}, "offset"),
        ({"offset": np.full(3, np.nan)}, "offset"),
    ],
)
def test_wrong_input_is_named(change, what):
    with pytest.raises(ValueError, match=what):
        replace(RowBatch.cardinality(GRAM, WEIGHTS, 2), **change)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="do not divide into groups of 3"):
        RowBatch.n_of_m(GRAM, WEIGHTS, 1, 3)
    with pytest.raises(ValueError, match="do not divide"):
        RowBatch.n_of_m(GRAM, WEIGHTS, 1, 0)
    with pytest.raises(ValueError, match="whole numbers"):
        RowBatch.cardinality(GRAM, WEIGHTS, 1.5)
    with pytest.raises(ValueError, match="counts must have shape"):
        RowBatch.cardinality(GRAM, WEIGHTS, [1, 2])


def torch_batch(batch: RowBatch) -> RowBatch:
    linear = None if batch.linear is None else torch.from_numpy(batch.linear)
    return replace(
        batch, gram=torch.from_numpy(batch.gram), weights=torch.from_numpy(batch.weights), linear=linear
    )
