"""qubo-prune prune: the report, every registered solver, exported blocks, recipes and their overrides."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dimod
import pytest
import torch
import yaml

import qubo_solvers
from qubo_prune.mask_file import load_masks
from qubo_prune.masks import density
from qubo_solvers import formats


def test_report_and_folder(invoke: Callable[..., Any], world: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke(*world.prune("--output", out, "--sparsity", 0.6, "--json"))
    report = json.loads(result.stdout)
    assert set(report["perplexity"]) == {"dense", "initial", "refined"}
    assert all(value > 1 for value in report["perplexity"].values())
    assert report["kl"]["refined"] > 0
    assert report["kl"]["initial"] > 0
    assert report["sparsity"] == pytest.approx(0.6, abs=1e-3)
    assert report["pruned_weights"] == round(0.6 * report["total_weights"])
    assert report["density"]["layers"].keys() == load_masks(out).keys()
    assert report["density"]["total"] == density(load_masks(out)).density
    assert report["output"] == str(out)
    assert report["seconds"] > 0
    assert report["peak_memory_bytes"] > 0
    assert report["provenance"]["packages"]["torch"] == torch.__version__
    assert json.loads((out / "report.json").read_text()) == report
    assert "step 2 of 2" in result.stderr
    assert yaml.safe_load((out / "recipe.yaml").read_text()) == report["recipe"]


@pytest.mark.parametrize("solver", qubo_solvers.names())
def test_every_solver_prunes(invoke: Callable[..., Any], world: Any, solver: str) -> None:
    able, reason = qubo_solvers.availability(solver)
    if not able or qubo_solvers.capabilities(solver).configured:
        pytest.skip(reason or "a service, which costs money to ask")
    limit = ["--set", "refine.solver.time_limit=3", "--set", "refine.candidates.max_variables=30"]
    result = invoke(*world.prune("--solver", solver, *limit, "--json", "--eval-windows", 0))
    report = json.loads(result.stdout)
    step = report["curve"][0]
    most = qubo_solvers.capabilities(solver).max_variables
    assert step["swaps_proposed"] > 0
    assert most is None or step["variables"] <= most
    assert report["sparsity"] == 0.5
    assert report["perplexity"] == {"dense": None, "initial": None, "refined": None}


def test_exported_blocks(invoke: Callable[..., Any], world: Any, tmp_path: Path) -> None:
    blocks = tmp_path / "blocks"
    report = json.loads(invoke(*world.prune("--export-blocks", blocks, "--json")).stdout)
    assert report["blocks"] == str(blocks)
    assert [file.name for file in sorted(blocks.glob("*.npz"))] == ["step0000.npz", "step0001.npz"]
    first = report["curve"][0]
    solved = invoke("solve", blocks / "step0000.npz", "--solver", "tabu", "--time-limit", 1, "--json")
    answer = json.loads(solved.stdout)
    assert len(answer["assignment"]) == first["variables"]
    assert answer["energy"] <= first["predicted_change"] + 1e-9
    problem = formats.read(blocks / "step0000.npz")
    assert problem.reference is not None
    assert problem.energy(problem.reference) == pytest.approx(0, abs=1e-9)
    with (blocks / "step0000.cqm").open("rb") as file:
        cqm = dimod.ConstrainedQuadraticModel.from_file(file)
    sample = dict(zip(cqm.variables, answer["assignment"], strict=True))
    assert cqm.check_feasible(sample)
    assert cqm.objective.energy(sample) == pytest.approx(answer["energy"], abs=1e-9)
    known = formats.npz.read_metadata(blocks / "step0000.npz")
    assert known["best_energy"] == pytest.approx(first["predicted_change"])
    assert known["best_energy"] <= known["sorted_energy"] + 1e-9


def test_table(invoke: Callable[..., Any], world: Any) -> None:
    shown = invoke(*world.prune()).stdout
    assert all(word in shown for word in ("dense", "initial", "refined", "50.00%", "not saved"))


def test_only_the_first_mask(invoke: Callable[..., Any], world: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = json.loads(invoke(*world.prune("--steps", 0, "--json", "--output", out)).stdout)
    assert report["stopped"] == "no refinement"
    assert report["kl"]["initial"] == report["kl"]["refined"]
    assert report["perplexity"]["initial"] == report["perplexity"]["refined"]


def test_paper_recipe_reports_the_kl_too(invoke: Callable[..., Any], world: Any) -> None:
    small = ["--set", "refine.candidates.block_size=32", "--set", "refine.chunk=null"]
    report = json.loads(invoke(*world.prune("--recipe", "icbs-paper", *small, "--json")).stdout)
    assert report["recipe"]["objective"] == "cross_entropy"
    assert report["figures"]["dense"] > 0
    assert report["kl"]["initial"] > 0
    assert report["kl"]["refined"] > 0


def test_show_recipe(invoke: Callable[..., Any], tmp_path: Path) -> None:
    shown = invoke("prune", "--recipe", "icbs-paper", "--solver", "tabu", "--set", "seed=7", "--show-recipe")
    recipe = yaml.safe_load(shown.stdout)
    assert (recipe["refine"]["solver"]["name"], recipe["refine"]["solver"]["options"]) == ("tabu", {})
    assert recipe["seed"] == 7
    (tmp_path / "mine.yaml").write_text(shown.stdout)
    again = invoke("prune", "--recipe", tmp_path / "mine.yaml", "--show-recipe")
    assert again.stdout == shown.stdout


def test_sparsegpt_and_reconstruction(invoke: Callable[..., Any], world: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ["--set", "initial.method=sparsegpt", "--set", "reconstruct.method=admm"]
    settings += ["--set", "reconstruct.blend=0.5", "--set", "reconstruct.damping=[1.0, 0.1]"]
    result = invoke(*world.prune("--output", out, "--json", *settings))
    report = json.loads(result.stdout)
    assert list(report["perplexity"]) == ["dense", "initial", "refined", "reconstructed"]
    assert all(value > 1 for value in report["perplexity"].values())
    assert list(report["kl"]) == ["initial", "refined", "reconstructed"]
    assert all(value > 0 for value in report["kl"].values())
    assert len(report["walks"]["sparsegpt"]) == len(report["walks"]["reconstruct"]) == 14
    assert report["recipe"]["reconstruct"]["damping"] == [1.0, 0.1]
    assert report["pruned_weights"] == round(0.5 * report["total_weights"])
    assert "reconstruct: " in result.stderr
    settings = ["--set", "reconstruct.method=least_squares", "--set", "quantise.bits=4"]
    shown = invoke(*world.prune("--steps", 0, *settings)).stdout
    assert all(told in shown for told in ("reconstructed", "quantised", "grids of 4 bits, one for each row"))
    saved = invoke("eval", out, "--text", world.evaluation, "--windows", 2, "--length", 64, "--json")
    assert json.loads(saved.stdout)["perplexity"] == pytest.approx(report["perplexity"]["reconstructed"])


def test_fisher_and_refit(invoke: Callable[..., Any], world: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ["--allocation", "fisher", "--set", "initial.method=fisher", "--set", "refit.epochs=1"]
    result = invoke(*world.prune("--output", out, "--json", *settings))
    report = json.loads(result.stdout)
    assert list(report["perplexity"]) == ["dense", "initial", "refined", "refit"]
    assert report["kl"]["refit"] == report["figures"]["refit"]
    assert report["allocation"]["method"] == "fisher"
    assert report["refits"][-1]["step"] > 0
    assert "refit: " in result.stderr
    shown = invoke(*world.prune("--steps", 0, *settings)).stdout
    assert "refit" in shown
    assert "allocation: fisher" in shown
    saved = invoke("eval", out, "--text", world.evaluation, "--windows", 2, "--length", 64, "--json")
    assert json.loads(saved.stdout)["perplexity"] == pytest.approx(report["perplexity"]["refit"])
