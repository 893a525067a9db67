"""Rows in groups with moments of their own: moments and errors against explicit sums, and every method
against problems in which weights and prices are written into the data."""

from typing import Any

import pytest
import torch
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_prune.initial.sparsegpt import SparseGPT, sparsegpt
from qubo_prune.layerwise import LayerMethod
from qubo_prune.reconstruct.admm import Admm, admm
from qubo_prune.reconstruct.least_squares import LeastSquares, least_squares
from qubo_prune.refine.exchange import exchange
from qubo_prune.refine.rows import Rows, row_batch
from qubo_prune.selection import keep_topk
from qubo_prune.statistics.paths import PathEvidence, PathMoments
from qubo_prune.statistics.row_groups import GroupedEvidence

OUT, IN, FIT, ALL = 10, 16, 300, 400
GROUPS = [slice(0, 3), slice(3, 6), slice(6, 10)]


class Problem:
    """A layer, its inputs on two paths, weights of positions for each group of rows, and prices of rows."""

    def __init__(self, seed: int = 0, drift: bool = True) -> None:
        g = torch.Generator().manual_seed(seed)
        mix = torch.randn(IN, IN, generator=g) + 2 * torch.eye(IN)
        self.x = torch.randn(ALL, IN, generator=g) @ mix
        self.e = 0.1 * torch.randn(ALL, IN, generator=g) @ mix if drift else None
        self.s = torch.randn(len(GROUPS), ALL, generator=g).square() * 1e-3
        self.prices = 0.1 + torch.rand(OUT, generator=g)
        self.original = torch.randn(OUT, IN, generator=g)
        self.mask = keep_topk(self.original.abs(), OUT * IN // 2, "output")
        self.weight = self.original * self.mask

    def moments(self, s: Tensor | None, part: slice) -> PathMoments:
        found = PathMoments()
        for half in torch.arange(ALL)[part].chunk(2):
            e = None if self.e is None else self.e[half]
            found.add(self.x[half], e, None if s is None else s[half])
        return found

    def evidence(self) -> GroupedEvidence:
        parts = [
            PathEvidence(
                self.original[rows], self.moments(s, slice(0, FIT)), self.moments(s, slice(FIT, ALL))
            )
            for rows, s in zip(GROUPS, self.s, strict=True)
        ]
        return GroupedEvidence(self.original, list(zip(GROUPS, parts, strict=True)), self.prices)

    def target(self) -> Tensor:
        """(ALL, IN) float64 x_t."""
        return self.x.double() + (0 if self.e is None else self.e.double())


@pytest.mark.parametrize("drift", [False, True])
def test_moments_and_errors_are_weighted_sums(drift: bool) -> None:
    problem = Problem(drift=drift)
    evidence, x, xt = problem.evidence(), problem.x.double(), problem.target()
    assert evidence.tokens == FIT
    expected = torch.zeros(OUT, dtype=torch.float64)
    energy = torch.zeros(OUT, dtype=torch.float64)
    other = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(3))
    for (rows, part), s in zip(evidence.groups, problem.s.double(), strict=True):
        a, w = x[:FIT], s[:FIT, None] / s[:FIT].sum()
        torch.testing.assert_close(part.gram().double(), a.T @ (w * a), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(part.cross().double(), a.T @ (w * xt[:FIT]), rtol=1e-4, atol=1e-4)
        assert torch.equal(part.gram(), part.gram().t())
        held = s[FIT:, None] / s[FIT:].sum()
        gap = x[FIT:] @ other[rows].double().T - xt[FIT:] @ problem.original[rows].double().T
        expected[rows] = (held * gap.square()).sum(0)
        energy[rows] = (held * (x[FIT:] @ problem.original[rows].double().T).square()).sum(0)
    torch.testing.assert_close(evidence.errors(other), expected, rtol=1e-4, atol=1e-6)
    assert evidence.error(other) == pytest.approx(float((expected * problem.prices).sum()), rel=1e-4)
    assert evidence.energy() == pytest.approx(float((energy * problem.prices).sum()), rel=1e-4)


def test_equal_weights_are_none() -> None:
    problem = Problem()
    plain, even = (
        problem.moments(None, slice(0, FIT)),
        problem.moments(torch.full((ALL,), 0.25), slice(0, FIT)),
    )
    for left, right in ((plain.xx, even.xx), (plain.xe, even.xe), (plain.ee, even.ee)):
        assert left is not None
        assert right is not None
        torch.testing.assert_close(left / plain.total, right / even.total, rtol=1e-5, atol=1e-6)
    assert even.tokens == plain.tokens == plain.total == FIT
    nothing = PathMoments()
    nothing.add(problem.x, None, torch.zeros(ALL))
    assert nothing.total == 1.0


def test_one_group_is_asked_directly_and_several_are_not() -> None:
    problem = Problem()
    several = problem.evidence()
    for question in (several.gram, several.drift, several.cross):
        with pytest.raises(InputError, match="3 groups with moments of their own: take them from each"):
            question()
    one = PathEvidence(problem.original, problem.moments(problem.s[0], slice(0, ALL)))
    grouped = GroupedEvidence(problem.original, [(slice(0, OUT), one)], problem.prices)
    assert torch.equal(grouped.gram(), one.gram())
    assert torch.equal(grouped.cross(), one.cross())
    assert one.groups == [(slice(0, OUT), one)]
    assert one.prices is None


@pytest.mark.parametrize("drift", [False, True])
def test_weighted_least_squares_is_lstsq_of_rows_times_the_root(drift: bool) -> None:
    problem = Problem(drift=drift)
    xt = problem.target()[:FIT]
    for (rows, part), s in zip(problem.evidence().groups, problem.s.double(), strict=True):
        root = s[:FIT, None].sqrt()
        z = least_squares(
            problem.weight[rows], problem.mask[rows], part.original, part.gram(), part.drift(),
            solver="cholesky",
        )  # fmt: skip
        for row in range(rows.start, rows.stop):
            support = problem.mask[row]
            y = root * (xt @ problem.original[row].double())[:, None]
            expected = torch.linalg.lstsq(root * problem.x[:FIT, support].double(), y).solution[:, 0]
            found = (problem.weight[row] + z[row - rows.start])[support].double()
            torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3)


def test_least_squares_goes_by_the_weighted_error() -> None:
    problem = Problem()
    evidence = problem.evidence()
    change = LeastSquares((1e-4,), solver="cholesky")("a", problem.weight, problem.mask, evidence)
    assert change.values is not None
    assert evidence.error(change.values) < evidence.error(problem.weight)
    for rows, part in evidence.groups:
        alone = LeastSquares((1e-4,), solver="cholesky")("a", problem.weight[rows], problem.mask[rows], part)
        assert alone.values is not None
        torch.testing.assert_close(change.values[rows], alone.values)


@pytest.mark.parametrize("granularity", ["layer", "output", "input"])
@pytest.mark.parametrize("n_prune", [0, 1, 37, 80, 160])
def test_budgets_over_groups_are_exact(granularity: Any, n_prune: int) -> None:
    problem = Problem()
    evidence = problem.evidence()
    grams = [part.gram() for _, part in evidence.groups]
    crosses = [part.cross() for _, part in evidence.groups]
    rows: dict[str, Any] = {"groups": GROUPS, "prices": problem.prices}
    for weight in (problem.original, torch.ones(OUT, IN), torch.zeros(OUT, IN)):
        sparse = sparsegpt(weight, grams, n_prune, granularity, block=5, **rows)
        values, kept = admm(weight, grams, crosses, n_prune, granularity, **rows)
        assert not sparse.values[~sparse.mask].any()
        assert not values[~kept].any()
        for mask in (sparse.mask, kept):
            assert int((~mask).sum()) == n_prune
            if granularity != "layer":
                counts = mask.sum(1 if granularity == "output" else 0)
                assert int(counts.max() - counts.min()) <= 1


@pytest.mark.parametrize("granularity", ["layer", "output", "input"])
def test_prices_are_rows_times_their_roots(granularity: Any) -> None:
    """price |w x - T x|^2 is the error of a row that is sqrt(price) as long."""
    problem = Problem()
    evidence, root = problem.evidence(), problem.prices.sqrt()[:, None]
    grams = [part.gram() for _, part in evidence.groups]
    crosses = [part.cross() for _, part in evidence.groups]
    priced = sparsegpt(problem.original, grams, 70, granularity, groups=GROUPS, prices=problem.prices)
    longer = sparsegpt(problem.original * root, grams, 70, granularity, groups=GROUPS)
    assert torch.equal(priced.mask, longer.mask)
    torch.testing.assert_close(priced.values * root, longer.values, rtol=1e-3, atol=1e-4)
    values, kept = admm(
        problem.original, grams, crosses, 70, granularity, groups=GROUPS, prices=problem.prices
    )
    found, mask = admm(problem.original * root, grams, crosses, 70, granularity, groups=GROUPS)
    assert torch.equal(kept, mask)
    torch.testing.assert_close(values * root, found, rtol=1e-3, atol=1e-4)
    if granularity == "layer":
        unpriced = sparsegpt(problem.original, grams, 70, granularity, groups=GROUPS)
        assert not torch.equal(priced.mask, unpriced.mask)


def test_groups_of_the_same_moments_are_one_and_groups_alone_are_themselves() -> None:
    problem = Problem()
    evidence = problem.evidence()
    grams = [part.gram() for _, part in evidence.groups]
    crosses = [part.cross() for _, part in evidence.groups]
    same = sparsegpt(problem.original, [grams[0]] * 3, 75, groups=GROUPS, block=5)
    plain = sparsegpt(problem.original, grams[0], 75, block=5)
    assert torch.equal(same.mask, plain.mask)
    torch.testing.assert_close(same.values, plain.values)
    both = admm(problem.original, [grams[0]] * 3, [crosses[0]] * 3, 75, groups=GROUPS)
    once = admm(problem.original, grams[0], crosses[0], 75)
    assert torch.equal(both[1], once[1])
    torch.testing.assert_close(both[0], once[0])
    for pattern in (None, (2, 4)):
        joint = sparsegpt(problem.original, grams, 80, "output", groups=GROUPS, pattern=pattern)
        for rows, gram in zip(GROUPS, grams, strict=True):
            count = 8 * (rows.stop - rows.start)
            alone = sparsegpt(problem.original[rows], gram, count, "output", pattern=pattern)
            assert torch.equal(joint.mask[rows], alone.mask)
            torch.testing.assert_close(joint.values[rows], alone.values)
    values, kept = admm(problem.original, grams, crosses, 80, groups=GROUPS, gradual=1)
    for rows, gram, cross in zip(GROUPS, grams, crosses, strict=True):
        found, mask = admm(problem.original[rows], gram, cross, 8 * (rows.stop - rows.start), gradual=1)
        assert torch.equal(kept[rows], mask)
        torch.testing.assert_close(values[rows], found)


@pytest.mark.parametrize(
    "method",
    [Rows(), Rows("anneal", "layer"), Rows(patterns={"a": (2, 4)}), Admm(), Admm(granularity="layer")],
)
def test_methods_keep_counts_and_lower_the_weighted_error(method: LayerMethod) -> None:
    problem = Problem()
    if isinstance(method, Rows) and method.patterns:
        problem.mask = torch.tensor([True, True, False, False]).repeat(OUT, IN // 4)
        problem.weight = problem.original * problem.mask
    evidence = problem.evidence()
    change = method("a", problem.weight, problem.mask, evidence)
    assert change.mask is not None
    assert int(change.mask.sum()) == OUT * IN // 2
    values = problem.original * change.mask if change.values is None else change.values
    assert evidence.error(values) < evidence.error(problem.weight)
    if method == Rows():
        assert torch.equal(change.mask.sum(1), problem.mask.sum(1))
    if isinstance(method, Rows) and method.patterns:
        assert bool((change.mask.reshape(OUT, -1, 4).sum(2) == 2).all())


def test_sparsegpt_as_a_method() -> None:
    problem = Problem()
    change = SparseGPT({"a": 81})("a", problem.original, problem.mask, problem.evidence())
    assert change.mask is not None
    assert int((~change.mask).sum()) == 81


def test_exchange_over_groups_goes_by_prices() -> None:
    problem = Problem(drift=False)
    problem.prices = torch.where(torch.arange(OUT) < 5, 1.9, 0.1)
    evidence, pruned = problem.evidence(), ~problem.mask
    batches = [
        row_batch(part.original, problem.mask[rows], part.original, part.gram(), prices=problem.prices[rows])
        for rows, part in evidence.groups
    ]
    found = exchange(batches, pruned, 0.0)
    assert int(found.pruned.sum()) == int(pruned.sum())
    assert found.moved > 0
    assert found.energy < 0
    energies = [float(b.energies(found.pruned[r]).sum()) for b, r in zip(batches, GROUPS, strict=True)]
    assert found.energy == pytest.approx(sum(energies), rel=1e-6)
    for (rows, part), batch in zip(evidence.groups, batches, strict=True):
        there = PathEvidence(part.original, part.fit)
        change = there.errors(part.original * ~found.pruned[rows]) - there.errors(problem.weight[rows])
        expected = batch.energies(found.pruned[rows])
        torch.testing.assert_close(expected, change * problem.prices[rows], rtol=1e-3, atol=1e-3)
    counts = found.pruned.sum(1).double()
    assert float(counts[5:].mean()) > float(counts[:5].mean()) + 1


def test_exchange_over_groups_of_the_same_moments_is_that_of_one() -> None:
    problem = Problem(drift=False)
    gram = problem.evidence().groups[0][1].gram()
    whole = row_batch(problem.original, problem.mask, problem.original, gram)
    parts = [row_batch(problem.original[r], problem.mask[r], problem.original[r], gram) for r in GROUPS]
    one, several = exchange([whole], ~problem.mask, 0.0), exchange(parts, ~problem.mask, 0.0)
    assert one.moved == several.moved > 0
    assert torch.equal(one.pruned, several.pruned)
    assert one.energy == pytest.approx(several.energy, rel=1e-5)
