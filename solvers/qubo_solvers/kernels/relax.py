"""Compiled steps of the convex relaxation: scores, linear oracles over the constraint, a small simplex QP."""

from __future__ import annotations

import numpy as np

from qubo_solvers.kernels.jit import kernel
from qubo_solvers.kernels.model import Floats, Ids, Model
from qubo_solvers.problem import Assignment


@kernel
def scores(model: Model, y: Floats, out: Floats, first: int, last: int) -> None:
    """out = linear + F y for the variables first..last: the relaxation's gradient where F'x = y."""
    for i in range(first, last):
        total = 0.0
        for r in range(model.rows.shape[1]):
            total += model.rows[i, r] * y[r]
        out[i] = model.linear[i] + total


@kernel
def image(model: Model, old: Assignment, new: Assignment, y: Floats) -> float:
    """Turn y = F'old into F'new, by the variables that differ; returns linear'(new - old)."""
    change = 0.0
    for i in range(len(old)):
        if old[i] != new[i]:
            sign = 1.0 if new[i] == 1 else -1.0
            change += sign * model.linear[i]
            for r in range(model.rows.shape[1]):
                y[r] += sign * model.rows[i, r]
    return change


@kernel
def lowest(model: Model, order: Ids, cost: Floats, x: Assignment) -> None:
    """x minimises cost'x under the group counts; `order` has the variables by group."""
    for g in range(len(model.lower)):
        members = order[model.start[g] : model.start[g + 1]]
        if model.lower[g] == 0 and model.upper[g] == len(members):
            for i in members:
                x[i] = 1 if cost[i] < 0.0 else 0
            continue
        ranked = np.argsort(cost[members])
        for rank in range(len(members)):
            i = members[ranked[rank]]
            wanted = rank < model.upper[g] and cost[i] < 0.0
            x[i] = 1 if rank < model.lower[g] or wanted else 0


@kernel
def paired(model: Model, order: Ids, cost: Floats, gains: Floats, out: Ids, into: Ids) -> int:
    """Each group's swaps away from the reference in the order of their gain in cost, those that gain.

    The p-th is of the reference's p-th dearest one and p-th cheapest zero, so that any number of the best
    swaps over all groups is the optimum of a linear cost under that radius. Returns how many they are.
    """
    count = 0
    for g in range(len(model.lower)):
        begin, end = model.start[g], model.start[g + 1]
        lowest_zero, highest_one = np.inf, -np.inf
        for s in range(begin, end):
            i = order[s]
            if model.reference[i] == 1:
                highest_one = max(highest_one, cost[i])
            else:
                lowest_zero = min(lowest_zero, cost[i])
        ones, zeros = np.empty(end - begin, np.int64), np.empty(end - begin, np.int64)
        n_ones = n_zeros = 0
        for s in range(begin, end):
            i = order[s]
            if model.reference[i] == 1 and cost[i] > lowest_zero:
                ones[n_ones] = i
                n_ones += 1
            elif model.reference[i] == 0 and cost[i] < highest_one:
                zeros[n_zeros] = i
                n_zeros += 1
        by_one = np.argsort(-cost[ones[:n_ones]])
        by_zero = np.argsort(cost[zeros[:n_zeros]])
        for p in range(min(n_ones, n_zeros)):
            i, j = ones[by_one[p]], zeros[by_zero[p]]
            gain = cost[j] - cost[i]
            if gain >= 0.0:
                break
            gains[count] = gain
            out[count], into[count] = i, j
            count += 1
    return count


@kernel
def simplex(linear: Floats, gram: Floats, weights: Floats, steps: int) -> None:
    """Minimise linear'w + 1/2 w'Gram w over the simplex from `weights`, by pairwise Frank-Wolfe steps."""
    m = len(linear)
    gradient = linear + gram @ weights
    for _ in range(steps):
        best, worst = 0, -1
        for a in range(m):
            if gradient[a] < gradient[best]:
                best = a
            if weights[a] > 0.0 and (worst < 0 or gradient[a] > gradient[worst]):
                worst = a
        slope = gradient[worst] - gradient[best]
        if not slope > 1e-12 * (abs(gradient[best]) + abs(gradient[worst])):
            return
        curvature = gram[best, best] + gram[worst, worst] - 2.0 * gram[best, worst]
        step = weights[worst]
        if curvature > 0.0:
            step = min(step, slope / curvature)
        weights[best] += step
        weights[worst] -= step
        for a in range(m):
            gradient[a] += step * (gram[best, a] - gram[worst, a])
