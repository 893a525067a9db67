"""The package as a whole: light to import, and only once."""

import subprocess
import sys
from pathlib import Path

import qubo_solvers

ROOT = Path(__file__).parents[2]


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)


def test_importing_it_is_light():
    heavy = ("torch", "transformers", "numba", "scipy", "ortools", "dimod", "neal", "pydantic", "qubo_prune")
    out = run(f"import sys, qubo_solvers; print([m for m in {heavy} if m in sys.modules])")
    assert out.stdout.strip() == "[]", out.stderr


def test_solving_leaves_torch_out():
    out = run(
        "import sys, numpy as np, qubo_solvers as q\n"
        "p = q.CardinalityQubo.cardinality(np.eye(6), np.arange(6.), 3)\n"
        "known = {n: q.capabilities(n) for n in q.names()}\n"
        "local = [n for n, c in known.items() if 'torch' not in c.requires and not c.configured]\n"
        "[q.solve(p, n, time_limit=1.0) for n in local]\n"
        "print([m for m in ('torch', 'transformers', 'qubo_prune') if m in sys.modules])"
    )
    assert out.stdout.strip() == "[]", out.stderr


def test_batches_of_arrays_leave_torch_out():
    out = run(
        "import sys, numpy as np\n"
        "from qubo_solvers.batch import RowBatch, solve_batch\n"
        "print([m for m in ('torch', 'numba') if m in sys.modules])\n"
        "solve_batch(RowBatch.cardinality(np.eye(4), np.ones((2, 4)), 2))\n"
        "print([m for m in ('torch', 'transformers', 'qubo_prune') if m in sys.modules])"
    )
    assert out.stdout.split() == ["[]", "[]"], out.stderr


def test_a_second_copy_cannot_be_imported():
    out = run("import solvers.qubo_solvers")
    assert out.returncode != 0
    # beside the sources it refuses; where a wheel is installed there is no such package at all
    assert "import this package as 'qubo_solvers'" in out.stderr or "No module named 'solvers'" in out.stderr


def test_every_public_name_is_there():
    assert all(hasattr(qubo_solvers, name) for name in qubo_solvers.__all__)
