"""The eigenvalue bound of a dense problem: made convex by a shift of the diagonal, then relaxed."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from qubo_solvers.bounds.relaxed import relaxed_dual
from qubo_solvers.bounds.rounding import evaluation_error, gamma
from qubo_solvers.bounds.tangent import exact_tangent
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Float, LowRank


def spectral(problem: CardinalityQubo, steps: int = 100) -> float:
    """A value that no feasible energy, as float64 computes it, is below; -inf where no factor was found.

    Hammer and Rubin 1970 (RIRO 4(V3), 67-79): as x_i^2 = x_i, the diagonal can be raised by t where linear is
    lowered by t, until the form is convex; then the convex relaxation bounds it. Only directions that keep
    the counts matter where these are exact: (v'x) (1_g'x - k_g) = 0 is added for each exact group g, with
    the v that projects the group's indicator 1_g out of the form. The shift is the least eigenvalue, once
    uniform and once in proportion to the size of each variable's couplings; the better bound counts.
    O(n^3) time, five n x n arrays of float64.

    Departure: no eigenvalue is trusted. The shifted form W is factored as 1/2 F F' (Cholesky), which is
    convex whatever rounding did to it; W - 1/2 F F' is bounded entry by entry (Higham 2002, theorem 10.3) and
    taken off.
    """
    n, m = problem.n, problem.n_groups
    couplings = problem.quadratic.dense()
    np.fill_diagonal(couplings, 0.0)
    own = problem.linear + problem.quadratic.diagonal()
    v = _projection(problem, couplings)
    spread = v[:, np.where(problem.groups < 0, m, problem.groups)]
    form = couplings + spread + spread.T
    linear = own - 2 * v[:, :m] @ problem.lower
    forms = float(np.abs(couplings).sum() + 2 * np.abs(spread).sum())
    linears = float(np.abs(own).sum() + 2 * (np.abs(v[:, :m]) @ problem.lower).sum())
    size = np.linalg.norm(couplings, axis=1)
    best = -math.inf
    for weight in (np.ones(n), size / (size.max() or 1.0) + 1e-2):
        root = np.sqrt(weight)
        least = float(np.linalg.eigvalsh(form / root[:, None] / root)[0])
        margin = 1e-12 * n * float(np.abs(form).max() / weight.min())
        shift = (margin - least) * weight
        shifted = form.copy()
        shifted[np.diag_indices(n)] += shift
        try:
            factor = np.linalg.cholesky(2 * shifted)
        except np.linalg.LinAlgError:
            continue
        convex = replace(problem, quadratic=LowRank(factor, np.zeros(n)), linear=linear - shift)
        moved = float(np.abs(shift).sum())
        diagonal = float(np.sqrt(np.maximum(np.diagonal(shifted), 0.0)).sum()) ** 2
        error = gamma(8) * (forms + moved) + gamma(4 * n + 20) * diagonal
        error += gamma(m + 8) * (linears + moved)
        best = max(best, exact_tangent(convex, relaxed_dual(convex, steps)) - error)
    return best - evaluation_error(problem)


def _projection(problem: CardinalityQubo, couplings: Float) -> Float:
    """(n, m + 1): column g is the v of exact group g, zero for other groups and in the last column.

    With P the projection off the exact groups' indicators, couplings + sum_g (v 1_g' + 1_g v') is P couplings
    P, plus a multiple of the indicators' own projection that keeps them off the least eigenvalue.
    """
    n, m = problem.n, problem.n_groups
    v = np.zeros((n, m + 1))
    sizes = problem.group_sizes()
    exact = np.flatnonzero((problem.lower == problem.upper) & (sizes > 0))
    if not len(exact):
        return v
    indicator = (problem.groups[:, None] == exact).astype(np.float64)
    mean = couplings @ indicator / sizes[exact]
    block = (indicator / sizes[exact]).T @ mean
    lift = float(np.linalg.norm(couplings))
    v[:, exact] = -mean + indicator @ (0.5 * block + np.diag(0.5 * lift / sizes[exact]))
    return v
