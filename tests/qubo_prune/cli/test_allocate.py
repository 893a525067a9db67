"""qubo-prune allocate: the JSON of every method, the table, and rates that prune reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file

from qubo_prune.allocation_file import read
from qubo_prune.mask_file import load_masks

Invoke = Callable[..., Any]


def arguments(world: Any, method: str, *more: object) -> list[str]:
    small = ["--calibration", world.calibration, "--windows", "4", "--length", "32"]
    return ["allocate", world.model, "--method", method, *small, *map(str, more)]


@pytest.mark.parametrize(
    ("method", "metric", "settings"),
    [
        ("uniform", None, []),
        ("alphapruning", "alpha", ["epsilon=0.2"]),
        ("owl", "outliers", ["allocation.outlier=3"]),
        ("besa", "learned_rate", ["steps=4", "between=owl", "quantise.bits=3"]),
        ("given", None, ["rates={'*.mlp.*': 0.6}"]),
    ],
)
def test_json(invoke: Invoke, world: Any, method: str, metric: str | None, settings: list[str]) -> None:
    chosen = [part for setting in settings for part in ("--set", setting)]
    report = json.loads(invoke(*arguments(world, method, "--json", *chosen)).stdout)
    assert (report["method"], report["target"], report["metric"]) == (method, 0.5, metric)
    assert sum(row["pruned"] for row in report["layers"].values()) == report["pruned_weights"]
    assert report["pruned_weights"] * 2 == report["total_weights"]
    for row in report["layers"].values():
        assert row["rate"] == row["pruned"] / row["weights"]
        assert (row["metric"] is None) == (metric is None)
    if method == "besa":
        assert report["quantisation"] == {"bits": 3, "group": None}
        assert [row["block"] for row in report["blocks"]] == ["model.layers.0", "model.layers.1"]


def test_prune_reads_the_rates(invoke: Invoke, world: Any, tmp_path: Path) -> None:
    file = tmp_path / "rates.yaml"
    shown = invoke(*arguments(world, "besa", "--set", "steps=8", "--output", file, "--sparsity", 0.6))
    assert all(word in shown.stdout for word in ("learned_rate", "relative error", "60.0000%", "written"))
    again = invoke(*arguments(world, str(file), "--sparsity", 0.6, "--json"))
    counts = {name: row["pruned"] for name, row in json.loads(again.stdout)["layers"].items()}
    assert yaml.safe_load(file.read_text())["rates"].keys() == counts.keys()
    for share in (("--sparsity", 0.6), ()):  # the file has its sparsity too
        result = invoke(*world.prune("--allocation", file, *share, "--steps", 0, "--json"))
        assert json.loads(result.stdout)["allocation"]["counts"] == counts
    again = invoke(*arguments(world, str(file), "--json"))
    assert json.loads(again.stdout)["target"] == 0.6


@pytest.mark.parametrize("setting", ["per=row", "quantise.bits=3"])
def test_rows_and_quantised_weights_go_through_a_file(
    invoke: Invoke, world: Any, tmp_path: Path, setting: str
) -> None:
    file, plain, out = tmp_path / "rates.safetensors", tmp_path / "rates.yaml", tmp_path / "out"
    rule = ["--set", "steps=4", "--set", setting, "--sparsity", 0.6]
    assert str(file) in invoke(*arguments(world, "besa", *rule, "--output", file)).stdout
    assert "NAME.safetensors" in invoke(*arguments(world, "besa", *rule, "--output", plain)).stderr
    found = read(file)
    report = json.loads(invoke(*arguments(world, str(file), "--json")).stdout)
    assert (report["method"], report["target"], report["metric"]) == ("besa", 0.6, "learned_rate")
    small = ["--steps", 0, "--eval-windows", 0, "--json"]
    invoke(*world.prune("--allocation", file, *small, "--output", out))
    masks = load_masks(out)
    assert {name: int((~mask).sum()) for name, mask in masks.items()} == found.counts
    for name, rows in found.rows.items():
        assert (~masks[name]).sum(1).tolist() == rows.tolist()
    weights = load_file(out / "model.safetensors")
    for name, values in found.values.items():
        kept = masks[name]
        assert weights[f"{name}.weight"][kept].tolist() == values[kept].tolist()
    assert found.rows or found.values


def test_patterns_go_through_files(invoke: Invoke, world: Any, tmp_path: Path) -> None:
    file, spectra, out = tmp_path / "rates.yaml", tmp_path / "alpha.json", tmp_path / "out"
    rule = ["--set", "group=8", "--set", "per=matrix", "--sparsity", 0.6]
    shown = invoke(*arguments(world, "alphapruning", "--output", file, *rule)).stdout
    report = json.loads(invoke(*arguments(world, "alphapruning", "--json", *rule)).stdout)
    patterns = {name: row["pattern"] for name, row in report["layers"].items()}
    assert len(set(patterns.values())) > 2
    assert all(word in shown for word in ("pattern", *patterns.values()))
    assert yaml.safe_load(file.read_text())["group"] == 8
    invoke("alpha", world.model, "--output", spectra, *rule)
    again = json.loads(invoke(*arguments(world, str(file), "--sparsity", 0.6, "--json")).stdout)
    assert {name: row["pattern"] for name, row in again["layers"].items()} == patterns
    for source in (file, spectra):
        small = ["--sparsity", 0.6, "--steps", 0, "--eval-windows", 0, "--json"]
        folder = out / source.stem
        result = json.loads(invoke(*world.prune("--allocation", source, *small, "--output", folder)).stdout)
        assert result["allocation"]["pattern"] == patterns
        masks = load_masks(folder)
        for name, mask in masks.items():
            assert set(mask.reshape(-1, 8).sum(1).tolist()) == {int(patterns[name][0])}


def test_patterns_of_a_file_refuse_what_patterns_refuse(
    refuses: Callable[..., str], world: Any, tmp_path: Path
) -> None:
    (tmp_path / "rates.yaml").write_text("{group: 8, rates: {'*': 0.5}}")
    file = ["--allocation", tmp_path / "rates.yaml"]
    wanda = ["--set", "refine.scope=one_layer", "--set", "refine.candidates.criterion=wanda"]
    assert "chosen by gain" in refuses(*world.prune(*file, *wanda))
    assert "leave initial.granularity out" in refuses(
        *world.prune(*file, "--set", "initial.granularity=layer")
    )
    assert "is 0.6: set sparsity to 0.5" in refuses(*world.prune(*file, "--steps", 0, "--sparsity", 0.6))
    (tmp_path / "rates.yaml").write_text("{group: 8, rates: {'*.layers.0.*': 0.4, '*': 0.6}}")
    assert "layer 'model.layers.0." in refuses(*world.prune(*file, "--steps", 0))


@pytest.mark.parametrize("method", ["alphapruning", "owl", "fisher"])
def test_a_search_takes_what_prune_takes(invoke: Invoke, world: Any, method: str, tmp_path: Path) -> None:
    text = tmp_path / "long.txt"  # the report range is left out, as prune leaves it
    text.write_text(Path(world.calibration).read_text() * 4)
    found = ["--calibration", text, "--sparsity", 0.6, "--json"]
    search, windows = "search=[0.3, 0.0, 0.1]", ["--windows", 6, "--accept-windows", 4]
    report = json.loads(invoke(*arguments(world, method, *windows, "--set", search, *found)).stdout)
    told = report["search"]
    assert [row["value"] for row in told["losses"]] == [0.3, 0.0, 0.1]
    assert told["taken"] == min(told["losses"], key=lambda row: row["loss"])["value"]
    ranges = ["windows=6", "fisher_windows=2", "report_windows=32", "report_length=128"]
    same = [f"allocation.{search}", "refine.batch=2", *(f"calibration.{part}" for part in ranges)]
    chosen = [part for setting in same for part in ("--set", setting)]
    pruned = json.loads(
        invoke(
            *world.prune("--allocation", method, "--steps", 0, "--eval-windows", 0, *chosen, *found)
        ).stdout
    )["allocation"]
    assert {name: row["pruned"] for name, row in report["layers"].items()} == pruned["counts"]
    assert told == pruned["search"]
    shown = invoke(*arguments(world, method, *windows, "--set", search, *found[:-1])).stdout
    assert all(word in shown for word in (told["setting"], "KL of the first mask", "taken"))
    assert all(f"{row['loss']:.5f}" in shown for row in told["losses"])


def test_prune_by_besa(invoke: Invoke, world: Any) -> None:
    report = json.loads(
        invoke(*world.prune("--allocation", "besa", "--set", "allocation.steps=4", "--json")).stdout
    )
    assert report["allocation"]["method"] == "besa"
    assert report["density"]["total"] == 0.5


def test_prune_says_what_grids_weights_are_on(invoke: Invoke, world: Any) -> None:
    grids = ["--set", "allocation.quantise={bits: 3, group: 8}", "--set", "allocation.steps=2"]
    shown = invoke(*world.prune("--allocation", "besa", *grids, "--steps", 0)).stdout
    assert "weights are on grids of 3 bits, one for each 8 inputs, saved as floats" in shown


def test_refusals(refuses: Callable[..., str], world: Any, tmp_path: Path) -> None:
    assert "--method 'best': no such file, and none of uniform" in refuses(*arguments(world, "best"))
    assert "allocation.steps" in refuses(*arguments(world, "besa", "--set", "steps=-1"))
    assert "'steps' is not a group" in refuses(
        *arguments(world, "besa", "--set", "steps=1", "--set", "steps.x=1")
    )
    assert "there is no folder" in refuses(
        *arguments(world, "uniform", "--output", tmp_path / "none" / "a.yaml")
    )
    assert "nothing can be written to its folder" in refuses(
        *arguments(world, "uniform", "--output", "/proc/rates.yaml")
    )
    assert "at most 0.99" in refuses(*arguments(world, "besa", "--sparsity", 0.999))
    search = ["--set", "search=[0.1, 0.2]"]
    assert "too little calibration text" in refuses(*arguments(world, "owl", *search))
    assert "sparsity: Input should be greater than 0" in refuses(
        *arguments(world, "owl", *search, "--sparsity", 0)
    )
    assert "no whole number of 8 weights" in refuses(
        *arguments(world, "alphapruning", "--set", "group=8", "--set", "floor=0.6", "--set", "ceiling=0.62")
    )


def test_names_and_shorthands(
    invoke: Invoke, world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    invoke(*arguments(world, "uniform", "--output", "besa", "--sparsity", 0.7))
    few = ("--set", "steps=2", "--json")
    report = json.loads(invoke(*arguments(world, "besa", *few)).stdout)
    assert (report["method"], report["target"]) == ("besa", 0.5)
    report = json.loads(invoke(*arguments(world, "./besa", "--json")).stdout)
    assert (report["method"], report["target"]) == ("given", 0.7)
    for settings in (["between=alphapruning", "between.epsilon=0.1"], ["between.epsilon=0.1", "between=owl"]):
        chosen = [part for setting in settings for part in ("--set", setting)]
        if "owl" in settings[1]:
            chosen[1] = "between.spread=0.1"
        between = json.loads(invoke(*arguments(world, "besa", *few, *chosen)).stdout)["settings"]["between"]
        assert between.get("epsilon", between.get("spread")) == 0.1
    invoke(*arguments(world, "uniform", "--output", "rates.json"))
    assert json.loads(Path("rates.json").read_text())["layers"] == 14
    assert sorted(path.name for path in tmp_path.iterdir()) == ["besa", "rates.json"]


def test_prune_takes_rates_by_settings(invoke: Invoke) -> None:
    rates = ("--allocation", "given", "--set", "allocation.rates={'*': 0.5}")
    shown = invoke("prune", *rates, "--show-recipe").stdout
    assert yaml.safe_load(shown)["allocation"]["rates"] == {"*": 0.5}
