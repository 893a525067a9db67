"""How a model is run on a batch: token ids, a dict of inputs, or a plain tensor."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qubo_prune.errors import InputError

Forward = Callable[[Any], Tensor]
"""batch -> logits (B, positions, classes), or (B, classes) for a classifier."""


def forward_of(model: nn.Module | Forward) -> Forward:
    """The forward pass of a model, or a callable as it is.

    A transformers model gets a tensor as `input_ids` if it takes them (else as its first argument), a dict as
    keyword arguments, and no cache of keys and values; its logits are returned. Any other module is called
    with the batch. Batches are moved to the device of the model's first parameter. Gradients and mode are the
    caller's.
    """
    if not isinstance(model, nn.Module):
        return model
    module = model
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    config = getattr(module, "config", None)
    options = {"use_cache": False} if hasattr(config, "use_cache") else {}
    takes_ids = getattr(module, "main_input_name", None) == "input_ids"

    def forward(batch: Any) -> Tensor:
        if isinstance(batch, Mapping):
            output = module(**{key: value.to(device) for key, value in batch.items()}, **options)
        elif takes_ids and isinstance(batch, Tensor):
            output = module(input_ids=batch.to(device), **options)
        elif isinstance(batch, Tensor):
            output = module(batch.to(device), **options)
        else:
            raise InputError(
                f"a batch is a {type(batch).__name__}: give tensors or mappings of tensors, or a "
                "loss function that takes such batches"
            )
        logits: Tensor = getattr(output, "logits", output)
        return logits

    return forward
