"""The search for a rule's strength: the least accepting loss by hand, and what is refused."""

from typing import Any

import pytest
import torch

from qubo_prune import prune
from qubo_prune.allocation.search import tried
from qubo_prune.allocation_settings import AlphaPruning, Besa, Uniform
from qubo_prune.api import Data
from qubo_prune.errors import InputError
from qubo_prune.recipe import Recipe
from qubo_prune.testing import tiny_llama, tiny_tokens

RULES = {"alphapruning": "epsilon", "owl": "spread", "fisher": "strength"}


def data() -> Data:
    batches = list(tiny_tokens(24 * 16, vocabulary=12).reshape(24, 16).split(4))
    return Data(batches[:4], batches[4:5], batches[5:])


@pytest.mark.parametrize("method", RULES)
@pytest.mark.parametrize("initial", ["wanda", "fisher", "sparsegpt", "gradual"])
def test_the_least_accepting_loss_is_taken(method: str, initial: str) -> None:
    values = [0.0, 0.1, 0.3]

    def run(rule: dict[str, Any], first: str = initial) -> Any:
        recipe = {"allocation": {"method": method, **rule}, "initial": {"method": first}, "refine": None}
        return prune(tiny_llama(), data(), Recipe.parse(recipe | {"sparsity": 0.6}))

    report = run({"search": values})
    told = report.allocation["search"]
    assert [entry["value"] for entry in told["losses"]] == values
    assert told["setting"] == RULES[method]
    assert told["taken"] == min(told["losses"], key=lambda entry: entry["loss"])["value"]
    plain = run({RULES[method]: told["taken"]})
    assert all(torch.equal(mask, plain.masks[name]) for name, mask in report.masks.items())
    if initial not in ("sparsegpt", "gradual"):
        swapped = Data(data().calibrate, data().accept, data().accept)  # then the report is of these batches
        recipe = {"allocation": {"method": method, RULES[method]: values[1]}, "initial": {"method": initial}}
        by_hand = prune(tiny_llama(), swapped, Recipe.parse(recipe | {"sparsity": 0.6, "refine": None}))
        assert told["losses"][1]["loss"] == pytest.approx(by_hand.figures["initial"], rel=1e-6)


def test_nothing_to_try() -> None:
    assert tried(Uniform()) == tried(AlphaPruning()) == []
    assert [s.epsilon for _, s in tried(AlphaPruning(search=[0.1, 0.2]))] == [0.1, 0.2]  # type: ignore[union-attr]
    with pytest.raises(ValueError, match=r"between\.search"):
        Besa(between=AlphaPruning(search=[0.1]))
    recipe = Recipe.parse({"allocation": {"method": "alphapruning", "search": [0.1]}, "refine": None})
    with pytest.raises(InputError, match=r"allocation\.search goes by the accepting loss"):
        prune(tiny_llama(), Data([tiny_tokens(32).reshape(2, 16)], []), recipe)
