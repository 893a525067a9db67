"""Any solver here as a dimod sampler: QuboPruneSampler.sample(bqm) and .sample_cqm(cqm)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dimod
import numpy as np

from qubo_solvers.dimod_bridge import from_bqm, from_cqm
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.solver import Solver
from qubo_solvers.solving import solve


class QuboPruneSampler(dimod.Sampler):  # type: ignore[misc]
    """A dimod sampler over a solver here: a registered name, "package.module:Class" or an instance.

    `options` build a named solver. Each sample is one solve (num_reads of them, seeded seed, seed + 1, ...).
    A solver that cannot take the model raises ValueError with its reason.
    """

    def __init__(self, solver: str | Solver = "anneal", **options: Any) -> None:
        self._solver = solver
        self._options = options

    @property
    def parameters(self) -> Mapping[str, list[str]]:
        """The keyword parameters of sample and sample_cqm."""
        return {"num_reads": [], "seed": [], "time_limit": []}

    @property
    def properties(self) -> Mapping[str, Any]:
        """The solver behind, by name."""
        return {"solver": self._solver if isinstance(self._solver, str) else self._solver.name}

    def sample(
        self,
        bqm: Any,
        *,
        num_reads: int = 1,
        seed: int = 0,
        time_limit: float | None = None,
        **parameters: Any,
    ) -> Any:
        """Samples of a BinaryQuadraticModel (binary or spin), lowest first; time_limit: seconds a read."""
        self.remove_unknown_kwargs(**parameters)
        problem, labels = from_bqm(bqm)
        rows, info = self._solve(problem, num_reads, seed, time_limit)
        values = rows.astype(np.int8)
        if bqm.vartype.name == "SPIN":
            values = 2 * values - 1
        return _sorted(dimod.SampleSet.from_samples_bqm((values, labels), bqm, info=info))

    def sample_cqm(
        self,
        cqm: Any,
        *,
        num_reads: int = 1,
        seed: int = 0,
        time_limit: float | None = None,
        **parameters: Any,
    ) -> Any:
        """Samples of a ConstrainedQuadraticModel as `dimod_bridge.from_cqm` reads it; all feasible."""
        self.remove_unknown_kwargs(**parameters)
        problem, labels = from_cqm(cqm)
        rows, info = self._solve(problem, num_reads, seed, time_limit)
        return _sorted(dimod.SampleSet.from_samples_cqm((rows.astype(np.int8), labels), cqm, info=info))

    def _solve(
        self, problem: CardinalityQubo, num_reads: int, seed: int, time_limit: float | None
    ) -> tuple[np.ndarray[Any, np.dtype[np.uint8]], dict[str, Any]]:
        if num_reads < 1:
            raise ValueError(f"num_reads must be at least 1, got {num_reads}")
        rows, statuses = [], []
        for read in range(num_reads):
            solution = solve(problem, self._solver, seed=seed + read, time_limit=time_limit, **self._options)
            if solution.assignment is None:
                reason = solution.message or solution.status.message
                raise ValueError(f"{solution.solver} gave no sample: {reason}")
            rows.append(solution.assignment)
            statuses.append(solution.status.value)
        return np.array(rows, dtype=np.uint8).reshape(num_reads, problem.n), {"statuses": statuses}


def _sorted(samples: Any) -> Any:
    return samples.slice(None, sorted_by="energy")
