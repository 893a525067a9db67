"""The solvers of other packages against this one: time to the best energy that the other reached.

    python benchmarks/instances/real_blocks.py --out runs/real_blocks      # once
    python benchmarks/experiments/against.py --seeds 5 --jobs 2
    python benchmarks/experiments/against.py --others neal --instances bqp1000_1 --seeds 2

Each other solver runs with every time limit of the ladder. Its best energy with a seed is the target that
ours (what `auto` picks) starts for, from nothing, with the same seed; the ratio is the other's seconds to its
best over ours to the same. A sampler that tells no times counts with the whole of the shortest run that found
as good an answer. One thread each, compiled; energies are recomputed from the assignments. Records go to
runs/against/records.jsonl (a stopped run goes on), the table to benchmarks/results/against.md.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from statistics import median
from typing import Any

from qubo_prune.sources import data_dir
from qubo_solvers import registry
from qubo_solvers.bench import matrix, run_cells
from qubo_solvers.bench.cells import Cell
from qubo_solvers.bench.metrics import sign, time_to
from qubo_solvers.machine import processor, versions

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
OTHERS = ("dwave_tabu", "neal", "openjij", "simulated_bifurcation")  # neal is the annealing of dwave-samplers
PACKAGES = ("dwave-samplers", "dwave-neal", "openjij", "simulated-bifurcation")
REAL = (
    *(f"fisher_n{n}_s50" for n in (256, 1024, 4096)),
    *(f"rows_{row}" for row in ("q0_n576_s50", "down15_n1536_s50", "down15_n1536_s70")),
)


def instances() -> dict[str, str]:
    """Short name -> what `load_instance` takes."""
    folder = data_dir()
    if folder is None:
        raise SystemExit("no data folder: set QUBO_PRUNE_DATA to the one that holds qubo/best_known.json")
    found = {name: f"palubeckis:{name}" for name in ("p3000.1", "p5000.1")}
    found["bqp1000_1"] = str(folder / "qubo" / "beasley" / "bqp1000_1.qubo")
    found["G14"] = f"rudy:{folder / 'qubo' / 'gset' / 'G14.txt'}"
    found["SOM-b_10"] = f"mdplib:{folder / 'qubo' / 'mdp' / 'SOM-b_10_n300_m60.txt'}"
    return found | {name: str(ROOT / "runs" / "real_blocks" / f"{name}.npz") for name in REAL}


def compare(others: list[dict[str, Any]], target: float, ours: dict[str, Any]) -> tuple[float, float]:
    """(the other's seconds to the target, ours; infinite where never), of one instance and seed."""
    return min(time_to(r, target) for r in others), time_to(ours, target)


def row(name: str, other: str, pairs: list[tuple[float, float]], gaps: list[float]) -> str:
    """One line of the table: medians over the seeds that have a pair."""
    if not pairs:
        return f"| {name} | {other} | – | – | – | – |"
    theirs, ours = ([p[i] for p in pairs] for i in (0, 1))
    won = [o for o in ours if math.isfinite(o)]
    ratio = median(t / o if math.isfinite(o) else 0.0 for t, o in pairs)
    mine = f"{median(ours):.4f}" if len(won) > len(pairs) / 2 else "–"
    return (
        f"| {name} | {other} | {median(theirs):.3f} | {mine} ({len(won)} of {len(pairs)}) | "
        f"{ratio:,.1f} | {100 * max(gaps):.4f} % |"
    )


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    known = instances()
    parser.add_argument("--instances", nargs="+", default=list(known), choices=list(known))
    parser.add_argument("--others", nargs="+", default=list(OTHERS))
    parser.add_argument("--ours", default="auto")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--ladder", type=float, nargs="+", default=[1.0, 10.0], help="seconds for the others")
    parser.add_argument("--time-limit", type=float, default=20.0, help="seconds for ours")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    specs = {known[name]: name for name in options.instances}
    folder = ROOT / "runs" / "against"
    cells = matrix(options.others, list(specs), range(options.seeds), options.ladder)
    records = run_cells(cells, folder, options.jobs, lambda r: print(told(r), flush=True))
    best: dict[tuple[str, str, int], float] = {}
    for r in records:
        key = (r["instance"], r["solver"], r["seed"])
        if r.get("feasible") and (key not in best or sign(r) * r["objective"] < sign(r) * best[key]):
            best[key] = r["objective"]
    wanted = {
        key: Cell(options.ours, key[0], key[2], options.time_limit, target=best[key]) for key in sorted(best)
    }
    answers = run_cells(list(wanted.values()), folder, options.jobs, lambda r: print(told(r), flush=True))
    ours = {key: answer for key, answer in zip(wanted, answers, strict=True) if not answer.get("error")}
    lines = [
        "# Against other packages",
        "",
        f"{processor()}, one thread, {options.seeds} seeds; the others with "
        f"{', '.join(f'{s:g} s' for s in options.ladder)}, `{options.ours}` for at most "
        f"{options.time_limit:g} s. Their seconds: to the best energy that they reached; ours: to the same "
        "or a better one (in how many seeds). Worst gap: of their best to the best of all runs. Medians over "
        "seeds. "
        f"{', '.join(f'{k} {v}' for k, v in versions(PACKAGES).items())}. Written by "
        "`benchmarks/experiments/against.py`.",
        "",
        "| instance | other | its seconds | ours | times faster | worst gap of the other |",
        "|---|---|---|---|---|---|",
    ]
    for spec, name in specs.items():
        every = [r for r in [*records, *ours.values()] if r["instance"] == spec and r.get("feasible")]
        top = min((sign(r) * r["objective"] for r in every), default=0.0)
        for other in options.others:
            if not registry.availability(other)[0]:
                continue
            pairs, gaps = [], []
            for key, answer in ours.items():
                if key[:2] == (spec, other):
                    mine = [r for r in every if r["solver"] == other and r["seed"] == key[2]]
                    pairs.append(compare(mine, best[key], answer))
                    gaps.append((sign(answer) * best[key] - top) / max(abs(top), 1e-12))
            lines.append(row(name, other, pairs, gaps))
    (RESULTS / "against.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def told(record: dict[str, Any]) -> str:
    """One run in words."""
    found = record.get("error") or f"{record['objective']!r} in {record['solve_seconds']:.2f} s"
    return f"{record['solver']} on {record['instance']} seed {record['seed']}: {found}"


if __name__ == "__main__":
    main()
