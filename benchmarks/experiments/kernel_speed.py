"""Moves a second of the compiled kernels by size and row type, and the share of the memory's bandwidth.

    python benchmarks/experiments/kernel_speed.py --seconds 3
    python benchmarks/experiments/kernel_speed.py --quick      # small sizes only: a minute once compiled

One thread, compiled; random problems, half of the variables chosen in counted ones; the table goes to
benchmarks/results/kernel_speed.md. Bytes a second count what moves read of the matrix or factor: a flip one
row, a swap two; an annealing proposal one coupling (low-rank: two rows), an accepted one two rows besides.
The bandwidth beside it is that of summing an array far larger than the caches, one thread, in the same run.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qubo_solvers import CardinalityQubo, Dense, LowRank, anneal, flip_search, swap_search
from qubo_solvers.bench.report import number
from qubo_solvers.flip_search import FlipSearch
from qubo_solvers.local_search import LocalSearch
from qubo_solvers.machine import processor
from qubo_solvers.native import tabu_tenure
from qubo_solvers.solver import Recorder
from qubo_solvers.swap_search import SwapSearch
from qubo_solvers.tabu import Tabu

RESULTS = Path(__file__).resolve().parents[1] / "results"
SIZES, QUICK = (512, 1024, 4096, 8192), (512, 1024)
LOW_RANK, QUICK_LOW_RANK = (10_000, 100_000, 1_000_000), (10_000,)
RANKS = (16, 128)
ENDLESS = 1 << 60


@dataclass(frozen=True)
class Speed:
    """What a kernel made of a problem: moves a second, bytes read for them, of which kind of rows."""

    moves: float
    bytes: float
    rows: str
    held: int  # bytes of the matrix or factor


def bandwidth(seconds: float) -> float:
    """Bytes a second that one thread reads from memory."""
    array = np.ones(64 << 20, np.float32)
    array.sum()
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        array.sum()
        done += array.nbytes
    return done / (time.perf_counter() - begin)


def dense(n: int, kind: str, counted: bool) -> CardinalityQubo:
    """A dense problem of small integers (int16) or of random numbers (float32)."""
    rng = np.random.default_rng(n)
    matrix = rng.integers(-100, 101, (n, n)).astype(np.int16)
    matrix = np.triu(matrix) + np.triu(matrix, 1).T
    form = Dense(matrix if kind == "int16" else np.float32(3) ** 0.5 * matrix.astype(np.float32))
    if counted:
        return CardinalityQubo.cardinality(form, np.zeros(n), n // 2)
    return CardinalityQubo.unconstrained(form, np.zeros(n))


def low_rank(n: int, rank: int) -> CardinalityQubo:
    rng = np.random.default_rng(n)
    form = LowRank(rng.standard_normal((n, rank), dtype=np.float32), np.zeros(n))
    return CardinalityQubo.cardinality(form, rng.standard_normal(n), n // 2)


def alternating(n: int) -> np.ndarray:
    return (np.arange(n) % 2).astype(np.uint8)


def timed(steps: Callable[[int], int], first: int, seconds: float) -> float:
    """How many a second; `steps(k)` makes about k and says how many they were."""
    steps(first)
    done, begin = 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        done += steps(first)
    return done / (time.perf_counter() - begin)


def flips(problem: CardinalityQubo, seconds: float) -> Speed:
    flip_search.compiled(problem)
    search = FlipSearch(problem, Recorder(problem))
    search.load(np.zeros(problem.n, np.uint8), 0.0)
    rng = np.array([1, 2], np.uint64)
    tenure = tabu_tenure(problem.n)
    rate = timed(lambda k: search.tabu(rng, tenure, k, ENDLESS), max(500, 10_000_000 // problem.n), seconds)
    rows = search.state.rows
    return Speed(rate, rate * rows[0].nbytes, rows.dtype.name, rows.nbytes)


def swaps(problem: CardinalityQubo, seconds: float) -> Speed:
    swap_search.compiled(problem)
    search = SwapSearch(problem, Recorder(problem))
    search.load(alternating(problem.n), 0.0)
    rng = np.array([1, 2], np.uint64)
    tenure = tabu_tenure(problem.n)
    rate = timed(lambda k: search.tabu(rng, tenure, k, ENDLESS), max(500, 5_000_000 // problem.n), seconds)
    rows = search.state.rows
    return Speed(rate, 2 * rate * rows[0].nbytes, rows.dtype.name, rows.nbytes)


def list_swaps(problem: CardinalityQubo, seconds: float) -> Speed:
    """The general kernels' tabu search, which takes every constraint and form."""
    Tabu().warm_up(problem)
    is_low_rank = isinstance(problem.quadratic, LowRank)
    search = LocalSearch(problem, Recorder(problem), 64 if is_low_rank else 8)
    x = alternating(problem.n)
    search.load(x, 0.0)
    search.begin_tabu()
    rng, record = np.array([1], np.uint64), np.zeros(2)
    tenure = tabu_tenure(problem.n)
    rate = timed(lambda k: search.tabu(x, record, rng, tenure, k, ENDLESS), 200, seconds)
    rows = search.model.rows
    return Speed(rate, 2 * rate * rows[0].nbytes, rows.dtype.name, rows.nbytes)


def proposals(problem: CardinalityQubo, seconds: float) -> Speed:
    """Annealing's, from its first temperature to its last."""
    anneal.Anneal().warm_up(problem)
    search = LocalSearch(problem, Recorder(problem))
    search.load(alternating(problem.n), 0.0)
    strength = anneal.coupling_strength(problem, np.random.default_rng(0))
    run = anneal._Annealing(search, np.array([1], np.uint64))
    rows = search.model.rows
    each = 2 * rows[0].nbytes if search.model.low_rank else rows.itemsize

    def steps(sweeps: int) -> int:
        before = run.proposals
        run.anneal(0.5 * strength, 0.02 * strength, sweeps)
        return run.proposals - before

    steps(2)
    run.proposals = run.accepted = 0
    rate = timed(steps, 10, seconds)
    share = run.accepted / run.proposals
    return Speed(rate, rate * (each + share * 2 * rows[0].nbytes), rows.dtype.name, rows.nbytes)


def measured(
    sizes: tuple[int, ...], large: tuple[int, ...], seconds: float
) -> Iterator[tuple[str, str, int, Speed]]:
    """(kernel, form, n, its speed)."""
    for n in sizes:
        for kind in ("int16", "float32"):
            yield "flips", "dense", n, flips(dense(n, kind, False), seconds)
            problem = dense(n, kind, True)
            yield "swaps", "dense", n, swaps(problem, seconds)
            yield "swaps, general", "dense", n, list_swaps(problem, seconds)
            yield "proposals", "dense", n, proposals(problem, seconds)
    for n in large:
        for rank in RANKS:
            problem = low_rank(n, rank)
            yield "swaps, general", f"rank {rank}", n, list_swaps(problem, seconds)
            yield "proposals", f"rank {rank}", n, proposals(problem, seconds)


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--quick", action="store_true", help="small sizes, half a second each")
    options = parser.parse_args()
    seconds = 0.5 if options.quick else options.seconds
    limit = bandwidth(seconds)
    table = [
        "# Compiled kernels",
        "",
        f"{processor()}, one thread, compiled; one thread reads {limit / 1e9:.1f} GB/s from memory. Written "
        "by `benchmarks/experiments/kernel_speed.py`, which says what the columns count.",
        "",
        "| n | form | kernel | rows | MB | thousand a second | GB/s read | of the bandwidth |",
        "|---|---|---|---|---|---|---|---|",
    ]
    sizes, large = (QUICK, QUICK_LOW_RANK) if options.quick else (SIZES, LOW_RANK)
    for kernel, form, n, speed in measured(sizes, large, seconds):
        table.append(
            f"| {n:,} | {form} | {kernel} | {speed.rows} | {number(speed.held / 1e6, 3)} "
            f"| {number(speed.moves / 1e3, 3)} | {speed.bytes / 1e9:.2f} | {speed.bytes / limit:.0%} |"
        )
        print(table[-1], flush=True)
    (RESULTS / "kernel_speed.md").write_text("\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
