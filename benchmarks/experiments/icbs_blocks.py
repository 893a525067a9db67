"""Native solvers on real iCBS blocks: seconds to reference energies, best energies, how quadratic they are.

    python benchmarks/experiments/icbs_blocks.py                   # native solvers: a minute
    python benchmarks/experiments/icbs_blocks.py --slow-limit 60   # with neal and CP-SAT beside them

Blocks and reference energies come from the data folder (QUBO_PRUNE_DATA, default shared/data beside the
repository): statistics of SmolLM2-135M's blocks with the Wanda mask as the current one. Each is built under
the paper's Fisher (s = 1) and the token-scaled one (s = 256 tokens a sample). Every time is compiled, one
thread, from the solve's own trace; energies are recomputed by `qubo_solvers.solve`. Writes
benchmarks/results/icbs_blocks.json and .md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from qubo_solvers import CardinalityQubo, LowRank, Solution, greedy_start, solve
from qubo_solvers.machine import processor

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
BLOCKS = ("block256", "block1024", "block4096")
NATIVE = ("descent", "anneal", "tabu")
GAMMA, RHO = 0.75, 0.002


def build(path: Path, tokens: int) -> tuple[CardinalityQubo, np.ndarray]:
    """One block's low-rank problem, H = tokens * G'G / N, and its current mask (1: pruned), of energy 0."""
    with np.load(path) as z:
        gradients, mean, stored = (z[key].astype(np.float64) for key in ("G", "g", "w0"))
        pruned = ~z["keep"].astype(bool)
    factor = np.sqrt(tokens / len(gradients)) * (gradients * stored).T
    back = stored * pruned  # what the pruned weights would return with
    curved = tokens * gradients.T @ (gradients @ back) / len(gradients) + RHO * back
    linear = -stored * (GAMMA * mean + curved)
    offset = float(GAMMA * mean @ back + 0.5 * back @ curved)
    form = LowRank(factor, 0.5 * RHO * stored**2)
    problem = CardinalityQubo.cardinality(form, linear, int(pruned.sum()), offset=offset, name=path.stem)
    return problem, pruned.astype(np.uint8)


def reached(solution: Solution, energy: float) -> float | None:
    """Seconds until the trace was at this energy (to the digits it is given with), or None."""
    return next((i.seconds for i in solution.trace if i.energy <= energy + 5e-9), None)


def run(
    problem: CardinalityQubo, solver: str, seed: int, limit: float | None, targets: dict[str, float]
) -> Any:
    solution = solve(problem, solver, seed=seed, time_limit=limit)
    return {
        "seed": seed,
        "energy": solution.energy if np.isfinite(solution.energy) else None,
        "seconds": solution.seconds,
        "status": solution.status.value,
        "bound": solution.bound,
        "seconds_to": {name: reached(solution, energy) for name, energy in targets.items()},
        "trace": [[i.seconds, i.energy] for i in solution.trace],
        "message": solution.message,
    }


def measure(args: argparse.Namespace, data: Path) -> list[dict[str, Any]]:
    known = json.loads((data / "qubo" / "best_known.json").read_text())["icbs_blocks"]["energies"]
    rows = []
    for name in BLOCKS:
        for tokens in (1, 256):
            low_rank, current = build(data / "qubo" / "icbs_blocks" / f"{name}.npz", tokens)
            assert abs(low_rank.energy(current)) < 1e-12
            references = {k: tuple(v) for k, v in known[name].items()} if tokens == 1 else {}
            targets = {k: v[0] for k, v in references.items()}
            forms = {"low-rank": low_rank, "dense": low_rank.to_dense()}
            results: dict[str, dict[str, list[Any]]] = {}
            for form, problem in forms.items():
                results[form] = {}
                for solver in NATIVE:
                    solve(problem, solver, time_limit=args.limit)  # page in what compiling did not
                    results[form][solver] = [
                        run(problem, solver, seed, args.limit, targets) for seed in range(args.seeds)
                    ]
            if args.slow_limit:
                for solver in ("neal", "cpsat"):
                    results["dense"][solver] = [run(forms["dense"], solver, 0, args.slow_limit, targets)]
            every = [r["energy"] for s in results.values() for rs in s.values() for r in rs]
            best = min(e for e in every if e is not None)
            linear = low_rank.linear_part()
            alone = greedy_start(linear)
            rows.append(
                {
                    "block": name,
                    "n": low_rank.n,
                    "tokens": tokens,
                    "references": references,
                    "best": best,
                    "sorted": low_rank.energy(alone),
                    "linear_part_optimum": linear.energy(alone),
                    "current_mask_energy": low_rank.energy(current),
                    "results": results,
                }
            )
            print(f"{name} s={tokens}: best {best:.8f}", file=sys.stderr)
    return rows


def provenance(args: argparse.Namespace) -> dict[str, Any]:
    packages = ("numpy", "numba", "scipy", "dwave-neal", "ortools", "qubo-prune")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "cpu": processor(),
        "threads": 1,
        "seeds": list(range(args.seeds)),
        "time_limit": args.limit,
        "slow_limit": args.slow_limit,
        "reference": "C++ annealer of the iCBS authors and a Numba prototype, one thread; [energy, seconds]",
    }


def typical(values: list[float | None]) -> str:
    """The median where all seeds have one, with how many did where not all."""
    got = [v for v in values if v is not None]
    if not got:
        return "–"
    share = "" if len(got) == len(values) else f" ({len(got)}/{len(values)})"
    return f"{median(got):.4f}{share}"


def table(rows: list[dict[str, Any]], meta: dict[str, Any]) -> str:
    slow = f" (neal and CP-SAT: {meta['slow_limit']:g} s, one seed)" if meta["slow_limit"] else ""
    lines = [
        "# Real iCBS blocks",
        "",
        f"{meta['cpu']}, one thread, compiled; {len(meta['seeds'])} seeds, at most {meta['time_limit']:g} s "
        f"each{slow}; {meta['date']}. Written by `benchmarks/experiments/icbs_blocks.py`. Seconds are "
        "medians over seeds, from the start of the solve, scoring included.",
        "",
        "## How quadratic the blocks are",
        "",
        "Energy 0 is the current mask. *Sorted* is the optimum of the linear part (couplings off, diagonal "
        "kept); the gap is its energy in the full model against the best energy found.",
        "",
        "| block | s | best | sorted, full model | sorted, its own model | gap of sorting |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        gap = (r["sorted"] - r["best"]) / abs(r["best"])
        lines.append(
            f"| {r['block']} | {r['tokens']} | {r['best']:.8f} | {r['sorted']:.8f} "
            f"| {r['linear_part_optimum']:.8f} | {100 * gap:.2f} % |"
        )
    lines += ["", "## Seconds to the reference energies (s = 1)", ""]
    lines += ["| block | reference | its energy | its seconds | form | " + " | ".join(NATIVE) + " |"]
    lines += ["|---|---|---|---|---|" + "---|" * len(NATIVE)]
    for r in rows:
        for name, (energy, seconds) in r["references"].items():
            for form, solvers in r["results"].items():
                cells = [typical([x["seconds_to"][name] for x in solvers[s]]) for s in NATIVE]
                lines.append(
                    f"| {r['block']} | {name} | {energy:.8f} | {seconds:g} | {form} | "
                    + " | ".join(cells)
                    + " |"
                )
    lines += [
        "",
        "## Best energies",
        "",
        "| block | s | form | solver | best | median | seconds | status | bound |",
    ]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        for form, solvers in r["results"].items():
            for solver, runs in solvers.items():
                energies = [x["energy"] for x in runs if x["energy"] is not None]
                shown = (f"{min(energies):.8f}", f"{median(energies):.8f}") if energies else ("–", "–")
                bound = next((f"{x['bound']:.8f}" for x in runs if x["bound"] is not None), "–")
                lines.append(
                    f"| {r['block']} | {r['tokens']} | {form} | {solver} | {shown[0]} | {shown[1]} "
                    f"| {median(x['seconds'] for x in runs):.4f} | {runs[0]['status']} | {bound} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=1.0, help="seconds for each native solve")
    parser.add_argument(
        "--slow-limit", type=float, default=None, help="seconds for neal and CP-SAT; off by default"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "icbs_blocks")
    args = parser.parse_args()
    data = Path(os.environ.get("QUBO_PRUNE_DATA", ROOT.parent / "shared" / "data"))
    if not (data / "qubo" / "icbs_blocks").is_dir():
        sys.exit(
            f"no iCBS blocks under {data}: set QUBO_PRUNE_DATA to the folder that holds qubo/icbs_blocks"
        )
    rows, meta = measure(args, data), provenance(args)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps({"provenance": meta, "rows": rows}, indent=1) + "\n")
    args.out.with_suffix(".md").write_text(table(rows, meta))
    print(table(rows, meta))


if __name__ == "__main__":
    main()
