"""How much of the estimates came true: a regression by kind of layer, relative to all kinds."""

import pytest
import torch

from qubo_prune.refine.reliability import LEAST, LEVEL, MOST, Reliability

NAMES = ("h.0.up", "h.1.up", "h.0.down", "h.1.down")


def test_nothing_observed_or_nothing_true() -> None:
    reliability = Reliability(NAMES)
    assert [reliability.slope(name) for name in NAMES] == [LEVEL] * 4
    one = {name: torch.ones(1) for name in NAMES}
    reliability.observe(one, {name: -torch.ones(1) for name in NAMES}, one)
    assert [reliability.slope(name) for name in NAMES] == [LEVEL] * 4


def test_known_slopes_are_found_by_kind() -> None:
    g = torch.Generator().manual_seed(0)
    noise = {"up": 1.0, "down": 3.0}
    true = {name: torch.randn(20_000, generator=g) for name in NAMES}
    weight = {name: torch.rand(20_000, generator=g) for name in NAMES}
    reliability = Reliability(NAMES, prior=0.0)
    for _ in range(5):
        estimate, fresh = {}, {}
        for name in NAMES:
            level = noise[name.split(".")[-1]]
            estimate[name] = true[name] + level * torch.randn(20_000, generator=g)
            fresh[name] = true[name] + 5 * torch.randn(20_000, generator=g)
        reliability.observe(estimate, fresh, weight)
    common = 2 / sum(1 + level**2 for level in noise.values())
    for name in NAMES:  # var(true) / (var(true) + var(noise)), against that of both together
        level = noise[name.split(".")[-1]]
        assert reliability.slope(name) == pytest.approx(LEVEL / (1 + level**2) / common, abs=0.04)
    assert reliability.slope("h.0.up") == reliability.slope("h.1.up")


def test_bounds_memory_and_the_common_prior() -> None:
    one = torch.ones(1)

    def observed(up: float, down: float, prior: float = 0.0) -> Reliability:
        reliability = Reliability(NAMES, memory=0.5, prior=prior)
        fresh = {"h.0.up": up * one, "h.0.down": down * one}
        reliability.observe(dict.fromkeys(fresh, one), fresh, dict.fromkeys(fresh, one))
        return reliability

    assert observed(7.0, -6.9).slope("h.1.up") == pytest.approx(min(1.0, LEVEL * MOST))
    assert observed(7.0, -6.9).slope("h.1.down") == LEVEL * LEAST
    assert observed(0.6, 0.2).slope("h.1.up") == pytest.approx(1.5 * LEVEL)
    assert observed(0.6, 0.2, prior=1e9).slope("h.1.up") == pytest.approx(LEVEL)
    again = observed(0.6, 0.2)
    again.observe({"h.0.up": one}, {"h.0.up": 0.2 * one}, {"h.0.up": one})
    assert again.slope("h.0.up") == pytest.approx(LEVEL * (0.5 / 1.5) / (0.6 / 2.0))
