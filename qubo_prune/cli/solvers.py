"""qubo-prune solvers: the registered solvers, what each can do, and whether it can run here."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.table import Column, Table

from qubo_prune.cli.output import guarded, print_json, results


@guarded
def solvers(
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list of them.")] = False,
) -> None:
    """List the solvers: what each can do, and whether it can run here."""
    rows = [_row(name) for name in _names()]
    if as_json:
        print_json(rows)
        return
    table = Table(Column("solver", no_wrap=True), "what it is", "limits", "available")
    for row in rows:
        able = "yes" if row["available"] else f"no: {row['reason']}"
        table.add_row(row["name"], row["capabilities"].get("description", ""), _limits(row), able)
    results().print(table)


def _names() -> tuple[str, ...]:
    import qubo_solvers

    return qubo_solvers.names()


def _row(name: str) -> dict[str, Any]:
    """name, available, reason, capabilities ({} where a solver of somebody else's cannot be imported)."""
    import qubo_solvers

    available, reason = qubo_solvers.availability(name)
    try:
        capabilities = asdict(qubo_solvers.capabilities(name))
    except ImportError:
        capabilities = {}
    return {"name": name, "available": available, "reason": reason, "capabilities": capabilities}


def _limits(row: dict[str, Any]) -> str:
    """The capabilities that a user chooses by, in words."""
    found = row["capabilities"]
    words = ["proves optimality"] if found.get("exact") else []
    if found.get("max_variables"):
        words.append(f"at most {found['max_variables']:,} variables")
    if found.get("needs_dense"):
        words.append("dense")
    if found and not found["native_cardinality"]:
        words.append("counts by penalty")
    if found and not found["honours_time_limit"]:
        words.append("time limit only roughly kept")
    return ", ".join(words)
