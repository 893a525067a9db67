"""OWL: outliers counted by hand, the map to rates, exact totals."""

import numpy as np
import pytest
import torch

from qubo_prune.allocation import Observed, allocate
from qubo_prune.allocation.mapping import block_of
from qubo_prune.allocation.owl import outlier_share, rates
from qubo_prune.allocation_settings import Owl
from qubo_prune.errors import InputError
from qubo_prune.forward import forward_of
from qubo_prune.layers import prunable_layers
from qubo_prune.selection import prune_count
from qubo_prune.statistics.gram import collect_norms
from qubo_prune.testing import TINY_MODELS, tiny_llama, tiny_tokens

DATA = [tiny_tokens(40, seed).reshape(2, 20) for seed in range(2)]


def test_outliers_are_counted_over_all_weights_together() -> None:
    model = tiny_llama()
    layers = prunable_layers(model, ["*.0.mlp.*"])
    moments = collect_norms(model, layers, DATA)
    scores = np.concatenate(
        [(layer.weight.abs() * moments.norm(name)).double().numpy().ravel() for name, layer in layers.items()]
    )
    expected = float((scores > 3 * scores.mean()).mean())
    assert outlier_share(layers, moments, 3.0) == pytest.approx(expected)
    assert 0 < expected < 0.2


def test_rates() -> None:
    found = rates({"a": 0.1, "b": 0.3, "c": 0.2}, 0.6, 0.08)
    assert found == pytest.approx({"a": 0.68, "b": 0.52, "c": 0.6})
    assert rates({"a": 0.1, "b": 0.1}, 0.6, 0.08) == {"a": 0.6, "b": 0.6}


@pytest.mark.parametrize("family", TINY_MODELS)
@pytest.mark.parametrize("per", ["block", "matrix"])
def test_blocks_with_outliers_keep_more(family: str, per: str) -> None:
    model = TINY_MODELS[family]()
    layers = prunable_layers(model)
    with torch.no_grad():
        for name, layer in layers.items():
            if ".1." in name:
                layer.weight[0, :2] *= 30
    observed = Observed(model, forward_of(model), DATA)
    found = allocate(layers, 0.5, Owl(per=per), observed=observed)  # type: ignore[arg-type]
    assert sum(found.counts.values()) == prune_count(sum(found.sizes.values()), 0.5)
    blocks: dict[str, list[str]] = {}
    for name in layers:
        blocks.setdefault(block_of(name), []).append(name)
    first, second = blocks.values()
    share = [sum(found.counts[n] for n in b) / sum(found.sizes[n] for n in b) for b in (first, second)]
    assert share[0] > share[1]
    assert found.counts == allocate(layers, 0.5, Owl(per=per), observed=observed).counts  # type: ignore[arg-type]


def test_bounds() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    observed = Observed(model, forward_of(model), DATA)
    found = allocate(layers, 0.9, Owl(spread=0.5, ceiling=0.95), observed=observed)
    assert max(found.rates.values()) <= 0.95
    assert sum(found.counts.values()) == prune_count(sum(found.sizes.values()), 0.9)
    with pytest.raises(InputError, match=r"at most 0\.4"):
        allocate(layers, 0.5, Owl(ceiling=0.4), observed=observed)
    with pytest.raises(InputError, match="owl looks at calibration batches"):
        allocate(layers, 0.5, Owl())
