"""Problems to and from dimod: binary quadratic models by penalty, constrained quadratic models exactly."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense, Float

MAX_VARIABLES = 8192  # n^2/2 interactions: 34 million, some 1.2 GiB inside dimod


def sufficient_penalties(problem: CardinalityQubo) -> tuple[Float, float]:
    """Penalty weights, one per group and one for the radius, above which every minimiser is feasible.

    Returns (P, R), P of shape (n_groups,), R = 0 where there is no radius. They are derived from the
    instance: flipping variable i changes the energy by at most
        up_i   = linear_i + Q_ii + 2 sum_j max(Q_ij, 0)      from zero to one
        down_i = -(linear_i + Q_ii + 2 sum_j min(Q_ij, 0))   from one to zero
    whatever the others are (j != i).

    Counts. Let P_g > max over i in g of max(up_i, down_i, 0). Take any x whose count in g is v >= 1 away from
    its interval and flip one variable of g towards it. The penalty P_g v^2 falls by P_g (2v - 1) >= P_g,
    which is more than the energy can rise, and no other group sees the flip. So x is not a minimiser: every
    minimiser meets every count. (For exact counts more is true: no infeasible x is even a local minimum
    under flips. For intervals the penalty meant is the least over the slack bits, which represent exactly
    0..upper-lower.)

    Radius. Let D = max(up_i, down_i, 0) over all i and R > 2 D. Take x with feasible counts and distance
    radius + v, v >= 1. The constructor has checked that the reference needs at most `radius` flips to meet
    its counts, so among the differences there is one, or a pair in one group, whose undoing keeps the
    counts (argued in qubo_solvers.start). That raises the energy by at most 2 D and lowers R v^2 by at
    least R. So x is not a minimiser. With a radius the flip of the first argument may cost R ((v+1)^2 -
    v^2) <= R (2 d - 1) as well, where d = max(n - radius, 1), so R (2 d - 1) is added to each P_g.
    """
    alone = problem.linear + problem.quadratic.diagonal()
    up, down = alone.copy(), -alone
    step = max(1, (1 << 22) // max(1, problem.n))
    for lo in range(0, problem.n, step):
        i = np.arange(lo, min(problem.n, lo + step))
        column = 2 * problem.quadratic.columns(i)
        column[i, np.arange(len(i))] = 0
        up[i] += np.maximum(column, 0).sum(axis=0)
        down[i] -= np.minimum(column, 0).sum(axis=0)
    worst = np.maximum(np.maximum(up, down), 0)
    margin = 1e-3 * float(worst.max(initial=0)) or 1.0
    radius_weight = 0.0
    weights = np.zeros(problem.n_groups)
    inside = problem.groups >= 0
    np.maximum.at(weights, problem.groups[inside], worst[inside])
    weights += margin
    if problem.radius is not None and problem.radius < problem.n:
        radius_weight = 2 * float(worst.max()) + margin
        weights += radius_weight * (2 * max(problem.n - problem.radius, 1) - 1)
    return weights, radius_weight


def to_bqm(problem: CardinalityQubo, penalty: float | None = None, *, factor: float = 1.0) -> Any:
    """A dimod BinaryQuadraticModel whose minimisers, cut to variables 0..n-1, minimise the problem.

    penalty  one weight for every constraint; None: `sufficient_penalties`, which see for why they suffice
    factor   multiplies the weights; below 1 the guarantee is gone (samplers often do better there)

    Variables are 0..n-1, then the slack bits of intervals and of the radius. On feasible x (with the best
    slacks) its energy is the problem's. Raises ValueError where n > 4096 or a weight is not positive.
    """
    import dimod

    _check_size(problem)
    if not (factor > 0 and (penalty is None or penalty > 0)):
        raise ValueError(f"penalty and factor must be positive, got {penalty} and {factor}")
    weights, radius_weight = sufficient_penalties(problem)
    if penalty is not None:
        weights, radius_weight = np.full(problem.n_groups, penalty), penalty
    n = problem.n
    rows: list[
        tuple[NDArray[np.intp], NDArray[np.floating], float, float]
    ] = []  # weight * (signs'z + slack - target)^2
    slack_bits: list[Float] = []
    for g in range(problem.n_groups):
        members = np.flatnonzero(problem.groups == g)
        if problem.lower[g] > 0 or problem.upper[g] < len(members):
            rows.append((members, np.ones(len(members)), float(problem.upper[g]), float(weights[g]) * factor))
            slack_bits.append(_slack(int(problem.upper[g] - problem.lower[g])))
    if problem.radius is not None and problem.reference is not None and problem.radius < n:
        signs = 1.0 - 2.0 * problem.reference
        target = float(problem.radius - int(problem.reference.sum()))
        rows.append((np.arange(n), signs, target, radius_weight * factor))
        slack_bits.append(_slack(problem.radius))
    total = n + sum(len(bits) for bits in slack_bits)
    quadratic = np.zeros((total, total))
    quadratic[:n, :n] = problem.quadratic.dense()
    linear = np.zeros(total)
    linear[:n] = problem.linear
    offset = problem.offset
    at = n
    for (members, signs, target, weight), bits in zip(rows, slack_bits, strict=True):
        where = np.concatenate([members, np.arange(at, at + len(bits))])
        at += len(bits)
        coefficient = np.concatenate([signs, bits])
        quadratic[np.ix_(where, where)] += weight * np.outer(coefficient, coefficient)
        linear[where] -= 2 * weight * target * coefficient
        offset += weight * target**2
    return _bqm(dimod, quadratic, linear, offset)


def to_cqm(problem: CardinalityQubo) -> Any:
    """A dimod ConstrainedQuadraticModel with exact counts and radius over binary variables 0..n-1.

    Constraints are labelled group_<g> (or group_<g>_lower and _upper for an interval) and radius; a group
    whose interval allows everything is left out. Raises ValueError where n > 4096.
    """
    import dimod

    _check_size(problem)
    cqm = dimod.ConstrainedQuadraticModel()
    cqm.set_objective(_bqm(dimod, problem.quadratic.dense(), problem.linear, problem.offset))
    for g in range(problem.n_groups):
        members = np.flatnonzero(problem.groups == g)
        terms = [(int(i), 1.0) for i in members]
        lower, upper = int(problem.lower[g]), int(problem.upper[g])
        if lower == upper and terms:
            cqm.add_constraint_from_iterable(terms, "==", lower, label=f"group_{g}")
            continue
        if lower > 0:
            cqm.add_constraint_from_iterable(terms, ">=", lower, label=f"group_{g}_lower")
        if upper < len(members):
            cqm.add_constraint_from_iterable(terms, "<=", upper, label=f"group_{g}_upper")
    if problem.radius is not None and problem.reference is not None:
        terms = [(i, 1.0 - 2.0 * int(r)) for i, r in enumerate(problem.reference)]
        rhs = problem.radius - int(problem.reference.sum())
        cqm.add_constraint_from_iterable(terms, "<=", rhs, label="radius")
    return cqm


def from_bqm(bqm: Any) -> tuple[CardinalityQubo, list[Hashable]]:
    """The plain QUBO of a BinaryQuadraticModel (spin models are rewritten), and the label of each variable.

    Label l with value x means the binary value x; a spin is 2 x - 1. Raises ValueError where n > 4096.
    """
    labels = list(bqm.variables)
    if len(labels) > MAX_VARIABLES:
        raise ValueError(
            f"the model has {len(labels)} variables; at most {MAX_VARIABLES} are written out densely"
        )
    if bqm.vartype.name != "BINARY":
        bqm = bqm.change_vartype("BINARY", inplace=False)
    vectors = bqm.to_numpy_vectors(variable_order=labels)
    linear = np.asarray(vectors.linear_biases, dtype=np.float64)
    quadratic = np.zeros((len(labels), len(labels)))
    np.add.at(
        quadratic, (vectors.quadratic.row_indices, vectors.quadratic.col_indices), vectors.quadratic.biases
    )
    form = Dense.symmetrised(quadratic)
    return CardinalityQubo.unconstrained(form, linear, offset=float(vectors.offset)), labels


def from_cqm(cqm: Any) -> tuple[CardinalityQubo, list[Hashable]]:
    """The CardinalityQubo of a ConstrainedQuadraticModel of its class, and the label of each variable.

    Its class: binary variables; hard linear constraints, each a count over its variables (equal
    coefficients), two counts over the same or over disjoint variables; and at most one over all variables
    with coefficients of both signs, read as a radius (or labelled "radius"). Raises ValueError naming the
    constraint or variable that does not fit.
    """
    from qubo_solvers.dimod_constraints import read_constraints

    labels = list(cqm.variables)
    for label in labels:
        if cqm.vartype(label).name != "BINARY":
            raise ValueError(
                f"variable {label!r} is {cqm.vartype(label).name}, only BINARY ones fit this class"
            )
    plain = _objective(cqm, labels)
    read = read_constraints(cqm, labels)
    problem = CardinalityQubo.grouped(
        plain.quadratic, plain.linear, read.groups, read.lower, read.upper, offset=plain.offset,
        reference=read.reference, radius=read.radius,
    )  # fmt: skip
    return problem, labels


def _objective(cqm: Any, labels: list[Hashable]) -> CardinalityQubo:
    """A CQM's objective over all of its variables, in their order."""
    import dimod

    bqm = dimod.BinaryQuadraticModel("BINARY")
    for label in labels:
        bqm.add_linear(label, 0.0)
    objective = cqm.objective
    for label in objective.variables:
        bqm.add_linear(label, objective.get_linear(label))
    bqm.add_quadratic_from(objective.iter_quadratic())
    bqm.offset = objective.offset
    return from_bqm(bqm)[0]


def _bqm(dimod: Any, quadratic: Float, linear: ArrayLike, offset: float) -> Any:
    alone = np.asarray(linear) + np.diagonal(quadratic)
    row, column = np.nonzero(np.triu(quadratic, 1))
    both = (row, column, 2 * quadratic[row, column])
    return dimod.BinaryQuadraticModel.from_numpy_vectors(alone, both, offset, "BINARY")


def _slack(largest: int) -> Float:
    """Weights of bits whose subset sums are exactly 0..largest: powers of two and a last remainder."""
    bits: list[int] = []
    while largest > 0:
        bit = min(1 << len(bits), largest)
        bits.append(bit)
        largest -= bit
    return np.array(bits, dtype=np.float64)


def _check_size(problem: CardinalityQubo) -> None:
    if problem.n > MAX_VARIABLES:
        raise ValueError(
            f"{problem.n} variables: dimod models are written dense, for at most {MAX_VARIABLES}; "
            "take a subproblem, or the npz format, which keeps the low-rank factor"
        )
