"""The quality bench on a tiny model: a run, stopped and gone on with, refused, failed."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from qubo_prune.calibration import split_ranges


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_end_to_end(bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in its fourth cell, gone on with, then nothing is left to do; the same table either way."""
    arguments = ["--quick", "--sparsity", "0.5", "2:4", "--seeds", "2", "--output", str(tmp_path)]
    run, prune, calls = bench["quality_run"], bench["quality_run"].prune, 0

    def stopped(*args: Any, **kw: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return prune(*args, **kw)

    run.prune = stopped
    updated: list[Any] = []
    monkeypatch.setattr(bench["update_readme"], "main", lambda arguments: updated.append(arguments) or 0)
    assert bench["quality"].main(arguments) == 130
    first = records(tmp_path)
    assert [(r["method"], r["target"], r["seed"]) for r in first] == [
        ("dense", "dense", 0), ("wanda", "50 %", 0), ("magnitude", "50 %", 0), ("icbs", "50 %", 0),
    ]  # fmt: skip
    with (tmp_path / "records.jsonl").open("a") as file:
        file.write('{"key": "cut of')
    assert bench["quality"].main(arguments) == 0
    assert calls == 4 + 9
    found = bench["quality_run"].read_records(tmp_path / "records.jsonl")
    assert found[:4] == first
    assert len({r["key"] for r in found}) == len(found) == 13
    assert bench["quality"].main(arguments) == 0
    assert calls == 13

    dense, *others = found
    assert abs(dense["kl"]) < 1e-5
    assert dense["perplexity"] > 1
    for r in others:
        assert r["pruned_weights"] * 2 == r["total_weights"]
        assert r["kl"] > 0.01
        assert r["prune_seconds"] > 0
        assert r["wanda_seconds"] > 0
        assert r["seconds"]["prune"] >= r["prune_seconds"]
        assert [task["rows"] for task in r["tasks"]] == [6, 6]
        assert (r["process"], r["jobs"], r["provenance"]["seed"]) == ("shared", 1, r["seed"])
        assert r["wanda_windows"] == 4
        assert (r["method"] == "icbs") == (r["swaps"] > 0)
    wanda = {(r["target"], r["seed"]): r for r in others if r["method"] == "wanda"}
    assert wanda["50 %", 0]["kl"] != wanda["50 %", 1]["kl"]  # other windows
    magnitude = [r["kl"] for r in others if r["method"] == "magnitude" and r["target"] == "2:4"]
    assert magnitude[0] == magnitude[1]

    text = (tmp_path / "quality.md").read_text()
    rows = [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    assert [row[:3] for row in rows[1:]] == [
        ["dense", "dense", "1"],
        *[[target, method, "2"] for target in ("50 %", "2:4") for method in ("wanda", "magnitude", "icbs")],
    ]
    change = [100 * (magnitude[s] / wanda["2:4", s]["kl"] - 1) for s in (0, 1)]
    assert rows[6][7] == f"+{bench['quality_report'].spread(change, 1)} %"
    for plot in ("sparsity", "time", "course"):
        assert f"](quality-tiny_llama-{plot}.svg)" in text
        assert "<svg" in (tmp_path / f"quality-tiny_llama-{plot}.svg").read_text()
    assert len(json.loads((tmp_path / "quality.json").read_text())["records"]) == 13

    (tmp_path / "quality.md").unlink()
    assert bench["quality"].main(["--table", "--results", str(tmp_path)]) == 0
    assert (tmp_path / "quality.md").read_text() == text
    assert updated == []


@pytest.mark.slow
def test_a_cell_in_a_process_of_its_own(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    setting, _ = bench["quality"].quick_setting(tmp_path)
    cells = bench["quality_cells"].matrix(["tiny:llama"], [], [], [0], setting)
    (record,) = bench["quality_run"].run_cells(cells, tmp_path)
    assert (record["process"], record["method"], "error" in record) == ("its own", "dense", False)
    assert record["peak_memory_bytes"] > 1e7
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
def test_cells_at_once(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    """The figures of one after another, in the order of the cells, whichever was first."""
    cells, run = bench["quality_cells"], bench["quality_run"]
    setting, _ = bench["quality"].quick_setting(tmp_path)
    every = cells.matrix(["tiny:llama"], [], [cells.Target.parse("0.5")], [0, 1], setting)
    alone = run.run_cells(every, tmp_path / "alone", isolated=False)
    at_once = run.run_cells(every, tmp_path / "at-once", jobs=2)
    assert [r["key"] for r in at_once] == [cell.key for cell in every]
    assert {r["jobs"] for r in at_once} == {2}
    for one, other in zip(alone, at_once, strict=True):
        assert one["kl"] == pytest.approx(other["kl"], rel=1e-3, abs=1e-5)


def test_a_wanda_pass_is_scaled(
    bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The statistics of four windows are scaled to all 32; masks cost the same however many there are."""
    clock, now, seen = bench["quality_clock"], 0.0, []
    collect_norms, initial_masks = clock.collect_norms, clock.initial_masks

    def statistics(model: Any, layers: Any, batches: Any) -> Any:
        nonlocal now
        now += 2.0
        seen.append(len(batches))
        return collect_norms(model, layers, batches)

    def masks(*args: Any, **kw: Any) -> Any:
        nonlocal now
        now += 3.0
        return initial_masks(*args, **kw)

    monkeypatch.setattr(clock, "collect_norms", statistics)
    monkeypatch.setattr(clock, "initial_masks", masks)
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now))
    cells = bench["quality_cells"]
    setting, _ = bench["quality"].quick_setting(tmp_path)
    for windows, scale, few in ((32, 8, 4), (3, 1, 3)):
        wanda = cells.Method.parse("wanda"), cells.Target.parse("0.5")
        cell = cells.Cell("tiny:llama", replace(setting, windows=windows), *wanda)
        loaded = bench["quality_models"].load(cell)
        ranges = split_ranges(
            torch.arange(1000) % 64, calibrate=(windows, 8), accept=(1, 8), report=(1, 8), seed=0
        )
        assert clock.wanda_pass(loaded, ranges, cell.recipe()) == (2.0 * scale + 3.0, few)
    assert seen == [4, 3]


def test_what_cannot_be_done_costs_its_own_cells(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    cells, run = bench["quality_cells"], bench["quality_run"]
    setting, _ = bench["quality"].quick_setting(tmp_path)
    methods = [cells.Method.parse("icbs-paper"), cells.Method.parse("magnitude")]
    wanted = [cells.Target.parse("2:4"), cells.Target.parse("3:5")]
    every = cells.matrix(["tiny:llama", "tiny:none"], methods, wanted, [0], setting)
    found = run.run_cells(every, tmp_path, isolated=False)
    told = {(r["model"], r["method"], r["target"]): r.get("refused") or r.get("error") for r in found}
    assert "leave initial.granularity out" in told["tiny:llama", "icbs-paper", "2:4"]
    assert told["tiny:llama", "magnitude", "2:4"] is None
    assert "cannot be cut into groups of 5" in told["tiny:llama", "magnitude", "3:5"]
    assert "tiny models are llama" in told["tiny:none", "dense", "dense"]
    text = bench["quality_report"].markdown(found)
    assert "- icbs-paper at 2:4: " in text
    seen: list[str] = []
    run.run_cells(every, tmp_path, isolated=False, again=True, on_record=lambda r: seen.append(r["key"]))
    assert set(seen) == {r["key"] for r in found if "perplexity" not in r}


def test_tasks_are_caught_up_with(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    cells, run = bench["quality_cells"], bench["quality_run"]
    setting, zeroshot = bench["quality"].quick_setting(tmp_path)
    one, fewer = (replace(zeroshot, tasks=zeroshot.tasks[:1]), replace(zeroshot, limit=2))
    for wanted, runs in ((cells.ZeroShot(), 1), (zeroshot, 2), (one, 2), (cells.ZeroShot(), 2), (fewer, 3)):
        cell = cells.Cell("tiny:llama", setting, zeroshot=wanted)
        (found,) = run.run_cells([cell], tmp_path, isolated=False)
        assert len(records(tmp_path)) == runs
        assert wanted.within(found)
    assert len({r["key"] for r in records(tmp_path)}) == 1
    assert len({r["perplexity"] for r in records(tmp_path)}) == 1
    (kept,) = bench["quality_report"].merged(records(tmp_path), [])
    assert [task["rows"] for task in kept["tasks"]] == [2, 2]


def test_what_is_published_is_not_measured_again(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    quality, published = bench["quality"], tmp_path / "published"
    base = ["--quick", "--method", "magnitude", "--seeds", "1", "--sparsity"]
    assert quality.main([*base, "0.5", "--output", str(tmp_path / "one"), "--results", str(published)]) == 0
    before = records(tmp_path / "one")
    (tmp_path / "one" / "records.jsonl").unlink()
    again = [*base, "0.5", "0.6", "--output", str(tmp_path / "one"), "--results", str(published)]
    assert quality.main([*again, "--keep-published"]) == 0
    after = records(tmp_path / "one")
    assert after[: len(before)] == before
    assert {r["target"] for r in after[len(before) :]} == {"60 %"}


def test_refusals(bench: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench["quality"].main(["--quick", "--method", "nope", "--output", str(tmp_path)]) == 2
    assert bench["quality"].main(["--quick", "--method", "wanda:pattern=2:4", "--output", str(tmp_path)]) == 2
    assert bench["quality"].main(["--quick", "--seeds", "0", "--output", str(tmp_path)]) == 2
    assert "no recipe 'nope'" in capsys.readouterr().err
    for quick, jobs, told in ((["--quick"], "2", "--quick runs in this"), ([], "0", "at least 1")):
        assert bench["quality"].main([*quick, "--jobs", jobs, "--output", str(tmp_path)]) == 2
        assert told in capsys.readouterr().err
    assert bench["quality"].main(["--tasks", "arc"]) == 2
    assert "'arc' is unknown" in capsys.readouterr().err


def test_the_seconds_are_of_pruning_alone(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    cells = bench["quality_cells"]
    setting, _ = bench["quality"].quick_setting(tmp_path)
    every = (
        "calibration.own=4:rows.budget=row:refine.steps=1:refine.windows=2:reconstruct.method=least_squares"
    )
    method = cells.Method.parse(f"all=default:{every}:refit.epochs=1:quantise.bits=4")
    found = bench["quality_run"].run_cell(
        cells.Cell("tiny:llama", setting, method, cells.Target.parse("0.5")), tmp_path
    )
    before = ["own text", "statistics", "allocation", "initial", "rows"]
    assert list(found["seconds_by_phase"]) == [*before, "refine", "reconstruct", "refit", "quantise"]
    assert found["prune_seconds"] == sum(found["seconds_by_phase"].values())
    measures = bench["quality_figures"].measures
    assert all(map(measures, ("dense", "on_masks", "total", "evaluate quantised", "evaluate anything")))
    assert not measures("evaluate")
