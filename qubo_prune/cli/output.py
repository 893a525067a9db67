"""What every command shares in what it prints: results on standard output, the rest and one-line errors on
standard error."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import typer
from rich.console import Console

from qubo_prune.errors import InputError
from qubo_prune.whole_file import replacing

P = ParamSpec("P")

MODEL_FILES = (
    "*.safetensors*",
    "*.gguf",
    "*config.json",
    "tokenizer*",
    "special_tokens*",
    "vocab*",
    "merges*",
)
"""Files of a model's folder that loading it reads."""

DEBUG_VARIABLE = "QUBO_PRUNE_DEBUG"
"""Set it to see the traceback of an error that is otherwise one line."""


def results() -> Console:
    """Where results go: standard output."""
    return Console(highlight=False)


def notes() -> Console:
    """Where progress and remarks go: standard error."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    typer.echo(json.dumps(plain(value), allow_nan=False))


def write_json(value: Any, path: Path) -> None:
    """One JSON value into a file, indented."""
    write_text(json.dumps(plain(value), allow_nan=False, indent=1) + "\n", path)


def write_text(text: str, path: Path) -> None:
    """A file of this text, whole or as it was before; a device or pipe is written to."""
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
        return
    with replacing(path) as half:
        half.write_text(text, encoding="utf-8")


def check_file(path: Path | None, option: str = "--output", inputs: Iterable[Path | str | None] = ()) -> None:
    """InputError where a result could not be written to this file in the end, or one of the command's inputs
    (files, folders of models, or other names) would be damaged by it; None is no file."""
    if path is None:
        return
    if path.is_file() and any(_is_read(path.resolve(), Path(given)) for given in inputs if given is not None):
        raise InputError(f"{option} {str(path)!r} is what this command reads: name another file")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{option} {str(path)!r}: there is no folder {str(path.absolute().parent)!r}")
    if path.is_dir():
        raise InputError(
            f"{option} {str(path)!r} is a folder: name a file to write, as {str(path / 'out')!r}"
        )
    if path.exists() and not path.is_file():
        return
    try:
        with tempfile.TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise InputError(f"{option} {str(path)!r}: nothing can be written to its folder: {why}") from None


def _is_read(path: Path, given: Path) -> bool:
    """Whether the file is this input, or belongs to the model in this folder."""
    source = given.expanduser().resolve()
    if source.is_dir():
        return path.parent == source and any(path.match(pattern) for pattern in MODEL_FILES)
    return path == source


def plain(value: Any) -> Any:
    """The value in JSON's own types: arrays as lists, their scalars as numbers, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if hasattr(value, "tolist"):  # numpy's and torch's
        return plain(value.tolist())
    return str(value)


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """What a user can cause becomes one line on standard error and exit code 2; Ctrl-C exit code 130."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError, ImportError) as error:  # InputError is a ValueError
            if os.environ.get(DEBUG_VARIABLE):
                raise
            typer.echo(f"error: {one_line(error)}", err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt as stop:  # with what there is, where the command says so
            typer.echo(f"interrupted: {stop.args[0] if stop.args else 'nothing was saved'}", err=True)
            raise typer.Exit(130) from None

    return run


def one_line(error: BaseException) -> str:
    """An error's message on one line; its type where it has none."""
    first, *more = [line.strip() for line in str(error).splitlines() if line.strip()] or [
        type(error).__name__
    ]
    return " ".join([first, "; ".join(more)]).strip()


def assignments(pairs: list[str]) -> dict[str, Any]:
    """{"a.b": value} of ["a.b=value", ...], each value read as YAML: numbers, true, null, lists, text."""
    import yaml

    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key.strip() and equals):
            raise InputError(f"--set {pair!r}: write key=value")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"--set {pair!r}: {value!r} is not a YAML value") from None
    return found


def number(value: float | None, digits: int = 2) -> str:
    """A figure for a table; "-" where there is none."""
    return "-" if value is None or not math.isfinite(value) else f"{value:,.{digits}f}"
