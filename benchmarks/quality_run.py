"""Running cells of the quality bench, a process each, each record written as soon as it is there."""

from __future__ import annotations

import json
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch
from quality_allocations import can_share, shared
from quality_cells import Cell
from quality_clock import Clock, wanda_pass
from quality_figures import Record, measures, newest
from quality_models import keep, kept_folder, load
from quality_workers import Died, run_apart

from qubo_prune.api import Data, check, prune
from qubo_prune.calibration import TextSource, split_ranges, tokenise
from qubo_prune.cli.output import plain
from qubo_prune.errors import InputError
from qubo_prune.evaluate import DenseReference, kl_to_dense, perplexity
from qubo_prune.overlap import refuse_overlap
from qubo_prune.provenance import peak_memory_bytes, provenance
from qubo_prune.recipe import Recipe
from qubo_prune.zeroshot import Subset, prepare, run_tasks
from qubo_solvers.bench.run import read_records


def run_cells(
    cells: Sequence[Cell],
    folder: Path,
    *,
    isolated: bool = True,
    again: bool = False,
    jobs: int = 1,
    on_record: Callable[[Record], None] | None = None,
) -> list[Record]:
    """Run what the folder has no record of yet (`again`: also what gave no figures), or one without the tasks
    that are wanted now; returns all records of the cells.

    Records go to folder/records.jsonl, a line each, as soon as a cell is done: a stopped run goes on where it
    was, and of a cell that is stopped nothing is kept. A cell that raises costs its own record only, which
    has the error. isolated: every cell in a process of its own, so that its peak memory is its own, and one
    that is killed costs only itself, up to `jobs` at once, with models out of folder/models where these are
    GGUF files; else all in this process, one after another.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "records.jsonl"
    known = newest(read_records(path), _key)
    if again:
        known = {key: r for key, r in known.items() if "perplexity" in r}
    cut = path.is_file() and not path.read_bytes().endswith(b"\n")  # a run was stopped within a line
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" if cut else "")

        def done(found: Record) -> None:
            how = {"process": "its own", "jobs": jobs} if isolated else {"process": "shared", "jobs": 1}
            record = plain(found) | how
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
            before = known.get(record["key"])
            known.update(newest([record] if before is None else [before, record], _key))
            if on_record is not None:
                on_record(record)

        for own in _rounds(cells):
            wanted = [cell for cell in own if _wanted(cell, known.get(cell.key))]
            if isolated:
                _run_apart(wanted, folder, jobs, done)
            else:
                for cell in wanted:
                    done(run_cell(cell, folder))
    return [known[cell.key] for cell in cells if cell.key in known]


def adopt(records: Sequence[Record], folder: Path, keys: Collection[str]) -> None:
    """Take over the records of these cells into the folder, of those that it has none of."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "records.jsonl"
    known = {r["key"] for r in read_records(path)}
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            if record["key"] in keys and record["key"] not in known:
                file.write(json.dumps(record, allow_nan=False) + "\n")


def _key(record: Record) -> str:
    return str(record["key"])


def _rounds(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells, those of one key (with other tasks each) in rounds of their own: what the first of them gave
    tells whether the next has to run."""
    rounds: list[list[Cell]] = []
    seen: Counter[str] = Counter()
    for cell in cells:
        if seen[cell.key] == len(rounds):
            rounds.append([])
        rounds[seen[cell.key]].append(cell)
        seen[cell.key] += 1
    return rounds


def _wanted(cell: Cell, before: Record | None) -> bool:
    """Whether a cell has no record yet, or one whose figures lack its tasks."""
    return before is None or ("perplexity" in before and not cell.zeroshot.within(before))


def _run_apart(cells: Sequence[Cell], folder: Path, jobs: int, done: Callable[[Record], None]) -> None:
    """Each cell in a process of its own, after its model has been kept in folder/models, where that pays."""
    models = folder / "models"
    names = {(cell.model, cell.setting.dtype) for cell in cells}
    folders = {name: kept_folder(*name, models) for name in sorted(names)}
    missing = [(*name, path) for name, path in folders.items() if path is not None and not path.is_dir()]
    run_apart(keep, missing)  # one after another, and in a process: its memory goes back
    kept = {name: path for name, path in folders.items() if path is not None and path.is_dir()}

    def on_done(number: int, result: Record | Died) -> None:
        died = isinstance(result, Died)
        done(_header(cells[number]) | {"error": result.told} if died else result)

    pieces = [(cell, folder, kept.get((cell.model, cell.setting.dtype))) for cell in cells]
    run_apart(_plain_record, pieces, jobs, on_done)


def _plain_record(cell: Cell, folder: Path, kept: Path | None) -> Record:
    """`run_cell` for another process: tensors would not survive this one."""
    record: Record = plain(run_cell(cell, folder, kept))
    return record


def _header(cell: Cell) -> Record:
    return {"key": cell.key, "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **cell.described()}


def run_cell(cell: Cell, folder: Path, kept: Path | None = None) -> Record:
    """One run with everything the report needs; what a method cannot do becomes the record's `refused`, any
    other exception its `error`. Allocations that take long lie in folder/allocations for the cells that share
    them. kept: the folder that the model is loaded from, instead of its source."""
    record = _header(cell)
    try:
        recipe = None if cell.method is None else cell.recipe()
    except InputError as error:
        return record | {"refused": str(error)}
    try:
        return record | _measured(cell, recipe, folder, kept)
    except Exception as error:
        told = traceback.format_exc(limit=5)
        return record | {"error": f"{type(error).__name__}: {error}", "traceback": told}


def _measured(cell: Cell, recipe: Recipe | None, folder: Path, kept: Path | None) -> Record:
    """Load, prune, measure. KeyboardInterrupt: the pruning was stopped, so there is nothing to record."""
    clock = Clock()
    s = cell.setting
    loaded = load(cell, kept)
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
    distance, most = 0.0, 0
    if recipe is not None:
        try:
            check(loaded.model, ranges, recipe)
        except InputError as error:
            return {"refused": str(error)}
        with torch.no_grad():
            loaded.model(Data.of(ranges, 1).calibrate[0])  # the first pass reads the weights and compiles
        clock.lap("warm-up")
        wanda_seconds, wanda_windows = wanda_pass(loaded, ranges, recipe)
        clock.lap("wanda pass")
        stages: dict[str, float] = {}

        def on_masks(name: str, model: torch.nn.Module) -> None:
            later = recipe.stages[2:]  # the masks alone: with the weights as they came
            if name == "refined" and later and not recipe.initial.moves_values and name not in stages:
                found = perplexity(model, evaluation, length=s.eval_length, windows=s.eval_windows)
                stages[name] = found.perplexity

        allocation, spent = None, 0.0
        if can_share(recipe):
            allocation, spent, most = shared(cell, recipe, loaded, ranges, folder / "allocations")
            clock.lap("shared allocation")
        report = prune(loaded.model, ranges, recipe, allocation=allocation, on_masks=on_masks)
        clock.lap("prune")
        if report.stopped == "interrupted":
            raise KeyboardInterrupt
        distance = report.figures[recipe.stages[-1]] if dense is None else kl_to_dense(loaded.model, dense)
        clock.lap("KL")
        phases = {name: value for name, value in report.seconds.items() if not measures(name)}
        phases["allocation"] += spent  # also where it was found by another cell
        counted = report.to_dict()
        found = {
            "pruned_weights": counted["pruned_weights"],
            "total_weights": counted["total_weights"],
            "swaps": report.swaps,
            "stopped": report.stopped,
            "figures": report.figures,
            "seconds_by_phase": phases,
            "prune_seconds": sum(phases.values()),
            "wanda_seconds": wanda_seconds,
            "wanda_windows": wanda_windows,
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
        "peak_memory_bytes": max(most, peak_memory_bytes()),
        "peak_cuda_bytes": cuda,
        "provenance": provenance(cell.seed),
    }
