"""What the quality bench runs: methods, targets, plans, and what tells one cell from another."""

import itertools
import json
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qubo_prune.errors import InputError

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


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


def cells_of(bench: dict[str, ModuleType], options: Namespace) -> list[Any]:
    """The cells of a run of a plan, on texts that are not read."""
    cells = bench["quality_cells"]
    names = ("windows", "length", "accept_windows", "report_windows", "eval_windows", "eval_length", "device")
    found: list[Any] = cells.matrix(
        ["m"],
        [cells.Method.parse(text) for text in options.method],
        [cells.Target.parse(text) for text in options.sparsity],
        range(options.seeds),
        cells.Setting("c", "t", **{name: getattr(options, name) for name in names}),
        cells.ZeroShot(tuple(filter(None, options.tasks.split(","))), options.limit),
    )
    return found


def test_every_plan_can_run(bench: dict[str, ModuleType]) -> None:
    """Each cell has a valid recipe, and a label says the same everywhere: plans share their tables."""
    plans = {path.stem: bench["quality"].planned(path) for path in BENCHMARKS.glob("*.yaml")}
    assert {"quality", "gpu", "allocations", "starts"} <= set(plans)
    told: dict[str, Any] = {}
    for options in itertools.chain.from_iterable(plans.values()):
        for cell in cells_of(bench, options):
            if cell.method is not None:
                assert cell.recipe().sparsity == cell.target.sparsity
                method = (cell.method.source, cell.method.settings)
                assert told.setdefault(cell.method.label, method) == method
    assert {options.device for options in plans["gpu"]} == {"cuda"}


def test_a_plan_runs_no_cell_twice(
    bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seed 0 of a run with more seeds is that of the others; the first run already has the tasks."""
    run, ran = bench["quality_run"], []

    def record(cell: Any, folder: Path) -> dict[str, Any]:
        ran.append(cell)
        had = {"tasks": list(cell.zeroshot.tasks), "limit": cell.zeroshot.limit}
        return {"key": cell.key, "perplexity": 2.0, "zeroshot": had}

    monkeypatch.setattr(run, "run_cell", record)
    for options in bench["quality"].planned(BENCHMARKS / "quality.yaml"):
        run.run_cells(cells_of(bench, options), tmp_path, isolated=False)
    assert len({cell.key for cell in ran}) == len(ran)
    seeds: dict[tuple[str, str], set[int]] = {}
    for cell in ran[1:]:
        seeds.setdefault((cell.method.label, cell.target.label), set()).add(cell.seed)
    assert {name for name, found in seeds.items() if found == {0, 1, 2}} == {
        (name, "50 %") for name in ("wanda", "sparsegpt", "fast", "balanced", "best")
    }
    assert all(0 in found for found in seeds.values())


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_end_of_a_plan_rewrites_the_readme(
    bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool
) -> None:
    """But not where the results go to another folder than benchmarks/results."""
    quality, updated = bench["quality"], []
    results, output, text = tmp_path / "results", tmp_path / "runs", tmp_path / "a.txt"
    monkeypatch.setattr(bench["update_readme"], "main", lambda arguments: updated.append(arguments) or 0)
    monkeypatch.setattr(quality, "RESULTS", results)
    text.write_text("a b c")

    def run_cells(cells: Any, folder: Path, **kw: Any) -> None:
        folder.mkdir()
        figures = {"perplexity": 2.0, "kl": 0.0, "peak_memory_bytes": 1}
        lines = [json.dumps(cell.described() | {"key": cell.key} | figures) for cell in cells]
        (folder / "records.jsonl").write_text("\n".join(lines) + "\n")

    monkeypatch.setattr(quality, "run_cells", run_cells)
    plan = tmp_path / "plan.yaml"
    common = {"calibration": str(text), "text": str(text), "seeds": 1, "sparsity": [0.5]}
    plan.write_text(json.dumps({"common": common, "runs": [{"method": ["wanda"]}]}))
    folder = ["--results", str(tmp_path / "others")] if elsewhere else []
    assert quality.main(["--plan", str(plan), "--output", str(output), *folder]) == 0
    assert (tmp_path / ("others" if elsewhere else "results") / "quality.md").is_file()
    assert updated == ([] if elsewhere else [[]])
    assert quality.main(["--table", *folder]) == 0
    assert updated == ([] if elsewhere else [[], []])
