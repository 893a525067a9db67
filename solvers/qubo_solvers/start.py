"""Feasible starts and repair: greedy, random, and the feasible assignment near a given one.

All three are sorts over the whole problem, O(n log n + rank n), with no loop over variables or groups.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qubo_solvers.problem import Assignment, CardinalityQubo
from qubo_solvers.quadratic_form import Float


def greedy_start(problem: CardinalityQubo) -> Assignment:
    """The best assignment of the problem without its couplings: linear + diag(Q) sorted within each group.

    Optimal for `problem.linear_part()` where there is no radius. With one, the differences from the reference
    that gain most are kept, as far as the radius allows. Returns (n,) uint8, always feasible.
    """
    values = problem.linear + problem.quadratic.diagonal()
    return _within_radius(problem, lowest(problem, values), values, only_gains=True)


def lowest(problem: CardinalityQubo, cost: Float) -> Assignment:
    """The assignment of least cost'x under the counts, (n,) uint8; a radius is not looked at."""
    lower, upper = problem.lower.astype(np.float64), problem.upper.astype(np.float64)
    return _lowest(problem, cost, lower, upper, wanted=cost < 0)


def random_start(problem: CardinalityQubo, rng: np.random.Generator) -> Assignment:
    """A random feasible assignment, (n,) uint8: counts uniform in their interval, members uniform given them,
    free variables fair coins; with a radius, a random part of the differences from the reference."""
    counts = rng.integers(problem.lower, problem.upper + 1).astype(np.float64)
    keys = rng.random(problem.n)
    x = _lowest(problem, keys, counts, counts, wanted=keys < 0.5)
    return _within_radius(problem, x, rng.random(problem.n) * (2.0 * x - 1.0))


def repair(problem: CardinalityQubo, x: ArrayLike) -> Assignment:
    """A feasible assignment near x, (n,) uint8; x itself (a copy) where it is feasible.

    Counts first: the fewest flips, each group's cheapest by the fields of x. Then the radius: differences
    from the reference are undone, the least valuable first and no more than needed, keeping the counts.
    Raises ValueError where x has not n entries of zero and one.
    """
    v = as_assignment(problem, x)
    if problem.is_feasible(v):
        return v
    fields = problem.fields(v)
    counts = problem.counts(v)
    inside = problem.groups >= 0
    if problem.n_groups:
        surplus = np.where(inside, np.maximum(counts - problem.upper, 0)[problem.groups], 0)
        short = np.where(inside, np.maximum(problem.lower - counts, 0)[problem.groups], 0)
        drop = np.flatnonzero((surplus > 0) & (v == 1))
        add = np.flatnonzero((short > 0) & (v == 0))
        drop = drop[_rank(problem.groups[drop], -fields[drop]) < surplus[drop]]
        add = add[_rank(problem.groups[add], fields[add]) < short[add]]
        v[drop] = 0
        v[add] = 1
    return _within_radius(problem, v, fields)


def half_way(problem: CardinalityQubo, a: Assignment, b: Assignment, rng: np.random.Generator) -> Assignment:
    """A feasible assignment between two such: what both share and a random half of the rest, (n,) uint8.

    With exact counts: of each group's additions and removals half each, so that only a radius needs repair.
    """
    apart = np.flatnonzero(a != b)
    x = a.copy()
    if problem.exact_counts:
        kind = (2 * problem.groups[apart] + a[apart]).astype(np.int32)
        rank = _rank(kind, rng.random(len(apart)))
        taken = apart[rank < np.bincount(kind)[kind] // 2]
    else:
        taken = apart[rng.random(len(apart)) < 0.5]
    x[taken] = b[taken]
    return repair(problem, x)


def starting_point(problem: CardinalityQubo, initial: ArrayLike | None) -> Assignment:
    """Where a solver begins: the initial assignment, repaired where it must be, else the greedy start."""
    return greedy_start(problem) if initial is None else repair(problem, initial)


def as_assignment(problem: CardinalityQubo, x: ArrayLike, what: str = "assignment") -> Assignment:
    """x as a fresh (n,) uint8 array. Raises ValueError where it is not n zeros and ones."""
    v = np.asarray(x)
    if v.shape != (problem.n,):
        raise ValueError(f"{what} must have shape ({problem.n},), got {v.shape}")
    if not ((v == 0) | (v == 1)).all():
        raise ValueError(f"{what} must hold only zeros and ones")
    return v.astype(np.uint8)


def _rank(groups: NDArray[np.int32], values: Float) -> NDArray[np.int64]:
    """The position of each entry among its group's when these are sorted by value (ties by index)."""
    order = np.lexsort((values, groups))
    sorted_groups = groups[order]
    first = np.ones(len(order), bool)
    first[1:] = sorted_groups[1:] != sorted_groups[:-1]
    position = np.arange(len(order))
    begin = np.maximum.accumulate(np.where(first, position, 0))
    rank = np.empty(len(order), np.int64)
    rank[order] = position - begin
    return rank


def _lowest(
    problem: CardinalityQubo, values: Float, lower: Float, upper: Float, wanted: NDArray[np.bool_]
) -> Assignment:
    """Ones at each group's `lower` lowest values, at `wanted` ones up to `upper`, and at wanted free ones."""
    x = wanted & (problem.groups < 0)
    inside = np.flatnonzero(problem.groups >= 0)
    if len(inside):
        g = problem.groups[inside]
        rank = _rank(g, values[inside])
        x[inside] = (rank < lower[g]) | ((rank < upper[g]) & wanted[inside])
    return x.astype(np.uint8)


def _within_radius(
    problem: CardinalityQubo, x: Assignment, fields: Float, only_gains: bool = False
) -> Assignment:
    """x, whose counts are feasible, moved back to the reference until the radius holds.

    A difference is worth `fields` times its direction. In each group they fall into units: those the counts
    need (the reference may violate them), then pairs of an added and a removed one (cost 2), then single ones
    of the same direction (cost 1). Every choice of pairs and singles keeps the counts: they end between those
    of the needed units alone and those of x, both feasible. Units are kept best value per flip first;
    `only_gains` lets a cut drop units that gain nothing.
    """
    if problem.radius is None or problem.reference is None or problem.distance(x) <= problem.radius:
        return x
    reference = problem.reference
    changed = np.flatnonzero(x != reference)
    added = x[changed] == 1
    value = np.where(added, fields[changed], -fields[changed])
    group = problem.groups[changed]
    free = group < 0
    rank = _rank((2 * group + added).astype(np.int32), value)
    n_added = np.bincount(group[added & ~free], minlength=problem.n_groups)
    n_removed = np.bincount(group[~added & ~free], minlength=problem.n_groups)
    before = problem.counts(reference)
    short, surplus = np.maximum(problem.lower - before, 0), np.maximum(before - problem.upper, 0)
    needed = np.zeros(len(changed), np.int64)
    pairs = np.zeros(len(changed), np.int64)
    if problem.n_groups:
        n_pairs = np.minimum(n_added - short, n_removed - surplus)
        needed = np.where(free, 0, np.where(added, short[group], surplus[group]))
        pairs = np.where(free, 0, n_pairs[group])
    is_needed = rank < needed
    is_pair = ~is_needed & (rank < needed + pairs)
    keep = is_needed.copy()
    budget = problem.radius - int(is_needed.sum())

    first = np.flatnonzero(is_pair & added)
    second = np.flatnonzero(is_pair & ~added)  # matched with `first` by (group, rank among the group's pairs)
    first = first[np.lexsort((rank[first], group[first]))]
    second = second[np.lexsort((rank[second], group[second]))]
    single = np.flatnonzero(~is_needed & ~is_pair)
    worth = np.concatenate([(value[first] + value[second]) / 2, value[single]])
    cost = np.concatenate([np.full(len(first), 2), np.ones(len(single), np.int64)])
    order = np.argsort(worth, kind="stable")
    if only_gains:
        order = order[worth[order] < 0]
    taken = order[np.cumsum(cost[order]) <= budget]
    left = budget - int(cost[taken].sum())
    if left and len(taken) < len(order):  # one flip left, and the next unit is a pair: the next single fits
        rest = order[len(taken) :]
        taken = np.concatenate([taken, rest[cost[rest] == 1][:left]])
    keep[first[taken[taken < len(first)]]] = True
    keep[second[taken[taken < len(first)]]] = True
    keep[single[taken[taken >= len(first)] - len(first)]] = True
    out = reference.copy()
    out[changed[keep]] = x[changed[keep]]
    return out
