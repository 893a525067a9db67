"""Figures of a task with their uncertainty: mean, standard error, 95 % interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z_95 = 1.959963984540054
"""The 97.5 % point of the normal distribution: 95 % lie within this many standard errors."""


@dataclass(frozen=True)
class Figure:
    """A value, its standard error over the rows (None of one row), and a 95 % interval (low, high)."""

    value: float
    stderr: float | None
    low: float
    high: float

    def to_dict(self) -> dict[str, float | None]:
        return {"value": self.value, "stderr": self.stderr, "low": self.low, "high": self.high}


def accuracy(hits: Sequence[bool]) -> Figure:
    """The share of hits; standard error sqrt(p (1 - p) / (n - 1)), as lm-eval; Wilson's score interval.

    Wilson's (JASA 22, 1927) holds in small samples and at shares near 0 and 1, where p +- 1.96 stderr does
    not.
    """
    n, p = len(hits), sum(hits) / len(hits)
    stderr = math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None
    scale = 1 / (1 + Z_95**2 / n)
    middle = scale * (p + Z_95**2 / (2 * n))
    half = scale * Z_95 * math.sqrt(p * (1 - p) / n + (Z_95 / (2 * n)) ** 2)
    return Figure(p, stderr, max(0.0, middle - half), min(1.0, middle + half))


def perplexity(log_likelihoods: Sequence[float]) -> Figure:
    """exp of minus the mean log-likelihood of a row (nats): each row counts once, however many tokens it has.

    The interval is that of the mean, exp(mean +- 1.96 stderr); the standard error is the mean's times the
    value (delta method). Departure: lm-eval bootstraps it.
    """
    nll = -np.asarray(log_likelihoods, dtype=np.float64)
    mean = float(nll.mean())
    value = _exp(mean)
    if len(nll) < 2:
        return Figure(value, None, 0.0, math.inf)
    error = float(nll.std(ddof=1)) / math.sqrt(len(nll))
    return Figure(value, value * error, _exp(mean - Z_95 * error), _exp(mean + Z_95 * error))


def _exp(value: float) -> float:
    """exp, infinite where it overflows."""
    return math.exp(value) if value < 700 else math.inf
