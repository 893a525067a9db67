"""Formats of published collections (rudy, MDPLIB, OPB) and Palubeckis' generator: sense, counts, errors."""

import json
from itertools import combinations

import numpy as np
import pytest

from qubo_solvers import CardinalityQubo, solve
from qubo_solvers.formats import read, write
from qubo_solvers.palubeckis import INSTANCES, from_seed, palubeckis


@pytest.fixture
def file(tmp_path):
    def make(text, name):
        path = tmp_path / name
        path.write_text(text)
        return path

    return make


GRAPH = "4 4 7\n1 2 1\n2 3 -2\n3 4\n1 4 3\n"
DISTANCES = "4 2\n0 1 5\n0 2 1\n1 3 2\n"
OPB = """* a comment
min: +3 x1 -2 x1 x2 +1.5e1 x3 x4
 -4 x2 x2 ;
+1 x1 +1 x2 = 1 ;
-2 x3 -2 x4 >= -2 ;
"""


def test_a_cut_is_maximised(file):
    problem = read(file(GRAPH, "g.rudy"))
    assert problem.objective([1, 0, 0, 1]) == 1 + 1
    assert problem.objective([1, 0, 1, 0]) == 1 - 2 + 1 + 3
    best = solve(problem, "exhaustive").assignment
    assert problem.objective(best) == 4


def test_chosen_pairs_are_summed(file):
    problem = read(file(DISTANCES, "d.mdp"))
    assert problem.objective([1, 1, 0, 0]) == 5
    assert not problem.is_feasible([1, 1, 1, 0])
    assert problem.objective(solve(problem, "exhaustive").assignment) == 5


def test_products_and_counts(file):
    problem = read(file(OPB, "p.opb"))
    assert problem.objective([1, 1, 1, 1]) == 3 - 2 + 15 - 4
    assert problem.is_feasible([1, 0, 1, 0])
    assert not problem.is_feasible([0, 0, 1, 0])
    assert not problem.is_feasible([1, 0, 1, 1])
    flipped = read(file(OPB.replace("min:", "max:"), "q.opb"))
    assert flipped.objective([1, 1, 1, 1]) == 12 == -flipped.energy([1, 1, 1, 1])


@pytest.mark.parametrize(("text", "name"), [(GRAPH, "g.mc"), (DISTANCES, "d.mdp")])
def test_round_trip(file, tmp_path, text, name):
    problem = read(file(text, name))
    write(problem, tmp_path / f"again_{name}")
    again = read(tmp_path / f"again_{name}")
    assert np.array_equal(again.quadratic.dense(), problem.quadratic.dense())
    assert np.array_equal(again.linear, problem.linear)
    assert np.array_equal(again.lower, problem.lower)
    assert again.objective_scale == problem.objective_scale


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("four 4\n", "g.rudy", ":1: expected the sizes"),
        ("", "g.rudy", ":1: expected the sizes"),
        ("4 1\n1 5 1\n", "g.rudy", ":2: a pair of two variables in 1..4"),
        ("4 1\n1 1 1\n", "g.rudy", ":2: a pair"),
        ("4 1\n1\n", "g.rudy", ":2: expected 'i j weight'"),
        ("4 1\n1 2 nan\n", "g.rudy", ":2: the weight nan"),
        ("4 1\n1 2 1\n2 3 1\n", "g.rudy", "2 edges, but its header says 1"),
        ("4 5\n0 1 1\n", "d.mdp", "cannot choose 5 of 4"),
        ("x1 = 1 ;", "p.opb", "not an OPB file"),
        ("min: +1 x1 x2 x3 ;", "p.opb", "a product of 3"),
        ("min: +1 x1 banana ;", "p.opb", "banana"),
        ("min: +1 x1 ;\n+1 x1 +2 x2 = 2 ;", "p.opb", "no count"),
        ("min: +1 x1 ;\n+2 x1 +2 x2 = 3 ;", "p.opb", "no whole-number solution"),
        ("min: +1 x1 ;\n+1 x1 +1 x2 = 1 ;\n+1 x2 = 1 ;", "p.opb", "shares variables"),
    ],
)
def test_what_is_malformed_is_named(file, text, name, message):
    with pytest.raises(ValueError, match=message) as error:
        read(file(text, name))
    assert name in str(error.value)


def test_other_problems_are_not_written(tmp_path):
    counted = CardinalityQubo.cardinality(np.eye(3), np.ones(3), 1)
    for name in ("a.mc", "a.mdp"):
        with pytest.raises(ValueError, match="not a maximum"):
            write(counted, tmp_path / name)
        assert not (tmp_path / name).exists()
    with pytest.raises(ValueError, match="only read"):
        write(counted, tmp_path / "a.opb")


# -- published instances ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file_name", "format"),
    [("gset/G1.txt", "rudy"), ("gset/G43.txt", "rudy"), ("mdp/SOM-b_1_n100_m10.txt", "mdplib")],
)
def test_best_known_values_are_reached(data, file_name, format):
    known = json.loads((data / "qubo" / "best_known.json").read_text())["instances"][file_name]["best"]
    problem = read(data / "qubo" / file_name, format)
    solution = solve(problem, "path_relinking", time_limit=20.0, on_incumbent=lambda i: -i.energy >= known)
    assert problem.objective(solution.assignment) == known


def test_the_qplib_instance(data):
    problem = read(data / "qubo" / "qplib" / "QPLIB_0633.opb")
    assert (problem.n, problem.n_groups, int(problem.lower[0])) == (75, 1, 15)
    solution = solve(problem, "tabu")
    assert problem.objective(solution.assignment) == pytest.approx(79.560706216e11, rel=1e-9)


def test_palubeckis_parameters_and_checksums(data):
    told = json.loads((data / "qubo" / "best_known.json").read_text())["palubeckis_generated"]
    listed = told["seeds_and_density"]["instances"]
    assert {name: (v["n"], v["density"], v["seed"]) for name, v in listed.items()} == INSTANCES
    for name in ("p3000.1", "p3000.3"):
        matrix = palubeckis(name).quadratic.matrix
        assert np.count_nonzero(np.triu(matrix, 1)) == told["checks_offdiagonal_nonzeros"][name]


def test_a_small_instance_of_the_generator_by_hand():
    """The generator once more, in plain Python."""
    n, density, seed = 6, 50, 31_000
    s = seed

    def draw():
        nonlocal s
        s = 16807 * s % (2**31 - 1)
        return s / 2**31

    c = np.zeros((n, n))
    for i in range(n):
        c[i, i] = int(201 * draw()) - 100
        for j in range(i + 1, n):
            if np.float32(100 * draw()) <= density:
                c[i, j] = int(201 * draw()) - 100
    problem = from_seed(n, density, seed)
    rng = np.random.default_rng(0)
    for _ in range(10):
        x = rng.integers(0, 2, n)
        pairs = sum(c[i, j] * x[i] * x[j] for i, j in combinations(range(n), 2))
        assert problem.objective(x) == np.diagonal(c) @ x + 2 * pairs
    with pytest.raises(ValueError, match=r"p3000\.1"):
        palubeckis("p3000.9")
