"""What records say: gaps over time, time to target with confidence, primal integrals, profiles, ranks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qubo_solvers.solution import relative_gap

Record = Mapping[str, Any]
Floats = NDArray[np.float64]


def sign(record: Record) -> float:
    """Multiplies an objective so that less is better."""
    return -1.0 if record.get("sense") == "max" else 1.0


def by_cell(records: Sequence[Record]) -> dict[tuple[float | None, str, str], list[Record]]:
    """The runs of each (time limit, instance, solver), by instance."""
    cells: dict[tuple[float | None, str, str], list[Record]] = defaultdict(list)
    for record in records:
        cells[record["time_limit"], record["instance"], record["solver"]].append(record)
    return dict(sorted(cells.items(), key=lambda item: (item[0][1], item[0][0] or 0.0, item[0][2])))


def gap(value: float | None, best: float, sense: float) -> float:
    """Relative distance to the best objective, 0 at least; infinite without an answer.

    |value - best| / max(|best|, 1e-12); a value that beats `best` counts as 0.
    """
    if value is None:
        return math.inf
    return max(0.0, sense * (value - best)) / max(abs(best), 1e-12)


def best_known(records: Sequence[Record], known: Mapping[str, float] | None = None) -> dict[str, float]:
    """The best objective of each instance, over all records and what is known from elsewhere."""
    best: dict[str, float] = dict(known or {})
    for record in records:
        value = record.get("objective")
        if value is None or not record.get("feasible"):
            continue
        s, name = sign(record), record["instance"]
        if name not in best or s * value < s * best[name]:
            best[name] = value
    return best


def proven_bounds(
    records: Sequence[Record], bounds: Mapping[str, float] | None = None
) -> dict[str, tuple[float, str]]:
    """The best proven bound of each instance's objective and who proved it: any solver's bound holds for all.

    bounds: instance -> a bound known from elsewhere (`bench.bounds`), in the file's sense. An infinite one
    is none.
    """
    found: dict[str, tuple[float, str]] = {}
    senses = {record["instance"]: sign(record) for record in records}
    claims = [(r["instance"], r.get("bound"), str(r.get("bound_method") or r["solver"])) for r in records]
    claims += [(name, value, "bound") for name, value in (bounds or {}).items()]
    for name, value, by in claims:
        if value is None or not math.isfinite(value):
            continue
        s = senses.get(name, 1.0)
        if name not in found or s * value > s * found[name][0]:
            found[name] = (value, by)
    return found


def proven_gap(value: float | None, bound: float | None, sense: float) -> float | None:
    """The relative gap that a bound proves (`solution.relative_gap`); None without a bound or an answer.
    Nothing is better than `value` by more, where `gap` says what is known to be better."""
    if value is None or bound is None:
        return None
    return relative_gap(sense * value, sense * bound)


def time_to(record: Record, target: float, tolerance: float = 1e-9) -> float:
    """Seconds of the solve until its trace was at least as good as the target; infinite where never."""
    s = sign(record)
    slack = tolerance * max(1.0, abs(target))
    for seconds, value in record.get("trace") or ():
        if s * value <= s * target + slack:
            return float(seconds)
    return math.inf


def gap_curve(record: Record, best: float, at: Floats) -> Floats:
    """The gap of the incumbent at each time; infinite before the first."""
    found = np.full(len(at), math.inf)
    for seconds, value in record.get("trace") or ():
        found[at >= seconds] = gap(value, best, sign(record))
    return found


def primal_integral(record: Record, best: float, until: float) -> float:
    """The integral of min(gap, 1) over the solve's time up to `until`, in seconds (Berthold 2013, doi
    10.1016/j.orl.2013.08.007, with this module's gap); before the first incumbent the gap counts as 1."""
    total, last, current = 0.0, 0.0, 1.0
    for seconds, value in record.get("trace") or ():
        if seconds >= until:
            break
        total += current * (seconds - last)
        last, current = seconds, min(1.0, gap(value, best, sign(record)))
    return total + current * max(0.0, until - last)


def median_interval(times: Sequence[float], level: float = 0.95) -> tuple[float, float, float]:
    """(median, low, high) of times, some of them infinite: the interval from order statistics, which needs no
    distribution (its coverage is at least `level` where there are enough times; else it is the range)."""
    ordered = sorted(times)
    n = len(ordered)
    if n == 0:
        return math.inf, math.inf, math.inf
    low = 0
    mass = 0.5**n
    cumulative = mass
    while cumulative <= (1 - level) / 2 and low < n // 2:
        low += 1
        mass *= (n - low + 1) / low
        cumulative += mass
    k = max(0, low - 1)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2 if math.isfinite(ordered[n // 2]) else math.inf
    return middle, ordered[k], ordered[n - 1 - k]


def success_interval(successes: int, runs: int, level: float = 0.95) -> tuple[float, float, float]:
    """(share, low, high) of successes: Wilson's score interval."""
    if runs == 0:
        return math.nan, 0.0, 1.0
    z = 1.959963984540054 if level == 0.95 else _normal_quantile(0.5 + level / 2)
    share = successes / runs
    centre = (share + z * z / (2 * runs)) / (1 + z * z / runs)
    half = z / (1 + z * z / runs) * math.sqrt(share * (1 - share) / runs + z * z / (4 * runs * runs))
    return share, max(0.0, centre - half), min(1.0, centre + half)


def tts(times: Sequence[float], limit: float, confidence: float = 0.99) -> float:
    """Time to solution: the expected seconds to reach the target with this confidence by restarting runs cut
    at the best of the seen times: min over t of t * ln(1 - confidence) / ln(1 - p(t)), and t itself where all
    runs had succeeded by then. `limit` is the cut of runs that never did."""
    n = len(times)
    best = math.inf
    for t in sorted({time for time in times if time <= limit}):
        p = sum(time <= t for time in times) / n
        repeats = 1.0 if p >= confidence else math.log(1 - confidence) / math.log(1 - p)
        best = min(best, t * max(1.0, repeats))
    return best


def performance_profile(costs: Mapping[str, Sequence[float]], factors: Floats) -> dict[str, Floats]:
    """Share of problems on which a solver's cost is within each factor of the best one (Dolan and More 2002,
    doi 10.1007/s101070100263). costs: solver -> one positive cost a problem, infinite where it failed."""
    table = np.array([list(c) for c in costs.values()], dtype=np.float64)
    least = table.min(axis=0, initial=math.inf)
    solved = np.isfinite(least)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where(solved, table / np.maximum(least, 1e-12), math.inf)
    return {
        name: (row[None, :] <= factors[:, None]).mean(axis=1) if row.size else np.zeros(len(factors))
        for name, row in zip(costs, ratio, strict=True)
    }


def ranks(values: Mapping[str, float], tolerance: float = 1e-9) -> dict[str, float]:
    """Average ranks of solvers on one problem, 1 the best; less is better, ties share their mean rank."""
    order = sorted(values, key=lambda name: values[name])
    found: dict[str, float] = {}
    i = 0
    while i < len(order):
        j = i
        first = values[order[i]]
        while j + 1 < len(order) and _equal(values[order[j + 1]], first, tolerance):
            j += 1
        for name in order[i : j + 1]:
            found[name] = (i + j) / 2 + 1
        i = j + 1
    return found


def summary(records: Sequence[Record], known: Mapping[str, float] | None = None) -> list[dict[str, Any]]:
    """A row per solver and time limit: how often it was first-equal, its mean rank, gaps, feasibility.

    Compared per instance by the median objective over seeds; records with errors count as no answer.
    """
    best = best_known(records, known)
    cells: dict[Any, dict[str, dict[str, list[Record]]]] = defaultdict(lambda: defaultdict(dict))
    for record in records:
        cells[record["time_limit"]][record["instance"]].setdefault(record["solver"], []).append(record)
    rows = []
    for limit, by_instance in cells.items():
        gathered: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for instance, by_solver in by_instance.items():
            gaps = {}
            for solver, runs in by_solver.items():
                found = [gap(r.get("objective"), best[instance], sign(r)) if instance in best else math.inf
                         for r in runs]  # fmt: skip
                gaps[solver] = float(np.median(found))
                own = gathered[solver]
                own["gap"].append(gaps[solver])
                own["runs"].append(len(runs))
                own["hits"].append(sum(g <= 1e-9 for g in found))
                own["feasible"].append(sum(bool(r.get("feasible")) for r in runs))
                own["raw"].append(sum(bool(r.get("feasible_raw")) for r in runs))
            placed = ranks(gaps)
            for solver, rank in placed.items():
                gathered[solver]["rank"].append(rank)
                gathered[solver]["first"].append(float(_equal(gaps[solver], min(gaps.values()), 1e-9)))
        for solver, own in gathered.items():
            runs_made = int(sum(own["runs"]))
            rows.append({
                "solver": solver, "time_limit": limit, "instances": len(own["gap"]), "runs": runs_made,
                "first_equal": int(sum(own["first"])), "mean_rank": float(np.mean(own["rank"])),
                "median_gap": float(np.median(own["gap"])), "worst_gap": float(np.max(own["gap"])),
                "reached_best": int(sum(own["hits"])), "feasible": int(sum(own["feasible"])),
                "feasible_before_repair": int(sum(own["raw"])),
            })  # fmt: skip
    return rows


def _equal(a: float, b: float, tolerance: float) -> bool:
    return a == b or abs(a - b) <= tolerance


def _normal_quantile(p: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(p)
