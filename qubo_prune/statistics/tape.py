"""Hooks that hand each prunable layer's input and output gradient to a consumer, from one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qubo_prune.errors import InputError
from qubo_prune.layers import Layer

Consumer = Callable[[str, list[Tensor], list[Tensor]], None]
"""Called once per layer and backward pass with the inputs (B, T, in) and output gradients (B, T, out) of each
call of the layer in the forward pass (more than one where a module or its weight is used again)."""


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with requires_grad off for every parameter; both are put back at the end.

    The tape starts the graph itself, so a backward pass computes activation gradients only.
    """
    training = {m: m.training for m in model.modules()}
    needed = {p: p.requires_grad for p in model.parameters()}
    try:
        model.eval()
        for p in needed:
            p.requires_grad_(False)
        yield
    finally:
        for p, flag in needed.items():
            p.requires_grad_(flag)
        for m, flag in training.items():
            m.training = flag


class Tape:
    """Records, while it is open, what the weight gradients of `layers` are made of.

    Use inside `frozen(model)`, under torch.enable_grad():

        with Tape(model, layers) as tape:
            out = forward()
            tape.backward(out, cotangent, consumer, samples)

    The gradient of a layer's weight for sample b is the sum over its calls of grad[b].T @ input[b]. A layer
    that the output does not depend on gets one call of zeros. Samples come first in a layer's input, as
    (B, ..., in) or flattened (B * T, in). A weight shared by several linear modules is followed through all
    of them; an embedding that shares it is not: its part of the gradient is left out.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        self._layers = layers
        by_weight = {id(layer.module.weight): name for name, layer in layers.items()}
        self._modules = [
            (module, by_weight[id(module.weight)])
            for module in model.modules()
            if isinstance(getattr(module, "weight", None), nn.Parameter)
            and id(module.weight) in by_weight
            and not isinstance(module, nn.Embedding)
        ]
        self._handles: list[Any] = []
        self._receiver: Callable[[str, Tensor, Tensor], None] | None = None
        self._calls: dict[str, int] = {}

    def __enter__(self) -> Tape:
        for module, name in self._modules:
            self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls.clear()

    def forget(self) -> None:
        """Drop what the last forward pass left; call it before the next one."""
        self._calls.clear()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
        def forward_hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if not torch.is_grad_enabled():
                return None
            started = None
            if not output.requires_grad:  # the graph starts here; cloned, so that the model may write into it
                output = started = output.detach().requires_grad_(True).clone()
            x = args[0].detach()
            version = x._version
            self._calls[name] = self._calls.get(name, 0) + 1

            def receive(grad: Tensor) -> None:
                if x._version != version:
                    raise InputError(
                        f"the model writes into the input of layer {name!r} after the layer has read it: "
                        "leave the layer out with `exclude`"
                    )
                if self._receiver is not None:
                    self._receiver(name, x, grad)

            output.register_hook(receive)
            return started

        return forward_hook

    def backward(
        self, output: Tensor, cotangent: Tensor, consumer: Consumer, samples: int, *, last: bool = True
    ) -> None:
        """Pull `cotangent` (the shape of `output`) of B samples back; last=False keeps the graph for another.

        InputError: an output without a graph although layers were called (a loss that is detached), a layer
        whose input does not hold B samples, or one that was written into meanwhile.
        """
        if self._calls and not output.requires_grad:
            raise InputError(
                "the loss depends on no pruned layer: return it with its graph (no .item(), .detach())"
            )
        inputs: dict[str, list[Tensor]] = {}
        grads: dict[str, list[Tensor]] = {}

        def receive(name: str, x: Tensor, grad: Tensor) -> None:
            inputs.setdefault(name, []).append(_by_sample(name, x, samples))
            grads.setdefault(name, []).append(_by_sample(name, grad, samples))
            if len(grads[name]) == self._calls[name]:
                consumer(name, inputs.pop(name), grads.pop(name))
                done.add(name)

        done: set[str] = set()
        self._receiver = receive
        try:
            if output.requires_grad:
                torch.autograd.backward(output, cotangent, retain_graph=not last)
        finally:
            self._receiver = None
        for name, layer in self._layers.items():  # calls, or whole layers, that the output does not depend on
            if name not in done:
                nothing = layer.weight.new_zeros(samples, 1, sum(layer.shape))
                empty = list(nothing.split(layer.shape[::-1], -1))
                consumer(name, inputs.pop(name, empty[:1]), grads.pop(name, empty[1:]))
        if last:
            self.forget()


def _by_sample(name: str, x: Tensor, samples: int) -> Tensor:
    """(B, ..., features) or (B * T, features) as (B, T, features), T the product of what lies between."""
    if samples != 1 and (x.dim() < 2 or x.shape[0] % samples):
        raise InputError(
            f"layer {name!r} sees {tuple(x.shape)} for a batch of {samples} samples: their number must come "
            "first (batch_first); else use batches of one sample"
        )
    return x.reshape(samples, -1, x.shape[-1])
