"""QPLIB's text format: the halved quadratic part, counts of disjoint groups, what is refused and why."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qubo_solvers.formats import read, write
from qubo_solvers.testing import random_problem

TEXT = """! an example by hand
hand
QBL        # binary, linear constraints
maximize
4 # variables
3 # constraints
3 # quadratic terms
1 1 2
2 1 -3
4 3 6
0.5 # default linear term
1
2 1.5
10 # constant
6
1 1 2
1 2 2
2 3 -1
2 4 -1
3 3 1
3 4 1
1e20 # infinity
-1e20
1
1 2
2 % two upper bounds
2
1 2
2 -1
0
0
0
0
0
0
0
0
"""


@pytest.fixture
def file(tmp_path):
    def make(text):
        (tmp_path / "p.qplib").write_text(text)
        return tmp_path / "p.qplib"

    return make


def test_the_file_s_objective_and_counts(file):
    problem = read(file(TEXT))
    assert problem.name == "hand"
    for bits in np.ndindex(2, 2, 2, 2):
        a, b, c, d = bits
        value = a - 3 * a * b + 6 * c * d + 0.5 * a + 1.5 * b + 0.5 * c + 0.5 * d + 10
        assert problem.objective(bits) == value == -problem.energy(bits)
        assert problem.is_feasible(bits) == (a + b == 1 and 1 <= c + d <= 2)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    st.sampled_from(["dense", "low_rank", "groups", "n_m", "intervals", "plain"]),
    st.integers(1, 12),
    st.integers(0, 10**6),
)
def test_round_trip(tmp_path, kind, n, seed):
    problem = random_problem(kind, n, seed)
    write(problem, tmp_path / "p.qplib")
    back = read(tmp_path / "p.qplib")
    assert back.name == problem.name
    for x in np.random.default_rng(seed).integers(0, 2, (20, n)):
        assert back.is_feasible(x) == problem.is_feasible(x)
        assert back.energy(x) == pytest.approx(problem.energy(x), rel=1e-12, abs=1e-12)


def test_the_sense_comes_back(file, tmp_path):
    problem = read(file(TEXT))
    write(problem, tmp_path / "again.qplib")
    again = read(tmp_path / "again.qplib")
    assert again.objective_scale == -1.0
    assert again.objective([1, 0, 1, 1]) == problem.objective([1, 0, 1, 1])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("QBL", "QML", "not all binary"),
        ("QBL", "QBQ", "quadratic constraints"),
        ("QBL", "XYZ", "no problem type"),
        ("maximize", "upwards", ":4: the sense"),
        ("4 # var", "four # var", ":5: expected the number of variables"),
        ("4 # var", "0 # var", "from 1 to 20000"),
        ("2 1 -3", "2 5 -3", ":9: number 5 among the quadratic terms is not in 1..4"),
        ("2 1 -3", "2 1", ":9: expected 'i j value'"),
        ("2 1 -3", "2 1 nan", ":9: expected 'i j value'"),
        ("10 # constant", "ten", ":14: expected the objective's constant"),
        ("1 2 2", "1 2 3", "constraint 1 has coefficients from 2 to 3"),
        ("1 1 2\n1 2 2\n2 3", "1 1 2\n1 3 2\n2 3", "constraint 2 shares variables with constraint 1"),
        ("1 2\n2 -1", "1 0.5\n2 -1", "constraint 1 allows no number of ones"),
        ("1 2\n2 -1", "1 2\n2 -3", "constraint 2 allows no number"),
    ],
)
def test_what_does_not_fit_is_named(file, old, new, message):
    assert old in TEXT
    with pytest.raises(ValueError, match=message) as error:
        read(file(TEXT.replace(old, new, 1)))
    assert "p.qplib" in str(error.value)


def test_the_library_s_infinity_is_above_float64(file):
    text = TEXT.replace("1e20 # infinity\n-1e20", "1.79769313486232E+308\n-1.79769313486232E+308")
    assert read(file(text)).lower.tolist() == [1, 1]


def test_a_cut_file_says_what_is_missing(file):
    with pytest.raises(ValueError, match="the file ends where the default of lower bounds should be"):
        read(file(TEXT[: TEXT.index("-1e20")]))


def test_contradicting_counts_and_empty_constraints(file):
    base = "p\nLBL\nminimize\n2\n2\n0\n0\n0\n"
    both = base + "4\n1 1 1\n1 2 1\n2 1 1\n2 2 1\n1e9\n{}\n0\n{}\n0\n"
    twice = read(file(both.format(1, 1)))
    assert (twice.lower.tolist(), twice.upper.tolist()) == ([1], [1])
    text = both.format(0, 2).replace("1e9\n0\n0\n2\n0\n", "1e9\n0\n1\n1 2\n2\n1\n2 1\n")
    with pytest.raises(ValueError, match="constraint 2 contradicts constraint 1"):
        read(file(text))
    with pytest.raises(ValueError, match="constraint 1 has no variables"):
        read(file(base + "0\n1e9\n1\n0\n1\n0\n"))


def test_a_radius_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="no radius"):
        write(random_problem("radius", 6), tmp_path / "p.qplib")
    assert not (tmp_path / "p.qplib").exists()
