"""The annealer on D-Wave's mock of a processor, with real embeddings: answers, work, sizes, failures."""

import numpy as np
import pytest

from qubo_solvers import CardinalityQubo, Status, get, solve
from qubo_solvers.quantum.dwave_qpu import DwaveQpu
from qubo_solvers.testing import CHECKS, random_problem

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("check", CHECKS)
def test_conformance(check, processor):
    CHECKS[check](lambda: DwaveQpu(num_reads=20, reads_per_call=10, sampler=processor()))


def test_it_finds_the_optimum_of_a_small_plain_qubo(processor):
    problem = random_problem("plain", 10)
    solution = solve(problem, DwaveQpu(sampler=processor()))
    assert np.isclose(solution.energy, solve(problem, "exhaustive").energy)
    assert solution.status is Status.FEASIBLE


def test_what_the_work_says(processor):
    problem = random_problem("dense", 12)
    solution = solve(problem, DwaveQpu(num_reads=25, reads_per_call=10, sampler=processor()))
    work = solution.work
    assert (work["reads"], work["calls"], len(work["problems"])) == (25, 3, 3)
    assert work["microseconds"]["qpu_access_time"] == pytest.approx(3 * 8550.28)
    assert not [key for key in work["microseconds"] if key.endswith("_per_sample")]
    assert work["sampler"] == work["device"] == "MockDWaveSampler"
    assert 12 <= work["qubits"] <= 12 * work["longest_chain"]
    assert 0 <= work["chain_breaks"] <= 1


def test_parameters_reach_the_device(processor):
    asked = []
    device = processor()
    sample = device.sample

    def watch(bqm, **parameters):
        asked.append((max(abs(b) for b in bqm.quadratic.values()), parameters))
        return sample(bqm, **parameters)

    device.sample = watch
    problem = random_problem("plain", 6)
    solve(problem, DwaveQpu(num_reads=5, annealing_time=7.0, chain_strength=1e4, sampler=device))
    ((strongest, parameters),) = asked
    assert (parameters["annealing_time"], parameters["num_reads"]) == (7.0, 5)
    plain = np.abs(problem.quadratic.dense()).max() * 2
    if solve(problem, DwaveQpu(num_reads=5, sampler=processor())).work["longest_chain"] > 1:
        assert strongest > plain


def test_the_size_is_what_fits_the_processor_as_a_clique(processor):
    from qubo_solvers.quantum.embedding import largest_clique

    device = processor(2)
    solver = DwaveQpu(num_reads=5, sampler=device)
    most = largest_clique(device.to_networkx_graph()) - 8
    assert solver.capabilities.max_variables == most == 16
    assert DwaveQpu.capabilities.max_variables == 140
    reference = np.zeros(most, np.uint8)
    reference[: most // 2] = 1
    dense = random_problem("dense", most)
    tight = CardinalityQubo.grouped(
        dense.quadratic, dense.linear, dense.groups, dense.lower, reference=reference, radius=most
    )
    assert solve(tight, solver).assignment is not None


def test_too_large_a_problem_is_refused(processor):
    solution = solve(random_problem("dense", 30), DwaveQpu(sampler=processor(2)))
    assert solution.status is Status.UNAVAILABLE
    assert "no embedding of the model's 30 variables (slack included) and 435 couplings" in solution.message
    assert "take a smaller block" in solution.message


def failing(device, after):
    sample, calls = device.sample, []

    def fail(bqm, **parameters):
        calls.append(parameters)
        if len(calls) > after:
            raise OSError("quota\nexceeded")
        return sample(bqm, **parameters)

    device.sample = fail
    return device


def test_a_failure_is_one_line(processor):
    solution = solve(random_problem("dense", 8), DwaveQpu(sampler=failing(processor(), 0)))
    assert solution.status is Status.UNAVAILABLE
    assert solution.assignment is None
    assert solution.message == "D-Wave's service: OSError: quota exceeded"


def test_a_later_failure_keeps_what_there_is(processor):
    device = failing(processor(), 2)
    solution = solve(random_problem("dense", 8), DwaveQpu(num_reads=50, reads_per_call=10, sampler=device))
    assert solution.status is Status.FEASIBLE
    assert solution.work["calls"] == 2
    assert "ended after 2 calls: D-Wave's service: OSError: quota exceeded" in solution.message


@pytest.mark.parametrize("options", [{"num_reads": 0}, {"reads_per_call": 0}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match="at least 1"):
        get("dwave_qpu", **options)
