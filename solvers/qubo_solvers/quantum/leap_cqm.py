"""D-Wave's hybrid solver of constrained quadratic models in the cloud: counts and radius as constraints."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers.dimod_adapter import offer_samples, told
from qubo_solvers.dimod_bridge import MAX_VARIABLES, to_cqm
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quantum.access import Calls, Unanswered, ask, lend
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities, Recorder
from qubo_solvers.start import repair


@dataclass(frozen=True)
class LeapCqm:
    """LeapHybridCQMSampler: one call, with exact counts, intervals and radius as the model's own constraints.

    sampler   a sampler to use in place of a connection (`LeapHybridCQMSampler`'s interface)

    A time limit is passed on, but not less than the service's minimum (seconds). Its samples need not be
    feasible; where none is better, an infeasible one is repaired. The service takes no seed, so the same seed
    does not give the same answer. work: reads, feasible (before repair), sampler, and calls, microseconds
    (the service's own timing), problems (ids).
    """

    name: ClassVar[str] = "leap_cqm"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="D-Wave's hybrid quantum-classical solver in the cloud, counts as constraints",
        needs_dense=True,
        max_variables=MAX_VARIABLES,
        honours_time_limit=False,
        requires=("dimod", "dwave.system"),
        install="pip install dwave-system",
        configured="qubo_solvers.quantum.access:missing",
    )

    sampler: Any = None

    def __post_init__(self) -> None:
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
        recorder = Recorder(problem, time_limit, on_incumbent)
        if problem.n > MAX_VARIABLES:
            return Solution.unavailable(
                self.name, f"{problem.n} variables: models are written dense, for at most {MAX_VARIABLES}"
            )
        if initial is not None:
            recorder.offer(repair(problem, initial))
        if not problem.n:
            recorder.offer(np.zeros(0, np.uint8))
        if recorder.asked_to_stop or not problem.n:
            return recorder.solution(self.name)
        cqm = to_cqm(problem)
        calls = Calls()

        def seconds() -> float:
            least = float(service.min_time_limit(cqm))
            return least if time_limit is None else max(least, recorder.remaining())

        try:
            service = self._service
            samples = calls.sample(lambda: service.sample_cqm(cqm, time_limit=seconds()), cqm)
        except Unanswered as error:
            return Solution.unavailable(self.name, str(error))
        drawn = offer_samples(recorder, samples)
        work = {"reads": drawn.reads, "feasible": drawn.feasible, "sampler": type(service).__name__}
        return recorder.solution(
            self.name,
            repaired=bool(drawn.repaired),
            work=work | calls.work(),
            message=told(drawn.reads, drawn.feasible),
        )

    @cached_property
    def _service(self) -> Any:
        if self.sampler is not None:
            return self.sampler
        from dwave.system import LeapHybridCQMSampler

        return ask(LeapHybridCQMSampler)
