"""Allocations of the quality bench that take long: found once, and read again by cells that share them."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from quality_cells import Cell

from qubo_prune.allocation import Allocation
from qubo_prune.allocation_file import header, read, write
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
        more = header(file)["more"]
        return read(file), more["seconds"], more["memory"]
    begun = time.perf_counter()
    state = PruneState(loaded.model, prunable_layers(loaded.model, recipe.include, recipe.exclude))
    found = share_out(state, KLToDense(), Data.of(ranges, 1), recipe, Evidence(), lambda progress: None)
    seconds, memory = time.perf_counter() - begun, peak_memory_bytes()
    write(file, found, seconds=seconds, memory=memory)
    return found, seconds, memory


def _key(cell: Cell, recipe: Recipe) -> str:
    """Of all that the allocation depends on."""
    s = cell.setting
    text = [cell.model, s.calibration, s.windows, s.length, s.accept_windows, s.report_windows, s.dtype]
    data = [*text, s.device, cell.seed, recipe.sparsity, recipe.include, recipe.exclude]
    rule = recipe.allocation.model_dump(mode="json")
    if rule.get("device") is None:  # of no account, and unknown to files written before it was a setting
        rule.pop("device", None)
    told = json.dumps([data, recipe.calibration.windows, rule])
    return hashlib.sha256(told.encode()).hexdigest()[:16]
