"""Allocations of the quality bench that take long: found once, and read again by cells that share them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import torch
from quality_cells import Cell
from safetensors import safe_open
from safetensors.torch import save_file

from qubo_prune.allocation import Allocation
from qubo_prune.allocation_settings import Besa
from qubo_prune.api import Data
from qubo_prune.calibration import Calibration
from qubo_prune.initial import Evidence
from qubo_prune.layers import prunable_layers
from qubo_prune.models import LoadedModel
from qubo_prune.objective import KLToDense
from qubo_prune.preparation import share_out
from qubo_prune.provenance import peak_memory_bytes
from qubo_prune.recipe import Recipe
from qubo_prune.state import PruneState


def can_share(recipe: Recipe) -> bool:
    """Whether a recipe's allocation takes long and goes by nothing but the calibration windows: BESA's rates,
    without grids, whatever masks and values follow."""
    rule = recipe.allocation
    return isinstance(rule, Besa) and (
        rule.quantise is None
        and recipe.refine is None
        and rule.between.method != "fisher"
        and recipe.pattern is None
        and recipe.calibration.own == 0
        and recipe.objective == "kl"
    )


def shared(
    cell: Cell, recipe: Recipe, loaded: LoadedModel, ranges: Calibration, folder: Path
) -> tuple[Allocation, float, int]:
    """The allocation, its seconds, and the most memory (bytes) of the process that found it: from the folder
    where a cell has left it there, else found now and left there."""
    file = folder / f"{_key(cell, recipe)}.safetensors"
    if file.is_file():
        return _read(file)
    begun = time.perf_counter()
    state = PruneState(loaded.model, prunable_layers(loaded.model, recipe.include, recipe.exclude))
    found = share_out(state, KLToDense(), Data.of(ranges, 1), recipe, Evidence(), lambda progress: None)
    seconds, memory = time.perf_counter() - begun, peak_memory_bytes()
    _write(file, found, seconds, memory)
    return found, seconds, memory


def _key(cell: Cell, recipe: Recipe) -> str:
    """Of all that the allocation depends on."""
    s = cell.setting
    text = [cell.model, s.calibration, s.windows, s.length, s.accept_windows, s.report_windows, s.dtype]
    data = [*text, s.device, cell.seed, recipe.sparsity, recipe.include, recipe.exclude]
    told = json.dumps([data, recipe.calibration.windows, recipe.allocation.model_dump(mode="json")])
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _write(file: Path, found: Allocation, seconds: float, memory: int) -> None:
    """The whole file or none, also where another cell writes the same."""
    file.parent.mkdir(parents=True, exist_ok=True)
    data = {
        "method": found.method, "counts": found.counts, "sizes": found.sizes, "seen": found.seen,
        "details": found.details, "seconds": seconds, "memory": memory,
    }  # fmt: skip
    part = file.with_suffix(f".{os.getpid()}")
    rows = {name: tensor.contiguous() for name, tensor in found.rows.items()}
    save_file(rows or {"": torch.zeros(0)}, part, metadata={"allocation": json.dumps(data)})
    os.replace(part, file)


def _read(file: Path) -> tuple[Allocation, float, int]:
    with safe_open(file, framework="pt") as opened:
        data = json.loads(opened.metadata()["allocation"])
        rows = {name: opened.get_tensor(name) for name in opened.keys() if name}  # noqa: SIM118
    found = Allocation(
        data["method"], data["counts"], data["sizes"], seen=data["seen"], rows=rows, details=data["details"]
    )
    return found, data["seconds"], data["memory"]
