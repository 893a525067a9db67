"""The table of sparse products, on a tiny shape."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType


def test_a_tiny_shape(load_script: Callable[[str], ModuleType], tmp_path: Path) -> None:
    out = tmp_path / "speed.md"
    asked = ["--shape", "64x32", "--tokens", "1", "--budget", "0", "--out", str(out)]
    load_script("experiments/sparse_speed.py").main(asked)
    rows = [line for line in out.read_text().splitlines() if line.startswith("| 64 x 32 | 1 |")]
    assert [row.split(" | ")[2] for row in rows] == ["scipy_csr", "torch_csr"]
    assert all(row.count("|") == 12 for row in rows)
    assert "2:4 was not measured" in out.read_text()
