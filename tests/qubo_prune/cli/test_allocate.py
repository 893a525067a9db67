"""qubo-prune allocate: the JSON of every method, the table, and rates that prune reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

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
    result = invoke(*world.prune("--allocation", file, "--sparsity", 0.6, "--steps", 0, "--json"))
    assert json.loads(result.stdout)["allocation"]["counts"] == counts


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
    assert "allocation: Input tag 'best'" in refuses(*arguments(world, "best"))
    assert "allocation.steps" in refuses(*arguments(world, "besa", "--set", "steps=-1"))
    assert "'steps' is not a group" in refuses(
        *arguments(world, "besa", "--set", "steps=1", "--set", "steps.x=1")
    )
    assert "there is no folder" in refuses(
        *arguments(world, "uniform", "--output", tmp_path / "none" / "a.yaml")
    )
    assert "at most 0.99" in refuses(*arguments(world, "besa", "--sparsity", 0.999))
