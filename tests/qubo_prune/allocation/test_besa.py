"""BESA: exact budgets, errors that fall, both targets, every family, joint quantisation, unchanged models."""

import math
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from qubo_prune.allocation import Allocation, Observed, allocate
from qubo_prune.allocation.besa import check
from qubo_prune.allocation_settings import Besa, Quantise
from qubo_prune.errors import InputError
from qubo_prune.forward import forward_of
from qubo_prune.initial import Evidence, initial_masks
from qubo_prune.layers import block_stack, prunable_layers
from qubo_prune.quantisation import quantise
from qubo_prune.selection import prune_count
from qubo_prune.statistics.gram import collect_norms
from qubo_prune.testing import TINY_MODELS, tiny_llama, tiny_mlp, tiny_tokens

pytestmark = pytest.mark.slow


def batches(n: int = 3) -> list[Tensor]:
    return [tiny_tokens(2 * 20, seed).reshape(2, 20) for seed in range(n)]


def besa(
    model: nn.Module, sparsity: float = 0.5, include: tuple[str, ...] = (), **settings: Any
) -> Allocation:
    layers = prunable_layers(model, include)
    chosen = Besa(**{"steps": 12, "learning_rate": 0.3} | settings)
    return allocate(layers, sparsity, chosen, observed=Observed(model, forward_of(model), batches()))


def of_block(model: nn.Module, at: int, data: list[Tensor]) -> Tensor:
    """The output of block `at` by whole passes."""
    found = block_stack(model)
    assert found is not None
    seen: list[Tensor] = []

    def see(module: nn.Module, args: Any, output: Any) -> None:
        seen.append((output if isinstance(output, Tensor) else output[0]).detach())

    handle = found[1][at].register_forward_hook(see)
    with torch.no_grad():
        for batch in data:
            forward_of(model)(batch)
    handle.remove()
    return torch.cat(seen)


def relative(found: Tensor, target: Tensor) -> float:
    return float(((found - target).square().mean((0, 1)) / target.square().mean((0, 1))).mean())


@pytest.mark.parametrize("family", TINY_MODELS)
@pytest.mark.parametrize("per", ["layer", "row"])
def test_every_family_meets_its_budget_and_stays_as_it_is(family: str, per: str) -> None:
    model = TINY_MODELS[family]()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    needed = {p: p.requires_grad for p in model.parameters()}
    found = besa(model, per=per)
    assert sum(found.counts.values()) == prune_count(sum(found.sizes.values()), 0.5)
    assert len(set(found.rates.values())) > 4  # something was learned
    records = found.details["blocks"]
    assert all(record["error_learned"] < record["error_start"] for record in records[:1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad == flag and p.grad is None for p, flag in needed.items())
    assert bool(found.rows) == (per == "row")
    for name, rows in found.rows.items():
        assert int(rows.sum()) == found.counts[name]


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("per", ["layer", "row"])
def test_each_block_has_its_share_exactly(sparsity: float, per: str) -> None:
    model = tiny_llama()
    found = besa(model, sparsity, per=per, ceiling=0.95)
    assert sum(found.counts.values()) == prune_count(sum(found.sizes.values()), sparsity)
    assert all(0 <= rate <= 0.95 for rate in found.rates.values())
    for at in range(2):
        names = [name for name in found.counts if f".{at}." in name]
        share = sum(found.counts[n] for n in names) / sum(found.sizes[n] for n in names)
        assert share == pytest.approx(sparsity, abs=0.01)


def test_ties_keep_the_budget() -> None:
    model = tiny_llama()
    with torch.no_grad():
        for layer in prunable_layers(model).values():
            layer.weight.copy_(layer.weight.sign())
    found = besa(model, 0.37, importance="magnitude")
    assert sum(found.counts.values()) == prune_count(sum(found.sizes.values()), 0.37)


@pytest.mark.parametrize("target", ["pruned_path", "dense_path"])
def test_errors_are_those_of_whole_passes(target: str) -> None:
    """The first block's figures, measured again on a model whose weights are really pruned."""
    model, data = tiny_llama(), batches()
    found = besa(model, target=target)
    record = found.details["blocks"][0]
    dense = of_block(model, 0, data)
    layers = {n: layer for n, layer in prunable_layers(model).items() if ".0." in n}
    evidence = Evidence(collect_norms(model, layers, data))
    pruned = tiny_llama()
    for counts, expected in (
        ({n: layer.numel // 2 for n, layer in layers.items()}, record["error_start"]),
        ({n: found.counts[n] for n in layers}, record["error_learned"]),
    ):
        masks = initial_masks("wanda", layers, counts, evidence=evidence)
        for name, layer in prunable_layers(pruned).items():
            if name in masks:
                with torch.no_grad():
                    layer.weight.copy_(layers[name].weight * masks[name])
        assert relative(of_block(pruned, 0, data), dense) == pytest.approx(expected, rel=1e-3)
    assert record["error_learned"] < 0.9 * record["error_start"]


def test_the_next_block_sees_the_pruned_one_and_the_targets_differ() -> None:
    model = tiny_llama()
    own, dense = besa(model), besa(model, target="dense_path")
    assert own.details["blocks"][0]["error_start"] == dense.details["blocks"][0]["error_start"]
    behind = [found.details["blocks"][1]["error_start"] for found in (own, dense)]
    assert behind[0] < behind[1]  # what was lost before counts on the dense path only


def test_deterministic() -> None:
    found = [besa(tiny_llama(), per="row", quantise={"bits": 3}) for _ in range(2)]
    assert found[0].counts == found[1].counts
    assert all(torch.equal(rows, found[1].rows[name]) for name, rows in found[0].rows.items())
    assert all(torch.equal(values, found[1].values[name]) for name, values in found[0].values.items())


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("group", [None, 8])
def test_joint_quantisation_beats_pruning_then_rounding(bits: int, group: int | None) -> None:
    model = tiny_llama()
    found = besa(model, steps=30, quantise=Quantise(bits=bits, group=group))
    assert sum(found.counts.values()) == prune_count(sum(found.sizes.values()), 0.5)
    assert found.details["quantisation"] == {"bits": bits, "group": group}
    assert all(r["error_learned"] < 0.95 * r["error_start"] for r in found.details["blocks"][:1])
    layers = prunable_layers(model)
    for name, values in found.values.items():
        width = group or values.shape[1]
        assert all(len(part.unique()) <= 2**bits for part in values.reshape(-1, width))
        rounded = quantise(layers[name].weight, bits, group)
        assert values.shape == rounded.shape
        if ".0." in name:
            assert not torch.equal(values, rounded)  # the clipping moved


def test_joint_quantisation_beats_rounding_behind_learned_rates() -> None:
    model, data = tiny_llama(), batches()
    joint = besa(model, steps=40, quantise=Quantise(bits=3), learning_rate=0.05)
    alone = besa(model, steps=40, learning_rate=0.05)
    layers = {n: layer for n, layer in prunable_layers(model).items() if ".0." in n}
    evidence = Evidence(collect_norms(model, layers, data))
    masks = initial_masks("wanda", layers, {n: alone.counts[n] for n in layers}, evidence=evidence)
    dense, rounded = of_block(model, 0, data), tiny_llama()
    with torch.no_grad():
        for name, layer in prunable_layers(rounded).items():
            if name in masks:
                layer.weight.copy_(quantise(layer.weight, 3) * masks[name])
    assert joint.details["blocks"][0]["error_learned"] < relative(of_block(rounded, 0, data), dense)


def test_start_is_kept_where_nothing_is_gained() -> None:
    model = tiny_llama()
    found = besa(model, steps=0)
    assert {record["taken"] for record in found.details["blocks"]} == {"start"}
    assert set(found.rates.values()) == {0.5}
    assert all(not besa(model, s, steps=1, ceiling=1.0).values for s in (0.0, 1.0))


def test_prodigy() -> None:
    pytest.importorskip("prodigyopt")
    found = besa(tiny_llama(), optimiser="prodigy", learning_rate=None, steps=40)
    record = found.details["blocks"][0]
    assert record["error_learned"] < record["error_start"]


def test_between_blocks_by_alphapruning_and_owl() -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    observed = Observed(model, forward_of(model), batches())
    for between in ("alphapruning", "owl"):
        found = besa(model, between=between)
        outer = allocate(layers, 0.5, Besa(between=between).between, observed=observed)
        for at in range(2):
            names = [name for name in layers if f".{at}." in name]
            assert sum(found.counts[n] for n in names) == sum(outer.counts[n] for n in names)
        assert sum(found.counts.values()) == prune_count(sum(found.sizes.values()), 0.5)


class Answer(NamedTuple):
    states: Tensor
    extra: Tensor | None


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Answer:
        return Answer(x + self.linear(x).relu(), None)


class Named(nn.Module):
    """Blocks that answer with named tuples."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x).states
        return x


@pytest.mark.parametrize("target", ["pruned_path", "dense_path"])
def test_blocks_that_answer_with_named_tuples(target: Any) -> None:
    torch.manual_seed(0)
    model = Named()
    layers = prunable_layers(model, ("blocks.0.linear", "blocks.2.linear"))
    data = [torch.randn(2, 5, 8) for _ in range(2)]
    found = allocate(layers, 0.5, Besa(steps=4, target=target), observed=Observed(model, model, data))
    assert sum(found.counts.values()) == 64
    assert [record["block"] for record in found.details["blocks"]] == ["blocks.0", "blocks.2"]


@pytest.mark.parametrize(("floor", "ceiling"), [(0.3, 0.7), (0.0, 0.6), (0.45, 1.0)])
def test_rows_stay_within_their_bounds(floor: float, ceiling: float) -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    found = besa(model, per="row", floor=floor, ceiling=ceiling, steps=30)
    assert len({int(count) for rows in found.rows.values() for count in rows}) > 3
    for name, rows in found.rows.items():
        inputs = layers[name].shape[1]
        assert int(rows.min()) >= math.ceil(floor * inputs - 1e-9)
        assert int(rows.max()) <= math.floor(ceiling * inputs + 1e-9)


def test_only_some_layers() -> None:
    found = besa(tiny_llama(), include=("*.1.mlp.*", "lm_head"), quantise={"bits": 4})
    assert [record["block"] for record in found.details["blocks"]] == ["model.layers.1"]
    assert sum(found.counts.values()) == prune_count(sum(found.sizes.values()), 0.5)
    assert found.values.keys() == found.counts.keys()


def test_half_precision() -> None:
    found = besa(tiny_llama().to(torch.bfloat16), quantise={"bits": 4})
    assert {values.dtype for values in found.values.values()} == {torch.bfloat16}
    assert found.details["blocks"][0]["error_learned"] <= found.details["blocks"][0]["error_start"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda() -> None:
    model = tiny_llama().cuda()
    first, second = (besa(model, per="row", quantise={"bits": 4}) for _ in range(2))
    assert first.counts == second.counts
    assert sum(first.counts.values()) == prune_count(sum(first.sizes.values()), 0.5)


def test_refusals() -> None:
    mlp = tiny_mlp()
    with pytest.raises(InputError, match="Sequential has no stack of blocks"):
        allocate(prunable_layers(mlp), 0.5, Besa(), observed=Observed(mlp, mlp, [torch.ones(2, 6)]))
    model = tiny_llama()
    layers = prunable_layers(model)
    with pytest.raises(InputError, match="besa looks at calibration batches"):
        allocate(layers, 0.5, Besa())
    with pytest.raises(InputError, match="besa looks at calibration batches"):
        allocate(layers, 0.5, Besa(), observed=Observed(model, forward_of(model), []))
    with pytest.raises(InputError, match="none of the layers to prune is in a block"):
        besa(model, include=("lm_head",))
    with pytest.raises(InputError, match=r"q_proj' has 16 inputs, which 5 does not divide"):
        check(layers, 0.5, Besa(quantise=Quantise(bits=4, group=5)))
    with pytest.raises(InputError, match=r"at most 0\.4 of each part"):
        check(layers, 0.5, Besa(ceiling=0.4))
    with pytest.raises(InputError, match=r"at most 0\.9 of each part"):
        check(layers, 0.89, Besa(per="row", ceiling=0.9))  # 14 of 16
    with pytest.raises(InputError, match=r"weights of the rows of block model.layers.\d cannot be pruned"):
        besa(model, 0.87, per="row", ceiling=0.9, between={"method": "owl", "spread": 0.05})
