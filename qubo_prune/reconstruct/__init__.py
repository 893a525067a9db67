"""New values for the kept weights, layer by layer: `reconstruct` runs a recipe's method over all layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qubo_prune.layerwise import LayerMethod
from qubo_prune.prefix import Run
from qubo_prune.recipe_parts import Reconstruct
from qubo_prune.reconstruct import admm
from qubo_prune.reconstruct.least_squares import ITERATIONS, LeastSquares
from qubo_prune.sequential import LayerRecord, walk
from qubo_prune.state import PruneState
from qubo_prune.statistics.output_weights import OutputWeights

Patterns = Mapping[str, tuple[int, int]]
"""Layer -> (n, m), where n of each m consecutive inputs are kept."""

METHODS: dict[str, Callable[[Reconstruct, Patterns], LayerMethod]] = {
    "least_squares": lambda r, _: LeastSquares(r.damping, iterations=r.iterations or ITERATIONS),
    "admm": lambda r, patterns: admm.Admm(
        r.damping, r.granularity, r.moves_mask, r.iterations or admm.ITERATIONS, patterns
    ),
}
"""Every method, by name."""


@dataclass
class Reconstructed:
    """records: one a layer; the losses `measure` gave before and after; accepted: False where all was
    undone."""

    records: list[LayerRecord] = field(default_factory=list)
    loss_before: float | None = None
    loss_after: float | None = None
    accepted: bool = True


def reconstruct(
    state: PruneState,
    forward: Run,
    batches: Sequence[Any],
    recipe: Reconstruct,
    *,
    own: int = 0,
    patterns: Patterns | None = None,
    measure: Callable[[], float] | None = None,
    weights: OutputWeights | None = None,
    on_layer: Callable[[LayerRecord], None] | None = None,
) -> Reconstructed:
    """Change the kept values (and with ADMM the masks) of every layer, in the order of the forward pass.

    batches: at least two; the last share of them is held out, but for the first `own` ones. patterns: of the
    masks, which new ones have too. measure: the loss of the model as it is; where it does not fall, and on an
    error or Ctrl-C, values and masks are put back to the bit (loss_after is then loss_before). A loss that is
    not finite is above any that is. None: the result stands, and on Ctrl-C the layers done stay done.
    weights: as for `sequential.walk`.
    InputError: as for `sequential.walk`.
    """
    found = Reconstructed()
    saved = None if measure is None else state.saved()
    try:
        if measure is not None:
            found.loss_before = measure()
        found.records = walk(
            state, forward, batches, METHODS[recipe.method](recipe, patterns or {}),
            blend=recipe.blend, held_out=recipe.held_out, own=own, weights=weights, on_layer=on_layer,
        )  # fmt: skip
        if measure is not None and found.loss_before is not None:
            found.loss_after = measure()
            found.accepted = math.isfinite(found.loss_after) and not (
                found.loss_after >= found.loss_before  # which may be NaN
            )
    except BaseException:
        found.accepted = False
        raise
    finally:
        if saved is not None and not found.accepted:
            state.restore(saved)
            found.loss_after = found.loss_before
    return found
