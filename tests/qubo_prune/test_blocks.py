"""Candidates, fixed fractions and the tabu list, each against a naive version of itself."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qubo_prune.blocks import Block, Boundary, TabuList, paper_candidates
from qubo_prune.refine.pairs import Pairs, best_pairs, block_of_pairs, by_side
from qubo_prune.refine.schedule import all_layers, one_layer


def layer(rows: int, columns: int, seed: int, ties: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """(scores, keep, free) of one layer."""
    g = torch.Generator().manual_seed(seed)
    score = torch.rand(rows, columns, generator=g)
    if ties:
        score = (score * 4).round()
    keep = torch.rand(rows, columns, generator=g) < torch.rand(1, generator=g)
    return score, keep, torch.rand(rows, columns, generator=g) < 0.7


# -- blocks --------------------------------------------------------------------------------------------


def test_a_block_gathers_and_splits() -> None:
    block = Block({"a": torch.tensor([0, 5]), "b": torch.tensor([1, 2, 3])})
    tensors = {
        "a": torch.arange(6.0).reshape(2, 3),
        "b": 10 + torch.arange(4.0).reshape(2, 2),
        "c": torch.ones(1),
    }
    values = block.gather(tensors)
    assert (block.size, values.tolist()) == (5, [0, 5, 11, 12, 13])
    assert block.groups().tolist() == [0, 0, 1, 1, 1]
    assert Block(block.indices, "global").groups().tolist() == [0] * 5
    assert Block(block.indices, {"a": 3, "b": 2}).groups().tolist() == [0, 1, 2, 3, 3]
    assert {n: v.tolist() for n, v in block.split(values).items()} == {"a": [0, 5], "b": [11, 12, 13]}
    assert Block({}).size == 0


# -- fixed fractions -----------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 30),
    seed=st.integers(0, 10**6),
    pruned=st.sampled_from([0.0, 0.1, 0.35, 0.42, 0.5, 0.9]),
    kept=st.sampled_from([0.0, 0.1, 0.35, 0.42, 0.5, 0.9]),
)
def test_fixed_fractions(rows: int, columns: int, seed: int, pruned: float, kept: float) -> None:
    """Row by row: of m pruned weights the floor(0.42 m) lowest are fixed, of the kept the highest."""
    score, keep, _ = layer(rows, columns, seed)
    free = Boundary({"a": score}, {"a": keep}, pruned, kept).free("a", keep)
    for r in range(rows):
        for side, share, highest in ((False, pruned, False), (True, kept, True)):
            members = [c for c in range(columns) if bool(keep[r, c]) == side]
            members.sort(key=lambda c, r=r: float(score[r, c]), reverse=highest)
            fixed = members[: math.floor(share * len(members) + 1e-9)]
            assert [c for c in members if not free[r, c]] == fixed


def test_the_papers_fractions_on_round_numbers() -> None:
    """Of 100 pruned 42 are fixed, of 100 kept 35: to the weight."""
    score = torch.rand(3, 200, generator=torch.Generator().manual_seed(0))
    keep = torch.arange(200).expand(3, 200) % 2 == 0
    free = Boundary({"a": score}, {"a": keep}, 0.42, 0.35).free("a", keep)
    assert (free & ~keep).sum(1).tolist() == [58] * 3
    assert (free & keep).sum(1).tolist() == [65] * 3


def test_ties_at_the_threshold_are_free() -> None:
    score, keep = torch.ones(2, 10), torch.arange(10).expand(2, 10) < 5
    assert Boundary({"a": score}, {"a": keep}, 0.5, 0.5).free("a", keep).all()


def test_thresholds_stay_those_of_the_first_mask() -> None:
    score = torch.arange(10.0)[None]
    keep = score >= 5
    boundary = Boundary({"a": score}, {"a": keep}, 0.4, 0.4)
    moved = keep.clone()
    moved[0, [4, 5]] = ~moved[0, [4, 5]]
    assert (~boundary.free("a", moved)).nonzero()[:, 1].tolist() == [0, 1, 8, 9]
    every = torch.ones_like(keep)  # a row that had no pruned weight fixes none that comes later
    assert Boundary({"a": score}, {"a": every}, 0.4, 0.0).free("a", keep).all()


# -- the tabu list -------------------------------------------------------------------------------------


def test_tabu_entries_expire() -> None:
    tabu = TabuList()
    tabu.add({"a": torch.tensor([0, 1]), "b": torch.tensor([], dtype=torch.int64)}, until=2)
    tabu.add({"a": torch.tensor([2])}, until=4)
    tabu.add({"b": torch.tensor([3])}, until=math.inf)

    def free(name: str) -> list[int]:
        return tabu.block(name, torch.ones(2, 2, dtype=torch.bool)).reshape(-1).nonzero().reshape(-1).tolist()

    seen = []
    for step in (2, 3, 4, 5, 1000):
        tabu.expire(step)
        seen.append((free("a"), free("b"), tabu.size()))
    assert seen[0] == ([3], [0, 1, 2], 4)
    assert seen[1] == seen[2] == ([0, 1, 3], [0, 1, 2], 2)
    assert seen[3] == seen[4] == ([0, 1, 2, 3], [0, 1, 2], 1)
    assert free("unknown") == [0, 1, 2, 3]


def test_oldest_entries_are_dropped_first() -> None:
    tabu = TabuList()
    for i in range(4):
        tabu.add({"a": torch.tensor([2 * i, 2 * i + 1])}, until=math.inf)
    tabu.drop_oldest("a", 5)
    tabu.drop_oldest("b", 0)
    assert tabu.size() == 4
    assert tabu.block("a", torch.ones(8, dtype=torch.bool)).tolist() == [True] * 4 + [False] * 4


# -- pairs ---------------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 8),
    seed=st.integers(0, 10**6),
    most=st.integers(1, 12),
    ties=st.booleans(),
)
def test_best_pairs(rows: int, columns: int, seed: int, most: int, ties: bool) -> None:
    cost, keep, free = layer(rows, columns, seed, ties)
    cost = cost - cost.mean()
    cost[torch.rand(cost.shape, generator=torch.Generator().manual_seed(seed)) < 0.1] = torch.inf
    found = best_pairs(cost, keep, free, most)
    flat = cost.reshape(-1).tolist()
    drops = sorted(flat[i] for i in range(len(flat)) if keep.reshape(-1)[i] and free.reshape(-1)[i])
    adds = sorted(flat[i] for i in range(len(flat)) if not keep.reshape(-1)[i] and free.reshape(-1)[i])
    expected = [a + b for a, b in zip(drops, adds, strict=False) if a + b < 0][:most]
    assert found.cost.tolist() == pytest.approx(expected)
    drop, add = found.drop, found.add
    assert len(set(drop.tolist()) | set(add.tolist())) == 2 * len(expected)
    assert keep.reshape(-1)[drop].all()
    assert not keep.reshape(-1)[add].any()
    assert free.reshape(-1)[torch.cat([drop, add])].all()
    assert (cost.reshape(-1)[drop] + cost.reshape(-1)[add]).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("most", [1, 500, 40_000, 200_000])
@pytest.mark.parametrize("open_share", [0.5, 0.001])
def test_best_pairs_of_a_large_layer(most: int, open_share: float) -> None:
    """Where a bound is guessed from a sample, the answer is that of sorting everything."""
    g = torch.Generator().manual_seed(most)
    cost = torch.randn(400, 600, generator=g)
    keep, free = torch.rand(400, 600, generator=g) < 0.5, torch.rand(400, 600, generator=g) < open_share
    found = best_pairs(cost, keep, free, most)
    drops, adds = cost[keep & free].sort().values, cost[~keep & free].sort().values
    m = min(len(drops), len(adds), most)
    total = drops[:m] + adds[:m]
    assert torch.equal(found.cost, total[total < 0])
    assert (keep & free).reshape(-1)[found.drop].all()
    assert (~keep & free).reshape(-1)[found.add].all()


@given(
    sizes=st.lists(st.integers(0, 8), min_size=1, max_size=4),
    seed=st.integers(0, 10**6),
    largest=st.one_of(st.none(), st.integers(2, 40)),
    ties=st.booleans(),
)
def test_block_of_pairs(sizes: list[int], seed: int, largest: int | None, ties: bool) -> None:
    """The cheapest pairs of all layers together, both weights of each, indices ascending."""
    g = torch.Generator().manual_seed(seed)
    pairs = {}
    for i, size in enumerate(sizes):
        order = torch.randperm(100, generator=g)
        cost = -torch.rand(size, generator=g).sort(descending=True).values
        pairs[str(i)] = Pairs(order[:size], order[size : 2 * size], (cost * 3).round() if ties else cost)
    block = block_of_pairs(pairs, largest)
    every = sorted(float(c) for p in pairs.values() for c in p.cost)
    room = len(every) if largest is None else min(len(every), largest // 2)
    assert block.size == 2 * room
    taken = []
    for name, index in block.indices.items():
        p, k = pairs[name], len(index) // 2
        assert k > 0
        assert index.tolist() == sorted(p.drop[:k].tolist() + p.add[:k].tolist())
        taken += p.cost[:k].tolist()
    assert sorted(taken) == pytest.approx(every[:room])


# -- the paper's candidates ----------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["gradient", "wanda", "random"])
def test_paper_candidates(criterion: str) -> None:
    score, keep, free = layer(20, 30, 1)
    g = torch.Generator().manual_seed(0)
    index = paper_candidates(score, keep, free, 100, 40, g, criterion)
    flat_keep = keep.reshape(-1)
    assert index.tolist() == sorted(set(index.tolist()))
    assert (len(index), int((~flat_keep[index]).sum())) == (100, 40)
    assert free.reshape(-1)[index].all()
    if criterion != "random":
        flat = score.reshape(-1)
        for side, count, highest in ((False, 40, True), (True, 60, False)):
            members = [i for i in range(600) if bool(flat_keep[i]) == side and free.reshape(-1)[i]]
            members.sort(key=lambda i: float(flat[i]), reverse=highest)
            assert sorted(members[:count]) == [i for i in index.tolist() if bool(flat_keep[i]) == side]
    again = paper_candidates(score, keep, free, 100, 40, torch.Generator().manual_seed(0), criterion)
    other = paper_candidates(score, keep, free, 100, 40, torch.Generator().manual_seed(1), criterion)
    assert torch.equal(index, again)
    assert torch.equal(index, other) == (criterion != "random")


def test_paper_candidates_where_a_side_is_short() -> None:
    score, keep = torch.rand(4, 5), torch.ones(4, 5, dtype=torch.bool)
    keep[0, :3] = False
    index = paper_candidates(score, keep, torch.ones_like(keep), 12, 6, torch.Generator(), "wanda")
    assert int((~keep.reshape(-1)[index]).sum()) == 3
    assert len(index) == 9
    nothing = paper_candidates(score, keep, torch.zeros_like(keep), 12, 6, torch.Generator(), "wanda")
    assert len(nothing) == 0


# -- schedules -----------------------------------------------------------------------------------------


def test_one_layer_schedule_shares_an_epoch_by_log10_with_at_least_ten() -> None:
    sizes = {"huge": 10**8, "large": 10**6, "small": 10**4, "one": 1}
    schedule = one_layer(sizes, 3000, seed=0)
    epoch = [next(schedule)[0] for _ in range(300)]
    counts = {name: epoch.count(name) for name in sizes}
    total = 8 + 6 + 4 + 1
    assert counts == {name: round(300 * w / total) for name, w in zip(sizes, (8, 6, 4, 1), strict=True)}
    assert epoch[:20] != sorted(epoch[:20])
    many = {str(i): 10 ** (1 + i % 8) for i in range(100)}
    schedule = one_layer(many, 10**6, seed=0)
    epoch = [next(schedule)[0] for _ in range(1000)]
    assert {epoch.count(name) for name in many} == {10}
    few = {"tiny": 10, "huge": 10**100}
    schedule = one_layer(few, 10**6, seed=0)
    epoch = [next(schedule)[0] for _ in range(300)]
    assert (epoch.count("tiny"), epoch.count("huge")) == (10, 290)


def test_small_budgets_visit_every_layer_once() -> None:
    schedule = one_layer({str(i): 10 ** (i + 1) for i in range(7)}, 7, seed=3)
    assert sorted(next(schedule)[0] for _ in range(7)) == [str(i) for i in range(7)]


def test_schedules_repeat_for_the_same_seed() -> None:
    sizes = {"a": 100, "b": 1000}
    draws = [[next(s)[0] for _ in range(50)] for s in (one_layer(sizes, 50, seed) for seed in (0, 0, 1))]
    assert draws[0] == draws[1] != draws[2]
    assert next(all_layers(sizes)) == ("a", "b")


def test_costs_by_side() -> None:
    """What may not move costs inf on both sides, to the bit what torch.where gives."""
    g = torch.Generator().manual_seed(0)
    cost, keep, free = torch.randn(6, 9, generator=g), *(torch.rand(2, 6, 9, generator=g) > 0.4)
    cost[0, :4] = torch.inf
    drop, add = by_side(cost, keep, free)
    assert torch.equal(drop, torch.where(keep & free, cost, torch.inf))
    assert torch.equal(add, torch.where(~keep & free, cost, torch.inf))
