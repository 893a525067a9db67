"""What a spectrum says of a layer in one number: shape and scale metrics, each with its sense."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from qubo_prune.allocation.hill import FloatArray, PowerLaw
from qubo_prune.allocation_settings import MetricName


@dataclass(frozen=True)
class Metric:
    """`value(eigenvalues, law)`: float64 ascending positive eigenvalues of W'W and their power law.

    Sense, the same for all: the larger the metric of a layer, the more of it is pruned, as the published code
    maps them all. For shape metrics that is the paper's theory: small values are heavy tails, which are signs
    of a layer that has learned more. Scale metrics are its comparison, found to be worse guides.
    """

    value: Callable[[FloatArray, PowerLaw], float]
    kind: Literal["shape", "scale"]
    meaning: str


def alpha(eigenvalues: FloatArray, law: PowerLaw) -> float:
    """Exponent of the tail; see `hill.fit`."""
    return law.alpha


def alpha_hat(eigenvalues: FloatArray, law: PowerLaw) -> float:
    """alpha * log10(lambda_max); NaN without eigenvalues."""
    return law.alpha * math.log10(eigenvalues[-1]) if len(eigenvalues) else math.nan


def stable_rank(eigenvalues: FloatArray, law: PowerLaw) -> float:
    """||W||_F^2 / ||W||_2^2, from 1 to the rank; NaN without eigenvalues."""
    return float(eigenvalues.sum() / eigenvalues[-1]) if len(eigenvalues) else math.nan


def entropy(eigenvalues: FloatArray, law: PowerLaw) -> float:
    """-sum(p ln p) / ln(rank) with p = lambda / sum(lambda), in [0, 1], 0 at rank 1; NaN without any."""
    if not len(eigenvalues):
        return math.nan
    if len(eigenvalues) == 1:
        return 0.0
    shares = eigenvalues / eigenvalues.sum()
    return float(-(shares * np.log(shares)).sum() / math.log(len(shares)))


def spectral_norm(eigenvalues: FloatArray, law: PowerLaw) -> float:
    """lambda_max = ||W||_2^2, squared as in the paper; 0 without eigenvalues."""
    return float(eigenvalues[-1]) if len(eigenvalues) else 0.0


def frobenius_norm(eigenvalues: FloatArray, law: PowerLaw) -> float:
    """sum(lambda) = ||W||_F^2, squared as in the paper."""
    return float(eigenvalues.sum())


METRICS: dict[MetricName, Metric] = {
    "alpha": Metric(alpha, "shape", "exponent of the tail (PL_Alpha_Hill)"),
    "alpha_hat": Metric(alpha_hat, "shape", "alpha * log10 of the largest eigenvalue"),
    "stable_rank": Metric(stable_rank, "shape", "sum of the eigenvalues over the largest"),
    "entropy": Metric(entropy, "shape", "entropy of the eigenvalues' shares over that of equal ones"),
    "spectral_norm": Metric(spectral_norm, "scale", "largest eigenvalue"),
    "frobenius_norm": Metric(frobenius_norm, "scale", "sum of the eigenvalues"),
}
"""Every metric by name; the first is the paper's choice."""
