"""The README's results come from the result files, and are theirs now."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(load_script: Callable[[str], ModuleType]) -> ModuleType:
    return load_script("update_readme.py")


def test_the_readme_is_up_to_date(script: ModuleType) -> None:
    assert script.main(["--check"]) == 0, "run: python benchmarks/update_readme.py"


def test_tables_go_between_the_markers(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "b.md").write_text("# Second\n\n| x |\n|---|\n| 1 |\n")
    (tmp_path / "a.md").write_text("# First\n\n```sh\n# a comment\n```\n\n## Part\n")
    text = script.updated(f"before\n{script.BEGIN}\nold\n{script.END}\nafter\n", tmp_path)
    first, second = text.index("### First"), text.index("### Second")
    assert first < text.index("#### Part") < second
    assert "\n# a comment\n" in text
    assert "old" not in text
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert script.updated(text, tmp_path) == text


def test_results_of_pruning_come_first(script: ModuleType, tmp_path: Path) -> None:
    for name in ("against", "prune_smollm2", "quality"):
        (tmp_path / f"{name}.md").write_text(f"# {name}\n")
    assert script.section(tmp_path).split() == ["###", "quality", "###", "prune_smollm2", "###", "against"]


def test_markers_must_be_there(script: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="once each"):
        script.updated("nothing", tmp_path)
