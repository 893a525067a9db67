"""Choosing the block of a step: the recipe's criterion over the weights that are neither fixed nor tabu."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from qubo_prune.blocks import Block, Boundary, TabuList, paper_candidates
from qubo_prune.icbs_settings import Icbs
from qubo_prune.refine.correlated import correlated_pairs
from qubo_prune.refine.evidence import LossEvidence
from qubo_prune.refine.pairs import (
    Pairs,
    best_group_pairs,
    best_pairs,
    block_of_pairs,
    block_of_sides,
    cheapest_sides,
    whole_rows,
)
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
        c, budget = recipe.candidates, recipe.budget
        self._within: dict[str, int] | None = None  # layer -> consecutive inputs that a swap stays within
        if group is not None or budget == "row" or c.concentrated or c.correlated:
            self._within = {name: group or layer.shape[1] for name, layer in state.layers.items()}
        self._per_group = c.per_row if group is None else 1
        self._counted_over: Literal["layer", "global"] | dict[str, int]
        if group is None and budget != "row":
            self._counted_over = budget
        else:
            assert self._within is not None
            self._counted_over = self._within
        self.tabu = TabuList()
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
            if self._counted_over == "global" and self._within is None:
                return self._exchange(names, evidence, damping, largest)
            pairs = {}
            for name in names:
                estimate, cost, keep, free = self._candidates(name, evidence, damping)
                pairs[name] = best = self._pairs(name, cost, keep, free, evidence)
                evidence.watch(name, torch.cat([best.drop, best.add]), estimate)
            return block_of_pairs(pairs, largest, self._counted_over)
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

    def _candidates(
        self, name: str, evidence: LossEvidence, damping: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(out, in) of a layer: the gradient's estimate, what each flip costs, the mask, what may move."""
        estimate = evidence.estimate(name)
        cost = self._flip_cost(name, estimate, evidence.diagonal.diagonal(name), damping)
        return estimate, cost, self._state.masks[name], self.free(name)

    def _pairs(self, name: str, cost: Tensor, keep: Tensor, free: Tensor, evidence: LossEvidence) -> Pairs:
        """The best swaps of one layer that keep its counts."""
        c = self._recipe.candidates
        if self._within is None:
            return best_pairs(cost, keep, free, c.per_side)
        within = self._within[name]
        most = c.per_side

        def best(most: int) -> Pairs:
            if not c.correlated:
                return best_group_pairs(cost, keep, free, most, within, self._per_group)
            values, couplings = self._state.kept_values[name], evidence.couplings(name)
            return correlated_pairs(cost, keep, free, values, *couplings, most, c.per_row)

        if self._counted_over == "global":  # not all that is kept: no layer is emptied
            most = max(0, min(most, int(keep.sum()) - 1))
        if not c.concentrated:
            return best(most)
        return whole_rows(best(cost.numel()), cost.shape[1], c.per_row, most)

    def _exchange(
        self, names: tuple[str, ...], evidence: LossEvidence, damping: float, largest: int | None
    ) -> Block:
        """The block of one count over all layers."""
        sides = {}
        for name in names:
            estimate, cost, keep, free = self._candidates(name, evidence, damping)
            sides[name] = found = cheapest_sides(cost, keep, free, self._recipe.candidates.per_side)
            evidence.watch(name, torch.cat([found.drops.indices, found.adds.indices]), estimate)
        return block_of_sides(sides, largest)

    def free(self, name: str) -> Tensor:
        """(out, in) bool: neither fixed by its importance nor tabu."""
        return self.tabu.block(name, self._boundary.free(name, self._state.masks[name]))

    def _flip_cost(self, name: str, estimate: Tensor, diagonal: Tensor, damping: float) -> Tensor:
        """(out, in) predicted change of the loss by each flip alone; inf where that is beyond trust."""
        r = self._recipe
        w0, keep = self._state.kept_values[name].float(), self._state.masks[name]
        slope = (estimate * w0).mul_(r.gradient.gamma)
        bend = diagonal.add_(2 * r.curvature.ridge).mul_(w0.square()).mul_(0.5)
        sign = keep.to(slope.dtype).mul_(-2).add_(1)
        cost = sign.mul_(slope).add_(bend, alpha=1 + damping)
        return cost.masked_fill_(
            (bend > r.candidates.max_flip) | (slope.abs() > r.candidates.max_flip), torch.inf
        )
