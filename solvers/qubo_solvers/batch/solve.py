"""solve_batch(): all rows of a batch by one method, on the CPU's threads or on a tensor's device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.batch.arrays import Array, host
from qubo_solvers.batch.numba_rows import NumbaRows, torch_threads_kept
from qubo_solvers.batch.problem import RowBatch
from qubo_solvers.batch.settings import Clock, Found, Settings, settings_of
from qubo_solvers.solution import Status

Method = Literal["descent", "tabu", "anneal"]
Backend = Literal["auto", "numba", "torch"]


@dataclass(frozen=True, eq=False)
class BatchSolution:
    """The answers of all rows; arrays of the batch's kind, where its arrays lie.

    assignments     (R, n) uint8 (a bool tensor for a batch of tensors): 1 = pruned, so the masks of kept
                    weights are `assignments == 0`, of a tensor ~assignments
    energies        (R,) float64, recomputed from the assignments outside the search
    start_energies  (R,) float64, of the initial assignments, else of the greedy start; never below `energies`
    status          FEASIBLE, or TIME_LIMIT where the clock ended the search
    verified        (R,) bool: no single swap within a group improves the row beyond float32 rounding
    seconds         of the whole call, compilation excluded
    work            "swaps": made in all rows; "backend", "device", and "threads" of numba
    """

    assignments: Array
    energies: Array
    start_energies: Array
    status: Status
    verified: NDArray[np.bool_]
    method: str
    seconds: float
    work: dict[str, Any] = field(default_factory=dict)


def solve_batch(
    batch: RowBatch,
    method: Method = "descent",
    *,
    device: Any = None,
    backend: Backend = "auto",
    seed: int = 0,
    time_limit: float | None = None,
    initial: Array | None = None,
    threads: int | None = None,
    **options: Any,
) -> BatchSolution:
    """Solve every row: a swap descent, or tabu search or annealing, which start and end with one.

    backend     "numba": compiled, a row a thread; "torch": all rows advance together on a device; "auto":
                torch where the device is not the CPU, else numba
    device      where torch computes ("cuda", "cpu"); None: where the batch's tensors are, else the CPU
    seed        same seed, backend and work budget: same answer. A wall-clock limit promises no such thing; on
                CUDA sums are ordered as its libraries order them
    time_limit  seconds, the last scoring included as far as the first one tells how long that takes; every
                row has a feasible answer however short it is. None: until the work is done
    initial     (R, n) zeros and ones that meet the counts; no row's answer is worse. None: each row's best
                assignment without its couplings
    threads     numba: threads of a call; None: numba's own setting
    options     steps, tenure (tabu); sweeps, hot, cold, proposals (anneal): see settings.Settings

    Memory: the Gram matrix once more in float32, and at most about 1 GiB (half of a device's free memory) of
    state; rows are searched in parts where they do not fit. Ctrl-C ends it within a bounded call of a kernel.

    Raises ValueError on an unknown method, backend or option, on initial assignments that break a count, and
    on a device that does not fit the backend; ModuleNotFoundError for torch where it is not installed.
    """
    settings = settings_of(method, options)
    start = None if initial is None else batch.check(initial, "initial")
    where = str(device) if device is not None else (str(batch.gram.device) if batch.is_tensor else "cpu")
    chosen = _backend(backend, where)
    if threads is not None and chosen != "numba":
        raise ValueError("threads belong to the numba backend; torch has torch.set_num_threads")
    with torch_threads_kept():
        if chosen == "numba":
            _compile(batch, method)
        return _solve(batch, method, settings, chosen, where, seed, Clock(time_limit), start, threads)


def _solve(
    batch: RowBatch, method: str, settings: Settings, chosen: str, where: str, seed: int, clock: Clock,
    start: Array | None, threads: int | None,
) -> BatchSolution:  # fmt: skip
    """solve_batch, its arguments checked and its kernels compiled."""
    if batch.n_rows == 0 or batch.n == 0:
        nothing = _answer(batch, host(batch.weights) != 0)
        energies = batch.energies(nothing)
        done = np.ones(batch.n_rows, bool)
        return BatchSolution(
            nothing, energies, energies, Status.FEASIBLE, done, method, clock.seconds(), {"swaps": 0}
        )
    model: Any = NumbaRows(batch, threads) if chosen == "numba" else _torch_rows(batch, where)
    if start is None:
        start = _parts(batch, model.rows_at_once(), model.start_of)
    start = _answer(batch, start)
    begin = clock.seconds()
    start_energies = batch.energies(start)
    clock.reserve = 1.5 * (clock.seconds() - begin)

    verified: list[NDArray[np.bool_]] = []
    swaps = 0

    def search(first: int, last: int) -> Any:
        nonlocal swaps
        clock.allow((last - first) / (batch.n_rows - first))
        found: Found = model.search(method, settings, first, last, start[first:last], seed, clock)
        verified.append(found.verified)
        swaps += int(found.swaps.sum())
        return found.assignments

    x = _answer(batch, _parts(batch, model.rows_at_once(), search))
    energies = batch.energies(x)
    worse = energies > start_energies  # by rounding, where the search could not tell them apart
    x[worse], energies[worse] = start[worse], start_energies[worse]
    return BatchSolution(
        x, energies, start_energies, Status.TIME_LIMIT if clock.cut else Status.FEASIBLE,
        np.concatenate(verified) & ~host(worse), method, clock.seconds(),
        {"swaps": swaps, "backend": chosen, "device": where}
        | ({"threads": model.threads} if chosen == "numba" else {}),
    )  # fmt: skip


def _backend(backend: str, where: str) -> str:
    """The backend for a device. Raises ValueError where they do not go together."""
    if backend not in ("auto", "numba", "torch"):
        raise ValueError(f"backend must be auto, numba or torch, got {backend!r}")
    if backend == "numba" and where != "cpu":
        raise ValueError(f"the numba backend runs on the CPU, not on {where}; use backend='torch'")
    if backend == "torch" and find_spec("torch") is None:
        raise ModuleNotFoundError("the torch backend needs torch: pip install torch")
    if backend == "auto":
        return "numba" if where == "cpu" else "torch"
    return backend


def _torch_rows(batch: RowBatch, where: str) -> Any:
    from qubo_solvers.batch.torch_rows import TorchRows

    return TorchRows(batch, where)


def _parts(batch: RowBatch, size: int, of: Callable[[int, int], Any]) -> Any:
    """of(first, last) for consecutive rows, `size` at a time, put together on the host or the device."""
    found = [of(lo, min(batch.n_rows, lo + size)) for lo in range(0, batch.n_rows, size)]
    if isinstance(found[0], np.ndarray):
        return np.concatenate(found)
    out = found[0].new_empty((batch.n_rows, batch.n))
    for lo, part in zip(range(0, batch.n_rows, size), found, strict=True):
        out[lo : lo + size] = part
    return out


def _answer(batch: RowBatch, x: Array) -> Array:
    """A copy of the assignments as a batch's answer: uint8, or bool on the device of its tensors."""
    if not batch.is_tensor:
        return np.array(host(x), dtype=np.uint8)
    if hasattr(x, "detach"):
        return x.detach().to(batch.gram.device).bool().clone()
    return (batch.gram[:0] != 0).new_tensor(np.asarray(x, dtype=bool))


_compiled: set[str] = set()


def _compile(batch: RowBatch, method: str) -> None:
    """Have the kernels of a method compiled, on tiny rows; once a process."""
    if method in _compiled:
        return
    gram, weights = np.eye(4, dtype=np.float32), np.ones((2, 4), np.float32)
    model = NumbaRows(RowBatch.cardinality(gram, weights, 2))
    x = np.array([[1, 1, 0, 0]] * 2, np.uint8)
    model.search(method, settings_of(method, {}), 0, 2, x, 0, Clock(None))
    _compiled.add(method)
