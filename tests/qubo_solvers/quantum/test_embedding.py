"""Embeddings in the graphs of processors: valid, of every clique that fits, and of sparse models beyond."""

import dimod
import networkx as nx
import pytest

from qubo_solvers.quantum.embedding import clique_embedding, embed, largest_clique

pytestmark = pytest.mark.slow


def graph(topology, shape, **options):
    from dwave.system.testing import MockDWaveSampler

    return MockDWaveSampler(topology_type=topology, topology_shape=shape, **options).to_networkx_graph()


def check(found, couplings, target):
    """Chains are disjoint and connected, and every coupling has an edge between its chains."""
    taken = [qubit for chain in found.values() for qubit in chain]
    assert len(taken) == len(set(taken))
    assert all(nx.is_connected(target.subgraph(chain)) for chain in found.values())
    for u, v in couplings:
        assert any(target.has_edge(p, q) for p in found[u] for q in found[v])


@pytest.mark.parametrize(
    ("topology", "shape", "largest"),
    [("chimera", [4, 4, 4], 16), ("pegasus", [4], 36), ("zephyr", [3, 4], 40)],
)
def test_cliques_of_every_size(topology, shape, largest):
    target = graph(topology, shape)
    assert largest_clique(target) == largest
    for n in (1, 2, 8, largest - 1, largest):
        found = clique_embedding(target, n)
        assert sorted(found) == list(range(n))
        check(found, [(i, j) for i in range(n) for j in range(i)], target)
    assert clique_embedding(target, largest + 1) == {}


def test_missing_qubits_make_it_smaller():
    whole = graph("zephyr", [2, 4])
    broken = graph("zephyr", [2, 4], broken_nodes=list(whole)[::7])
    assert 0 < largest_clique(broken) < largest_clique(whole)


def ring(n):
    return dimod.BinaryQuadraticModel({}, {(i, (i + 1) % n): 1.0 for i in range(n)}, "BINARY")


def test_a_sparse_model_beyond_the_largest_clique():
    target = graph("chimera", [2, 2, 4])
    bqm = ring(20)
    bqm.add_linear(20, 1.0)  # a variable without couplings needs a qubit too
    assert clique_embedding(target, 21) == {}
    found = embed(bqm, target, seed=3, timeout=10.0)
    assert sorted(found) == list(range(21))
    check(found, bqm.quadratic, target)
    assert found == embed(bqm, target, seed=3, timeout=10.0)


def test_what_does_not_fit_is_empty():
    target = graph("chimera", [1, 1, 4])
    dense = dimod.generators.gnm_random_bqm(9, 36, "BINARY")
    assert embed(dense, target, seed=0, timeout=5.0) == {}
    assert embed(ring(9), target, seed=0, timeout=5.0) == {}
