"""Hardness: sorting solves a linear instance, and descents count the optima of a coupled one."""

import numpy as np

from qubo_solvers import CardinalityQubo
from qubo_solvers.bench.hardness import hardness


def test_a_linear_instance_is_easy_and_sorting_solves_it() -> None:
    rng = np.random.default_rng(0)
    found = hardness(
        CardinalityQubo.cardinality(np.zeros((30, 30)), rng.normal(size=30), 10),
        ("tabu",),
        seconds=0.05,
        descents=10,
    )
    assert found.easy
    assert found.gap_of_sorting == 0
    assert (found.optima, found.hits) == (1, 10)
    assert found.best == found.sorted == found.from_sorted


def test_two_clusters_have_two_optima() -> None:
    """Choose 4 of two cliques of 4 that repel each other: each clique is a local optimum, one is better."""
    q = np.ones((8, 8))
    q[:4, :4] = q[4:, 4:] = -1
    np.fill_diagonal(q, 0)
    linear = np.where(np.arange(8) < 4, -0.5, 0.0)
    found = hardness(CardinalityQubo.cardinality(q, linear, 4), ("tabu",), seconds=0.05, descents=40)
    assert found.best == -12 - 2.0
    assert found.optima == 2
    assert 0 < found.hits < 40


def test_counts_free_of_couplings_between_groups_and_no_descents() -> None:
    q = np.array([[0.0, 1.0], [1.0, 0.0]])
    found = hardness(
        CardinalityQubo.grouped(q, [-1.0, -1.0], [0, 1], [1, 1]), ("tabu",), seconds=0.05, descents=0
    )
    assert (found.best, found.optima, found.hits, found.gap_of_sorting) == (0.0, 0, 0, 0.0)
    assert found.to_dict()["easy"] is True
