"""OpenJij's simulated annealing and simulated quantum annealing, through the dimod adapter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from numpy.typing import ArrayLike

from qubo_solvers.dimod_adapter import DimodSolver, sample_into
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities

METHODS = {"sa": "SASampler", "sqa": "SQASampler"}


@dataclass(frozen=True)
class OpenJij:
    """openjij.SASampler or SQASampler: single flips under a penalty, then repair.

    method       "sa", simulated annealing; "sqa", path-integral Monte Carlo of a quantum annealer
    num_reads    annealing runs, each from a random state
    num_sweeps   sweeps over all variables in a run
    trotter      replicas of a run of "sqa"
    penalty, adapt_penalty   as in DimodSolver

    Every run is a call with a seed of its own: within one call OpenJij 0.12 starts all reads from the same
    seed and returns the same sample for each. work: as DimodSolver.
    """

    name: ClassVar[str] = "openjij"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="OpenJij's simulated (quantum) annealing through a penalty, feasible by repair",
        needs_dense=True,
        max_variables=1024,  # OpenJij reads its couplings from a dictionary of Python tuples
        native_cardinality=False,
        honours_time_limit=False,
        requires=("dimod", "openjij"),
        install="pip install openjij",
    )

    method: str = "sa"
    num_reads: int = 20
    num_sweeps: int = 1000
    trotter: int = 4
    penalty: float | None = None
    adapt_penalty: bool = True

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; known: {', '.join(METHODS)}")
        if min(self.num_reads, self.num_sweeps, self.trotter) < 1:
            raise ValueError(f"num_reads, num_sweeps and trotter must be at least 1, got {self}")

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Load the library, so that no clock sees it."""
        import openjij  # noqa: F401

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """See Solver. The initial assignment is the first incumbent; OpenJij starts from random states."""
        import openjij

        parameters: dict[str, Any] = {"num_sweeps": self.num_sweeps, "sparse": False}
        if self.method == "sqa":
            parameters["trotter"] = self.trotter
        sampler = _Seeded(getattr(openjij, METHODS[self.method])())
        options = DimodSolver(sampler, self.num_reads, 1, self.penalty, self.adapt_penalty, parameters)
        found = sample_into(options, self.name, problem, seed, time_limit, initial, on_incumbent)
        return replace(found, work=found.work | {"sampler": METHODS[self.method]})


class _Seeded:
    """An OpenJij sampler that names the parameters it takes, as the adapter asks for them."""

    parameters: ClassVar[Mapping[str, list[str]]] = {"num_reads": [], "seed": []}

    def __init__(self, sampler: Any) -> None:
        self._sampler = sampler

    def sample(self, bqm: Any, **parameters: Any) -> Any:
        return self._sampler.sample(bqm, **parameters)
