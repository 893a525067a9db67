"""OR-Tools CP-SAT on the linearised problem: proofs on small blocks, valid lower bounds on larger ones."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Float
from qubo_solvers.solution import OnIncumbent, Solution, Status
from qubo_solvers.solver import Capabilities, Recorder
from qubo_solvers.start import starting_point

_SUM = 2.0**45  # the scaled magnitudes sum to at most this: far inside int64, and exact in float64


@dataclass(frozen=True)
class CpSat:
    """Branch and cut over x and one product y_ij = x_i x_j per nonzero coupling.

    deterministic_time  the work budget, in CP-SAT's own units (about seconds); None: until proved
    workers             1 gives the same answer for the same seed and budget; more are faster, without that
    max_products        refuse problems with more nonzero couplings: 50,000 (316 dense variables) build in
                        about half a second

    Linearisation (Fortet 1960): minimising pulls y_ij to one where its coefficient is negative, so there only
    y <= x_i and y <= x_j are needed, and to zero where it is positive, so there only y >= x_i + x_j - 1.

    Scaling: CP-SAT needs integers, so each coefficient c becomes a = round(s c), s a power of two with
    sum |s c| <= 2^45, or s = 1 where all are integers already. With r = c - a/s, the energy of every x lies
    within the error e = sum |r| of offset + (integer objective)/s. So (CP-SAT's bound)/s + offset - e is a
    lower bound of the energy, and it is the one reported. OPTIMAL means that CP-SAT proved the integer
    problem optimal: no assignment is below `bound`, and energy - bound <= 2 e (0 for integer data; at most
    the number of coefficients times 2^-45 of sum |c| otherwise). work["scaling_error"] is e, with
    2^-48 sum |c| added for the rounding of float64 itself.

    work: products, scaling_error, deterministic_time, branches, conflicts.
    """

    name: ClassVar[str] = "cpsat"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="OR-Tools CP-SAT: proofs on small blocks, lower bounds beyond",
        exact=True,
        needs_dense=True,
        max_variables=316,
        requires=("ortools",),
        install="pip install ortools",
    )

    deterministic_time: float | None = 20.0
    workers: int = 1
    max_products: int = 50_000

    def __post_init__(self) -> None:
        if self.deterministic_time is not None and not self.deterministic_time > 0:
            raise ValueError(f"deterministic_time must be positive or None, got {self.deterministic_time}")
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Load the library (a second or so), so that no clock sees it."""
        from ortools.sat.python import cp_model

        cp_model.CpModel()

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """See Solver. The initial assignment, or the greedy start, is the hint and the first incumbent."""
        from ortools.sat.python import cp_model

        recorder = Recorder(problem, time_limit, on_incumbent)
        scaled = _scale(problem, self.max_products)
        if isinstance(scaled, str):
            return Solution.unavailable(self.name, scaled)
        work: dict[str, Any] = {"products": len(scaled.weight), "scaling_error": scaled.error}
        start = starting_point(problem, initial)
        recorder.offer(start)
        if recorder.should_stop():
            return recorder.solution(self.name, work=work)

        model = cp_model.CpModel()
        x = [model.new_bool_var(f"x{i}") for i in range(problem.n)]
        _constrain(model, problem, x)
        y: list[Any] = []
        for k, (i, j, weight) in enumerate(zip(scaled.row, scaled.column, scaled.weight, strict=True)):
            product = model.new_bool_var("")
            if weight > 0:
                model.add_bool_or([x[i].negated(), x[j].negated(), product])
            else:
                model.add_implication(product, x[i])
                model.add_implication(product, x[j])
            model.add_hint(product, bool(start[i] and start[j]))
            y.append(product)
            if k % 1000 == 0 and recorder.should_stop():
                message = (
                    f"the time limit ended while building the model ({k} of {len(scaled.weight)} products)"
                )
                return recorder.solution(self.name, work=work, message=message)
        for variable, value in zip(x, start, strict=True):
            model.add_hint(variable, bool(value))
        weights = np.concatenate([scaled.linear, scaled.weight]).tolist()
        model.minimize(cp_model.LinearExpr.weighted_sum(x + y, weights))

        solver = cp_model.CpSolver()
        solver.parameters.num_workers = self.workers
        solver.parameters.random_seed = seed % (1 << 31)
        if self.deterministic_time is not None:
            solver.parameters.max_deterministic_time = self.deterministic_time
        solver.parameters.linearization_level = 2  # without it the products' relaxation is far too weak
        if time_limit is not None:  # loading the model is outside CP-SAT's own clock: some 5 us a product
            solver.parameters.max_time_in_seconds = max(1e-3, recorder.remaining() - 5e-6 * len(y))

        class Callback(cp_model.CpSolverSolutionCallback):  # type: ignore[misc]
            def on_solution_callback(self) -> None:
                recorder.offer([self.boolean_value(v) for v in x])
                if recorder.should_stop():
                    self.stop_search()

        ended = solver.solve(model, Callback())
        work |= {
            "deterministic_time": solver.response_proto.deterministic_time,
            "branches": solver.num_branches,
            "conflicts": solver.num_conflicts,
        }
        bound = solver.best_objective_bound / scaled.scale + problem.offset - scaled.error
        if ended == cp_model.OPTIMAL:
            recorder.offer([solver.boolean_value(v) for v in x])
            bound = min(bound, recorder.energy)
            return recorder.solution(self.name, status=Status.OPTIMAL, bound=bound, work=work)
        if ended == cp_model.INFEASIBLE:
            return recorder.solution(self.name, status=Status.INFEASIBLE, work=work)
        known = bound if math.isfinite(bound) and ended == cp_model.FEASIBLE else None
        budget = math.inf if self.deterministic_time is None else self.deterministic_time
        spent = work["deterministic_time"] >= 0.999 * budget or recorder.asked_to_stop
        status = None if time_limit is None or spent else Status.TIME_LIMIT
        return recorder.solution(self.name, status=status, bound=known, work=work)


@dataclass(frozen=True)
class _Scaled:
    """Integer coefficients of x and of the products row * column, with the scale and error argued above."""

    linear: NDArray[np.int64]
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    weight: NDArray[np.int64]
    scale: float
    error: float


def _scale(problem: CardinalityQubo, max_products: int) -> _Scaled | str:
    """The integer problem, or why it is too large."""
    if problem.n * (problem.n - 1) // 2 > 50 * max_products:
        return f"{problem.n} variables are too many to write Q out for max_products = {max_products}"
    upper = np.triu(problem.quadratic.dense(), 1)
    row, column = np.nonzero(upper)
    if len(row) > max_products:
        return (
            f"{len(row)} nonzero couplings are more than max_products = {max_products}; "
            "take a smaller block or raise max_products"
        )
    linear: Float = problem.linear + problem.quadratic.diagonal()
    weight: Float = 2 * upper[row, column]
    everything = np.concatenate([linear, weight])
    total = float(np.abs(everything).sum())
    whole = total <= _SUM and bool((everything == np.round(everything)).all())
    scale = 1.0 if whole or total == 0 else 2.0 ** min(1000, math.floor(math.log2(_SUM) - math.log2(total)))
    linear_int, weight_int = np.round(linear * scale), np.round(weight * scale)
    residual = np.abs(everything - np.concatenate([linear_int, weight_int]) / scale)
    kept = weight_int != 0
    return _Scaled(
        linear_int.astype(np.int64),
        row[kept],
        column[kept],
        weight_int[kept].astype(np.int64),
        scale,
        float(residual.sum()) + (0.0 if whole else 2.0**-48 * total),
    )


def _constrain(model: Any, problem: CardinalityQubo, x: list[Any]) -> None:
    for g in range(problem.n_groups):
        members = [x[i] for i in np.flatnonzero(problem.groups == g)]
        if members:
            model.add_linear_constraint(sum(members), int(problem.lower[g]), int(problem.upper[g]))
    if problem.radius is not None and problem.reference is not None:
        moved = [v.negated() if r else v for v, r in zip(x, problem.reference, strict=True)]
        model.add(sum(moved) <= problem.radius)
