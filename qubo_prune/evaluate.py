"""Figures of a pruned model: perplexity of a text, KL to the dense model, density layer by layer.

dense = DenseReference(model, windows)          # before pruning
perplexity(model, tokens, length=1024, windows=16)
kl_to_dense(model, dense)                       # after
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from qubo_prune.errors import InputError
from qubo_prune.forward import Forward, forward_of
from qubo_prune.layers import Layer
from qubo_prune.masks import check_masks, density
from qubo_prune.products import quick_products

_POSITIONS = 256
"""Positions whose log-probabilities are formed at once: 256 x 49,152 float32 are 50 MB."""


@dataclass(frozen=True)
class PerplexityResult:
    """perplexity = exp(nll); nll: mean nats per predicted token; tokens: how many were predicted."""

    perplexity: float
    nll: float
    tokens: int
    windows: int
    length: int
    stride: int
    last_window: str = "an incomplete last window is left out"


@quick_products()
def perplexity(
    model: nn.Module | Forward,
    tokens: Tensor,
    *,
    length: int,
    windows: int | None = None,
    stride: int | None = None,
    batch: int = 1,
) -> PerplexityResult:
    """Perplexity of a causal model on `tokens` (1-D int64: a whole text tokenised once, no BOS).

    The text is cut into windows of `length` tokens, one every `stride` (default: length, so that none
    overlap); the first `windows` of them are used, None for all. An incomplete last window is left out. In
    each window every token but the first is predicted from those before it: windows * (length - 1)
    predictions. With stride < length a window after the first counts only its last `stride` tokens, so that
    no token counts twice. model: a transformers model (in evaluation mode), or a callable (B, length) ids ->
    (B, length, V) logits. batch: windows per forward pass; it changes speed and memory, not the figure (but
    for rounding). Log-probabilities are formed in float32 and summed in float64.

    InputError: fewer complete windows than asked for, tokens that are not one sequence, a stride outside
    [1, length], a length below 2.
    """
    stride = length if stride is None else stride
    if tokens.ndim != 1 or length < 2 or not 1 <= stride <= length or batch < 1:
        raise InputError(
            f"perplexity: tokens {tuple(tokens.shape)}, length={length}, stride={stride}, batch={batch}: "
            "tokens must be one sequence, length at least 2, stride between 1 and length, batch at least 1."
        )
    complete = 0 if len(tokens) < length else (len(tokens) - length) // stride + 1
    wanted = complete if windows is None else windows
    if not 1 <= wanted <= complete:
        raise InputError(
            f"perplexity: {wanted} windows of {length} asked for, the text of {len(tokens)} tokens "
            f"has {complete}: ask for fewer or shorter windows, or give a longer text."
        )
    forward, total, counted = forward_of(model), 0.0, 0
    for start in range(0, wanted, batch):
        numbers = torch.arange(start, min(start + batch, wanted))
        ids = tokens[(numbers * stride)[:, None] + torch.arange(length)]
        counts = (numbers == 0)[:, None] | (torch.arange(1, length) >= length - stride)
        nll = token_nll(forward, ids)
        total += float(nll[counts.to(nll.device)].sum(dtype=torch.float64))
        counted += int(counts.sum())
    mean = total / counted
    return PerplexityResult(_exp(mean), mean, counted, wanted, length, stride)


@torch.no_grad()
def token_nll(model: nn.Module | Forward, ids: Tensor) -> Tensor:
    """(B, length - 1) float32 nats: minus the log-probability of each of ids (B, length) but the first."""
    logits = forward_of(model)(ids)
    targets = ids[:, 1:].to(logits.device)
    nll = torch.empty(targets.shape, dtype=torch.float32, device=logits.device)
    for row in range(len(ids)):
        for start in range(0, targets.shape[1], _POSITIONS):
            stop = min(start + _POSITIONS, targets.shape[1])
            part = logits[row, start:stop].float()
            nll[row, start:stop] = nn.functional.cross_entropy(
                part, targets[row, start:stop], reduction="none"
            )
    return nll


class DenseReference:
    """What the dense model says about windows of tokens: its log-probabilities, kept for `kl_to_dense`.

    Make it while the weights are dense. Stored on the CPU, one tensor (length - 1, V) a window; float16 by
    default, 2 bytes * windows * (length - 1) * V: 400 MB for 4,096 tokens of a vocabulary of 49,152.
    `store=torch.float32` doubles that. Stored values are normalised again when read. What float16 costs,
    measured on SmolLM2-135M: the dense model's KL to its own reference is 4.5e-7 nats, and a KL of 2.22 is
    off by 1.1e-5. bfloat16 is refused.

    windows: int64 (n, length). InputError: not 2-D, none, or shorter than 2 tokens; a store of another dtype.
    """

    @quick_products()
    def __init__(
        self,
        model: nn.Module | Forward,
        windows: Tensor,
        *,
        store: torch.dtype = torch.float16,
        batch: int = 1,
    ) -> None:
        if windows.ndim != 2 or windows.shape[0] < 1 or windows.shape[1] < 2:
            raise InputError(f"DenseReference: windows {tuple(windows.shape)} must be (n >= 1, length >= 2).")
        if store not in (torch.float16, torch.float32):
            raise InputError(f"DenseReference: store={store}; write torch.float16 or torch.float32.")
        self.windows = windows
        self._stored: list[Tensor] = []
        forward = forward_of(model)
        for start in range(0, len(windows), batch):
            with torch.no_grad():
                logits = forward(windows[start : start + batch])[:, :-1]
                for one in logits:
                    self._stored.append(_log_probs_in(one, store))

    def __len__(self) -> int:
        """How many windows there are."""
        return len(self._stored)

    @property
    def nbytes(self) -> int:
        """The memory of the stored log-probabilities, in bytes."""
        return sum(stored.nbytes for stored in self._stored)

    def log_probs(self, window: int, positions: slice = slice(None), device: Any = "cpu") -> Tensor:
        """(positions, V) float32 log-probabilities of one window, normalised."""
        return self._stored[window][positions].to(device).float().log_softmax(-1)


def _log_probs_in(logits: Tensor, store: torch.dtype) -> Tensor:
    """(positions, V) log-probabilities on the CPU in the storing dtype, formed a part at a time."""
    stored = torch.empty(logits.shape, dtype=store)
    floor = torch.finfo(torch.float16).min
    for start in range(0, len(logits), _POSITIONS):
        part = logits[start : start + _POSITIONS].float().log_softmax(-1)
        stored[start : start + _POSITIONS] = part.clamp_(min=floor).cpu()
    return stored


@torch.no_grad()
@quick_products()
def kl_to_dense(
    model: nn.Module | Forward,
    dense: DenseReference | nn.Module | Forward,
    windows: Tensor | None = None,
    *,
    batch: int = 1,
) -> float:
    """KL(dense || model) in nats per predicted token: the mean over all positions of all windows but each
    one's last.

    dense: a DenseReference (then `windows` is its own), or the dense model or forward itself (then `windows`
    is int64 (n, length) and both models run). Terms are float32, sums float64; memory beyond one batch of
    logits is bounded. InputError: windows missing, or given beside a reference.
    """
    if isinstance(dense, DenseReference):
        if windows is not None:
            raise InputError("kl_to_dense: a DenseReference has its own windows; leave `windows` out.")
        windows = dense.windows
    elif windows is None:
        raise InputError("kl_to_dense: with a dense model give `windows`, int64 (n, length).")
    forward, total, counted = forward_of(model), 0.0, 0
    teacher = None if isinstance(dense, DenseReference) else forward_of(dense)
    for start in range(0, len(windows), batch):
        ids = windows[start : start + batch]
        answers = None if teacher is None else teacher(ids)[:, :-1]
        logits = forward(ids)[:, :-1]
        for row, one in enumerate(logits):
            for first in range(0, len(one), _POSITIONS):
                part = slice(first, first + _POSITIONS)
                if isinstance(dense, DenseReference):
                    p = dense.log_probs(start + row, part, one.device)
                else:
                    assert answers is not None
                    p = answers[row, part].to(one.device).float().log_softmax(-1)
                q = one[part].float().log_softmax(-1)
                total += float((p.exp() * (p - q)).sum(-1, dtype=torch.float64).sum())
            counted += len(one)
    return total / counted


def density_report(layers: Mapping[str, Layer], masks: Mapping[str, Tensor]) -> dict[str, Any]:
    """What masks keep, as plain numbers for a report: `kept`, `total`, `density`, `sparsity`, and rows in
    `layers`.

    A row has name, shape, kept, total, density, and `zeros`: the weights that are zero now, which may be more
    than the pruned ones, as a kept weight may be zero. InputError: masks that fit no layer, or none.
    """
    check_masks(layers, masks)
    found = density(masks)
    rows = [
        {
            "name": name,
            "shape": list(layers[name].shape),
            "kept": kept,
            "total": total,
            "density": kept / total,
            "zeros": total - int(layers[name].weight.count_nonzero()),
        }
        for name, (kept, total) in found.layers.items()
    ]
    return {
        "kept": found.kept,
        "total": found.total,
        "density": found.density,
        "sparsity": found.sparsity,
        "layers": rows,
    }


def _exp(value: float) -> float:
    """exp, infinite where it overflows."""
    return math.exp(value) if value < 700 else math.inf
