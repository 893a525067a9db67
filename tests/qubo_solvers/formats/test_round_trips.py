"""Every format brings back what was written, and refuses what it cannot hold."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qubo_solvers import CardinalityQubo, LowRank
from qubo_solvers.formats import TABLE, read, write
from qubo_solvers.testing import KINDS, random_problem

in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
seeds = st.integers(0, 10**6)


@in_one_folder
@given(st.sampled_from(KINDS), st.integers(1, 12), seeds)
def test_cqm(tmp_path, kind, n, seed):
    problem = random_problem(kind, n, seed)
    write(problem, tmp_path / "p.cqm")
    back = read(tmp_path / "p.cqm")
    rng = np.random.default_rng(seed)
    for x in rng.integers(0, 2, (10, n)):
        assert problem.is_feasible(x) == back.is_feasible(x)
        assert np.isclose(problem.energy(x), back.energy(x))


@in_one_folder
@given(st.sampled_from([".qubo", ".coo"]), st.integers(1, 12), seeds, st.sampled_from([1.0, 1e-30, 1e20]))
def test_plain_text(tmp_path, suffix, n, seed, scale):
    problem = random_problem("plain", n, seed)
    problem = replace(problem, linear=problem.linear * scale)
    path = tmp_path / f"p{suffix}"
    write(problem, path)
    back = read(path)
    assert back.n == n
    alone = problem.linear + problem.quadratic.diagonal()
    np.testing.assert_array_equal(alone, back.linear + back.quadratic.diagonal())
    assert back.offset == problem.offset
    for x in list(product((0, 1), repeat=n))[:32]:
        assert np.isclose(problem.energy(x), back.energy(x), rtol=1e-12)


@pytest.mark.parametrize("suffix", [".qubo", ".coo"])
def test_plain_text_refuses_constraints(tmp_path, suffix):
    with pytest.raises(ValueError, match=r"no counts and no radius; write \.npz"):
        write(random_problem("dense", 4), tmp_path / f"p{suffix}")


@pytest.mark.parametrize("suffix", [".cqm", ".coo"])
def test_dense_formats_refuse_the_large(tmp_path, suffix):
    n = 9000
    problem = CardinalityQubo.unconstrained(LowRank(np.zeros((n, 1)), np.zeros(n)), np.zeros(n))
    with pytest.raises(ValueError, match="at most 8192"):
        write(problem, tmp_path / f"p{suffix}")
    assert not (tmp_path / f"p{suffix}").exists()


def test_dispatch(tmp_path):
    problem = random_problem("plain", 3)
    write(problem, tmp_path / "p.txt", format="npz")
    assert read(tmp_path / "p.txt", format="npz").name == problem.name
    with pytest.raises(ValueError, match=r"no format has the suffix '.txt'"):
        read(tmp_path / "p.txt")
    with pytest.raises(ValueError, match="unknown format 'zip'"):
        read(tmp_path / "p.txt", format="zip")
    with pytest.raises(FileNotFoundError, match=r"missing\.npz"):
        read(tmp_path / "missing.npz")


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize(
    "content", [b"\x00garbage\xff\n1 2 three", b"PK\x03\x04 truncated", b"hello world\n"]
)
def test_garbage_is_one_clear_error(tmp_path, name, content):
    path = tmp_path / f"bad{TABLE[name][0][0]}"
    Path(path).write_bytes(content)
    with pytest.raises(ValueError, match="bad"):
        read(path)
