"""The formats of a pruned weight and their products: scipy's and torch's CSR, and torch's 2:4 on CUDA."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

Product = Callable[[], object]
"""Computes W x once; operands are laid out as the format likes them before."""


@dataclass(frozen=True)
class Format:
    """prepare(weight (out, in), x (tokens, in)): the product. refusal: why not for this weight, or None.

    free: any mask will do, so that there is a break-even sparsity; 2:4 has the one sparsity of 50 %.
    """

    prepare: Callable[[Tensor, Tensor], Product]
    refusal: Callable[[Tensor], str | None]
    free: bool = True


def dense(weight: Tensor, x: Tensor) -> Product:
    """x W' by torch, the other formats' yardstick."""
    return lambda: linear(x, weight)


def _scipy_csr(weight: Tensor, x: Tensor) -> Product:
    import scipy.sparse

    matrix = scipy.sparse.csr_array(weight.numpy())
    operand = x[0].numpy() if len(x) == 1 else x.t().contiguous().numpy()
    return lambda: matrix @ operand


def _scipy_refusal(weight: Tensor) -> str | None:
    if weight.device.type != "cpu":
        return "on the CPU only"
    if weight.dtype not in (torch.float32, torch.float64):
        return "float32 and float64 only"
    return None


def _torch_csr(weight: Tensor, x: Tensor) -> Product:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "CSR is in beta state"
        matrix = weight.to_sparse_csr()
    operand = x[0].contiguous() if len(x) == 1 else x.t().contiguous()
    return lambda: matrix @ operand


def _torch_csr_refusal(weight: Tensor) -> str | None:
    if weight.device.type == "cpu" and weight.dtype not in (torch.float32, torch.float64):
        return "float32 and float64 only on the CPU"
    return None


def _semi_structured(weight: Tensor, x: Tensor) -> Product:
    from qubo_prune.selection import nm_mask

    pruned = weight.masked_fill(~nm_mask(weight.abs(), 2, 4), 0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "a prototype"
        matrix = torch.sparse.to_sparse_semi_structured(pruned)
    return lambda: linear(x, matrix)


def _semi_structured_refusal(weight: Tensor) -> str | None:
    out, inputs = weight.shape
    if weight.device.type != "cuda":
        return "on CUDA only"
    if weight.dtype not in (torch.float16, torch.bfloat16):
        return "float16 and bfloat16 only"
    if torch.cuda.get_device_capability(weight.device) < (8, 0):
        return "from compute capability 8.0 on"
    if out % 32 or inputs % 64:
        return f"{out} x {inputs} is not a multiple of 32 x 64"
    return None


FORMATS: dict[str, Format] = {
    "scipy_csr": Format(_scipy_csr, _scipy_refusal),
    "torch_csr": Format(_torch_csr, _torch_csr_refusal),
    "2:4": Format(_semi_structured, _semi_structured_refusal, free=False),
}
"""Every format by name; torch_csr is cuSPARSE on CUDA and MKL or torch's own on the CPU."""
