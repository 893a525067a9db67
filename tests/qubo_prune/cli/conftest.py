"""A tiny saved model, two small texts and a way to run the command in this process."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from qubo_prune.cli import app
from qubo_prune.saving import save_model
from qubo_prune.testing import tiny_llama, tiny_tokenizer


@dataclass(frozen=True)
class World:
    """Paths of a model and of two texts that share nothing, and the arguments that fit so small a model."""

    model: str
    calibration: str
    evaluation: str

    def prune(self, *more: object) -> list[str]:
        """Arguments of `prune`; what is given comes last, so it overrides."""
        small = {"calibration.windows": 8, "calibration.length": 32, "calibration.accept_windows": 4}
        small |= {"calibration.accept_length": 32, "calibration.report_windows": 2}
        small |= {"calibration.report_length": 32, "refine.chunk": 16, "refine.windows": 2}
        settings = [part for key, value in small.items() for part in ("--set", f"{key}={value}")]
        texts = ["--calibration", self.calibration, "--evaluation", self.evaluation]
        windows = ["--eval-windows", "2", "--eval-length", "64"]
        return ["prune", self.model, *texts, *windows, "--steps", "2", *settings, *map(str, more)]


def words(seed: int, count: int) -> str:
    """Random words of a vocabulary that the seed chooses too."""
    rng = random.Random(seed)
    vocabulary = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(200)]
    return " ".join(rng.choices(vocabulary, k=count))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    save_model(tiny_llama(), tiny_tokenizer(), {}, folder / "model")
    (folder / "web.txt").write_text(words(1, 600), encoding="utf-8")
    (folder / "wiki.txt").write_text(words(2, 200), encoding="utf-8")
    return World(str(folder / "model"), str(folder / "web.txt"), str(folder / "wiki.txt"))


@pytest.fixture
def invoke() -> Callable[..., Any]:
    """invoke("solvers", "--json") -> click's result, with exit_code, stdout and stderr; a bug raises."""

    def run(*arguments: object) -> Any:
        return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)

    return run


@pytest.fixture
def refuses(invoke: Callable[..., Any], tmp_path: Path) -> Callable[..., str]:
    """refuses(*arguments) -> the one error line of a command that must refuse them and write nothing."""

    def run(*arguments: object) -> str:
        before = sorted(tmp_path.rglob("*"))
        result = invoke(*arguments)
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert (result.exit_code, result.stdout, len(lines)) == (2, "", 1), result.output
        assert result.stderr.splitlines()[-1] == lines[0]
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0].removeprefix("error: ")

    return run
