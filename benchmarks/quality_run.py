"""Running cells of the quality bench, a process each, each record written as soon as it is there."""

from __future__ import annotations

import json
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from quality_cells import Cell
from quality_figures import Record, measures, newest

from qubo_prune.api import Data, check, prune
from qubo_prune.calibration import Calibration, TextSource, split_ranges, tokenise
from qubo_prune.cli.output import plain
from qubo_prune.errors import InputError
from qubo_prune.evaluate import DenseReference, kl_to_dense, perplexity
from qubo_prune.initial import Evidence, initial_masks
from qubo_prune.layers import prunable_layers
from qubo_prune.models import LoadedModel, load_model
from qubo_prune.overlap import refuse_overlap
from qubo_prune.patterns import Pattern
from qubo_prune.provenance import peak_memory_bytes, provenance
from qubo_prune.recipe import Recipe
from qubo_prune.statistics.gram import collect_norms
from qubo_prune.statistics.tape import frozen
from qubo_prune.testing import TINY_MODELS, tiny_tokenizer
from qubo_prune.zeroshot import Subset, prepare, run_tasks
from qubo_solvers.bench.run import read_records


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    *,
    isolated: bool = True,
    again: bool = False,
    on_record: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Run what the folder has no record of yet (`again`: also what gave no figures), or one without the tasks
    that are wanted now; returns all records of the cells.

    Records go to folder/records.jsonl, a line each, as soon as a cell is done: a stopped run goes on where it
    was, and of a cell that is stopped nothing is kept. A cell that raises costs its own record only, which
    has the error. isolated: every cell in a process of its own, so that its peak memory is its own, and one
    that is killed costs only itself; else all in this process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "records.jsonl"
    known = newest(read_records(path), _key)
    if again:
        known = {key: r for key, r in known.items() if "perplexity" in r}
    cut = path.is_file() and not path.read_bytes().endswith(b"\n")  # a run was stopped within a line
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" if cut else "")
        for cell in cells:
            before = known.get(cell.key)
            if before is not None and ("perplexity" not in before or cell.zeroshot.within(before)):
                continue
            record = plain(_in_own_process(cell) if isolated else run_cell(cell))
            record |= {"process": "its own" if isolated else "shared"}
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            known |= newest([record] if before is None else [before, record], _key)
            if on_record is not None:
                on_record(record)
    return [known[cell.key] for cell in cells if cell.key in known]


def _key(record: Record) -> str:
    return str(record["key"])


def _in_own_process(cell: Cell) -> Record:
    """The record of a cell that a new process runs; the process never outlives the call."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    worker = context.Process(target=_send, args=(cell, sender), daemon=True)
    worker.start()
    sender.close()
    try:
        record: Record = receiver.recv()
    except EOFError:
        worker.join()
        told = f"its process ended with code {worker.exitcode}, killed for want of memory perhaps"
        record = _header(cell) | {"error": told}
    finally:
        worker.terminate()
        worker.join()
    return record


def _send(cell: Cell, sender: Connection) -> None:
    """Run a cell in a worker, which leaves Ctrl-C to the process that waits for it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sender.send(plain(run_cell(cell)))


def _header(cell: Cell) -> Record:
    return {"key": cell.key, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **cell.described()}


def run_cell(cell: Cell) -> Record:
    """One run with everything the report needs; what a method cannot do becomes the record's `refused`, any
    other exception its `error`."""
    record = _header(cell)
    try:
        recipe = None if cell.method is None else cell.recipe()
    except InputError as error:
        return record | {"refused": str(error)}
    try:
        return record | _measured(cell, recipe)
    except Exception as error:
        told = traceback.format_exc(limit=5)
        return record | {"error": f"{type(error).__name__}: {error}", "traceback": told}


def _measured(cell: Cell, recipe: Recipe | None) -> Record:
    """Load, prune, measure. KeyboardInterrupt: the pruning was stopped, so there is nothing to record."""
    clock = _Clock()
    s = cell.setting
    loaded = load(cell)
    tokens, evaluation = (tokenise(loaded.tokenizer, TextSource(t).read()) for t in (s.calibration, s.text))
    refuse_overlap(tokens, evaluation)
    ranges = split_ranges(
        tokens,
        calibrate=(s.windows, s.length),
        accept=(s.accept_windows, s.length),
        report=(s.report_windows, s.length),
        seed=cell.seed,
    )
    jobs = prepare(cell.zeroshot.tasks, Subset(cell.zeroshot.limit))
    clock.lap("load")
    found: Record = {}
    dense: DenseReference | None = None
    if recipe is not None and recipe.objective != "kl":  # else the pruning itself reports this KL
        dense = DenseReference(loaded.model, ranges.report)
        clock.lap("dense answers")
    distance = 0.0
    if recipe is not None:
        try:
            check(loaded.model, ranges, recipe)
        except InputError as error:
            return {"refused": str(error)}
        with torch.no_grad():
            loaded.model(Data.of(ranges, 1).calibrate[0])  # the first pass reads the weights and compiles
        clock.lap("warm-up")
        wanda_pass(loaded, ranges, recipe)
        clock.lap("wanda pass")
        stages: dict[str, float] = {}

        def on_masks(name: str, model: torch.nn.Module) -> None:
            later = recipe.stages[2:]  # the masks alone: with the weights as they came
            if name == "refined" and later and not recipe.initial.moves_values and name not in stages:
                found = perplexity(model, evaluation, length=s.eval_length, windows=s.eval_windows)
                stages[name] = found.perplexity

        report = prune(loaded.model, ranges, recipe, on_masks=on_masks)
        clock.lap("prune")
        if report.stopped == "interrupted":
            raise KeyboardInterrupt
        distance = report.figures[recipe.stages[-1]] if dense is None else kl_to_dense(loaded.model, dense)
        clock.lap("KL")
        phases = {name: value for name, value in report.seconds.items() if not measures(name)}
        counted = report.to_dict()
        found = {
            "pruned_weights": counted["pruned_weights"],
            "total_weights": counted["total_weights"],
            "swaps": report.swaps,
            "stopped": report.stopped,
            "figures": report.figures,
            "seconds_by_phase": phases,
            "prune_seconds": sum(phases.values()),
            "wanda_seconds": clock.seconds["wanda pass"],
            "perplexity_masks_alone": stages.get("refined"),
            "curve": [[r.seconds, r.loss] for r in report.curve],
            "refits": [[r.seconds, r.accept] for r in report.refits],
        }
    text = perplexity(loaded.model, evaluation, length=s.eval_length, windows=s.eval_windows)
    clock.lap("perplexity")
    tasks = run_tasks(jobs, loaded.model, loaded.tokenizer, batch=cell.zeroshot.batch)
    clock.lap("tasks")
    cuda = torch.cuda.max_memory_allocated() if s.device.startswith("cuda") else None
    return found | {
        "perplexity": text.perplexity,
        "kl": distance,
        "tasks": [result.to_dict() for result in tasks],
        "zeroshot": {"tasks": list(cell.zeroshot.tasks), "limit": cell.zeroshot.limit},
        "seconds": clock.seconds,
        "peak_memory_bytes": peak_memory_bytes(),
        "peak_cuda_bytes": cuda,
        "provenance": provenance(cell.seed),
    }


def load(cell: Cell) -> LoadedModel:
    """The cell's model; `tiny:FAMILY` is a random one of `qubo_prune.testing`."""
    kind, _, family = cell.model.partition(":")
    if kind != "tiny":
        return load_model(cell.model, dtype=cell.setting.dtype, device=cell.setting.device)
    if family not in TINY_MODELS:
        raise InputError(f"model {cell.model!r}: tiny models are {', '.join(TINY_MODELS)}")
    return LoadedModel(TINY_MODELS[family](), tiny_tokenizer(), cell.model)


def wanda_pass(loaded: LoadedModel, ranges: Calibration, recipe: Recipe) -> None:
    """What plain Wanda computes for the same target from the same windows; the model is not changed."""
    layers = prunable_layers(loaded.model, recipe.include, recipe.exclude)
    with frozen(loaded.model):
        moments = collect_norms(loaded.model, layers, Data.of(ranges, 1).calibrate)
    pattern = None if recipe.pattern is None else Pattern.parse(recipe.pattern)
    initial_masks("wanda", layers, recipe.sparsity, evidence=Evidence(moments), pattern=pattern)


class _Clock:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now
