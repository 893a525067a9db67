"""Plots of records, as PNG: the gap over time and the performance profile."""

from __future__ import annotations

import io
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qubo_solvers.bench.metrics import (
    Record,
    best_known,
    by_cell,
    gap_curve,
    median_interval,
    performance_profile,
    time_to,
)


def plots_of(records: Sequence[Record], known: Mapping[str, float] | None) -> dict[str, bytes]:
    """Name -> PNG; none without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return {}
    matplotlib.use("Agg")
    found = {"gap over time": _drawn(lambda axes: _draw_gaps(axes, records, known))}
    found["performance profile"] = _drawn(lambda axes: _draw_profile(axes, records, known))
    return found


def _drawn(draw: Callable[[Any], None]) -> bytes:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=110)
    draw(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
    figure.tight_layout()
    out = io.BytesIO()
    figure.savefig(out, format="png")
    pyplot.close(figure)
    return out.getvalue()


def _draw_gaps(axes: Any, records: Sequence[Record], known: Mapping[str, float] | None) -> None:
    """The mean over instances and seeds of the gap, cut at 100 %, in the runs of the longest limit."""
    best = best_known(records, known)
    longest = max((r.get("solve_seconds") or 0.0 for r in records), default=1.0)
    at = np.geomspace(1e-3, max(longest, 2e-3), 200)
    axes.set(ylim=(5e-6, 200))
    axes.set(xscale="log", yscale="log", xlabel="seconds", ylabel="mean gap, %")
    by_solver: dict[str, list[Any]] = defaultdict(list)
    limits = [r["time_limit"] or math.inf for r in records]
    for record, limit in zip(records, limits, strict=True):
        if limit == max(limits) and record["instance"] in best:
            curve = gap_curve(record, best[record["instance"]], at)
            by_solver[record["solver"]].append(np.minimum(curve, 1.0))
    for solver, curves in by_solver.items():
        axes.plot(at, 100 * np.maximum(np.mean(curves, axis=0), 1e-7), label=solver, drawstyle="steps-post")


def _draw_profile(axes: Any, records: Sequence[Record], known: Mapping[str, float] | None) -> None:
    """Dolan-More profile of the median seconds to the best known objective."""
    best = best_known(records, known)
    times: dict[str, dict[Any, float]] = defaultdict(dict)
    for (limit, instance, solver), runs in by_cell(records).items():
        found = [time_to(r, best[instance]) for r in runs] if instance in best else [math.inf]
        times[solver][instance, limit] = max(1e-4, median_interval(found)[0])
    problems = sorted({problem for row in times.values() for problem in row}, key=repr)
    factors = np.geomspace(1.0, 1e4, 200)
    costs = {solver: [row.get(p, math.inf) for p in problems] for solver, row in times.items()}
    for solver, share in performance_profile(costs, factors).items():
        axes.plot(factors, share, label=solver, drawstyle="steps-post")
    axes.set(
        xscale="log",
        xlabel="factor of the fastest solver's time",
        ylabel="share of instances",
        ylim=(0, 1.02),
    )
