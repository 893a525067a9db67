"""The npz format keeps everything, and damage is one clear error that names the file."""

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qubo_solvers import Dense
from qubo_solvers.formats import npz, read, write
from qubo_solvers.testing import KINDS, random_problem


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(st.sampled_from(KINDS), st.integers(1, 12), st.integers(0, 10**6), st.sampled_from(["f8", "f4"]))
def test_everything_comes_back(tmp_path, kind, n, seed, dtype):
    problem = replace(random_problem(kind, n, seed), objective_scale=-2.5, name="nämé")
    if isinstance(problem.quadratic, Dense):
        problem = replace(problem, quadratic=Dense(problem.quadratic.matrix.astype(dtype)))
    write(problem, tmp_path / "p.npz")
    back = read(tmp_path / "p.npz")
    for key in ("linear", "groups", "lower", "upper", "reference"):
        np.testing.assert_array_equal(getattr(problem, key), getattr(back, key))
    for key in ("offset", "radius", "name", "objective_scale"):
        assert getattr(problem, key) == getattr(back, key)
    assert type(back.quadratic) is type(problem.quadratic)
    for key, value in vars(problem.quadratic).items():
        if not key.startswith("_"):
            np.testing.assert_array_equal(value, vars(back.quadratic)[key])
            assert value.dtype == vars(back.quadratic)[key].dtype


def test_metadata(tmp_path):
    path = tmp_path / "p.npz"
    write(random_problem("dense", 4), path, metadata={"model": "tiny", "layers": [1, 2]})
    assert npz.read_metadata(path) == {"model": "tiny", "layers": [1, 2]}
    write(random_problem("dense", 4), path)
    assert npz.read_metadata(path) == {}


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.95])
def test_truncation(tmp_path, keep):
    path = tmp_path / "cut.npz"
    write(random_problem("dense", 30), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep > 1 else keep * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.npz: cannot be read"):
        read(path)


def test_a_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "flipped.npz"
    write(random_problem("dense", 30), path)
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 4] ^= 0xFF
    path.write_bytes(whole)
    with pytest.raises(ValueError, match=r"flipped\.npz"):
        read(path)


def test_foreign_and_malicious_files(tmp_path):
    path = tmp_path / "other.npz"
    np.savez(path, a=np.zeros(3))
    with pytest.raises(ValueError, match="no array 'format'"):
        read(path)
    np.savez(path, format=np.int64(99))
    with pytest.raises(ValueError, match="version 99"):
        read(path)
    np.savez(path, format=np.array([object()], dtype=object))
    with pytest.raises(ValueError, match=r"other\.npz"):
        read(path)
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"other\.npz"):
        read(path)


def test_inconsistent_content(tmp_path):
    path = tmp_path / "wrong.npz"
    write(random_problem("dense", 5), path)
    arrays = dict(np.load(path))
    np.savez(path, **{**arrays, "linear": np.full(5, np.nan)})
    with pytest.raises(ValueError, match=r"wrong\.npz.*NaN"):
        read(path)
