"""Seconds of one call: warm-up outside the clock, short calls timed many at a time, the median taken."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

_LEAST = 1e-3
"""Seconds that one reading takes at least: many calls are read together where one is shorter."""


def seconds_of(
    call: Callable[[], object], device: torch.device, *, budget: float = 0.2, warm_up: int = 2
) -> float:
    """The median seconds of a call, over readings of `budget` seconds together, five at least.

    warm_up: calls before, outside the clock (compilation, first allocations, caches). On CUDA the device is
    waited for at both ends of a reading.
    """
    for _ in range(max(1, warm_up)):
        call()
    once = _reading(call, device, 1)
    calls = max(1, int(_LEAST / max(once, 1e-9)))
    readings: list[float] = []
    begun = time.perf_counter()
    while len(readings) < 5 or time.perf_counter() - begun < budget:
        readings.append(_reading(call, device, calls))
    return statistics.median(readings)


def _reading(call: Callable[[], object], device: torch.device, calls: int) -> float:
    """Seconds a call, over `calls` of them."""
    _wait(device)
    begun = time.perf_counter()
    for _ in range(calls):
        call()
    _wait(device)
    return (time.perf_counter() - begun) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
