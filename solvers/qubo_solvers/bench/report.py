"""Reports of records: Markdown tables, the QOBLIB form of CSV, plots, and one self-contained HTML page."""

from __future__ import annotations

import base64
import csv
import html
import io
import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qubo_solvers.bench.instances import short_name
from qubo_solvers.bench.metrics import (
    best_known,
    gap,
    gap_curve,
    median_interval,
    performance_profile,
    primal_integral,
    sign,
    success_interval,
    summary,
    time_to,
    tts,
)

Record = Mapping[str, Any]

QOBLIB = (
    "Problem", "Submitter", "Date", "Reference", "Best Objective Value", "Optimality Bound",
    "Modeling Approach", "# Decision Variables", "# Binary Variables", "# Integer Variables",
    "# Continuous Variables", "# Non-Zero Coefficients", "Coefficients Type", "Coefficients Range",
    "Workflow", "Algorithm Type", "# Runs", "# Feasible Runs", "# Successful Runs", "Success Threshold",
    "Hardware Specifications", "Total Runtime", "CPU Runtime", "GPU Runtime", "QPU Runtime",
    "Other HW Runtime", "Remarks",
)  # fmt: skip


def number(value: float | None, digits: int = 4) -> str:
    """A figure for a table; a dash for none, infinity in words."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if math.isinf(value):
        return "never" if value > 0 else "-inf"
    if value == int(value) and abs(value) >= 10:
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def write_reports(
    records: Sequence[Record], folder: Path, known: Mapping[str, float] | None = None, submitter: str = ""
) -> list[Path]:
    """report.md, report.html, qoblib.csv and, where matplotlib is installed, the plots; returns the files.

    known: instance -> best objective known from elsewhere, in the file's sense.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots = _plots(records, known)
    files = [folder / "report.md", folder / "report.html", folder / "qoblib.csv"]
    files[0].write_text(markdown(records, known), encoding="utf-8")
    files[1].write_text(page(records, known, plots), encoding="utf-8")
    with files[2].open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([QOBLIB, *qoblib_rows(records, known, submitter)])
    for name, png in plots.items():
        files.append(folder / f"{name}.png")
        files[-1].write_bytes(png)
    return files


def tables(
    records: Sequence[Record], known: Mapping[str, float] | None = None
) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of every table."""
    best = best_known(records, known)
    overall = [
        [
            row["solver"], number(row["time_limit"]), str(row["instances"]),
            f"{row['first_equal']} of {row['instances']}", number(row["mean_rank"], 3),
            f"{row['reached_best']} of {row['runs']}", f"{100 * row['median_gap']:.4g} %",
            f"{100 * row['worst_gap']:.4g} %", f"{row['feasible']} ({row['feasible_before_repair']})",
        ]
        for row in summary(records, known)
    ]  # fmt: skip
    each = []
    for (limit, instance, solver), runs in _cells(records).items():
        good = [r for r in runs if r.get("objective") is not None]
        target = best.get(instance)
        s = sign(runs[0])
        values = sorted(s * r["objective"] for r in good)
        times = [time_to(r, target) if target is not None else math.inf for r in runs]
        middle, low, high = median_interval(times)
        hits = sum(math.isfinite(t) for t in times)
        _, least, most = success_interval(hits, len(runs))
        until = limit or max((r.get("solve_seconds") or 0.0 for r in runs), default=0.0)
        integral = [primal_integral(r, target, until) for r in good] if target is not None else []
        bounds = [r["bound"] for r in good if r.get("bound") is not None]
        proven = None if not bounds or not good else (max if s > 0 else min)(bounds)
        each.append([
            short_name(instance), solver, number(limit), number(s * values[0] if values else None, 10),
            number(s * values[len(values) // 2] if values else None, 10), number(target, 10),
            number(proven, 10), f"{hits} of {len(runs)} ({least:.0%} to {most:.0%})",
            f"{number(middle, 3)} [{number(low, 3)}, {number(high, 3)}]",
            number(tts(times, until) if times else None, 3),
            number(float(np.mean(integral)) if integral else None, 3),
        ])  # fmt: skip
    failed = [
        [short_name(r["instance"]), r["solver"], str(r["seed"]), str(r["error"])]
        for r in records
        if r.get("error")
    ]
    found = [
        (
            "Solvers",
            ["solver", "limit s", "instances", "first-equal", "mean rank", "runs at the best known",
             "median gap", "worst gap", "feasible (before repair)"],
            overall,
        ),
        (
            "Instances",
            ["instance", "solver", "limit s", "best", "median", "best known", "proven bound",
             "reached best (95 %)", "median s to it [95 %]", "TTS(99 %) s", "primal integral"],
            each,
        ),
    ]  # fmt: skip
    if failed:
        found.append(("Failed", ["instance", "solver", "seed", "error"], failed))
    return found


def markdown(records: Sequence[Record], known: Mapping[str, float] | None = None) -> str:
    """All tables, with where the figures come from."""
    lines = [_origin(records), ""]
    for title, header, rows in tables(records, known):
        lines += [f"## {title}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def page(
    records: Sequence[Record],
    known: Mapping[str, float] | None = None,
    plots: Mapping[str, bytes] | None = None,
) -> str:
    """One HTML page that needs nothing else."""
    parts = [
        "<!doctype html><meta charset='utf-8'><title>Solver benchmark</title><style>body{font:15px/1.4 "
        "sans-serif;margin:2em}table{border-collapse:collapse;margin-bottom:2em}td,th{padding:2px 9px;"
        "border-bottom:1px solid #ccc;text-align:right}td:first-child,th:first-child{text-align:left}"
        "img{max-width:48em;display:block}</style><h1>Solver benchmark</h1>",
        f"<p>{html.escape(_origin(records))}</p>",
    ]
    for name, png in (plots or {}).items():
        data = base64.b64encode(png).decode()
        parts.append(f"<h2>{html.escape(name)}</h2><img alt='{name}' src='data:image/png;base64,{data}'>")
    for title, header, rows in tables(records, known):
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
        )
        parts.append(f"<h2>{title}</h2><table><tr>{head}</tr>{body}</table>")
    return "".join(parts)


def qoblib_rows(
    records: Sequence[Record], known: Mapping[str, float] | None = None, submitter: str = ""
) -> list[list[str]]:
    """Rows in the fields that the QOBLIB benchmark library (arXiv 2504.03832) asks of a submission."""
    best = best_known(records, known)
    rows = []
    for (limit, instance, solver), runs in _cells(records).items():
        good = [r for r in runs if r.get("feasible")]
        if not good:
            continue
        s, first = sign(good[0]), good[0]
        target = best[instance]
        top = min(good, key=lambda r, s=s: s * r["objective"])  # type: ignore[misc]
        hits = sum(gap(r["objective"], target, s) <= 1e-9 for r in good)
        bounds = [r["bound"] for r in good if r.get("bound") is not None]
        seconds = float(np.mean([r["solve_seconds"] for r in good]))
        rows.append([
            short_name(instance), submitter, str(first.get("date", ""))[:10], "qubo-prune",
            repr(top["objective"]), repr((max if s > 0 else min)(bounds)) if bounds else "N/A",
            "QUBO" if not first["groups"] else "QUBO with cardinality constraints", str(first["variables"]),
            str(first["variables"]), "0", "0", "N/A", "N/A", "N/A", f"{solver}, {first['threads']} thread(s)",
            "Stochastic", str(len(runs)), str(len(good)), str(hits), repr(target),
            str(first.get("processor", "")),
            f"{seconds:.6g}", f"{seconds:.6g}", "0", "0", "0",
            f"time limit {limit} s; means over runs; compilation and reading not counted",
        ])  # fmt: skip
    return rows


def _cells(records: Sequence[Record]) -> dict[tuple[float | None, str, str], list[Record]]:
    cells: dict[tuple[float | None, str, str], list[Record]] = defaultdict(list)
    for record in records:
        cells[record["time_limit"], record["instance"], record["solver"]].append(record)
    return dict(sorted(cells.items(), key=lambda item: (item[0][1], item[0][0] or 0.0, item[0][2])))


def _origin(records: Sequence[Record]) -> str:
    done = next((r for r in records if r.get("versions")), None)
    if done is None:
        return f"{len(records)} runs, none of them finished."
    versions = ", ".join(f"{name} {v}" for name, v in done["versions"].items())
    dates = sorted(str(r["date"])[:10] for r in records)
    return (
        f"{len(records)} runs, {dates[0]} to {dates[-1]}, {done['processor']}, {done['threads']} thread(s) "
        f"each; {versions}. Scored outside the solvers; compilation and reading are not in the seconds."
    )


def _plots(records: Sequence[Record], known: Mapping[str, float] | None) -> dict[str, bytes]:
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
    for (limit, instance, solver), runs in _cells(records).items():
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
