"""Second moments of the layers' inputs, streamed by forward hooks: whole Gram matrices, or their diagonals
only.

    norms = collect_norms(model, layers, batches)       # for Wanda
    grams = collect_grams(model, layers, batches)       # X'X / T, one for each distinct input
"""

import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from qubo_prune.errors import InputError
from qubo_prune.forward import Forward, forward_of
from qubo_prune.layers import Layer

_ROWS = 8192
"""Input vectors whose products are formed at once in float32, and then added to the accumulator."""


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Sums over all input vectors seen by each layer; layers that share their input share one sum.

    sums: leader -> X'X (in, in), or its diagonal (in,), in the accumulator's dtype.
    leaders: layer name -> the layer whose sum it shares (itself, or the first that got the same tensor).
    counts: leader -> T, how many input vectors were seen.
    """

    sums: dict[str, Tensor]
    leaders: dict[str, str]
    counts: dict[str, int]

    def __contains__(self, name: str) -> bool:
        """Whether there are statistics of this layer."""
        return name in self.leaders

    def gram(self, name: str) -> Tensor:
        """(in, in) float32 H = X'X / T. InputError: only norms were collected, or no such layer."""
        total = self._sum(name)
        if total.ndim != 2:
            raise InputError(f"layer {name!r}: only input norms were collected; use collect_grams.")
        return (total / self.tokens(name)).float()

    def mean_square(self, name: str) -> Tensor:
        """(in,) float32 mean over the T input vectors of each feature's square. InputError: no such layer."""
        total = self._sum(name)
        return ((total if total.ndim == 1 else total.diagonal()) / self.tokens(name)).float()

    def norm(self, name: str) -> Tensor:
        """(in,) float32 ||x_j|| / sqrt(T): the root of the mean square of each input feature."""
        return self.mean_square(name).sqrt()

    def tokens(self, name: str) -> int:
        """T: how many input vectors the layer has seen."""
        return self.counts[self.leaders[name]]

    def _sum(self, name: str) -> Tensor:
        """The sum of a layer's leader."""
        if name not in self.leaders:
            raise InputError(f"layer {name!r}: no input statistics; collect them for this layer.")
        return self.sums[self.leaders[name]]


class MomentHooks:
    """While open, adds up the input moments of `layers` in every forward pass of their model; see `moments`.

    diagonal: True keeps the sums of squares (in,) only, in float64.
    accumulator: dtype of the sums of Gram matrices. Each product of up to 8,192 vectors is formed in float32
    and added in float64 by default: 8 * in^2 bytes for each distinct input; torch.float32 halves that, and
    its error grows with the number of passes.
    Sharing is by identity: layers called with the same tensor in the first pass share a sum (q, k and v), and
    must do so in every later pass. All positions count: batches must hold no padding.
    """

    def __init__(
        self, layers: Mapping[str, Layer], *, diagonal: bool = False, accumulator: torch.dtype = torch.float64
    ) -> None:
        self._layers = dict(layers)
        self._diagonal, self._dtype = diagonal, accumulator
        self._sums: dict[str, Tensor] = {}
        self._leaders: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._current: dict[str, tuple[weakref.ref[Tensor], int]] = {}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> Self:
        for name, layer in self._layers.items():
            self._handles.append(layer.module.register_forward_pre_hook(self._hook(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._current.clear()

    @property
    def moments(self) -> InputMoments:
        """What was seen so far. InputError names a layer that saw no input, or not finite ones."""
        for name in self._layers:
            if name not in self._leaders:
                raise InputError(
                    f"layer {name!r} was never called on the calibration batches: leave it out with "
                    "`exclude`, or check the batches."
                )
        for name, total in self._sums.items():
            if not bool(torch.isfinite(total).all()):
                raise InputError(f"layer {name!r}: its calibration inputs are NaN or infinite; try float32.")
        return InputMoments(dict(self._sums), dict(self._leaders), dict(self._counts))

    def _hook(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        """The forward pre-hook of one layer."""

        def before(module: nn.Module, arguments: tuple[Any, ...]) -> None:
            self._see(name, arguments[0])

        return before

    @torch.no_grad()
    def _see(self, name: str, x: Tensor) -> None:
        """Add one input of one layer, unless its leader has just added the same tensor."""
        if name not in self._leaders:
            self._leaders[name] = next((leader for leader in self._sums if self._is_current(leader, x)), name)
        leader = self._leaders[name]
        if leader != name:
            if not self._is_current(leader, x):
                raise InputError(
                    f"layer {name!r} shared its input with {leader!r} in the first pass and does not now: "
                    "collect the statistics of the two in passes of their own."
                )
            return
        self._current[name] = (weakref.ref(x), x._version)
        rows = x.detach().reshape(-1, x.shape[-1])
        for start in range(0, len(rows), _ROWS):
            self._add(name, rows[start : start + _ROWS])
        self._counts[name] = self._counts.get(name, 0) + len(rows)

    def _add(self, name: str, rows: Tensor) -> None:
        """Add X'X of some rows, or the sums of squares of their columns."""
        if self._diagonal:
            part = rows.float().square().sum(0, dtype=torch.float64)
        else:
            with torch.autocast(rows.device.type, enabled=False):
                part = (rows.float().t() @ rows.float()).to(self._dtype)
        if name in self._sums:
            self._sums[name] += part
        else:
            self._sums[name] = part

    def _is_current(self, leader: str, x: Tensor) -> bool:
        """Whether x is the very tensor the leader saw last, not written to since."""
        reference, version = self._current.get(leader, (None, 0))
        return reference is not None and reference() is x and x._version == version


def collect_grams(
    model: nn.Module | Forward,
    layers: Mapping[str, Layer],
    batches: Iterable[Any],
    *,
    accumulator: torch.dtype = torch.float64,
) -> InputMoments:
    """X'X of every layer's inputs from one pass over the batches; layers sharing an input share one matrix.

    Memory: 8 * in^2 bytes a distinct input (float32 accumulator: 4); give part of the layers where that is
    too much. batches: what `forward_of(model)` takes, token ids (B, length) say; weights are used as they
    are.
    InputError: as for `MomentHooks.moments`.
    """
    return _collect(model, MomentHooks(layers, accumulator=accumulator), batches)


def collect_norms(
    model: nn.Module | Forward, layers: Mapping[str, Layer], batches: Iterable[Any]
) -> InputMoments:
    """The sums of squares (in,) of every layer's input features, in float64: all that Wanda needs.

    batches and InputError: as for `collect_grams`.
    """
    return _collect(model, MomentHooks(layers, diagonal=True), batches)


@torch.no_grad()
def _collect(model: nn.Module | Forward, hooks: MomentHooks, batches: Iterable[Any]) -> InputMoments:
    """Run the model on all batches under the hooks."""
    forward = forward_of(model)
    with hooks:
        for batch in batches:
            forward(batch)
    return hooks.moments
