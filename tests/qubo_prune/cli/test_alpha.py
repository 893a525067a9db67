"""qubo-prune alpha: the table, its files and picture, what it refuses; and prune with an allocation."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qubo_prune.report import spectra


def test_table(invoke: Callable[..., Any], world: Any) -> None:
    shown = invoke("alpha", world.model, "--sparsity", 0.6).stdout
    assert "model.layers.* of" in shown
    assert "to prune (60." in shown
    assert "14 matrices" in shown
    wide = invoke("alpha", world.model, "--by", "matrix", "--set", "per=matrix").stdout
    assert "1.mlp.up_proj" in wide
    assert "patterns" not in wide
    mixed = invoke("alpha", world.model, "--set", "group=8", "--sparsity", 0.7).stdout
    assert "patterns: 1:8, " in mixed
    assert "2,688 of 3,840 weights to prune (70.0000%)" in mixed


def test_files_agree_and_can_be_given(invoke: Callable[..., Any], world: Any, tmp_path: Path) -> None:
    found, table, picture = (tmp_path / name for name in ("a.json", "a.csv", "a.png"))
    files = ["--output", found, "--output", table, "--plot", picture]
    options = ["--sparsity", 0.6, "--set", "per=mixed", "--set", "allocation.epsilon=0.4"]
    result = invoke("alpha", world.model, *options, *files, "--json")
    report = json.loads(result.stdout)
    assert json.loads(found.read_text()) == report
    assert report["pruned_weights"] == int(0.6 * report["total_weights"] + 0.5)
    assert report["settings"]["epsilon"] == 0.4
    assert report["provenance"]["packages"]["torch"]
    with table.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["layer"]: int(row["pruned"]) for row in rows} == report["counts"]
    assert all(float(row["alpha"]) == report["seen"][row["layer"]]["alpha"] for row in rows)
    assert picture.read_bytes().startswith(b"\x89PNG")
    small = ["--steps", 0, "--eval-windows", 0, "--sparsity", 0.6, "--json"]
    pruned = json.loads(invoke(*world.prune("--allocation", found, *small)).stdout)
    assert pruned["allocation"]["counts"] == report["counts"]
    assert pruned["allocation"]["method"] == "given"
    again = [
        "--allocation",
        "alphapruning",
        "--set",
        "allocation.per=mixed",
        "--set",
        "allocation.epsilon=0.4",
    ]
    direct = json.loads(invoke(*world.prune(*again, *small)).stdout)
    assert direct["allocation"]["counts"] == report["counts"]
    assert direct["allocation"]["seen"] == report["seen"]


def test_another_allocation_than_the_recipes_drops_its_options(
    invoke: Callable[..., Any], tmp_path: Path
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("allocation: {method: alphapruning, epsilon: 0.1}")
    assert "epsilon: 0.1" in invoke("prune", "--recipe", mine, "--show-recipe").stdout
    kept = invoke("prune", "--recipe", mine, "--allocation", "alphapruning", "--show-recipe").stdout
    assert "epsilon: 0.1" in kept
    other = invoke("prune", "--recipe", mine, "--allocation", "uniform", "--show-recipe").stdout
    assert "epsilon:" not in other


def test_help_has_an_example(invoke: Callable[..., Any]) -> None:
    assert "--allocation alphapruning" in invoke("prune", "--help").stdout
    assert "qubo-prune alpha" in invoke("alpha", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "row"], "write block or matrix"),
        (["--output", "a.txt"], "must end in .json or .csv"),
        (["--output", "/no/such/folder/a.json"], "there is no folder"),
        (["--plot", "a.jpeg"], "must end in .png, .svg, .pdf"),
        (["--set", "epsilon=3"], "allocation.epsilon"),
        (["--set", "method=uniform"], "this command is about alphapruning"),
        (["--set", "group=5"], "which 5 does not divide"),
        (["--set", "search=[0.1, 0.2]"], "run `qubo-prune allocate MODEL --method alphapruning"),
        (["--sparsity", "0.999"], "at most 0.99 of each layer"),
        (["--include", "*.nothing"], "matches no linear layer"),
    ],
)
def test_refusals(refuses: Callable[..., str], world: Any, arguments: list[str], message: str) -> None:
    assert message in refuses("alpha", world.model, *arguments)


def test_allocation_refusals(refuses: Callable[..., str], world: Any, tmp_path: Path) -> None:
    assert "none of uniform, alphapruning" in refuses(*world.prune("--allocation", "alfa"))
    (tmp_path / "rates.yaml").write_text("'*.nothing': 0.5")
    assert "matches none" in refuses(*world.prune("--allocation", tmp_path / "rates.yaml"))


def test_without_matplotlib(
    refuses: Callable[..., str], world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectra, "find_spec", lambda name: None)
    message = refuses("alpha", world.model, "--plot", tmp_path / "a.png")
    assert "pip install 'qubo-prune[plot]'" in message
