"""Learned rates: the soft rate's gradient, the hard mask of ranks, the whole range from 0 to 1."""

import pytest
import torch
from torch import Tensor

from qubo_prune.allocation.learned_rate import (
    candidates,
    expected_rate,
    initial_logits,
    masked,
    ranked,
    reaching,
    straight_through,
)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def probability(logits: Tensor, n: int) -> Tensor:
    """(R, n): the probability that the weight of each rank is pruned."""
    return torch.softmax(logits, 1) @ reaching(logits.shape[1] - 1, n).to(logits.dtype)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("n", [1, 7, 100, 131])
def test_gradients_are_those_of_finite_differences(rows: int, n: int) -> None:
    logits = random(rows, 11).requires_grad_()
    assert torch.autograd.gradcheck(expected_rate, (logits,))
    assert torch.autograd.gradcheck(lambda x: probability(x, n), (logits,))


@pytest.mark.parametrize("steps", [2, 10, 100])
@pytest.mark.parametrize("n", [1, 7, 64, 250])
def test_probability_is_the_share_of_rates_that_reach_a_rank(steps: int, n: int) -> None:
    logits = random(2, steps + 1)
    shares = torch.softmax(logits, 1)
    found = probability(logits, n)
    for k in range(n):
        reaching = [d for d in range(steps + 1) if d * n > k * steps]
        torch.testing.assert_close(found[:, k], shares[:, reaching].sum(1))
    assert (found.diff(dim=1) <= 0).all()
    if n % steps == 0:  # then every candidate is a whole number of weights
        torch.testing.assert_close(found.mean(1), expected_rate(logits))


@pytest.mark.parametrize("rows", [1, 4])
def test_backward_is_the_gradient_through_the_soft_mask(rows: int) -> None:
    """For a loss linear in the weights, straight-through is exact: finite differences of the soft loss."""
    weight, toward, scores = random(4, 9), random(4, 9, seed=1), random(4, 9, seed=2)
    logits = random(rows, 7, seed=3).requires_grad_()
    order, rank = ranked(scores)

    def soft(x: Tensor) -> Tensor:
        keep = 1 - probability(x, 9).expand(4, 9)
        return (weight * keep.gather(1, rank.long()) * toward).sum()

    (straight_through(weight, logits, order, rank) * toward).sum().backward()
    found = logits.grad
    assert found is not None
    step, expected = 1e-6, torch.zeros_like(logits)
    with torch.no_grad():
        for i in range(logits.numel()):
            e = torch.zeros(logits.numel(), dtype=torch.float64)
            e[i] = step
            e = e.view_as(logits)
            expected.view(-1)[i] = (soft(logits + e) - soft(logits - e)) / (2 * step)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # sums are float32


def test_forward_prunes_the_lowest_of_each_row_and_passes_the_weights_gradient_on() -> None:
    weight, scores = random(5, 20).requires_grad_(), random(5, 20, seed=1)
    scores[0] = 1.0  # ties go by column
    logits = torch.cat([initial_logits(rate, 100, 1) for rate in (0.05, 0.5, 0.9, 0.35, 0.995)])
    order, rank = ranked(scores)
    assert rank.dtype == torch.int16
    found = straight_through(weight, logits, order, rank)
    counts = [1, 10, 18, 7, 20]
    kept = torch.ones(5, 20, dtype=torch.bool)
    for row, count in enumerate(counts):
        lowest = sorted(range(20), key=lambda j: (float(scores[row, j]), j))[:count]
        kept[row, lowest] = False
    assert torch.equal(found, weight.detach() * kept)
    found.sum().backward()
    assert torch.equal(weight.grad, kept.double())


@pytest.mark.parametrize("columns", [9, 32767, 32768])
def test_masked_is_0_below_each_rows_count(columns: int) -> None:
    weight = random(3, columns).float()
    _, rank = ranked(random(3, columns, seed=1))
    assert rank.dtype == (torch.int32 if columns > 32767 else torch.int16)
    for counts in ([0, columns, columns // 2], [0], [columns]):
        chosen = torch.tensor(counts)
        assert torch.equal(masked(weight, rank, chosen), weight * (rank >= chosen[:, None]))


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.5, 0.77, 0.9, 0.99])
def test_the_start_has_the_wanted_rate(rate: float) -> None:
    logits = initial_logits(rate, 100, 3)
    assert logits.shape == (3, 101)
    assert expected_rate(logits).tolist() == pytest.approx([rate] * 3, abs=1e-4)


@pytest.mark.parametrize("toward", [0.0, 1.0])
@pytest.mark.parametrize("start", [0.1, 0.5, 0.9])
def test_the_whole_range_can_be_learned(start: float, toward: float) -> None:
    logits = initial_logits(start, 100, 1).requires_grad_()
    optimiser = torch.optim.AdamW([logits], lr=0.5, weight_decay=0.0)
    for _ in range(100):
        optimiser.zero_grad()
        (expected_rate(logits) - toward).square().sum().backward()
        optimiser.step()
    assert float(expected_rate(logits.detach())) == pytest.approx(toward, abs=0.01)


def test_a_softmax_of_a_sigmoid_would_not_reach_it() -> None:
    """Why the shares are a plain softmax: behind a sigmoid, no logits leave [0.376, 0.624].

    The extremes have a sigmoid of 0 on one side of a candidate and of 1 on the other.
    """
    p = candidates(100)
    steps = [(p - at) * 1e6 for at in (p - 0.005).tolist()]
    squashed = [float(torch.softmax((sign * x).sigmoid(), 0) @ p) for x in steps for sign in (-1, 1)]
    assert (min(squashed), max(squashed)) == pytest.approx((0.376, 0.624), abs=1e-3)
    reached = [float(expected_rate(sign * steps[50][None])) for sign in (-1, 1)]
    assert reached == pytest.approx([0.0, 1.0], abs=1e-6)
