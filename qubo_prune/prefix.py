"""Run part of a model: from the stored output of one of its blocks, up to a later block or a layer's input.

The model's own forward pass is run, with the blocks before replaced by what they gave and an end where
nothing more is needed. So masks, position embeddings and whatever else a model hands to its blocks are its
own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from qubo_prune.layers import Layer

Run = Callable[[Any], Any]
"""A forward pass of one batch."""


class _Done(Exception):
    """Ends a forward pass: what was asked for has been seen."""


class Blocks:
    """The blocks of a model, which call one another in order; `forward` is a pass of one batch.

    blocks = Blocks(forward, stack)
    output = blocks.run(batch, stop=3)  # of block 3, from the start
    output = blocks.run(batch, start=3, given=output, stop=5)  # blocks 4 and 5 only
    """

    def __init__(self, forward: Run, blocks: Sequence[nn.Module]) -> None:
        self._forward, self._blocks = forward, list(blocks)

    def __len__(self) -> int:
        return len(self._blocks)

    def in_order(self, batch: Any) -> bool:
        """Whether a pass of the batch calls every block once, first to last."""
        seen: list[int] = []
        with ExitStack() as stack:
            for i, block in enumerate(self._blocks):
                handle = block.register_forward_pre_hook(lambda module, args, i=i: seen.append(i))
                stack.callback(handle.remove)
            self._forward(batch)
        return seen == list(range(len(self)))

    def run(self, batch: Any, *, stop: int, start: int = -1, given: Any = None) -> Any:
        """The output of block `stop`, tensors detached; blocks up to `start` are not run: the last of them
        gave `given` (start = -1: all are run)."""
        answer: list[Any] = []

        def end(module: nn.Module, args: Any, output: Any) -> None:
            answer.append(mapped(output, Tensor.detach))
            raise _Done

        with ExitStack() as stack:
            self._replace(stack, start, given)
            stack.callback(self._blocks[stop].register_forward_hook(end).remove)
            _until_done(self._forward, batch)
        return answer[0]

    def inputs(
        self, batch: Any, layer: Layer, calls: int, *, stop: int | None, start: int = -1, given: Any = None
    ) -> list[Tensor]:
        """The inputs (..., in) of the first `calls` calls of a layer, at most up to the end of block `stop`
        (None: of the pass); see `run` for start and given."""
        wanted = {layer.name: (layer, calls)}
        return self.inputs_of(batch, wanted, stop=stop, start=start, given=given)[layer.name]

    def inputs_of(
        self,
        batch: Any,
        wanted: Mapping[str, tuple[Layer, int]],
        *,
        stop: int | None,
        start: int = -1,
        given: Any = None,
    ) -> dict[str, list[Tensor]]:
        """As `inputs`, of several layers from one pass; wanted: name -> (layer, calls)."""
        found: dict[str, list[Tensor]] = {name: [] for name in wanted}

        def see(module: nn.Module, args: tuple[Any, ...], name: str) -> None:
            if len(found[name]) < wanted[name][1]:
                found[name].append(args[0].detach().clone())  # the model may write into it later
            if all(len(found[other]) == calls for other, (_, calls) in wanted.items()):
                raise _Done

        with ExitStack() as stack:
            self._replace(stack, start, given)
            for name, (layer, _) in wanted.items():
                handle = layer.module.register_forward_pre_hook(
                    lambda module, args, name=name: see(module, args, name)
                )
                stack.callback(handle.remove)
            if stop is not None:
                stack.callback(self._blocks[stop].register_forward_hook(_end).remove)
            _until_done(self._forward, batch)
        return found

    def groups(
        self,
        batch: Any,
        layers: Mapping[str, Layer],
        *,
        stop: int | None,
        start: int = -1,
        given: Any = None,
    ) -> dict[str, tuple[list[str], int]]:
        """Which layers read the very same tensor: leader (the first called) -> (names with the leader's, how
        often it is called), in the order of the first calls. Layers that are not called are in none.

        A tensor written to in between is another one.
        """
        seen: dict[str, list[tuple[Tensor, int]]] = {}

        def see(module: nn.Module, args: tuple[Any, ...], name: str) -> None:
            seen.setdefault(name, []).append((args[0], args[0]._version))

        with ExitStack() as stack:
            self._replace(stack, start, given)
            for name, layer in layers.items():
                handle = layer.module.register_forward_pre_hook(
                    lambda module, args, name=name: see(module, args, name)
                )
                stack.callback(handle.remove)
            if stop is not None:
                stack.callback(self._blocks[stop].register_forward_hook(_end).remove)
            _until_done(self._forward, batch)
        groups: dict[str, tuple[list[str], int]] = {}
        for name, inputs in seen.items():
            leader = next((other for other in groups if _same(seen[other], inputs)), name)
            groups.setdefault(leader, ([], len(inputs)))[0].append(name)
        return groups

    def _replace(self, stack: ExitStack, start: int, given: Any) -> None:
        """Let blocks 0 to `start` give a copy of `given` (models write into hidden states)."""
        for block in self._blocks[: start + 1]:
            stack.enter_context(_giving(block, given))


@contextmanager
def _giving(module: nn.Module, output: Any) -> Iterator[None]:
    """The module answers with a copy of `output`; its own forward comes back at the end."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = lambda *args, **kwargs: mapped(output, Tensor.clone)
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if before is not None:
            module.__dict__["forward"] = before


def _end(module: nn.Module, args: Any, output: Any) -> None:
    raise _Done


@torch.no_grad()
def _until_done(forward: Run, batch: Any) -> None:
    with suppress(_Done):
        forward(batch)


def first_tensor(output: Any) -> Tensor:
    """The hidden state of a block's output: itself, or the first tensor of tuples, lists and mappings."""
    while not isinstance(output, Tensor):
        output = output[0] if isinstance(output, tuple | list) else next(iter(output.values()))
    return output


def mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The same tuples, lists and mappings with the function applied to every tensor."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        parts = [mapped(part, function) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if isinstance(value, dict):
        return type(value)(**{key: mapped(part, function) for key, part in value.items()})
    return value


def _same(a: list[tuple[Tensor, int]], b: list[tuple[Tensor, int]]) -> bool:
    """Whether two layers got the same tensors, call by call."""
    return len(a) == len(b) and all(
        x is y and version == other for (x, version), (y, other) in zip(a, b, strict=True)
    )
