"""A matrix file: dtypes, matrices that are not symmetric, a count, round trips, errors."""

from dataclasses import replace

import numpy as np
import pytest

from qubo_solvers import CardinalityQubo
from qubo_solvers.formats import read, write
from qubo_solvers.testing import random_problem


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int16, np.uint8, bool])
def test_any_real_matrix(tmp_path, dtype):
    matrix = (np.arange(25).reshape(5, 5) % 7).astype(dtype)
    np.save(tmp_path / "q.npy", matrix)
    problem = read(tmp_path / "q.npy")
    x = np.array([1, 0, 1, 1, 0])
    assert problem.energy(x) == x @ matrix.astype(float) @ x
    np.save(tmp_path / "s.npy", matrix | matrix.T if dtype is bool else matrix + matrix.T)
    kept = read(tmp_path / "s.npy").quadratic.matrix.dtype
    assert kept == (np.int8 if dtype is bool else dtype)


def test_a_count(tmp_path):
    np.save(tmp_path / "q.npy", np.eye(4))
    problem = read(tmp_path / "q.npy", k=2)
    assert problem.is_feasible([1, 1, 0, 0])
    assert not problem.is_feasible([1, 0, 0, 0])
    with pytest.raises(ValueError, match=r"q\.npy: .* its count cannot lie in \[5, 5\]"):
        read(tmp_path / "q.npy", k=5)


def test_round_trip(tmp_path):
    problem = replace(random_problem("plain", 7, 3), offset=0.0)
    write(problem, tmp_path / "p.npy")
    back = read(tmp_path / "p.npy")
    for x in np.random.default_rng(0).integers(0, 2, (20, 7)):
        assert back.energy(x) == pytest.approx(problem.energy(x), rel=1e-13, abs=1e-13)
    whole = CardinalityQubo.unconstrained(np.eye(3, dtype=np.int32), np.zeros(3))
    write(whole, tmp_path / "w.npy")
    assert np.load(tmp_path / "w.npy").dtype == np.int32


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.zeros(3), "must be square"),
        (np.zeros((2, 3)), "must be square"),
        (np.array([[0, np.nan], [np.nan, 0]]), "NaN or infinite"),
        (np.array([[0, np.inf], [1.0, 0]]), "NaN or infinite"),
        (np.zeros((2, 2), complex), "must be real"),
        (np.array([["a", "b"], ["b", "a"]]), "must be real"),
    ],
)
def test_what_is_no_matrix_of_a_problem(tmp_path, matrix, message):
    np.save(tmp_path / "bad.npy", matrix)
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path / "bad.npy")
    assert "bad.npy" in str(error.value)


def test_pickles_archives_and_cut_files(tmp_path):
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"o\.npy"):
        read(tmp_path / "o.npy")
    np.savez(tmp_path / "a.npz", q=np.eye(2))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(ValueError, match="archive of arrays"):
        read(tmp_path / "a.npy")
    np.save(tmp_path / "c.npy", np.eye(9))
    (tmp_path / "c.npy").write_bytes((tmp_path / "c.npy").read_bytes()[:200])
    with pytest.raises(ValueError, match=r"c\.npy"):
        read(tmp_path / "c.npy")


def test_what_a_matrix_cannot_hold(tmp_path):
    for problem in (random_problem("dense", 4), random_problem("plain", 4)):  # the latter has an offset
        with pytest.raises(ValueError, match="no counts, no radius and no offset"):
            write(problem, tmp_path / "p.npy")
    assert not (tmp_path / "p.npy").exists()
