"""Choosing the block of a step: the recipe's criterion over the weights that are neither fixed nor tabu."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from qubo_prune.blocks import (
    Block,
    Boundary,
    TabuList,
    best_group_pairs,
    best_pairs,
    block_of_pairs,
    paper_candidates,
)
from qubo_prune.recipe import Icbs
from qubo_prune.refine.evidence import LossEvidence
from qubo_prune.state import PruneState


class Choice:
    """tabu: the weights that may not move now; importance: how far a weight is from the mask's boundary;
    largest: variables the solver takes at most; group: M, where swaps stay within M consecutive inputs."""

    def __init__(
        self,
        state: PruneState,
        recipe: Icbs,
        importance: Callable[[str], Tensor],
        largest: int | None,
        group: int | None = None,
    ) -> None:
        self._state, self._recipe, self._importance, self._largest = state, recipe, importance, largest
        self._group = group
        self.tabu = TabuList()
        c = recipe.candidates
        scores = {name: importance(name) for name in state.layers}
        self._boundary = Boundary(scores, state.masks, c.fixed_pruned, c.fixed_kept)

    def choose(
        self, step: int, names: tuple[str, ...], evidence: LossEvidence, damping: float = 0.0
    ) -> Block:
        """The block of a step over these layers; empty where nothing promises to improve at this damping."""
        c = self._recipe.candidates
        self.tabu.expire(step)
        largest = self._largest
        if c.criterion == "gain":
            if c.max_variables is not None:
                largest = min(c.max_variables, largest or c.max_variables)
            pairs = {}
            for name in names:
                estimate = evidence.estimate(name)
                cost = self._flip_cost(name, estimate, evidence.diagonal.diagonal(name), damping)
                keep, free = self._state.masks[name], self.free(name)
                if self._group is None:
                    best = best_pairs(cost, keep, free, c.per_side)
                else:
                    best = best_group_pairs(cost, keep, free, c.per_side, self._group)
                evidence.watch(name, torch.cat([best.drop, best.add]), estimate)
                pairs[name] = best
            return block_of_pairs(pairs, largest, self._group)
        (name,) = names
        n = min(c.block_size, self._state.layers[name].numel, largest or c.block_size)
        if c.criterion == "gradient":
            score = (self._state.kept_values[name].float() * evidence.moments.mean(name)).abs()
        else:
            score = self._importance(name)
        index = paper_candidates(
            score,
            self._state.masks[name],
            self.free(name),
            n,
            round(n * c.block_pruned),
            evidence.generator,
            c.criterion,
        )
        if self._recipe.tabu_fraction is not None:
            self.tabu.add({name: index}, math.inf)
            self.tabu.drop_oldest(name, int(self._recipe.tabu_fraction * self._state.layers[name].numel))
        return Block({name: index} if len(index) else {})

    def free(self, name: str) -> Tensor:
        """(out, in) bool: neither fixed by its importance nor tabu."""
        return self.tabu.block(name, self._boundary.free(name, self._state.masks[name]))

    def _flip_cost(self, name: str, estimate: Tensor, diagonal: Tensor, damping: float) -> Tensor:
        """(out, in) predicted change of the loss by each flip alone; inf where that is beyond trust."""
        r = self._recipe
        w0, keep = self._state.kept_values[name].float(), self._state.masks[name]
        slope = (estimate * w0).mul_(r.gradient.gamma)
        bend = diagonal.add_(2 * r.curvature.ridge).mul_(w0.square()).mul_(0.5)
        cost = torch.where(keep, -slope, slope).add_(bend, alpha=1 + damping)
        return cost.masked_fill_(
            (bend > r.candidates.max_flip) | (slope.abs() > r.candidates.max_flip), torch.inf
        )
