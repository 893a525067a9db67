"""Mixed N:M sparsity: how many of each M inputs each layer keeps, the total as near as that allows."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qubo_prune.errors import InputError

_LARGEST_TABLE = 1 << 26
"""Bytes of the largest table of the exact choice."""


def pruned_of_group(m: int, floor: float, ceiling: float) -> tuple[int, int]:
    """(least, most): how many of m weights are pruned between floor and ceiling, fractions of m; most < m.

    InputError: no whole number lies between them.
    """
    least, most = math.ceil(floor * m - 1e-9), min(math.floor(ceiling * m + 1e-9), m - 1)
    if least > most:
        raise InputError(
            f"no whole number of {m} weights is at least {floor:.4g} and at most {ceiling:.4g} of them: "
            "change allocation.floor, allocation.ceiling or allocation.group."
        )
    return least, most


def mixed_nm(
    sizes: Sequence[int],
    rates: Sequence[float],
    m: int,
    total: int,
    *,
    least: int = 0,
    most: int | None = None,
) -> list[int]:
    """N for each layer, from 1 to m: of each m consecutive inputs the layer keeps N.

    This is AlphaPruning's mixed N:8 for m = 8 (arXiv 2410.10912, appendix); how N is rounded is ours.

    sizes: weights of each layer, multiples of m. rates: the fractions to prune, in [0, 1). total: weights to
    prune in all. least, most: how many of each m are pruned at least and at most, see `pruned_of_group`;
    most None: m - 1, so that N >= 1.

    m * rate, held between least and most, is rounded to the whole number below or above it. Of all such
    roundings the one is chosen whose pruned weights are nearest to `total`; of those the one with the least
    rounding summed over the weights. Where layers have such odd sizes that the table of reachable totals
    would pass 64 MiB, those with the largest remainders are rounded up instead. Where rates lie between least
    and most and give the total, the one reached is within half the largest layer's step (size / m) of it.

    InputError: m below 2, a size that m does not divide, or not 0 <= least <= most < m.
    """
    if m < 2:
        raise InputError(f"mixed N:{m}: M must be at least 2.")
    most = m - 1 if most is None else most
    if not 0 <= least <= most < m:
        raise InputError(f"mixed N:{m}: from {least} to {most} pruned of {m}: give 0 <= least <= most < {m}.")
    for size in sizes:
        if size % m:
            raise InputError(f"mixed N:{m}: a layer of {size} weights cannot be cut into groups of {m}.")
    groups = np.asarray(sizes, dtype=np.int64) // m
    wanted = np.clip(np.asarray(rates, dtype=np.float64) * m, least, most)
    pruned = np.floor(wanted + 1e-9).astype(np.int64)
    remainder = np.maximum(wanted - pruned, 0.0)
    movable = np.flatnonzero(remainder > 1e-9)
    if len(movable):
        missing = total - int((groups * pruned).sum())
        pruned[movable[_rounded_up(groups[movable], remainder[movable], missing)]] += 1
    return [m - int(p) for p in pruned]


def _rounded_up(
    groups: npt.NDArray[np.int64], remainder: npt.NDArray[np.float64], missing: int
) -> npt.NDArray[np.bool_]:
    """bool (n,): the layers to round up, so that their groups add up to what is nearest to `missing`."""
    unit = int(np.gcd.reduce(groups))
    steps = groups // unit
    target = missing / unit
    # a sum beyond this has a layer less that is nearer
    reach = int(min(steps.sum(), max(0, int(target)) + steps.max() + 1))
    if (reach + 1) * len(steps) > _LARGEST_TABLE:
        return _largest_remainders(steps, remainder, target)
    value = np.full(reach + 1, -np.inf)
    value[0] = 0.0
    taken = np.zeros((len(steps), reach + 1), dtype=bool)
    for i, step in enumerate(steps):
        if step > reach:
            continue
        gain = float(step) * (2.0 * float(remainder[i]) - 1.0)
        offered = value[: reach + 1 - step] + gain
        taken[i, step:] = offered > value[step:]
        value[step:] = np.maximum(value[step:], offered)
    distance = np.abs(np.arange(reach + 1) - target)
    distance[~np.isfinite(value)] = np.inf
    nearest = np.flatnonzero(distance <= distance.min() + 1e-9)
    at = int(nearest[int(np.argmax(value[nearest]))])
    up = np.zeros(len(steps), dtype=bool)
    for i in range(len(steps) - 1, -1, -1):
        if taken[i, at]:
            up[i] = True
            at -= int(steps[i])
    return up


def _largest_remainders(
    steps: npt.NDArray[np.int64], remainder: npt.NDArray[np.float64], target: float
) -> npt.NDArray[np.bool_]:
    """The layers with the largest remainders, as many as come nearest to the target."""
    order = np.argsort(-remainder, kind="stable")
    reached = np.concatenate([[0], np.cumsum(steps[order])])
    up = np.zeros(len(steps), dtype=bool)
    up[order[: int(np.argmin(np.abs(reached - target)))]] = True
    return up
