"""The solvers as dimod samplers."""

import dimod
import dimod.testing
import numpy as np
import pytest

from qubo_solvers.dimod_sampler import QuboPruneSampler
from qubo_solvers.exhaustive import Exhaustive
from qubo_solvers.testing import random_problem


@pytest.mark.parametrize("vartype", ["SPIN", "BINARY"])
def test_bqm(vartype):
    bqm = dimod.generators.gnp_random_bqm(8, 0.6, vartype, random_state=1)
    bqm.relabel_variables({i: f"v{i}" for i in range(8)})
    samples = QuboPruneSampler(Exhaustive()).sample(bqm, num_reads=2)
    assert samples.vartype.name == vartype
    assert len(samples) == 2
    assert np.isclose(samples.first.energy, dimod.ExactSolver().sample(bqm).first.energy)
    dimod.testing.assert_response_energies(samples, bqm)


def test_cqm():
    problem = random_problem("groups", 9)
    cqm = problem.to_dimod("cqm")
    samples = QuboPruneSampler("exhaustive").sample_cqm(cqm)
    assert samples.record.is_feasible.all()
    assert np.isclose(samples.first.energy, Exhaustive().solve(problem).energy)


def test_it_keeps_the_sampler_contract():
    sampler = QuboPruneSampler("exhaustive")
    dimod.testing.assert_sampler_api(sampler)
    assert sampler.properties == {"solver": "exhaustive"}
    with pytest.warns(dimod.exceptions.SamplerUnknownArgWarning):
        sampler.sample(dimod.BinaryQuadraticModel({0: 1.0}, {}, "BINARY"), beta=3)


def test_refusals():
    sampler = QuboPruneSampler("exhaustive", max_states=3)
    with pytest.raises(ValueError, match="more than max_states"):
        sampler.sample(random_problem("plain", 6).to_dimod("bqm"))
    with pytest.raises(ValueError, match="num_reads"):
        sampler.sample(random_problem("plain", 6).to_dimod("bqm"), num_reads=0)
