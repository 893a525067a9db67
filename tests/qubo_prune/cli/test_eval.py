"""qubo-prune eval: perplexity, KL, density by masks or by weights, and masks that do not fit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qubo_prune.calibration import tokenise
from qubo_prune.evaluate import perplexity
from qubo_prune.mask_file import load_masks
from qubo_prune.models import load_model
from qubo_prune.saving import save_model
from qubo_prune.testing import tiny_llama
from qubo_prune.zeroshot import Subset, run_tasks


@pytest.fixture
def pruned(invoke: Callable[..., Any], world: Any, tmp_path: Path) -> Path:
    invoke(*world.prune("--output", tmp_path / "pruned", "--steps", 0))
    return tmp_path / "pruned"


def test_json(invoke: Callable[..., Any], world: Any, pruned: Path, tmp_path: Path) -> None:
    sizes = ["--text", world.evaluation, "--windows", 3, "--length", 64]
    file = tmp_path / "figures.json"
    result = invoke("eval", pruned, *sizes, "--dense", world.model, "--output", file, "--json")
    report = json.loads(result.stdout)
    loaded = load_model(pruned)
    tokens = tokenise(loaded.tokenizer, Path(world.evaluation).read_text())
    expected = perplexity(loaded.model, tokens, length=64, windows=3)
    assert report["perplexity"] == pytest.approx(expected.perplexity)
    assert (report["windows"], report["length"], report["stride"], report["tokens"]) == (3, 64, 64, 189)
    assert report["kl"] > 0
    assert report["density"]["counted"] == "masks"
    assert report["density"]["total"] == pytest.approx(0.5, abs=1e-3)
    assert set(report["density"]["layers"]) == set(load_masks(pruned))
    assert report["output"] == str(file)
    assert json.loads(file.read_text()) == report
    assert report["seconds"] > 0
    assert report["peak_memory_bytes"] > 0


def test_dense_model(invoke: Callable[..., Any], world: Any) -> None:
    sizes = ["--text", world.evaluation, "--windows", 2, "--length", 64]
    result = invoke("eval", world.model, *sizes, "--dense", world.model)
    assert "non-zero weights" in result.stdout
    assert "100.00%" in result.stdout
    assert "KL to dense  0.0000" in result.stdout


def test_masks_of_another_model(refuses: Callable[..., str], world: Any, pruned: Path) -> None:
    message = refuses("eval", world.model, "--text", world.evaluation, "--masks", pruned)
    assert "pruned in the mask but not zero" in message


def test_no_masks_there(refuses: Callable[..., str], world: Any) -> None:
    assert "no mask file" in refuses("eval", world.model, "--text", world.evaluation, "--masks", world.model)


def test_dense_model_of_other_tokens(refuses: Callable[..., str], world: Any, tmp_path: Path) -> None:
    save_model(tiny_llama(vocab_size=300), None, {}, tmp_path / "other")
    sizes = ["--text", world.evaluation, "--windows", 1, "--length", 64]
    assert "not the same model" in refuses("eval", world.model, *sizes, "--dense", tmp_path / "other")


def test_a_dense_model_that_is_not_there(
    refuses: Callable[..., str], world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before the model is loaded and measured."""

    def load(*_: Any, **__: Any) -> None:
        pytest.fail("loaded a model first")

    monkeypatch.setattr("qubo_prune.models.load_model", load)
    assert "nothere" in refuses("eval", world.model, "--dense", tmp_path / "nothere")
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert str(tmp_path) in refuses("eval", world.model, "--dense", tmp_path)


def test_tasks(invoke: Callable[..., Any], world: Any, tmp_path: Path) -> None:
    passages = ["one two three", "so it goes", "the cat sat", "a b c"]
    (tmp_path / "l.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in passages))
    questions = [{"goal": text, "sol1": text, "sol2": "no", "label": 1} for text in passages]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    names = f"lambada:{tmp_path / 'l.jsonl'}, piqa:{tmp_path / 'p.jsonl'}"
    asked = ["eval", world.model, "--tasks", names, "--windows", 0, "--limit", 3]
    result = invoke(*asked, "--json")
    report = json.loads(result.stdout)
    loaded = load_model(world.model)
    each = [name.strip() for name in names.split(",")]
    expected = run_tasks(each, loaded.model, loaded.tokenizer, subset=Subset(3))
    for found, wanted in zip(report["tasks"], expected, strict=True):
        assert {**found, "seconds": 0} == {**wanted.to_dict(), "seconds": 0}
    assert [task["chosen"] for task in report["tasks"]] == ["the first 3 of 4 rows"] * 2
    assert (report["perplexity"], report["text"], report["windows"], report["tokens"]) == (None, None, 0, 0)
    assert "piqa" in result.stderr
    shown = invoke(*asked, "--sample-seed", 1).stdout
    assert "drawn with seed 1, 3 of 4 rows" in shown
    assert "acc_norm" in shown
    assert "perplexity   " not in shown.split("lambada")[0]


def test_tasks_are_refused_before_the_model_loads(refuses: Callable[..., str], world: Any) -> None:
    assert "'arc' is unknown" in refuses("eval", "./none", "--tasks", "arc")
    assert "no such file" in refuses("eval", "./none", "--tasks", "piqa:./none.jsonl")
    assert "name each task once" in refuses("eval", world.model, "--tasks", "piqa,piqa")
    assert "give --tasks" in refuses("eval", world.model, "--limit", 3)
    assert "give --limit" in refuses("eval", world.model, "--tasks", "piqa", "--sample-seed", 3)
    assert "ask for some" in refuses("eval", world.model, "--windows", 0, "--dense", world.model)
