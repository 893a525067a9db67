"""The model under pruning: its layers, the values weights have when kept, the masks, and exact flips."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from qubo_prune.layers import Layer
from qubo_prune.masks import Masks


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done, so that masks never change by halves (main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = False

    def note(*_: object) -> None:
        nonlocal caught
        caught = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
    if caught:
        signal.raise_signal(signal.SIGINT)


@dataclass(frozen=True, eq=False)
class Saved:
    """Kept values and masks to come back to: see `PruneState.saved`."""

    kept_values: dict[str, Tensor]
    masks: Masks


class PruneState:
    """Holds the invariant: every weight is its kept value where its mask is True and 0 where it is False.

    kept_values  layer -> (out, in) copy of the value each weight has, or returns with, when kept; only
                 `refit` changes it
    masks        layer -> (out, in) bool, True = kept
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer], masks: Masks | None = None) -> None:
        self.model = model
        self.layers = dict(layers)
        self.kept_values = {
            name: layer.weight.clone(memory_format=torch.contiguous_format)
            for name, layer in self.layers.items()
        }
        self._originals: dict[str, Tensor] = {}  # of the layers that were refitted
        self.masks: Masks = {
            name: torch.ones(layer.shape, dtype=torch.bool, device=layer.weight.device)
            for name, layer in self.layers.items()
        }
        if masks is not None:
            self.set_masks(masks)

    @torch.no_grad()
    def set_masks(self, masks: Masks) -> None:
        """Take over these masks (cloned) and write the weights."""
        for name in self.layers:
            self.masks[name] = masks[name].clone(memory_format=torch.contiguous_format)
        self.write()

    @torch.no_grad()
    def restore_dense(self) -> None:
        """Every mask all kept, every weight at its original value: the model as it came."""
        self.kept_values |= self._originals
        self._originals.clear()
        for mask in self.masks.values():
            mask.fill_(True)
        self.write()

    @torch.no_grad()
    def write(self, names: Iterable[str] | None = None) -> None:
        """Write every weight (or those of some layers) from its kept value and mask."""
        with uninterrupted():
            for name in self.layers if names is None else names:
                # copy_ and masked_fill, not a product: -w * 0 would leave negative zeros
                self.layers[name].weight.copy_(self.kept_values[name]).masked_fill_(~self.masks[name], 0)

    def original(self, name: str) -> Tensor:
        """(out, in) weights of a layer as they came; not to be written to."""
        return self._originals.get(name, self.kept_values[name])

    @torch.no_grad()
    def refit(self, name: str, values: Tensor | None = None, mask: Tensor | None = None) -> None:
        """Take over new values (out, in) for the kept weights of a layer, or a new mask, or both.

        Values count where the mask (the new one, if there is one) is True, and are rounded to the layer's
        dtype; a pruned weight would still return with the value it had. All or nothing on Ctrl-C.
        """
        before = self.kept_values[name]
        kept = self.masks[name] if mask is None else mask.clone(memory_format=torch.contiguous_format)
        after = before if values is None else torch.where(kept, values.to(before), before)
        with uninterrupted():
            if values is not None:
                self._originals.setdefault(name, before)
            self.kept_values[name], self.masks[name] = after, kept
            self.write([name])

    def saved(self) -> Saved:
        """What `restore` takes to come back here. Masks are copied; kept values are never written into."""
        return Saved(dict(self.kept_values), {name: mask.clone() for name, mask in self.masks.items()})

    def restore(self, saved: Saved) -> None:
        """Kept values, masks and weights as they were when they were saved; all or nothing on Ctrl-C."""
        with uninterrupted():
            self.kept_values = dict(saved.kept_values)
            self.set_masks(saved.masks)

    def kept_at(self, indices: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A copy of the masks at flat indices: what `assign` takes to come back here."""
        return {name: self.masks[name].reshape(-1)[index] for name, index in indices.items()}

    @torch.no_grad()
    def assign(self, indices: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> None:
        """Set the masks at flat indices (no repeats), and write those weights; all or nothing on Ctrl-C."""
        with uninterrupted():
            for name, index in indices.items():
                columns = self.layers[name].shape[1]
                row, col = index // columns, index % columns
                self.masks[name][row, col] = kept[name]
                value = self.kept_values[name][row, col]
                self.layers[name].weight[row, col] = torch.where(kept[name], value, torch.zeros_like(value))

    def flip(self, indices: Mapping[str, Tensor]) -> None:
        """Flip the masks at flat indices; a second flip undoes it to the bit."""
        self.assign(indices, {name: ~kept for name, kept in self.kept_at(indices).items()})

    @contextmanager
    def dense(self, names: Iterable[str] | None = None) -> Iterator[None]:
        """Every weight (or those of some layers) at its original value, for the dense model's answers; the
        pruned weights come back at the end."""
        names = list(self.layers if names is None else names)
        try:
            with torch.no_grad():
                for name in names:
                    self.layers[name].weight.copy_(self.original(name))
            yield
        finally:
            self.write(names)

    def pruned_counts(self) -> dict[str, int]:
        return {name: int((~mask).sum()) for name, mask in self.masks.items()}
