"""One typed wrapper of numba's njit, so that every kernel is compiled alike and stays typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

import numba

FLAGS = {"reassoc", "contract", "nsz"}

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile on first call: cached on disk, GIL released, sums reassociated for SIMD.

    Of fastmath only `reassoc`, `contract` and `nsz` are on: infinities keep their meaning, and a result
    depends on nothing but the inputs and the machine. The cache looks at the kernel's own file only: a kernel
    and everything it calls share one file.
    """
    compile_it = numba.njit(cache=True, nogil=True, fastmath=FLAGS, error_model="numpy")
    return cast(Callable[P, R], compile_it(function))


def parallel_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """The same for a kernel whose `prange` loop runs in threads; its passes of the loop share no state."""
    compile_it = numba.njit(cache=True, nogil=True, fastmath=FLAGS, error_model="numpy", parallel=True)
    return cast(Callable[P, R], compile_it(function))
