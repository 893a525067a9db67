"""dwave-samplers' tabu search with one-flip moves, through the dimod adapter."""

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
class DwaveTabu:
    """dwave.samplers.TabuSampler: single flips under a penalty, then repair.

    num_reads           tabu searches, each from a random state
    moves_per_variable  flips that a search may consider, for each variable
    tenure              iterations for which a flipped variable may not flip back; None: the sampler's own
                        choice, a quarter of the variables and at most 20
    reads_per_call, penalty, adapt_penalty   as in DimodSolver

    A time limit is passed on, in milliseconds, to the search that is running; writing the model out (seconds
    for 4,096 variables) is beside it. work: as DimodSolver.
    """

    name: ClassVar[str] = "dwave_tabu"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="dwave-samplers' one-flip tabu search through a penalty, feasible by repair",
        needs_dense=True,
        max_variables=MAX_VARIABLES,
        native_cardinality=False,
        honours_time_limit=False,
        requires=("dimod", "dwave.samplers"),
        install="pip install dwave-samplers",
    )

    num_reads: int = 10
    moves_per_variable: int = 1000
    tenure: int | None = None
    reads_per_call: int = 1
    penalty: float | None = None
    adapt_penalty: bool = True

    def __post_init__(self) -> None:
        if min(self.num_reads, self.moves_per_variable, self.reads_per_call) < 1:
            raise ValueError(
                f"num_reads, moves_per_variable and reads_per_call must be at least 1, got {self}"
            )
        if self.tenure is not None and self.tenure < 0:
            raise ValueError(f"tenure must be at least 0 or None, got {self.tenure}")

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
        """See Solver. The initial assignment is the first incumbent; searches start from random states."""
        from dwave.samplers import TabuSampler

        parameters = {
            "timeout": None,  # by default the sampler stops after 20 ms, so that a seed settles nothing
            "num_restarts": 0,
            "coefficient_z_first": self.moves_per_variable,
            "lower_bound_z": self.moves_per_variable,
            "tenure": None if self.tenure is None else min(self.tenure, max(0, problem.n - 1)),
        }
        options = DimodSolver(
            TabuSampler(), self.num_reads, self.reads_per_call, self.penalty, self.adapt_penalty, parameters,
            timeout="timeout",
        )  # fmt: skip
        return sample_into(options, self.name, problem, seed, time_limit, initial, on_incumbent)
