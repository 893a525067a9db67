"""Every allocation obeys one protocol: an exact total (N:M: near), rates within bounds, JSON, repeatable."""

import json
from typing import Any

import pytest
from pydantic import TypeAdapter

from qubo_prune.allocation import Observed, allocate, check_allocation
from qubo_prune.allocation_settings import AllocationSettings
from qubo_prune.forward import forward_of
from qubo_prune.layers import prunable_layers
from qubo_prune.selection import prune_count
from qubo_prune.testing import tiny_gpt2, tiny_llama, tiny_tokens

RULES: list[tuple[dict[str, Any], float, float]] = [
    ({"method": "uniform"}, 0.0, 1.0),
    ({"method": "alphapruning", "floor": 0.05, "ceiling": 0.95}, 0.05, 0.95),
    ({"method": "alphapruning", "per": "matrix", "floor": 0.05, "ceiling": 0.93}, 0.05, 0.93),
    ({"method": "alphapruning", "epsilon": 1.0, "floor": 0.05}, 0.05, 0.99),
    ({"method": "alphapruning", "per": "mixed", "ceiling": 0.93}, 0.0, 0.93),
    ({"method": "alphapruning", "per": "matrix", "group": 8}, 0.0, 0.875),
    ({"method": "alphapruning", "per": "mixed", "group": 8, "ceiling": 0.85}, 0.0, 0.85),
    ({"method": "owl", "floor": 0.05, "ceiling": 0.95, "spread": 0.4}, 0.05, 0.95),
    ({"method": "besa", "steps": 4, "learning_rate": 1.0, "floor": 0.05, "ceiling": 0.95}, 0.05, 0.95),
    ({"method": "besa", "steps": 4, "per": "row", "learning_rate": 1.0}, 0.0, 0.99),
    ({"method": "besa", "steps": 4, "target": "dense_path", "ceiling": 0.95}, 0.0, 0.95),
    ({"method": "besa", "steps": 4, "between": "owl", "quantise": {"bits": 4}}, 0.0, 0.99),
    ({"method": "fisher", "strength": 1.0, "floor": 0.05, "ceiling": 0.95}, 0.05, 0.95),
    ({"method": "besa", "steps": 4, "between": "fisher"}, 0.0, 0.99),
    ({"method": "given", "rates": {"*": 1.0}, "rescale": True}, 0.0, 1.0),
]


@pytest.mark.parametrize("rule", RULES, ids=[str(i) + r[0]["method"] for i, r in enumerate(RULES)])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_protocol(rule: tuple[dict[str, Any], float, float], sparsity: float, make: Any) -> None:
    group = rule[0].get("group")
    if group is not None:
        sparsity = min(sparsity, 0.7)  # patterns reach no more within these ceilings
    model = make()
    layers = prunable_layers(model)
    data = [tiny_tokens(40, seed).reshape(2, 20) for seed in range(2)]
    settings: AllocationSettings = TypeAdapter(AllocationSettings).validate_python(rule[0])
    check_allocation(layers, sparsity, settings)
    observed = Observed(model, forward_of(model), data)
    told: list[tuple[int, int]] = []
    found = allocate(
        layers, sparsity, settings, on_layer=lambda done, of: told.append((done, of)), observed=observed
    )
    assert list(found.counts) == list(found.sizes) == list(layers)
    missed = abs(sum(found.counts.values()) - prune_count(sum(found.sizes.values()), sparsity))
    assert missed <= (0 if group is None else max(found.sizes.values()) // group / 2)
    assert found.group == group
    assert all(rule[1] <= rate <= rule[2] for rate in found.rates.values())
    assert found.counts == allocate(layers, sparsity, settings, observed=observed).counts
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["method"] == rule[0]["method"]
    if told:
        assert told[-1] == (len(layers), len(layers))
