"""dwave-neal's simulated annealing, the common baseline, through the dimod adapter."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

from numpy.typing import ArrayLike

from qubo_solvers.dimod_adapter import DimodSolver, sample_into
from qubo_solvers.dimod_bridge import MAX_VARIABLES
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities


@dataclass(frozen=True)
class Neal:
    """neal.SimulatedAnnealingSampler: single flips under a penalty, then repair.

    num_reads       annealing runs, each from a random state
    num_sweeps      sweeps over all variables in a run
    reads_per_call, penalty, adapt_penalty   as in DimodSolver

    dwave-neal 0.6 hands on dwave-samplers' class of that name, which so has no solver of its own here.
    neal flips one variable at a time, so every swap climbs over the penalty; that is what a comparison with
    it measures. work: as DimodSolver.
    """

    name: ClassVar[str] = "neal"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="dwave-neal's simulated annealing through a penalty, feasible by repair",
        needs_dense=True,
        max_variables=MAX_VARIABLES,
        native_cardinality=False,
        honours_time_limit=False,
        requires=("dimod", "neal"),
        install="pip install dwave-neal",
    )

    num_reads: int = 20
    num_sweeps: int = 1000
    reads_per_call: int = 1
    penalty: float | None = None
    adapt_penalty: bool = True

    def __post_init__(self) -> None:
        if self.num_sweeps < 1:
            raise ValueError(f"num_sweeps must be at least 1, got {self.num_sweeps}")
        if self.num_reads < 1 or self.reads_per_call < 1:
            raise ValueError(f"num_reads and reads_per_call must be at least 1, got {self}")

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Load the library, so that no clock sees it."""
        _sampler()

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """See Solver. The initial assignment is the first incumbent; neal starts from random states."""
        options = DimodSolver(
            _sampler(),
            self.num_reads,
            self.reads_per_call,
            self.penalty,
            self.adapt_penalty,
            {"num_sweeps": self.num_sweeps},
        )
        return sample_into(options, self.name, problem, seed, time_limit, initial, on_incumbent)


def _sampler() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from neal import SimulatedAnnealingSampler

        return SimulatedAnnealingSampler()
