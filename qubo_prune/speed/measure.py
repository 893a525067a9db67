"""Measure the products of a model's layers, one layer for each shape: as pruned, and with random masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from qubo_prune.errors import first_line
from qubo_prune.layers import Layer
from qubo_prune.selection import keep_topk, prune_count
from qubo_prune.speed.break_even import break_even
from qubo_prune.speed.formats import FORMATS, Format, dense
from qubo_prune.speed.timing import seconds_of

SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Random masks are measured at these."""


@dataclass(frozen=True)
class Speed:
    """One format on one shape of layer with one number of tokens. Times are seconds of one product.

    shape     (out, in); layers: how many layers have it; sparsity: zeros of the measured layer, 0 to 1
    tokens    columns of the operand; 1 is a matrix-vector product
    dense     of the dense product
    pruned    of the layer's own zeros; None where it has none, or where the format has its own (2:4)
    curve     (sparsity, seconds) with random masks; for 2:4 the one of its pattern
    even      break-even sparsity by interpolation; None: no sparsity that was measured is as fast as dense
    refusal   why the format was not measured, or None; then the figures above are None or empty
    """

    shape: tuple[int, int]
    layers: int
    sparsity: float
    tokens: int
    format: str
    dense: float | None
    pruned: float | None
    curve: tuple[tuple[float, float], ...]
    even: float | None
    refusal: str | None

    @property
    def fixed(self) -> bool:
        """Whether the format has a pattern of its own."""
        return not FORMATS[self.format].free

    @property
    def sparse(self) -> float | None:
        """Seconds with the layer's own zeros, or with the format's pattern."""
        return self.curve[0][1] if self.fixed and self.curve else self.pruned

    @property
    def speedup(self) -> float | None:
        """Dense over sparse seconds."""
        return None if self.sparse is None or self.dense is None else self.dense / self.sparse

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"speedup": self.speedup}


@torch.no_grad()
def measure(
    layers: Mapping[str, Layer],
    tokens: Sequence[int] = (1, 64),
    sparsities: Sequence[float] = SPARSITIES,
    *,
    budget: float = 0.2,
    seed: int = 0,
    on_shape: Callable[[int, int], None] | None = None,
) -> list[Speed]:
    """Every format on every shape, in the layers' dtype and on their device, weights unchanged.

    tokens: columns of the operands. sparsities: of the random masks, rising. budget: seconds of each timing,
    about. Of the layers of one shape the first of the highest sparsity is measured. on_shape: told (done, of)
    after each.
    """
    shapes: dict[tuple[int, int], list[Layer]] = {}
    for layer in layers.values():
        shapes.setdefault(layer.shape, []).append(layer)
    found: list[Speed] = []
    for done, (shape, same) in enumerate(shapes.items()):
        weight = max((layer.weight for layer in same), key=_sparsity).contiguous()
        for count in tokens:
            found += _measured(weight, shape, len(same), count, sparsities, budget, seed)
        if on_shape is not None:
            on_shape(done + 1, len(shapes))
    return found


def _measured(
    weight: Tensor,
    shape: tuple[int, int],
    layers: int,
    tokens: int,
    sparsities: Sequence[float],
    budget: float,
    seed: int,
) -> list[Speed]:
    """Every format on one weight with one number of tokens."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, shape[1], generator=generator).to(weight)
    full = torch.randn(shape, generator=generator).to(weight)
    scores = torch.rand(shape, generator=generator)
    own = _sparsity(weight)
    base = seconds_of(dense(full, x), weight.device, budget=budget)
    found = []
    for name, form in FORMATS.items():
        why = form.refusal(weight)
        if why is None:
            try:
                curve, even, pruned = _timed(form, weight, full, scores, x, sparsities, base, budget)
            except RuntimeError as error:  # this build of torch lacks the kernel, or the shape does not fit
                why = first_line(error)
        if why is None:
            found.append(Speed(shape, layers, own, tokens, name, base, pruned, curve, even, None))
        else:
            found.append(Speed(shape, layers, own, tokens, name, None, None, (), None, why))
    return found


def _timed(
    form: Format,
    weight: Tensor,
    full: Tensor,
    scores: Tensor,
    x: Tensor,
    sparsities: Sequence[float],
    base: float,
    budget: float,
) -> tuple[tuple[tuple[float, float], ...], float | None, float | None]:
    """The curve, the break-even sparsity and the seconds with the weight's own zeros, as in `Speed`.

    full: random weights of the same shape, pruned by random scores. base: seconds of the dense product.
    """

    def seconds(w: Tensor) -> float:
        return seconds_of(form.prepare(w, x), w.device, budget=budget)

    if not form.free:
        return ((0.5, seconds(full)),), None, None
    curve = []
    for sparsity in sparsities:
        keep = keep_topk(scores, prune_count(full.numel(), sparsity)).to(full.device)
        curve.append((sparsity, seconds(full.masked_fill(~keep, 0))))
    even = break_even([s for s, _ in curve], [t / base for _, t in curve])
    return tuple(curve), even, seconds(weight) if _sparsity(weight) > 0 else None


def _sparsity(weight: Tensor) -> float:
    """Share of zeros."""
    return 1.0 - int(weight.count_nonzero()) / weight.numel()
