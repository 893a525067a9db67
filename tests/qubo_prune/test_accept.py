"""Bisection keeps what helps, undoes the rest to the bit, and says what it measured."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from qubo_prune.layers import prunable_layers
from qubo_prune.refine.accept import Decision, Swaps, keep_what_helps
from qubo_prune.state import PruneState

NAMES = ("0", "1", "2")


class Toy:
    """Three layers of 40 weights, the first 20 of each kept; flipping weight i adds worth[i]."""

    def __init__(self, worth: Tensor) -> None:
        self.model = nn.Sequential(*(nn.Linear(10, 4, bias=False) for _ in range(3)))
        self.layers = prunable_layers(self.model)
        masks = {name: torch.arange(40).reshape(4, 10) < 20 for name in NAMES}
        self.state = PruneState(self.model, self.layers, masks)
        self.start = {name: mask.clone() for name, mask in masks.items()}
        self.worth, self.measured = worth, 0

    def loss(self) -> float:
        self.measured += 1
        moved = torch.cat([(self.state.masks[n] ^ self.start[n]).reshape(-1) for n in NAMES])
        return 10.0 + float(self.worth[moved].sum())

    def swaps(self, per_layer: int) -> Swaps:
        each = torch.arange(per_layer)
        return Swaps.paired(NAMES, [each] * 3, [20 + each] * 3)

    def run(self, per_layer: int, most: int = 100) -> Decision:
        return keep_what_helps(self.state, self.swaps(per_layer), 10.0, self.loss, most)


def pairs(parts: list[Swaps]) -> set[tuple[str, int]]:
    return {(s.names[int(k)], int(i)) for s in parts for k, i in zip(s.from_layer, s.drop, strict=True)}


def test_a_good_step_is_kept_in_one_measurement() -> None:
    toy = Toy(torch.full((120,), -0.1))
    decision = toy.run(4)
    assert (decision.measurements, decision.swaps, decision.harmful) == (1, 12, [])
    assert decision.loss == pytest.approx(10 - 2.4)
    assert decision.full_change == pytest.approx(-2.4)


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("which", [0, 3, 7])
def test_one_harmful_swap_is_found_and_the_rest_kept(layer: int, which: int) -> None:
    worth = torch.full((120,), -0.01)
    worth[40 * layer + which] = 5.0
    toy = Toy(worth)
    decision = toy.run(8)
    assert pairs(decision.harmful) == {(NAMES[layer], which)}
    assert decision.swaps == 23
    assert decision.loss == pytest.approx(10 - 23 * 0.02)
    assert decision.full_change == pytest.approx(-23 * 0.02 - 0.01 + 5)
    assert decision.measurements <= 12  # two per halving, layers first
    assert decision.measurements == toy.measured
    kept = pairs(decision.kept)
    for name in NAMES:
        moved = (toy.state.masks[name] ^ toy.start[name]).reshape(-1).nonzero().reshape(-1).tolist()
        assert moved == sorted([i for n, i in kept if n == name] + [20 + i for n, i in kept if n == name])
        assert int(toy.state.masks[name].sum()) == 20


def test_out_of_measurements_the_untried_rest_is_undone() -> None:
    worth = torch.full((120,), -0.01)
    worth[:8] = 5.0
    toy = Toy(worth)
    decision = toy.run(8, most=3)
    assert decision.measurements == 3
    assert pairs(decision.kept) | pairs(decision.untried) == {(n, i) for n in NAMES for i in range(8)}
    assert not pairs(decision.kept) & pairs(decision.untried)
    assert not decision.harmful
    assert decision.loss == pytest.approx(toy.loss())


def test_a_step_that_only_harms_leaves_no_bit_changed() -> None:
    toy = Toy(torch.full((120,), 1.0))
    before = {name: layer.weight.clone() for name, layer in toy.layers.items()}
    decision = toy.run(4)
    assert (decision.swaps, decision.loss) == (0, 10.0)
    assert len(pairs(decision.harmful)) == 12
    assert all(torch.equal(layer.weight, before[name]) for name, layer in toy.layers.items())
    assert all(torch.equal(toy.state.masks[name], toy.start[name]) for name in NAMES)


def test_no_change_is_no_improvement() -> None:
    assert Toy(torch.zeros(120)).run(1).swaps == 0


def test_infinite_losses_are_refused() -> None:
    worth = torch.full((120,), -0.01)
    worth[0] = torch.inf
    decision = Toy(worth).run(2)
    assert pairs(decision.harmful) == {("0", 0)}


def test_nothing_to_try() -> None:
    toy = Toy(torch.zeros(120))
    decision = keep_what_helps(toy.state, toy.swaps(4).part(0, 0), 10.0, toy.loss, 5)
    assert (decision.swaps, decision.measurements, decision.loss) == (0, 0, 10.0)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_an_interruption_undoes_everything(at: int, error: type[BaseException]) -> None:
    worth = torch.full((120,), -0.01)
    worth[43] = 5.0
    toy = Toy(worth)

    def measure() -> float:
        if toy.measured == at - 1:
            raise error
        return toy.loss()

    with pytest.raises(error):
        keep_what_helps(toy.state, toy.swaps(8), 10.0, measure, 100)
    assert all(torch.equal(toy.state.masks[name], toy.start[name]) for name in NAMES)
    assert all(torch.equal(toy.layers[n].weight != 0, toy.start[n]) for n in NAMES)


def test_where_swaps_are_cut() -> None:
    def swaps(*layers: int) -> Swaps:
        n = torch.arange(len(layers))
        return Swaps(NAMES, torch.tensor(layers), n, torch.tensor(layers), n)

    assert swaps(0, 0, 0, 0).middle() == 2
    assert swaps(0, 1, 1, 1, 1, 1).middle() == 1
    assert swaps(0, 0, 1, 1, 1, 2).middle() == 2
    flips = swaps(0, 2, 2).flips()
    assert {n: i.tolist() for n, i in flips.items()} == {"0": [0, 0], "2": [1, 2, 1, 2]}


@given(
    drops=st.lists(st.integers(0, 5), min_size=3, max_size=3),
    adds=st.lists(st.integers(0, 5), min_size=3, max_size=3),
)
def test_pairs_within_layers_first(drops: list[int], adds: list[int]) -> None:
    """Every flip is in one swap; as many swaps as can be stay in their layer; in the order of the layers."""
    surplus = sum(drops) - sum(adds)
    drops[0], adds[0] = drops[0] + max(0, -surplus), adds[0] + max(0, surplus)
    swaps = Swaps.paired(NAMES, [torch.arange(n) for n in drops], [100 + torch.arange(n) for n in adds])
    assert len(swaps) == sum(drops)
    flips = {name: sorted(index.tolist()) for name, index in swaps.flips().items()}
    numbers = zip(NAMES, drops, adds, strict=True)
    expected = {name: [*range(d), *range(100, 100 + a)] for name, d, a in numbers if d + a}
    assert flips == expected
    layers = list(zip(swaps.from_layer.tolist(), swaps.to_layer.tolist(), strict=True))
    assert layers == sorted(layers)
    assert sum(a == b for a, b in layers) == sum(map(min, drops, adds))
    assert swaps.by_layer() == {name: d for name, d in zip(NAMES, drops, strict=True) if d}
    if len(swaps) > 1:
        assert 0 < swaps.middle() < len(swaps)


@pytest.mark.parametrize("most", [1, 2, 3, 5, 100])
@pytest.mark.parametrize("seed", range(8))
def test_swaps_between_layers_keep_the_total_at_every_state(most: int, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    toy = Toy(torch.randn(120, generator=g))
    drops = [torch.randperm(20, generator=g)[:n] for n in (7, 1, 4)]
    adds = [20 + torch.randperm(20, generator=g)[:n] for n in (2, 9, 1)]
    totals, counts = set(), set()

    def measure() -> float:
        kept = [int(toy.state.masks[name].sum()) for name in NAMES]
        totals.add(sum(kept))
        counts.add(tuple(kept))
        return toy.loss()

    decision = keep_what_helps(toy.state, Swaps.paired(NAMES, drops, adds), 10.0, measure, most)
    assert decision.loss == pytest.approx(measure())
    assert totals == {60}
    assert (15, 28, 17) in counts  # all at once
    assert decision.swaps + sum(map(len, decision.harmful + decision.untried)) == 12
