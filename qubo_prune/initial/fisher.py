"""Fisher: a weight counts by its size, the size of its input, and how the loss answers to its output."""

from torch import Tensor

from qubo_prune.layers import Layer


def scores(layer: Layer, input_norm: Tensor, output_norm: Tensor, power: float = 1.0) -> Tensor:
    """(out, in) float32 |w_ij| * ||x_j|| * ||g_i||^power.

    input_norm: (in,), output_norm: (out,) root mean squares over tokens of a layer's inputs and of the loss
    gradient at its outputs. With power 1 the square is twice what optimal brain damage (LeCun et al., 1990)
    says that pruning the weight costs, with the Fisher's diagonal under K-FAC's independence (Martens and
    Grosse, arXiv 1503.05671), so scores of different layers compare. Below 1 rows of a layer differ less:
    single weights of a row do not come alone, and the diagonal says too much. 0 is Wanda's score, and so is
    that of a layer whose outputs no gradient reached (an expert that none of the windows needed).
    """
    weight = layer.weight.float().abs() * input_norm.to(layer.weight.device)
    if not output_norm.any():
        return weight
    return weight.mul_(output_norm.to(layer.weight.device).pow(power)[:, None])
