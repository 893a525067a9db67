"""Seconds, rows and swaps a second of a batch of rows refined to swap-local optima, by backend, in one run.

    NUMBA_NUM_THREADS=2 python benchmarks/experiments/batch_rows.py --rows 256 --n 576

Rows of normal weights share the Gram matrix of correlated activations whose features differ in scale; half
of a row is pruned (or 2 of 4), from the best mask without couplings. Every figure is the best of --repeats
calls of solve_batch, compilation excluded, both scorings in float64 included. The table goes to
benchmarks/results/batch_rows.md. numba runs with one thread and with two where there are two, torch on the
CPU with the threads it has (OMP_NUM_THREADS), and on CUDA where it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch

from qubo_solvers import BatchSolution, RowBatch, solve_batch
from qubo_solvers.bench.report import number
from qubo_solvers.machine import processor

RESULTS = Path(__file__).resolve().parents[1] / "results"


def layer(rows: int, n: int, pattern: str) -> RowBatch:
    """The batch: half of every row pruned, or 2 of every 4."""
    rng = np.random.default_rng(n)
    shared = rng.normal(size=(2 * n, n // 4)) @ rng.normal(size=(n // 4, n)) / np.sqrt(n // 4)
    inputs = (0.5 * shared + rng.normal(size=(2 * n, n))) * np.exp(0.7 * rng.normal(size=n))
    gram = (inputs.T @ inputs / len(inputs)).astype(np.float32)
    weights = rng.normal(size=(rows, n)).astype(np.float32)
    if pattern == "2:4":
        return RowBatch.n_of_m(gram, weights, 2, 4)
    return RowBatch.cardinality(gram, weights, n // 2)


def runs() -> Iterator[tuple[str, dict[str, Any]]]:
    """What is timed: a name, and the arguments of solve_batch."""
    most = int(numba.config.NUMBA_NUM_THREADS)
    for threads in sorted({1, min(2, most)}):
        yield f"numba, threads: {threads}", {"backend": "numba", "threads": threads}
    yield f"torch, CPU, threads: {torch.get_num_threads()}", {"backend": "torch", "device": "cpu"}
    if torch.cuda.is_available():
        yield f"torch, {torch.cuda.get_device_name()}", {"backend": "torch", "device": "cuda"}


def best_of(batch: RowBatch, repeats: int, **arguments: Any) -> BatchSolution:
    """The quickest of some calls, after one that is not counted."""
    solve_batch(batch, **arguments)
    return min((solve_batch(batch, **arguments) for _ in range(repeats)), key=lambda found: found.seconds)


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--n", type=int, default=576)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    lines = [
        "# Rows that share a Gram matrix",
        "",
        f"{options.rows:,} rows of {options.n:,} weights, swap descent to a verified local optimum; "
        f"{processor()}; best of {options.repeats}. Written by `benchmarks/experiments/batch_rows.py`.",
        "",
        "| pattern | backend | seconds | rows a second | swaps a second | swaps a row "
        "| energy, of the start's | speed, of the first |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for pattern in ("50 %", "2:4"):
        batch = layer(options.rows, options.n, pattern)
        first = 0.0
        for name, arguments in runs():
            found = best_of(batch, options.repeats, **arguments)
            first = first or found.seconds
            share = float(found.energies.sum() / found.start_energies.sum())
            swaps = found.work["swaps"]
            lines.append(
                f"| {pattern} | {name} | {number(found.seconds, 3)} | {options.rows / found.seconds:,.0f} | "
                f"{swaps / found.seconds:,.0f} | {swaps / options.rows:.1f} | {share:.4f} | "
                f"{first / found.seconds:.2f} |"
            )
            print(lines[-1], flush=True)
    (RESULTS / "batch_rows.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
