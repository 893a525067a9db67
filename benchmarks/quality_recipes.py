"""What the recipes of records say of a table: earlier settings, text that the model wrote, allocations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from quality_cells import Cell, Method, Setting, Target, first_masks
from quality_figures import Record, groups

from qubo_prune.recipe_files import builtin_recipes


def earlier(own: Sequence[Record]) -> list[str]:
    """ "fast (50 %, 2:4)" for each method with rows of which a record was measured with other settings than
    the built-in recipe, or the first mask, of that name has today.

    Methods of other names cannot be compared; a default that has changed since is not seen.
    """
    known = {*builtin_recipes(), *first_masks()}
    found: dict[str, list[str]] = {}
    for (target, method), runs in groups(own).items():
        if method in known and any(r.get("recipe") not in (None, _today(r)) for r in runs):
            found.setdefault(method, []).append(target)
    return [f"{method} ({', '.join(targets)})" for method, targets in found.items()]


def _today(record: Record) -> dict[str, Any] | None:
    """What a record's `recipe` would be if its cell were run now; None where that is refused."""
    name, target = record["method"], record["target"]
    wanted = Target(record["sparsity"], target if ":" in target else None)
    cell = Cell(record["model"], Setting(**record["setting"]), Method(name, name), wanted, record["seed"])
    recipe: dict[str, Any] | None = cell.described()["recipe"]
    return recipe


def own_text(own: Sequence[Record]) -> list[str]:
    """A sentence on the windows that the dense model wrote for some methods; none where it wrote none."""
    found: dict[str, set[int]] = {}
    for (_, method), runs in groups(own).items():
        for recipe in (r.get("recipe") or {} for r in runs):
            count = sum((recipe.get(part) or {}).get("own", 0) for part in ("calibration", "refit"))
            if count:
                found.setdefault(method, set()).add(count)
    told = [f"{method} {' or '.join(map(str, sorted(counts)))}" for method, counts in found.items()]
    if not told:
        return []
    return [
        "Beside the calibration windows, methods fit on ones that the dense model wrote itself after prompts "
        f"from them: {', '.join(told)}."
    ]


def shares_out(own: Sequence[Record]) -> bool:
    """Whether a method has an allocation other than uniform."""
    rules = [(r.get("recipe") or {}).get("allocation") or {} for r in own if "perplexity" in r]
    return any(rule.get("method", "uniform") != "uniform" for rule in rules)
