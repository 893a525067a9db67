"""The convex relaxation of a low-rank problem: a start near its optimum and a proven lower bound.

On binary x the energy is linear'x + 1/2 |F'x|^2 (the extra diagonal is linear there), convex in x. Over the
convex hull of the feasible assignments it is minimised by simplicial decomposition (von Hohenbalken 1977, doi
10.1007/BF01584323): each step adds the assignment that is best for the current gradient, a sort within
groups, and then minimises over the hull of those kept, a QP with a dozen unknowns. An optimal vertex of the
set F'x = y has at most rank + groups fractional variables, so with n far above the rank little is lost by
rounding to the nearest assignment; swaps, which see only pairs, cannot turn thousands of variables at once as
this does.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from qubo_solvers.bounds.tangent import tangent
from qubo_solvers.kernels import relax as kernels
from qubo_solvers.kernels.model import UNBOUNDED, Floats, Ids, Model
from qubo_solvers.local_search import LocalSearch
from qubo_solvers.problem import Assignment

KEPT = 64  # assignments whose hull is searched, at most
SHARE = 0.3  # of the time limit's rest, at most: descents from the start found need the others


class Relaxed(NamedTuple):
    """A feasible assignment nearest to the relaxation's optimum, and a bound that no energy is below: the
    tangent's at `dual`, (rank,), the best F'x passed."""

    assignment: Assignment
    energy: float
    bound: float
    steps: int
    dual: Floats


def applies(model: Model) -> bool:
    """Whether the relaxation is implemented here: low-rank without a sparse part; with a radius only
    around a reference that meets exact counts, where the best assignment for a linear cost is a sort."""
    if not model.low_rank or model.sparse:
        return False
    if model.radius == UNBOUNDED:
        return True
    counts = np.bincount(model.group, weights=model.reference, minlength=len(model.lower))
    return bool((model.lower == model.upper).all() and (counts == model.lower).all())


def relax(search: LocalSearch, start: Assignment, energy: float, steps: int) -> Relaxed:
    """At most `steps` assignments added to `start`, of this energy; ends early when it gains next to nothing,
    or out of time."""
    model, problem = search.model, search.problem
    oracle = _Oracle(model)
    last = start.copy()
    image = np.zeros(model.rows.shape[1])
    linear_part = kernels.image(model, np.zeros_like(start), start, image)
    offset = energy - (
        linear_part + 0.5 * float(image @ image)
    )  # in place of problem.offset: no second product
    atoms, images, linears = [last], [image.copy()], [linear_part]
    weights = np.ones(1)
    highest, dual, done = -math.inf, image.copy(), 0
    cost = np.empty(problem.n)
    chunk = max(1, search.chunk // 4)
    deadline = search.recorder.seconds() + SHARE * search.recorder.remaining()
    while done < steps and not search.stop() and search.recorder.seconds() < deadline:
        y = weights @ np.array(images)
        for first in range(0, problem.n, chunk):
            kernels.scores(model, y, cost, first, min(problem.n, first + chunk))
        best = oracle.minimise(cost)
        linear_part += kernels.image(model, last, best, image)
        last = best
        here = float(weights @ np.array(linears))
        gap = (here - linear_part) + float(y @ (y - image))
        value = offset + here + 0.5 * float(y @ y)
        if value - gap > highest:
            highest, dual = value - gap, y
        done += 1
        if gap <= 1e-4 * abs(value - energy) + 1e-12 * abs(value):
            break
        atoms.append(best)
        images.append(image.copy())
        linears.append(linear_part)
        stacked = np.array(images)
        weights = np.append(weights, 0.0)
        kernels.simplex(np.array(linears), stacked @ stacked.T, weights, 5_000)
        kept = np.argsort(-weights)[:KEPT]
        kept = kept[weights[kept] > 1e-9]
        atoms, images = [atoms[a] for a in kept], [images[a] for a in kept]
        linears = [linears[a] for a in kept]
        weights = weights[kept] / weights[kept].sum()
    mean = np.zeros(problem.n)
    for weight, atom in zip(weights, atoms, strict=True):
        mean += weight * atom
    rounded = oracle.minimise(1.0 - 2.0 * mean)
    linear_part += kernels.image(model, last, rounded, image)
    energy = offset + linear_part + 0.5 * float(image @ image)
    return Relaxed(rounded, energy, tangent(problem, dual), done, dual)


def first_descent(
    search: LocalSearch, start: Assignment, energy: float, steps: int, verify: bool
) -> tuple[bool, float | None]:
    """Load a start and descend: from the relaxation where it applies and steps > 0, and from `start`, of this
    energy, where there is none or it is better than what came of it. Returns (verified, lower bound)."""
    bound, verified = None, False
    if steps and applies(search.model):
        relaxed = relax(search, start, energy, steps)
        bound = relaxed.bound if math.isfinite(relaxed.bound) else None
        if search.stop() or not search.load(relaxed.assignment, relaxed.energy):
            return False, bound
        verified = search.descend(verify)
        if search.energy() <= energy:
            return verified, bound
        search.move_to(start)
    elif not search.load(start, energy):
        return False, bound
    return search.descend(verify), bound


class _Oracle:
    """The feasible assignment of least linear cost."""

    def __init__(self, model: Model) -> None:
        n = len(model.group)
        self.model = model
        self.order: Ids = np.argsort(model.group, kind="stable").astype(np.int32)
        self.gains = np.empty(n)
        self.out, self.into = np.empty(n, np.int32), np.empty(n, np.int32)

    def minimise(self, cost: Floats) -> Assignment:
        model = self.model
        x = model.reference.copy()
        if model.radius == UNBOUNDED:
            kernels.lowest(model, self.order, cost, x)
            return x
        count = kernels.paired(model, self.order, cost, self.gains, self.out, self.into)
        swaps = min(count, model.radius // 2)
        chosen = np.argpartition(self.gains[:count], swaps - 1)[:swaps] if swaps else np.zeros(0, np.intp)
        x[self.out[chosen]] = 0
        x[self.into[chosen]] = 1
        return x
