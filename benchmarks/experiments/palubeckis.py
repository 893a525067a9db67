"""Palubeckis' 21 instances and the data folder's files: how often and how soon the best known is reached.

    python benchmarks/experiments/palubeckis.py --seeds 5 --time-limit 60 --jobs 2
    python benchmarks/experiments/palubeckis.py --instances p3000.1 p5000.2 --seeds 2
    python benchmarks/experiments/palubeckis.py --instances files --seeds 5

Every run ends at the best known objective (of the data folder's qubo/best_known.json) or at the time limit;
one thread each. Records go to runs/palubeckis/records.jsonl, the table to benchmarks/results/best_known.md. A
stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from qubo_prune.sources import data_dir
from qubo_solvers.bench import matrix, run_cells
from qubo_solvers.bench.instances import short_name
from qubo_solvers.bench.metrics import gap, median_interval, sign, time_to
from qubo_solvers.bench.report import number
from qubo_solvers.machine import processor
from qubo_solvers.palubeckis import INSTANCES

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


LADDER = (1.0, 10.0)


def files(folder: Path, best: dict[str, Any]) -> dict[str, float]:
    """The data folder's own instances with the objectives best known, in their files' sense."""
    reader = {"gset": "rudy:", "mdp": "mdplib:", "beasley": "", "qplib": ""}
    found = {}
    for name, told in best.items():
        kind = name.split("/")[0]
        value = float(told["best"])
        if kind == "qplib":  # told in units of 1e11, rounded to nine digits
            value = 1e11 * (value + 5e-10)
        found[f"{reader[kind]}{folder / 'qubo' / name}"] = value
    return found


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    choices = [*INSTANCES, "files"]
    parser.add_argument("--instances", nargs="*", default=choices, choices=choices)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    folder = data_dir()
    if folder is None:
        raise SystemExit("no data folder: set QUBO_PRUNE_DATA to the one that holds qubo/best_known.json")
    told = json.loads((folder / "qubo" / "best_known.json").read_text())
    best = told["palubeckis_generated"]["best"]
    known = {f"palubeckis:{n}": float(best[n]["best"]) for n in options.instances if n != "files"}
    if "files" in options.instances:
        known |= files(folder, told["instances"])
    cells = matrix(["path_relinking"], list(known), range(options.seeds), [options.time_limit], targets=known)
    records = run_cells(
        cells, ROOT / "runs" / "palubeckis", options.jobs, lambda r: print(line(r, known), flush=True)
    )
    within = " | ".join(f"within {s:g} s" for s in (*LADDER, options.time_limit))
    rows = [
        "# Best known objectives",
        "",
        f"`path_relinking`, one thread ({options.jobs} runs at a time), {options.seeds} seeds, at most "
        f"{options.time_limit:g} s each; a run ends at the best known objective. {processor()}. Written by "
        "`benchmarks/experiments/palubeckis.py`.",
        "",
        f"| instance | best known | {within} | median s to it [95 %] | worst gap |",
        "|---|---|---|---|---|---|---|",
    ]
    for instance, wanted in known.items():
        own = [r for r in records if r["instance"] == instance]
        times = [time_to(r, wanted) for r in own]
        middle, low, high = median_interval(times)
        worst = max(gap(r.get("objective"), wanted, sign(r)) for r in own)
        counts = [sum(t <= s for t in times) for s in (*LADDER, options.time_limit * 1.1)]
        reached = " | ".join(f"{c} of {len(own)}" for c in counts)
        rows.append(
            f"| {short_name(instance)} | {wanted:,.0f} | {reached} | "
            f"{number(middle, 3)} [{number(low, 3)}, {number(high, 3)}] | {100 * worst:.4f} % |"
        )
    (RESULTS / "best_known.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


def line(record: dict[str, object], known: dict[str, float]) -> str:
    """One run in words."""
    found = record.get("objective")
    short = "error" if found is None else f"{float(str(found)) - known[str(record['instance'])]:+.0f}"
    return f"{record['instance']} seed {record['seed']}: {short} in {record.get('solve_seconds')} s"


if __name__ == "__main__":
    main()
