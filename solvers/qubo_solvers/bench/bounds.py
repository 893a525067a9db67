"""Lower bounds of the instances of a benchmark, computed once and kept beside its records."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qubo_solvers.bench.instances import load_instance, problem_hash
from qubo_solvers.bounds import lower_bound


def instance_bounds(instances: Sequence[str], folder: Path) -> dict[str, float]:
    """Instance -> `bounds.lower_bound` in the file's own sense (an upper bound where it maximises).

    Kept in folder/bounds.json with the instance's hash, so that a file that has changed is bounded anew;
    instances without a bound are left out, and those that cannot be read: the error is their cells' own.
    """
    path = folder / "bounds.json"
    known = _read(path)
    found: dict[str, float] = {}
    for name in instances:
        try:
            problem = load_instance(name)
        except (ValueError, OSError):
            continue
        digest = problem_hash(problem)
        entry = known.get(name)
        if entry is None or entry["hash"] != digest:
            bound = lower_bound(problem)
            if not math.isfinite(bound.value):
                continue
            value = problem.objective_scale * bound.value
            entry = {"bound": value, "method": bound.method, "seconds": bound.seconds, "hash": digest}
            known[name] = entry
        found[name] = float(entry["bound"])
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    return found


def _read(path: Path) -> dict[str, Any]:
    """What was kept; nothing where there is no file or it is damaged."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
