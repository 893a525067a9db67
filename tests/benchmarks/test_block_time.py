"""The time of a decoder block, on a tiny one: both phases and their table."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("experiments/block_time.py")


@pytest.mark.slow
def test_a_tiny_block(script: ModuleType, tmp_path: Path) -> None:
    shape = ["--hidden", "64", "--intermediate", "128", "--heads", "4", "--tokens", "256"]
    out = ["--out", str(tmp_path / "new" / "block_time")]
    for dtype in ("float32", "bfloat16", "float32"):
        script.main([*shape, "--dtype", dtype, *out])
    rows = json.loads((tmp_path / "new" / "block_time.json").read_text())
    assert [row["dtype"] for row in rows] == [
        "bfloat16",
        "float32",
    ]  # the last one took the first one's place
    for row in rows:
        assert (row["shape"], row["windows"]) == ([64, 128, 4], [4, 64])
        assert row["swaps"] > 0
        for phase in ("rows", "reconstruct"):
            assert len(row["layers"][phase]) == 7
            assert 0 < row["solving"][phase] < row["seconds"][phase]
            assert row["error"][phase] < 1
        assert row["peak_memory_bytes"] > 1e7
        assert row["peak_cuda_bytes"] is None
    table = (tmp_path / "new" / "block_time.md").read_text()
    assert table == script.table(rows)
    assert table.startswith("# ")
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) == 4
    assert len({line.count("|") for line in lines}) == 1
    assert "| 64, 128, 4 | 4 x 64 |" in lines[-1]


@pytest.mark.parametrize(
    "wrong", [["--tokens", "8"], ["--hidden", "60", "--heads", "4"], ["--dtype", "int8"]]
)
def test_refusals(script: ModuleType, wrong: list[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(wrong)
