"""D-Wave's hybrid solver of binary quadratic models in the cloud: counts by penalty, samples repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from numpy.typing import ArrayLike

from qubo_solvers.dimod_adapter import DimodSolver, sample_into
from qubo_solvers.dimod_bridge import MAX_VARIABLES
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quantum.access import Calls, Unanswered, ask, lend
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities


@dataclass(frozen=True)
class LeapBqm:
    """LeapHybridSampler, through the dimod adapter.

    num_reads   samples in all; a call of the service, of at least its minimum time for the problem's size
                (seconds), usually gives one; the penalty adapts between calls
    sampler     a sampler to use in place of a connection (`LeapHybridSampler`'s interface)
    penalty, adapt_penalty   as in DimodSolver

    A time limit is passed on, but not less than the service's minimum. The service takes no seed, so the same
    seed does not give the same answer. work: as DimodSolver, and calls, microseconds (the service's own
    timing, added up), problems (ids).
    """

    name: ClassVar[str] = "leap_bqm"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="D-Wave's hybrid quantum-classical solver in the cloud, through a penalty",
        needs_dense=True,
        max_variables=MAX_VARIABLES,
        native_cardinality=False,
        honours_time_limit=False,
        requires=("dimod", "dwave.system"),
        install="pip install dwave-system",
        configured="qubo_solvers.quantum.access:missing",
    )

    num_reads: int = 1
    penalty: float | None = None
    adapt_penalty: bool = True
    sampler: Any = None

    def __post_init__(self) -> None:
        if self.num_reads < 1:
            raise ValueError(f"num_reads must be at least 1, got {self.num_reads}")
        if self.sampler is not None:
            lend(self)

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Load the library, so that no clock sees it."""
        import dwave.system  # noqa: F401

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """See Solver. The initial assignment is the first incumbent; the service does not start from it."""
        try:
            hybrid = _Hybrid(self._service)
            options = DimodSolver(
                hybrid, self.num_reads, 1, self.penalty, self.adapt_penalty, timeout="milliseconds"
            )
            found = sample_into(options, self.name, problem, seed, time_limit, initial, on_incumbent)
        except Unanswered as error:
            return Solution.unavailable(self.name, str(error))
        message = "; ".join(part for part in (found.message, hybrid.calls.failure) if part)
        work = found.work | hybrid.calls.work() | {"sampler": type(self._service).__name__}
        return replace(found, work=work, message=message)

    @cached_property
    def _service(self) -> Any:
        if self.sampler is not None:
            return self.sampler
        from dwave.system import LeapHybridSampler

        return ask(LeapHybridSampler)


class _Hybrid:
    """The service behind the interface of a sampler: its least time where less is asked."""

    parameters: ClassVar[Mapping[str, list[str]]] = {"milliseconds": []}

    def __init__(self, service: Any) -> None:
        self._service = service
        self.calls = Calls()

    def sample(self, bqm: Any, milliseconds: int = 0) -> Any:
        """Samples of the model; none where the service failed after it had answered before."""

        def call() -> Any:
            seconds = max(float(self._service.min_time_limit(bqm)), milliseconds / 1000)
            return self._service.sample(bqm, time_limit=seconds)

        return self.calls.sample(call, bqm)
