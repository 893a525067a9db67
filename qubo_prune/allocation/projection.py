"""From rates that nearly meet a budget to whole numbers that do exactly: one common shift, then rounding."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qubo_prune.errors import InputError

FloatArray = npt.NDArray[np.float64]


def project_counts(
    sizes: Sequence[int],
    rates: Sequence[float] | FloatArray,
    total: int,
    *,
    floor: float = 0.0,
    ceiling: float = 1.0,
    what: str = "the layers",
) -> npt.NDArray[np.int64]:
    """int64 (n,): how many weights to prune of each part, `total` in all.

    sizes: weights of each part (layers, or rows of a layer). rates: the wanted fractions, finite. The
    counts are size * clip(rate + shift, floor, ceiling) with the one shift that gives the total: the nearest
    rates in sum(size * change^2). They are rounded down or up, the largest remainders first, then by order,
    and never leave ceil(floor * size) to floor(ceiling * size).

    InputError, naming `what`: a total out of the bounds' reach.
    """
    size = np.asarray(sizes, dtype=np.float64)
    rate = np.asarray(rates, dtype=np.float64)
    least = np.ceil(size * floor - 1e-9)
    most = np.maximum(np.floor(size * ceiling + 1e-9), least)
    if not least.sum() <= total <= most.sum():
        raise InputError(
            f"{total:,} of {int(size.sum()):,} weights of {what} cannot be pruned with at least {floor:.4g} "
            f"and at most {ceiling:.4g} of each part: change the sparsity, allocation.floor or "
            "allocation.ceiling."
        )
    low, high = least / np.maximum(size, 1.0), most / np.maximum(size, 1.0)
    wanted = size * np.clip(rate + _shift(size, rate, low, high, total), low, high)
    counts = np.clip(np.floor(wanted + 1e-9), least, most)
    missing = round(total - float(counts.sum()))
    while missing:
        step = 1 if missing > 0 else -1
        free = counts < most if step > 0 else counts > least
        order = np.argsort(step * (counts - wanted), kind="stable")
        chosen = order[free[order]][: abs(missing)]
        counts[chosen] += step
        missing -= step * len(chosen)
    return counts.astype(np.int64)


def _shift(size: FloatArray, rate: FloatArray, low: FloatArray, high: FloatArray, total: int) -> float:
    """The shift s with sum(size * clip(rate + s, low, high)) = total; the sum is linear between its kinks."""

    def pruned(shift: float) -> float:
        return float((size * np.clip(rate + shift, low, high)).sum())

    kinks = np.unique(np.concatenate([low - rate, high - rate]))
    first, last = 0, len(kinks) - 1
    while last - first > 1:
        middle = (first + last) // 2
        first, last = (middle, last) if pruned(kinks[middle]) <= total else (first, middle)
    before, after = pruned(kinks[first]), pruned(kinks[last])
    share = 0.0 if after <= before else min(1.0, max(0.0, (total - before) / (after - before)))
    return float(kinks[first] + share * (kinks[last] - kinks[first]))
