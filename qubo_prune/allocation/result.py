"""Allocation: how many weights to prune in each layer, and what the rule saw."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Allocation:
    """What every rule gives.

    method: the rule's name. counts: layer -> weights to prune. sizes: layer -> weights. group: None, or M
    where each layer keeps N of each M consecutive inputs of a row, with counts = size * (M - N) / M. seen:
    layer -> name -> a figure that the rule went by, such as alpha. rows: layer -> int64 (out,) weights to
    prune of each row, where the rule says so. values: layer -> (out, in) the values that weights get, where
    the rule changes them. norms: layer -> `Layer.norm` of the weights that `values` were made from.
    details: JSON values about the rule's work, for the report.
    """

    method: str
    counts: dict[str, int]
    sizes: dict[str, int]
    group: int | None = None
    seen: dict[str, dict[str, float]] = field(default_factory=dict)
    rows: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def rates(self) -> dict[str, float]:
        """Layer -> the fraction of it that is pruned."""
        return {name: count / self.sizes[name] for name, count in self.counts.items()}

    @property
    def kept_of_group(self) -> dict[str, int]:
        """Layer -> N of N:M; empty where there is no pattern."""
        if self.group is None:
            return {}
        return {n: self.group - c * self.group // self.sizes[n] for n, c in self.counts.items()}

    @property
    def patterns(self) -> dict[str, tuple[int, int]]:
        """Layer -> (N, M) of N:M; empty where there is no pattern."""
        return {name: (kept, self.group or 0) for name, kept in self.kept_of_group.items()}

    @property
    def pattern_names(self) -> dict[str, str]:
        """Layer -> "N:M"; empty where there is no pattern."""
        return {name: f"{n}:{m}" for name, (n, m) in self.patterns.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values for a report; a figure that is NaN or infinite is None."""
        found: dict[str, Any] = {
            "method": self.method,
            "pruned_weights": sum(self.counts.values()),
            "total_weights": sum(self.sizes.values()),
            "rates": self.rates,
            "counts": self.counts,
        }
        if self.group is not None:
            found["pattern"] = self.pattern_names
        if self.seen:
            found["seen"] = {
                name: {key: value if math.isfinite(value) else None for key, value in figures.items()}
                for name, figures in self.seen.items()
            }
        return found | self.details
