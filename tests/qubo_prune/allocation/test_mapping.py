"""The linear map and water-filling: known answers, bounds, monotone rates and exact totals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qubo_prune.allocation.mapping import (
    block_of,
    blocks_of,
    fill,
    linear_map,
    rates_mixed,
    rates_per_block,
    rates_per_matrix,
)
from qubo_prune.budgets import exact_counts
from qubo_prune.errors import InputError

LAYERS = st.lists(st.tuples(st.integers(1, 10**7), st.floats(0.5, 20.0)), min_size=1, max_size=30)


def test_the_papers_example() -> None:
    """Sparsity 0.7, tau 0.2, metrics spread evenly over equal layers: 0.56 to 0.84."""
    names = [f"layers.{i}" for i in range(11)]
    sizes = dict.fromkeys(names, 100_000)
    metrics = {name: 2.0 + i for i, name in enumerate(names)}
    rates = rates_per_matrix(sizes, metrics, 0.2, 770_000)
    np.testing.assert_allclose(list(rates.values()), np.linspace(0.56, 0.84, 11))
    assert sum(exact_counts(sizes, rates, 770_000).values()) == 770_000


def test_linear_map() -> None:
    np.testing.assert_allclose(linear_map([3.0, 1.0, 2.0], 0.3), [1.3, 0.7, 1.0])
    np.testing.assert_array_equal(linear_map([5.0, 5.0], 0.3), [1, 1])
    np.testing.assert_allclose(linear_map([1.0, math.nan, math.inf, 2.0], 0.5), [0.5, 1.5, 1.5, 1.5])
    np.testing.assert_array_equal(linear_map([math.nan, math.inf], 0.5), [1, 1])


def test_no_layer_passes_one() -> None:
    """At 80 % with tau 0.3 scaling alone, as published, gives the sparsest layer more than all it has."""
    sizes, metrics = [1000] * 20, [1.0] * 11 + [4.0] * 9
    weights = linear_map(metrics, 0.3)
    total = 16_000
    assert (weights * total / (np.array(sizes) * weights).sum()).max() > 1.06
    rates = fill(sizes, weights, total)
    np.testing.assert_allclose(rates[11:], 0.999)
    np.testing.assert_allclose(rates[:11], (total - 9 * 999) / 11_000)


@given(LAYERS, st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.5, 1.0), st.floats(0.0, 0.5))
def test_filling(
    layers: list[tuple[int, float]], sparsity: float, epsilon: float, ceiling: float, floor: float
) -> None:
    sizes, metrics = [size for size, _ in layers], [metric for _, metric in layers]
    total = round(sparsity * sum(sizes))
    weights = linear_map(metrics, epsilon)
    try:
        rates = fill(sizes, weights, total, floor=floor, ceiling=ceiling)
    except InputError:
        most = sum(min(math.floor(size * ceiling), size - 1) for size in sizes)
        least = sum(min(math.ceil(size * floor), math.floor(size * ceiling), size - 1) for size in sizes)
        assert total > most or total < least
        return
    named = {str(i): size for i, size in enumerate(sizes)}
    counts = exact_counts(named, dict(zip(named, map(float, rates), strict=True)), total)
    assert sum(counts.values()) == total
    assert sum(size * rate for size, rate in zip(sizes, rates, strict=True)) == pytest.approx(total, abs=1e-3)
    for rate, size, count in zip(rates, sizes, counts.values(), strict=True):
        assert 0 <= rate < 1
        assert rate <= ceiling
        assert rate >= min(floor, math.floor(size * ceiling) / size, (size - 1) / size)
        assert 0 <= count < size
        assert count <= ceiling * size + 1e-6
        assert count >= min(math.ceil(size * floor - 1e-6), math.floor(size * ceiling), size - 1)
    for one, other, rate_one, rate_other, size in zip(
        metrics, metrics[1:], rates, rates[1:], map(min, sizes, sizes[1:]), strict=False
    ):
        if one <= other:  # but for the ceiling, which is a whole number of weights in every layer
            assert rate_one <= rate_other + 1 / size
        else:
            assert rate_other <= rate_one + 1 / size


@given(LAYERS, st.floats(0.05, 0.7), st.floats(0.0, 0.9))
def test_filling_is_proportional_where_nothing_is_clipped(
    layers: list[tuple[int, float]], sparsity: float, epsilon: float
) -> None:
    sizes, weights = [size + 1000 for size, _ in layers], linear_map([m for _, m in layers], epsilon)
    total = sparsity * sum(sizes)
    plain = weights * total / (np.array(sizes) * weights).sum()
    if plain.max() < 0.99:
        np.testing.assert_allclose(fill(sizes, weights, total), plain, rtol=1e-9)


def test_layers_of_weight_zero_are_filled_last() -> None:
    np.testing.assert_allclose(fill([100, 100], [0.0, 2.0], 50), [0, 0.5], atol=1e-6)
    np.testing.assert_allclose(fill([100, 100, 100], [0.0, 0.0, 2.0], 139), [0.2, 0.2, 0.99], atol=1e-6)


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"190 of 200 weights .* at most 0\.9 of each layer"):
        fill([100, 100], [1.0, 1.0], 190, ceiling=0.9)
    with pytest.raises(InputError, match=r"at least 0\.5 and"):
        fill([100, 100], [1.0, 1.0], 90, floor=0.5)
    with pytest.raises(InputError, match="cannot be pruned"):
        fill([100], [1.0], 100)


def test_blocks() -> None:
    assert block_of("model.layers.12.mlp.up_proj") == "model.layers.12"
    assert block_of("transformer.h.0.attn.c_attn") == "transformer.h.0"
    assert (block_of("lm_head"), block_of("0"), block_of("encoder.proj")) == ("lm_head", "0", "encoder.proj")
    assert blocks_of(["a.0.x", "a.1.x", "a.0.y"]) == {"a.0": ["a.0.x", "a.0.y"], "a.1": ["a.1.x"]}


SIZES = {"l.0.a": 4000, "l.0.b": 1000, "l.1.a": 4000, "l.1.b": 1000, "l.2.a": 4000, "l.2.b": 3000}
METRICS = {"l.0.a": 1.0, "l.0.b": 3.0, "l.1.a": 2.0, "l.1.b": 6.0, "l.2.a": 5.0, "l.2.b": 1.0}


def test_per_block() -> None:
    """Means 2, 4 and 3: unweighted, whatever the sizes."""
    rates = rates_per_block(SIZES, METRICS, 0.25, 8500)
    weights = np.repeat([0.75, 1.25, 1.0], 2)
    size = np.array(list(SIZES.values()))
    np.testing.assert_allclose(list(rates.values()), weights * 8500 / (weights * size).sum())


@pytest.mark.parametrize("total", [1700, 8500, 13_600, 16_900])
def test_mixed_keeps_the_blocks_totals(total: int) -> None:
    blocks = rates_per_block(SIZES, METRICS, 0.25, total)
    rates = rates_mixed(SIZES, METRICS, 0.25, 0.1, total)
    assert list(rates) == list(SIZES)
    for names in blocks_of(list(SIZES)).values():
        assert sum(SIZES[n] * rates[n] for n in names) == pytest.approx(
            sum(SIZES[n] * blocks[n] for n in names)
        )
        assert (METRICS[names[0]] < METRICS[names[1]]) == (
            rates[names[0]] < rates[names[1]]
        ) or total > 13_000
    assert sum(exact_counts(SIZES, rates, total).values()) == total
    same = rates_mixed(SIZES, METRICS, 0.25, 0.0, total)
    np.testing.assert_allclose(list(same.values()), list(blocks.values()), rtol=1e-3)
