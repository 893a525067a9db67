"""Minor embeddings in a processor's graph: complete graphs, the largest of them, and sparse models."""

from __future__ import annotations

from typing import Any

Embedding = dict[int, tuple[int, ...]]
"""The chain of qubits of each variable 0..n-1."""


def clique_embedding(graph: Any, n: int) -> Embedding:
    """An embedding of the complete graph on n variables (Boothby, King and Roy 2016, arXiv 1507.04774).

    graph is a networkx graph of a Chimera, Pegasus or Zephyr processor, as its sampler's `to_networkx_graph`
    gives it. Empty where none is found.
    """
    found = _cliques(graph).find_clique_embedding(n)
    return {int(v): tuple(chain) for v, chain in found.items()}


def largest_clique(graph: Any) -> int:
    """The largest n with a clique embedding in the graph."""
    return len(_cliques(graph).largest_clique())


def embed(bqm: Any, graph: Any, seed: int, timeout: float) -> Embedding:
    """An embedding of a binary quadratic model over variables 0..n-1; empty where none is found.

    A clique embedding where it fits, as blocks are dense and its chains are short and even; otherwise, for a
    model with missing couplings, the search of Cai, Macready and Roy 2014 (arXiv 1406.2741), ended after
    `timeout` seconds.
    """
    n = bqm.num_variables
    found = clique_embedding(graph, n)
    if found or bqm.num_interactions == n * (n - 1) // 2:
        return found
    from minorminer import find_embedding

    source = [*bqm.quadratic, *((v, v) for v in bqm.variables)]
    chains = find_embedding(source, graph.edges, random_seed=seed % (1 << 31), timeout=timeout)
    return {int(v): tuple(chain) for v, chain in chains.items()}


def _cliques(graph: Any) -> Any:
    """minorminer's clique embeddings of a graph, all sizes at once; cached by it on disk.

    Its search for one size without that cache never ends at some sizes (8 on Zephyr Z4, minorminer 0.2.22).
    """
    from minorminer.busclique import busgraph_cache

    return busgraph_cache(graph)
