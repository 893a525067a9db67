"""What `qubo-prune allocate` does: the model, the text that a rule looks at, and the allocation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from qubo_prune.allocation import Allocation, Observed, allocate, check_allocation
from qubo_prune.allocation.search import tried
from qubo_prune.allocation_settings import AllocationSettings
from qubo_prune.calibration import TextSource, split_ranges, tokenise
from qubo_prune.cli.live import Live
from qubo_prune.cli.pruning import ranges
from qubo_prune.data import Data
from qubo_prune.forward import forward_of
from qubo_prune.layers import Layer, check_finite, prunable_layers
from qubo_prune.models import LoadedModel, load_model
from qubo_prune.objective import KLToDense
from qubo_prune.preparation import collect_evidence, share_out
from qubo_prune.products import quick_products
from qubo_prune.progress import Progress
from qubo_prune.recipe import Recipe
from qubo_prune.state import PruneState


@dataclass(frozen=True)
class Job:
    """What was asked for; windows and accept_windows of `length` tokens, `batch` of them a forward pass."""

    model: str
    settings: AllocationSettings
    sparsity: float
    text: str
    windows: int
    accept_windows: int
    length: int
    batch: int
    seed: int
    include: list[str]
    exclude: list[str]
    dtype: str
    device: str


@quick_products()
def run(job: Job, live: Live) -> Allocation:
    """The allocation; whatever can be refused without data is refused before texts are read."""
    live.phase("load model")
    loaded = load_model(job.model, dtype=job.dtype, device=job.device)
    layers = prunable_layers(loaded.model, job.include, job.exclude)
    check_finite(layers)
    check_allocation(layers, job.sparsity, job.settings)
    if tried(job.settings):
        return _searched(job, live, loaded, layers)
    observed = None
    if job.settings.method in ("owl", "fisher", "besa"):
        tokens = _tokens(job, live, loaded)
        found = split_ranges(
            tokens, calibrate=(job.windows, job.length), accept=(1, 2), report=(1, 2), seed=job.seed
        )
        batches = list(torch.split(found.calibrate, job.batch))
        observed = Observed(loaded.model, forward_of(loaded.model), batches)
    live.phase("allocation", len(layers))
    return allocate(layers, job.sparsity, job.settings, on_layer=live.done, observed=observed)


def _searched(job: Job, live: Live, loaded: LoadedModel, layers: Mapping[str, Layer]) -> Allocation:
    """What `prune` would take with a Wanda first mask, by its own functions and from the same ranges of the
    text: its report range is looked at by neither."""
    recipe = Recipe.parse({
        "sparsity": job.sparsity, "seed": job.seed, "allocation": job.settings, "refine": None,
        "calibration": {"windows": job.windows, "length": job.length,
                        "accept_windows": job.accept_windows, "accept_length": job.length},
    }, "--sparsity and --set")  # fmt: skip
    windows = ranges(_tokens(job, live, loaded), recipe)
    data = Data.of(windows, math.gcd(job.windows, job.batch))  # so that no window is left over

    def say(progress: Progress) -> None:
        live.phase(progress.phase, progress.total or None)
        live.done(progress.done, progress.total or None)

    state, objective = PruneState(loaded.model, layers), KLToDense()
    evidence = collect_evidence(state, objective, data, recipe, say)
    return share_out(state, objective, data, recipe, evidence, say)


def _tokens(job: Job, live: Live, loaded: LoadedModel) -> Tensor:
    """int64 (tokens,) of the text. InputError: no tokenizer, no such text."""
    live.phase("read text")
    return tokenise(loaded.needed_tokenizer("allocate"), TextSource(job.text).read())
