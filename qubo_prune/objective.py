"""What pruning should not change: the losses whose gradients and Fisher the quadratic models come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from qubo_prune.errors import InputError
from qubo_prune.forward import forward_of

Batch = Any
Logits = Callable[[nn.Module, Batch], Tensor]
"""(model, batch) -> logits (B, positions, classes) or (B, classes)."""


@dataclass(frozen=True)
class Signals:
    """One forward pass, ready to be pulled back.

    value     (B,) the loss of each sample, detached; B tells how many samples there are
    output    the tensor to pull back from, part of the graph
    loss      cotangent of `output` for the sum over samples of their losses
    label     cotangent for the cross-entropy to labels sampled from the model itself, or None
    tokens    positions a sample's loss is a mean over
    """

    value: Tensor
    output: Tensor
    loss: Tensor
    label: Tensor | None
    tokens: int


class Objective(Protocol):
    """A loss per sample. `needs_teacher`: whether it compares with the dense model's logits."""

    needs_teacher: bool

    def teacher(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """What has to be kept of the dense model's answer (called with the dense weights in place)."""

    def value(self, model: nn.Module, batch: Batch, teacher: Tensor | None) -> Tensor:
        """(B,) float64 losses; where gradients are enabled, with their graph."""

    def signals(
        self, model: nn.Module, batch: Batch, teacher: Tensor | None, generator: torch.Generator | None
    ) -> Signals:
        """Forward with a graph; a generator asks for sampled labels too."""


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Logits of any model: (B, T-1, V) next-token logits of a causal language model (token ids in, three
    dimensions out; the last position predicts nothing that is there), else what the model answers."""
    logits = forward_of(model)(batch)
    causal = getattr(model, "main_input_name", None) == "input_ids" and logits.dim() == 3
    return logits[:, :-1] if causal else logits


def sample_labels(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """One label per position, independent: inverse of the cumulative distribution; (B, P, V) -> (B, P)."""
    cumulative = probabilities.cumsum(-1)
    shape = (*probabilities.shape[:-1], 1)
    u = torch.rand(shape, generator=generator, device=generator.device).to(probabilities.device)
    drawn = torch.searchsorted(cumulative, u * cumulative[..., -1:], right=True)  # never one of probability 0
    return drawn.clamp_(max=probabilities.shape[-1] - 1)[..., 0]


def label_signals(
    objective: Objective, model: nn.Module, batch: Batch, generator: torch.Generator
) -> Signals:
    """A forward pass, with the cotangent of the cross-entropy to labels sampled from the model as `loss`.

    An objective without `label_signals` of its own is asked for its signals, with the model as its own
    teacher; where these have no label, `loss` is that of the objective.
    """
    own = getattr(objective, "label_signals", None)
    if own is not None:
        found: Signals = own(model, batch, generator)
        return found
    with torch.no_grad():
        teacher = objective.teacher(model, batch) if objective.needs_teacher else None
    signals = objective.signals(model, batch, teacher, generator)
    return signals if signals.label is None else replace(signals, loss=signals.label, label=None)


@torch.no_grad()
def label_cotangent(logits: Tensor, generator: torch.Generator) -> Tensor:
    """(B, P, V) cotangent of the cross-entropy to labels newly sampled from these logits (B, P, V)."""
    return _label(_log_softmax(logits.detach()).exp_(), generator, logits.dtype)


def _label(q: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """(B, P, V) cotangent of the mean over positions of the cross-entropy to a label sampled from each of the
    distributions q (B, P, V), which it is written over."""
    y = sample_labels(q, generator).unsqueeze(-1)
    return q.scatter_add_(-1, y, -torch.ones_like(y, dtype=q.dtype)).div_(q.shape[1]).to(dtype)


_OWN_LOSS = "without a causal language model and its token ids give a loss of your own, prune(..., loss=...)"


def _log_softmax(logits: Tensor) -> Tensor:
    """In float32 at least."""
    return torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), -1)


class _LogitObjective:
    """Shared by the objectives that look at logits: sampled labels give the true Fisher (Gauss-Newton)."""

    def __init__(self, logits: Logits = logits_of) -> None:
        self.logits = logits

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = self.logits(model, batch)
        return logits.unsqueeze(1) if logits.dim() == 2 else logits

    def _finish(
        self, logits: Tensor, q: Tensor, value: Tensor, loss: Tensor, generator: torch.Generator | None
    ) -> Signals:
        tokens = logits.shape[1]
        label = None if generator is None else _label(q, generator, logits.dtype)
        return Signals(value, logits, loss.div_(tokens).to(logits.dtype), label, tokens)

    def label_signals(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> Signals:
        """Of the cross-entropy to sampled labels alone: its cotangent is `loss`, and values are 0."""
        logits = self._logits(model, batch)
        with torch.no_grad():
            label = label_cotangent(logits, generator)
        nothing = torch.zeros(len(logits), dtype=torch.float64, device=logits.device)
        return Signals(nothing, logits, label, None, logits.shape[1])


class KLToDense(_LogitObjective):
    """KL(dense || pruned) in nats per predicted token, mean over a sample's positions."""

    needs_teacher = True

    @torch.no_grad()
    def teacher(self, model: nn.Module, batch: Batch) -> Tensor:
        """(B, P, V) float16 log-probabilities of the dense model; they are normalised again when used.

        float16 halves the memory; a KL of 2.2 nats moves by 1e-5 (see `evaluate.DenseReference`).
        """
        floor = torch.finfo(torch.float16).min
        return _log_softmax(self._logits(model, batch)).clamp_(min=floor).half()

    def value(self, model: nn.Module, batch: Batch, teacher: Tensor | None) -> Tensor:
        assert teacher is not None
        log_p = _log_softmax(teacher)
        log_q = _log_softmax(self._logits(model, batch))
        return _kl(log_p, log_p.exp(), log_q)

    def signals(
        self, model: nn.Module, batch: Batch, teacher: Tensor | None, generator: torch.Generator | None
    ) -> Signals:
        assert teacher is not None
        logits = self._logits(model, batch)
        with torch.no_grad():
            log_q = _log_softmax(logits.detach())
            log_p = _log_softmax(teacher)
            p = log_p.exp()
            value = _kl(log_p, p, log_q)
            q = log_q.exp_()
            return self._finish(logits, q, value, q - p, generator)  # d KL / d logits = q - p


class CrossEntropy(_LogitObjective):
    """Next-token cross-entropy of a causal model: the loss of the iCBS paper (arXiv 2411.17796).

    `labels(batch)` gives (B, P) class ids; by default the batch's own tokens, shifted by one.
    """

    needs_teacher = False

    def __init__(self, logits: Logits = logits_of, labels: Callable[[Batch], Tensor] | None = None) -> None:
        super().__init__(logits)
        self.labels = labels or _next_tokens

    def teacher(self, model: nn.Module, batch: Batch) -> None:
        return None

    def value(self, model: nn.Module, batch: Batch, teacher: Tensor | None) -> Tensor:
        log_q = _log_softmax(self._logits(model, batch))
        return _nll(log_q, self._targets(batch, log_q))

    def signals(
        self, model: nn.Module, batch: Batch, teacher: Tensor | None, generator: torch.Generator | None
    ) -> Signals:
        logits = self._logits(model, batch)
        with torch.no_grad():
            log_q = _log_softmax(logits.detach())
            y = self._targets(batch, log_q)
            value = _nll(log_q, y)
            q = log_q.exp_()
            loss = q.clone().scatter_add_(-1, y, -torch.ones_like(y, dtype=q.dtype))
            return self._finish(logits, q, value, loss, generator)

    def _targets(self, batch: Batch, log_q: Tensor) -> Tensor:
        labels = self.labels(batch).to(log_q.device)
        if labels.numel() != log_q.shape[:-1].numel() or labels.is_floating_point():
            raise InputError(
                f"the cross-entropy of logits {tuple(log_q.shape)} needs a class for each position, and the "
                f"batches have {labels.dtype} {tuple(labels.shape)}: {_OWN_LOSS}"
            )
        return labels.reshape(log_q.shape[:-1]).unsqueeze(-1)


class CustomLoss:
    """Any loss function of (model, batch): a scalar mean over the batch, or one value a sample (B,).

    tokens: positions a sample's loss is a mean over (1: none, as in classification); it says how to split
    long samples and how to scale the curvature. There are no logits to sample labels from, so the curvature
    is the empirical per-sample Fisher. The samples of a scalar's batch are counted by `batch_size`.
    """

    needs_teacher = False

    def __init__(self, loss: Callable[[nn.Module, Batch], Tensor], tokens: int = 1) -> None:
        self.loss, self.tokens = loss, tokens

    def teacher(self, model: nn.Module, batch: Batch) -> None:
        return None

    def value(self, model: nn.Module, batch: Batch, teacher: Tensor | None) -> Tensor:
        loss = self._checked(self.loss(model, batch)).double()
        return loss if loss.dim() else loss.expand(batch_size(batch))

    def signals(
        self, model: nn.Module, batch: Batch, teacher: Tensor | None, generator: torch.Generator | None
    ) -> Signals:
        output = self._checked(self.loss(model, batch))
        value = output.detach().double()
        if not value.dim():
            value = value.expand(batch_size(batch))
        return Signals(value, output, torch.full_like(output, len(value) / output.numel()), None, self.tokens)

    @staticmethod
    def _checked(loss: Tensor) -> Tensor:
        if not isinstance(loss, Tensor) or loss.dim() > 1:
            found = f"shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            raise InputError(f"the loss must be a scalar tensor or one value per sample (B,), not {found}")
        return loss


def batch_size(batch: Batch, unknown: int | None = None) -> int:
    """Samples of a batch: the first dimension of the first tensor in it, in mappings and sequences too."""
    size = _first_size(batch)
    size = unknown if size is None else size
    if size is None:
        raise InputError(
            f"cannot count the samples of a batch of type {type(batch).__name__}: "
            "let the loss return one value per sample (B,)"
        )
    return size


def _first_size(batch: Batch) -> int | None:
    if isinstance(batch, Tensor):
        return int(batch.shape[0]) if batch.dim() else None
    values = batch.values() if isinstance(batch, Mapping) else batch
    if isinstance(batch, str) or not isinstance(batch, Mapping | Sequence):
        return None
    return next((size for size in map(_first_size, values) if size is not None), None)


def _kl(log_p: Tensor, p: Tensor, log_q: Tensor) -> Tensor:
    """(B,) float64 mean over positions of sum p (log p - log q)."""
    return (p * (log_p - log_q)).sum(-1).double().mean(1)


def _nll(log_q: Tensor, y: Tensor) -> Tensor:
    """(B,) float64 mean over positions of the labels' -log q; y (B, P, 1)."""
    return -log_q.gather(-1, y)[..., 0].double().mean(1)


def _next_tokens(batch: Batch) -> Tensor:
    ids = batch.get("input_ids") if isinstance(batch, Mapping) else batch
    if not isinstance(ids, Tensor) or ids.dim() < 2:
        raise InputError(f"the cross-entropy found no token ids in a {type(batch).__name__}: {_OWN_LOSS}")
    return ids[:, 1:]
