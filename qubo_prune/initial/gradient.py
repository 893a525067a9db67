"""Gradient: the first-order change of the loss when a weight is set to zero, |w g|."""

from torch import Tensor

from qubo_prune.layers import Layer


def scores(layer: Layer, gradient: Tensor) -> Tensor:
    """(out, in) float32 |w * g|, with g (out, in) the mean gradient of the loss over the samples."""
    return (layer.weight.float() * gradient.to(layer.weight.device).float()).abs()
