"""Reading a dimod CQM's constraints as disjoint groups with counts, and a radius."""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.problem import Assignment


@dataclass
class Constraints:
    """The constraint part of a CardinalityQubo; arrays as there."""

    groups: NDArray[np.int32]
    lower: NDArray[np.int64]
    upper: NDArray[np.int64]
    reference: Assignment | None = None
    radius: int | None = None


def read_constraints(cqm: Any, labels: list[Hashable]) -> Constraints:
    """The constraints over `labels` in their order. Raises ValueError naming the one that does not fit."""
    index = {label: i for i, label in enumerate(labels)}
    intervals: dict[frozenset[int], tuple[int, int]] = {}
    out = Constraints(np.full(len(labels), -1, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    for name, constraint in cqm.constraints.items():
        left = constraint.lhs
        if left.num_interactions:
            raise _misfit(name, "is quadratic")
        if left.is_soft():
            raise _misfit(name, "is soft")
        terms = {index[v]: float(left.get_linear(v)) for v in left.variables if left.get_linear(v)}
        right = float(constraint.rhs) - float(left.offset)
        sense = constraint.sense.value
        signs = {math.copysign(1.0, a) for a in terms.values()}
        if len({abs(a) for a in terms.values()}) > 1:
            raise _misfit(name, "has coefficients of different size, so it counts nothing")
        if not terms:
            if not {"==": right == 0, "<=": right >= 0, ">=": right <= 0}[sense]:
                raise _misfit(name, "has no variables and cannot hold")
            continue
        size = next(iter({abs(a) for a in terms.values()}))
        right /= size
        if name == "radius" or len(signs) > 1:
            _read_radius(out, name, terms, sense, right)
            continue
        if signs == {-1.0}:
            right, sense = -right, {"==": "==", "<=": ">=", ">=": "<="}[sense]
        members = frozenset(terms)
        low, high = intervals.get(members, (0, len(members)))
        if sense in ("==", ">="):
            low = max(low, math.ceil(right - 1e-9))
        if sense in ("==", "<="):
            high = min(high, math.floor(right + 1e-9))
        if low > high:
            raise _misfit(name, f"cannot hold: the count of its {len(members)} variables has no value left")
        intervals[members] = (low, high)
    for g, members in enumerate(intervals):
        where = np.fromiter(members, np.intp)
        if (out.groups[where] >= 0).any():
            shared = labels[int(where[out.groups[where] >= 0][0])]
            raise ValueError(f"variable {shared!r} is in two counts; the groups of this class are disjoint")
        out.groups[where] = g
    out.lower = np.array([low for low, _ in intervals.values()], np.int64)
    out.upper = np.array([high for _, high in intervals.values()], np.int64)
    return out


def _read_radius(out: Constraints, name: Hashable, terms: dict[int, float], sense: str, right: float) -> None:
    if out.radius is not None or len(terms) != len(out.groups):
        raise _misfit(name, "mixes signs; only one such constraint, over all variables, can be a radius")
    if sense == "==":
        raise _misfit(name, "mixes signs and is an equality; a radius is an inequality")
    direction = 1.0 if sense == "<=" else -1.0
    out.reference = np.array([direction * terms[i] < 0 for i in range(len(terms))], dtype=np.uint8)
    out.radius = math.floor(direction * right + 1e-9) + int(out.reference.sum())


def _misfit(name: Hashable, what: str) -> ValueError:
    return ValueError(f"constraint {name!r} {what}; a CardinalityQubo holds disjoint counts and one radius")
