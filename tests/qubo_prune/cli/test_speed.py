"""qubo-prune speed: JSON and table of a tiny model, and what it refuses."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from qubo_prune.cli.speed import _show
from qubo_prune.speed.measure import Speed


def test_json(invoke: Callable[..., Any], world: Any) -> None:
    small = ["--tokens", 1, "--tokens", 4, "--sparsity", 0.9, "--sparsity", 0.5, "--budget", 0]
    report = json.loads(invoke("speed", world.model, *small, "--json").stdout)
    assert {row["format"] for row in report["speeds"]} == {"scipy_csr", "torch_csr", "2:4"}
    assert {row["tokens"] for row in report["speeds"]} == {1, 4}
    assert {tuple(row["shape"]) for row in report["speeds"]} == {(16, 16), (8, 16), (24, 16), (16, 24)}
    for row in report["speeds"]:
        if row["refusal"] is None:
            assert [point[0] for point in row["curve"]] == [0.5, 0.9]
            assert row["dense"] > 0
            assert row["pruned"] is None  # the model is dense
    assert report["provenance"]["processor"]


def test_table(invoke: Callable[..., Any], world: Any) -> None:
    shown = invoke("speed", world.model, "--tokens", 1, "--sparsity", 0.9, "--budget", 0,
                   "--include", "*.q_proj").stdout  # fmt: skip
    assert all(word in shown for word in ("16 x 16", "scipy_csr", "2:4 was not measured: on CUDA only"))


@pytest.mark.parametrize("seconds", [1e-6, 0.0987654321])
def test_eighty_columns_hold_a_large_layer(
    seconds: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    one = Speed((14336, 14336), 32, 0.5, 4096, "scipy_csr", seconds, seconds, ((0.99, seconds),), None, None)
    _show([one], "some/model", "float32", "cpu", [0.99])
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("14336 x 14336", "sparse us", "scipy_csr", "> 99.0%"))


def test_refusals(refuses: Callable[..., str], world: Any) -> None:
    assert "above 0 and below 1" in refuses("speed", world.model, "--sparsity", 1)
    assert "matches no linear layer" in refuses("speed", world.model, "--include", "*.nothing")
    told = refuses("speed", world.model, "--dtype", "bfloat16", "--budget", 0, "--tokens", 1)
    assert "nothing can be measured in bfloat16 on cpu: scipy_csr: float32 and float64 only" in told
