"""Pruning with D-Wave's solvers, offline: blocks are cut to what the processor embeds, budgets exact."""

from typing import Any

import pytest

import qubo_solvers
from qubo_prune import prune
from qubo_prune.errors import InputError
from qubo_prune.recipe import Recipe
from qubo_prune.testing import tiny_gpt2, tiny_tokens
from qubo_solvers import registry

dwave_testing = pytest.importorskip("dwave.system.testing", reason="dwave-system is not installed")


def recipe(solver: str, steps: int = 2) -> Recipe:
    refine: dict[str, Any] = {
        "steps": steps,
        "windows": 2,
        "batch": 1,
        "gradient": {"estimate": "shrunk", "shrink": 0.5, "reliability": False, "clip": None},
        "candidates": {"per_side": 20, "max_flip": 1.0},
        "trust": {"swaps": 8, "damping": 0.0},
        "solver": {"name": solver},
    }
    return Recipe.parse({"refine": refine, "sparsity": 0.5})


def offline() -> Any:
    """dwave_qpu on a small mock of a Zephyr processor."""
    from qubo_solvers.quantum.dwave_qpu import DwaveQpu

    processor = dwave_testing.MockDWaveSampler(
        topology_type="zephyr", topology_shape=[2, 4], substitute_kwargs={"seed": 1}, parameter_warnings=False
    )
    return DwaveQpu(num_reads=20, reads_per_call=10, sampler=processor)


def test_the_block_is_cut_to_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.TABLE, "offline", offline)
    most = qubo_solvers.capabilities("offline").max_variables
    assert most == 16
    report = prune(tiny_gpt2(), tiny_tokens(12 * 16).reshape(12, 16), recipe("offline"))
    assert report.curve
    assert 0 < max(step.variables for step in report.curve) <= most
    assert sum(step.swaps_proposed for step in report.curve) > 0
    gone = sum(int((~mask).sum()) for mask in report.masks.values())
    assert gone == int(sum(mask.numel() for mask in report.masks.values()) * 0.5 + 0.5)


def test_without_a_token_nothing_is_pruned(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "dwave.conf").touch()
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(tmp_path / "dwave.conf"))
    monkeypatch.delenv("DWAVE_API_TOKEN", raising=False)
    monkeypatch.delenv("DWAVE_PROFILE", raising=False)
    with pytest.raises(InputError, match="set DWAVE_API_TOKEN"):
        prune(tiny_gpt2(), tiny_tokens(12 * 16).reshape(12, 16), recipe("dwave_qpu"))
