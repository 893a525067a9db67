"""Hill's exponents on known power laws, the tail against plain loops, and degenerate spectra."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from qubo_prune.allocation.hill import (
    FloatArray,
    PowerLaw,
    fit,
    fit_median,
    fit_peak,
    hill_exponents,
    ks_distance,
)
from qubo_prune.errors import InputError


def power_law(alpha: float, n: int = 2000, minimum: float = 1.0) -> FloatArray:
    """The quantiles at (i + 1/2) / n of a density proportional to x^-alpha from `minimum` on."""
    shares = (np.arange(n) + 0.5) / n
    return minimum * (1.0 - shares) ** (-1.0 / (alpha - 1.0))


def spectrum(seed: int, n: int = 80) -> FloatArray:
    """Eigenvalues of a random matrix whose entries have heavy tails."""
    rng = np.random.default_rng(seed)
    return np.sort(np.linalg.svd(rng.standard_t(3, size=(n, 2 * n)) / n, compute_uv=False) ** 2)


@pytest.mark.parametrize("alpha", [1.5, 2.0, 2.5, 3.0, 4.0, 6.0])
@pytest.mark.parametrize("minimum", [1e-6, 0.3, 1.0, 250.0])
def test_known_exponents(alpha: float, minimum: float) -> None:
    values = power_law(alpha, minimum=minimum)
    for tail in ("mid", "peak"):
        law = fit(values, tail)
        assert law.alpha == pytest.approx(alpha, rel=0.005)
        assert law.distance < 0.01
        assert law.minimum == values[len(values) - law.tail]
    assert fit(values, "mid").tail == 1000
    assert fit(values, "peak").tail > 1000


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30))
def test_exponents_against_their_definition(values: list[float]) -> None:
    ordered = np.sort(np.array(values))
    found = hill_exponents(ordered)
    for i in range(len(ordered)):
        tail = ordered[i:]
        logs = math.fsum(math.log(value / tail[0]) for value in tail)
        if logs > 1e-9:
            assert found[i] == pytest.approx(1 + len(tail) / logs, rel=1e-4)
        elif logs == 0:
            assert found[i] == math.inf


@pytest.mark.parametrize("seed", range(5))
def test_distance_against_scipy(seed: int) -> None:
    values = spectrum(seed)[40:]
    alpha = float(hill_exponents(values)[0])
    oracle = stats.kstest(values, lambda x: 1 - (x / values[0]) ** (1 - alpha)).statistic
    assert ks_distance(values, alpha) == pytest.approx(oracle, abs=1e-12)
    assert ks_distance(values, alpha, published=True) <= ks_distance(values, alpha)


def slow_peak(values: FloatArray, published: bool) -> tuple[float, int]:
    """The peak rule by plain loops: (alpha, size of the tail)."""
    logs = [math.log10(value) for value in values]
    width = (logs[-1] - logs[0]) / 100
    bins = [0] * 100
    for log in logs:
        bins[min(99, int((log - logs[0]) / width))] += 1
    edge = 10 ** (logs[0] + bins.index(max(bins)) * width)
    lower = math.log10(0.95 * edge) if published else 0.95 * edge
    best = (math.inf, 0.0, 0)
    for i in range(len(values) - 1):
        if not lower <= values[i] <= 1.5 * edge:
            continue
        tail = values[i:]
        alpha = 1 + len(tail) / sum(math.log(value / tail[0]) for value in tail)
        distance = 0.0
        for k, value in enumerate(tail):
            share = 1 - (value / tail[0]) ** (1 - alpha)
            steps = (k / len(tail),) if published else (k / len(tail), (k + 1) / len(tail))
            distance = max(distance, *(abs(share - step) for step in steps))
        best = min(best, (distance, alpha, len(tail)), key=lambda found: found[0])
    return best[1], best[2]


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("seed", range(4))
def test_peak_against_loops(seed: int, scale: float, published: bool) -> None:
    values = spectrum(seed) * scale
    law = fit_peak(values, published=published)
    alpha, tail = slow_peak(values, published)
    assert (law.alpha, law.tail) == (pytest.approx(alpha, rel=1e-9), tail)


def test_only_the_published_peak_depends_on_the_scale() -> None:
    """Its lower bound is a logarithm: with the peak at 1 it lets all in, at 300 what is above 2.5."""
    values = np.sort(np.concatenate([power_law(1.6, 400, 1e-4), np.linspace(1.0, 1.02, 40)]))
    sane = [fit_peak(values * scale) for scale in (1.0, 300.0)]
    published = [fit_peak(values * scale, published=True) for scale in (1.0, 300.0)]
    assert sane[0].tail == sane[1].tail
    assert sane[0].minimum >= 0.95
    assert published[0].minimum < 0.008 < published[1].minimum / 300


def test_median_is_the_upper_half() -> None:
    values = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
    assert fit_median(values) == PowerLaw(
        pytest.approx(1 + 3 / (3 * math.log(2))),
        4.0,
        3,
        pytest.approx(ks_distance(values[2:], 1 + 1 / math.log(2))),
    )


def test_degenerate_spectra() -> None:
    for tail in ("mid", "peak"):
        nothing = fit(np.empty(0), tail)
        assert math.isnan(nothing.alpha)
        assert nothing.tail == 0
        for equal in (np.ones(1), np.ones(7), np.full(50, 3.0) * (1 + 1e-16)):
            law = fit(equal, tail)
            assert law.alpha == math.inf
            assert math.isnan(law.distance)
        assert fit(np.array([1.0, 5.0, 5.0, 5.0]), tail).alpha > 1
        assert 1 < fit(np.array([1.0, 2.0]), tail).alpha <= math.inf
    with pytest.raises(InputError, match="tail='best': write one of peak, mid"):
        fit(np.ones(3), "best")  # type: ignore[arg-type]
