"""Float32 products of matrices by oneDNN on CPUs where MKL takes a slow path, at the same precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch

from qubo_solvers.machine import processor

_ERROR = 1e-6
"""Relative error of a product up to which it counts as one of float32 (bfloat16 is off by 3e-3)."""


@contextmanager
def quick_products() -> Iterator[None]:
    """While it lasts, float32 products go to oneDNN where that is quicker; usable as a decorator.

    MKL uses half the width of an AMD processor's AVX-512. torch gives float32 products to oneDNN where the
    "medium" precision is asked for: that allows bfloat16, which oneDNN then uses on processors with AMX only;
    elsewhere the error is that of float32. So this is done on an AMD processor, after a product has been
    compared with float64, and not where a caller has set a precision or CUDA is there, for which the same
    setting would mean TF32. Measured on one thread of Zen 5, shapes of SmolLM2: 250 GFLOPS instead of 112.
    """
    chosen = _usable() and _precision() == "highest"
    if not chosen:
        yield
        return
    with _medium():
        yield


@contextmanager
def _medium() -> Iterator[None]:
    """That precision, and afterwards what was set before, for single back ends too (torch 2.9 has these)."""
    backends = [torch.backends.mkldnn, torch.backends.cuda]
    before = [getattr(backend.matmul, "fp32_precision", None) for backend in backends]
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision("highest")
        for backend, precision in zip(backends, before, strict=True):
            if precision is not None:
                backend.matmul.fp32_precision = precision


def _precision() -> str:
    """torch's present setting; "mixed" where a caller has set single back ends."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "mixed"


@lru_cache(maxsize=1)
def _usable() -> bool:
    """Whether the processor gains by it, and a product by oneDNN has float32's precision."""
    if "AMD" not in processor() or torch.cuda.is_available() or _precision() != "highest":
        return False
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in ((256, 512), (512, 256)))
    exact = a.double() @ b.double()
    with _medium():
        found = a @ b
    return float((found.double() - exact).norm() / exact.norm()) < _ERROR
