"""qubo-prune eval: perplexity, KL to a dense model and density of a saved model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from qubo_prune.cli.live import Live
from qubo_prune.cli.output import guarded, notes, number, print_json, results, write_json
from qubo_prune.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from qubo_prune.models import LoadedModel


@guarded
def evaluate(
    model: Annotated[str, typer.Argument(help="A folder, a .gguf file, package:NAME or a Hugging Face id.")],
    text: Annotated[
        str | None, typer.Option(help="Text to evaluate on. Default: WikiText-2 or other Wikipedia text.")
    ] = None,
    windows: Annotated[int, typer.Option(min=1, help="The first so many windows of the text.")] = 8,
    length: Annotated[int, typer.Option(min=2, help="Tokens a window.")] = 1024,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens between windows; default: length.")
    ] = None,
    dense: Annotated[str | None, typer.Option(help="The dense model, for the KL to it.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Mask file, or a folder that has one; default: the model's own.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Write the report to this JSON file.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Evaluate a model: perplexity, density layer by layer, and the KL to a dense model."""
    from qubo_prune.calibration import TextSource, tokenise
    from qubo_prune.evaluate import kl_to_dense, perplexity
    from qubo_prune.forward import forward_of
    from qubo_prune.models import load_model
    from qubo_prune.provenance import peak_memory_bytes, provenance
    from qubo_prune.texts import evaluation_text

    begun = time.perf_counter()
    if output is not None and not output.absolute().parent.is_dir():
        raise InputError(f"--output {str(output)!r}: there is no folder {str(output.absolute().parent)!r}")
    source = text or evaluation_text()
    with Live(notes()) as live:
        live.phase("read text")
        words = TextSource(source).read()
        live.phase("load model")
        loaded = load_model(model, dtype=dtype, device=device)
        if loaded.tokenizer is None:
            raise InputError(
                f"model {model!r} has no tokenizer beside it: save one there, or evaluate from Python"
            )
        density = _density(loaded, masks)
        tokens = tokenise(loaded.tokenizer, words)
        live.phase("perplexity", windows)
        forward = live.counting(forward_of(loaded.model), windows)
        found = perplexity(forward, tokens, length=length, windows=windows, stride=stride)
        kl = None
        if dense is not None:
            live.phase("load dense model")
            teacher = _teacher(dense, loaded, dtype, device)
            count = min(windows, len(tokens) // length)
            live.phase("KL to dense", count)
            student = live.counting(forward_of(loaded.model), count)
            kl = kl_to_dense(student, forward_of(teacher.model), _first(tokens, count, length))
    report = {
        "model": model,
        "text": source,
        "perplexity": found.perplexity,
        "nll": found.nll,
        "tokens": found.tokens,
        "windows": found.windows,
        "length": found.length,
        "stride": found.stride,
        "dense": dense,
        "kl": kl,
        "density": density,
        "seconds": time.perf_counter() - begun,
        "seconds_by_phase": live.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "provenance": provenance(),
        "output": None if output is None else str(output),
    }
    if output is not None:
        write_json(report, output)
    if as_json:
        print_json(report)
    else:
        _show(report)


def _first(tokens: Tensor, count: int, length: int) -> Tensor:
    """The first `count` windows side by side, (count, length)."""
    return tokens[: count * length].reshape(count, length)


def _teacher(dense: str, loaded: LoadedModel, dtype: str, device: str) -> LoadedModel:
    """The dense model; refused where its answers are about other tokens."""
    from qubo_prune.models import load_model

    teacher = load_model(dense, dtype=dtype, device=device)
    sizes = [getattr(getattr(m.model, "config", None), "vocab_size", None) for m in (loaded, teacher)]
    if sizes[0] != sizes[1]:
        raise InputError(f"--dense {dense!r} has {sizes[1]} tokens, the model {sizes[0]}: not the same model")
    return teacher


def _density(loaded: LoadedModel, masks: Path | None) -> dict[str, Any]:
    """total, layers, and what was counted: "masks" (checked against the weights) or "non-zero weights"."""
    from qubo_prune.layers import linear_layers, prunable_layers
    from qubo_prune.mask_file import MASK_FILE, load_masks
    from qubo_prune.masks import density, verify

    folder = Path(loaded.spec)
    source = masks if masks is not None else folder if (folder / MASK_FILE).is_file() else None
    if source is not None:
        found = load_masks(source)
        verify(linear_layers(loaded.model), found)
    else:
        found = {name: layer.weight != 0 for name, layer in prunable_layers(loaded.model).items()}
    counts = density(found)
    return {
        "counted": "masks" if source is not None else "non-zero weights",
        "total": counts.density,
        "layers": {name: counts.of(name) for name in counts.layers},
    }


def _show(report: dict[str, Any]) -> None:
    """The report for a person."""
    console = results()
    table = Table("layer", title=f"density ({report['density']['counted']})", title_justify="left")
    table.add_column("density", justify="right")
    for name, value in report["density"]["layers"].items():
        table.add_row(name, f"{value:.2%}")
    table.add_row("all", f"{report['density']['total']:.2%}")
    console.print(table)
    used = f"{report['windows']} windows of {report['length']} tokens of {report['text']}"
    console.print(f"perplexity   {number(report['perplexity'])} ({used})", markup=False)
    if report["kl"] is not None:
        console.print(
            f"KL to dense  {number(report['kl'], 4)} nats per predicted token ({report['dense']})",
            markup=False,
        )
    console.print(f"{report['seconds']:.0f} s, {report['peak_memory_bytes'] / 2**30:.1f} GiB at most")
