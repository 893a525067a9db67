"""Models of the quality bench: a GGUF is dequantised once and kept as a folder that opens in a second."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path

import transformers
from quality_cells import Cell
from quality_figures import slug

from qubo_prune.errors import InputError
from qubo_prune.models import LoadedModel, load_model
from qubo_prune.saving import save_model
from qubo_prune.sources import package_path
from qubo_prune.testing import TINY_MODELS, tiny_tokenizer


def load(cell: Cell, kept: Path | None = None) -> LoadedModel:
    """The cell's model, from its kept folder where there is one; `tiny:FAMILY` is a random one of
    `qubo_prune.testing`. InputError: as for `load_model`, and no such family."""
    kind, _, family = cell.model.partition(":")
    if kind != "tiny":
        s = cell.setting
        return replace(load_model(kept or cell.model, dtype=s.dtype, device=s.device), spec=cell.model)
    if family not in TINY_MODELS:
        raise InputError(f"model {cell.model!r}: tiny models are {', '.join(TINY_MODELS)}")
    return LoadedModel(TINY_MODELS[family](), tiny_tokenizer(), cell.model)


def kept_folder(model: str, dtype: str, models: Path) -> Path | None:
    """The folder below `models` that keeps a model's weights in a dtype, there or not; None for a model that
    no GGUF file is the source of: a folder, and what the Hub has, are safetensors as they come.

    Its name has the file's path, size and time of change, and the version of what dequantises it: a folder
    of that name is never out of date.
    """
    source = _gguf_file(model)
    if source is None:
        return None
    state = source.stat()
    told = f"{source} {state.st_size} {state.st_mtime_ns} {transformers.__version__}"
    digest = hashlib.sha256(told.encode()).hexdigest()[:8]
    return models.absolute() / f"{slug(model)}-{dtype}-{digest}"


def keep(model: str, dtype: str, folder: Path) -> None:
    """Load a model on the CPU and save it as the folder, whole or not at all.

    Where that fails there is no folder: each cell then loads the model itself, and says what is wrong with
    it. Or there is that of another run of the bench, which was faster.
    """
    with contextlib.suppress(InputError, OSError):
        save_model(load_model(model, dtype=dtype), None, {}, folder)


def _gguf_file(model: str) -> Path | None:
    """The one GGUF file that a spec names: itself, or below the folder of a package. As `load_model` finds
    it, which has the last word."""
    kind, _, rest = model.partition(":")
    try:
        path = package_path(rest) if kind == "package" else Path(model).expanduser()
    except InputError:
        return None
    if path.is_file():
        files = [path]
    elif kind == "package" and not (path / "config.json").is_file():
        files = sorted(path.rglob("*.gguf"))
    else:
        files = []
    return files[0].resolve() if len(files) == 1 and files[0].suffix == ".gguf" else None
