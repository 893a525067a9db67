"""qubo-prune solve: solve a problem file with any solver; starts without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    from qubo_solvers import CardinalityQubo, Solution


@guarded
def solve(
    file: Annotated[
        Path,
        typer.Argument(
            help="Problem file: .npz, .npy, .qubo, .sparse, .qplib, .rudy, .mc, .mdp, .opb, .cqm or .coo."
        ),
    ],
    solver: Annotated[
        str, typer.Option(help="A name that `qubo-prune solvers` lists, or package.module:Class.")
    ] = "anneal",
    seed: Annotated[int, typer.Option(min=0, help="Same seed and work budget: same answer.")] = 0,
    time_limit: Annotated[
        float | None, typer.Option(help="Seconds; without it the solver's work budget ends the search.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="An option of the solver."),
    ] = None,
    initial: Annotated[
        Path | None,
        typer.Option(help="Start from this answer: a JSON list of 0 and 1, or what --output wrote."),
    ] = None,
    bound: Annotated[
        bool, typer.Option("--bound", help="Also compute a lower bound afterwards, so that a gap is proven.")
    ] = False,
    output: Annotated[Path | None, typer.Option(help="Write the answer to this JSON file.")] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="A name of the format (npz, npy, qbsolv, biqmac, qplib, ...), where the suffix does not say."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as one JSON object.")] = False,
) -> None:
    """Solve a quadratic binary problem from a file."""
    import qubo_solvers
    from qubo_solvers import formats

    check_file(output, inputs=[file])
    problem = formats.read(file, format)
    start = None if initial is None else _assignment(initial)
    options = assignments(settings or [])
    with Live(notes()) as live:
        live.phase(f"solve with {solver}", limit=time_limit)
        solution = qubo_solvers.solve(
            problem, solver, seed=seed, time_limit=time_limit, initial=start,
            on_incumbent=lambda found: live.done(0, text=f"energy {found.energy:,.6g}"), bound=bound,
            **options,
        )  # fmt: skip
    answer = describe(file, problem, solution)
    if output is not None:
        write_json(answer, output)
    if as_json:
        print_json(answer)
    elif solution.assignment is not None:
        _show(answer)
    if solution.assignment is None:
        reason = solution.message or solution.status.message
        typer.echo(f"error: {solution.solver}: {reason}", err=True)
        raise typer.Exit(2 if answer["status"] == "unavailable" else 1)


def describe(file: Path, problem: CardinalityQubo, solution: Solution) -> dict[str, Any]:
    """The answer as JSON holds it: `assignment` in the file's variable order, `objective` in its sense."""
    x = solution.assignment
    return {
        "file": str(file),
        "variables": problem.n,
        "solver": solution.solver,
        "status": solution.status.value,
        "message": solution.message or solution.status.message,
        "energy": solution.energy,
        "offset": problem.offset,
        "objective": None if x is None else problem.objective(x),
        "bound": solution.bound,
        "bound_method": solution.bound_method,
        "gap": solution.gap,
        "feasible": x is not None and problem.is_feasible(x),
        "repaired": solution.repaired,
        "assignment": x,
        "seconds": solution.seconds,
        "trace": [{"seconds": point.seconds, "energy": point.energy} for point in solution.trace],
        "work": solution.work,
    }


def _assignment(path: Path) -> list[int]:
    """Zeros and ones from a JSON file: a list, or an object with `assignment`."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"--initial {str(path)!r} is not JSON: {error}") from None
    values = found.get("assignment") if isinstance(found, dict) else found
    if not isinstance(values, list) or any(value not in (0, 1) for value in values):
        raise InputError(f"--initial {str(path)!r}: it must hold a list of zeros and ones")
    return values


def _show(answer: dict[str, Any]) -> None:
    """The answer for a person."""
    console = results()
    console.print(f"{answer['solver']}: {answer['status']} ({answer['message']})", markup=False)
    console.print(f"energy     {answer['energy']!r}")
    if answer["objective"] != answer["energy"]:
        console.print(f"objective  {answer['objective']!r}")
    if answer["bound"] is None:
        console.print("gap        none is proven (--bound computes a lower bound)")
    else:
        console.print(f"bound      {answer['bound']!r}, by {answer['bound_method']}", markup=False)
        console.print(f"gap        {100 * answer['gap']:.4g} %, proven")
    console.print(f"ones       {answer['assignment'].sum(dtype=int):,} of {answer['variables']:,} variables")
    console.print(f"seconds    {number(answer['seconds'], 3)}, {len(answer['trace'])} improvements")
