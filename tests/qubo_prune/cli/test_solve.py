"""qubo-prune solve: its JSON, its refusals, and that torch stays out of it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qubo_solvers import CardinalityQubo, formats


@pytest.fixture
def problem() -> CardinalityQubo:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(12, 12))
    return CardinalityQubo.cardinality(matrix + matrix.T, rng.normal(size=12), 5, offset=1.5, name="small")


@pytest.fixture
def file(problem: CardinalityQubo, tmp_path: Path) -> Path:
    formats.write(problem, tmp_path / "small.npz")
    return tmp_path / "small.npz"


@pytest.mark.parametrize("solver", ["exhaustive", "descent", "qubo_solvers.descent:Descent"])
def test_json(invoke: Callable[..., Any], file: Path, problem: CardinalityQubo, solver: str) -> None:
    result = invoke("solve", file, "--solver", solver, "--json", "--time-limit", 5)
    answer = json.loads(result.stdout)
    x = np.array(answer["assignment"])
    assert x.sum() == 5
    assert answer["energy"] == pytest.approx(problem.energy(x))
    assert answer["offset"] == 1.5
    assert answer["feasible"] is True
    assert answer["trace"][-1]["energy"] == answer["energy"]
    assert answer["seconds"] >= answer["trace"][-1]["seconds"]
    assert answer["status"] == ("optimal" if solver == "exhaustive" else "feasible")


def test_output_is_a_start(invoke: Callable[..., Any], file: Path, tmp_path: Path) -> None:
    best = tmp_path / "best.json"
    shown = invoke("solve", file, "--solver", "exhaustive", "--output", best).stdout
    assert "optimal" in shown
    assert "5 of 12" in shown
    result = invoke("solve", file, "--solver", "descent", "--set", "restarts=1", "--initial", best, "--json")
    assert json.loads(result.stdout)["energy"] == json.loads(best.read_text())["energy"]


def test_a_gap_is_shown_as_proven_or_not_at_all(invoke: Callable[..., Any], file: Path) -> None:
    assert "none is proven (--bound" in invoke("solve", file, "--solver", "descent").stdout
    shown = invoke("solve", file, "--solver", "descent", "--bound").stdout
    assert "by spectral" in shown
    assert " %, proven" in shown
    answer = json.loads(invoke("solve", file, "--solver", "exhaustive", "--bound", "--json").stdout)
    assert (answer["gap"], answer["bound_method"]) == (0.0, "exhaustive")


def test_objective_in_the_file_s_sense(invoke: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "maximise.qubo"
    file.write_text("c sense max\np qubo 0 2 2 1\n0 0 3\n1 1 2\n0 1 -4\n")
    answer = json.loads(invoke("solve", file, "--solver", "exhaustive", "--json").stdout)
    assert (answer["objective"], answer["energy"], answer["assignment"]) == (3.0, -3.0, [1, 0])


def test_no_answer_is_json_too(invoke: Callable[..., Any], tmp_path: Path) -> None:
    formats.write(CardinalityQubo.unconstrained(np.eye(40), np.ones(40)), tmp_path / "large.npz")
    result = invoke("solve", tmp_path / "large.npz", "--solver", "exhaustive", "--json")
    assert result.exit_code == 2
    answer = json.loads(result.stdout)
    assert (answer["status"], answer["assignment"], answer["energy"]) == ("unavailable", None, None)
    assert result.stderr.splitlines()[-1].startswith("error: exhaustive: ")


def test_a_subprocess_without_torch(file: Path) -> None:
    code = f"""
import sys
from qubo_prune.cli import app
try:
    app(["solve", {str(file)!r}, "--solver", "exhaustive", "--json"])
finally:
    assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "optimal"


def test_refusals(refuses: Callable[..., str], file: Path, tmp_path: Path) -> None:
    assert "no such problem file" in refuses("solve", tmp_path / "none.npz")
    assert "Did you mean 'descent'" in refuses("solve", file, "--solver", "descend")
    assert "has no option 'swaps'" in refuses("solve", file, "--solver", "descent", "--set", "swaps=1")
    assert "write key=value" in refuses("solve", file, "--set", "restarts")
    assert "'anneal' with restarts='abc': invalid" in refuses("solve", file, "--set", "restarts=abc")
    assert "time_limit must be positive" in refuses("solve", file, "--time-limit", 0)
    assert "no_such_module" in refuses("solve", file, "--solver", "no_such_module:Solver")
    assert "there is no folder" in refuses("solve", file, "--output", tmp_path / "none" / "a.json")
    (tmp_path / "short.json").write_text("[0, 1]")
    assert "initial must have shape (12,)" in refuses("solve", file, "--initial", tmp_path / "short.json")


def test_more_ones_than_a_byte_counts(invoke: Callable[..., Any], tmp_path: Path) -> None:
    formats.write(CardinalityQubo.cardinality(np.eye(400), np.zeros(400), 300), tmp_path / "many.npz")
    shown = invoke("solve", tmp_path / "many.npz", "--solver", "descent")
    assert "ones       300 of 400 variables" in shown.stdout


def test_the_problem_is_not_written_over(refuses: Callable[..., str], file: Path) -> None:
    before = file.read_bytes()
    assert "is what this command reads" in refuses("solve", file, "--output", file)
    assert file.read_bytes() == before


def test_damaged_files(refuses: Callable[..., str], file: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(file.read_bytes()[:200])
    assert "cut.npz: cannot be read" in refuses("solve", tmp_path / "cut.npz")
    (tmp_path / "cut.qubo").write_text("p qubo 0 2 2 1\n0 0 3\n")
    assert "truncated" in refuses("solve", tmp_path / "cut.qubo")
    with np.load(file) as arrays:
        whole = dict(arrays)
    np.savez(tmp_path / "k.npz", **(whole | {"lower": np.array([13]), "upper": np.array([13])}))
    assert "its count cannot lie in [13, 13]" in refuses("solve", tmp_path / "k.npz")
    np.savez(tmp_path / "nan.npz", **(whole | {"linear": np.full(12, np.nan)}))
    assert "NaN or infinite" in refuses("solve", tmp_path / "nan.npz")
