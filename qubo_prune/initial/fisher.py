"""Fisher: a weight counts by its size, the size of its input, and how the loss answers to its output."""

import torch
from torch import Tensor

from qubo_prune.layers import Layer

FLOOR = 0.1
"""Of a row's output gradient, in root mean squares of its layer."""


def scores(layer: Layer, input_norm: Tensor, output_norm: Tensor, power: float = 1.0) -> Tensor:
    """(out, in) float32 |w_ij| * ||x_j|| * ||g_i||^power.

    input_norm: (in,), output_norm: (out,) root mean squares over tokens of a layer's inputs and of the loss
    gradient at its outputs, the latter with the floor of `row_scale`. With power 1 the square is twice what
    optimal brain damage (LeCun et al., 1990) says that pruning the weight costs, with the Fisher's diagonal
    under K-FAC's independence (Martens and Grosse, arXiv 1503.05671), so scores of different layers compare.
    Below 1 rows of a layer differ less: single weights of a row do not come alone, and the diagonal says too
    much. 0 is Wanda's score, and so is that of a layer whose outputs no gradient reached (an expert that none
    of the windows needed).
    """
    weight = layer.weight.float().abs() * input_norm.to(layer.weight.device)
    return weight.mul_(row_scale(output_norm, power).to(layer.weight.device)[:, None])


def row_scale(output_norm: Tensor, power: float = 1.0) -> Tensor:
    """(out,) (||g_i||^2 + (FLOOR * rms)^2)^(power / 2), with rms^2 the mean of ||g_i||^2 over the layer.

    Departure from the Fisher: a saturated output has no gradient, but pruned down to nothing it is saturated
    no longer. The queries of an attention head that rests on the first token are such; without the floor all
    of them go first, and their layer alone may cost more than all others together. Where no gradient reached
    any output (an expert that none of the windows needed) all rows count alike: 1 each.
    """
    if not output_norm.any():
        return torch.ones_like(output_norm)
    square = output_norm.square()
    return (square + FLOOR**2 * square.mean()).pow(power / 2)
