"""Running cells in worker processes, each scored here, each record written as soon as it is there."""

from __future__ import annotations

import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qubo_solvers import registry
from qubo_solvers.bench.cells import Cell
from qubo_solvers.bench.instances import load_instance, problem_hash
from qubo_solvers.machine import processor, versions
from qubo_solvers.problem import Assignment, CardinalityQubo
from qubo_solvers.quadratic_form import Dense
from qubo_solvers.solution import Incumbent, Solution
from qubo_solvers.solving import solve

PACKAGES = ("qubo-prune", "numpy", "numba", "dimod", "dwave-neal", "ortools")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

Record = dict[str, Any]


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    jobs: int = 1,
    on_record: Callable[[Record], None] | None = None,
    again: bool = False,
) -> list[Record]:
    """Run what the folder has no record of yet (`again`: also what failed); returns all records of the cells.

    Records go to folder/records.jsonl, a line each, as soon as a cell is done: a stopped run goes on where it
    was. A cell that raises costs its own record only, which has the error. jobs: worker processes, through
    joblib (`joblib.parallel_config` can put Ray or Dask behind it); 1 runs in this process.

    Raises ImportError with the install hint where jobs > 1 and joblib is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "records.jsonl"
    known = {r["key"]: r for r in read_records(path) if not (again and r.get("error"))}
    wanted = [cell for cell in cells if cell.key not in known]
    cut = path.is_file() and not path.read_bytes().endswith(b"\n")  # a run was stopped within a line
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" if cut else "")
        for record in _records(wanted, jobs):
            file.write(json.dumps(record) + "\n")
            file.flush()
            known[record["key"]] = record
            if on_record is not None:
                on_record(record)
    return [known[cell.key] for cell in cells if cell.key in known]


def read_records(path: Path) -> list[Record]:
    """The records of a file; a last line that was cut off is left out."""
    records = []
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except ValueError:
                continue
    return records


def _records(cells: Sequence[Cell], jobs: int) -> Iterable[Record]:
    if jobs == 1 or len(cells) < 2:
        return map(run_cell, cells)
    try:
        import joblib
    except ImportError:
        raise ImportError(
            "running cells in parallel needs joblib: pip install 'qubo-prune[bench]'; or use jobs=1"
        ) from None
    for name in THREAD_VARIABLES:  # read by the workers when they start
        os.environ.setdefault(name, str(max(cell.threads for cell in cells)))
    found: Iterable[Record] = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(
        joblib.delayed(run_cell)(cell) for cell in cells
    )
    return found


def run_cell(cell: Cell) -> Record:
    """One run with everything a report needs; an exception becomes the record's `error`."""
    record: Record = {
        "key": cell.key, "solver": cell.name, "instance": cell.instance, "seed": cell.seed,
        "time_limit": cell.time_limit, "threads": cell.threads, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }  # fmt: skip
    try:
        begin = time.perf_counter()
        problem = load_instance(cell.instance)
        record["build_seconds"] = time.perf_counter() - begin
        record |= _described(problem)
        able, reason = registry.availability(cell.solver)
        if not able:
            return record | {"error": reason, "unavailable": True}
        solver = registry.get(cell.solver, **cell.options)
        warm_up = getattr(solver, "warm_up", None)
        begin = time.perf_counter()
        if warm_up is not None:
            warm_up(problem)
        record["compile_seconds"] = time.perf_counter() - begin
        solution = solve(
            problem, solver, seed=cell.seed, time_limit=cell.time_limit,
            on_incumbent=None if cell.target is None else _reached(problem.objective_scale, cell.target),
        )  # fmt: skip
        record |= scored(problem, solution) | _environment()
    except Exception as error:
        record["error"] = f"{type(error).__name__}: {error}"
        record["traceback"] = traceback.format_exc(limit=5)
    return record


def _reached(scale: float, target: float) -> Callable[[Incumbent], bool]:
    """Stops a run whose incumbent is as good as the target, an objective in the file's sense."""
    limit = target / scale + 1e-9 * max(1.0, abs(target / scale))
    return lambda found: found.energy <= limit


def scored(problem: CardinalityQubo, solution: Solution) -> Record:
    """The answer as this side sees it: objective from the assignment, in exact integers where they are.

    feasible_raw: whether the solver's answer needed no repair. Objectives and bounds are in the file's sense.
    """
    x = solution.assignment
    scale = problem.objective_scale
    return {
        "status": solution.status.value,
        "message": solution.message,
        "feasible": x is not None and problem.is_feasible(x),
        "feasible_raw": x is not None and problem.is_feasible(x) and not solution.repaired,
        "energy": None if x is None else solution.energy,
        "objective": None if x is None else scale * exact_energy(problem, x),
        "bound": None if solution.bound is None else scale * solution.bound,
        "bound_method": solution.bound_method,
        "solve_seconds": solution.seconds,
        "trace": [[point.seconds, scale * point.energy] for point in solution.trace],
        "work": {k: v for k, v in solution.work.items() if isinstance(v, int | float | str | bool)},
    }


def exact_energy(problem: CardinalityQubo, x: Assignment) -> float:
    """In integers where the coefficients are (then exact however large n is), else float64."""
    form = problem.quadratic
    if isinstance(form, Dense) and form.matrix.dtype.kind in "iu":
        linear = np.rint(problem.linear)
        if np.array_equal(linear, problem.linear):
            ones = np.flatnonzero(x)
            pairs = int(form.matrix[np.ix_(ones, ones)].sum(dtype=np.int64))
            return float(pairs + int(linear[ones].sum())) + problem.offset
    return problem.energy(x)


def _described(problem: CardinalityQubo) -> Record:
    return {
        "name": problem.name, "variables": problem.n, "groups": problem.n_groups, "radius": problem.radius,
        "form": type(problem.quadratic).__name__, "sense": "max" if problem.objective_scale < 0 else "min",
        "hash": problem_hash(problem),
    }  # fmt: skip


def _environment() -> Record:
    return {"versions": versions(PACKAGES), "python": platform.python_version(), "processor": processor()}
