"""The same sparsity in every layer, with the total exact to the weight."""

from collections.abc import Mapping

from qubo_prune.budgets import uniform_counts
from qubo_prune.layers import Layer


def allocate(layers: Mapping[str, Layer], sparsity: float) -> dict[str, int]:
    """How many weights to prune in each layer: `sparsity` of each, rounded so that the total is exact.

    The total is `prune_count` of all weights together; each layer gets its share rounded down, or one more.
    InputError: sparsity outside [0, 1].
    """
    return uniform_counts(layers, sparsity)
