"""The metrics against norms and definitions."""

import math

import numpy as np
import pytest
import torch

from qubo_prune.allocation.esd import eigenvalues, positive
from qubo_prune.allocation.hill import fit
from qubo_prune.allocation.metrics import METRICS
from qubo_prune.allocation_settings import AlphaPruning


def figures(weight: torch.Tensor) -> dict[str, float]:
    values = positive(eigenvalues(weight)).numpy()
    return {name: metric.value(values, fit(values)) for name, metric in METRICS.items()}


def test_against_norms() -> None:
    weight = torch.randn(20, 33, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = figures(weight)
    frobenius = float(torch.linalg.matrix_norm(weight)) ** 2
    spectral = float(torch.linalg.matrix_norm(weight, 2)) ** 2
    assert found["frobenius_norm"] == pytest.approx(frobenius)
    assert found["spectral_norm"] == pytest.approx(spectral)
    assert found["stable_rank"] == pytest.approx(frobenius / spectral)
    assert found["alpha_hat"] == pytest.approx(found["alpha"] * math.log10(spectral))
    shares = torch.linalg.svdvals(weight).square().numpy() / frobenius
    assert found["entropy"] == pytest.approx(-sum(p * math.log(p) for p in shares) / math.log(20))


def test_extremes() -> None:
    equal = figures(torch.eye(8, dtype=torch.float64))
    assert (equal["entropy"], equal["stable_rank"], equal["alpha"]) == (pytest.approx(1), 8, math.inf)
    one = figures(torch.outer(torch.arange(1.0, 5.0), torch.ones(3)))
    assert (one["entropy"], one["stable_rank"]) == (0, pytest.approx(1))
    none = figures(torch.zeros(3, 4))
    assert (none["frobenius_norm"], none["spectral_norm"]) == (0, 0)
    assert all(math.isnan(none[name]) for name in ("alpha", "alpha_hat", "stable_rank", "entropy"))


def test_shape_metrics_do_not_depend_on_scale() -> None:
    weight = torch.from_numpy(np.random.default_rng(0).standard_t(3, size=(30, 60)))
    one, other = figures(weight), figures(7 * weight)
    for name in ("alpha", "stable_rank", "entropy"):
        assert one[name] == pytest.approx(other[name], rel=1e-6)
    for name, metric in METRICS.items():
        if metric.kind == "scale":
            assert other[name] == pytest.approx(49 * one[name])


def test_heavier_tails_have_smaller_shape_metrics() -> None:
    rng = np.random.default_rng(0)
    light = figures(torch.from_numpy(rng.normal(size=(60, 120))))
    heavy = figures(torch.from_numpy(rng.standard_t(1.5, size=(60, 120))))
    assert all(heavy[name] < light[name] for name in ("alpha", "stable_rank", "entropy"))


def test_every_metric_can_be_chosen() -> None:
    for name in METRICS:
        assert AlphaPruning(metric=name).metric == name
