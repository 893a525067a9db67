"""The model under pruning: its layers, the values weights have when kept, the masks, and exact flips."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

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


class PruneState:
    """Holds the invariant: every weight is its kept value where its mask is True and 0 where it is False.

    kept_values  layer -> (out, in) copy of the value each weight has, or returns with, when kept
    masks        layer -> (out, in) bool, True = kept
    """

    def __init__(self, model: nn.Module, layers: Mapping[str, Layer], masks: Masks | None = None) -> None:
        self.model = model
        self.layers = dict(layers)
        self.kept_values = {
            name: layer.weight.clone(memory_format=torch.contiguous_format)
            for name, layer in self.layers.items()
        }
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
        """Every mask all kept, every weight at its kept value: the model as it came."""
        for mask in self.masks.values():
            mask.fill_(True)
        self.write()

    @torch.no_grad()
    def write(self) -> None:
        """Write every weight from its kept value and mask."""
        with uninterrupted():
            for name, layer in self.layers.items():
                # copy_ and masked_fill, not a product: -w * 0 would leave negative zeros
                layer.weight.copy_(self.kept_values[name]).masked_fill_(~self.masks[name], 0)

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
    def dense(self) -> Iterator[None]:
        """Every weight at its kept value, for the dense model's answers; the masks come back at the end."""
        try:
            with torch.no_grad():
                for name, layer in self.layers.items():
                    layer.weight.copy_(self.kept_values[name])
            yield
        finally:
            self.write()

    def pruned_counts(self) -> dict[str, int]:
        return {name: int((~mask).sum()) for name, mask in self.masks.items()}
