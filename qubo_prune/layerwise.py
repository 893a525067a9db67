"""What a layer-wise method is: it sees one layer and what the calibration data say of its inputs, and answers
with new values for the kept weights, a new mask, or both.

`qubo_prune.sequential.walk` calls it for one layer after another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor


class LayerEvidence(Protocol):
    """What is known of a layer: x is its input now (behind the pruned layers), T its original weights.

    The layer's target is T x_t, with x_t = (1 - blend) x + blend * (its input in the dense model). The bias
    takes no part: it is the same on both sides. `statistics.paths.PathEvidence` is one.

    Where the walk has output weights, E is a mean by weights of the positions. Groups of rows then have
    weights, and so moments, of their own: a method takes `gram`, `drift` and `cross` from each of `groups`.
    """

    @property
    def original(self) -> Tensor:
        """(out, in) T, in the model's dtype; not to be written to."""

    @property
    def tokens(self) -> int:
        """How many input vectors `gram` and `cross` are means over."""

    @property
    def groups(self) -> Sequence[tuple[slice, LayerEvidence]]:
        """Consecutive rows that share moments, and the evidence of these rows alone; together all rows."""

    @property
    def prices(self) -> Tensor | None:
        """(out,) float32 what a row's error counts in the layer's, about 1 on average; None: 1 each."""

    def gram(self) -> Tensor:
        """(in, in) float32 H = E[x x'] over the fitting batches; a new tensor, the caller's to change.

        InputError, here, in `drift` and in `cross`: several groups of rows, which share no moments.
        """

    def drift(self) -> Tensor | None:
        """(in, in) float32 E[x (x_t - x)'] over the fitting batches; None where x_t is x."""

    def cross(self) -> Tensor:
        """(in, in) float32 E[x x_t'] over the fitting batches: gram() + drift()."""

    def errors(self, weight: Tensor) -> Tensor:
        """(out,) float64 E[(W_r x - T_r x_t)^2] of each output over the held-out batches."""

    def error(self, weight: Tensor) -> float:
        """E|W x - T x_t|^2 over the held-out batches: the sum of `errors`, each times its row's price."""


@dataclass(frozen=True, eq=False)
class LayerChange:
    """A method's answer. `None` leaves the values, or the mask, as they are.

    values   (out, in), read where the mask (the new one, if any) is True
    mask     (out, in) bool, True = kept
    details  numbers or text for the report ("damping": 0.01)
    """

    values: Tensor | None = None
    mask: Tensor | None = None
    details: Mapping[str, float | str] = field(default_factory=dict)


class LayerMethod(Protocol):
    """One layer at a time: see the module."""

    def __call__(self, name: str, weight: Tensor, mask: Tensor, evidence: LayerEvidence) -> LayerChange:
        """The change of one layer.

        weight: (out, in) view of the weights as they are, 0 where pruned, in the model's dtype; mask:
        (out, in) bool, True = kept. Neither may be written to. The budget is the method's to keep.
        """
