"""What is known of a layer whose rows are in groups, each with moments by weights of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_prune.statistics.paths import PathEvidence


@dataclass(frozen=True, eq=False)
class GroupedEvidence:
    """A `layerwise.LayerEvidence` from one `PathEvidence` for each group of rows.

    original  (out, in)
    groups    consecutive rows that make up the layer, and the evidence of these rows
    prices    (out,) float32 what each row's error counts in the layer's
    """

    original: Tensor
    groups: Sequence[tuple[slice, PathEvidence]]
    prices: Tensor

    @property
    def tokens(self) -> int:
        """How many input vectors were fitted on."""
        return self.groups[0][1].tokens

    def gram(self) -> Tensor:
        """(in, in) float32 of the only group. InputError: there are several."""
        return self._only().gram()

    def drift(self) -> Tensor | None:
        """(in, in) float32 of the only group. InputError: there are several."""
        return self._only().drift()

    def cross(self) -> Tensor:
        """(in, in) float32 of the only group. InputError: there are several."""
        return self._only().cross()

    def errors(self, weight: Tensor) -> Tensor:
        """(out,) float64 E[(W_r x - T_r x_t)^2] of each output over the held-out batches, by its weights."""
        return torch.cat([evidence.errors(weight[rows]) for rows, evidence in self.groups])

    def error(self, weight: Tensor) -> float:
        """The sum of `errors`, each times its row's price."""
        return float((self.errors(weight) * self.prices).sum())

    def energy(self) -> float:
        """Sum over rows of price times E[(T_r x)^2] over the held-out batches: what errors compare with."""
        energies = torch.cat([evidence.energies() for _, evidence in self.groups])
        return float((energies * self.prices).sum())

    def _only(self) -> PathEvidence:
        if len(self.groups) > 1:
            raise InputError(
                f"the rows of this layer are in {len(self.groups)} groups with moments of their own: take "
                "them from each of `groups`, or set output_weights to 1"
            )
        return self.groups[0][1]
