"""The table of sparse products, on a tiny shape."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "experiments" / "sparse_speed.py"


def test_a_tiny_shape(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("sparse_speed", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    out = tmp_path / "speed.md"
    script.main(["--shape", "64x32", "--tokens", "1", "--budget", "0", "--out", str(out)])
    rows = [line for line in out.read_text().splitlines() if line.startswith("| 64 x 32 | 1 |")]
    assert [row.split(" | ")[2] for row in rows] == ["scipy_csr", "torch_csr"]
    assert all(row.count("|") == 12 for row in rows)
    assert "2:4 was not measured" in out.read_text()
