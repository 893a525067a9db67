"""Keep a step only where the accepting loss falls: apply, measure, undo, bisect for the harmful swaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qubo_prune.state import PruneState


@dataclass(frozen=True)
class Swaps:
    """Pairs of flips, one weight pruned and one regrown, ordered by their layers: (s,) int64 each.

    from_layer  position in `names` of the layer that loses a weight; drop: its flat index there
    to_layer    position of the layer that regains one, the same but where the budget is over all layers;
                add: its flat index there
    """

    names: tuple[str, ...]
    from_layer: Tensor
    drop: Tensor
    to_layer: Tensor
    add: Tensor

    @classmethod
    def paired(cls, names: tuple[str, ...], drops: Sequence[Tensor], adds: Sequence[Tensor]) -> Swaps:
        """Swaps of the flat indices to prune and to regrow in each layer, as many in all on either side.

        The k-th of a layer on one side goes with its k-th on the other; what is left over of layers whose
        sides differ goes together, in the order of the layers.
        """
        common = [min(len(drop), len(add)) for drop, add in zip(drops, adds, strict=True)]

        def ordered(parts: Sequence[Tensor]) -> Tensor:
            within = [part[:k] for part, k in zip(parts, common, strict=True)]
            return torch.cat([*within, *(part[k:] for part, k in zip(parts, common, strict=True))])

        drop, add = ordered(drops), ordered(adds)
        assert len(drop) == len(add), "the block lost its count"
        from_layer = ordered([torch.full_like(index, i) for i, index in enumerate(drops)])
        to_layer = ordered([torch.full_like(index, i) for i, index in enumerate(adds)])
        order = (from_layer * len(names) + to_layer).argsort(stable=True)
        return cls(names, from_layer[order], drop[order], to_layer[order], add[order])

    def __len__(self) -> int:
        return len(self.drop)

    def part(self, lo: int, hi: int) -> Swaps:
        return Swaps(
            self.names, self.from_layer[lo:hi], self.drop[lo:hi], self.to_layer[lo:hi], self.add[lo:hi]
        )

    def flips(self) -> dict[str, Tensor]:
        """Flat indices per layer, both sides."""
        return {
            self.names[int(i)]: torch.cat([self.drop[self.from_layer == i], self.add[self.to_layer == i]])
            for i in torch.cat([self.from_layer, self.to_layer]).unique()
        }

    def by_layer(self) -> dict[str, int]:
        """How many swaps prune a weight of each layer."""
        layers, counts = self.from_layer.unique(return_counts=True)
        return {self.names[i]: n for i, n in zip(layers.tolist(), counts.tolist(), strict=True)}

    def middle(self) -> int:
        """Where to cut in two: between different layers, nearest to half; half where all have the same."""
        half = len(self) // 2
        new = (self.from_layer[1:] != self.from_layer[:-1]) | (self.to_layer[1:] != self.to_layer[:-1])
        cuts = new.nonzero().reshape(-1) + 1
        return int(cuts[(cuts - half).abs().argmin()]) if len(cuts) else half


@dataclass
class Decision:
    """What came of a step: the loss after it, swaps kept, found harmful (each tried alone) and never tried
    apart from harmful ones, measurements taken."""

    loss: float
    kept: list[Swaps] = field(default_factory=list)
    harmful: list[Swaps] = field(default_factory=list)
    untried: list[Swaps] = field(default_factory=list)
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
    max_measurements  at least 1; parts of a refused one still untried then are undone

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
    decision.untried = pending  # halves of a refused part: the harm is in one of them
    return decision
