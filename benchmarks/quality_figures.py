"""Figures out of the quality bench's records: sections, groups over seeds, values by name."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from quality_cells import WANDA

Record = dict[str, Any]
Section = tuple[str, dict[str, Any], list[Record]]
"""A model, the setting, and their records in the order of sparsity, then method, then seed."""


MEASURING = ("dense", "on_masks", "total")
"""With every `evaluate ...` the phases of `prune` that measure, and its total: no part of the pruning's own
time."""


def measures(phase: str) -> bool:
    """Whether a phase of `prune` is left out of the seconds of pruning."""
    return phase in MEASURING or phase.startswith("evaluate ")


def sections(records: Sequence[Record]) -> list[Section]:
    """The records by model and setting, in the order in which these first come."""
    found: dict[str, Section] = {}
    for record in records:
        key = json.dumps([record["model"], record["setting"]], sort_keys=True)
        found.setdefault(key, (record["model"], record["setting"], []))[2].append(record)
    for _, _, own in found.values():
        methods = list(dict.fromkeys(r["method"] for r in own))
        order = {name: (name != WANDA, methods.index(name)) for name in methods}
        own.sort(key=lambda r, o=order: (r["sparsity"] or 0, ":" in r["target"], o[r["method"]], r["seed"]))
    return list(found.values())


def newest(records: Iterable[Record], name: Callable[[Record], str]) -> dict[str, Record]:
    """name -> the last record of it, but none without figures after one that has them."""
    found: dict[str, Record] = {}
    for record in records:
        key = name(record)
        if "perplexity" in record or "perplexity" not in found.get(key, {}):
            found[key] = record
    return found


def groups(own: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """(target, method) -> the records that have figures, seed by seed."""
    found: dict[tuple[str, str], list[Record]] = {}
    for record in own:
        if "perplexity" in record:
            found.setdefault((record["target"], record["method"]), []).append(record)
    return found


def task_figures(record: Record) -> dict[str, float]:
    """ "lambada acc" -> its value, of all tasks of a record."""
    found = {}
    for task in record.get("tasks", ()):
        short = task["task"] if task["task"].startswith("lm-eval:") else task["task"].partition(":")[0]
        for name, figure in task["figures"].items():
            found[f"{short} {name}"] = number(figure["value"])
    return found


def number(value: float | None) -> float:
    """JSON has no infinity: null stands for it."""
    return math.inf if value is None else value


def slug(model: str) -> str:
    """A model's name for a file."""
    return re.sub(r"[^A-Za-z0-9]+", "_", model.rstrip("/").rpartition("/")[2]).strip("_")
