"""The quality bench on a tiny model: cells, tables and plots; stopped and gone on with, refused, failed."""

import importlib
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qubo_prune.errors import InputError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PARTS = ("cells", "figures", "plots", "report", "run")
NAMES = ("quality", *(f"quality_{part}" for part in PARTS), "update_readme")


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """The bench's modules by name, imported as the script imports them."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    yield {name: importlib.import_module(name) for name in NAMES}
    for name in NAMES:
        sys.modules.pop(name, None)


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
        assert (r["process"], r["provenance"]["seed"]) == ("shared", r["seed"])
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

    updated: list[Any] = []
    monkeypatch.setattr(bench["update_readme"], "main", lambda arguments: updated.append(arguments) or 0)
    (tmp_path / "quality.md").unlink()
    assert bench["quality"].main(["--table", "--results", str(tmp_path)]) == 0
    assert (tmp_path / "quality.md").read_text() == text
    assert updated == [[]]


@pytest.mark.slow
def test_a_cell_in_a_process_of_its_own(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    setting, _ = bench["quality"].quick_setting(tmp_path)
    cells = bench["quality_cells"].matrix(["tiny:llama"], [], [], [0], setting)
    (record,) = bench["quality_run"].run_cells(cells, tmp_path)
    assert (record["process"], record["method"], "error" in record) == ("its own", "dense", False)
    assert record["peak_memory_bytes"] > 1e7


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


def test_methods_and_targets(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    cells = bench["quality_cells"]
    file = tmp_path / "mine.yaml"
    file.write_text("initial: {method: magnitude}\nrefine: null\n")
    for text, label, method, refined in (
        ("wanda", "wanda", "wanda", False),
        ("default", "default", "wanda", True),
        ("a=default:refine.steps=3:seed=9", "a", "wanda", True),
        ("default:refine.steps=3", "default (refine.steps=3)", "wanda", True),
        (str(file), "mine", "magnitude", False),
    ):
        parsed = cells.Method.parse(text)
        setting = cells.Setting("c", "t", 8, 16)
        recipe = cells.Cell("m", setting, parsed, cells.Target.parse("0.75"), 4).recipe()
        assert (parsed.label, recipe.initial.method, recipe.refine is not None) == (label, method, refined)
        assert (recipe.sparsity, recipe.seed, recipe.calibration.windows) == (0.75, 4, 8)
    for wrong in ("nope", "default:refine.stepps=3", "default:steps"):
        with pytest.raises(InputError):
            cells.Method.parse(wrong)
    assert cells.Target.parse("1:4") == cells.Target(0.75, "1:4")
    for wrong in ("0", "1", "half", "4:2", "nan"):
        with pytest.raises(InputError):
            cells.Target.parse(wrong)
    with pytest.raises(InputError, match="a label of its own"):
        cells.matrix(["m"], [cells.Method.parse("wanda")] * 2, [], [0], setting)


def test_plans(bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quality, ran = bench["quality"], []
    monkeypatch.setattr(quality, "run_cells", lambda cells, *args, **kw: ran.extend(cells) or [])
    monkeypatch.setattr(quality, "_report", lambda records, folder: 0)
    text = tmp_path / "a.txt"
    text.write_text("a b c")
    common = {"windows": 4, "seeds": 1, "calibration": str(text), "text": str(text)}
    runs = [{"sparsity": [0.5, "2:4"], "method": ["wanda"]}, {"sparsity": [0.5], "method": ["x=fast:seed=1"]}]
    plan = tmp_path / "plan.yaml"
    plan.write_text(json.dumps({"common": common, "runs": runs}))
    assert quality.main(["--plan", str(plan), "--output", str(tmp_path)]) == 0
    told = [(c.setting.windows, c.method and c.method.label, c.target and c.target.label) for c in ran]
    assert told == [(4, None, None), (4, "wanda", "50 %"), (4, "wanda", "2:4"), (4, "x", "50 %")]
    for given in (["--quick"], ["--seeds", "2"]):
        assert quality.main(["--plan", str(plan), "--output", str(tmp_path), *given]) == 2
    plan.write_text("common:\nruns: []")
    assert quality.planned(plan) == []
    for wrong in (
        "runs: 1",
        "[",
        "common: 1\nruns: []",
        "runs: [{again: true}]",
        "runs: [{sparsity: [2.0]}]",
    ):
        plan.write_text(wrong)
        assert quality.main(["--plan", str(plan), "--output", str(tmp_path)]) == 2
    for name in ("quality", "allocations", "starts"):
        for options in quality.planned(BENCHMARKS / f"{name}.yaml"):
            for method in options.method:
                for target in options.sparsity:
                    made = bench["quality_cells"].Method.parse(method)
                    cell = bench["quality_cells"].Target.parse(target)
                    made.recipe({"sparsity": cell.sparsity, "pattern": cell.pattern})


def test_keys_change_with_what_matters(bench: dict[str, ModuleType]) -> None:
    cells = bench["quality_cells"]

    def key(method: str = "default", target: str = "0.5", seed: int = 0, windows: int = 8) -> str:
        setting = cells.Setting("c", "t", windows, 16)
        return cells.Cell("m", setting, cells.Method.parse(method), cells.Target.parse(target), seed).key

    different = [key(), key("wanda"), key("default:refine.steps=3")]
    different += [key(target="2:4"), key(seed=1), key(windows=9)]
    different += [key(f"a=wanda:allocation.method={name}") for name in ("alphapruning", "owl", "besa")]
    between = "a=wanda:allocation.method=besa:allocation.between.method="
    different += [key(between + name) for name in ("alphapruning", "owl")]
    assert len(set(different)) == len(different)
    assert key() == key()


def test_figures(bench: dict[str, ModuleType]) -> None:
    report = bench["quality_report"]
    assert report.spread([1.0, 3.0], 2) == "2.00 ± 1.41"
    assert [report.spread(values, 1) for values in ([2.5], [], [math.inf, 1.0])] == ["2.5", "–", "inf"]
    assert report.spread([1234567.0], 2) == "1.23e+06"
    old = {"model": "m", "setting": {}, "method": "a", "target": "x", "seed": 0}
    new, other = old | {"kl": 1.0}, old | {"seed": 1}
    assert report.merged([old, other], [new]) == [new, other]
    good, bad = new | {"perplexity": 2.0}, new | {"error": "no"}
    assert report.merged([good], [bad]) == report.merged([bad], [good]) == [good]


def test_the_course_of_a_run(bench: dict[str, ModuleType]) -> None:
    course = bench["quality_plots"].course
    phases = {"statistics": 3.0, "initial": 2.0, "refine": 10.0, "refit": 8.0}
    figures = {"accept_initial": 0.9, "accept_refined": 0.7}
    run = {"seconds_by_phase": phases, "figures": figures, "curve": [[4.0, 0.8], [9.0, 0.7]]}
    assert course(run) == [(5.0, 0.9), (9.0, 0.8), (14.0, 0.7)]
    assert course(run | {"refits": [[6.0, 0.5]]})[3:] == [(21.0, 0.5)]
    phases["refine"] = 0.0
    alone = {"seconds_by_phase": phases, "figures": {"accept_initial": None, "accept_refined": 0.7}}
    assert course(alone | {"curve": [], "refits": [[6.0, 0.5], [8.0, None]]}) == [(5.0, 0.7), (11.0, 0.5)]
    assert course({}) == []


def test_the_gap_that_is_closed(bench: dict[str, ModuleType]) -> None:
    wanda = {("x", seed): {"perplexity": 40.0} for seed in (0, 1)}
    runs = [{"target": "x", "seed": 0, "perplexity": 20.0}, {"target": "x", "seed": 1, "perplexity": 40.0}]
    closed = bench["quality_report"]._closed
    assert closed(runs[:1], wanda, 10.0) == "50.0 %"
    assert closed(runs, wanda, 10.0) == "25.0 ± 35.4 %"
    assert closed(runs, wanda, None) == closed(runs, {}, 10.0) == closed(runs, wanda, 50.0) == "–"


def test_each_section_has_its_plots(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = {
        "model": "a/m", "method": "wanda", "target": "50 %", "sparsity": 0.5, "seed": 0, "perplexity": 2.0,
        "kl": 0.1, "prune_seconds": 1.0, "wanda_seconds": 1.0, "peak_memory_bytes": 1,
        "provenance": {"threads": 1, "processor": "x"},
    }  # fmt: skip
    names = ("calibration", "windows", "length", "report_windows", "text", "eval_windows", "eval_length")
    every = [run | {"setting": dict.fromkeys((*names, "dtype", "device"), i)} for i in (1, 2)]
    bench["quality_report"].write_reports(every, tmp_path)
    first, second = (tmp_path / "quality.md").read_text().split("## a/m")[1:]
    assert "quality-m-time.svg" in first
    assert "-time-2.svg" not in first
    assert "quality-m-time-2.svg" in second
    assert "-time.svg" not in second


def test_images_are_found_from_the_readme(bench: dict[str, ModuleType]) -> None:
    linked = bench["update_readme"]._linked
    assert linked("![a b](plot.svg) [x](y.md)") == "![a b](benchmarks/results/plot.svg) [x](y.md)"
    assert linked("![a](https://x/y.svg)") == "![a](https://x/y.svg)"


def test_refusals(bench: dict[str, ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench["quality"].main(["--quick", "--method", "nope", "--output", str(tmp_path)]) == 2
    assert "no recipe 'nope'" in capsys.readouterr().err
    assert bench["quality"].main(["--tasks", "arc"]) == 2
    assert "'arc' is unknown" in capsys.readouterr().err
