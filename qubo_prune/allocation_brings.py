"""What an allocation brings beside counts of layers, and which parts of a recipe would undo that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qubo_prune.allocation_settings import AllocationSettings, AlphaPruning, Besa, Given

if TYPE_CHECKING:
    from qubo_prune.allocation.result import Allocation
    from qubo_prune.recipe import Recipe


@dataclass(frozen=True)
class Brings:
    """method: the rule's name. rows: counts of rows, too. values: of weights, too. group: M where layers keep
    N of each M inputs. learned: the values are still to be found, by the settings of the rule."""

    method: str
    rows: bool = False
    values: bool = False
    group: int | None = None
    learned: bool = False


def brought(settings: AllocationSettings) -> Brings:
    """What the allocation of these settings will bring; a file that cannot be read brings nothing here, and
    is refused where its rates are needed."""
    if isinstance(settings, Besa):
        return Brings("besa", settings.per == "row", settings.quantise is not None, learned=True)
    if isinstance(settings, Given) and settings.file is not None:
        from qubo_prune.allocation.given import group_in  # needs torch
        from qubo_prune.allocation_file import found_in, is_stored

        if is_stored(settings.file):
            parts, group = found_in(settings.file)
            return Brings("given", "rows" in parts, "values" in parts, group)
        return Brings("given", group=group_in(settings.file) if settings.group is None else settings.group)
    group = settings.group if isinstance(settings, AlphaPruning | Given) else None
    return Brings(settings.method, group=group)


def found_to_bring(allocation: Allocation) -> Brings:
    """What an allocation brings that is there already."""
    return Brings(allocation.method, bool(allocation.rows), bool(allocation.values), allocation.group)


def conflict(brings: Brings, recipe: Recipe) -> str | None:
    """Why such an allocation does not go with the rest of a recipe, or None."""
    granularity, refine = recipe.initial.granularity, recipe.refine
    if brings.method != "uniform" and granularity == "global":
        return f"initial.granularity global shares out the budget: not with allocation {brings.method}"
    if brings.rows and granularity not in (None, "output"):
        return f"the allocation gives each output a count: not with initial.granularity {granularity}"
    again = recipe.reconstruct
    if brings.rows and again is not None and again.method == "admm" and again.moves_mask:
        return (
            "the allocation gives each output a count, which masks that admm moves would not keep: set "
            "reconstruct.moves_mask to false, or reconstruct.method to least_squares"
        )
    if brings.group is not None:
        if granularity is not None:
            return "allocation.group is a granularity of its own: leave initial.granularity out"
        if refine is not None and refine.steps and refine.candidates.criterion != "gain":
            return "candidates of N:M patterns are chosen by gain: set refine.candidates.criterion to it"
    if refine is not None and refine.candidates.correlated and (recipe.pattern or brings.group):
        return (
            "correlated candidates are paired within rows, not within the groups of a pattern: set "
            "refine.candidates.correlated to false"
        )
    return _of_values(brings, recipe) if brings.values else None


def _of_values(brings: Brings, recipe: Recipe) -> str | None:
    """What would leave the values of an allocation, or None."""
    theirs = "grids of allocation.quantise" if brings.learned else "values of the allocation"
    if recipe.initial.by_layer:
        return (
            f"{recipe.initial.method} finds values of its own, which would leave the {theirs}: leave one of "
            "them out"
        )
    for part in ("rows", "reconstruct", "refit", "quantise"):
        if getattr(recipe, part) is not None:
            return f"{part} would leave the {theirs}: leave one of them out"
    return None
