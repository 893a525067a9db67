"""Which weights to reconsider next: candidates near the mask's boundary, fixed weights, the tabu list."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qubo_prune.masks import Masks


@dataclass(frozen=True)
class Block:
    """The weights of one step, and what the counts of pruned ones hold over.

    indices       flat indices per layer, ascending
    counted_over  "layer": each layer is one group of the problem; "global": all layers are one; layer -> M:
                  each M consecutive weights of a layer that the block has any of (M inputs: its rows)
    """

    indices: dict[str, Tensor]
    counted_over: Literal["layer", "global"] | Mapping[str, int] = "layer"

    @property
    def size(self) -> int:
        return sum(len(i) for i in self.indices.values())

    def gather(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The values of (out, in) tensors at the block's indices, layers concatenated: (n,)."""
        return torch.cat([tensors[name].reshape(-1)[i] for name, i in self.indices.items()])

    def groups(self) -> Tensor:
        """(n,) int64 group of each weight, from 0 without gaps: layer by layer, then by position."""
        sizes = torch.tensor([len(i) for i in self.indices.values()])
        layers = torch.repeat_interleave(torch.arange(len(sizes)), sizes)
        if self.counted_over == "layer":
            return layers
        if self.counted_over == "global":
            return torch.zeros_like(layers)
        within = torch.cat([i // self.counted_over[name] for name, i in self.indices.items()])
        keys = torch.stack([layers.to(within.device), within], dim=1)
        groups: Tensor = torch.unique_consecutive(keys, dim=0, return_inverse=True)[1]
        return groups

    def split(self, values: Tensor) -> dict[str, Tensor]:
        """A concatenated (n,) tensor back into one piece per layer."""
        sizes = [len(i) for i in self.indices.values()]
        return dict(zip(self.indices, values.split(sizes), strict=True))


class Boundary:
    """Fixes weights far from the mask's boundary by their importance score: the iCBS paper's fixed fractions.

    Per output row, the `fixed_pruned` share of the pruned weights with the lowest scores stays pruned and the
    `fixed_kept` share of the kept ones with the highest scores stays kept (shares rounded down; of weights
    that tie at the threshold none is fixed). Read off once, from the initial masks.
    """

    def __init__(
        self, scores: Mapping[str, Tensor], masks: Masks, fixed_pruned: float, fixed_kept: float
    ) -> None:
        self._may_prune: Masks = {}
        self._may_regrow: Masks = {}
        for name, score in scores.items():
            ordered, order = score.sort(dim=1)
            kept = masks[name].gather(1, order)
            self._may_regrow[name] = score >= _beyond(ordered, ~kept, fixed_pruned, -torch.inf)
            self._may_prune[name] = score <= _beyond(ordered.flip(1), kept.flip(1), fixed_kept, torch.inf)

    def free(self, name: str, keep: Tensor) -> Tensor:
        """(out, in) bool: weights that may move from where this mask has them."""
        return (keep & self._may_prune[name]) | (self._may_regrow[name] & ~keep)


def _beyond(ordered: Tensor, member: Tensor, share: float, none: float) -> Tensor:
    """(rows, 1) the first of each row's members, in this order, after `share` of them (rounded down).

    `none` where a row has no member, or nothing is fixed: no weight is beyond it.
    """
    count = member.sum(1, keepdim=True)
    fixed = (share * count.double() + 1e-9).long()  # 0.35 * 20 is 7
    position = (member.cumsum(1) > fixed).to(torch.uint8).argmax(1, keepdim=True)
    return ordered.gather(1, position).masked_fill_(fixed == 0, none)


class TabuList:
    """Weights that must not move for a while, per layer, each entry with the step it expires at."""

    def __init__(self) -> None:
        self._entries: dict[str, deque[tuple[float, Tensor]]] = {}

    def add(self, indices: Mapping[str, Tensor], until: float) -> None:
        """Forbid these flat indices up to and including step `until` (inf: for good)."""
        for name, index in indices.items():
            if len(index):
                self._entries.setdefault(name, deque()).append((until, index))

    def expire(self, step: int) -> None:
        for entries in self._entries.values():
            keep = [e for e in entries if e[0] >= step]
            entries.clear()
            entries.extend(keep)

    def drop_oldest(self, name: str, at_most: int) -> None:
        """Forget a layer's oldest entries until at most `at_most` weights are tabu (paper: a fraction)."""
        entries = self._entries.get(name, deque())
        while entries and sum(len(i) for _, i in entries) > at_most:
            entries.popleft()

    def block(self, name: str, free: Tensor) -> Tensor:
        """`free` with the tabu weights turned off, in place."""
        flat = free.view(-1)
        for _, index in self._entries.get(name, ()):
            flat[index] = False
        return free

    def size(self) -> int:
        return sum(len(i) for entries in self._entries.values() for _, i in entries)


def paper_candidates(
    score: Tensor, keep: Tensor, free: Tensor, n: int, k: int, generator: torch.Generator, criterion: str
) -> Tensor:
    """n flat indices of one layer, exactly k of them pruned (iCBS paper: by |w g|, Wanda score or random).

    criterion "gradient" and "wanda": the pruned weights with the highest scores and the kept ones with the
    lowest; "random": uniformly. Fewer than n where a side has not enough free weights.
    """
    if criterion == "random":
        score = torch.rand(score.shape, generator=generator).to(score.device)
    flat = score.reshape(-1)
    flat_keep, flat_free = keep.reshape(-1), free.reshape(-1)
    pruned_side = torch.where(~flat_keep & flat_free, flat, -torch.inf)
    kept_side = torch.where(flat_keep & flat_free, flat, torch.inf)
    take_pruned = min(k, int((pruned_side > -torch.inf).sum()))
    take_kept = min(n - k, int((kept_side < torch.inf).sum()))
    return (
        torch.cat(
            [
                pruned_side.topk(take_pruned).indices,
                kept_side.topk(take_kept, largest=False).indices,
            ]
        )
        .sort()
        .values
    )
