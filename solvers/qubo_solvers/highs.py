"""HiGHS on the linearised problem: branch and cut with a lower bound, proofs on small blocks."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers.interrupts import kept
from qubo_solvers.linearised import TOLERANCE, Linearised, linearise
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.solution import OnIncumbent, Solution, Status
from qubo_solvers.solver import Capabilities, Recorder
from qubo_solvers.start import starting_point


@dataclass(frozen=True)
class Highs:
    """HiGHS (Huangfu and Hall 2018, doi 10.1007/s12532-017-0130-5) on `qubo_solvers.linearised`, one thread.

    max_nodes     the work budget: nodes of the search tree; None: until proved
    max_products  refuse problems with more nonzero couplings

    HiGHS computes in floating point, with tolerances of 1e-9 on coefficients scaled to at most one; `bound`
    is lowered by what these allow (`Linearised.bound`), and OPTIMAL means that HiGHS ended its search and the
    energy, recomputed, lies within twice that of the bound. CP-SAT's integers are the stricter proof.

    work: products, nodes, simplex_iterations.
    """

    name: ClassVar[str] = "highs"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="HiGHS on the linearised problem: proofs on small blocks, lower bounds beyond",
        exact=True,
        needs_dense=True,
        max_variables=100,
        requires=("highspy", "scipy"),
        install="pip install 'highspy<1.15'",
    )

    max_nodes: int | None = 100
    max_products: int = 5_000

    def __post_init__(self) -> None:
        if self.max_nodes is not None and self.max_nodes < 1:
            raise ValueError(f"max_nodes must be at least 1 or None, got {self.max_nodes}")

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Load the libraries, so that no clock sees it; `solve` says why where one cannot be loaded."""
        import scipy.sparse  # noqa: F401

        with contextlib.suppress(ImportError):
            import highspy  # noqa: F401

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """See Solver. The initial assignment, or the greedy start, is HiGHS' first solution."""
        try:
            import highspy
        except ImportError as error:
            reason = f"highspy cannot be loaded ({error}); 1.15 clashes with OR-Tools in one process"
            return Solution.unavailable(self.name, f"{reason}: {self.capabilities.install}")
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

        solver = highspy.Highs()
        options: dict[str, Any] = {
            "output_flag": False,
            "threads": 1,
            "random_seed": seed % (1 << 31),
            "mip_rel_gap": 0.0,
            "mip_abs_gap": 0.0,
            "mip_feasibility_tolerance": TOLERANCE,
            "primal_feasibility_tolerance": TOLERANCE,
            "dual_feasibility_tolerance": TOLERANCE,
        }
        if self.max_nodes is not None:
            options["mip_max_nodes"] = self.max_nodes
        if time_limit is not None:
            options["time_limit"] = max(1e-3, recorder.remaining())
        for option, value in options.items():
            solver.setOptionValue(option, value)
        solver.passModel(_model(highspy, programme))
        hint = programme.point(start)
        solver.setSolution(len(hint), np.arange(len(hint), dtype=np.int32), hint)

        with kept() as raised:  # an exception that unwinds HiGHS can end the process

            def improved(event: Any) -> None:
                raised.call(recorder.offer, np.rint(np.asarray(event.data_out.mip_solution)[: problem.n]))

            def look(event: Any) -> None:
                if raised or recorder.asked_to_stop:
                    event.interrupt()

            solver.cbMipImprovingSolution.subscribe(improved)
            solver.cbMipInterrupt.subscribe(look)
            solver.run()
        ended = solver.getModelStatus()
        info = solver.getInfo()
        work |= {"nodes": int(info.mip_node_count), "simplex_iterations": int(info.simplex_iteration_count)}
        values = np.asarray(solver.getSolution().col_value)
        if len(values):
            recorder.offer(np.clip(np.rint(values[: problem.n]), 0, 1))
        bound = programme.bound(float(info.mip_dual_bound))
        if ended == highspy.HighsModelStatus.kOptimal and programme.proves(recorder.energy, bound):
            return recorder.solution(self.name, status=Status.OPTIMAL, bound=bound, work=work)
        status = Status.TIME_LIMIT if ended == highspy.HighsModelStatus.kTimeLimit else None
        return recorder.solution(self.name, status=status, bound=bound, work=work)


def _model(highspy: Any, programme: Linearised) -> Any:
    """The programme as a HighsLp."""
    model = highspy.HighsLp()
    columns, products = len(programme.cost), len(programme.row)
    model.num_col_, model.num_row_ = columns, len(programme.lower)
    model.col_cost_ = programme.cost
    model.col_lower_, model.col_upper_ = np.zeros(columns), np.ones(columns)
    model.row_lower_, model.row_upper_ = programme.lower, programme.upper
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = programme.matrix.indptr
    model.a_matrix_.index_ = programme.matrix.indices
    model.a_matrix_.value_ = programme.matrix.data
    kinds = highspy.HighsVarType
    model.integrality_ = [kinds.kInteger] * programme.n + [kinds.kContinuous] * products
    return model
