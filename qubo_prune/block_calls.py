"""What a block of a model is called with, caught in the model's own forward pass, to call it again alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from qubo_prune.errors import InputError
from qubo_prune.prefix import Blocks, mapped


class _Caught(Exception):
    """Ends a forward pass at the block that was waited for."""


@dataclass(frozen=True, eq=False)
class Call:
    """The arguments of one call of a block: hidden states, masks, positions, as the model gave them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def run(self, block: nn.Module, weights: Mapping[str, Tensor] | None = None) -> Any:
        """The block's output, with other weights (name within the block -> tensor) in place of its own.

        The block and its parameters are not changed; gradients flow to `weights`. Tensors are copied first,
        as models may write into hidden states.
        """
        args = tuple(_copied(value) for value in self.args)
        kwargs = {key: _copied(value) for key, value in self.kwargs.items()}
        if not weights:
            return block(*args, **kwargs)
        return functional_call(block, dict(weights), args, kwargs)

    def to(self, device: torch.device) -> Call:
        """The same call with its tensors on a device."""
        args, kwargs = mapped((self.args, self.kwargs), lambda tensor: tensor.to(device))
        return Call(args, kwargs)


def call_of(blocks: Blocks, modules: Sequence[nn.Module], batch: Any, at: int, given: Any) -> Call:
    """The call of block `at` in a pass of `batch` in which the block before gave `given` (at 0: unused).

    modules: the blocks themselves. InputError: the pass does not reach the block.
    """
    found: list[Call] = []

    def catch(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(Call(args, kwargs))
        raise _Caught

    handle = modules[at].register_forward_pre_hook(catch, with_kwargs=True)
    try:
        blocks.run(batch, stop=at, start=at - 1, given=given)
    except _Caught:
        return found[0]
    finally:
        handle.remove()
    raise InputError(f"block {at} was never called on a calibration batch: check the batches.")


def hidden(output: Any) -> Tensor:
    """The hidden states (..., features) of a block's output: itself, or the first of a tuple."""
    states = output if isinstance(output, Tensor) else output[0]
    if not isinstance(states, Tensor):
        raise InputError(f"a block answers with {type(output).__name__}: its first part must be a tensor.")
    return states


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value
