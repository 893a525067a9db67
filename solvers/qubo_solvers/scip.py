"""SCIP on the linearised problem: branch and cut with a lower bound, proofs on small blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers.linearised import TOLERANCE, Linearised, linearise
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.solution import OnIncumbent, Solution, Status
from qubo_solvers.solver import Capabilities, Recorder
from qubo_solvers.start import starting_point


@dataclass(frozen=True)
class Scip:
    """SCIP (Achterberg 2009, doi 10.1007/s12532-008-0001-1) on `qubo_solvers.linearised`, one thread.

    max_nodes     the work budget: nodes of the search tree; None: until proved
    max_products  refuse problems with more nonzero couplings

    Tolerances, bound and OPTIMAL as in `qubo_solvers.highs`.

    work: products, nodes, lp_iterations.
    """

    name: ClassVar[str] = "scip"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="SCIP on the linearised problem: proofs on small blocks, lower bounds beyond",
        exact=True,
        needs_dense=True,
        max_variables=100,
        requires=("pyscipopt", "scipy"),
        install="pip install pyscipopt",
    )

    max_nodes: int | None = 100
    max_products: int = 5_000

    def __post_init__(self) -> None:
        if self.max_nodes is not None and self.max_nodes < 1:
            raise ValueError(f"max_nodes must be at least 1 or None, got {self.max_nodes}")

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Load the libraries, so that no clock sees it."""
        import pyscipopt  # noqa: F401
        import scipy.sparse  # noqa: F401

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """See Solver. The initial assignment, or the greedy start, is SCIP's first solution."""
        import pyscipopt

        recorder = Recorder(problem, time_limit, on_incumbent)
        programme = linearise(problem, self.max_products)
        if isinstance(programme, str):
            return Solution.unavailable(self.name, programme)
        work: dict[str, Any] = {"products": len(programme.row)}
        start = starting_point(problem, initial)
        recorder.offer(start)
        if recorder.should_stop():
            return recorder.solution(self.name, work=work)
        if not problem.n:
            return recorder.solution(self.name, status=Status.OPTIMAL, bound=recorder.energy, work=work)

        solver = pyscipopt.Model()
        solver.hideOutput()
        variables = _build(solver, programme, recorder)
        if variables is None:
            message = "the time limit ended while building the model"
            return recorder.solution(self.name, work=work, message=message)
        parameters: dict[str, Any] = {
            "randomization/randomseedshift": seed % (1 << 31),
            "numerics/feastol": TOLERANCE,
            "numerics/dualfeastol": TOLERANCE,
        }
        if self.max_nodes is not None:
            parameters["limits/totalnodes"] = self.max_nodes
        if time_limit is not None:
            parameters["limits/time"] = max(1e-3, recorder.remaining())
        solver.setParams(parameters)
        hint = solver.createSol()
        for variable, value in zip(variables, programme.point(start), strict=True):
            solver.setSolVal(hint, variable, value)
        solver.addSol(hint)

        def offer(solution: Any) -> None:
            values = [solver.getSolVal(solution, v) for v in variables[: problem.n]]
            recorder.offer(np.clip(np.rint(values), 0, 1))

        class Improved(pyscipopt.Eventhdlr):  # type: ignore[misc]
            def eventinit(self) -> None:
                self.model.catchEvent(pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND, self)

            def eventexit(self) -> None:
                self.model.dropEvent(pyscipopt.SCIP_EVENTTYPE.BESTSOLFOUND, self)

            def eventexec(self, event: Any) -> None:
                try:
                    offer(self.model.getBestSol())
                except BaseException as error:  # SCIP would turn it into an error of its own
                    raised.append(error)
                if raised or recorder.asked_to_stop:
                    self.model.interruptSolve()

        raised: list[BaseException] = []
        solver.includeEventhdlr(Improved(), "improved", "reports incumbents")
        solver.optimize()
        ended = solver.getStatus()
        if raised:
            raise raised[0]
        if ended == "userinterrupt" and not recorder.asked_to_stop:
            raise KeyboardInterrupt  # Ctrl-C, which SCIP catches while it runs
        work |= {"nodes": int(solver.getNTotalNodes()), "lp_iterations": int(solver.getNLPIterations())}
        if solver.getNSols():
            offer(solver.getBestSol())
        bound = programme.bound(float(solver.getDualbound()))
        if ended == "optimal" and programme.proves(recorder.energy, bound):
            return recorder.solution(self.name, status=Status.OPTIMAL, bound=bound, work=work)
        status = Status.TIME_LIMIT if ended == "timelimit" else None
        return recorder.solution(self.name, status=status, bound=bound, work=work)


def _build(solver: Any, programme: Linearised, recorder: Recorder) -> list[Any] | None:
    """The programme's columns, in order, once it is in the solver; None where time ran out first."""
    from pyscipopt import quicksum

    variables = [
        solver.addVar(vtype="B" if j < programme.n else "C", lb=0.0, ub=1.0, obj=cost)
        for j, cost in enumerate(programme.cost.tolist())
    ]
    matrix = programme.matrix
    start, columns, values = matrix.indptr.tolist(), matrix.indices.tolist(), matrix.data.tolist()
    for r, (lower, upper) in enumerate(zip(programme.lower.tolist(), programme.upper.tolist(), strict=True)):
        entries = range(start[r], start[r + 1])
        row = quicksum(values[e] * variables[columns[e]] for e in entries)
        if lower == upper:
            solver.addCons(row == upper)
        elif np.isinf(lower):
            solver.addCons(row <= upper)
        else:
            solver.addCons((lower <= row) <= upper)
        if r % 500 == 0 and recorder.should_stop():
            return None
    return variables
