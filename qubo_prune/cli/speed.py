"""qubo-prune speed: sparse products of a model's layers next to dense ones, and where they break even."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from qubo_prune.cli.live import Live
from qubo_prune.cli.output import guarded, notes, number, print_json, results
from qubo_prune.errors import InputError

if TYPE_CHECKING:
    from qubo_prune.speed.measure import Speed


@guarded
def speed(
    model: Annotated[str, typer.Argument(help="A folder, a .gguf file, package:NAME or a Hugging Face id.")],
    tokens: Annotated[
        list[int] | None,
        typer.Option(
            min=1, help="Columns of the operand; 1: matrix times vector. Repeatable. Default: 1, 64."
        ),
    ] = None,
    sparsities: Annotated[
        list[float] | None,
        typer.Option("--sparsity", min=0, max=1, help="Of a random mask. Repeatable. Default: 0.5 to 0.99."),
    ] = None,
    budget: Annotated[float, typer.Option(min=0, help="Seconds of each timing, about.")] = 0.2,
    include: Annotated[
        list[str] | None, typer.Option(help="Layer name pattern; default: all in the blocks. Repeatable.")
    ] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="Layer name pattern. Repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of the random masks.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as one JSON object.")] = False,
) -> None:
    """Time a pruned model's layers on this hardware, the sparsest of each shape, sparse against dense."""
    from qubo_prune.layers import prunable_layers
    from qubo_prune.models import load_model
    from qubo_prune.provenance import provenance
    from qubo_prune.speed.measure import SPARSITIES, measure

    chosen = sorted(set(sparsities or SPARSITIES))
    if not 0 < chosen[0] <= chosen[-1] < 1:
        raise InputError("--sparsity: random masks are measured at sparsities above 0 and below 1")
    with Live(notes()) as live:
        live.phase("load model")
        layers = prunable_layers(
            load_model(model, dtype=dtype, device=device).model, include or [], exclude or []
        )
        live.phase("timings", len({layer.shape for layer in layers.values()}))
        found = measure(layers, tokens or (1, 64), chosen, budget=budget, seed=seed, on_shape=live.done)
    if as_json:
        shown = [one.to_dict() for one in found]
        print_json({"model": model, "dtype": dtype, "device": device, "speeds": shown,
                    "provenance": provenance(seed)})  # fmt: skip
    elif all(one.refusal is not None for one in found):
        why = "; ".join(dict.fromkeys(f"{one.format}: {one.refusal}" for one in found))
        raise InputError(f"nothing can be measured in {dtype} on {device}: {why}. Choose another --dtype.")
    else:
        _show(found, model, dtype, device, chosen)


def _show(found: list[Speed], model: str, dtype: str, device: str, sparsities: list[float]) -> None:
    """The table for a person."""
    import torch

    console = results()
    threads = f", {torch.get_num_threads()} threads" if device == "cpu" else ""
    title = f"{model}, {dtype} on {device}{threads}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # for 80 columns
    for column in ("out x in", "zeros", "tokens", "format", "dense us", "sparse us", "ratio", "even"):
        table.add_column(column, justify="left" if column == "format" else "right", no_wrap=True)
    for one in found:
        if one.refusal is None:
            table.add_row(
                f"{one.shape[0]} x {one.shape[1]}", f"{one.sparsity:.1%}", str(one.tokens), one.format,
                _micro(one.dense), _micro(one.sparse), number(one.speedup), break_even_text(one, sparsities),
            )  # fmt: skip
    console.print(table)
    for name, why in dict.fromkeys((one.format, one.refusal) for one in found if one.refusal is not None):
        console.print(f"{name} was not measured: {why}", markup=False)
    console.print("ratio: dense over sparse time, with the layer's own zeros or the format's pattern")
    console.print("even: sparsity of a random mask from which the product is as fast as the dense one")


def _micro(seconds: float | None) -> str:
    """Microseconds for the table."""
    return number(None if seconds is None else seconds * 1e6, 1)


def break_even_text(one: Speed, sparsities: Sequence[float]) -> str:
    """The break-even sparsity for a table, of a format measured at these sparsities, rising."""
    if one.fixed:
        return "-"
    if one.even is None:
        return f"> {sparsities[-1]:.1%}"
    return f"<= {one.even:.1%}" if one.even == sparsities[0] else f"{one.even:.1%}"
