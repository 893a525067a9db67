"""Models of the quality bench: GGUF files are kept as folders, once, and cells load from there."""

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from qubo_prune.errors import InputError
from qubo_prune.models import LoadedModel
from qubo_prune.testing import tiny_llama, tiny_tokenizer


def cell(bench: dict[str, ModuleType], model: str, dtype: str = "float32") -> Any:
    cells = bench["quality_cells"]
    return cells.Cell(model, cells.Setting("c", "t", 8, 16, dtype=dtype))


def test_what_is_kept_where(bench: dict[str, ModuleType], tmp_path: Path) -> None:
    """A name for each file as it is now and dtype; no folder for what is safetensors already."""
    models, file = bench["quality_models"], tmp_path / "a b.gguf"
    file.write_bytes(b"x")
    first = models.kept_folder(str(file), "float32", tmp_path / "models")
    assert first.parent == tmp_path / "models"
    assert first.name.startswith("a_b_gguf-float32-")
    assert models.kept_folder(str(file), "float32", tmp_path / "models") == first
    assert models.kept_folder(str(file), "bfloat16", tmp_path / "models") != first
    os.utime(file, ns=(1, 1))
    assert models.kept_folder(str(file), "float32", tmp_path / "models") != first
    for other in (str(tmp_path), "tiny:llama", "owner/name", "package:no_such_package", "package:pytest"):
        assert models.kept_folder(other, "float32", tmp_path / "models") is None


def test_a_package_is_kept_by_its_file(
    bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models, package = bench["quality_models"], tmp_path / "some_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert models.kept_folder("package:some_package", "float32", tmp_path) is None
    (package / "inner" / "m.gguf").touch()
    assert (
        "package_some_package-float32-"
        in models.kept_folder("package:some_package", "float32", tmp_path).name
    )
    (package / "config.json").touch()
    assert models.kept_folder("package:some_package", "float32", tmp_path) is None


def test_kept_and_loaded(
    bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same weights, dtype, words and name; what fails, or another run has kept, is no error here."""
    models, original = bench["quality_models"], tiny_llama().to(torch.bfloat16)
    load_model = models.load_model
    monkeypatch.setattr(
        models, "load_model", lambda spec, **kw: LoadedModel(original, tiny_tokenizer(), "m.gguf")
    )
    folder = tmp_path / "models" / "kept"
    for _ in range(2):
        models.keep("m.gguf", "bfloat16", folder)
        assert [path.name for path in folder.parent.iterdir()] == ["kept"]
    monkeypatch.setattr(models, "load_model", load_model)
    loaded = models.load(cell(bench, "m.gguf", "bfloat16"), folder)
    assert loaded.spec == "m.gguf"
    state = loaded.model.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in original.state_dict().items())
    assert {t.dtype for t in state.values()} == {torch.bfloat16}
    assert loaded.tokenizer.encode("a few words") == tiny_tokenizer().encode("a few words")
    models.keep(str(tmp_path / "none.gguf"), "float32", tmp_path / "models" / "none")
    assert not (tmp_path / "models" / "none").exists()
    with pytest.raises(InputError, match="tiny models are"):
        models.load(cell(bench, "tiny:none"))


def test_kept_before_the_cells_that_need_it(
    bench: dict[str, ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for all cells, not where it is there or there is nothing to run; cells get its folder."""
    run, file, calls = bench["quality_run"], tmp_path / "m.gguf", []
    file.touch()

    def run_apart(work: Any, pieces: Any, jobs: int = 1, on_done: Any = None) -> None:
        for number, piece in enumerate(pieces):
            calls.append((work.__name__, jobs, piece[-1] and piece[-1].name))
            if work is run.keep:
                piece[-1].mkdir(parents=True)
            else:
                died = piece[0].seed == 1
                on_done(number, run.Died(-9) if died else {"key": piece[0].key, "perplexity": 2.0})

    monkeypatch.setattr(run, "run_apart", run_apart)
    cells, one = bench["quality_cells"], cell(bench, str(file))
    wanda = [cells.Method("wanda", "wanda"), cells.Target(0.5)]
    every = [one, *(cells.Cell(str(file), one.setting, *wanda, seed) for seed in (0, 1))]
    every.append(cell(bench, "tiny:llama"))
    name = bench["quality_models"].kept_folder(str(file), "float32", tmp_path).name
    found = run.run_cells(every, tmp_path, jobs=2)
    assert calls == [("keep", 1, name), *[("_plain_record", 2, name)] * 3, ("_plain_record", 2, None)]
    assert [r["jobs"] for r in found] == [2] * 4
    assert "ended with code -9" in found[2]["error"]
    run.run_cells(every, tmp_path)
    assert len(calls) == 5
    run.run_cells(every, tmp_path, again=True)
    assert calls[5:] == [("_plain_record", 1, name)]


def test_the_same_cell_with_other_tasks_waits(bench: dict[str, ModuleType]) -> None:
    cells = bench["quality_cells"]
    a, b = cell(bench, "a"), cell(bench, "b")
    other = cells.Cell("a", a.setting, zeroshot=cells.ZeroShot(("piqa",)))
    assert bench["quality_run"]._rounds([a, other, b]) == [[a, b], [other]]
    assert bench["quality_run"]._rounds([]) == []
