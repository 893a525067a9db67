"""Reading and writing problems: one format a file, chosen by the file's suffix or by name.

problem = read("block.npz")
write(problem, "block.cqm")
"""

from __future__ import annotations

from importlib import import_module
from os import PathLike
from pathlib import Path
from typing import Any

from qubo_solvers.problem import CardinalityQubo

TABLE = {
    # format: its suffixes, and the module with read(path, **options) and perhaps write(problem, path, ...)
    "npz": ((".npz",), "qubo_solvers.formats.npz"),
    "qbsolv": ((".qubo",), "qubo_solvers.formats.qbsolv"),
    "npy": ((".npy",), "qubo_solvers.formats.npy"),
    "biqmac": ((".sparse", ".bq"), "qubo_solvers.formats.biqmac"),
    "qplib": ((".qplib",), "qubo_solvers.formats.qplib"),
    "rudy": ((".rudy", ".mc"), "qubo_solvers.formats.rudy"),
    "mdplib": ((".mdp",), "qubo_solvers.formats.mdplib"),
    "opb": ((".opb",), "qubo_solvers.formats.opb"),
    "cqm": ((".cqm",), "qubo_solvers.formats.cqm"),
    "coo": ((".coo",), "qubo_solvers.formats.coo"),
}


def read(path: str | PathLike[str], format: str | None = None, **options: Any) -> CardinalityQubo:
    """The problem in a file; `format` (a name of TABLE) where the suffix does not say.

    Raises FileNotFoundError, and ValueError naming the file and what is wrong with it.
    """
    module = import_module(_module(path, format))
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such problem file: {path}")
    problem: CardinalityQubo = module.read(Path(path), **options)
    return problem


def write(
    problem: CardinalityQubo, path: str | PathLike[str], format: str | None = None, **options: Any
) -> None:
    """Write a problem; `format` (a name of TABLE) where the suffix does not say.

    Raises ValueError where the format cannot hold the problem (too large, constraints it does not know).
    """
    module = import_module(_module(path, format))
    if not hasattr(module, "write"):
        raise ValueError(f"{path}: this format is only read; write one of {', '.join(_writable())}")
    module.write(problem, Path(path), **options)


def _writable() -> list[str]:
    return [name for name, (_, module) in TABLE.items() if hasattr(import_module(module), "write")]


def _module(path: str | PathLike[str], format: str | None) -> str:
    if format is not None:
        if format not in TABLE:
            raise ValueError(f"unknown format {format!r}; known: {', '.join(TABLE)}")
        return TABLE[format][1]
    suffix = Path(path).suffix.lower()
    for suffixes, module in TABLE.values():
        if suffix in suffixes:
            return module
    known = ", ".join(s for suffixes, _ in TABLE.values() for s in suffixes)
    raise ValueError(f"{path}: no format has the suffix {suffix!r} (known: {known}); name one with format=")
