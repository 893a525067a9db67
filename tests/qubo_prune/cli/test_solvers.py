"""qubo-prune solvers, and what the light commands must not import."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import qubo_solvers
from qubo_solvers import Capabilities, registry


class Absent:
    """A solver whose back end nobody has."""

    name: ClassVar[str] = "absent"
    capabilities: ClassVar[Capabilities] = Capabilities(
        "needs what is not there", requires=("no_such_back_end",), install="pip install no-such-back-end"
    )

    def solve(self, problem: Any, **_: Any) -> Any:
        raise AssertionError("never runs")


@pytest.fixture
def absent() -> Iterator[None]:
    qubo_solvers.register("absent", Absent)
    yield
    del registry.TABLE["absent"]


@pytest.mark.usefixtures("absent")
def test_json(invoke: Callable[..., Any]) -> None:
    rows = {row["name"]: row for row in json.loads(invoke("solvers", "--json").stdout)}
    assert set(rows) == set(qubo_solvers.names())
    assert rows["descent"]["available"] is True
    assert rows["descent"]["capabilities"]["native_cardinality"] is True
    assert rows["absent"]["available"] is False
    assert "pip install no-such-back-end" in rows["absent"]["reason"]


@pytest.mark.usefixtures("absent")
def test_table(invoke: Callable[..., Any]) -> None:
    shown = invoke("solvers").stdout
    assert all(name in shown for name in qubo_solvers.names())


def test_services_without_a_token(
    invoke: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("dwave.system")
    (tmp_path / "dwave.conf").touch()
    monkeypatch.setenv("DWAVE_CONFIG_FILE", str(tmp_path / "dwave.conf"))
    monkeypatch.delenv("DWAVE_API_TOKEN", raising=False)
    monkeypatch.delenv("DWAVE_PROFILE", raising=False)
    rows = {row["name"]: row for row in json.loads(invoke("solvers", "--json").stdout)}
    for name in ("dwave_qpu", "leap_bqm", "leap_cqm"):
        assert rows[name]["available"] is False
        assert "set DWAVE_API_TOKEN" in rows[name]["reason"]
    assert "DWAVE_API_TOKEN" in invoke("solvers").stdout


@pytest.mark.parametrize("arguments", [["solvers", "--json"], ["solve", "--help"], ["--help"]])
def test_starts_without_torch(arguments: list[str]) -> None:
    code = f"""
import sys
from qubo_prune.cli import app
try:
    app({arguments!r})
finally:
    heavy = {{"torch", "transformers", "pandas"}} & set(sys.modules)
    assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
