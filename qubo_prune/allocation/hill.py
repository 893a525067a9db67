"""Power-law exponents of spectra: Hill's estimator, and two ways to choose where the tail begins."""

from dataclasses import dataclass
from typing import get_args

import numpy as np
import numpy.typing as npt

from qubo_prune.allocation_settings import Tail
from qubo_prune.errors import InputError

BINS = 100
"""Bins of the histogram of log10 eigenvalues."""
BELOW, ABOVE = 0.95, 1.5
"""The tail may begin at eigenvalues from BELOW to ABOVE times the lower edge of the fullest bin."""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """A density proportional to lambda^-alpha from `minimum` on.

    alpha: inf where all eigenvalues of the tail are equal, NaN where there is none. tail: how many are in it.
    distance: Kolmogorov-Smirnov distance of fit and tail, NaN where alpha is not finite.
    """

    alpha: float
    minimum: float
    tail: int
    distance: float


def fit(eigenvalues: FloatArray, tail: Tail = "peak", *, published: bool = False) -> PowerLaw:
    """The power law of a spectrum (AlphaPruning, arXiv 2410.10912, Eq. 2: PL_Alpha_Hill).

    eigenvalues: float64 (n,) ascending, all positive. published: as the published code does, see `fit_peak`
    (the median is the same in both). InputError: another tail.
    """
    if tail not in get_args(Tail):
        raise InputError(f"tail={tail!r}: write one of {', '.join(get_args(Tail))}.")
    if not len(eigenvalues):
        return PowerLaw(np.nan, np.nan, 0, np.nan)
    return fit_median(eigenvalues) if tail == "mid" else fit_peak(eigenvalues, published=published)


def fit_median(eigenvalues: FloatArray) -> PowerLaw:
    """The upper half as the tail: it begins at eigenvalue n // 2 of n, counted from 0."""
    return _at(eigenvalues, len(eigenvalues) // 2, published=False)


def fit_peak(eigenvalues: FloatArray, *, published: bool = False) -> PowerLaw:
    """The tail with the smallest Kolmogorov-Smirnov distance among those that begin near the ESD's peak.

    The peak is the lower edge e of the fullest of `BINS` bins over log10 of the eigenvalues (the lowest such
    bin); a tail may begin at eigenvalues in [`BELOW` e, `ABOVE` e], not at the largest (Fix-finger, as the
    paper calls it). Equal distances: the longest tail.

    published: the published code's behaviour, for its numbers. It compares eigenvalues with log10(`BELOW` e)
    as the lower bound, so that with e < 1 / `BELOW` every eigenvalue up to `ABOVE` e may begin the tail; and
    its distance looks at the empirical distribution just below each eigenvalue only. Departure, with the flag
    too: zeros are left out (there they reach log(0)).
    """
    logs = np.log10(eigenvalues)
    counts, edges = np.histogram(logs, bins=BINS)
    edge = 10.0 ** edges[int(np.argmax(counts))]
    lower = np.log10(BELOW * edge) if published else BELOW * edge
    inside = (eigenvalues >= lower) & (eigenvalues <= ABOVE * edge)
    starts = np.flatnonzero(inside[:-1])
    if not len(starts):  # all that is near the peak is the largest eigenvalue, or there is one alone
        return _at(eigenvalues, len(eigenvalues) - 1, published)
    alphas = hill_exponents(eigenvalues)[starts]
    distances = [
        ks_distance(eigenvalues[start:], alpha, published=published) if np.isfinite(alpha) else np.inf
        for start, alpha in zip(starts, alphas, strict=True)
    ]
    return _at(eigenvalues, int(starts[int(np.argmin(distances))]), published)


def hill_exponents(eigenvalues: FloatArray) -> FloatArray:
    """float64 (n,): 1 + m / sum(ln(lambda / lambda_i)) over the m eigenvalues from the i-th on, for every i.

    eigenvalues: float64 (n,) ascending, positive. inf where they are equal but for rounding, n * eps of them.
    """
    logs = np.log(eigenvalues)
    n = len(logs)
    gaps = logs - logs[-1]  # from the largest, so that the difference of two sums keeps its digits
    count = np.arange(n, 0, -1, dtype=np.float64)
    sums = np.cumsum(gaps[::-1])[::-1] - count * gaps
    equal = gaps >= -n * np.finfo(np.float64).eps
    return np.where(equal, np.inf, 1.0 + count / np.where(equal, 1.0, sums))


def ks_distance(tail: FloatArray, alpha: float, *, published: bool = False) -> float:
    """Largest distance between the tail's distribution function and that of a power law from tail[0] on.

    tail: float64 (m,) ascending, positive. published: at the i-th, from 0, against i / m but not (i + 1) / m.
    """
    m = len(tail)
    fitted = 1.0 - (tail / tail[0]) ** (1.0 - alpha)
    below = np.arange(m, dtype=np.float64) / m
    distance = float(np.abs(fitted - below).max())
    return distance if published else max(distance, float(np.abs(fitted - below - 1.0 / m).max()))


def _at(eigenvalues: FloatArray, start: int, published: bool) -> PowerLaw:
    """The fit of the tail that begins at one eigenvalue."""
    tail = eigenvalues[start:]
    alpha = float(hill_exponents(tail)[0])
    distance = ks_distance(tail, alpha, published=published) if np.isfinite(alpha) else np.nan
    return PowerLaw(alpha, float(tail[0]), len(tail), distance)
