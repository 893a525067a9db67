"""A million variables in a hundred thousand groups: feasible, in time, memory in proportion to n x rank."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

N, M = 1_000_000, 100_000
RUN = """
import json, resource, sys, time
import numpy as np
from qubo_solvers import CardinalityQubo, LowRank, get, greedy_start

n, m, rank, name, limit = *map(int, sys.argv[1:4]), sys.argv[4], float(sys.argv[5])
rng = np.random.default_rng(0)
factor = rng.standard_normal((n, rank), dtype=np.float32) * np.float32(0.05)
form = LowRank(factor, np.zeros(n, np.float32))
linear = 0.05 * rng.standard_normal(n)
problem = CardinalityQubo.grouped(form, linear, rng.permutation(np.arange(n) % m), np.full(m, 5))
first = problem.energy(greedy_start(problem))
solver = get(name)
solver.warm_up(problem)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
begin = time.perf_counter()
answer = solver.solve(problem, time_limit=limit)
print(json.dumps({
    "seconds": time.perf_counter() - begin, "feasible": problem.is_feasible(answer.assignment),
    "energy": answer.energy, "first": first, "bound": answer.bound, "size": float(np.abs(linear).sum()),
    "kib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before,
}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux only")
@pytest.mark.parametrize(("name", "rank"), [("descent", 4), ("descent", 16), ("anneal", 16), ("tabu", 16)])
def test_a_million_variables(name, rank):
    limit = 10.0
    arguments = [sys.executable, "-c", RUN, *map(str, (N, M, rank, name, limit))]
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": f"{root / 'solvers'}{os.pathsep}{root}"}
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["feasible"]
    assert found["bound"] <= found["energy"] <= found["first"]
    assert found["seconds"] <= 1.1 * limit + 1.0
    assert 1024 * found["kib"] < N * (300 + 24 * rank), "memory is not in proportion to n x rank"
