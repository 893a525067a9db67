"""Flips a second of the one-flip tabu kernel by size and row type, and the share of the memory's bandwidth.

    python benchmarks/experiments/kernel_speed.py --seconds 3

One thread, compiled; random dense plain problems; the table goes to
benchmarks/results/kernel_speed.md. A flip reads one row of the matrix: bytes a second counts these only. The
bandwidth beside it is that of summing an array far larger than the caches, one thread, in the same run.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from qubo_solvers import CardinalityQubo, Dense
from qubo_solvers.bench.report import number
from qubo_solvers.flip_search import FlipSearch, compiled
from qubo_solvers.machine import processor
from qubo_solvers.solver import Recorder

RESULTS = Path(__file__).resolve().parents[1] / "results"


def bandwidth(seconds: float) -> float:
    """Bytes a second that one thread reads from memory."""
    array = np.ones(64 << 20, np.float32)
    array.sum()
    begin, done = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        array.sum()
        done += array.nbytes
    return done / (time.perf_counter() - begin)


def problem(n: int, kind: str) -> CardinalityQubo:
    """A plain problem whose rows the search keeps as this type."""
    rng = np.random.default_rng(n)
    matrix = rng.integers(-100, 101, (n, n)).astype(np.int16)
    matrix = np.triu(matrix) + np.triu(matrix, 1).T
    if kind != "int16":
        matrix = matrix.astype(kind)
        matrix[0, 1] = matrix[1, 0] = 0.5 if kind.startswith("float") else 30_000
        matrix /= 3.0 if kind.startswith("float") else 1
    return CardinalityQubo.unconstrained(Dense(matrix), np.zeros(n))


def speed(n: int, kind: str, seconds: float) -> tuple[float, int]:
    """(flips a second, bytes of a row)."""
    plain = problem(n, kind)
    compiled(plain)
    search = FlipSearch(plain, Recorder(plain))
    search.load(np.zeros(n, np.uint8), 0.0)
    rng = np.array([1, 2], np.uint64)
    search.tabu(rng, min(50, n // 40), 1_000, 1 << 60)
    step, flips, begin = max(1_000, 50_000_000 // n), 0, time.perf_counter()
    while time.perf_counter() - begin < seconds:
        flips += search.tabu(rng, min(50, n // 40), step, 1 << 60)
    return flips / (time.perf_counter() - begin), search.state.rows[0].nbytes


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 1024, 3000, 4096, 5000, 7000, 8192])
    options = parser.parse_args()
    limit = bandwidth(options.seconds)
    rows = [
        "# One-flip kernel",
        "",
        f"{processor()}, one thread, compiled; one thread reads {limit / 1e9:.1f} GB/s from memory. Written "
        "by `benchmarks/experiments/kernel_speed.py`.",
        "",
        "| n | rows | matrix, MB | thousand flips a second | GB/s of rows | of the bandwidth |",
        "|---|---|---|---|---|---|",
    ]
    for n in options.sizes:
        for kind in ("int16", "float32"):
            rate, width = speed(n, kind, options.seconds)
            size, read = number(n * width / 1e6, 3), rate * width
            rows.append(
                f"| {n:,} | {kind} | {size} | {rate / 1e3:.0f} | {read / 1e9:.2f} | {read / limit:.0%} |"
            )
            print(rows[-1], flush=True)
    (RESULTS / "kernel_speed.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
