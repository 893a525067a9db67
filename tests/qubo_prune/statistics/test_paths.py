"""Moments on two paths against direct products, in chunks and in either accumulator; errors and refusals."""

import pytest
import torch

from qubo_prune.errors import InputError
from qubo_prune.statistics.paths import PathEvidence, PathMoments


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("drift", [True, False])
def test_evidence_in_chunks(double: bool, drift: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qubo_prune.statistics.paths._ROWS", 7)
    monkeypatch.setattr("qubo_prune.statistics.paths._DOUBLE", 5 if double else 4)
    g = torch.Generator().manual_seed(0)
    x, original = torch.randn(3, 2, 10, 5, generator=g), torch.randn(4, 5, generator=g)
    e = 0.1 * torch.randn(3, 2, 10, 5, generator=g) if drift else torch.zeros_like(x)
    fit, held = PathMoments(), PathMoments()
    for i, into in ((0, fit), (1, fit), (2, held)):
        into.add(x[i], e[i] if drift else None)
    assert fit.xx is not None
    assert fit.xx.dtype == (torch.float64 if double else torch.float32)
    evidence = PathEvidence(original, fit, held)
    a, b = x[:2].reshape(-1, 5).double(), e[:2].reshape(-1, 5).double()
    assert evidence.tokens == 40
    torch.testing.assert_close(evidence.gram().double(), a.T @ a / 40, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(evidence.cross().double(), a.T @ (a + b) / 40, rtol=1e-5, atol=1e-6)
    assert (evidence.drift() is None) == (not drift)
    a, b = x[2].reshape(-1, 5).double(), e[2].reshape(-1, 5).double()
    for weight in (original, 0.9 * original, torch.zeros(4, 5)):
        errors = (a @ weight.double().T - (a + b) @ original.double().T).square().mean(0)
        torch.testing.assert_close(evidence.errors(weight), errors, rtol=1e-4, atol=1e-6)
    energy = float((a @ original.double().T).square().mean(0).sum())
    assert evidence.energy() == pytest.approx(energy, rel=1e-5)
    assert PathEvidence(original, fit).energy() != pytest.approx(energy, rel=1e-5)


def test_refusals() -> None:
    with pytest.raises(InputError, match="'a' was never called"):
        PathMoments().check("a")
    for x, e in ((torch.nan, 0.0), (1.0, torch.inf)):
        moments = PathMoments()
        moments.add(torch.full((2, 3), x), torch.full((2, 3), e))
        with pytest.raises(InputError, match="'a': its calibration inputs are NaN"):
            moments.check("a")
