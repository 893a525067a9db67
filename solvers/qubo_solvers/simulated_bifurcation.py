"""Simulated bifurcation (the PyTorch package of that name), through the dimod adapter."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers.dimod_adapter import DimodSolver, sample_into
from qubo_solvers.dimod_bridge import MAX_VARIABLES
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities

MODES = ("ballistic", "discrete")


@dataclass(frozen=True)
class SimulatedBifurcation:
    """simulated_bifurcation.minimize: classical oscillators that bifurcate into spins, then repair.

    mode           "ballistic" (couplings act on positions) or "discrete" (on their signs), both of Goto et
                   al. 2021, doi 10.1126/sciadv.abe7953
    heated         add the fluctuations of Kanao and Goto 2022, doi 10.1038/s42005-022-00929-9
    runs           calls; the penalty adapts between them, and a time limit is passed to each
    agents         trajectories of a call, integrated together
    max_steps      time steps of a trajectory; the package's ramp, after which spins are settled, takes 1,000
    device         where PyTorch computes: "cpu", "cuda", ...
    penalty, adapt_penalty   as in DimodSolver

    It computes in float32. The state of PyTorch's generators is put back after every call. On another device
    the same seed gives other answers. work: as DimodSolver; a read is a trajectory.
    """

    name: ClassVar[str] = "simulated_bifurcation"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="simulated bifurcation (PyTorch) through a penalty, feasible by repair",
        needs_dense=True,
        max_variables=MAX_VARIABLES,
        native_cardinality=False,
        honours_time_limit=False,
        requires=("dimod", "simulated_bifurcation", "torch"),
        install="pip install simulated-bifurcation",
    )

    mode: str = "discrete"
    heated: bool = False
    runs: int = 8
    agents: int = 32
    max_steps: int = 1000
    device: str = "cpu"
    penalty: float | None = None
    adapt_penalty: bool = True

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}; known: {', '.join(MODES)}")
        if min(self.runs, self.agents, self.max_steps) < 1:
            raise ValueError(f"runs, agents and max_steps must be at least 1, got {self}")

    def warm_up(self, problem: CardinalityQubo) -> None:
        """Load the libraries (a second or two), so that no clock sees it."""
        import simulated_bifurcation  # noqa: F401

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """See Solver. The initial assignment is the first incumbent; trajectories start at random."""
        reads = self.runs * self.agents
        options = DimodSolver(
            _Bifurcation(self), reads, 1, self.penalty, self.adapt_penalty, timeout="timeout"
        )
        found = sample_into(options, self.name, problem, seed, time_limit, initial, on_incumbent)
        return replace(found, work=found.work | {"sampler": f"simulated_bifurcation, {self.mode}"})


class _Bifurcation:
    """The package behind the interface of a dimod sampler: a call gives a sample for each agent."""

    parameters: ClassVar[Mapping[str, list[str]]] = {"seed": [], "timeout": []}

    def __init__(self, options: SimulatedBifurcation) -> None:
        self._options = options

    def sample(self, bqm: Any, *, seed: int, timeout: int | None = None) -> Any:
        """Samples of a binary model over variables 0..n-1; timeout in milliseconds."""
        import dimod
        import simulated_bifurcation as sb
        import torch

        o = self._options
        n = bqm.num_variables
        vectors = bqm.to_numpy_vectors(variable_order=range(n))
        quadratic = np.zeros((n, n))
        quadratic[vectors.quadratic.row_indices, vectors.quadratic.col_indices] = vectors.quadratic.biases
        linear = np.array(vectors.linear_biases, dtype=np.float64)
        largest = max(float(np.abs(quadratic).max()), float(np.abs(linear).max())) or 1.0
        device = torch.device(o.device)
        forked = [] if device.type == "cpu" else [device]
        with torch.random.fork_rng(forked, device_type=device.type if forked else "cuda"):
            torch.manual_seed(seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that no trajectory has converged: its signs are taken
                values, _ = sb.minimize(
                    quadratic / largest,
                    linear / largest,
                    domain="binary",
                    device=device,
                    agents=o.agents,
                    max_steps=o.max_steps,
                    best_only=False,
                    mode=o.mode,
                    heated=o.heated,
                    verbose=False,
                    timeout=None if timeout is None else timeout / 1000,
                )
        rows = values.cpu().numpy().round().astype(np.int8)
        return dimod.SampleSet.from_samples_bqm((rows, list(range(n))), bqm)
