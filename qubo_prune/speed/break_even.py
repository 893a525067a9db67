"""The sparsity from which a sparse product is no slower than the dense one, between measured sparsities."""

import math
from collections.abc import Sequence


def break_even(sparsities: Sequence[float], ratios: Sequence[float]) -> float | None:
    """The sparsity at which sparse / dense seconds fall to 1, and stay there as far as was measured.

    sparsities: rising. ratios: sparse / dense seconds at each, above 0. Between two measured sparsities the
    logarithm of the ratio is held to be linear. None: the sparse product is slower even at the largest
    sparsity. The smallest sparsity: it is no slower at any of them; the break-even may lie below.
    """
    if not ratios or ratios[-1] > 1:
        return None
    at = len(ratios) - 1
    while at > 0 and ratios[at - 1] <= 1:
        at -= 1
    if at == 0:
        return sparsities[0]
    before, after = math.log(ratios[at - 1]), math.log(ratios[at])
    share = before / (before - after)
    return sparsities[at - 1] + share * (sparsities[at] - sparsities[at - 1])
