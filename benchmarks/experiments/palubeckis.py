"""Palubeckis' 21 instances: how often and how soon path relinking reaches the best known objectives.

    python benchmarks/experiments/palubeckis.py --seeds 5 --time-limit 60 --jobs 2
    python benchmarks/experiments/palubeckis.py --instances p3000.1 p5000.2 --seeds 2

Every run ends at the best known objective (of the data folder's qubo/best_known.json) or at the time limit;
one thread each. Records go to benchmarks/results/palubeckis/records.jsonl, the table to
benchmarks/results/palubeckis.md. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

from qubo_prune.sources import data_dir
from qubo_solvers.bench import matrix, run_cells
from qubo_solvers.bench.metrics import median_interval, time_to
from qubo_solvers.bench.report import number
from qubo_solvers.palubeckis import INSTANCES

RESULTS = Path(__file__).resolve().parents[1] / "results"


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--instances", nargs="*", default=list(INSTANCES), choices=list(INSTANCES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--time-limit", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    folder = data_dir()
    if folder is None:
        raise SystemExit("no data folder: set QUBO_PRUNE_DATA to the one that holds qubo/best_known.json")
    told = json.loads((folder / "qubo" / "best_known.json").read_text())
    told = told["palubeckis_generated"]["best"]
    known = {f"palubeckis:{name}": float(told[name]["best"]) for name in options.instances}
    cells = matrix(["path_relinking"], list(known), range(options.seeds), [options.time_limit], targets=known)
    records = run_cells(
        cells, RESULTS / "palubeckis", options.jobs, lambda r: print(line(r, known), flush=True)
    )
    rows = [
        "# Palubeckis' instances",
        "",
        f"`path_relinking`, one thread, {options.seeds} seeds, at most {options.time_limit:g} s each; a run "
        "ends at the best known objective. Written by `benchmarks/experiments/palubeckis.py`.",
        "",
        "| instance | best known | reached | median s to it [95 %] | worst gap |",
        "|---|---|---|---|---|",
    ]
    for instance, best in known.items():
        own = [r for r in records if r["instance"] == instance]
        times = [time_to(r, best) for r in own]
        middle, low, high = median_interval(times)
        worst = max((best - (r.get("objective") or 0.0)) / best for r in own)
        rows.append(
            f"| {instance.split(':')[1]} | {best:,.0f} | {sum(map(math.isfinite, times))} of {len(own)} | "
            f"{number(middle, 3)} [{number(low, 3)}, {number(high, 3)}] | {100 * max(0.0, worst):.4f} % |"
        )
    (RESULTS / "palubeckis.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


def line(record: dict[str, object], known: dict[str, float]) -> str:
    """One run in words."""
    found = record.get("objective")
    short = "error" if found is None else f"{float(str(found)) - known[str(record['instance'])]:+.0f}"
    return f"{record['instance']} seed {record['seed']}: {short} in {record.get('solve_seconds')} s"


if __name__ == "__main__":
    main()
