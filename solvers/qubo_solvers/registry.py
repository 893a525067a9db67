"""The registry: every solver's name in one visible table, imported only when it is asked for."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, cast

from qubo_solvers.solver import Capabilities, Solver

Factory = Callable[..., Solver]

TABLE: dict[str, str | Factory] = {
    # name          module:Class                         what it is
    "auto": "qubo_solvers.auto:Auto",  # picks one of the others and says why
    "exhaustive": "qubo_solvers.exhaustive:Exhaustive",  # exact by enumeration, the oracle of the tests
    "descent": "qubo_solvers.descent:Descent",  # best-improvement local search with restarts
    "anneal": "qubo_solvers.anneal:Anneal",  # simulated annealing with swaps, the default
    "tabu": "qubo_solvers.tabu:Tabu",  # tabu search with swaps
    "path_relinking": "qubo_solvers.path_relinking:PathRelinking",  # tabu between elites, for long searches
    "cpsat": "qubo_solvers.cpsat:CpSat",  # OR-Tools CP-SAT: bounds, and proofs on small blocks
    "highs": "qubo_solvers.highs:Highs",  # HiGHS branch and cut on the linearised problem
    "scip": "qubo_solvers.scip:Scip",  # SCIP on the same
    "neal": "qubo_solvers.neal:Neal",  # dwave-neal through a penalty, feasible by repair
    "dwave_tabu": "qubo_solvers.dwave_tabu:DwaveTabu",  # dwave-samplers' tabu search, the same way
    "dwave_descent": "qubo_solvers.dwave_descent:DwaveDescent",  # its steepest descent
    "openjij": "qubo_solvers.openjij:OpenJij",  # OpenJij's simulated (quantum) annealing
    "simulated_bifurcation": "qubo_solvers.simulated_bifurcation:SimulatedBifurcation",  # on PyTorch
    "dwave_qpu": "qubo_solvers.quantum.dwave_qpu:DwaveQpu",  # D-Wave's quantum annealer
    "leap_bqm": "qubo_solvers.quantum.leap_bqm:LeapBqm",  # D-Wave's hybrid solver, through a penalty
    "leap_cqm": "qubo_solvers.quantum.leap_cqm:LeapCqm",  # D-Wave's hybrid solver, counts as constraints
}


def names() -> tuple[str, ...]:
    """Every registered name, built-in ones first, available here or not."""
    return tuple(TABLE)


def register(name: str, factory: Factory | str, *, replace: bool = False) -> None:
    """Enter a solver under a name: a class or function returning a Solver, or "package.module:Class".

    Raises ValueError where the name is empty, contains ":", or is taken and `replace` is not set.
    """
    if not name or ":" in name:
        raise ValueError(f"solver name {name!r} must be non-empty and without ':'")
    if name in TABLE and not replace:
        raise ValueError(
            f"solver {name!r} is registered already; pass replace=True to put another in its place"
        )
    if isinstance(factory, str):
        _split(factory)
    TABLE[name] = factory


def get(name: str, **options: Any) -> Solver:
    """A new solver by its registered name or as "package.module:Class", with its constructor's options.

    Raises ValueError on an unknown name (with the known ones and a suggestion) and on an unknown option (with
    the solver's own), ImportError where a "package.module:Class" cannot be imported.
    """
    factory = _factory(name)
    known = _options(factory)
    if known is not None:
        for option in options:
            if option not in known:
                listed = (", ".join(known) or "none") + _suggest(option, known)
                raise ValueError(f"solver {name!r} has no option {option!r}; its options: {listed}")
    try:
        solver = factory(**options)
    except ValueError as error:
        given = ", ".join(f"{option}={value!r}" for option, value in options.items())
        raise ValueError(f"solver {name!r} with {given or 'no options'}: {error}") from None
    if not isinstance(solver, Solver):
        raise ValueError(
            f"{name!r} gave {type(solver).__name__}, which lacks a Solver's name, capabilities, solve"
        )
    return solver


def options(name: str) -> dict[str, Any]:
    """A solver's constructor options and their defaults (inspect.Parameter.empty where there is none)."""
    parameters = inspect.signature(_factory(name)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind in _NAMED}


def capabilities(name: str) -> Capabilities:
    """A solver's class data; its heavy back end is not imported for this."""
    factory = _factory(name)
    found = getattr(factory, "capabilities", None)
    return cast(Capabilities, found if found is not None else factory().capabilities)


def availability(name: str) -> tuple[bool, str]:
    """Whether a solver can run here, and if not why, with the install hint; nothing heavy is imported.

    Raises ValueError on an unknown name.
    """
    try:
        return can_run(name, capabilities(name))
    except ImportError as error:
        return False, f"solver {name!r} cannot be imported: {error}"


def can_run(name: str, declared: Capabilities) -> tuple[bool, str]:
    """Whether every module that the capabilities require is found (not imported) and the solver configured,
    and if not the reason."""
    missing = [module for module in declared.requires if not _found(module)]
    if not missing:
        reason = _load(declared.configured)() if declared.configured else ""
        return not reason, f"solver {name!r} {reason}" if reason else ""
    hint = f"; install it with: {declared.install}" if declared.install else ""
    return False, f"solver {name!r} needs {', '.join(missing)}, which is not installed{hint}"


_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _split(path: str) -> tuple[str, str]:
    module, colon, attribute = path.partition(":")
    if not (module and colon and attribute):
        raise ValueError(f"{path!r} is not of the form 'package.module:Class'")
    return module, attribute


def _factory(name: str) -> Factory:
    entry = TABLE.get(name, name if ":" in name else None)
    if entry is None:
        raise ValueError(
            f"unknown solver {name!r}; known: {', '.join(TABLE)}; or give 'package.module:Class'"
            + _suggest(name, list(TABLE))
        )
    if not isinstance(entry, str):
        return entry
    return cast(Factory, _load(entry, name))


def _load(path: str, name: str | None = None) -> Any:
    module, attribute = _split(path)
    try:
        return getattr(import_module(module), attribute)
    except AttributeError:
        raise ImportError(f"module {module!r} has no {attribute!r} (asked for as {name or path!r})") from None


def _options(factory: Factory) -> list[str] | None:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:  # some built-in callables have none to show
        return None
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters if p.kind in _NAMED]


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f". Did you mean {close[0]!r}?" if close else ""
