"""What rules that look at data are given besides the layers: the model, how it runs, calibration batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from qubo_prune.allocation.alphapruning import Spectrum
from qubo_prune.errors import InputError
from qubo_prune.initial import InputNorms, OutputNorms
from qubo_prune.objective import Objective


@dataclass(frozen=True, eq=False)
class Observed:
    """model: whose layers they are. forward: a pass of one batch through it. batches: to calibrate on.

    objective: whose Fisher `fisher` goes by, None: that of the model's logits; diagonal: that Fisher, where
    it was collected already. moments, spectra: of the inputs and of the weights, likewise, for `owl` and
    `alphapruning`.
    """

    model: nn.Module
    forward: Callable[[Any], Any]
    batches: Sequence[Any]
    objective: Objective | None = None
    diagonal: OutputNorms | None = None
    moments: InputNorms | None = None
    spectra: Mapping[str, Spectrum] | None = None


def needed(observed: Observed | None, method: str) -> Observed:
    """The evidence. InputError: there is none, or it has no batch."""
    if observed is None or not len(observed.batches):
        raise InputError(f"allocation {method} looks at calibration batches: give at least one.")
    return observed
