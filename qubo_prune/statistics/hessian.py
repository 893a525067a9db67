"""The exact Hessian of an objective for a few chosen weights, by double backward: for tests and study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from qubo_prune.errors import InputError
from qubo_prune.layers import Layer
from qubo_prune.objective import Batch, Objective
from qubo_prune.statistics.fisher import Indices
from qubo_prune.statistics.tape import frozen

MAX_VARIABLES = 512
"""Weights of a block at most: a Hessian costs as many backward passes."""


class _Loss(nn.Module):
    """A model and its objective as one module, whose parameters `functional_call` can replace."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__()
        self.model, self.objective = model, objective

    def forward(self, batch: Batch, teacher: Tensor | None) -> Tensor:
        return self.objective.value(self.model, batch, teacher)


def exact_hessian(
    model: nn.Module,
    layers: Mapping[str, Layer],
    indices: Indices,
    objective: Objective,
    pairs: Sequence[tuple[Batch, Tensor | None]],
) -> Tensor:
    """(n, n) float64 d2L/dw2 of the mean loss over the samples, at the current weights; symmetric.

    indices  layer -> flat indices of the chosen weights, n in all; layers in this order
    pairs    (batch, teacher) as for `collect`

    For every batch one forward pass, and for each of the n weights a backward pass through the backward pass:
    time O(n x batches), memory of two passes' graphs. In the model's own dtype: use float64 for many digits.
    InputError: n above 512, or an objective whose `value` has no graph.
    """
    n = sum(len(index) for index in indices.values())
    if n > MAX_VARIABLES:
        raise InputError(
            f"an exact Hessian of {n} weights takes {n} backward passes a batch: {MAX_VARIABLES} at most; "
            "make the block smaller (refine.candidates) or choose another curvature"
        )
    names = {id(parameter): f"model.{name}" for name, parameter in model.named_parameters()}
    device = next(iter(layers.values())).weight.device
    hessian, samples = torch.zeros(n, n, dtype=torch.float64, device=device), 0
    loss = _Loss(model, objective)
    # fused attention has no second derivative: the plain one is asked for
    with frozen(loss), sdpa_kernel(SDPBackend.MATH), torch.enable_grad():
        chosen = [layers[k].weight.reshape(-1)[i].clone().requires_grad_(True) for k, i in indices.items()]
        for batch, teacher in pairs:
            weights = {
                names[id(layers[name].parameter)]: _replaced(layers[name], index, values)
                for (name, index), values in zip(indices.items(), chosen, strict=True)
            }
            value = functional_call(loss, weights, (batch, teacher))
            if not value.requires_grad:
                raise InputError("the objective's value has no graph: an exact Hessian needs one")
            slopes = torch.autograd.grad(value.sum(), chosen, create_graph=True, materialize_grads=True)
            hessian += _rows(torch.cat(slopes), chosen)
            samples += len(value)
    return 0.5 * (hessian + hessian.T) / max(1, samples)


def _replaced(layer: Layer, index: Tensor, values: Tensor) -> Tensor:
    """The layer's weight in its module's own shape, with the values at the flat indices part of the graph."""
    weight = layer.weight
    return layer.oriented(weight.reshape(-1).index_put((index,), values).reshape(weight.shape))


def _rows(slope: Tensor, chosen: list[Tensor]) -> Tensor:
    """(n, n) derivatives of the slope, a row at a time."""
    n = len(slope)
    if not slope.requires_grad:  # a loss that is linear in the weights
        return slope.new_zeros(n, n)
    rows = [torch.autograd.grad(s, chosen, retain_graph=True, materialize_grads=True) for s in slope]
    return torch.stack([torch.cat(row) for row in rows])
