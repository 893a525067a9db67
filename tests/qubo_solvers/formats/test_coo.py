"""COO files in both directions with dimod's own reader and writer."""

import dimod
import numpy as np
import pytest
from dimod.serialization import coo

from qubo_solvers.formats import read, write
from qubo_solvers.testing import random_problem


def test_dimod_reads_what_is_written(tmp_path):
    problem = random_problem("plain", 7)
    write(problem, tmp_path / "p.coo")
    bqm = coo.loads((tmp_path / "p.coo").read_text())
    x = np.random.default_rng(0).integers(0, 2, 7)
    assert np.isclose(bqm.energy(dict(enumerate(x))) + problem.offset, problem.energy(x))


@pytest.mark.parametrize("vartype", ["BINARY", "SPIN"])
def test_what_dimod_writes_is_read(tmp_path, vartype):
    bqm = dimod.BinaryQuadraticModel({0: 1.0, 1: -2.0, 2: 0.5}, {(0, 1): 3.0, (1, 2): -1.5}, vartype)
    path = tmp_path / "p.coo"
    path.write_text(coo.dumps(bqm, vartype_header=True))
    problem = read(path)
    for x in np.ndindex(2, 2, 2):
        sample = {i: v if vartype == "BINARY" else 2 * v - 1 for i, v in enumerate(x)}
        assert np.isclose(problem.energy(x), bqm.energy(sample))


def test_errors(tmp_path):
    path = tmp_path / "p.coo"
    for text, what in (
        ("0 0", "p.coo:1"),
        ("# vartype=DISCRETE", "neither BINARY nor SPIN"),
        ("9999999 0 1.0", "variable 9999999"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=what):
            read(path)
