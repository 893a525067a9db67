"""Keep a step only where the accepting loss falls: apply, measure, undo, bisect for the harmful swaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qubo_prune.state import PruneState


@dataclass(frozen=True)
class Swaps:
    """Pairs of flips, one weight pruned and one regrown in the same layer, ordered by layer: (s,) each.

    layer  int64 position in `names`; drop: flat index to prune; add: flat index to regrow
    """

    names: tuple[str, ...]
    layer: Tensor
    drop: Tensor
    add: Tensor

    def __len__(self) -> int:
        return len(self.layer)

    def part(self, lo: int, hi: int) -> Swaps:
        return Swaps(self.names, self.layer[lo:hi], self.drop[lo:hi], self.add[lo:hi])

    def flips(self) -> dict[str, Tensor]:
        """Flat indices per layer, both sides."""
        return {
            self.names[int(i)]: torch.cat([self.drop[self.layer == i], self.add[self.layer == i]])
            for i in self.layer.unique()
        }

    def middle(self) -> int:
        """Where to cut in two: at the layer boundary nearest to half; half where there is only one layer."""
        half = len(self) // 2
        cuts = (self.layer[1:] != self.layer[:-1]).nonzero().reshape(-1) + 1
        return int(cuts[(cuts - half).abs().argmin()]) if len(cuts) else half


@dataclass
class Decision:
    """What came of a step: the loss after it, swaps kept and found harmful, measurements taken."""

    loss: float
    kept: list[Swaps] = field(default_factory=list)
    harmful: list[Swaps] = field(default_factory=list)
    full_change: float = 0.0
    measurements: int = 0

    @property
    def swaps(self) -> int:
        return sum(len(s) for s in self.kept)


def keep_what_helps(
    state: PruneState, swaps: Swaps, loss: float, measure: Callable[[], float], max_measurements: int
) -> Decision:
    """Try all swaps at once; where the loss does not fall, halve them by layer, then within a layer.

    loss              the accepting loss before the step
    measure           the accepting loss of the model as it is
    max_measurements  at least 1; parts of a refused one still untried then are undone and called harmful

    Whatever is not kept is undone to the bit. An error or Ctrl-C in between undoes everything.
    """
    every = swaps.flips()
    before = state.kept_at(every)
    try:
        return _bisect(state, swaps, loss, measure, max_measurements)
    except BaseException:
        state.assign(every, before)
        raise


def _bisect(
    state: PruneState, swaps: Swaps, loss: float, measure: Callable[[], float], max_measurements: int
) -> Decision:
    decision = Decision(loss)
    pending = [swaps] if len(swaps) else []
    while pending and decision.measurements < max_measurements:
        part = pending.pop()
        flips = part.flips()
        state.flip(flips)
        after = measure()
        decision.measurements += 1
        if decision.measurements == 1:
            decision.full_change = after - loss
        if after < decision.loss:
            decision.loss = after
            decision.kept.append(part)
            continue
        state.flip(flips)
        if len(part) == 1:
            decision.harmful.append(part)
        else:
            cut = part.middle()
            pending += [part.part(cut, len(part)), part.part(0, cut)]
    decision.harmful += pending  # halves of a refused part, never tried: the harm is in one of them
    return decision
