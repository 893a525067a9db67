"""What rules that look at data are given besides the layers: the model, how it runs, calibration batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from qubo_prune.errors import InputError


@dataclass(frozen=True, eq=False)
class Observed:
    """model: whose layers they are. forward: a pass of one batch through it. batches: to calibrate on."""

    model: nn.Module
    forward: Callable[[Any], Any]
    batches: Sequence[Any]


def needed(observed: Observed | None, method: str) -> Observed:
    """The evidence. InputError: there is none, or it has no batch."""
    if observed is None or not len(observed.batches):
        raise InputError(f"allocation {method} looks at calibration batches: give at least one.")
    return observed
