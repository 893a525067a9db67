"""Wanda (arXiv 2306.11695): a weight counts by its size times the size of its input."""

from torch import Tensor

from qubo_prune.layers import Layer


def scores(layer: Layer, norm: Tensor) -> Tensor:
    """(out, in) float32 |w_ij| * ||x_j||.

    norm: (in,) root mean square of each input feature, `InputMoments.norm`: ||x_j||_2 / sqrt(T), so that
    scores do not grow with the calibration set; within a pass this is one factor, and orders weights as in
    the paper. Departure: budgets are exact and ties go by position, where the published code prunes all ties.
    """
    return layer.weight.float().abs() * norm.to(layer.weight.device)
