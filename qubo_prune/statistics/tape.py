"""Hooks that hand each prunable layer's input and output gradient to a consumer, from one backward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from qubo_prune.layers import Layer

Consumer = Callable[[str, list[Tensor], list[Tensor]], None]
"""Called once per layer and backward pass with the inputs (B, T, in) and output gradients (B, T, out) of every
call of the layer in the forward pass (more than one where a module or its weight is used again)."""


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode with requires_grad off for every parameter; both are put back at the end.

    The tape starts the graph itself, so a backward pass computes activation gradients only.
    """
    training = {m: m.training for m in model.modules()}
    needed = {p: p.requires_grad for p in model.parameters()}
    model.eval()
    for p in needed:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p, flag in needed.items():
            p.requires_grad_(flag)
        for m, flag in training.items():
            m.training = flag


class Tape:
    """Records, while it is open, what the weight gradients of `layers` are made of.

    Use inside `frozen(model)`:  with Tape(model, layers) as tape: out = forward(); tape.backward(out, cotangent,
    consumer). The gradient of a layer's weight for sample b is sum over its calls of grad[b].T @ input[b].
    A weight shared by several modules is followed through all of them.
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer]) -> None:
        by_weight = {id(layer.module.weight): name for name, layer in layers.items()}
        self._modules = [
            (module, by_weight[id(module.weight)])
            for module in model.modules()
            if isinstance(getattr(module, "weight", None), nn.Parameter) and id(module.weight) in by_weight
            and not isinstance(module, nn.Embedding)
        ]
        self._handles: list[Any] = []
        self._consumer: Consumer | None = None
        self._calls: dict[str, int] = {}
        self._inputs: dict[str, list[Tensor]] = {}
        self._grads: dict[str, list[Tensor]] = {}

    def __enter__(self) -> Tape:
        for module, name in self._modules:
            self._handles.append(module.register_forward_hook(self._hook(name)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.forget()

    def forget(self) -> None:
        """Drop what the last forward pass left; call it before the next one."""
        self._calls.clear()
        self._inputs.clear()
        self._grads.clear()

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor | None]:
        def forward_hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if not torch.is_grad_enabled():
                return None
            started = None
            if not output.requires_grad:
                output = started = output.detach().requires_grad_(True)  # the graph starts at the first layer
            x = _three_dimensional(args[0].detach())
            self._calls[name] = self._calls.get(name, 0) + 1
            output.register_hook(lambda grad: self._receive(name, x, _three_dimensional(grad)))
            return started

        return forward_hook

    def _receive(self, name: str, x: Tensor, grad: Tensor) -> None:
        if self._consumer is None:
            return
        self._inputs.setdefault(name, []).append(x)
        self._grads.setdefault(name, []).append(grad)
        if len(self._grads[name]) == self._calls[name]:
            self._consumer(name, self._inputs.pop(name), self._grads.pop(name))

    def backward(self, output: Tensor, cotangent: Tensor, consumer: Consumer, *, last: bool = True) -> None:
        """Pull `cotangent` (the shape of `output`) back; last=False keeps the graph for another pull."""
        self._consumer = consumer
        try:
            output.backward(cotangent, retain_graph=not last)
            for name in list(self._grads):  # a call whose output never reached the loss contributes nothing
                consumer(name, self._inputs.pop(name), self._grads.pop(name))
        finally:
            self._consumer = None
            self._inputs.clear()
            self._grads.clear()
            if last:
                self.forget()


def _three_dimensional(x: Tensor) -> Tensor:
    """(B, ..., features) as (B, T, features), T the product of what lies between."""
    return x.unsqueeze(1) if x.dim() == 2 else x.reshape(x.shape[0], -1, x.shape[-1])
