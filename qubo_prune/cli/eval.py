"""qubo-prune eval: perplexity, KL to a dense model, density and zero-shot tasks of a saved model.

`--json` and `--output` give one object:

    model, text, dense, output    as they were asked for
    perplexity, nll               of the text, and its logarithm, nats per predicted token; null with
                                  --windows 0
    tokens, windows, length, stride   how many tokens were predicted, in which windows
    kl                            KL(dense || model) in nats per predicted token, null without --dense
    density                       counted ("masks" or "non-zero weights"), total, layers: name -> share kept
    tasks                         a list of {task, data, rows, chosen, figures, seconds}; chosen: which rows;
                                  figures: name -> {value, stderr, low, high}, low to high being 95 %.
                                  lambada: acc, perplexity (of the last word); piqa: acc, acc_norm
    seconds, seconds_by_phase, peak_memory_bytes, provenance
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from qubo_prune.cli.live import Live
from qubo_prune.cli.output import check_file, guarded, notes, number, print_json, results, write_json
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
    windows: Annotated[
        int, typer.Option(min=0, help="The first so many windows of the text; 0: no perplexity.")
    ] = 8,
    length: Annotated[int, typer.Option(min=2, help="Tokens a window.")] = 1024,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Tokens between windows; default: length.")
    ] = None,
    dense: Annotated[str | None, typer.Option(help="The dense model, for the KL to it.")] = None,
    masks: Annotated[
        Path | None, typer.Option(help="Mask file, or a folder that has one; default: the model's own.")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(help="Zero-shot tasks, by commas: lambada, piqa (:FILE for other rows), lm-eval:NAME."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many rows of each task.")] = None,
    sample_seed: Annotated[
        int | None, typer.Option(min=0, help="Draw the --limit rows by this seed instead.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Texts of a task per forward pass.")] = 8,
    output: Annotated[Path | None, typer.Option(help="Write the report to this JSON file.")] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Evaluate a model: perplexity, density layer by layer, the KL to a dense model, zero-shot tasks."""
    from qubo_prune.calibration import TextSource, tokenise
    from qubo_prune.evaluate import kl_to_dense, perplexity
    from qubo_prune.forward import forward_of
    from qubo_prune.models import check_source, load_model
    from qubo_prune.provenance import peak_memory_bytes, provenance
    from qubo_prune.texts import evaluation_text
    from qubo_prune.zeroshot import Subset, prepare, run_tasks

    begun = time.perf_counter()
    check_file(output, inputs=[model, text, dense, masks])
    if dense is not None and not windows:
        raise InputError("--dense with --windows 0: the KL is measured on the text's windows; ask for some")
    if tasks is None and (limit is not None or sample_seed is not None):
        raise InputError("--limit and --sample-seed choose rows of tasks: give --tasks")
    if limit is None and sample_seed is not None:
        raise InputError("--sample-seed draws --limit rows: give --limit")
    source = text or evaluation_text()
    with Live(notes()) as live:
        live.phase("read text")
        jobs = prepare(_names(tasks), Subset(limit, sample_seed))
        words = TextSource(source).read() if windows else ""
        if dense is not None:
            check_source(dense)  # it is loaded only after the perplexity, so as not to hold two models then
        live.phase("load model")
        loaded = load_model(model, dtype=dtype, device=device)
        loaded.needed_tokenizer("evaluate")
        density = _density(loaded, masks)
        if windows:
            loaded.check_length(length, "--length")
        found = None
        if windows:
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
            del teacher

        def on_progress(task: str, done: int, total: int) -> None:
            live.phase(task, total or None)
            live.done(done, total or None)

        scored = run_tasks(jobs, loaded.model, loaded.tokenizer, batch=batch, on_progress=on_progress)
    report = {
        "model": model,
        "text": source if windows else None,
        "perplexity": None if found is None else found.perplexity,
        "nll": None if found is None else found.nll,
        "tokens": 0 if found is None else found.tokens,
        "windows": windows,
        "length": length,
        "stride": stride or length,
        "dense": dense,
        "kl": kl,
        "density": density,
        "tasks": [result.to_dict() for result in scored],
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


def _names(tasks: str | None) -> list[str]:
    """The tasks of a list by commas; InputError where one is empty or there twice."""
    if tasks is None:
        return []
    names = [name.strip() for name in tasks.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise InputError(f"--tasks {tasks!r}: name each task once, with commas between them")
    return names


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
        try:
            verify(linear_layers(loaded.model), found)
        except ValueError as error:
            raise InputError(f"masks of {str(source)!r}: {error} They are not those of this model.") from None
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
    if report["windows"]:
        used = f"{report['windows']} windows of {report['length']} tokens of {report['text']}"
        console.print(f"perplexity   {number(report['perplexity'])} ({used})", markup=False)
    if report["kl"] is not None:
        console.print(
            f"KL to dense  {number(report['kl'], 4)} nats per predicted token ({report['dense']})",
            markup=False,
        )
    for result in report["tasks"]:
        used = f"{result['chosen']} of {result['data']}"
        console.print(f"{result['task']}: {used}", markup=False, soft_wrap=True)
        for name, figure in result["figures"].items():
            interval = f"95 %: {number(figure['low'], 4)} to {number(figure['high'], 4)}"
            stderr = number(figure["stderr"], 4)
            console.print(f"  {name:<10} {number(figure['value'], 4)} +- {stderr} ({interval})", markup=False)
    console.print(f"{report['seconds']:.0f} s, {report['peak_memory_bytes'] / 2**30:.1f} GiB at most")
