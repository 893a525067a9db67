"""qbsolv files: their sense, their doubled couplings, their errors, and the published instances."""

import json

import numpy as np
import pytest

from qubo_solvers import solve
from qubo_solvers.formats import read, write

SMALL = "c a comment\np qubo 0 3 2 2\n0 0 1.5\n2 2 -4\n0 1 3\n1 2 -2\n"


@pytest.fixture
def file(tmp_path):
    def make(text):
        path = tmp_path / "p.qubo"
        path.write_text(text)
        return path

    return make


def test_couplings_count_once(file):
    problem = read(file(SMALL))
    assert problem.objective_scale == 1.0
    assert problem.energy([1, 1, 1]) == 1.5 - 4 + 3 - 2
    assert problem.objective([1, 1, 0]) == 1.5 + 3


@pytest.mark.parametrize(
    ("text", "options"),
    [("c sense max\n" + SMALL, {}), ("c from beasley\n" + SMALL, {}), (SMALL, {"sense": "max"})],
)
def test_maximisation(file, text, options):
    problem = read(file(text), **options)
    assert problem.objective_scale == -1.0
    assert problem.objective([1, 1, 0]) == 4.5 == -problem.energy([1, 1, 0])


def test_the_sense_survives_writing(file, tmp_path):
    problem = read(file(SMALL), sense="max")
    write(problem, tmp_path / "q.qubo")
    back = read(tmp_path / "q.qubo")
    assert back.objective([1, 1, 1]) == problem.objective([1, 1, 1])
    assert back.objective_scale == -1.0


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("0 0 1\n", "p.qubo:1: an entry before"),
        ("c only\n", "no 'p qubo' line"),
        ("p qubo 0 3 2\n", "p.qubo:1: expected"),
        ("p qubo 7 3 0 0\n", "topology"),
        ("p qubo 0 99999999 0 0\n", "99999999 variables"),
        ("p qubo 0 3 1 0\n0 0 x\n", "p.qubo:2: expected 'i j value'"),
        ("p qubo 0 3 1 0\n3 3 1\n", "need 0 <= i <= j < 3"),
        ("p qubo 0 3 0 1\n2 1 1\n", "need 0 <= i <= j < 3"),
        ("p qubo 0 3 1 0\n0 0 nan\n", "not finite"),
        ("p qubo 0 3 2 0\n0 0 1\n0 0 2\n", "occurs twice"),
        ("p qubo 0 3 5 0\n0 0 1\n", "truncated"),
        ("p qubo 0 3 0 0\np qubo 0 3 0 0\n", "second 'p'"),
    ],
)
def test_errors_name_file_and_line(file, text, what):
    with pytest.raises(ValueError, match=what):
        read(file(text))


def test_a_wrong_sense(file):
    with pytest.raises(ValueError, match="sense must be"):
        read(file(SMALL), sense="maximum")


@pytest.mark.parametrize("name", ["bqp50_1", "bqp100_1", "bqp250_1", "bqp500_1"])
def test_published_instances_reach_their_best_known_objective(data, name):
    known = json.loads((data / "qubo/best_known.json").read_text())["instances"][f"beasley/{name}.qubo"]
    problem = read(data / f"qubo/beasley/{name}.qubo")
    solution = solve(problem, "neal", num_reads=10)
    assert known["sense"] == "max"
    assert np.isclose(problem.objective(solution.assignment), known["best"], rtol=1e-3)
    assert problem.objective(solution.assignment) <= known["best"]
