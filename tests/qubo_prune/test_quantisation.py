"""Grids: the textbook's rounding, at most 2^bits values, zero among them, gradients of the clipping."""

import pytest
import torch

from qubo_prune.quantisation import quantise


def weights(rows: int = 4, columns: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", [None, 8, 24])
def test_each_group_has_a_grid_of_its_own(bits: int, group: int | None) -> None:
    weight = weights()
    found = quantise(weight, bits, group)
    for row, new in zip(weight.reshape(-1, group or 24), found.reshape(-1, group or 24), strict=True):
        low, high = min(0.0, float(row.min())), max(0.0, float(row.max()))
        step = (high - low) / (2**bits - 1)
        zero = round(-low / step)
        expected = [
            (min(2**bits - 1, max(0, round(float(w) / step) + zero)) - zero) * step for w in row
        ]  # fmt: skip
        torch.testing.assert_close(new, torch.tensor(expected), rtol=1e-4, atol=1e-6)
        assert len(new.unique()) <= 2**bits
        assert float((new - row).abs().max()) <= step * (0.5 + 0.5) + 1e-6  # z too is rounded


def test_zero_is_on_every_grid() -> None:
    weight = weights().abs() + 5.0  # no negative weight: a grid from min to max would lose 0
    weight[:, 3] = 0.0
    assert not quantise(weight, 3)[:, 3].any()
    assert not quantise(torch.zeros(2, 4), 4).any()
    kept = quantise(weight.to(torch.bfloat16), 4, 8)
    assert kept.dtype == torch.bfloat16
    assert torch.isfinite(kept).all()


def test_clipping_is_learned() -> None:
    weight = weights(columns=64)
    weight[:, 0] = 12.0  # an outlier that makes the grid coarse
    scale = torch.ones(64)
    scale[0] = 0.01
    low, high = (torch.full((4, 1), 4.0, requires_grad=True) for _ in range(2))
    optimiser = torch.optim.AdamW([low, high], lr=0.05, weight_decay=0.0)

    def error(values: torch.Tensor) -> torch.Tensor:
        return ((values - weight) * scale).square().mean()

    before = float(error(quantise(weight, 3)))
    for _ in range(60):
        optimiser.zero_grad()
        error(quantise(weight, 3, None, low.sigmoid(), high.sigmoid())).backward()
        optimiser.step()
    with torch.no_grad():
        assert float(error(quantise(weight, 3, None, low.sigmoid(), high.sigmoid()))) < 0.8 * before


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("group", [None, 8])
def test_gradients_are_those_of_the_identity_for_rounding(bits: int, group: int | None) -> None:
    """The same as by autograd through each step of the formula."""

    def rounded(x: torch.Tensor) -> torch.Tensor:
        return x + (x.round() - x).detach()

    def plain(weight: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        parts = weight.reshape(len(weight), low.shape[1], -1)
        least = (parts.amin(2).clamp_max(0.0) * low)[:, :, None]
        most = (parts.amax(2).clamp_min(0.0) * high)[:, :, None]
        step = (most - least) / (2**bits - 1)
        zero = rounded(-least / step)
        return (((rounded(parts / step) + zero).clamp(0, 2**bits - 1) - zero) * step).reshape(weight.shape)

    factors = torch.rand(2, 4, 24 // (group or 24), generator=torch.Generator().manual_seed(1)) * 0.6 + 0.3
    toward = weights(seed=2)
    found, expected = [], []
    for formula, gradients in ((lambda *x: quantise(x[0], bits, group, *x[1:]), found), (plain, expected)):
        inputs = [x.clone().requires_grad_() for x in (weights(), *factors)]
        (formula(*inputs) * toward).sum().backward()
        gradients += [x.grad for x in inputs]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
