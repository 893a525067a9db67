"""Magnitude: the smallest weights go first."""

from torch import Tensor

from qubo_prune.layers import Layer


def scores(layer: Layer) -> Tensor:
    """(out, in) float32 |w|."""
    return layer.weight.float().abs()
