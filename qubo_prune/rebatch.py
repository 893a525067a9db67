"""Batches of another size or length, cut and put together from those there are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from qubo_prune.errors import InputError
from qubo_prune.objective import Batch, batch_size


def shortened(batches: Sequence[Batch], length: int | None) -> list[Batch]:
    """Batches (B, T) of token ids cut into parts (B, about `length` or less, at least 2); None: as they are.

    The parts of a batch differ by one token at most. InputError: other batches.
    """
    if length is None:
        return list(batches)
    found: list[Batch] = []
    for batch in batches:
        if not isinstance(batch, Tensor) or batch.dim() != 2 or batch.is_floating_point():
            raise InputError(
                f"refit.length={length} cuts windows of token ids (B, T), and there are other batches: leave "
                "it out"
            )
        tokens = batch.shape[1]
        found += batch.tensor_split(max(1, min(-(-tokens // length), tokens // 2)), 1)
    return found


def rebatched(batches: Sequence[Batch], size: int) -> Iterator[Batch]:
    """Batches of at most `size` samples, cut and put together from these where they are tensors, or mappings
    of tensors, of one form; others are pieces as they are."""
    held: list[Batch] = []
    for part in (part for batch in batches for part in _parts(batch, size)):
        if held and not (_like(held[0], part) and sum(map(batch_size, [*held, part])) <= size):
            yield _joined(held)
            held = []
        held.append(part)
    if held:
        yield _joined(held)


def _parts(batch: Batch, size: int) -> list[Batch]:
    """A batch in pieces of at most `size` samples, where it is a tensor or a mapping of tensors."""
    if isinstance(batch, Tensor) and batch.dim():
        return list(batch.split(size))
    if isinstance(batch, Mapping) and all(isinstance(v, Tensor) and v.dim() for v in batch.values()):
        parts = [value.split(size) for value in batch.values()]
        if len({len(p) for p in parts}) == 1:
            return [dict(zip(batch, values, strict=True)) for values in zip(*parts, strict=True)]
    return [batch]


def _like(one: Batch, other: Batch) -> bool:
    """Whether two batches can be put together along their samples."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dim() > 0 and one.shape[1:] == other.shape[1:] and one.dtype == other.dtype
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)) or one.keys() != other.keys():
        return False
    return all(isinstance(one[key], Tensor) and _like(one[key], other[key]) for key in one)


def _joined(parts: list[Batch]) -> Batch:
    """Batches that are alike, as one."""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
