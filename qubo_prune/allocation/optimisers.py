"""The optimisers of learned rates, by name: AdamW, or Prodigy, which finds its own learning rate."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from importlib.util import find_spec

import torch
from torch import Tensor

from qubo_prune.allocation_settings import OptimiserName
from qubo_prune.errors import InputError

RATES: dict[OptimiserName, float] = {"adamw": 0.05, "prodigy": 1.0}
"""The usual learning rate of each; Prodigy's multiplies the step size that it finds."""


def check_optimiser(name: OptimiserName) -> None:
    """InputError: Prodigy is not installed."""
    if name == "prodigy" and find_spec("prodigyopt") is None:
        raise InputError(
            "allocation.optimiser prodigy needs the package prodigyopt: pip install 'qubo-prune[besa]', or "
            "choose adamw."
        )


class Descent:
    """Takes `steps` steps; the learning rate falls to 0 along half a cosine."""

    def __init__(
        self, name: OptimiserName, parameters: Sequence[Tensor], steps: int, rate: float | None
    ) -> None:
        """rate: None: the usual one of `RATES`. InputError: as for `check_optimiser`."""
        check_optimiser(name)
        chosen = RATES[name] if rate is None else rate
        self._optimiser: torch.optim.Optimizer
        if name == "prodigy":
            prodigy = importlib.import_module("prodigyopt").Prodigy
            self._optimiser = prodigy(parameters, lr=chosen)
        else:
            self._optimiser = torch.optim.AdamW(parameters, lr=chosen, weight_decay=0.0)
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimiser, T_max=max(1, steps))

    def step(self, loss: Tensor) -> None:
        """One step down the gradient of a scalar."""
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._optimiser.step()
        self._schedule.step()
