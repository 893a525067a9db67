"""Shared allocations of the quality bench: found once, with the masks that they give alone."""

from pathlib import Path
from types import ModuleType

import pytest
import torch

from qubo_prune.allocation import Allocation
from qubo_prune.api import prune
from qubo_prune.errors import InputError
from qubo_prune.layers import prunable_layers
from qubo_prune.recipe import Recipe
from qubo_prune.testing import tiny_llama, tiny_tokens

BESA = "allocation.method=besa:allocation.steps=6:allocation.learning_rate=0.3"


@pytest.mark.parametrize("per", ["layer", "row"])
def test_cells_share_an_allocation(
    bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, per: str
) -> None:
    cells, run, module = (bench[f"quality_{name}"] for name in ("cells", "run", "allocations"))
    setting, _ = bench["quality"].quick_setting(tmp_path)
    methods = [f"{name}:{BESA}:allocation.per={per}" for name in ("a=wanda", "b=magnitude", "c=sparsegpt")]
    own = [
        cells.Cell("tiny:llama", setting, cells.Method.parse(text), cells.Target.parse("0.5"))
        for text in methods
    ]
    found = []
    for cell in own:
        found.append(run.run_cell(cell, tmp_path))
        if cell is own[0]:
            monkeypatch.setattr(module, "share_out", None)  # from here on it must come from the file
    assert all("error" not in record for record in found)
    assert len(list((tmp_path / "allocations").iterdir())) == 1
    spent = [record["seconds_by_phase"]["allocation"] for record in found]
    assert min(spent) >= 0.9 * max(spent) > 0
    monkeypatch.setattr(run, "can_share", lambda recipe: False)
    alone = run.run_cell(own[0], tmp_path)
    assert alone["kl"] == found[0]["kl"]
    assert alone["perplexity"] == found[0]["perplexity"]


def test_what_is_not_shared(bench: dict[str, ModuleType]) -> None:
    can_share, parse = bench["quality_allocations"].can_share, bench["quality_cells"].Method.parse
    alone = {
        "uniform": "wanda",
        "grids": f"wanda:{BESA}:allocation.quantise.bits=4",
        "another batch": f"default:{BESA}",
        "own text": f"balanced:{BESA}",
        "output gradients": f"wanda:{BESA}:allocation.between.method=fisher",
    }
    assert not [name for name, text in alone.items() if can_share(parse(text).recipe({}))]
    assert can_share(parse(f"fast:{BESA}").recipe({}))


def found_of(changes: dict[str, int], rows: dict[str, torch.Tensor] | None = None) -> Allocation:
    sizes = {name: layer.numel for name, layer in prunable_layers(tiny_llama()).items()}
    return Allocation(
        "given", {n: s // 2 + changes.get(n, 0) for n, s in sizes.items()}, sizes, rows=rows or {}
    )


def test_an_allocation_that_does_not_fit_is_refused() -> None:
    first, second, *_ = prunable_layers(tiny_llama())
    recipe = Recipe.parse({"initial": {"method": "magnitude"}, "refine": None})
    batches = [tiny_tokens(32, seed).reshape(1, 32) for seed in range(3)]
    report = prune(tiny_llama(), batches, recipe, allocation=found_of({first: 8, second: -8}))
    assert int((~report.masks[first]).sum()) == found_of({}).counts[first] + 8
    short = found_of({})
    huge = 2 * short.sizes[first]
    for wrong, told in (
        (found_of({first: 1}), "and sparsity 0.5 is"),
        (found_of({first: huge, second: -huge}), f"weights of layer '{first}'"),
        (Allocation("given", short.counts, {**short.sizes, "other": 4}), "other layers"),
        (found_of({}, {first: torch.tensor([1])}), "a count from 0 to"),
    ):
        model = tiny_llama()
        before = {name: p.clone() for name, p in model.named_parameters()}
        with pytest.raises(InputError, match=told):
            prune(model, batches, recipe, allocation=wrong)
        assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
    with pytest.raises(InputError, match="leave `allocation` out"):
        prune(tiny_llama(), batches, recipe.model_copy(update={"pattern": "2:4"}), allocation=short)
