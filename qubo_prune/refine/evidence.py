"""What the steps of iCBS know of the loss: gradients averaged over steps, and curvature of a chosen block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from qubo_prune.blocks import Block
from qubo_prune.objective import Batch, Objective, batch_size
from qubo_prune.quadratic import Curvature
from qubo_prune.recipe import Icbs
from qubo_prune.state import PruneState
from qubo_prune.statistics.collect import collect
from qubo_prune.statistics.fisher import CoherentFisher, FisherSamples, KroneckerDiagonal
from qubo_prune.statistics.gradients import GradientMoments
from qubo_prune.statistics.hessian import exact_hessian
from qubo_prune.statistics.tape import frozen

Pair = tuple[Batch, Tensor | None]
"""A batch and what the dense model answered to it."""


def teach(state: PruneState, objective: Objective, batches: Sequence[Batch]) -> list[Pair]:
    """Every batch with the dense model's answer, where the objective needs one."""
    if not objective.needs_teacher or not len(batches):
        return [(batch, None) for batch in batches]
    with state.dense(), frozen(state.model):
        return [(batch, objective.teacher(state.model, batch)) for batch in batches]


class LossEvidence:
    """Collects the statistics of each step; those of all layers live on and age, those of one layer do not.

    moments    gradients of the loss, of the layers last collected
    diagonal   diag(H) of every weight, for screening candidates
    """

    def __init__(
        self, state: PruneState, objective: Objective, batches: Iterator[Batch], recipe: Icbs, seed: int
    ) -> None:
        self._state, self._objective, self._batches, self._recipe = state, objective, batches, recipe
        self.generator = torch.Generator().manual_seed(seed)
        self._lasting = recipe.scope == "all_layers"
        self.moments = GradientMoments(state.layers if self._lasting else {})
        self.diagonal = KroneckerDiagonal(state.layers)
        sampled = recipe.curvature.kind == "sampled_fisher"
        most = recipe.curvature.coherent if self._lasting and sampled else 0
        self._coherent = CoherentFisher(state.layers, most) if most else None
        self._fisher = FisherSamples({})
        self._pairs: list[Pair] = []

    def collect(self, names: tuple[str, ...], progress: float) -> None:
        """Look at the next batches. progress: the share of the loss that the step before took away; gradients
        seen before it are out of date to that degree."""
        r = self._recipe
        layers = {name: self._state.layers[name] for name in names}
        if not self._lasting:
            self.moments = GradientMoments(layers)
        self.moments.age(r.gradient.discount * max(0.0, 1 - r.gradient.staleness * progress))
        self.diagonal.age(r.gradient.discount)
        self._fisher = FisherSamples(layers)  # the last step's samples go before the new ones come
        pairs = teach(self._state, self._objective, self._draw())
        sampled = r.curvature.kind == "sampled_fisher"
        collected = collect(
            self._state.model, layers, pairs, self._objective, self.moments, self._fisher, self.diagonal,
            self._coherent, sampled_labels=self.generator if sampled else None, chunk=r.chunk,
            fisher_chunk=r.curvature.chunk,
        )  # fmt: skip
        self._pairs = pairs if r.curvature.kind == "exact_hessian" else []
        self._fisher.scale = collected.fisher_tokens if r.curvature.scale_by_tokens else 1.0

    def _draw(self) -> list[Batch]:
        """The next batches, of whatever size they have, with at least the recipe's windows in all."""
        batches: list[Batch] = []
        samples = 0
        while samples < self._recipe.windows:
            batches.append(next(self._batches))
            samples += batch_size(batches[-1], 1)
        return batches

    def estimate(self, name: str) -> Tensor:
        """(out, in) gradient of a layer's weights, cleared of noise as the recipe says."""
        r = self._recipe.gradient
        if r.estimate == "posterior":
            return self.moments.posterior(name)
        return self.moments.shrunk(name, r.shrink)

    def gradient(self, block: Block) -> Tensor:
        """(n,) estimated gradient of the block's weights."""
        return torch.cat([self.estimate(name).reshape(-1)[i] for name, i in block.indices.items()])

    def curvature(self, block: Block, gradient: Tensor, stiffness: float) -> Curvature:
        """H of the block by the recipe's kind; the stiffness multiplies a Fisher."""
        r, s = self._recipe.curvature, self._state
        if r.kind == "mean_gradient":
            found = Curvature.mean_gradient(gradient)
        elif r.kind == "exact_hessian":
            found = Curvature(
                matrix=exact_hessian(s.model, s.layers, block.indices, self._objective, self._pairs)
            )
        else:
            found = Curvature.fisher(self._fisher.gather(block.indices), self._fisher.scale * stiffness)
            if self._coherent is not None:
                samples = self._coherent.gather(block.indices)
                found = found.plus(samples, self._coherent.scale * stiffness)
        return found if r.couplings else found.without_couplings()
