"""What the steps of iCBS know of the loss: gradients averaged over steps, and curvature of a chosen block."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from qubo_prune.blocks import Block
from qubo_prune.errors import InputError
from qubo_prune.freed import give_back
from qubo_prune.icbs_settings import Icbs
from qubo_prune.objective import Batch, Objective, batch_size
from qubo_prune.quadratic import Curvature
from qubo_prune.refine.reliability import Reliability
from qubo_prune.refine.row_couplings import row_couplings
from qubo_prune.state import PruneState
from qubo_prune.statistics.collect import collect
from qubo_prune.statistics.fisher import CoherentFisher, FisherSamples, KroneckerDiagonal
from qubo_prune.statistics.gradients import GradientMoments
from qubo_prune.statistics.hessian import exact_hessian
from qubo_prune.statistics.input_gram import InputGram
from qubo_prune.statistics.tape import frozen

SLOW = 0.015
"""Share of the loss; a step that takes less away is limited by noise: the next ones look at more windows."""

Pair = tuple[Batch, Tensor | None]
"""A batch and what the dense model answered to it."""


@dataclass(frozen=True)
class _Watched:
    """Candidates of one layer: sorted flat indices, their scaled estimates and the scale, their masks."""

    index: Tensor
    estimate: Tensor
    slope: float
    kept: Tensor


def teach(state: PruneState, objective: Objective, batches: Sequence[Batch]) -> list[Pair]:
    """Every batch with the dense model's answer, where the objective needs one. InputError: it is NaN, by
    which nothing could be decided."""
    if not objective.needs_teacher or not len(batches):
        return [(batch, None) for batch in batches]
    with state.dense(), frozen(state.model):
        pairs = [(batch, objective.teacher(state.model, batch)) for batch in batches]
    for i, (_, answer) in enumerate(pairs):
        if answer is not None and bool(torch.isnan(answer).any()):
            raise InputError(
                f"the dense model's answer to batch {i} of {len(pairs)} is NaN, by which nothing can be "
                "decided: look for NaN or infinite values in its embeddings and head, or try float32"
            )
    return pairs


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
        self.moments = GradientMoments(state.layers if self._lasting else {}, recipe.gradient.clip)
        self.diagonal = KroneckerDiagonal(state.layers)
        self._gram = InputGram(state.layers) if recipe.curvature.gram else None
        sampled = recipe.curvature.kind == "sampled_fisher"
        most = recipe.curvature.coherent if self._lasting and sampled else 0
        self._coherent = CoherentFisher(state.layers, most) if most else None
        self._fisher = FisherSamples({})
        self._pairs: list[Pair] = []
        self._windows, self._seen = recipe.windows, False
        self._reliability = (
            Reliability(tuple(state.layers)) if recipe.gradient.reliability and self._lasting else None
        )
        self._watched: dict[str, _Watched] = {}

    def collect(self, names: tuple[str, ...], progress: float) -> int:
        """Look at the next batches; returns the number of their samples.

        progress: the share of the loss that the step before took away; gradients seen before it are out of
        date to that degree.
        """
        r = self._recipe
        layers = {name: self._state.layers[name] for name in names}
        if not self._lasting:
            self.moments = GradientMoments(layers, r.gradient.clip)
        aged = r.gradient.discount * max(0.0, 1 - r.gradient.staleness * progress)
        watched = self._watched if self._reliability is not None else {}
        before = {name: self.moments.sum_at(name, w.index) for name, w in watched.items()}
        self.moments.age(aged)
        self.diagonal.age(r.gradient.discount)
        if self._gram is not None:
            self._gram.age(r.gradient.discount)
        self._fisher = FisherSamples(layers)  # the last step's samples go before the new ones come
        measured = r.accept == "if_better" and self._seen
        if r.max_windows is not None and measured and progress < SLOW:
            self._windows = min(2 * self._windows, max(r.max_windows, r.windows))
        self._seen = True
        pairs = teach(self._state, self._objective, self._draw())
        sampled = r.curvature.kind == "sampled_fisher"
        collected = collect(
            self._state.model, layers, pairs, self._objective, self.moments, self._fisher, self.diagonal,
            self._coherent, gram=self._gram, sampled_labels=self.generator if sampled else None,
            chunk=r.chunk, fisher_chunk=r.curvature.chunk, label_every=r.curvature.every,
            labels=r.curvature.labels,
        )  # fmt: skip
        give_back()
        self._learn(before, aged, collected.samples)
        self._watched.clear()
        self._pairs = pairs if r.curvature.kind == "exact_hessian" else []
        self._fisher.scale = collected.fisher_tokens if r.curvature.scale_by_tokens else 1.0
        return collected.samples

    def _draw(self) -> list[Batch]:
        """The next batches, of whatever size they have, with at least the windows of this step in all."""
        batches: list[Batch] = []
        samples = 0
        while samples < self._windows:
            batches.append(next(self._batches))
            samples += max(1, batch_size(batches[-1], 1))
        return batches

    def _learn(self, before: dict[str, Tensor], aged: float, samples: int) -> None:
        """Compare the estimates of the last step with the new batches; weights that moved are left out."""
        if self._reliability is None or not self._watched:
            return
        estimates, fresh, values = {}, {}, {}
        for name, w in self._watched.items():
            still = (self._state.masks[name].reshape(-1)[w.index] == w.kept).nonzero().reshape(-1)
            estimates[name] = w.estimate[still] / w.slope
            fresh[name] = (self.moments.sum_at(name, w.index) - aged * before[name])[still] / samples
            values[name] = self._state.kept_values[name].reshape(-1)[w.index][still].float()
        self._reliability.observe(estimates, fresh, values)

    def forget(self, moved: dict[str, Tensor]) -> None:
        """What was seen of weights (layer -> flat indices) that have moved is no longer true, if so set."""
        if self._recipe.gradient.reset:
            for name, index in moved.items():
                self.moments.forget(name, index)

    def estimate(self, name: str) -> Tensor:
        """(out, in) gradient of a layer's weights, cleared of noise as the recipe says."""
        r = self._recipe.gradient
        if r.estimate == "posterior":
            found = self.moments.posterior(name)
        else:
            found = self.moments.shrunk(name, r.shrink)
        return found.mul_(self._slope(name))

    def _slope(self, name: str) -> float:
        return 1.0 if self._reliability is None else self._reliability.slope(name)

    def watch(self, name: str, index: Tensor, estimate: Tensor) -> None:
        """Remember a layer's estimate at these candidates, to see how much of it comes true."""
        index = index.sort().values
        kept = self._state.masks[name].reshape(-1)[index]
        self._watched[name] = _Watched(index, estimate.reshape(-1)[index], self._slope(name), kept)

    def gradient(self, block: Block) -> Tensor:
        """(n,) estimated gradient of the block's weights."""
        found = []
        for name, index in block.indices.items():
            w = self._watched.get(name)
            if w is None:
                found.append(self.estimate(name).reshape(-1)[index])
            else:
                found.append(w.estimate[torch.searchsorted(w.index, index)])
        return torch.cat(found)

    def couplings(self, name: str) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
        """What couples the weights of a layer's rows: (out,) E[g^2] of its outputs, and (i, j) -> E[x_i x_j]
        of its inputs. Only where the recipe has Gram blocks."""
        assert self._gram is not None
        return self.diagonal.outputs(name), partial(self._gram.entries, name)

    def curvature(self, block: Block, gradient: Tensor, damping: float) -> Curvature:
        """H of the block by the recipe's kind, and `damping` times its Kronecker diagonal.

        With Gram blocks, these are added once, and of the damping what their diagonal leaves: the diagonal is
        as without them, but at least theirs, and what is added is positive semidefinite at any damping.
        """
        r, s = self._recipe.curvature, self._state
        if r.kind == "mean_gradient":
            found = Curvature.mean_gradient(gradient)
        elif r.kind == "exact_hessian":
            found = Curvature(
                matrix=exact_hessian(s.model, s.layers, block.indices, self._objective, self._pairs)
            )
        else:
            found = Curvature.fisher(self._fisher.gather(block.indices), self._fisher.scale)
            if self._coherent is not None:
                samples = self._coherent.gather(block.indices)
                found = found.plus(samples, self._coherent.scale)
        if not r.couplings:
            found = found.without_couplings()
        if self._gram is not None:
            found = found.coupled(row_couplings(block, s.layers, self.diagonal, self._gram))
            damping = max(damping, 1.0)
        if not damping:
            return found
        diagonal = [self.diagonal.diagonal(name).reshape(-1)[i] for name, i in block.indices.items()]
        return found.damped(torch.cat(diagonal).mul_(damping))
