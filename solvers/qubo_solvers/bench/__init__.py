"""The benchmark harness: cells of solver x instance x seed x time limit, scored here, resumed, reported."""

from qubo_solvers.bench.bounds import instance_bounds
from qubo_solvers.bench.cells import Cell, matrix
from qubo_solvers.bench.instances import check_instance, load_instance
from qubo_solvers.bench.run import read_records, run_cells

__all__ = [
    "Cell",
    "check_instance",
    "instance_bounds",
    "load_instance",
    "matrix",
    "read_records",
    "run_cells",
]
