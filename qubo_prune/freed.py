"""Freed memory goes back to the system, where the C library would keep it in pieces for itself."""

import ctypes
from functools import cache
from typing import Any


def give_back() -> None:
    """Let glibc's allocator return what is free in its heap; nothing elsewhere.

    A step of iCBS keeps small tensors among large ones that it frees, so that the heap grows step by step:
    see the README for what a run took with and without this.
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Any:
    """The C library's function, or None where there is none."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
