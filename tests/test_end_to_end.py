"""The whole way on tiny models: prune, save, open with transformers, evaluate; and in others' pipelines."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import qubo_prune
from qubo_prune import Data, Progress, Recipe, load_masks, prune, save_model
from qubo_prune.cli import app
from qubo_prune.testing import tiny_gpt2, tiny_llama, tiny_mlp, tiny_tokenizer, tiny_tokens

SMALL = {
    "refine": {
        "steps": 3,
        "windows": 4,
        "batch": 1,
        "chunk": None,
        "curvature": {"chunk": None},
        "trust": {"damping": 0.0},
    }
}


def test_prune_save_open_evaluate(tmp_path: Path) -> None:
    model = tiny_llama()
    dense = {name: value.clone() for name, value in model.state_dict().items()}
    out = tmp_path / "out"
    seen: list[Progress] = []
    masks_seen: list[str] = []
    report = prune(
        model,
        tiny_tokens(48 * 32).reshape(48, 32),
        Recipe.parse(SMALL | {"sparsity": 0.55}),
        on_progress=seen.append,
        on_masks=lambda name, pruned: masks_seen.append(name),
    )
    assert report.figures["accept_refined"] < report.figures["accept_initial"]
    assert report.swaps > 0
    assert masks_seen == ["initial", "refined"]
    assert [p.step.step for p in seen if p.step is not None] == [0, 1, 2]
    assert (seen[-1].phase, seen[-1].done, seen[-1].total) == ("loss of the refined mask", 6, 6)
    save_model(model, tiny_tokenizer(), report.masks, out)

    opened = AutoModelForCausalLM.from_pretrained(out)
    weights, masks = opened.state_dict(), load_masks(out)
    pruned = 0
    for name, keep in masks.items():
        weight = weights[f"{name}.weight"]
        assert not weight[~keep].any()
        assert torch.equal(weight[keep], dense[f"{name}.weight"][keep])
        pruned += int((~keep).sum())
    assert pruned == round(0.55 * sum(keep.numel() for keep in masks.values()))
    for name in weights.keys() - {f"{name}.weight" for name in masks}:
        assert torch.equal(weights[name], dense[name])
    assert AutoTokenizer.from_pretrained(out)("abc")["input_ids"] == tiny_tokenizer()("abc")["input_ids"]

    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog " * 10)
    size = ["--text", str(tmp_path / "text.txt"), "--windows", "2", "--length", "64"]
    shown = CliRunner().invoke(app, ["eval", str(out), *size, "--json"])
    figures = json.loads(shown.stdout)
    assert figures["density"]["total"] == report.to_dict()["density"]["total"]
    assert figures["perplexity"] > 1


def test_same_seed_same_masks() -> None:
    runs = [
        prune(model, tiny_tokens(24 * 32).reshape(24, 32), Recipe.parse(SMALL))
        for model in (tiny_gpt2(), tiny_gpt2())
    ]
    assert all(torch.equal(keep, runs[1].masks[name]) for name, keep in runs[0].masks.items())
    assert runs[0].figures == runs[1].figures


def test_any_module_any_loss(capfd: pytest.CaptureFixture[str]) -> None:
    """A classifier, a loader's pairs of inputs and labels, a loss function; nothing is printed."""
    generator = torch.Generator().manual_seed(0)
    pairs = TensorDataset(
        torch.randn(144, 6, generator=generator), torch.randint(4, (144,), generator=generator)
    )

    def loss(module: torch.nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(module(batch[0]), batch[1], reduction="none")

    model = tiny_mlp()
    recipe = Recipe.parse(SMALL | {"exclude": ["4"]})
    report = prune(model, DataLoader(pairs, batch_size=16), recipe, loss=loss)
    assert report.figures["dense"] > 0
    assert report.to_dict()["sparsity"] == 0.5
    assert all(model.get_submodule(name).weight[~keep].eq(0).all() for name, keep in report.masks.items())
    assert capfd.readouterr() == ("", "")


def test_what_is_refused_changes_nothing() -> None:
    model = tiny_llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for calibration, message in (
        ([], "calibration is empty"),
        ([tiny_tokens(8).reshape(1, 8)] * 2, "at least 3"),
        (Data([tiny_tokens(8).reshape(1, 8)], []), "give accepting batches"),
    ):
        with pytest.raises(ValueError, match=message):
            prune(model, calibration, Recipe())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_public_names() -> None:
    for name in qubo_prune.__all__:
        assert getattr(qubo_prune, name) is not None
        assert name in dir(qubo_prune)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        qubo_prune.nothing  # noqa: B018
