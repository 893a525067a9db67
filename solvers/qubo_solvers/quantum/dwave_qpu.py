"""D-Wave's quantum annealer: the penalised model embedded in its graph, the samples repaired."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers.dimod_adapter import DimodSolver, sample_into
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quantum.access import Calls, Unanswered, ask, lend
from qubo_solvers.quantum.embedding import Embedding, embed, largest_clique
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities

RADIUS_BITS = 8  # slack variables of a radius of at most 255


@dataclass(frozen=True)
class DwaveQpu:
    """A D-Wave processor, through the dimod adapter and a minor embedding.

    num_reads        anneals in all
    reads_per_call   anneals of a call; the penalty adapts between calls
    annealing_time   microseconds of an anneal; None: the device's own default
    chain_strength   coupling within a chain; None: by uniform torque compensation, D-Wave's default
    device           the processor's name; None: as D-Wave's configuration says
    embedding_time   seconds that the search for an embedding may take, where no clique embedding fits
    sampler          a sampler to use in place of a connection (`DWaveSampler`'s interface)
    penalty, adapt_penalty   as in DimodSolver

    The connection is opened when it is first needed and kept. max_variables is what fits as a clique with the
    slack variables of a radius: of the sampler where one is given, otherwise a figure that leaves a fifth of
    the ideal graphs' largest cliques (180 on Pegasus P16, 184 on Zephyr Z12) to missing qubits. Intervals
    have slack variables too: such a problem is refused where they do not fit. The device takes no seed, so
    the same seed does not give the same answer.

    work: as DimodSolver, and calls, microseconds (the service's own timing, added up), problems (ids),
    device, qubits, longest_chain, chain_breaks (mean share of broken chains).
    """

    name: ClassVar[str] = "dwave_qpu"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="D-Wave's quantum annealer in the cloud, through a penalty and an embedding",
        needs_dense=True,
        max_variables=140,
        native_cardinality=False,
        honours_time_limit=False,
        requires=("dimod", "dwave.system", "minorminer"),
        install="pip install dwave-system",
        configured="qubo_solvers.quantum.access:missing",
    )

    num_reads: int = 500
    reads_per_call: int = 100
    annealing_time: float | None = None
    chain_strength: float | None = None
    device: str | None = None
    embedding_time: float = 30.0
    penalty: float | None = None
    adapt_penalty: bool = True
    sampler: Any = None

    def __post_init__(self) -> None:
        if self.num_reads < 1 or self.reads_per_call < 1:
            raise ValueError(f"num_reads and reads_per_call must be at least 1, got {self}")
        if self.sampler is not None:
            most = max(1, largest_clique(self.sampler.to_networkx_graph()) - RADIUS_BITS)
            lend(self, max_variables=most)

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
        """See Solver. The initial assignment is the first incumbent; anneals do not start from it."""
        parameters: dict[str, Any] = {}
        if self.annealing_time is not None:
            parameters["annealing_time"] = self.annealing_time
        if self.chain_strength is not None:
            parameters["chain_strength"] = self.chain_strength
        try:
            embedded = _Embedded(self._processor, seed, self.embedding_time)
            options = DimodSolver(
                embedded, self.num_reads, self.reads_per_call, self.penalty, self.adapt_penalty, parameters
            )
            found = sample_into(options, self.name, problem, seed, time_limit, initial, on_incumbent)
        except Unanswered as error:
            return Solution.unavailable(self.name, str(error))
        message = "; ".join(part for part in (found.message, embedded.calls.failure) if part)
        return replace(found, work=found.work | embedded.work(), message=message)

    @cached_property
    def _processor(self) -> Any:
        if self.sampler is not None:
            return self.sampler
        from dwave.system import DWaveSampler

        return ask(lambda: DWaveSampler() if self.device is None else DWaveSampler(solver=self.device))


class _Embedded:
    """A processor behind the interface of a sampler of any model; the first model's embedding serves all."""

    parameters: ClassVar[Mapping[str, list[str]]] = {"num_reads": []}

    def __init__(self, processor: Any, seed: int, embedding_time: float) -> None:
        self._processor, self._seed, self._embedding_time = processor, seed, embedding_time
        self._embedding: Embedding = {}
        self._composite: Any = None
        self._broken: list[float] = []
        self.calls = Calls()

    def sample(self, bqm: Any, **parameters: Any) -> Any:
        """Samples of the model, unembedded; none where the service failed after it had answered before."""
        from dwave.system import FixedEmbeddingComposite

        if self._composite is None:
            graph = self._processor.to_networkx_graph()
            self._embedding = embed(bqm, graph, self._seed, self._embedding_time)
            if not self._embedding:
                raise Unanswered(
                    f"no embedding of the model's {bqm.num_variables} variables (slack included) and "
                    f"{bqm.num_interactions} couplings was found in a processor of {len(graph)} qubits; "
                    "take a smaller block"
                )
            self._composite = FixedEmbeddingComposite(self._processor, self._embedding)
        samples = self.calls.sample(lambda: self._composite.sample(bqm, **parameters), bqm)
        if len(samples):
            record = samples.record
            self._broken += record.chain_break_fraction.repeat(record.num_occurrences).tolist()
        return samples

    def work(self) -> dict[str, Any]:
        """See DwaveQpu."""
        chains = [len(chain) for chain in self._embedding.values()]
        return self.calls.work() | {
            "sampler": type(self._processor).__name__,
            "device": str(self._processor.properties.get("chip_id", "")),
            "qubits": sum(chains),
            "longest_chain": max(chains, default=0),
            "chain_breaks": float(np.mean(self._broken)) if self._broken else 0.0,
        }
