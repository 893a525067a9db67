"""solve_batch on both backends: optima by enumeration, local optima by trying every swap, hard inputs."""

from __future__ import annotations

import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from qubo_solvers import RowBatch, Status, solve, solve_batch
from qubo_solvers.batch import numba_rows, torch_rows
from qubo_solvers.testing import assert_within

pytestmark = pytest.mark.slow

KINDS = ("cardinality", "counts", "n_of_m", "groups", "uneven")
BACKENDS = ("numba", "torch")
METHODS = ("descent", "tabu", "anneal")
SHORT = {"descent": {}, "tabu": {"steps": 60}, "anneal": {"sweeps": 20}}
THOROUGH = {"tabu": {"steps": 300, "tenure": 2}, "anneal": {"sweeps": 300, "hot": 4.0}}


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.mark.parametrize("method", list(THOROUGH))
@pytest.mark.parametrize("kind", KINDS)
def test_finds_the_optimum_of_small_rows(batches, backend, method, kind):
    batch = batches.make(kind, 12, rows=5, seed=3, linear=True)
    best = [solve(batch.row(r).to_dense(), "exhaustive").energy for r in range(5)]
    found = []
    for seed in range(1 if method == "tabu" else 5):
        solution = solve_batch(batch, method, backend=backend, seed=seed, **THOROUGH[method])
        batch.check(solution.assignments)
        found.append(solution.energies)
    np.testing.assert_allclose(np.min(found, axis=0), best, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", KINDS)
def test_no_swap_improves_the_answer(batches, backend, method, kind):
    batch = batches.make(kind, 96, rows=12, seed=1, linear=kind == "groups")
    solution = solve_batch(batch, method, backend=backend, **SHORT[method])
    batch.check(solution.assignments)
    assert solution.verified.all()
    assert solution.status is Status.FEASIBLE
    assert solution.assignments.dtype == np.uint8
    np.testing.assert_allclose(solution.energies, batch.energies(solution.assignments))
    assert (solution.energies <= solution.start_energies).all()
    for r in range(12):
        gains = batches.gains(batch, r, solution.assignments[r])
        assert gains.size == 0 or gains.min() >= -3e-6


def test_strong_couplings_still_end_in_verified_optima(batches, backend):
    """Nearly parallel inputs: the lists alone end too early, the check of all pairs finds what they miss."""
    rng = np.random.default_rng(5)
    inputs = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 300)) + 0.05 * rng.normal(size=(40, 300))
    gram = inputs.T @ inputs
    batch = RowBatch.cardinality(gram, rng.normal(size=(8, 300)), 150)
    solution = solve_batch(batch, backend=backend)
    assert solution.verified.all()
    for r in range(8):
        assert batches.gains(batch, r, solution.assignments[r]).min() >= -3e-6


def test_an_indefinite_matrix_is_as_good(batches, backend):
    rng = np.random.default_rng(6)
    gram = rng.normal(size=(120, 120))
    batch = RowBatch.cardinality(gram + gram.T, rng.normal(size=(6, 120)), 40)
    solution = solve_batch(batch, backend=backend)
    assert solution.verified.all()
    for r in range(6):
        assert batches.gains(batch, r, solution.assignments[r]).min() >= -3e-6


def test_as_good_as_the_solvers_of_single_problems(batches, backend):
    """Over several instances: on one alone the last bit of a Gram matrix decides which is ahead."""
    instances = [batches.make("cardinality", 64, rows=8, seed=seed) for seed in range(2, 8)]
    for method, mine, theirs in (
        ("descent", {}, {}),
        ("tabu", {"steps": 1000}, {"iterations": 1000}),
        ("anneal", {"sweeps": 200}, {"sweeps": 200}),
    ):
        found = sum(solve_batch(b, method, backend=backend, **mine).energies.sum() for b in instances)
        single = sum(solve(b.row(r).to_dense(), method, **theirs).energy for b in instances for r in range(8))
        assert found <= 1.1 * single


@pytest.mark.parametrize("kind", KINDS)
def test_what_one_backend_ends_in_the_other_cannot_improve(batches, kind):
    batch = batches.make(kind, 60, rows=6, linear=True)
    answers = [solve_batch(batch, backend=b) for b in BACKENDS]
    np.testing.assert_allclose(answers[0].start_energies, answers[1].start_energies, rtol=1e-12)
    for answer, other in zip(answers, reversed(BACKENDS), strict=True):
        again = solve_batch(batch, backend=other, initial=answer.assignments)
        np.testing.assert_allclose(again.start_energies, answer.energies, rtol=1e-12)
        assert np.array_equal(again.assignments, answer.assignments)


@pytest.mark.parametrize("method", METHODS)
def test_same_seed_same_answer(batches, backend, method):
    batch = batches.make("groups", 60, rows=6)
    first, again = (
        solve_batch(batch, method, backend=backend, seed=7, **SHORT[method]).assignments for _ in range(2)
    )
    assert np.array_equal(first, again)


@pytest.mark.parametrize("method", METHODS)
def test_numba_rows_do_not_depend_on_the_parts_they_are_searched_in(batches, method, monkeypatch):
    batch = batches.make("cardinality", 40, rows=9)
    whole = solve_batch(batch, method, seed=1, **SHORT[method]).assignments
    monkeypatch.setattr(numba_rows, "BYTES", 16 * 40 * 2)
    monkeypatch.setattr(numba_rows, "ROWS", 1)
    assert np.array_equal(whole, solve_batch(batch, method, seed=1, **SHORT[method]).assignments)


def test_torch_rows_in_parts(batches, monkeypatch):
    batch = batches.make("cardinality", 40, rows=35)
    whole = solve_batch(batch, backend="torch").assignments
    monkeypatch.setattr(torch_rows, "HOST_NUMBERS", 1)
    assert np.array_equal(whole, solve_batch(batch, backend="torch").assignments)


@pytest.mark.parametrize("method", METHODS)
def test_an_initial_is_not_written_to_and_never_worsened(batches, backend, method):
    batch = batches.make("n_of_m", 32, rows=6)
    rng = np.random.default_rng(0)
    initial = np.argsort(np.argsort(rng.random((6, 8, 4)), axis=2), axis=2).reshape(6, 32) < 2
    kept = initial.copy()
    solution = solve_batch(batch, method, backend=backend, initial=initial, **SHORT[method])
    assert np.array_equal(initial, kept)
    np.testing.assert_allclose(solution.start_energies, batch.energies(initial))
    assert (solution.energies <= solution.start_energies).all()
    again = solve_batch(batch, method, backend=backend, initial=solution.assignments, **SHORT[method])
    assert (again.energies <= solution.energies).all()


@pytest.mark.parametrize("method", METHODS)
def test_one_assignment_only(batches, backend, method):
    for n, counts in ((7, [0, 7, 0]), (1, [0, 1, 1])):
        weights = np.random.default_rng(0).normal(size=(3, n))
        batch = RowBatch.cardinality(batches.gram(n), weights, counts)
        solution = solve_batch(batch, method, backend=backend, **SHORT[method])
        assert solution.assignments.sum(1).tolist() == counts
        assert solution.verified.all()
    full = RowBatch.n_of_m(batches.gram(8), np.ones((2, 8)), 4, 4)
    assert solve_batch(full, method, backend=backend, **SHORT[method]).assignments.all()


@pytest.mark.parametrize("method", METHODS)
def test_zero_weights_dead_inputs_and_ties(batches, backend, method):
    gram = batches.gram(16)
    gram[3] = gram[:, 3] = gram[9] = gram[:, 9] = 0
    weights = np.random.default_rng(1).normal(size=(4, 16))
    weights[0] = 0
    weights[1, 4:] = 0
    weights[2] = 0.5
    batch = RowBatch.cardinality(gram, weights, 6)
    solution = solve_batch(batch, method, backend=backend, **SHORT[method])
    batch.check(solution.assignments)
    assert solution.energies[0] == 0
    assert solution.energies[1] == 0  # twelve weights are zero already
    assert solution.verified.all()
    for gram in (np.zeros((16, 16)), np.ones((16, 16))):
        flat = RowBatch.cardinality(gram, np.ones((2, 16)), 5)
        solution = solve_batch(flat, method, backend=backend, **SHORT[method])
        np.testing.assert_allclose(solution.energies, 25 * gram[0, 0])


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_changes_nothing(batches, backend, scale):
    plain = batches.make("cardinality", 40, linear=True)
    plain = replace(plain, gram=plain.gram.astype(float), linear=plain.linear.astype(float))
    expected = solve_batch(plain, backend=backend).energies - plain.offset
    scaled = replace(plain, gram=scale * plain.gram, linear=scale * plain.linear, offset=0 * plain.offset)
    np.testing.assert_allclose(solve_batch(scaled, backend=backend).energies, scale * expected, rtol=1e-6)


def test_an_outlier_feature_does_not_hide_the_others(batches, backend):
    """A feature a thousand times as large as the others: tolerances follow each variable's own size."""
    gram = batches.gram(64)
    scale = np.ones(64)
    scale[10] = 1000.0
    batch = RowBatch.cardinality(
        gram * scale[:, None] * scale, np.random.default_rng(0).normal(size=(6, 64)), 32
    )
    solution = solve_batch(batch, backend=backend)
    for r in range(6):
        assert batches.gains(batch, r, solution.assignments[r]).min() >= -3e-6


def test_no_rows_and_no_variables(backend):
    empty = RowBatch.cardinality(np.eye(3), np.ones((0, 3)), 1)
    assert solve_batch(empty, backend=backend).assignments.shape == (0, 3)
    none = RowBatch.cardinality(np.zeros((0, 0)), np.ones((2, 0)), 0, offset=[1.0, 2.0])
    assert solve_batch(none, backend=backend).energies.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_tensors_in_tensors_out(batches, backend, dtype):
    made = batches.make("cardinality", 24)
    gram, weights = torch.from_numpy(made.gram).to(dtype), torch.from_numpy(made.weights).to(dtype)
    batch = RowBatch.cardinality(gram, weights, 12)
    solution = solve_batch(batch, backend=backend, device="cpu")
    assert solution.assignments.dtype == torch.bool
    assert solution.energies.dtype == torch.float64
    assert (solution.assignments.sum(1) == 12).all()
    assert torch.equal(solution.energies, batch.energies(solution.assignments))
    wide = RowBatch.cardinality(gram.double().numpy(), weights.double().numpy(), 12)
    for r in range(5):
        assert batches.gains(wide, r, solution.assignments[r].numpy()).min() >= -3e-6
    again = solve_batch(batch, backend=backend, initial=solution.assignments)
    assert torch.equal(again.assignments, solution.assignments)


def test_numpy_of_16_bits(batches, backend):
    made = batches.make("cardinality", 24)
    half = RowBatch.cardinality(made.gram.astype(np.float16), made.weights.astype(np.float16), 12)
    solution = solve_batch(half, backend=backend)
    np.testing.assert_allclose(solution.energies, half.energies(solution.assignments), rtol=1e-12)
    for r in range(5):
        assert batches.gains(half, r, solution.assignments[r]).min() >= -3e-6


def test_read_only_and_strided_arrays(batches, backend):
    made = batches.make("cardinality", 24)
    gram, weights = np.asfortranarray(made.gram), np.repeat(made.weights, 2, axis=1)[:, ::2]
    gram.flags.writeable = False
    batch = RowBatch.cardinality(gram, weights, 12)
    expected = solve_batch(made, backend=backend).assignments
    assert np.array_equal(solve_batch(batch, backend=backend).assignments, expected)


@pytest.mark.parametrize("method", ["tabu", "anneal"])
def test_the_clock_ends_the_search(batches, backend, method):
    batch = batches.make("cardinality", 200, rows=40)
    endless = {"tabu": {"steps": 10**7}, "anneal": {"sweeps": 10**6}}[method]
    solve_batch(batch, method, backend=backend, **SHORT[method])
    solution = assert_within(
        2.0, lambda: solve_batch(batch, method, backend=backend, time_limit=0.5, **endless)
    )
    assert solution.status is Status.TIME_LIMIT
    batch.check(solution.assignments)
    assert (solution.energies <= solution.start_energies).all()
    short = solve_batch(batch, backend=backend, time_limit=1e-6)
    assert short.status is Status.TIME_LIMIT
    np.testing.assert_allclose(short.energies, short.start_energies)
    assert not short.verified.any()


def test_ctrl_c_returns_control(batches, backend):
    batch = batches.make("cardinality", 200, rows=40)
    solve_batch(batch, "tabu", backend=backend, steps=2)

    def interrupted():
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.3)
            with pytest.raises(KeyboardInterrupt):
                solve_batch(batch, "tabu", backend=backend, steps=10**7)
        finally:
            signal.signal(signal.SIGALRM, before)

    assert_within(2.0, interrupted)


def test_wrong_arguments_are_named(batches):
    batch = batches.make("cardinality", 8)
    for arguments, what in (
        ({"method": "genetic"}, "method must be one of"),
        ({"method": "descent", "steps": 3}, "descent has no option steps; its options: none"),
        ({"method": "tabu", "sweeps": 3}, "tabu has no option sweeps; its options: steps, tenure, patience"),
        ({"method": "tabu", "steps": 0}, "steps"),
        ({"method": "tabu", "tenure": -1}, "tenure"),
        ({"method": "tabu", "patience": 0}, "patience"),
        ({"method": "anneal", "sweeps": 1.5}, "sweeps"),
        ({"method": "anneal", "proposals": 0}, "proposals"),
        ({"method": "anneal", "hot": 0.1, "cold": 0.2}, "must not be above hot"),
        ({"backend": "cuda"}, "backend must be"),
        ({"backend": "numba", "device": "cuda"}, "use backend='torch'"),
        ({"backend": "torch", "threads": 1}, "threads belong to the numba backend"),
        ({"threads": 0}, "threads must lie"),
        ({"time_limit": 0}, "time_limit"),
        ({"initial": np.zeros((5, 8))}, "initial: row 0 has 0 ones"),
        ({"initial": np.zeros((4, 8))}, "initial must have shape"),
    ):
        with pytest.raises(ValueError, match=what):
            solve_batch(batch, **arguments)
    groups = np.array([0] * 300 + list(range(1, 201)))
    uneven = RowBatch.grouped(np.eye(500), np.ones((1, 500)), groups, np.zeros(201, int))
    with pytest.raises(ValueError, match="use backend='numba'"):
        solve_batch(uneven, backend="torch")
    assert solve_batch(uneven).energies[0] == 0
