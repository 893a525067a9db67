"""Second moments of a layer's inputs on two paths: behind the pruned layers, and in the dense model.

x is an input behind the pruned layers, e = x_t - x its distance to the input whose dense output is the
target. Small distances have small moments of their own: errors are no differences of large numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qubo_prune.errors import InputError

_ROWS = 8192
"""Input vectors whose products are formed at once in float32, and then added to the accumulator."""

_DOUBLE = 4096
"""Sums of matrices up to this width are float64; wider ones float32: their error grows with the batches."""


@dataclass
class PathMoments:
    """Sums over the input vectors of one group of layers. (in, in) each, None before the first `add`.

    xx  X'X;  xe  X'E;  ee  E'E;  the latter two stay None where no distances are given
    weight  sum of the vectors' weights s, by which xx is X' diag(s) X and so on; None where each counts 1
    """

    tokens: int = 0
    xx: Tensor | None = None
    xe: Tensor | None = None
    ee: Tensor | None = None
    weight: float | None = None

    @property
    def total(self) -> float:
        """What sums are divided by to be means: the vectors, or their weights."""
        return self.tokens if self.weight is None else self.weight or 1.0

    @torch.no_grad()
    def add(self, x: Tensor, e: Tensor | None = None, s: Tensor | None = None) -> None:
        """Add input vectors (..., in), their distances of the same shape, and weights s >= 0, one a vector;
        s is given always or never."""
        x = x.reshape(-1, x.shape[-1])
        e = None if e is None else e.reshape(x.shape)
        if s is not None:
            self.weight = (self.weight or 0.0) + float(s.sum(dtype=torch.float64))
            root = s.to(x.device).sqrt().reshape(-1, 1)  # on both sides, so that products stay symmetric
            x, e = x.float() * root, None if e is None else e.float() * root
        self.tokens += len(x)
        for start in range(0, len(x), _ROWS):
            a = x[start : start + _ROWS].float()
            self.xx = _plus(self.xx, a, a)
            if e is not None:
                b = e[start : start + _ROWS].float()
                self.xe = _plus(self.xe, a, b)
                self.ee = _plus(self.ee, b, b)

    def check(self, name: str) -> None:
        """InputError, naming the layer, where nothing was seen or not all of it is finite."""
        if not self.tokens or self.xx is None:
            raise InputError(
                f"layer {name!r} was never called on the calibration batches: leave it out with `exclude`, "
                "or check the batches."
            )
        if not all(bool(torch.isfinite(m).all()) for m in (self.xx, self.ee) if m is not None):
            raise InputError(f"layer {name!r}: its calibration inputs are NaN or infinite; try float32.")


@dataclass(frozen=True, eq=False)
class PathEvidence:
    """A `layerwise.LayerEvidence` from moments of fitting and of held-out batches (None: the same ones)."""

    original: Tensor
    fit: PathMoments
    held_out: PathMoments | None = None
    _cache: dict[str, Tensor] = field(default_factory=dict)

    @property
    def groups(self) -> Sequence[tuple[slice, PathEvidence]]:
        """All rows, with this evidence."""
        return [(slice(0, len(self.original)), self)]

    @property
    def prices(self) -> None:
        """All rows cost alike."""
        return None

    @property
    def tokens(self) -> int:
        """How many input vectors were fitted on."""
        return self.fit.tokens

    def gram(self) -> Tensor:
        """(in, in) float32 E[x x'] over the fitting batches, E by the weights, if any."""
        assert self.fit.xx is not None
        return (self.fit.xx / self.fit.total).float()

    def drift(self) -> Tensor | None:
        """(in, in) float32 E[x e'] over the fitting batches; None where there are no distances."""
        return None if self.fit.xe is None else (self.fit.xe / self.fit.total).float()

    def cross(self) -> Tensor:
        """(in, in) float32 E[x x_t'] over the fitting batches."""
        drift = self.drift()
        return self.gram() if drift is None else self.gram() + drift

    def errors(self, weight: Tensor) -> Tensor:
        """(out,) float64 E[(W_r x - T_r x_t)^2] over the held-out batches.

        With D = W - T: the diagonal of D E[xx'] D' - 2 D E[xe'] T' + T E[ee'] T'.
        """
        seen = self.held_out or self.fit
        assert seen.xx is not None
        target = self.original.to(seen.xx.dtype)
        change = weight.to(target) - target
        total = ((change @ seen.xx) * change).sum(1, dtype=torch.float64)
        if seen.xe is not None:
            if "drift" not in self._cache:
                assert seen.ee is not None
                self._cache["drift"] = target @ seen.xe.t()
                self._cache["floor"] = ((target @ seen.ee) * target).sum(1, dtype=torch.float64)
            total += self._cache["floor"] - 2 * (change * self._cache["drift"]).sum(1, dtype=torch.float64)
        return total / seen.total

    def error(self, weight: Tensor) -> float:
        """E|W x - T x_t|^2 over the held-out batches."""
        return float(self.errors(weight).sum())

    def energy(self) -> float:
        """E|T x|^2 over the held-out batches: what errors compare with."""
        return float(self.energies().sum())

    def energies(self) -> Tensor:
        """(out,) float64 E[(T_r x)^2] of each output over the held-out batches."""
        seen = self.held_out or self.fit
        assert seen.xx is not None
        target = self.original.to(seen.xx.dtype)
        return ((target @ seen.xx) * target).sum(1, dtype=torch.float64) / seen.total


def _plus(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """total + A'B, the product in float32."""
    with torch.autocast(a.device.type, enabled=False):
        part = a.t() @ b
    if total is None:
        return part.double() if a.shape[1] <= _DOUBLE else part
    return total.add_(part)
