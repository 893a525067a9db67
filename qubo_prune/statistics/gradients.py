"""Running mean and variance of every prunable weight's per-sample gradient, discounted over steps."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from statistics import median

import torch
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_prune.layers import Layer

BMM_BYTES = 64 << 20
"""Per-sample gradients of one layer are formed in groups of about this size (they stay in cache)."""


REMEMBERED = 64
"""Samples whose gradients' lengths are remembered, to clip the next ones by."""


def per_sample_gradients(inputs: list[Tensor], grads: list[Tensor]) -> Tensor:
    """(B, out, in) float32 weight gradients of B samples from inputs (B, T, in) and grads (B, T, out)."""
    total: Tensor | None = None
    for x, g in zip(inputs, grads, strict=True):
        part = torch.bmm(g.float().transpose(1, 2), x.float())
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


class GradientMoments:
    """mean and standard error of dL_n/dw over samples n, for all weights of all layers: two floats a weight.

    Each `age(discount)` multiplies the weight of what was seen before, so that `mean` is an exponentially
    weighted average over steps (few weights change between two of them). float32 sums of a few thousand
    terms. A weighted sample of n = (sum of weights)^2 / (sum of squares) gives the mean the variance s^2 / n,
    with s^2 = n / (n - 1) times the weighted mean square about it.

    clip: a sample's gradient of a layer that is longer than clip times the median of the last REMEMBERED
    samples is cut to that; samples without any gradient do not count for it. Windows with outlying gradients
    make most of the noise, and the mean of clipped ones is nearer to the mean over other text. None: the
    plain mean.

    `forget` starts single weights anew (one that has moved says nothing of its present gradient). Their means
    and mean squares are those of the samples since; for the number of samples, and so the noise, all weights
    of a layer still count as one.
    """

    def __init__(self, layers: Mapping[str, Layer], clip: float | None = None) -> None:
        self._clip = clip
        self._norms: dict[str, deque[float]] = {name: deque(maxlen=REMEMBERED) for name in layers}
        self.first = {n: torch.zeros(la.shape, device=la.weight.device) for n, la in layers.items()}
        self.second = {n: torch.zeros(la.shape, device=la.weight.device) for n, la in layers.items()}
        self._weight = dict.fromkeys(self.first, 0.0)  # sum of sample weights
        self._weight2 = dict.fromkeys(self.first, 0.0)  # sum of their squares
        self._forgotten: dict[str, tuple[Tensor, Tensor]] = {}  # flat indices, and the weight not seen there

    def age(self, discount: float) -> None:
        """Let everything seen so far count `discount` times as much (0 forgets it)."""
        if discount == 1:
            return
        for name in self.first:
            self.first[name].mul_(discount)
            self.second[name].mul_(discount)
            self._weight[name] *= discount
            self._weight2[name] *= discount**2
        for _, missing in self._forgotten.values():
            missing.mul_(discount)

    def forget(self, name: str, index: Tensor) -> None:
        """Let the weights at these flat indices of a layer (each once) start anew."""
        for sums in (self.first[name], self.second[name]):
            sums.view(-1)[index] = 0
        before, missing = self._forgotten.get(name, (index[:0], self.first[name].new_zeros(0)))
        stays = ~torch.isin(before, index) & (missing > 1e-3 * self._weight[name])
        now = self.first[name].new_full((len(index),), self._weight[name])
        self._forgotten[name] = torch.cat([before[stays], index]), torch.cat([missing[stays], now])

    def add(self, name: str, inputs: list[Tensor], grads: list[Tensor]) -> None:
        """Count B samples of one layer; refuses gradients that are not finite."""
        batch = inputs[0].shape[0]
        first, second = self.first[name].view(-1), self.second[name].view(-1)
        step = max(1, BMM_BYTES // (4 * first.numel()))
        for lo in range(0, batch, step):
            g = per_sample_gradients([x[lo : lo + step] for x in inputs], [d[lo : lo + step] for d in grads])
            g = g.flatten(1)
            scale = self._scale(name, g)
            first.addmv_(g.T, scale)
            second.addmv_(g.square_().T, scale.square())
        if not math.isfinite(float(first.sum())):
            raise InputError(
                f"the gradient of layer {name!r} is NaN or infinite: check the calibration batches and the "
                "model's dtype (float16 overflows easily; try float32 or bfloat16)"
            )
        self._weight[name] += batch
        self._weight2[name] += batch

    def _scale(self, name: str, g: Tensor) -> Tensor:
        """(B,) what each of B samples' gradients (B, weights) is multiplied by."""
        if self._clip is None:
            return g.new_ones(len(g))
        norms: Tensor = torch.linalg.vector_norm(g, dim=1)
        if bool(norms.isfinite().all()):
            self._norms[name].extend(norm for norm in norms.tolist() if norm)
        most = self._clip * median(self._norms[name] or [0.0])
        scale: Tensor = (most / norms.clamp(min=1e-30)).clamp(max=1.0)
        return scale

    def sum_at(self, name: str, index: Tensor) -> Tensor:
        """(n,) weighted sums of the per-sample gradients at flat indices of a layer."""
        return self.first[name].reshape(-1)[index]

    def samples(self, name: str) -> float:
        """Effective number of samples, (sum of weights)^2 / sum of squared weights."""
        return self._weight[name] ** 2 / self._weight2[name] if self._weight2[name] else 0.0

    def mean(self, name: str) -> Tensor:
        """(out, in) weighted mean gradient."""
        return self._mean_of(name, self.first)

    def _mean_of(self, name: str, sums: dict[str, Tensor]) -> Tensor:
        """(out, in) weighted means from weighted sums; 0 where nothing was seen since `forget`."""
        weight = max(self._weight[name], 1e-30)
        found = sums[name] / weight
        if name in self._forgotten:
            index, missing = self._forgotten[name]
            seen = 1 - missing / weight
            found.view(-1)[index] *= torch.where(seen > 1e-6, 1 / seen, 0.0)
        return found

    def standard_error(self, name: str) -> Tensor:
        """(out, in) standard error of the mean; infinite where fewer than two samples were seen."""
        n = self.samples(name)
        if n <= 1:
            return torch.full_like(self.first[name], math.inf)
        mean = self.mean(name)
        variance = self._mean_of(name, self.second).sub_(mean.square()).clamp_(min=0)
        return variance.div_(n - 1).sqrt_()

    def posterior(self, name: str, prior_samples: float = 16.0) -> Tensor:
        """(out, in) posterior mean of the gradient under a normal prior of its own layer (empirical Bayes).

        The squared standard errors are moderated: pooled with their row-times-column pattern as if it had
        been seen in `prior_samples` samples (G. K. Smyth, 2004, Linear models and empirical Bayes methods; a
        rank-one pattern here instead of one common variance). The prior's variance has the same pattern,
        scaled so that noise and signal together give the layer's mean square. The mean where none is known.
        """
        mean, n = self.mean(name), self.samples(name)
        if n <= 1:
            return mean
        noise = self.standard_error(name).square_()
        pattern = _rank_one(noise)
        noise.mul_(n - 1).add_(pattern, alpha=prior_samples).div_(n - 1 + prior_samples)
        level = noise.mean().clamp(min=1e-30)
        signal = (mean.square().mean() - level).clamp(min=0)
        prior = pattern.mul_(signal / level)
        return mean.mul_(prior / noise.add_(prior).clamp_(min=1e-30))

    def shrunk(self, name: str, errors: float) -> Tensor:
        """sign(g) max(|g| - errors * se, 0): what of the mean is not noise; errors=0 is the mean itself."""
        mean = self.mean(name)
        if errors == 0:
            return mean
        margin = self.standard_error(name).mul_(errors)
        return mean.sign().mul_(mean.abs().sub_(margin).clamp_(min=0))


def _rank_one(v: Tensor) -> Tensor:
    """Row means times column means of a non-negative (out, in) tensor, with its mean."""
    return torch.outer(v.mean(1), v.mean(0)).div_(v.mean().clamp(min=1e-30))
