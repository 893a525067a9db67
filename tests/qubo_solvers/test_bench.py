"""The benchmark harness: cells, resuming, scores of its own, figures by hand, reports."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qubo_solvers import CardinalityQubo, Dense, Solution, Status, registry
from qubo_solvers.bench import Cell, instance_bounds, load_instance, matrix, read_records, run_cells
from qubo_solvers.bench import metrics as m
from qubo_solvers.bench.instances import problem_hash, short_name
from qubo_solvers.bench.report import QOBLIB, markdown, qoblib_rows, write_reports
from qubo_solvers.bench.run import exact_energy, scored
from qubo_solvers.exhaustive import Exhaustive
from qubo_solvers.generate import random_problem

TINY = "random:dense:12:1"


class Broken:
    """A solver that raises."""

    name = "broken"
    capabilities = registry.capabilities("descent")

    def solve(self, problem, **_):
        raise RuntimeError("no such thing")


@pytest.fixture(autouse=True)
def table(monkeypatch):
    monkeypatch.setattr(registry, "TABLE", {**registry.TABLE, "broken": Broken})


# -- running -----------------------------------------------------------------------------------------------


def test_a_run_goes_on_where_it_was_and_a_broken_solver_costs_its_own_cells(tmp_path: Path) -> None:
    cells = matrix(
        ["descent", "broken", ("anneal", {"restarts": 1})], [TINY, "random:plain:9"], range(2), [None]
    )
    assert len({cell.key for cell in cells}) == len(cells) == 12
    seen: list[str] = []
    first = run_cells(cells[:5], tmp_path, on_record=lambda r: seen.append(r["key"]))
    assert seen == [c.key for c in cells[:5]]
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"key": "cut of')
    seen.clear()
    records = run_cells(cells, tmp_path, on_record=lambda r: seen.append(r["key"]))
    assert seen == [c.key for c in cells[5:]]
    assert records[:5] == first
    assert [r["solver"] for r in records[:3]] == ["descent", "broken", "anneal(restarts=1)"]
    for record in records:
        assert ("error" in record) == (record["solver"] == "broken")
        if "error" not in record:
            assert record["feasible"]
            assert record["solve_seconds"] >= 0
            assert record["trace"][-1][1] == pytest.approx(record["objective"])
            assert record["versions"]["numba"]
    assert "no such thing" in records[1]["error"]
    seen.clear()
    run_cells(cells, tmp_path, on_record=lambda r: seen.append(r["key"]), again=True)
    assert len(seen) == 4
    assert len({r["key"] for r in read_records(tmp_path / "records.jsonl")}) == 12


@pytest.mark.slow
def test_in_parallel_processes(tmp_path: Path) -> None:
    pytest.importorskip("joblib")
    cells = matrix(["descent"], [TINY], range(3), [None])
    one = {r["seed"]: r["objective"] for r in run_cells(cells, tmp_path / "one")}
    two = {r["seed"]: r["objective"] for r in run_cells(cells, tmp_path / "two", jobs=2)}
    assert one == two


def test_runs_end_at_their_target(tmp_path: Path) -> None:
    best = run_cells([Cell("exhaustive", "random:plain:14")], tmp_path)[0]["objective"]
    cells = matrix(["path_relinking"], ["random:plain:14"], [0], [30.0], targets={"random:plain:14": best})
    (record,) = run_cells(cells, tmp_path)
    assert record["objective"] == pytest.approx(best)
    assert record["solve_seconds"] < 15


def test_instances_that_do_not_exist_are_errors_of_their_cells(tmp_path: Path) -> None:
    cells = [
        Cell("descent", spec) for spec in ("random:nothing:3", "random:dense", "palubeckis:p1", "no.npz")
    ]
    records = run_cells(cells, tmp_path)
    assert all(record["error"] for record in records)
    assert "p3000.1" in records[2]["error"]
    with pytest.raises(ValueError, match="random:KIND:N"):
        load_instance("random:dense")
    assert [short_name(s) for s in (TINY, "palubeckis:p3000.1", "rudy:a/G1.txt", "b/c.npz")] == [
        "dense:12:1", "p3000.1", "G1", "c",
    ]  # fmt: skip


def test_scores_are_the_harness_own() -> None:
    problem = replace(random_problem("dense", 8), objective_scale=-1.0)
    x = np.array([1, 1, 1, 1, 0, 0, 0, 0], np.uint8)
    lie = Solution(x, -1e9, Status.FEASIBLE, "liar", 0.1, (), None, True, {}, "")
    record = scored(problem, lie)
    assert record["objective"] == -problem.energy(x)
    assert record["feasible"]
    assert not record["feasible_raw"]
    assert scored(problem, replace(lie, assignment=None))["objective"] is None


def test_integers_are_scored_exactly() -> None:
    n = 40
    matrix_ = np.full((n, n), 2**55 + 1, dtype=np.int64)
    problem = CardinalityQubo.unconstrained(Dense(matrix_), np.zeros(n))
    x = np.zeros(n, np.uint8)
    x[:3] = 1
    assert exact_energy(problem, x) == float(9 * (2**55 + 1))
    floats = random_problem("dense", 8)
    assert exact_energy(floats, np.ones(8, np.uint8)) == floats.energy(np.ones(8))


def test_hashes_tell_problems_apart() -> None:
    a, b = random_problem("groups", 12, 1), random_problem("groups", 12, 2)
    low = random_problem("low_rank", 12)
    assert problem_hash(a) == problem_hash(replace(a, name="another"))
    assert len({problem_hash(p) for p in (a, b, low, replace(a, offset=2.0), low.to_dense())}) == 5


# -- figures -----------------------------------------------------------------------------------------------


def record(solver: str, instance: str, trace: list[tuple[float, float]], **more: object) -> dict[str, object]:
    value = trace[-1][1] if trace else None
    return {
        "key": f"{solver}{instance}{more.get('seed', 0)}", "solver": solver, "instance": instance, "seed": 0,
        "time_limit": 10.0, "threads": 1, "sense": "max", "trace": [list(t) for t in trace],
        "date": "2026-01-01",
        "objective": value, "feasible": value is not None, "feasible_raw": value is not None,
        "solve_seconds": 10.0, "bound": None, "variables": 3, "groups": 0, "processor": "a", **more,
    }  # fmt: skip


def test_gaps_and_integrals_in_the_files_sense() -> None:
    run = record("a", "x", [(1.0, 50.0), (3.0, 90.0), (5.0, 100.0)])
    assert m.best_known([run, record("b", "x", [(1.0, 80.0)])]) == {"x": 100.0}
    assert m.best_known([run], {"x": 120.0}) == {"x": 120.0}
    assert m.time_to(run, 90.0) == 3.0
    assert m.time_to(run, 101.0) == math.inf
    assert m.gap_curve(run, 100.0, np.array([0.5, 1.0, 4.0, 9.0])).tolist() == [math.inf, 0.5, 0.1, 0.0]
    assert m.primal_integral(run, 100.0, 10.0) == pytest.approx(1.0 + 2 * 0.5 + 2 * 0.1)
    assert m.primal_integral(run, 100.0, 2.0) == pytest.approx(1.0 + 0.5)
    assert m.gap(None, 1.0, 1.0) == math.inf


def test_a_gap_is_proven_against_a_bound_only() -> None:
    """Maximised: the bound is above, the lowest one counts, whoever proved it."""
    runs = [
        record("a", "x", [(1.0, 80.0)]),
        record("b", "x", [(1.0, 60.0)], bound=110.0, bound_method="spectral"),
        record("c", "x", [(1.0, 50.0)], bound=120.0),
        record("a", "y", [(1.0, 10.0)]),
    ]
    assert m.proven_bounds(runs) == {"x": (110.0, "spectral")}
    assert m.proven_bounds(runs, {"x": 100.0, "y": math.inf}) == {"x": (100.0, "bound")}
    assert m.proven_gap(80.0, 100.0, -1.0) == 0.25
    assert m.proven_gap(80.0, 80.0, -1.0) == 0.0
    assert m.proven_gap(80.0, None, -1.0) is None
    text = markdown(runs, {"x": 100.0})
    assert "proves nothing" in text
    of_a = next(line for line in text.splitlines() if line.startswith("| x | a"))
    assert "| 100 | 20 % | 110 by spectral | 37.5 % |" in of_a
    of_y = next(line for line in text.splitlines() if line.startswith("| y | a"))
    assert "| 0 % | – | – |" in of_y


def test_bounds_are_kept_and_made_anew_where_the_instance_changed(tmp_path: Path) -> None:
    first = instance_bounds([TINY], tmp_path)
    optimum = Exhaustive().solve(load_instance(TINY)).energy
    assert -math.inf < first[TINY] <= optimum
    text = (tmp_path / "bounds.json").read_text()
    assert instance_bounds([TINY], tmp_path) == first
    assert (tmp_path / "bounds.json").read_text() == text
    (tmp_path / "bounds.json").write_text(text.replace('"hash": "', '"hash": "0'))
    assert instance_bounds([TINY], tmp_path) == first
    (tmp_path / "bounds.json").write_text("cut o")
    assert instance_bounds([TINY, "palubeckis:none", "none.npz"], tmp_path) == first


def test_time_to_solution() -> None:
    assert m.tts([1.0, 2.0, 4.0, math.inf], 10.0) == pytest.approx(
        min(t * max(1, math.log(0.01) / math.log(1 - p)) for t, p in ((1, 0.25), (2, 0.5), (4, 0.75)))
    )
    assert m.tts([3.0, 3.0], 10.0) == 3.0
    assert m.tts([math.inf], 10.0) == math.inf


def test_intervals_hold_what_they_promise() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        middle, low, high = m.median_interval(rng.exponential(size=15).tolist())
        assert low <= middle <= high
        held += low <= math.log(2) <= high
    assert held >= 0.93 * 400
    assert m.median_interval([1.0, math.inf, math.inf]) == (math.inf, 1.0, math.inf)
    share, low, high = m.success_interval(8, 10)
    assert (share, low, high) == (0.8, pytest.approx(0.4902, abs=1e-3), pytest.approx(0.9433, abs=1e-3))
    assert m.success_interval(0, 5)[1] == 0.0


def test_profiles_and_ranks() -> None:
    shares = m.performance_profile(
        {"a": [1.0, 4.0, math.inf], "b": [2.0, 2.0, math.inf]}, np.array([1.0, 2.0])
    )
    assert shares["a"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert shares["b"].tolist() == pytest.approx([1 / 3, 2 / 3])
    assert m.ranks({"a": 1.0, "b": 0.5, "c": 1.0}) == {"b": 1.0, "a": 2.5, "c": 2.5}


# -- reports -----------------------------------------------------------------------------------------------


def runs() -> list[dict[str, object]]:
    found = [record("a", "x", [(0.1, 10.0 + seed)], seed=seed, versions={"numba": "1"}) for seed in range(3)]
    found += [record("b", "x", [(0.2, 12.0)], seed=seed, feasible_raw=False) for seed in range(3)]
    found.append(record("a", "y", [], error="out of memory | sorry", feasible=False))
    return found


def test_summary_counts() -> None:
    rows = {row["solver"]: row for row in m.summary(runs())}
    assert (rows["b"]["first_equal"], rows["b"]["mean_rank"], rows["b"]["reached_best"]) == (1, 1.0, 3)
    assert (rows["a"]["runs"], rows["a"]["feasible"], rows["a"]["reached_best"]) == (4, 3, 1)
    assert rows["b"]["feasible_before_repair"] == 0
    assert rows["a"]["worst_gap"] == math.inf


def test_reports_are_written(tmp_path: Path) -> None:
    files = write_reports(runs(), tmp_path, submitter="somebody")
    assert {file.name for file in files} >= {"report.md", "report.html", "qoblib.csv"}
    text = markdown(runs())
    assert "out of memory / sorry" in text
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    rows = list(csv.reader((tmp_path / "qoblib.csv").open()))
    assert tuple(rows[0]) == QOBLIB
    assert len(rows) == 3
    assert [row[rows[0].index("# Successful Runs")] for row in rows[1:]] == ["1", "3"]
    assert rows[1][rows[0].index("Submitter")] == "somebody"
    assert qoblib_rows([runs()[-1]]) == []
