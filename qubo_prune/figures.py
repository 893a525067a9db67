"""Figures of a run: the loss on the report range after each phase, and the seconds of all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import nn

from qubo_prune.objective import Objective
from qubo_prune.progress import Counted, OnProgress
from qubo_prune.refine.evidence import Pair
from qubo_prune.statistics.collect import mean_value


class Clock:
    """Seconds since the last lap, added up by name in a dict."""

    def __init__(self, seconds: dict[str, float]) -> None:
        self._seconds, self._last = seconds, time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._seconds[name] = self._seconds.get(name, 0.0) + now - self._last
        self._last = now


@dataclass
class Figures:
    """values: by name, None where there is no report range, or Ctrl-C came.

    report     the report range with its dense answers
    say, tell  `prune`'s on_progress and on_masks
    """

    model: nn.Module
    objective: Objective
    report: Sequence[Pair]
    say: OnProgress
    tell: Callable[[str, nn.Module], None]
    clock: Clock
    values: dict[str, float | None] = field(default_factory=dict)

    def measure(self, name: str, phase: str) -> None:
        """The loss of the model as it is, under this name; `phase` is what the progress calls it."""
        self.values[name] = None
        if self.report:
            counted = Counted(self.report, phase, self.say)
            self.values[name] = mean_value(self.model, counted, self.objective)
        self.clock.lap(f"evaluate {name}")
        self.tell(name, self.model)
        self.clock.lap("on_masks")
