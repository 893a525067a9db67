"""Save a pruned model as a folder that transformers opens as it is, with its masks beside the weights."""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_model as save_module
from torch import Tensor, nn

from qubo_prune.errors import InputError
from qubo_prune.layers import linear_layers
from qubo_prune.mask_file import MASK_FILE, save_masks
from qubo_prune.masks import verify
from qubo_prune.models import LoadedModel, quiet


def check_output(out_dir: str | Path) -> Path:
    """The folder to write to, or a refusal, before any work is done. Nothing is created.

    InputError: out_dir is a file or a folder with something in it, or its nearest existing parent is not a
    folder that can be written to.
    """
    path = Path(out_dir).expanduser().absolute()
    if path.is_dir() and any(path.iterdir()):
        raise InputError(f"output {str(out_dir)!r}: the folder is not empty; give a new one, or empty it.")
    if path.exists() and not path.is_dir():
        raise InputError(f"output {str(out_dir)!r} is a file; give a folder.")
    parent = next(folder for folder in path.parents if folder.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"output {str(out_dir)!r}: {parent} is not a folder that can be written to.")
    return path


def save_model(
    model: LoadedModel | nn.Module,
    tokenizer: Any,
    masks: Mapping[str, Tensor],
    out_dir: str | Path,
) -> Path:
    """Write weights (safetensors), configuration, tokenizer and `masks.safetensors` to a new folder; returns
    it.

    The weights are written as they are, tied weights once and tied again on loading; plain
    `AutoModelForCausalLM.from_pretrained(out_dir)` opens the folder. A module that is not a transformers
    model gets `model.safetensors` alone. Everything is written to a temporary folder beside `out_dir`, which
    then takes its name: an interruption leaves no half-written `out_dir`.
    tokenizer: with `save_pretrained`, or None (then a LoadedModel's own is saved).

    InputError: as for `check_output`, or masks that fit no layer. MaskMismatch: a weight that the masks prune
    is not zero (`masks.apply` them first). All are raised before anything is written.
    """
    path = check_output(out_dir)
    if isinstance(model, LoadedModel):
        tokenizer = model.tokenizer if tokenizer is None else tokenizer
        model = model.model
    if masks:
        verify(linear_layers(model), masks)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{path.name}.", dir=path.parent, ignore_cleanup_errors=True
    ) as scratch:
        folder = Path(scratch) / path.name
        folder.mkdir()
        _write(model, tokenizer, masks, folder)
        if path.is_dir():
            path.rmdir()
        folder.rename(path)
    return path


def _write(model: nn.Module, tokenizer: Any, masks: Mapping[str, Tensor], folder: Path) -> None:
    """All files of a saved model."""
    saver = getattr(model, "save_pretrained", None)
    with quiet():
        if callable(saver):
            saver(str(folder))
        else:
            save_module(model, str(folder / "model.safetensors"))
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))
    if masks:
        save_masks(masks, folder / MASK_FILE)
