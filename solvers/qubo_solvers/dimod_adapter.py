"""Any dimod sampler as a Solver: the problem as a penalised BQM, its samples repaired into feasibility."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from qubo_solvers.dimod_bridge import MAX_VARIABLES, to_bqm
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.solution import OnIncumbent, Solution
from qubo_solvers.solver import Capabilities, Recorder
from qubo_solvers.start import repair

_LOWEST = 2.0**-20  # of the penalty: where the constraints all but vanish


@dataclass(frozen=True)
class DimodSolver:
    """Solve with a dimod sampler (an object with `sample(bqm, **parameters)` and `parameters`).

    sampler         the sampler
    num_reads       the work budget: samples drawn in all
    reads_per_call  samples drawn between two looks at the clock; a time limit can stop only there
    penalty         weight of the squared constraints; None: sufficient ones, derived from the instance
    adapt_penalty   start from the penalty and halve it after each call all of whose samples were feasible,
                    double it (at most to where it began) after one with none: sufficient weights are safe,
                    but often so large that a sampler hardly sees the energy
    parameters      passed to every sample() call
    timeout         the name of the sampler's own limit of a read, in whole milliseconds, where it has one:
                    what is left of the time limit is passed there

    A seed is passed where the sampler takes one (its own stream for each call); without, the same seed does
    not give the same answer. Infeasible samples are repaired by `qubo_solvers.start.repair`; the solution
    says in `repaired` whether its assignment was. work: reads, feasible (before repair), sampler,
    penalty_factor.
    """

    name: ClassVar[str] = "dimod"
    capabilities: ClassVar[Capabilities] = Capabilities(
        description="any dimod sampler, through a penalty, feasible by repair",
        needs_dense=True,
        max_variables=MAX_VARIABLES,
        native_cardinality=False,
        honours_time_limit=False,
        requires=("dimod",),
        install="pip install dimod",
    )

    sampler: Any
    num_reads: int = 20
    reads_per_call: int = 1
    penalty: float | None = None
    adapt_penalty: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout: str | None = None

    def __post_init__(self) -> None:
        if self.num_reads < 1 or self.reads_per_call < 1:
            raise ValueError(f"num_reads and reads_per_call must be at least 1, got {self}")

    def solve(
        self,
        problem: CardinalityQubo,
        *,
        seed: int = 0,
        time_limit: float | None = None,
        initial: ArrayLike | None = None,
        on_incumbent: OnIncumbent | None = None,
    ) -> Solution:
        """See Solver. The initial assignment is the first incumbent; samplers are not started from it."""
        return sample_into(self, self.name, problem, seed, time_limit, initial, on_incumbent)


def sample_into(
    options: DimodSolver,
    name: str,
    problem: CardinalityQubo,
    seed: int,
    time_limit: float | None,
    initial: ArrayLike | None,
    on_incumbent: OnIncumbent | None,
) -> Solution:
    """The loop over sample() calls, answering under the solver's `name`.

    A problem without variables is answered without asking the sampler: many refuse an empty model.
    """
    recorder = Recorder(problem, time_limit, on_incumbent)
    if problem.n > MAX_VARIABLES:
        return Solution.unavailable(
            name, f"{problem.n} variables: models are written dense, for at most {MAX_VARIABLES}"
        )
    if initial is not None:
        recorder.offer(repair(problem, initial))
    if not problem.n:
        recorder.offer(np.zeros(0, np.uint8))
        return recorder.solution(name)
    bqm = to_bqm(problem, options.penalty)
    factor, reads, feasible, repaired = 1.0, 0, 0, False
    seeds = np.random.SeedSequence(seed)
    taken = getattr(options.sampler, "parameters", {})
    while reads < options.num_reads and not (recorder.should_stop() and (reads or recorder.trace)):
        wanted = min(options.reads_per_call, options.num_reads - reads)
        parameters = dict(options.parameters)
        if "seed" in taken:
            parameters.setdefault("seed", int(seeds.spawn(1)[0].generate_state(1)[0]) >> 1)
        if "num_reads" in taken:
            parameters["num_reads"] = wanted
        if options.timeout is not None and time_limit is not None:
            parameters[options.timeout] = max(1, round(1000 * recorder.remaining() / wanted))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "All bqm biases are zero")  # a zero matrix is no mistake here
            samples = options.sampler.sample(bqm, **parameters)
        drawn = offer_samples(recorder, samples)
        reads += drawn.reads
        feasible += drawn.feasible
        repaired = repaired if drawn.repaired is None else drawn.repaired
        if not drawn.reads:
            break
        changed = factor
        if options.adapt_penalty and drawn.feasible == drawn.reads:
            changed = max(_LOWEST, factor / 2)
        elif options.adapt_penalty and drawn.feasible == 0:
            changed = min(1.0, factor * 2)
        if changed != factor and problem.n_groups + (problem.radius is not None):
            factor = changed
            bqm = to_bqm(problem, options.penalty, factor=factor)
    work = {
        "reads": reads,
        "feasible": feasible,
        "sampler": type(options.sampler).__name__,
        "penalty_factor": factor,
    }
    return recorder.solution(name, repaired=repaired, work=work, message=told(reads, feasible))


class Drawn(NamedTuple):
    """reads: samples drawn; feasible: of them; repaired: whether the last one kept was, None: none kept."""

    reads: int
    feasible: int
    repaired: bool | None


def offer_samples(recorder: Recorder, samples: Any) -> Drawn:
    """Offer the recorder a dimod sample set over variables 0..n-1 (and slack ones), repaired where needed."""
    problem = recorder.problem
    rows = _rows(samples, problem.n)
    fits = np.array([problem.is_feasible(x) for x in rows], dtype=bool)
    repaired = None
    for i in np.argsort(~fits, kind="stable"):  # the sampler's own first: repaired ones must be better
        if recorder.offer(rows[i] if fits[i] else repair(problem, rows[i])):
            repaired = not bool(fits[i])
        if recorder.asked_to_stop:
            break
    return Drawn(len(rows), int(fits.sum()), repaired)


def told(reads: int, feasible: int) -> str:
    """What a person should know of the samples: how many were repaired."""
    bad = reads - feasible
    return f"{bad} of {reads} samples were infeasible and were repaired" if bad else ""


def _rows(samples: Any, n: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A sample set's values of variables 0..n-1, (samples, n) uint8, one row for each drawn sample."""
    if len(samples) == 0:
        return np.zeros((0, n), np.uint8)
    labels = list(samples.variables)
    position = {label: i for i, label in enumerate(labels)}
    values = np.asarray(samples.record.sample)[:, [position[i] for i in range(n)]]
    return values.astype(np.uint8)
