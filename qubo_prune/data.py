"""Data: batches of the three disjoint ranges, from whatever a caller has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qubo_prune.calibration import Calibration
from qubo_prune.errors import InputError
from qubo_prune.objective import Batch


@dataclass(frozen=True)
class Data:
    """Batches of the three disjoint ranges; `report` may be empty (then no figure is reported).

    own: batches that the dense model wrote itself (see `own_text`), to fit on beside those of `calibrate`;
    own_refit: further ones, for the refit alone. What a recipe has the model write joins them.
    """

    calibrate: Sequence[Batch]
    accept: Sequence[Batch]
    report: Sequence[Batch] = ()
    own: Sequence[Batch] = ()
    own_refit: Sequence[Batch] = ()

    @classmethod
    def of(cls, calibration: Calibration | Data | Tensor | Iterable[Batch], batch: int) -> Data:
        """From token windows, from three ranges of batches, or from any finite iterable of batches.

        A plain iterable is cut in order: the last eighth (at least one batch) reports, the eighth before it
        accepts, the rest calibrates; it needs at least three batches. A tensor holds samples, cut into
        batches of `batch`.
        """
        if isinstance(calibration, Data | Calibration):
            c = calibration
            parts = [c.calibrate, c.accept, c.report]
            if isinstance(c, Data):
                parts += [c.own, c.own_refit]
            data = cls(*(in_batches(part, batch) for part in parts))
        else:
            batches = in_batches(calibration, batch)
            if 0 < len(batches) < 3:
                raise InputError(
                    f"calibration has {len(batches)} batches: give at least 3 (calibrate, accept, report), "
                    "or a qubo_prune.Data with the three ranges"
                )
            part = max(1, len(batches) // 8)
            data = cls(batches[: -2 * part], batches[-2 * part : -part], batches[-part:])
        if not len(data.calibrate):
            raise InputError("calibration is empty: give at least one batch to calibrate on")
        return data


def in_batches(source: Tensor | Iterable[Batch], batch: int) -> Sequence[Batch]:
    """A tensor of samples in pieces of `batch`; any other sequence or iterable of batches as it is."""
    if isinstance(source, str | Mapping):
        raise InputError(f"calibration is one {type(source).__name__}: give a list of batches")
    if not isinstance(source, Tensor):
        return source if isinstance(source, Sequence) else list(source)
    if not source.numel():
        return []
    if source.dim() < 2:
        raise InputError(f"calibration has shape {tuple(source.shape)}: give token windows (n, length)")
    return list(torch.split(source, batch))
