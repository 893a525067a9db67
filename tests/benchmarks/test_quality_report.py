"""What the quality bench makes of its records: figures, tables and plots."""

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qubo_prune.recipe import Recipe

HOST = {"threads": 1, "processor": "x"}


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
    rounded = run | {
        "seconds_by_phase": phases | {"refine": 10.0, "quantise": 6.0, "evaluate quantised": 7.0}
    }
    assert course(rounded) == [(5.0, 0.9), (9.0, 0.8), (14.0, 0.7)]


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
    every = [run | {"setting": dict.fromkeys((*names, "dtype", "device"), str(i))} for i in (1, 2)]
    bench["quality_report"].write_reports(every, tmp_path)
    first, second = (tmp_path / "quality.md").read_text().split("## a/m")[1:]
    assert first.startswith(": 1 x 1 tokens of 1, 1 evaluation windows\n")
    assert "quality-m-time.svg" in first
    assert "-time-2.svg" not in first
    assert "quality-m-time-2.svg" in second
    assert "-time.svg" not in second


def test_images_are_found_from_the_readme(bench: dict[str, ModuleType]) -> None:
    linked = bench["update_readme"]._linked
    assert linked("![a b](plot.svg) [x](y.md)") == "![a b](benchmarks/results/plot.svg) [x](y.md)"
    assert linked("![a](https://x/y.svg)") == "![a](https://x/y.svg)"


def recorded(bench: dict[str, ModuleType], method: str, target: str = "0.5", seed: int = 0) -> dict[str, Any]:
    """The record of a cell, with figures."""
    cells = bench["quality_cells"]
    setting = cells.Setting("c", "t", 32, 512)
    cell = cells.Cell("m", setting, cells.Method.parse(method), cells.Target.parse(target), seed)
    figures = {"perplexity": 2.0, "kl": 0.1, "prune_seconds": 9.0, "wanda_seconds": 1.0}
    from_json: dict[str, Any] = json.loads(json.dumps(cell.described() | figures))
    return from_json | {"peak_memory_bytes": 1, "seconds_by_phase": {"allocation": 0.0}, "provenance": HOST}


def test_rows_of_earlier_settings_are_named(bench: dict[str, ModuleType]) -> None:
    same = [recorded(bench, m, t) for m in ("wanda", "fast", "sparsegpt") for t in ("0.5", "2:4")]
    mine = recorded(bench, "mine=fast:refit.rank=2")
    failed = recorded(bench, "masks") | {"recipe": {"refine": None}}
    del failed["perplexity"]
    text = bench["quality_report"].markdown([*same, mine, failed])
    assert "earlier settings" not in text
    changed = [r | {"recipe": r["recipe"] | {"refit": {"rank": 2}}} for r in same if r["method"] == "fast"]
    changed.append(recorded(bench, "best", "0.7", 1) | {"recipe": {"initial": {"stages": 1, "gone": True}}})
    changed.append(recorded(bench, "icbs-paper") | {"target": "2:4", "sparsity": 0.5})  # refused today
    text = bench["quality_report"].markdown([*same[:2], mine, *changed])
    told = "fast (50 %, 2:4), icbs-paper (2:4), best (70 %)"
    assert f"|\n\nMeasured with earlier settings of the recipe: {told}.\n" in text


def test_own_text_is_told(bench: dict[str, ModuleType]) -> None:
    methods = ("wanda", "fast", "balanced", "best")
    own = Recipe.load("best").calibration.own
    text = bench["quality_report"].markdown([recorded(bench, method) for method in methods])
    beside = "Beside the calibration windows, methods fit on ones that the dense model wrote itself after "
    assert f" 32 of 512. {beside}prompts from them: balanced 32, best {own}. Perplexity: " in text
    other = recorded(bench, "best", "0.7") | {"recipe": {"refit": {"own": 3}, "calibration": {"own": 8}}}
    assert f" best 11 or {own}." in bench["quality_report"].markdown([recorded(bench, "best"), other])
    assert "wrote itself" not in bench["quality_report"].markdown([recorded(bench, "fast")])


def test_the_seconds_of_the_allocation(bench: dict[str, ModuleType]) -> None:
    def rows(*records: dict[str, Any]) -> list[list[str]]:
        lines = bench["quality_report"].markdown(records).splitlines()
        return [line.strip("| ").split(" | ")[-4:] for line in lines if line.startswith("| ")]

    besa = "besa=wanda:allocation.method=besa"
    pair = [
        recorded(bench, besa, seed=seed) | {"seconds_by_phase": {"allocation": seconds}}
        for seed, seconds in ((0, 4.0), (1, 6.0))
    ]
    header, *found = rows(recorded(bench, "wanda"), *pair)
    assert header == ["seconds", "of these allocation", "x Wanda pass", "GiB"]
    assert [row[1] for row in found] == ["–", "5.0 ± 1.4"]
    assert rows(recorded(bench, "wanda"))[0][1:] == ["seconds", "x Wanda pass", "GiB"]


def test_how_the_seconds_were_measured(bench: dict[str, ModuleType]) -> None:
    """Records from before have neither the cells at once nor the windows of their Wanda pass."""
    old, markdown = recorded(bench, "wanda"), bench["quality_report"].markdown
    new = recorded(bench, "fast") | {"jobs": 2, "wanda_windows": 4, "provenance": HOST | {"threads": 2}}
    assert "in the same process; of these" in markdown([old])
    assert "x, threads: 1, " in markdown([old])
    assert "in the same process (timed on 4 of the windows and scaled to all); of these" in markdown([new])
    both = markdown([old, new])
    assert "(timed on all windows or on 4 of the windows and scaled to all)" in both
    assert "x, threads: 1 or 2, up to 2 cells at once, " in both
    assert "at once" not in markdown([new | {"jobs": 1}])
