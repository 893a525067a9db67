"""How much layers differ, found by trying: the strength whose first mask loses least on other text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from qubo_prune.allocation.result import Allocation
from qubo_prune.allocation_settings import AllocationSettings

STRENGTHS = {"alphapruning": "epsilon", "owl": "spread", "fisher": "strength"}
"""The setting of each rule that says how much layers differ."""


def tried(settings: AllocationSettings) -> list[tuple[float, AllocationSettings]]:
    """(value, the settings with that strength) for each value of `search`; empty where there is none."""
    name = STRENGTHS.get(settings.method)
    values = getattr(settings, "search", [])
    if name is None:
        return []
    return [(value, settings.model_copy(update={name: value, "search": []})) for value in values]


def search(
    settings: AllocationSettings,
    share_out: Callable[[AllocationSettings], Allocation],
    loss: Callable[[Allocation], float],
) -> Allocation:
    """The allocation whose first mask has the least loss, the earlier of two equals; its `details` tell all.

    share_out: an allocation by settings without a search. loss: of the first mask by an allocation, on text
    that is neither calibrated nor reported on: the choice is a selection.
    """
    found: list[tuple[float, float, Allocation]] = []
    for value, chosen in tried(settings):
        allocation = share_out(chosen)
        found.append((loss(allocation), value, allocation))
    best = min(found, key=lambda entry: entry[0])
    told = {
        "setting": STRENGTHS[settings.method],
        "taken": best[1],
        "losses": [{"value": value, "loss": measured} for measured, value, _ in found],
    }
    return replace(best[2], details={**best[2].details, "search": told})
