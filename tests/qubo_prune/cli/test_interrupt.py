"""Ctrl-C: during the refinement the last accepted mask is saved; before it, nothing is."""

import json
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from qubo_prune.cli.live import Live
from qubo_prune.layers import linear_layers
from qubo_prune.mask_file import load_masks
from qubo_prune.masks import density, verify
from qubo_prune.models import load_model


def interrupt_at(line: str, arguments: list[str]) -> tuple[int, str, str]:
    """Run the command, send SIGINT when `line` appears on standard error; exit code and both outputs."""
    command = [sys.executable, "-m", "qubo_prune", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    seen = []
    for text in process.stderr:
        seen.append(text)
        if line in text:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=60)
    return process.returncode, out, "".join(seen) + err


def test_during_the_refinement(world: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    endless = ["--steps", "1000000", "--set", "refine.accept=always", "--set", "refine.tabu_steps=0"]
    code, stdout, stderr = interrupt_at("step 3 of", world.prune(*endless, "--output", out, "--json"))
    assert code == 0, stderr
    assert f"interrupted: the model saved in {out} has the masks and values accepted until then" in stderr
    report = json.loads(stdout)
    assert report["stopped"] == "interrupted"
    assert 3 <= len(report["curve"]) < 1000
    assert report["swaps"] > 0
    loaded, masks = load_model(out), load_masks(out)
    dense = {name: layer.weight for name, layer in linear_layers(load_model(world.model).model).items()}
    verify(linear_layers(loaded.model), masks, {name: dense[name] for name in masks})
    assert density(masks).sparsity == pytest.approx(0.5, abs=1e-3)


def test_after_the_last_measurement(world: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is done: nothing is lost, and nothing is said to be."""
    from typer.testing import CliRunner

    from qubo_prune.cli import app

    out = tmp_path / "out"
    end = Live.end

    def interrupted(self: Live, **more: Any) -> None:
        last = self._name == "perplexity, refined"
        end(self, **more)
        if last:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Live, "end", interrupted)
    result = CliRunner().invoke(app, world.prune("--output", out, "--json"), catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["swaps"] == json.loads((out / "report.json").read_text())["swaps"]

    def shown(report: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module("qubo_prune.cli.prune"), "_show", shown)
    arguments = world.prune("--output", tmp_path / "again")
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 130
    assert f"interrupted: the model saved in {tmp_path / 'again'} is whole, its report too" in result.stderr
    assert (tmp_path / "again" / "report.json").is_file()


def test_before_the_refinement(world: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    long = ["--set", "calibration.report_length=3", "--eval-windows", "200", "--eval-length", "4"]
    code, stdout, stderr = interrupt_at("tokenise", world.prune(*long, "--output", out))
    assert (code, stdout) == (130, ""), stderr
    assert stderr.splitlines()[-1] == "interrupted: nothing was saved"
    assert not out.exists()


def test_in_this_process_before_the_first_mask(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """prune() itself: the dense weights come back, and the interruption is raised."""
    from qubo_prune import Recipe, prune
    from qubo_prune.testing import tiny_llama, tiny_tokens

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    model = tiny_llama()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    monkeypatch.setattr("qubo_prune.api.initial_masks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prune(model, tiny_tokens(16 * 32).reshape(16, 32), Recipe())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
