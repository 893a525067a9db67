"""The work budgets of a batch's methods, the clock that ends them, and what a search hands back."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.native import positive_number, whole_number

METHODS = ("descent", "tabu", "anneal")


@dataclass(frozen=True)
class Settings:
    """What a search may do in each row, besides the descents to a local optimum before and after it.

    steps      tabu: swaps; None: 2 for each variable, at least 200
    tenure     tabu: steps that a swapped variable stays, to which up to ten random ones are added; None:
               n / 100, at least 2 and at most 20
    patience   tabu: steps without a new best before a restart from a random neighbour of the best; None:
               n / 4, at least 20
    sweeps     anneal: temperatures, one proposal for each movable variable at each
    hot, cold  anneal: first and last temperature, in units of the row's coupling strength, the upper quartile
               over (sampled) variables i of sqrt(sum_j (2 w_i w_j H_ij)^2)
    proposals  anneal on torch: proposals of a row that are drawn at once
    """

    steps: int | None = None
    tenure: int | None = None
    patience: int | None = None
    sweeps: int = 100
    hot: float = 0.5
    cold: float = 0.002
    proposals: int = 64

    def __post_init__(self) -> None:
        if self.steps is not None:
            whole_number("tabu", "steps", self.steps)
        if self.tenure is not None:
            whole_number("tabu", "tenure", self.tenure, 0)
        if self.patience is not None:
            whole_number("tabu", "patience", self.patience)
        whole_number("anneal", "sweeps", self.sweeps)
        whole_number("anneal", "proposals", self.proposals)
        positive_number("anneal", "hot", self.hot)
        positive_number("anneal", "cold", self.cold)
        if self.cold > self.hot:
            raise ValueError(f"anneal: cold ({self.cold}) must not be above hot ({self.hot})")

    def sizes(self, n: int) -> tuple[int, int, int]:
        """Steps, tenure and patience of tabu search in rows of n variables."""
        return (
            max(200, 2 * n) if self.steps is None else self.steps,
            max(2, min(20, n // 100)) if self.tenure is None else self.tenure,
            max(20, n // 4) if self.patience is None else self.patience,
        )


OPTIONS = {
    "descent": (),
    "tabu": ("steps", "tenure", "patience"),
    "anneal": ("sweeps", "hot", "cold", "proposals"),
}


def settings_of(method: str, options: dict[str, Any]) -> Settings:
    """Raises ValueError on an unknown method, an option it does not have or a value out of range."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    unknown = sorted(set(options) - set(OPTIONS[method]))
    if unknown:
        known = ", ".join(OPTIONS[method]) or "none"
        raise ValueError(f"{method} has no option {', '.join(unknown)}; its options: {known}")
    return Settings(**options)


class Clock:
    """Seconds since the solve began, and whether time is up; `reserve` seconds are kept for the end."""

    def __init__(self, time_limit: float | None) -> None:
        if time_limit is not None and not time_limit > 0:
            raise ValueError(f"time_limit must be positive seconds, got {time_limit}")
        self._limit = math.inf if time_limit is None else time_limit
        self._begin = time.perf_counter()
        self._until = self._limit
        self.reserve = 0.0
        self.cut = False

    def seconds(self) -> float:
        return time.perf_counter() - self._begin

    def allow(self, share: float) -> None:
        """Let the next part of the work take this share of the time that is left."""
        now = self.seconds()
        self._until = now + share * (self._limit - self.reserve - now) if self._limit < math.inf else math.inf

    def out(self) -> bool:
        """Whether the part must end; `cut` remembers that one did."""
        late = self.seconds() >= self._until
        self.cut = self.cut or late
        return late


@dataclass(frozen=True, eq=False)
class Found:
    """What a search found in some rows: assignments (B, n) of the backend's kind, whether each row's is a
    verified local optimum (B,), the swaps made (B,)."""

    assignments: Any
    verified: NDArray[np.bool_]
    swaps: NDArray[np.int64]
