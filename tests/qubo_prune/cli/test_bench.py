"""qubo-prune bench: its tables and files, going on, and what it refuses before anything runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest

from qubo_solvers import Capabilities, registry

RUN = ("bench", "random:plain:12", "--solver", "descent", "--solver", "anneal:restarts=2", "--seeds", 2)


@pytest.mark.slow
def test_tables_files_and_going_on(invoke: Callable[..., Any], tmp_path: Path) -> None:
    shown = invoke(*RUN, "--output", tmp_path, "--time-limit", 0.2).stdout
    assert "anneal(restarts=2)" in shown
    assert "plain:12" in shown
    assert {"report.md", "report.html", "qoblib.csv", "records.jsonl"} <= {f.name for f in tmp_path.iterdir()}
    before = (tmp_path / "records.jsonl").read_text()
    rows = json.loads(invoke(*RUN, "--output", tmp_path, "--time-limit", 0.2, "--json").stdout)
    assert (tmp_path / "records.jsonl").read_text() == before
    assert {row["solver"] for row in rows} == {"descent", "anneal(restarts=2)"}
    assert all(row["runs"] == 2 for row in rows)


def test_bounds_of_the_instances(invoke: Callable[..., Any], tmp_path: Path) -> None:
    shown = invoke(*RUN, "--output", tmp_path, "--bound").stdout
    assert "proven gap" in shown
    assert " by bound |" in shown
    assert json.loads((tmp_path / "bounds.json").read_text())["random:plain:12"]["method"] == "spectral"


def test_a_known_objective_is_the_measure(invoke: Callable[..., Any], tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    known.write_text('{"random:plain:12": -1e6}')
    rows = json.loads(invoke(*RUN, "--output", tmp_path / "out", "--known", known, "--json").stdout)
    assert all(row["reached_best"] == 0 and row["median_gap"] > 0.9 for row in rows)


class Broken:
    name: ClassVar[str] = "broken"
    capabilities: ClassVar[Capabilities] = Capabilities("fails")

    def solve(self, problem: Any, **_: Any) -> Any:
        raise ValueError("out of order")


def test_nothing_but_failures_is_a_failure(
    invoke: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry.TABLE, "broken", Broken)
    run = ("bench", "random:plain:12", "--seeds", 1, "--json", "--solver")
    result = invoke(*run, "broken", "--output", tmp_path / "one")
    assert result.exit_code == 1
    assert json.loads(result.stdout)
    assert invoke(*run, "broken", "--solver", "descent", "--output", tmp_path / "two").exit_code == 0


def test_an_interrupt_says_what_is_there(
    invoke: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qubo_solvers.bench.run_cells", interrupted)
    result = invoke(*RUN, "--output", tmp_path)
    assert result.exit_code == 130
    assert f"interrupted: what ran is in {tmp_path}; the same command goes on" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("random:nothing:3",), "nothing"),
        (("random:dense",), "random:KIND:N"),
        (("no-such-file.npz",), "no-such-file.npz"),
        (("palubeckis:p3000.9",), "no instance 'p3000.9'"),
        (("random:dense:4", "--solver", "tabuu"), "tabuu"),
        (("random:dense:4", "--solver", "tabu:speed=3"), "speed"),
        (("random:dense:4", "--known", "nowhere.json"), "nowhere.json"),
    ],
)
def test_refusals(
    refuses: Callable[..., str], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert message in refuses("bench", *arguments, "--output", tmp_path / "out")
