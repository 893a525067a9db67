"""qubo-prune alpha: the spectra of a model's layers, their metrics, and the sparsity that follows."""

from __future__ import annotations

import csv
import time
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
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
    write_json,
)
from qubo_prune.errors import InputError

if TYPE_CHECKING:
    from qubo_prune.allocation import Allocation
    from qubo_prune.allocation.alphapruning import Spectrum
    from qubo_prune.allocation_settings import AlphaPruning

_COLUMNS = {
    "alpha": "alpha",
    "alpha_hat": "alpha hat",
    "stable_rank": "stable rank",
    "entropy": "entropy",
    "spectral_norm": "||W||2^2",
    "frobenius_norm": "||W||F^2",
}
"""Metric -> the head of its column."""


@guarded
def alpha(
    model: Annotated[str, typer.Argument(help="A folder, a .gguf file, package:NAME or a Hugging Face id.")],
    sparsity: Annotated[float, typer.Option(min=0, max=1, help="Share of all weights to prune.")] = 0.5,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="A setting of the allocation: epsilon, per, tail, ..."
        ),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(help="Layer name pattern; default: all in the blocks. Repeatable.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Layer name pattern. Repeatable.")] = None,
    by: Annotated[
        str, typer.Option(help="Rows of the table: block (means over its matrices) or matrix.")
    ] = "block",
    output: Annotated[
        list[Path] | None, typer.Option(help="Write all figures to this .json or .csv file. Repeatable.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Draw spectra, alpha and sparsity into this file (.png, .svg, .pdf).")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as one JSON object.")] = False,
) -> None:
    """Look at the heavy tails of a model's weights, and at the sparsities AlphaPruning gives its layers."""
    from qubo_prune.provenance import peak_memory_bytes, provenance

    begun = time.perf_counter()
    if by not in ("block", "matrix"):
        raise InputError(f"--by {by!r}: write block or matrix")
    files = _files(output or [], plot, model)
    chosen = _settings(assignments(settings or []))
    with Live(notes()) as live:
        spectra, allocation = _looked_at(
            live, model, sparsity, chosen, include or [], exclude or [], dtype, device
        )
    report = {
        "model": model,
        "sparsity": sparsity,
        "settings": chosen.model_dump(mode="json"),
        **allocation.to_dict(),
        "shapes": {name: spectrum.shape for name, spectrum in spectra.items()},
        "seconds": time.perf_counter() - begun,
        "seconds_by_phase": live.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "provenance": provenance(),
    }
    for file in files:
        if file.suffix == ".json":
            write_json(report, file)
        else:
            _write_csv(report, file)
    if plot is not None:
        from qubo_prune.report.spectra import draw

        draw(spectra, allocation, plot)
    if as_json:
        print_json(report)
    else:
        _show(report, by)
        for written in [*files, *([] if plot is None else [plot])]:
            results().print(f"written: {written}", markup=False, soft_wrap=True)


def _files(output: list[Path], plot: Path | None, model: str) -> list[Path]:
    """The files to write; whatever is wrong with them is refused before any work."""
    for file in output:
        if file.suffix not in (".json", ".csv"):
            raise InputError(f"--output {str(file)!r}: the name must end in .json or .csv")
    for file in output:
        check_file(file, inputs=[model])
    check_file(plot, "--plot", inputs=[model])
    if plot is not None:
        from qubo_prune.report.spectra import check_plot

        check_plot(plot)
    return output


def _settings(given: dict[str, Any]) -> AlphaPruning:
    """The allocation's settings, `allocation.` before their names or not."""
    from qubo_prune.allocation_settings import AlphaPruning
    from qubo_prune.recipe import Recipe

    named = {key.removeprefix("allocation."): value for key, value in given.items()}
    recipe = Recipe.parse({"allocation": {"method": "alphapruning"} | named, "refine": None}, "--set")
    if not isinstance(recipe.allocation, AlphaPruning):
        raise InputError(f"--set method={recipe.allocation.method}: this command is about alphapruning")
    if recipe.allocation.search:
        raise InputError(
            "--set search: its values are tried on text, and this command looks at weights alone: run "
            "`qubo-prune allocate MODEL --method alphapruning --set search=[...]`"
        )
    return recipe.allocation


def _looked_at(
    live: Live,
    model: str,
    sparsity: float,
    settings: AlphaPruning,
    include: list[str],
    exclude: list[str],
    dtype: str,
    device: str,
) -> tuple[dict[str, Spectrum], Allocation]:
    """The spectra of the model's layers, and the allocation from them."""
    from qubo_prune.allocation import alphapruning
    from qubo_prune.layers import prunable_layers
    from qubo_prune.models import load_model

    live.phase("load model")
    layers = prunable_layers(load_model(model, dtype=dtype, device=device).model, include, exclude)
    alphapruning.check(layers, sparsity, settings)
    live.phase("spectra", len(layers))
    spectra = alphapruning.spectra(
        layers, tail=settings.tail, published_peak=settings.published_peak, on_layer=live.done
    )
    live.phase("rates")
    return spectra, alphapruning.allocate(layers, sparsity, settings, spectra)


def _write_csv(report: dict[str, Any], file: Path) -> None:
    """A row for each matrix."""
    figures = list(next(iter(report["seen"].values())))
    pattern = report.get("pattern", {})
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(
            ["layer", "block", "out", "in", *figures, "pruned", "rate", *(["pattern"] if pattern else [])]
        )
        for name, row in _rows(report).items():
            last = [pattern[name]] if pattern else []
            writer.writerow(
                [
                    name,
                    row["block"],
                    *row["shape"],
                    *(row[f] for f in figures),
                    row["count"],
                    row["rate"],
                    *last,
                ]
            )


def _rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Layer -> its figures, size, count and rate."""
    from qubo_prune.allocation.mapping import block_of

    return {
        name: {
            **figures,
            "block": block_of(name),
            "shape": report["shapes"][name],
            "count": report["counts"][name],
            "rate": report["rates"][name],
        }
        for name, figures in report["seen"].items()
    }


def _show(report: dict[str, Any], by: str) -> None:
    """The table for a person."""
    from qubo_prune.allocation.mapping import blocks_of

    console = results()
    rows = _rows(report)
    groups = blocks_of(list(rows)) if by == "block" else {name: [name] for name in rows}
    shared = _shared(list(groups))
    title = f"{shared}* of {report['model']} at {report['sparsity']:.1%}, by {report['settings']['metric']}"
    if not console.is_terminal:
        console.width = max(console.width, 110)  # names in a file or a pipe need not be broken
    table = Table(by, title=title, title_justify="left")
    for column in (*_COLUMNS.values(), "sparsity"):
        table.add_column(column, justify="right")
    for group, names in groups.items():
        inside = [rows[name] for name in names]
        size = sum(row["shape"][0] * row["shape"][1] for row in inside)
        share = sum(row["count"] for row in inside) / size
        means = [_mean([row[column] for row in inside]) for column in _COLUMNS]
        table.add_row(group.removeprefix(shared), *map(_figure, means), f"{share:.2%}")
    console.print(table)
    pruned, total = report["pruned_weights"], report["total_weights"]
    console.print(f"{pruned:,} of {total:,} weights to prune ({pruned / total:.4%})")
    if "pattern" in report:
        kept = sorted(set(report["pattern"].values()))
        console.print(f"patterns: {', '.join(kept)}", markup=False)
    console.print(f"{len(rows)} matrices, spectra in {report['seconds_by_phase']['spectra']:.1f} s")


def _shared(names: list[str]) -> str:
    """The dotted beginning that all names share, with its last dot; empty for a single name."""
    beginnings = zip(*(name.split(".")[:-1] for name in names), strict=False)
    parts = list(takewhile(lambda part: len(set(part)) == 1, beginnings)) if len(names) > 1 else []
    return "".join(f"{part[0]}." for part in parts)


def _figure(value: float | None) -> str:
    """A figure for the table, with fewer decimals where it is large."""
    return number(value, 0 if value is not None and abs(value) >= 1000 else 2)


def _mean(values: list[float | None]) -> float | None:
    """The mean of those that are numbers; None where there is none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
