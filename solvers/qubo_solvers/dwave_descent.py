"""dwave-samplers' steepest descent from random states, through the dimod adapter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from numpy.typing import ArrayLike

from qubo_solvers.dimod_adapter import DimodSolver, sample_into
from qubo_solvers.dimod_bridge import MAX_VARIABLES
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities


@dataclass(frozen=True)
class DwaveDescent:
    """dwave.samplers.SteepestDescentSampler: single flips under a penalty, then repair.

    num_reads       descents, each from a random state
    reads_per_call, penalty, adapt_penalty   as in DimodSolver

    work: as DimodSolver.
    """

    name: ClassVar[str] = "dwave_descent"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="dwave-samplers' one-flip steepest descent through a penalty, feasible by repair",
        needs_dense=True,
        max_variables=MAX_VARIABLES,
        native_cardinality=False,
        honours_time_limit=False,
        requires=("dimod", "dwave.samplers"),
        install="pip install dwave-samplers",
    )

    num_reads: int = 1000
    reads_per_call: int = 50
    penalty: float | None = None
    adapt_penalty: bool = True

    def __post_init__(self) -> None:
        if self.num_reads < 1 or self.reads_per_call < 1:
            raise ValueError(f"num_reads and reads_per_call must be at least 1, got {self}")

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Load the library, so that no clock sees it."""
        import dwave.samplers  # noqa: F401

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """See Solver. The initial assignment is the first incumbent; descents start from random states."""
        from dwave.samplers import SteepestDescentSampler

        options = DimodSolver(
            SteepestDescentSampler(), self.num_reads, self.reads_per_call, self.penalty, self.adapt_penalty
        )
        return sample_into(options, self.name, problem, seed, time_limit, initial, on_incumbent)
