"""Prune neural networks with real optimisers; importing this package alone does not import torch."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_LAZY = {
    "load_model": "qubo_prune.models",
    "prunable_layers": "qubo_prune.layers",
    "save_model": "qubo_prune.saving",
    "load_masks": "qubo_prune.mask_file",
    "perplexity": "qubo_prune.evaluate",
}
"""Public name -> the module that has it, imported when the name is first used."""

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    """The public names of `_LAZY`, imported on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'qubo_prune' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
