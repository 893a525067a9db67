"""One typed wrapper of numba's njit, so that every kernel is compiled alike and stays typed."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import numba

OPTIONS: dict[str, Any] = {
    "cache": True,
    "nogil": True,
    "fastmath": {"reassoc", "contract", "nsz"},
    "error_model": "numpy",
}

P = ParamSpec("P")
R = TypeVar("R")

PACKAGE = __name__.rpartition(".")[0] + "."


def kernel(function: Callable[P, R], inline: bool = False) -> Callable[P, R]:
    """Compile on first call: cached on disk, GIL released, sums reassociated for SIMD.

    Of fastmath only `reassoc`, `contract` and `nsz` are on: infinities keep their meaning, and a result
    depends on nothing but the inputs and the machine. A kernel may call kernels of other files of this
    package that its file imports by name: a change in any of these has it compiled again.
    """
    compiled = numba.njit(**OPTIONS, forceinline=inline)(function)
    _stamp(compiled, function)
    return cast(Callable[P, R], compiled)


def parallel_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """The same for a kernel whose `prange` loop runs in threads; its passes of the loop share no state."""
    compiled = numba.njit(**OPTIONS, parallel=True)(function)
    _stamp(compiled, function)
    return cast(Callable[P, R], compiled)


def inlined(function: Callable[P, R]) -> Callable[P, R]:
    """A kernel that becomes part of its callers: for small ones, as every array of a state is an argument of
    seven words."""
    return kernel(function, inline=True)


def sources(module: str, found: set[str] | None = None) -> set[str]:
    """The modules of this package that a module's names come from, itself among them, and theirs."""
    found = set() if found is None else found
    if module.startswith(PACKAGE) and module not in found:
        found.add(module)
        for value in list(vars(sys.modules[module]).values()):
            sources(getattr(value, "__module__", None) or "", found)
    return found


def _stamp(compiled: Any, function: Callable[..., Any]) -> None:
    """numba's cache looks at the kernel's own file only: add the others that it may call to its stamp."""
    others = sorted(sources(function.__module__) - {function.__module__, __name__})
    cache: Any = getattr(getattr(compiled, "_cache", None), "_cache_file", None)
    if others and hasattr(cache, "_source_stamp"):
        files = [Path(cast(str, sys.modules[name].__file__)) for name in others]
        digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
        cache._source_stamp = (cache._source_stamp, digest)
