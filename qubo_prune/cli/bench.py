"""qubo-prune bench: solvers x instances x seeds x time limits, resumed, scored and reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from qubo_prune.cli.live import Live
from qubo_prune.cli.output import assignments, guarded, notes, print_json, results
from qubo_prune.errors import InputError


@guarded
def bench(
    instances: Annotated[
        list[str],
        typer.Argument(
            help="palubeckis:p3000.1, random:KIND:N[:SEED], a problem file, or FORMAT:FILE (rudy:...)."
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder of the records and reports; a run there goes on.")],
    solver: Annotated[
        list[str] | None,
        typer.Option(help="A solver, with options after colons: tabu, or anneal:restarts=5. Repeatable."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds 0 to this many, less one.")] = 5,
    time_limit: Annotated[
        list[float] | None, typer.Option(help="Seconds; repeat it for a ladder of limits.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes at a time (needs joblib).")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads that each run may use.")] = 1,
    known: Annotated[
        Path | None, typer.Option(help="JSON object: instance, as given here, -> best known objective.")
    ] = None,
    bound: Annotated[
        bool, typer.Option("--bound", help="Also compute a bound of each instance, for proven gaps.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Run what failed before once more.")] = False,
    submitter: Annotated[str, typer.Option(help="Name for the CSV in the form of QOBLIB.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as one JSON list.")] = False,
) -> None:
    """Compare solvers on problems: gaps over time, time to target, ranks, profiles."""
    from qubo_solvers import registry
    from qubo_solvers.bench import check_instance, instance_bounds, matrix, run_cells
    from qubo_solvers.bench.metrics import summary
    from qubo_solvers.bench.report import markdown, write_reports

    chosen = [_solver(text) for text in solver or ["path_relinking", "tabu", "anneal"]]
    for name, options in chosen:
        registry.capabilities(name)
        if registry.availability(name)[0]:
            registry.get(name, **options)
    for spec in instances:  # a wrong line is better found now than after an hour
        check_instance(spec)
    best = _known(known)
    cells = matrix(chosen, instances, range(seeds), time_limit or [10.0], threads)
    with Live(notes()) as live:
        live.phase(f"{len(cells)} runs", total=len(cells))

        done = 0

        def on_record(record: dict[str, Any]) -> None:
            nonlocal done
            done += 1
            told = record.get("error") or f"{record['objective']!r}"
            live.done(done, text=f"{record['solver']} on {record['instance']}: {told}")

        try:
            records = run_cells(cells, output, jobs, on_record, again)
            bounds = {}
            if bound:
                live.phase("bounds")
                bounds = instance_bounds(instances, output)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"what ran is in {output}; the same command goes on from there") from None
    files = write_reports(records, output, best, submitter, bounds)
    if as_json:
        print_json(summary(records, best))
    else:
        results().print(markdown(records, best, bounds), markup=False, soft_wrap=True)
        notes().print("written: " + ", ".join(str(file) for file in files))
    if all(record.get("error") for record in records):
        raise typer.Exit(1)  # each record says why


def _solver(text: str) -> tuple[str, dict[str, Any]]:
    """name:key=value:key=value; package.module:Class stays whole."""
    parts = text.split(":")
    name = [parts[0]]
    while len(parts) > 1 and "=" not in parts[1]:
        name.append(parts.pop(1))
    return ":".join(name), assignments(parts[1:])


def _known(path: Path | None) -> dict[str, float]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--known {str(path)!r} cannot be read: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(v, int | float) for v in found.values()):
        raise InputError(f"--known {str(path)!r}: it must hold an object of instances and numbers")
    return {str(name): float(value) for name, value in found.items()}
