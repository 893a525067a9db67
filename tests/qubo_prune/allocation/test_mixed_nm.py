"""Mixed N:M: the nearest total against all roundings, neighbours only, sizes too odd to be exact."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qubo_prune.allocation.mixed_nm import mixed_nm, pruned_of_group
from qubo_prune.errors import InputError

LAYERS = st.lists(st.tuples(st.integers(1, 40), st.floats(0.0, 0.999)), min_size=1, max_size=7)


def nearest(sizes: list[int], rates: list[float], m: int, total: int) -> tuple[float, float]:
    """(distance of the total, rounding summed over the weights) of the best rounding, by trying all."""
    choices = []
    for rate in rates:
        wanted = min(rate * m, m - 1.0)
        low = math.floor(wanted + 1e-9)
        choices.append([low, low + 1] if wanted - low > 1e-9 else [low])
    found = []
    for pruned in itertools.product(*choices):
        reached = sum(size // m * p for size, p in zip(sizes, pruned, strict=True))
        rounding = sum(
            size // m * abs(p - min(rate * m, m - 1.0))
            for size, p, rate in zip(sizes, pruned, rates, strict=True)
        )
        found.append((abs(reached - total), rounding))
    return min(found)


@given(LAYERS, st.sampled_from([2, 4, 8]), st.integers(-5, 5))
def test_against_all_roundings(layers: list[tuple[int, float]], m: int, shift: int) -> None:
    sizes, rates = [m * size for size, _ in layers], [rate for _, rate in layers]
    total = round(sum(size * rate for size, rate in zip(sizes, rates, strict=True))) + shift
    kept = mixed_nm(sizes, rates, m, total)
    distance, rounding = nearest(sizes, rates, m, total)
    pruned = [m - n for n in kept]
    assert all(1 <= n <= m for n in kept)
    assert abs(sum(size // m * p for size, p in zip(sizes, pruned, strict=True)) - total) == distance
    own = [size // m * abs(p - min(r * m, m - 1.0)) for size, p, r in zip(sizes, pruned, rates, strict=True)]
    assert sum(own) == pytest.approx(rounding, abs=1e-6)


def test_known_answers() -> None:
    assert mixed_nm([80, 80, 80], [0.5, 0.5, 0.5], 8, 120) == [4, 4, 4]
    assert mixed_nm([80, 80], [0.45, 0.55], 8, 80) == [4, 4]
    assert mixed_nm([80, 80], [0.3, 0.7], 8, 80) == [6, 2]
    assert mixed_nm([80, 80], [0.99, 0.99], 8, 158) == [1, 1]
    assert mixed_nm([80, 80], [0.0, 0.2], 8, 16) == [8, 6]


@given(LAYERS, st.integers(0, 7), st.integers(0, 7))
def test_bounds_hold(layers: list[tuple[int, float]], one: int, other: int) -> None:
    least, most = sorted((one, other))
    sizes, rates = [8 * size for size, _ in layers], [rate for _, rate in layers]
    total = round(sum(size * rate for size, rate in zip(sizes, rates, strict=True)))
    kept = mixed_nm(sizes, rates, 8, total, least=least, most=most)
    assert all(least <= 8 - n <= most for n in kept)
    held = [min(max(rate, least / 8), most / 8) for rate in rates]
    reached = sum(size // 8 * (8 - n) for size, n in zip(sizes, kept, strict=True))
    assert abs(reached - total) == nearest(sizes, held, 8, total)[0]


def test_whole_numbers_between_floor_and_ceiling() -> None:
    assert pruned_of_group(8, 0.0, 0.99) == (0, 7)
    assert pruned_of_group(8, 0.25, 0.7) == (2, 5)
    assert pruned_of_group(8, 0.26, 0.75) == (3, 6)
    assert pruned_of_group(10, 0.3, 0.7) == (3, 7)  # 0.7 * 10 is a little more than 7, 0.3 * 10 less than 3
    with pytest.raises(InputError, match=r"no whole number of 8 weights is at least 0\.65 and at most 0\.7"):
        pruned_of_group(8, 0.65, 0.7)


def test_sizes_too_odd_for_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, rates = [8 * 1009, 8 * 2003, 8 * 4001], [0.55, 0.6, 0.66]
    total = round(sum(size * rate for size, rate in zip(sizes, rates, strict=True)))
    monkeypatch.setattr("qubo_prune.allocation.mixed_nm._LARGEST_TABLE", 1)
    kept = mixed_nm(sizes, rates, 8, total)
    reached = sum(size // 8 * (8 - n) for size, n in zip(sizes, kept, strict=True))
    assert abs(reached - total) <= max(sizes) // 8 / 2
    assert all(abs(8 - n - 8 * rate) < 1 for n, rate in zip(kept, rates, strict=True))


def test_refusals() -> None:
    with pytest.raises(InputError, match="M must be at least 2"):
        mixed_nm([8], [0.5], 1, 4)
    with pytest.raises(InputError, match="12 weights cannot be cut into groups of 8"):
        mixed_nm([8, 12], [0.5, 0.5], 8, 10)
    for least, most in ((-1, 4), (5, 4), (0, 8)):
        with pytest.raises(InputError, match="give 0 <= least <= most < 8"):
            mixed_nm([8], [0.5], 8, 4, least=least, most=most)
