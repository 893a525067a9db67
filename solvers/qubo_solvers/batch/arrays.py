"""What a batch does alike to NumPy arrays and torch tensors, torch itself not imported."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any
"""A NumPy array or a torch tensor."""


def is_tensor(array: Array) -> bool:
    """Whether it is a torch tensor."""
    return hasattr(array, "detach")


def as_array(array: Array) -> Array:
    """A detached tensor as it is, anything else as a NumPy array."""
    return array.detach() if is_tensor(array) else np.asarray(array)


def double(array: Array) -> Array:
    """In float64, where it lies; itself where it is float64 already."""
    return array.double() if is_tensor(array) else np.asarray(array, dtype=np.float64)


def host(array: Array) -> NDArray[Any]:
    """As a NumPy array, numbers of 16 bits as float32; it shares its memory with an array or tensor of other
    dtypes on the CPU."""
    if is_tensor(array):
        tensor = array.detach().cpu()
        half = tensor.is_floating_point() and tensor.element_size() == 2
        return np.asarray((tensor.float() if half else tensor).numpy())
    found = np.asarray(array)
    return found.astype(np.float32) if found.dtype == np.float16 else found


def is_real(array: Array) -> bool:
    """Whether its entries are floating-point numbers."""
    return bool(array.is_floating_point() if is_tensor(array) else array.dtype.kind == "f")


def is_finite(array: Array) -> bool:
    """Whether no entry is NaN or infinite."""
    return bool(array.isfinite().all() if is_tensor(array) else np.isfinite(array).all())
