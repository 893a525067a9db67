"""A block's weights on the device where it is worked on, while the model stays where it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from qubo_prune.block_calls import Call
from qubo_prune.prefix import mapped


class Resident:
    """A block, to be called on a device: copies of its weights are there, and each call goes there and back.

    device: None: where the block is, without copies. The block itself is not changed.
    """

    def __init__(self, block: nn.Module, device: torch.device | None = None) -> None:
        self.block = block
        own = [
            *block.named_parameters(remove_duplicate=False),
            *block.named_buffers(remove_duplicate=False),
        ]
        self._home = next((tensor.device for _, tensor in own), torch.device("cpu"))
        self.device = None if device == self._home else device
        self._weights: dict[str, Tensor] = {}  # a tensor with two names is copied once
        if self.device is not None:
            copies = {tensor: tensor.detach().to(self.device) for tensor in {tensor for _, tensor in own}}
            self._weights = {name: copies[tensor] for name, tensor in own}

    def here(self, tensor: Tensor) -> Tensor:
        """The tensor on the device."""
        return tensor if self.device is None else tensor.to(self.device)

    def weight(self, name: str, own: Tensor) -> Tensor:
        """A parameter of the block, as it stores it, on the device and without a graph: `own` where the block
        is there itself."""
        return self._weights.get(name, own).detach()

    def run(self, call: Call, weights: Mapping[str, Tensor] | None = None) -> Any:
        """The block's output to a call, on the device; see `Call.run`."""
        if self.device is None:
            return call.run(self.block, weights)
        changed = {self._weights[name]: tensor for name, tensor in (weights or {}).items()}  # under all names
        every = {name: changed.get(tensor, tensor) for name, tensor in self._weights.items()}
        return call.to(self.device).run(self.block, every)

    def back(self, output: Any) -> Any:
        """The same output, detached and with its tensors where the block itself is."""
        if self.device is None:
            return mapped(output, Tensor.detach)
        return mapped(output, lambda tensor: tensor.detach().to(self._home))
