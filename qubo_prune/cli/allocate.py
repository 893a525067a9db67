"""qubo-prune allocate: how much of each layer a rule prunes, as table, JSON, and YAML that prune reads."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
import yaml
from rich.table import Table

from qubo_prune.cli.live import Live
from qubo_prune.cli.output import (
    assignments,
    check_file,
    guarded,
    notes,
    number,
    print_json,
    results,
    write_text,
)
from qubo_prune.recipe_files import set_dotted, sparsity_in

if TYPE_CHECKING:
    from qubo_prune.allocation import Allocation
    from qubo_prune.allocation_settings import AllocationSettings


@guarded
def allocate(
    model: Annotated[str, typer.Argument(help="A folder, a .gguf file, package:NAME or a Hugging Face id.")],
    method: Annotated[
        str,
        typer.Option(
            help="uniform, alphapruning, owl, fisher, besa, a file of rates, or given (--set rates=...)."
        ),
    ] = "besa",
    sparsity: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of all weights to prune; default: that of the file, or 0.5."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of the method: per, search, steps, ... "
            "(`qubo-prune prune --allocation METHOD --show-recipe` has all of them).",
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(help="Text to look at, as for prune. Default: C4 text from exllamav3."),
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="Calibration windows.")] = 64,
    accept_windows: Annotated[
        int, typer.Option(min=1, help="Windows that the values of a search are judged on.")
    ] = 16,
    length: Annotated[int, typer.Option(min=2, help="Tokens a window.")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="Windows per forward pass.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the windows.")] = 0,
    include: Annotated[
        list[str] | None, typer.Option(help="Layer name pattern; default: all in the blocks. Repeatable.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Layer name pattern. Repeatable.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Write the rates to this YAML (or .json) file, for prune --allocation FILE. "
            "NAME.safetensors takes rates of rows and quantised weights too."
        ),
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as one JSON object.")] = False,
) -> None:
    """Share out a sparsity over the layers of a model, without pruning it."""
    chosen = _settings(method, assignments(settings or []))
    if sparsity is None:
        file = getattr(chosen, "file", None)
        sparsity = None if file is None else sparsity_in(file)
    target = 0.5 if sparsity is None else sparsity
    check_file(output, inputs=[model, calibration])
    from qubo_prune.allocation_file import is_stored, write
    from qubo_prune.cli.allocating import Job, run
    from qubo_prune.texts import CALIBRATION_TEXT

    job = Job(
        model, chosen, target, calibration or CALIBRATION_TEXT, windows, accept_windows, length, batch,
        seed, include or [], exclude or [], dtype, device,
    )  # fmt: skip
    begun = time.perf_counter()
    with Live(notes()) as live:
        found = run(job, live)
    report = _report(found, chosen, target) | {"seconds": time.perf_counter() - begun}
    if output is not None:
        if is_stored(output):
            write(output, found, sparsity=target)
        else:
            write_text(_rates_file(found, target, as_json=output.suffix == ".json"), output)
            if found.rows or found.values:
                notes().print("the file has the layers' rates; rates of rows and quantised weights go into "
                              "--output NAME.safetensors", soft_wrap=True)  # fmt: skip
    if as_json:
        print_json(report)
    else:
        _show(report, model)
        if output is not None:
            results().print(f"written: {output}", markup=False, soft_wrap=True)


def _settings(method: str, given: dict[str, Any]) -> AllocationSettings:
    """The allocation's settings, `allocation.` before their names or not."""
    from qubo_prune.allocation_settings import named_rule
    from qubo_prune.recipe import Recipe

    named: dict[str, Any] = {key.removeprefix("allocation."): value for key, value in given.items()}
    nested = {key: value for key, value in named.items() if "." not in key}
    overrides = {f"allocation.{key}": value for key, value in named.items() if "." in key}
    data = {"allocation": named_rule(method, "--method") | nested, "refine": None}
    for name, value in overrides.items():
        set_dotted(data, name, value)
    return Recipe.parse(data, "--method and --set").allocation


def _metric(found: Allocation, settings: AllocationSettings) -> str | None:
    """The name of the figure that the rule went by."""
    names = {
        "alphapruning": getattr(settings, "metric", None),
        "owl": "outliers",
        "fisher": "global_rate",
        "besa": "learned_rate",
    }
    return names.get(found.method)


def _report(found: Allocation, settings: AllocationSettings, sparsity: float) -> dict[str, Any]:
    """What --json prints."""
    metric = _metric(found, settings)
    pattern = found.pattern_names
    return {
        "method": found.method,
        "target": sparsity,
        "settings": settings.model_dump(mode="json"),
        "total_weights": sum(found.sizes.values()),
        "pruned_weights": sum(found.counts.values()),
        "metric": metric,
        "layers": {
            name: {
                "weights": found.sizes[name],
                "pruned": count,
                "rate": found.rates[name],
                "metric": None if metric is None else found.seen[name][metric],
                **({"pattern": pattern[name]} if pattern else {}),
            }
            for name, count in found.counts.items()
        },
        **found.details,
    }


def _rates_file(found: Allocation, sparsity: float, *, as_json: bool) -> str:
    """YAML or JSON for `allocation.given.read_rates`, which sees by the numbers whether it is whole."""
    group = {} if found.group is None else {"group": found.group}
    data = {
        "method": found.method,
        "sparsity": sparsity,
        **group,
        "total_weights": sum(found.sizes.values()),
        "layers": len(found.rates),
        "rates": found.rates,
    }
    if as_json:
        return json.dumps(data, indent=1) + "\n"
    return yaml.safe_dump(data, sort_keys=False, width=1000)


def _show(report: dict[str, Any], model: str) -> None:
    """The table for a person."""
    console = results()
    metric = report["metric"]
    patterns = any("pattern" in row for row in report["layers"].values())
    table = Table("layer", title=f"{model} at {report['target']:.1%}, {report['method']}",
                  title_justify="left")  # fmt: skip
    more = [*(["pattern"] if patterns else []), *([] if metric is None else [metric])]
    for column in ("weights", "pruned", "sparsity", *more):
        table.add_column(column, justify="right")
    for name, row in report["layers"].items():
        figures = [
            *([row["pattern"]] if patterns else []),
            *([] if metric is None else [number(row["metric"], 4)]),
        ]
        table.add_row(name, f"{row['weights']:,}", f"{row['pruned']:,}", f"{row['rate']:.2%}", *figures)
    console.print(table)
    if searched := report.get("search"):
        losses = Table(searched["setting"])
        losses.add_column("KL of the first mask, accepting windows", justify="right")
        losses.add_column("")
        for row in searched["losses"]:
            taken = "taken" if row["value"] == searched["taken"] else ""
            losses.add_row(f"{row['value']:g}", number(row["loss"], 5), taken)
        console.print(losses)
    if blocks := report.get("blocks"):
        errors = Table("block", title="relative error of the blocks' answers", title_justify="left")
        for column in ("start", "learned", "taken", "seconds"):
            errors.add_column(column, justify="right")
        for row in blocks:
            start, learned = number(row["error_start"], 5), number(row["error_learned"], 5)
            errors.add_row(row["block"], start, learned, row["taken"], number(row["seconds"], 1))
        console.print(errors)
    pruned, total = report["pruned_weights"], report["total_weights"]
    console.print(f"{pruned:,} of {total:,} weights to prune ({pruned / total:.4%})")
