"""Reports of records: Markdown tables, the QOBLIB form of CSV, plots, and one self-contained HTML page."""

from __future__ import annotations

import base64
import csv
import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from qubo_solvers.bench.instances import short_name
from qubo_solvers.bench.metrics import (
    Record,
    best_known,
    by_cell,
    gap,
    median_interval,
    primal_integral,
    proven_bounds,
    proven_gap,
    sign,
    success_interval,
    summary,
    time_to,
    tts,
)
from qubo_solvers.bench.plots import plots_of

QOBLIB = (
    "Problem", "Submitter", "Date", "Reference", "Best Objective Value", "Optimality Bound",
    "Modeling Approach", "# Decision Variables", "# Binary Variables", "# Integer Variables",
    "# Continuous Variables", "# Non-Zero Coefficients", "Coefficients Type", "Coefficients Range",
    "Workflow", "Algorithm Type", "# Runs", "# Feasible Runs", "# Successful Runs", "Success Threshold",
    "Hardware Specifications", "Total Runtime", "CPU Runtime", "GPU Runtime", "QPU Runtime",
    "Other HW Runtime", "Remarks",
)  # fmt: skip


GAPS = (
    "A gap to the best known objective proves nothing: a better one may exist. A proven gap is to a lower "
    "bound (an upper one where the objective is maximised): none is better by more."
)


def number(value: float | None, digits: int = 4) -> str:
    """A figure for a table; a dash for none, infinity in words."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if math.isinf(value):
        return "never" if value > 0 else "-inf"
    if value == int(value) and abs(value) >= 10:
        return f"{int(value):,}"
    return f"{value:.{digits}g}"


def percent(share: float | None) -> str:
    """A gap for a table; a dash for none."""
    return "–" if share is None else f"{100 * share:.4g} %"


def write_reports(
    records: Sequence[Record],
    folder: Path,
    known: Mapping[str, float] | None = None,
    submitter: str = "",
    bounds: Mapping[str, float] | None = None,
) -> list[Path]:
    """report.md, report.html, qoblib.csv and, where matplotlib is installed, the plots; returns the files.

    known:  instance -> best objective known from elsewhere, in the file's sense
    bounds: instance -> proven bound of the objective (`bench.bounds`), beside those that solvers proved
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots = plots_of(records, known)
    files = [folder / "report.md", folder / "report.html", folder / "qoblib.csv"]
    files[0].write_text(markdown(records, known, bounds), encoding="utf-8")
    files[1].write_text(page(records, known, plots, bounds), encoding="utf-8")
    with files[2].open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([QOBLIB, *qoblib_rows(records, known, submitter)])
    for name, png in plots.items():
        files.append(folder / f"{name}.png")
        files[-1].write_bytes(png)
    return files


def tables(
    records: Sequence[Record],
    known: Mapping[str, float] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> list[tuple[str, list[str], list[list[str]]]]:
    """(title, header, rows) of every table."""
    best = best_known(records, known)
    proven = proven_bounds(records, bounds)
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
    for (limit, instance, solver), runs in by_cell(records).items():
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
        top = s * values[0] if values else None
        bound, by = proven.get(instance, (None, ""))
        each.append([
            short_name(instance), solver, number(limit), number(top, 10),
            number(s * values[len(values) // 2] if values else None, 10), number(target, 10),
            "–" if top is None or target is None else percent(gap(top, target, s)),
            number(bound, 10) + (f" by {by}" if by else ""), percent(proven_gap(top, bound, s)),
            f"{hits} of {len(runs)} ({least:.0%} to {most:.0%})",
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
             "median gap to it", "worst gap to it", "feasible (before repair)"],
            overall,
        ),
        (
            "Instances",
            ["instance", "solver", "limit s", "best", "median", "best known", "gap to best known",
             "proven bound", "proven gap", "reached best (95 %)", "median s to it [95 %]", "TTS(99 %) s",
             "primal integral"],
            each,
        ),
    ]  # fmt: skip
    if failed:
        found.append(("Failed", ["instance", "solver", "seed", "error"], failed))
    return found


def markdown(
    records: Sequence[Record],
    known: Mapping[str, float] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> str:
    """All tables, with where the figures come from."""
    lines = [_origin(records), "", GAPS, ""]
    for title, header, rows in tables(records, known, bounds):
        lines += [f"## {title}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
        lines.append("")
    return "\n".join(lines)


def page(
    records: Sequence[Record],
    known: Mapping[str, float] | None = None,
    plots: Mapping[str, bytes] | None = None,
    bounds: Mapping[str, float] | None = None,
) -> str:
    """One HTML page that needs nothing else."""
    parts = [
        "<!doctype html><meta charset='utf-8'><title>Solver benchmark</title><style>body{font:15px/1.4 "
        "sans-serif;margin:2em}table{border-collapse:collapse;margin-bottom:2em}td,th{padding:2px 9px;"
        "border-bottom:1px solid #ccc;text-align:right}td:first-child,th:first-child{text-align:left}"
        "img{max-width:48em;display:block}</style><h1>Solver benchmark</h1>",
        f"<p>{html.escape(_origin(records))}</p><p>{GAPS}</p>",
    ]
    for name, png in (plots or {}).items():
        data = base64.b64encode(png).decode()
        parts.append(f"<h2>{html.escape(name)}</h2><img alt='{name}' src='data:image/png;base64,{data}'>")
    for title, header, rows in tables(records, known, bounds):
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
    for (limit, instance, solver), runs in by_cell(records).items():
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
