"""Put the tables of benchmarks/results/*.md into README.md, between its markers.

python benchmarks/update_readme.py            # rewrite README.md
python benchmarks/update_readme.py --check    # exit 1 where it is not up to date
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIRST = ("quality", "prune_smollm2", "sparse_speed")
"""Result files of pruning, in the order that they have in the README; those of solvers follow by name."""
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def section(results: Path) -> str:
    """All result files, those of `FIRST` before the others, headings two levels down."""
    named = {file.stem: file for file in sorted(results.glob("*.md"))}
    files = [named.pop(stem) for stem in FIRST if stem in named] + list(named.values())
    if not files:
        return "No results have been recorded yet."
    texts = [file.read_text(encoding="utf-8").strip() for file in files]
    return "\n\n".join(_demoted(_linked(text)) for text in texts)


def updated(readme: str, results: Path) -> str:
    """The README with its section replaced. Raises ValueError where the markers are not there, once each."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1:
        raise ValueError(f"README.md must have the lines {BEGIN} and {END} once each")
    before, rest = readme.split(BEGIN)
    after = rest.split(END)[1]
    return f"{before}{BEGIN}\n\n{section(results)}\n\n{END}{after}"


def _linked(text: str) -> str:
    """Markdown whose images, named by files beside it, are found from the README."""
    return re.sub(r"(!\[[^\]]*\]\()(?!\w+:|/)", r"\1benchmarks/results/", text)


def _demoted(text: str) -> str:
    """Markdown with `#` headings two levels down; code blocks are left alone."""
    parts = re.split(r"(^```.*?^```$)", text, flags=re.MULTILINE | re.DOTALL)
    return "".join(
        part if part.startswith("```") else re.sub(r"^(#{1,4}) ", r"##\1 ", part, flags=re.MULTILINE)
        for part in parts
    )


def main(arguments: list[str]) -> int:
    """Rewrite, or with --check compare."""
    path = ROOT / "README.md"
    old = path.read_text(encoding="utf-8")
    new = updated(old, ROOT / "benchmarks" / "results")
    if "--check" in arguments:
        if old != new:
            print("README.md is not up to date: run python benchmarks/update_readme.py", file=sys.stderr)
        return int(old != new)
    path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
