"""N:M patterns: of each M consecutive inputs of an output row N are kept; reading one, and what it fits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qubo_prune.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from qubo_prune.layers import Layer


@dataclass(frozen=True)
class Pattern:
    """kept: N, weights kept of each group; group: M, inputs of a group, 1 <= N < M."""

    kept: int
    group: int

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """The pattern of "N:M", as "2:4". InputError: not of that form, or not 1 <= N < M."""
        found = re.fullmatch(r"\s*(\d+)\s*:\s*(\d+)\s*", text)
        if found is None or not 1 <= int(found[1]) < int(found[2]):
            raise InputError(f"pattern {text!r}: write N:M with 1 <= N < M, as 2:4 (2 of each 4 are kept).")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.kept}:{self.group}"

    @property
    def sparsity(self) -> float:
        """The pruned fraction, 1 - N/M."""
        return (self.group - self.kept) / self.group

    def check_sparsity(self, sparsity: object) -> None:
        """InputError unless this is the pattern's own sparsity, to 1e-6."""
        if not isinstance(sparsity, int | float) or abs(sparsity - self.sparsity) > 1e-6:
            raise InputError(
                f"pattern {self} prunes {self.sparsity:.7g} of each layer: set sparsity to that."
            )

    def check_layers(self, layers: Mapping[str, Layer]) -> None:
        """InputError unless M divides the inputs of every layer; names the first that it does not divide."""
        wrong = [name for name, layer in layers.items() if layer.shape[1] % self.group]
        if wrong:
            more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
            inputs = layers[wrong[0]].shape[1]
            raise InputError(
                f"pattern {self}: layer {wrong[0]!r}{more} has {inputs} inputs, which cannot be cut into "
                f"groups of {self.group}: choose an M that divides them, or exclude the layer."
            )

    def counts(self, layers: Mapping[str, Layer]) -> dict[str, int]:
        """Layer -> weights to prune. InputError as for `check_layers`."""
        self.check_layers(layers)
        return {name: layer.numel // self.group * (self.group - self.kept) for name, layer in layers.items()}

    def holds(self, mask: Tensor) -> bool:
        """Whether a mask (out, in), True = kept, keeps exactly N of each group; False where M does not divide
        the inputs."""
        if mask.shape[1] % self.group:
            return False
        return bool((mask.reshape(-1, self.group).sum(1) == self.kept).all())
