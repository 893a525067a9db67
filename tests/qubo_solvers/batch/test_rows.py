"""What the row kernels and the tensors maintain equals what is computed anew."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from qubo_solvers import RowBatch
from qubo_solvers.batch import torch_anneal, torch_descent, torch_tabu
from qubo_solvers.batch.numba_rows import NumbaRows, _Run
from qubo_solvers.batch.settings import Clock, Settings
from qubo_solvers.batch.torch_rows import State, TorchRows
from qubo_solvers.kernels.row_anneal import anneal
from qubo_solvers.kernels.row_descent import descend
from qubo_solvers.kernels.row_tabu import tabu

pytestmark = pytest.mark.slow

KINDS = ("cardinality", "counts", "n_of_m", "groups", "uneven")


@pytest.mark.parametrize("method", ["descent", "tabu", "anneal"])
@pytest.mark.parametrize("kind", KINDS)
def test_kernels_maintain_fields_and_gains(batches, kind, method):
    batch = batches.make(kind, 60, rows=6, linear=True)
    model = NumbaRows(batch)
    start = model.start_of(0, 6)
    run = _Run(model, 0, 6, start[:, model.order], Clock(None))
    run.refresh(np.arange(6))
    seeds, rows = np.arange(1, 7, dtype=np.uint64), run.rows
    if method == "descent":
        descend(rows, 0, 6, True, 10**9)
    elif method == "tabu":
        tabu(rows, run.memory(seeds, 30), 3, 20, 0, 6, 0, 100)
    else:
        hot = model.strength(run.weights)
        anneal(rows, run.memory(seeds, 0), hot, 0.1 * hot, 0, 6, 0, 10, 10)
    np.bitwise_and(rows.x, 1, out=rows.x)
    maintained = rows.fields.copy()
    run.refresh(np.arange(6))
    np.testing.assert_allclose(maintained, rows.fields, atol=2e-5)
    x = model.restored(rows.x)
    batch.check(x)
    check_gain(batch, start, x, rows.gain)


@pytest.mark.parametrize("method", ["descent", "tabu", "anneal"])
@pytest.mark.parametrize("kind", KINDS)
def test_tensors_maintain_fields_and_gains(batches, kind, method):
    batch = batches.make(kind, 60, rows=6, linear=True)
    model = TorchRows(batch)
    start = model.start_of(0, 6)
    weights, linear = model.part(0, 6)
    zeros = torch.zeros(6, dtype=torch.float64)
    slack = torch.full((6,), 1e-6)
    rows = State(weights, linear, linear.clone(), model.spread(start), zeros, zeros.long(), slack)
    model.refresh(rows)
    generator = torch.Generator().manual_seed(0)
    if method == "descent":
        torch_descent.descend_thoroughly(model, rows, Clock(None))
        maintained = rows.fields.clone()
        model.refresh(rows)
        torch.testing.assert_close(maintained, rows.fields, atol=2e-5, rtol=0)
    elif method == "tabu":
        torch_tabu.tabu(model, rows, 60, 3, 5, generator, Clock(None))
    else:
        torch_anneal.anneal(model, rows, Settings(sweeps=10), model.strength(weights), generator, Clock(None))
    x = rows.x[:, model.column].numpy()
    batch.check(x)
    check_gain(batch, start.numpy(), x, rows.gain.numpy())


def test_the_check_of_all_pairs_finds_what_the_lists_miss(batches):
    """Nearly parallel inputs: a pair's coupling outweighs what its two fields promise."""
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 600)) + 0.05 * rng.normal(size=(40, 600))
    batch = RowBatch.cardinality(inputs.T @ inputs, rng.normal(size=(20, 600)), 300)
    model = NumbaRows(batch)
    run = _Run(model, 0, 20, model.start_of(0, 20), Clock(None))
    assert run.refresh(np.arange(20))
    assert run.descend(np.arange(20), False)
    listed = run.rows.swaps.copy()
    assert run.descend(np.arange(20), True)
    assert (run.rows.swaps > listed).any()
    for r in range(20):
        assert batches.gains(batch, r, run.rows.x[r]).min() >= -3e-6


def check_gain(batch, start, x, gain):
    """The scaled gain is the change of the energy."""
    change = batch.energies(x) - batch.energies(start)
    height = np.abs(batch.gram).max()
    size = np.maximum(height * np.abs(batch.weights).max(axis=1) ** 2.0, np.abs(batch.linear).max(axis=1))
    np.testing.assert_allclose(gain * size, change, atol=1e-4 * size.max())


def test_the_bound_of_couplings_holds_for_any_symmetric_matrix(batches):
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(40, 40)) * np.exp(3 * rng.normal(size=40))
    batch = batches.make("uneven", 40)
    for gram in (matrix + matrix.T, batches.gram(40), np.diag(np.arange(40.0))):
        object.__setattr__(batch, "gram", gram)
        for model in (NumbaRows(batch), TorchRows(batch)):
            g, reach = np.asarray(model.gram), np.asarray(model.reach)
            assert (np.abs(g) <= reach[:, None] * reach).all()


def test_threads_do_not_change_an_answer(batches):
    import numba

    batch = batches.make("cardinality", 60, rows=20)
    answers = []
    for threads in {1, numba.config.NUMBA_NUM_THREADS}:
        model = NumbaRows(batch, threads)
        x = model.start_of(0, 20)
        found = model.search("anneal", Settings(sweeps=10), 0, 20, x, 3, Clock(None))
        answers.append(found.assignments)
    assert all(np.array_equal(answers[0], other) for other in answers)
    assert numba.get_num_threads() == numba.config.NUMBA_NUM_THREADS


def test_the_threads_of_torch_stay_as_they_were():
    code = (
        "import torch, numpy as np\n"
        "from qubo_solvers import RowBatch, solve_batch\n"
        "solve_batch(RowBatch.cardinality(np.eye(4), np.ones((2, 4)), 2))\n"
        "print(torch.get_num_threads())"
    )
    environment = os.environ | {"NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "1"}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert out.stdout.strip() == "1", out.stderr
