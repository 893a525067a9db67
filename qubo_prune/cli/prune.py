"""qubo-prune prune: a model, a recipe and two texts in; a pruned model and its report out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from qubo_prune.cli.live import Live
from qubo_prune.cli.output import assignments, guarded, notes, number, print_json, results
from qubo_prune.errors import InputError
from qubo_prune.recipe_files import builtin_recipes, sparsity_in

if TYPE_CHECKING:
    from qubo_prune.recipe import Recipe

_TEXT = "A UTF-8 file, package:NAME/PATH, data:PATH or dataset:NAME[:CONFIG[:SPLIT[:FIELD]]]."


@guarded
def prune(
    model: Annotated[
        str | None, typer.Argument(help="A folder, a .gguf file, package:NAME or a Hugging Face id.")
    ] = None,
    recipe: Annotated[str, typer.Option(help=f"A YAML file, or {', '.join(builtin_recipes())}.")] = "default",
    sparsity: Annotated[float | None, typer.Option(help="Share of the layers' weights to prune.")] = None,
    allocation: Annotated[
        str | None,
        typer.Option(
            help="Layer rates: uniform, alphapruning, owl, fisher, besa, or a file of them (the "
            "sparsity that `allocate` wrote into it is taken too, unless --sparsity is given)."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Chooses windows, samples and the solver's path.")] = None,
    solver: Annotated[
        str | None, typer.Option(help="Who solves the blocks: see `qubo-prune solvers`.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Refinement steps of iCBS; 0: none.")] = None,
    time_limit: Annotated[float | None, typer.Option(help="Seconds for the refinement.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Any setting of the recipe, by its dotted name: --show-recipe has all.",
        ),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(help=f"Text to calibrate on. {_TEXT} Default: C4 text from exllamav3.")
    ] = None,
    evaluation: Annotated[
        str | None,
        typer.Option(help="Other text, for the perplexity. Default: WikiText-2 or other Wikipedia text."),
    ] = None,
    eval_windows: Annotated[int, typer.Option(min=0, help="Windows of the evaluation text; 0: none.")] = 8,
    eval_length: Annotated[int, typer.Option(min=2, help="Tokens a window.")] = 1024,
    output: Annotated[
        Path | None, typer.Option(help="New folder for the model, its masks and report.json.")
    ] = None,
    export_blocks: Annotated[
        Path | None, typer.Option(help="New folder for the blocks, as problem files.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    show_recipe: Annotated[
        bool,
        typer.Option("--show-recipe", help="Print the recipe with all settings and what they mean; stop."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
) -> None:
    """Prune a language model, and measure it before and after."""
    overrides: dict[str, Any] = {
        "sparsity": sparsity, "seed": seed, "refine.steps": steps, "refine.time_limit": time_limit,
    }  # fmt: skip
    given = {key: value for key, value in overrides.items() if value is not None}
    given |= assignments(settings or [])
    _check_refines(recipe, solver, given, export_blocks)
    chosen = load_recipe(recipe, solver, given, allocation)
    if show_recipe:
        from qubo_prune.recipe_text import described

        typer.echo(described(chosen), nl=False)
        return
    if model is None:
        raise InputError("name a model to prune: a folder, a .gguf file, package:NAME or a Hugging Face id")
    from qubo_prune.cli.pruning import Job, run
    from qubo_prune.texts import CALIBRATION_TEXT, evaluation_text

    job = Job(
        model,
        chosen,
        calibration or CALIBRATION_TEXT,
        evaluation or evaluation_text(),
        eval_windows,
        eval_length,
        output,
        export_blocks,
        dtype,
        device,
    )
    report: dict[str, Any] | None = None
    try:
        with Live(notes()) as live:
            report = run(job, live)
        if report["stopped"] == "interrupted":
            notes().print(
                f"interrupted: the model {_whereabouts(report)} has the masks and values accepted until then",
                soft_wrap=True,
            )
        if as_json:
            print_json(report)
        else:
            _show(report)
    except KeyboardInterrupt:
        if report is None:
            raise
        raise KeyboardInterrupt(f"the model {_whereabouts(report)} is whole, its report too") from None


def _check_refines(
    recipe: str, solver: str | None, given: dict[str, Any], export_blocks: Path | None
) -> None:
    """InputError where a setting of the refinement would bring one into a recipe that has none, or its blocks
    are asked for."""
    from qubo_prune.recipe import Recipe

    about = [name for name in given if name.startswith("refine.")]
    options = {"--solver": solver, "--export-blocks": export_blocks}
    about += [name for name, value in options.items() if value is not None]
    if not about or "refine.steps" in given or (own := Recipe.load(recipe)).refine is not None:
        return
    refit = "set refit.time_limit (--set), or " if "refine.time_limit" in about and own.refit else ""
    raise InputError(f"{about[0]}: recipe {recipe!r} has no refinement: {refit}add one by --steps")


def load_recipe(
    name: str, solver: str | None, overrides: dict[str, Any], allocation: str | None = None
) -> Recipe:
    """The recipe with its overrides; another solver or allocation than the recipe's comes without the options
    of that one, and a file of rates with its sparsity, unless another is given."""
    from qubo_prune.allocation_settings import named_rule
    from qubo_prune.recipe import Recipe

    if allocation is not None:
        rule = named_rule(allocation, "--allocation")
        if "file" in rule or Recipe.load(name).allocation.method != allocation:
            overrides = {"allocation": rule} | overrides
        if "file" in rule and "sparsity" not in overrides and (share := sparsity_in(allocation)) is not None:
            overrides["sparsity"] = share
    if solver is not None:
        before = Recipe.load(name).refine
        if before is None or before.solver.name != solver:
            overrides = {"refine.solver.options": {}} | overrides
        overrides = {"refine.solver.name": solver} | overrides
    return Recipe.load(name, overrides)


def _whereabouts(report: dict[str, Any]) -> str:
    return f"saved in {report['output']}" if report["output"] else "(not saved: no --output was given)"


def _show(report: dict[str, Any]) -> None:
    """The report for a person: a table and where things are."""
    console = results()
    table = Table(
        "mask", title=f"{report['model']} at {report['sparsity']:.1%} sparsity", title_justify="left"
    )
    for column in ("perplexity", "KL to dense", "density", "swaps"):
        table.add_column(column, justify="right")
    perplexity, kl, density = report["perplexity"], report["kl"], report["density"]["total"]
    refines = report["recipe"]["refine"] is not None
    rows = (
        ("dense", 0.0, 1.0, None),
        ("initial", kl["initial"], density, 0),
        *([("refined", kl["refined"], density, report["swaps"])] if refines else []),
        *((name, kl[name], density, None) for name in kl if name not in ("initial", "refined")),
    )
    for name, distance, share, swaps in rows:
        table.add_row(
            name,
            number(perplexity[name]),
            number(distance, 4),
            f"{share:.2%}",
            "-" if swaps is None else f"{swaps:,}",
        )
    console.print(table)
    shared = report["allocation"]
    if shared["method"] not in ("uniform", "global"):
        least, most = min(shared["rates"].values()), max(shared["rates"].values())
        console.print(f"allocation: {shared['method']}, from {least:.1%} to {most:.1%} of a layer")
    text = report["evaluation"]
    if text["windows"]:
        console.print(
            f"perplexity: {text['windows']} windows of {text['length']} tokens of {text['text']}",
            markup=False,
        )
    if grids := report["allocation"].get("quantisation") or report["recipe"]["quantise"]:
        shared = "row" if grids["group"] is None else f"{grids['group']} inputs"
        console.print(f"weights are on grids of {grids['bits']} bits, one for each {shared}, saved as floats")
    console.print("KL: nats per predicted token, on calibration text that no decision saw", markup=False)
    cost = f"{report['seconds']:.0f} s, {report['peak_memory_bytes'] / 2**30:.1f} GiB at most"
    console.print(f"{cost}; ended by: {report['stopped']}")
    if report["output"]:
        console.print(
            f"saved in {report['output']}: the model, masks.safetensors, recipe.yaml, report.json",
            markup=False,
        )
    else:
        console.print("not saved: give --output FOLDER to keep the model")
    if report["blocks"]:
        console.print(f"blocks in {report['blocks']}", markup=False)
