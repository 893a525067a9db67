"""Whole numbers of weights with an exact total."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qubo_prune.allocation.uniform import allocate
from qubo_prune.budgets import exact_counts
from qubo_prune.errors import InputError
from qubo_prune.layers import prunable_layers
from qubo_prune.selection import prune_count
from qubo_prune.testing import tiny_llama, tiny_mlp


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.333, 0.5, 0.77, 1.0])
def test_uniform_is_exact(sparsity: float) -> None:
    for model in (tiny_llama(), tiny_mlp(sizes=(7, 5, 3))):
        layers = prunable_layers(model)
        counts = allocate(layers, sparsity)
        assert list(counts) == list(layers)
        assert sum(counts.values()) == prune_count(sum(layer.numel for layer in layers.values()), sparsity)
        assert all(abs(counts[name] - sparsity * layer.numel) < 1 for name, layer in layers.items())


@given(st.lists(st.tuples(st.integers(0, 10**9), st.floats(0, 1)), min_size=1, max_size=20))
def test_rounding_keeps_within_one_weight(parts: list[tuple[int, float]]) -> None:
    sizes = {str(i): size for i, (size, _) in enumerate(parts)}
    rates = {str(i): rate for i, (_, rate) in enumerate(parts)}
    exact = sum(size * rate for size, rate in parts)
    counts = exact_counts(sizes, rates, round(exact))
    assert sum(counts.values()) == round(exact)
    assert all(0 <= counts[n] <= sizes[n] for n in sizes)
    assert all(abs(counts[n] - sizes[n] * rates[n]) < 1 + 1e-6 for n in sizes)


def test_refusals() -> None:
    with pytest.raises(InputError, match="scale them to the total"):
        exact_counts({"a": 10, "b": 10}, {"a": 0.5, "b": 0.5}, 13)
    with pytest.raises(InputError, match="scale them to the total"):
        exact_counts({"a": 10, "b": 10}, {"a": 0.5, "b": 0.5}, 7)
    with pytest.raises(InputError, match=r"different names \(b\)"):
        exact_counts({"a": 10}, {"a": 0.5, "b": 0.5}, 5)
    with pytest.raises(InputError, match=r"rate 1\.2"):
        exact_counts({"a": 10}, {"a": 1.2}, 10)
