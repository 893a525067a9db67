"""Cells of a benchmark: one solver with its options on one instance with one seed and one time limit."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from typing import Any


@dataclass(frozen=True)
class Cell:
    """One run. `label` names the solver with its options in reports; `threads` it may use.

    instance    what `load_instance` takes
    time_limit  seconds, None: the solver's own work budget
    target      an objective, in the file's sense, at which the run may end: for times to it only
    """

    solver: str
    instance: str
    seed: int = 0
    time_limit: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    threads: int = 1
    target: float | None = None

    @property
    def name(self) -> str:
        return self.label or self.solver

    @property
    def key(self) -> str:
        """The same for the same cell in every run: what a benchmark is resumed by."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def matrix(
    solvers: Sequence[str | tuple[str, Mapping[str, Any]]],
    instances: Sequence[str],
    seeds: Sequence[int],
    time_limits: Sequence[float | None],
    threads: int = 1,
    targets: Mapping[str, float] | None = None,
) -> list[Cell]:
    """Every combination, short limits first; a solver is a name or (name, options). targets: by instance."""
    cells = []
    for limit, instance, seed, solver in product(time_limits, instances, seeds, solvers):
        name, options = (solver, {}) if isinstance(solver, str) else solver
        told = ", ".join(f"{key}={value}" for key, value in sorted(options.items()))
        label = f"{name}({told})" if told else name
        cells.append(
            Cell(name, instance, seed, limit, dict(options), label, threads, (targets or {}).get(instance))
        )
    return cells
