"""Biq Mac's sparse format: the sense of entries and of signs, round trips, errors; its .mc graphs."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qubo_solvers import CardinalityQubo
from qubo_solvers.formats import read, write
from qubo_solvers.testing import random_problem

TEXT = "# by hand\n3 4\n1 1 5\n1 2 -3\n3 2 1.5\n3 3 -2\n"


def test_an_entry_counts_both_ways_and_less_is_better(tmp_path):
    (tmp_path / "p.sparse").write_text(TEXT)
    problem = read(tmp_path / "p.sparse")
    q = np.array([[5, -3, 0], [-3, 0, 1.5], [0, 1.5, -2]])
    for bits in np.ndindex(2, 2, 2):
        x = np.array(bits)
        assert problem.objective(x) == problem.energy(x) == x @ q @ x


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(st.integers(1, 12), st.integers(0, 10**6))
def test_round_trip(tmp_path, n, seed):
    problem = random_problem("plain", n, seed)
    write(problem, tmp_path / "p.bq")
    back = read(tmp_path / "p.bq")
    assert back.offset == problem.offset
    alone = problem.linear + problem.quadratic.diagonal()
    np.testing.assert_array_equal(back.linear, alone)
    off = problem.quadratic.dense()
    np.fill_diagonal(off, 0.0)
    np.testing.assert_array_equal(back.quadratic.dense(), off)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n", "expected the sizes of a matrix"),
        ("0 0\n", "0 variables"),
        ("# c\n\n3 1\n1 4 1\n", ":4: variables in 1..3"),
        ("3 1\n0 1 1\n", ":2: variables in 1..3"),
        ("3 1\n1 x 1\n", ":2: expected 'i j weight'"),
        ("3 1\n1 1 inf\n", ":2: the weight inf"),
        ("3 2\n1 1 1\n", "1 entries, but its header says 2"),
        ("3 2\n1 2 1\n2 1 1\n", "entry 2 1 is given twice"),
        ("# offset lots\n3 1\n1 2 1\n", "has no number"),
    ],
)
def test_what_is_malformed_is_named(tmp_path, text, message):
    (tmp_path / "p.sparse").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read(tmp_path / "p.sparse")
    assert "p.sparse" in str(error.value)


def test_counts_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="no counts and no radius"):
        write(random_problem("dense", 4), tmp_path / "p.sparse")
    with pytest.raises(ValueError, match="0 variables"):
        write(CardinalityQubo.unconstrained(np.zeros((0, 0)), []), tmp_path / "p.sparse")
    assert not (tmp_path / "p.sparse").exists()


def test_a_graph_may_have_comments(tmp_path):
    (tmp_path / "g.mc").write_text("# a graph\n3 2\n1 2 4\n2 3 -1\n")
    assert read(tmp_path / "g.mc").objective([1, 0, 0]) == 4
