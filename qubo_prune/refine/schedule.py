"""Which layers each step looks at: all of them, or one at a time in proportion to log10 of their size."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping


def all_layers(sizes: Mapping[str, int]) -> Iterator[tuple[str, ...]]:
    """Every step sees every layer."""
    while True:
        yield tuple(sizes)


def one_layer(sizes: Mapping[str, int], steps: int, seed: int) -> Iterator[tuple[str, ...]]:
    """One layer a step, each in proportion to log10 of its size, in random order within an epoch.

    The iCBS paper shares 300 steps an epoch out over the layers, at least 10 each. Here an epoch has at least
    one step a layer and as many more as the budget of `steps` allows, up to the paper's (departure: a budget
    of fewer than 10 steps a layer is spread evenly instead of refused).
    """
    weight = {name: math.log10(max(size, 10)) for name, size in sizes.items()}
    total = sum(weight.values())
    epoch = max(len(sizes), min(steps, max(300, 10 * len(sizes))))
    least = min(10, epoch // len(sizes))
    share = {name: epoch * w / total for name, w in weight.items()}
    counts = {name: max(least, round(x)) for name, x in share.items()}
    while (over := sum(counts.values()) - epoch) != 0:  # rounding, and the least
        sign = 1 if over > 0 else -1
        able = [name for name in counts if counts[name] > least or over < 0]
        counts[max(able, key=lambda name: sign * (counts[name] - share[name]))] -= sign
    rng = random.Random(seed)
    while True:
        order = [name for name, count in counts.items() for _ in range(count)]
        rng.shuffle(order)
        for name in order:
            yield (name,)
