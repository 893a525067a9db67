"""Which weights to keep, from scores: exact counts always, ties broken by position, on any device.

Scores are compared as float32. Of equal scores the one at the lowest position (row by row; for
`keep_topk_global`, layer by layer first) is pruned first, so the same scores always give the same mask, on
every device.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from qubo_prune.errors import InputError

Granularity = Literal["layer", "output", "input", "global"]
"""Where a count holds: over a layer, in each output row, in each input column, or over all layers."""

_CHUNK = 1 << 22
"""Weights looked at in one go: bounds the temporary memory to a few tens of MB."""


def prune_count(numel: int, sparsity: float) -> int:
    """How many of `numel` weights a sparsity prunes: nearest, halves up. InputError: outside [0, 1]."""
    if not 0.0 <= sparsity <= 1.0:
        raise InputError(f"sparsity={sparsity}: it is the pruned fraction and must lie between 0 and 1.")
    return min(numel, math.floor(numel * sparsity + 0.5))


def keep_topk(
    scores: Tensor, n_prune: int, granularity: Granularity = "layer", *, name: str = "scores"
) -> Tensor:
    """bool (out, in), True = kept: prunes exactly `n_prune` weights, those with the lowest scores.

    granularity: "layer" over the whole matrix; "output" within each row (as Wanda does), "input" within each
    column: the counts of two rows (columns) differ by at most one, and those pruned by one more are those
    whose next score is lowest; "global" is "layer" here: see `keep_topk_global` for several layers.
    InputError, naming `name`: scores that are not a matrix or not finite, a count outside [0, numel].
    """
    if granularity not in get_args(Granularity):
        raise InputError(f"granularity={granularity!r}: write one of {', '.join(get_args(Granularity))}.")
    _check(scores, n_prune, name)
    if granularity == "output":
        return _keep_by_row(_comparable(scores), n_prune)
    if granularity == "input":
        return _keep_by_row(_comparable(scores.t().contiguous()), n_prune).t().contiguous()
    return keep_topk_global({name: scores}, n_prune)[name]


def keep_rows(scores: Tensor, counts: Tensor, *, name: str = "scores") -> Tensor:
    """bool (out, in), True = kept: row i prunes exactly its `counts[i]` lowest scores, ties by column.

    counts: (out,) integers. InputError, naming `name`: scores as for `keep_topk`, counts that fit no row.
    """
    _check(scores, 0, name)
    counts = check_rows(counts, scores, name)
    order = _comparable(scores).argsort(dim=1, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device)
    return torch.empty_like(scores, dtype=torch.bool).scatter_(1, order, places >= counts[:, None])


def check_rows(counts: Tensor, matrix: Tensor, name: str, total: int | None = None) -> Tensor:
    """(out,) int64 on the device of the (out, in) matrix: what each of its rows prunes.

    InputError, naming `name`: not a count for each row, or another total than the one given.
    """
    out, inputs = matrix.shape
    if counts.shape != (out,) or not bool(((counts >= 0) & (counts <= inputs)).all()):
        raise InputError(f"{name}: it needs a count from 0 to {inputs} for each of its {out} rows.")
    if total is not None and int(counts.sum()) != total:
        raise InputError(f"{name}: its rows prune {int(counts.sum())} weights, they must prune {total}.")
    return counts.to(matrix.device, torch.int64)


def keep_topk_global(scores: Mapping[str, Tensor], n_prune: int) -> dict[str, Tensor]:
    """bool (out, in) for each layer: prunes exactly `n_prune` weights, the lowest scores over all layers
    together.

    The threshold is found by two passes of 65,536-bin histograms over the scores' bits, so nothing is sorted
    or concatenated: memory beyond scores and masks is a few tens of MB. Ties go by layer, then position.
    InputError: as for `keep_topk`.
    """
    total = sum(score.numel() for score in scores.values())
    for name, score in scores.items():
        _check(score, 0, name)
    if not 0 <= n_prune <= total:
        raise InputError(f"n_prune={n_prune}: it must lie between 0 and the {total} weights there are.")
    if n_prune == 0:
        return {name: torch.ones_like(score, dtype=torch.bool) for name, score in scores.items()}
    threshold, ties = _threshold(scores, n_prune)
    masks: dict[str, Tensor] = {}
    for name, score in scores.items():
        flat = score.reshape(-1)
        kept = torch.empty(flat.shape, dtype=torch.bool, device=flat.device)
        for start in range(0, flat.numel(), _CHUNK):
            keys = _keys(flat[start : start + _CHUNK])
            part = kept[start : start + _CHUNK]
            torch.ge(keys, threshold, out=part)
            if ties:
                equal = (keys == threshold).nonzero().reshape(-1)[:ties]
                part[equal] = False
                ties -= equal.numel()
        masks[name] = kept.reshape(score.shape)
    return masks


def nm_mask(scores: Tensor, n: int, m: int, *, name: str = "scores") -> Tensor:
    """bool (out, in): of each m consecutive inputs of a row the n with the highest scores are kept (2:4 is
    n=2, m=4).

    InputError, naming `name`: m does not divide the inputs, n outside [0, m], or scores as for `keep_topk`.
    """
    _check(scores, 0, name)
    if not 0 <= n <= m or m < 1:
        raise InputError(f"pattern {n}:{m}: of each m weights n are kept, so 0 <= n <= m and m >= 1.")
    out, inputs = scores.shape
    if inputs % m:
        raise InputError(
            f"{name}: {inputs} inputs cannot be cut into groups of {m}; choose an m that divides them."
        )
    rows = max(1, _CHUNK // max(inputs, 1))
    kept = torch.ones(scores.shape, dtype=torch.bool, device=scores.device)
    for start in range(0, out, rows):
        groups = _comparable(scores[start : start + rows]).reshape(-1, m)
        lowest = groups.sort(dim=1, stable=True).indices[:, : m - n]
        part = torch.ones(groups.shape, dtype=torch.bool, device=scores.device).scatter_(1, lowest, False)
        kept[start : start + rows] = part.reshape(-1, inputs)
    return kept


def _check(scores: Tensor, n_prune: int, name: str) -> None:
    """InputError unless scores are a finite matrix and the count fits."""
    if scores.ndim != 2:
        raise InputError(f"{name}: scores have shape {tuple(scores.shape)}, they must be (out, in).")
    if not 0 <= n_prune <= scores.numel():
        raise InputError(f"{name}: n_prune={n_prune} must lie between 0 and its {scores.numel()} weights.")
    if not bool(torch.isfinite(scores.sum(dtype=torch.float64))) and (
        bad := int((~torch.isfinite(scores)).count_nonzero())
    ):
        raise InputError(f"{name}: {bad} scores are NaN or infinite; check its weights and its statistics.")


def _comparable(scores: Tensor) -> Tensor:
    """Scores as float32 without negative zeros, so that equal values are equal bits."""
    return scores.to(torch.float32) + 0.0


def _keys(scores: Tensor) -> Tensor:
    """int32 with the order of the scores: the bits of a float32, those of negative numbers turned about."""
    bits = _comparable(scores).view(torch.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _threshold(scores: Mapping[str, Tensor], n_prune: int) -> tuple[int, int]:
    """The key of the n_prune-th lowest score, and how many scores with just this key are to be pruned."""
    remaining = n_prune
    counts = torch.zeros(1 << 16, dtype=torch.int64)
    for keys in _all_keys(scores):
        counts += torch.bincount((keys >> 16) + (1 << 15), minlength=1 << 16).cpu()
    high, remaining = _bin_of(counts, remaining)
    counts.zero_()
    for keys in _all_keys(scores):
        inside = keys[(keys >> 16) == high - (1 << 15)]
        counts += torch.bincount(inside & 0xFFFF, minlength=1 << 16).cpu()
    low, remaining = _bin_of(counts, remaining)
    return ((high - (1 << 15)) << 16) | low, remaining


def _all_keys(scores: Mapping[str, Tensor]) -> Iterator[Tensor]:
    """The keys of all scores, a chunk at a time."""
    for score in scores.values():
        flat = score.reshape(-1)
        for start in range(0, flat.numel(), _CHUNK):
            yield _keys(flat[start : start + _CHUNK])


def _bin_of(counts: Tensor, rank: int) -> tuple[int, int]:
    """The bin of the rank-th lowest (from 1), and its rank within the bin."""
    cumulative = counts.cumsum(0)
    found = int(torch.searchsorted(cumulative, torch.tensor(rank)))
    return found, rank - int(cumulative[found] - counts[found])


def _keep_by_row(scores: Tensor, n_prune: int) -> Tensor:
    """Prune n_prune in all, each row the same number or one more, ties by column."""
    out, inputs = scores.shape
    base, extra = divmod(n_prune, out)
    longer = torch.zeros(out, dtype=torch.bool, device=scores.device)
    limit = torch.full((out,), -torch.inf, device=scores.device)
    if base:
        limit = torch.kthvalue(scores, base, dim=1).values
    if extra:
        following = torch.kthvalue(scores, base + 1, dim=1).values
        longer = ~keep_topk_global({"rows": following[:, None]}, extra)["rows"].reshape(-1)
        limit = torch.where(longer, following, limit)
    kept = torch.empty(scores.shape, dtype=torch.bool, device=scores.device)
    rows = max(1, _CHUNK // max(inputs, 1))
    for start in range(0, out, rows):
        part, bound = scores[start : start + rows], limit[start : start + rows, None]
        below, equal = part < bound, part == bound
        quota = base + longer[start : start + rows, None].to(torch.int64) - below.sum(1, keepdim=True)
        kept[start : start + rows] = ~(below | (equal & (equal.cumsum(1, dtype=torch.int32) <= quota)))
    return kept
