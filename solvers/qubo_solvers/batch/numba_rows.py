"""Batches on the CPU: the compiled row kernels in bounded calls, fields computed anew by matrix products."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.batch.arrays import host
from qubo_solvers.batch.problem import RowBatch
from qubo_solvers.batch.settings import Clock, Found, Settings

EPSILON = 2.0**-22  # the rounding of a sum of float32 products, per unit of their absolute sum
PASSES = 20  # descents with fields computed anew between them, at most
WORK = 2_000_000  # numbers that a row may read in one call of a kernel
REFRESH = 5_000  # swaps of a row after which its fields are computed anew
ROWS = 32  # rows a thread is given in one call
SAMPLE = 64  # variables whose couplings set a row's temperatures
BYTES = 1 << 30  # of the arrays of the rows that are searched at the same time

Floats = NDArray[np.float32]


class NumbaRows:
    """The Gram matrix as the kernels want it: 2H / max|H|, float32, without its diagonal, variables by group.

    A row's weights, linear term and energy are scaled to at most about 1, so that float32 neither overflows
    nor underflows. `reach` bounds the couplings, |gram_ij| <= reach_i reach_j, whatever symmetric H is.
    """

    def __init__(self, batch: RowBatch, threads: int | None = None) -> None:
        import numba

        most = int(numba.config.NUMBA_NUM_THREADS)
        self.threads = min(int(numba.get_num_threads()), most) if threads is None else threads
        if not 1 <= self.threads <= most:
            raise ValueError(f"threads must lie in 1..{most} (NUMBA_NUM_THREADS), got {threads}")
        self.batch = batch
        self.order = batch.order()
        self.start = batch.starts()
        h = host(batch.gram)
        n = len(h)
        self.height = float(np.abs(h).max()) if n else 0.0
        unit = self.height or 1.0
        self.diagonal = (np.diagonal(h)[self.order] / unit).astype(np.float32)
        sorted_already = np.array_equal(self.order, np.arange(n))
        self.gram: Floats = np.empty((n, n), np.float32)
        self.reach: Floats = np.zeros(n, np.float32)
        own = np.sqrt(np.maximum(self.diagonal, 0))
        own[own == 0] = 1.0
        step = max(1, (1 << 20) // max(1, n))
        for lo in range(0, n, step):
            i = slice(lo, lo + step) if sorted_already else self.order[lo : lo + step]
            part = h[i] / unit + h[:, i].T / unit
            self.gram[lo : lo + step] = part if sorted_already else part[:, self.order]
            at = np.arange(lo, min(n, lo + step))
            self.gram[at, at] = 0
            ratio = np.abs(self.gram[lo : lo + step]) / own
            self.reach[at] = np.sqrt(own[at] * ratio.max(axis=1)) * 1.00001
        self._squares: Floats | None = None

    def rows_at_once(self) -> int:
        """How many rows fit into the memory set aside for them."""
        return max(1, BYTES // (16 * max(1, self.batch.n)))

    def part(self, first: int, last: int) -> tuple[Floats, Floats]:
        """The scaled weights of some rows, and their linear term with the diagonal in it, both (B, n)."""
        w = host(self.batch.weights[first:last])[:, self.order]
        widest = np.abs(w).max(axis=1, initial=0.0, keepdims=True).astype(np.float64)
        size = self.height * widest**2
        linear = self.batch.linear
        part = None if linear is None else host(linear[first:last])[:, self.order]
        if part is not None:
            size = np.maximum(size, np.abs(part).max(axis=1, initial=0.0, keepdims=True))
        size[size == 0] = 1.0
        factor = widest * np.sqrt(self.height / size)
        widest[widest == 0] = 1.0
        scaled = np.ascontiguousarray((w / widest.astype(w.dtype)) * factor, dtype=np.float32)
        own = scaled**2 * self.diagonal
        return scaled, own if part is None else (own + part / size).astype(np.float32)

    def start_of(self, first: int, last: int) -> NDArray[np.uint8]:
        """The best assignments of the rows without their couplings, (B, n)."""
        _, linear = self.part(first, last)
        x = np.zeros(linear.shape, np.uint8)
        sizes = np.diff(self.start)
        for size in np.unique(sizes[sizes > 0]):
            groups = np.flatnonzero(sizes == size)
            columns = self.start[groups][:, None] + np.arange(size)
            order = linear[:, columns].argsort(axis=2, kind="stable")
            ranks = order.argsort(axis=2, kind="stable")
            x[:, columns] = ranks < self.batch.counts[first:last][:, groups, None]
        return self.restored(x)

    def restored(self, x: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Assignments in the batch's own order of variables."""
        out = np.empty_like(x)
        out[:, self.order] = x
        return out

    def search(
        self, method: str, settings: Settings, first: int, last: int, x: Any, seed: int, clock: Clock
    ) -> Found:
        """Search in the rows first..last from the assignments x (B, n) until done or out of time."""
        run = _Run(self, first, last, host(x).astype(np.uint8)[:, self.order], clock)
        seeds = np.random.default_rng(seed).integers(1, 1 << 63, self.batch.n_rows, dtype=np.uint64)
        run.settle()
        if method == "tabu":
            run.tabu(*settings.sizes(self.batch.n), seeds[first:last])
        elif method == "anneal":
            strength = self.strength(run.weights)
            run.anneal(settings.hot * strength, settings.cold * strength, settings.sweeps, seeds[first:last])
        if method != "descent":
            run.settle()
        return Found(self.restored(run.rows.x), run.verified, run.rows.swaps.copy())

    def strength(self, weights: Floats) -> NDArray[np.float64]:
        """(B,) the upper quartile over sampled i of sqrt(sum_j (w_i w_j gram_ij)^2)."""
        n = len(self.reach)
        sample = np.unique(np.linspace(0, n - 1, min(n, SAMPLE)).astype(int))
        squares = (weights**2) @ (self.gram[sample] ** 2).T * weights[:, sample] ** 2
        return np.asarray(np.sqrt(np.quantile(squares.astype(np.float64), 0.75, axis=1)))


class _Run:
    """The state of one search: arrays for the kernels, and when fields were last computed anew."""

    def __init__(self, model: NumbaRows, first: int, last: int, x: NDArray[np.uint8], clock: Clock) -> None:
        from qubo_solvers.kernels.row_swaps import Rows

        self.clock, self.threads = clock, model.threads
        self.weights, self.linear = model.part(first, last)
        number = last - first
        slack = EPSILON * (np.abs(self.weights) * model.reach).sum(axis=1)
        self.rows = Rows(
            model.gram, model.reach, model.start, self.weights, np.empty_like(self.weights),
            np.ascontiguousarray(x), np.zeros(number), np.zeros(number, np.int64), slack.astype(np.float32),
            np.zeros((number, 2), np.int64),
        )  # fmt: skip
        self.fresh_at = np.full(number, -1, np.int64)
        self.verified = np.zeros(number, bool)

    def refresh(self, stale: NDArray[np.int64]) -> bool:
        """Compute the fields of the rows `stale` anew, some rows at a time; False where time ended before."""
        rows = self.rows
        step = max(1, (1 << 20) // max(1, rows.x.shape[1]))
        for lo in range(0, len(stale), step):
            if self.clock.out():
                return False
            r = stale[lo : lo + step]
            w = self.weights[r]
            rows.fields[r] = self.linear[r] + w * ((w * (rows.x[r] & 1)) @ rows.gram)
        self.fresh_at[stale] = rows.swaps[stale]
        return True

    def slices(self) -> list[tuple[int, int]]:
        """The rows of one call of a kernel."""
        step = ROWS * self.threads
        return [(lo, min(len(self.weights), lo + step)) for lo in range(0, len(self.weights), step)]

    def settle(self) -> None:
        """Descend by the lists, then with every swap checked, until none improves by fields computed anew;
        `verified` says in which rows."""
        rows = self.rows
        self.verified[:] = False
        live = np.arange(len(self.weights))
        for attempt in range(PASSES):
            before = rows.swaps.copy()
            fresh = self.refresh(live[rows.swaps[live] != self.fresh_at[live]])
            if not fresh or not self.descend(live, attempt > 0):
                return
            if attempt > 0:
                moved = rows.swaps[live] != before[live]
                self.verified[live[~moved]] = True
                live = live[moved]
                if not len(live):
                    return

    def descend(self, live: NDArray[np.int64], thorough: bool) -> bool:
        """Descend in these rows; False where time ended before."""
        from qubo_solvers.kernels.row_descent import descend

        rows, groups = self.rows, len(self.rows.start) - 1
        rows.cursor[live] = 0
        while (rows.cursor[live, 1] < groups).any():
            for lo, hi in self.slices():
                if (rows.cursor[lo:hi, 1] < groups).any():
                    if self.clock.out():
                        return False
                    with _threads(self.threads):
                        descend(rows, lo, hi, thorough, WORK)
        return True

    def memory(self, seeds: NDArray[np.uint64], held: int) -> Any:
        """What the search remembers, from the present assignments on."""
        from qubo_solvers.kernels.row_swaps import Memory

        number = len(self.weights)
        return Memory(
            self.rows.x.copy(), self.rows.gain.copy(), np.zeros(number, np.int64), seeds.copy(),
            np.full((number, held), -1, np.int32), np.zeros((number, held), np.int64),
        )  # fmt: skip

    def resume(self, memory: Any) -> None:
        """Take the best assignments where they are better than the present ones."""
        rows = self.rows
        np.bitwise_and(rows.x, 1, out=rows.x)
        better = np.flatnonzero(memory.least < rows.gain)
        rows.x[better] = memory.best[better]
        rows.gain[better] = memory.least[better]
        self.fresh_at[better] = -1

    def tabu(self, steps: int, tenure: int, patience: int, seeds: NDArray[np.uint64]) -> None:
        """Tabu search from the present assignments; the best ones are the state then."""
        from qubo_solvers.kernels.row_tabu import JITTER, tabu

        rows, n = self.rows, len(self.rows.reach)
        memory = self.memory(seeds, 2 * (tenure + JITTER + 1))
        for first in range(0, steps, step := max(1, WORK // (8 * n + 1))):
            for lo, hi in self.slices():
                if self.clock.out() or not self._refresh_often(lo, hi):
                    return self.resume(memory)
                with _threads(self.threads):
                    tabu(rows, memory, tenure, patience, lo, hi, first, min(steps, first + step))
        return self.resume(memory)

    def anneal(
        self, hot: NDArray[np.float64], cold: NDArray[np.float64], sweeps: int, seeds: NDArray[np.uint64]
    ) -> None:
        """Anneal from the present assignments; the best ones, or what the last descend to, are the state."""
        from qubo_solvers.kernels.row_anneal import anneal

        rows, n = self.rows, len(self.rows.reach)
        memory = self.memory(seeds, 0)
        for first in range(0, sweeps, step := max(1, WORK // (64 * n + 1))):
            for lo, hi in self.slices():
                if self.clock.out() or not self._refresh_often(lo, hi):
                    return self.resume(memory)
                last = min(sweeps, first + step)
                with _threads(self.threads):
                    anneal(rows, memory, hot, cold, lo, hi, first, last, sweeps)
        self.settle()
        return self.resume(memory)

    def _refresh_often(self, lo: int, hi: int) -> bool:
        """Compute fields anew that many swaps have rounded; False where time ended before."""
        since = self.rows.swaps[lo:hi] - self.fresh_at[lo:hi]
        return self.refresh(lo + np.flatnonzero(since > REFRESH))


@contextmanager
def torch_threads_kept() -> Iterator[None]:
    """Put the number of torch's threads back, where torch is loaded: numba sets OpenMP's threads for the
    whole process."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        if torch and torch.get_num_threads() != before:
            torch.set_num_threads(before)


class _threads:
    """Kernels called within use this many threads, and take rows one by one."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __enter__(self) -> None:
        import numba

        self.before = numba.get_num_threads()
        self.chunk = numba.set_parallel_chunksize(1)
        numba.set_num_threads(self.number)

    def __exit__(self, *_: object) -> None:
        import numba

        numba.set_num_threads(self.before)
        numba.set_parallel_chunksize(self.chunk)
