"""Reports of the quality bench: records, Markdown tables and plots into a folder."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from quality_cells import DENSE, WANDA
from quality_figures import Record, groups, newest, number, sections, task_figures
from quality_plots import write_plots
from quality_recipes import earlier, own_text, shares_out


def write_reports(records: Sequence[Record], folder: Path) -> list[Path]:
    """quality.json, quality.md and, where matplotlib is installed, its plots; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "quality.json", folder / "quality.md"]
    files[0].write_text(json.dumps({"records": list(records)}, indent=1) + "\n", encoding="utf-8")
    plots = write_plots(records, folder)
    files[1].write_text(markdown(records, [[f.name for f in own] for own in plots]), encoding="utf-8")
    return files + [file for own in plots for file in own]


def merged(old: Sequence[Record], new: Sequence[Record]) -> list[Record]:
    """All records; a new one replaces an old one of the same model, setting, method, target and seed, unless
    it is the old one that has figures."""

    def identity(r: Record) -> str:
        return json.dumps([r["model"], r["setting"], r["method"], r["target"], r["seed"]], sort_keys=True)

    return list(newest((*old, *new), identity).values())


# -- tables ------------------------------------------------------------------------------------------------


def markdown(records: Sequence[Record], plots: Sequence[Sequence[str]] = ()) -> str:
    """The tables of all sections, what they mean, and the plots of each."""
    known = any(r.get("perplexity_masks_alone") is not None for r in records)
    alone = "Masks alone: the perplexity before the kept weights got new values. " if known else ""
    lines = [
        "# Quality by method and sparsity",
        "",
        "Mean ± standard deviation over calibration seeds; a seed gives all methods the same calibration "
        "windows, and *against Wanda* is the mean of the changes seed by seed; *gap closed*: the share of "
        "log(Wanda's perplexity / the dense model's) that is gone. KL: to the dense model, nats "
        f"per predicted token, on a range of the calibration text that no method saw. {alone}"
        "Seconds: of the pruning, measurements left out, "
        f"and as a multiple of a plain Wanda pass in the same process{_timed_on(records)}; of these "
        "allocation: those of finding how much to prune in each layer, where a method does (statistics not "
        "counted). GiB: the most memory that the process had. Written by `benchmarks/quality.py`.",
    ]
    for i, (model, setting, own) in enumerate(sections(records)):
        lines += ["", f"## {model}{_in_short(setting)}", "", _setting(setting, own), "", *_table(own)]
        if told := earlier(own):
            lines += [f"Measured with earlier settings of the recipe: {', '.join(told)}.", ""]
        lines += [f"- {line}" for line in _failed(own)]
        lines += [f"\n![{name}]({name})" for name in (plots[i] if plots else ())]
    return "\n".join(lines) + "\n"


def _in_short(s: dict[str, Any]) -> str:
    """What tells the sections of a model apart."""
    text = PurePosixPath(s["calibration"]).stem
    return f": {s['windows']} x {s['length']} tokens of {text}, {s['eval_windows']} evaluation windows"


def _timed_on(records: Sequence[Record]) -> str:
    """What part of the windows the Wanda passes were timed on; records without a number: all of them."""
    timed = [r for r in records if "prune_seconds" in r]
    counts = sorted({r["wanda_windows"] for r in timed if "wanda_windows" in r})
    if not counts:
        return ""
    whole = "all windows or on " if any("wanda_windows" not in r for r in timed) else ""
    return f" (timed on {whole}{' or '.join(map(str, counts))} of the windows and scaled to all)"


def _setting(s: dict[str, Any], own: Sequence[Record]) -> str:
    """What was measured on what, in a paragraph."""
    windows = f"{s['windows']} windows of {s['length']} tokens; KL: {s['report_windows']} of {s['length']}"
    told = [
        f"Calibration: {s['calibration']}, {windows}.",
        *own_text(own),
        f"Perplexity: {s['text']}, {s['eval_windows']} windows of {s['eval_length']}.",
    ]
    tasks = {task["task"]: task for r in own for task in r.get("tasks", ())}
    if tasks:
        told.append(
            "Tasks, zero-shot: "
            + "; ".join(f"{name} ({task['chosen']})" for name, task in tasks.items())
            + "."
        )
    timed = [r for r in own if "prune_seconds" in r] or [r for r in own if "provenance" in r]
    if timed:
        counts = sorted({r["provenance"]["threads"] for r in timed})
        threads = f"threads: {' or '.join(map(str, counts))}"
        jobs = max(r.get("jobs", 1) for r in timed)
        threads += f", up to {jobs} cells at once" if jobs > 1 else ""
        processor = timed[0]["provenance"]["processor"]
        told.append(f"{processor}, {threads}, {s['dtype']} on {s['device']}.")
    return " ".join(told)


def _table(own: Sequence[Record]) -> list[str]:
    """The rows of a section."""
    wanda = {(r["target"], r["seed"]): r for r in own if r["method"] == WANDA and "perplexity" in r}
    dense = next((number(r["perplexity"]) for r in own if r["method"] == DENSE and "perplexity" in r), None)
    columns = list(dict.fromkeys(name for r in own for name in task_figures(r)))
    alone = any(r.get("perplexity_masks_alone") is not None for r in own)
    shared = shares_out(own)
    header = ["sparsity", "method", "seeds"]
    header += ["perplexity", "against Wanda", "gap closed", "KL", "against Wanda"]
    header += [*(["masks alone"] if alone else []), *columns, "seconds"]
    header += [*(["of these allocation"] if shared else []), "x Wanda pass", "GiB"]
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    for (target, method), runs in groups(own).items():
        cells = [target, method, str(len(runs))]
        closer, closed, nearer = "", "", ""
        if method not in (DENSE, WANDA):
            closer, closed = _change(runs, wanda, "perplexity"), _closed(runs, wanda, dense)
            nearer = _change(runs, wanda, "kl")
        cells += [spread([number(r["perplexity"]) for r in runs], 2), closer, closed]
        cells += [spread([number(r["kl"]) for r in runs], 4), nearer]
        if alone:
            known = [r["perplexity_masks_alone"] for r in runs if r.get("perplexity_masks_alone") is not None]
            cells.append(spread(known, 2) if known else "")
        for name in columns:
            values = [task_figures(r)[name] for r in runs if name in task_figures(r)]
            percent = bool(values) and not name.endswith("perplexity")
            cells.append(
                spread([100 * v for v in values] if percent else values, 1) + (" %" if percent else "")
            )
        timed = [r for r in runs if "prune_seconds" in r]
        cells.append(spread([r["prune_seconds"] for r in timed], 1))
        if shared:
            spent = [r["seconds_by_phase"].get("allocation", 0.0) for r in timed]
            cells.append(spread(spent if sum(spent) >= 0.1 * len(spent) else [], 1))
        cells.append(spread([r["prune_seconds"] / r["wanda_seconds"] for r in timed], 1))
        cells.append(f"{max(r['peak_memory_bytes'] for r in runs) / 2**30:.1f}")
        lines.append("| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |")
    return [*lines, ""]


def spread(values: Sequence[float], digits: int) -> str:
    """ "mean ± standard deviation" (of the sample; none of one value); a dash for no value."""
    if not values:
        return "–"
    mean = float(np.mean(values))
    if not math.isfinite(mean):
        return "inf"
    form = f",.{digits}f" if abs(mean) < 1e5 else ".3g"
    return f"{mean:{form}}" + (f" ± {float(np.std(values, ddof=1)):{form}}" if len(values) > 1 else "")


def _pairs(runs: Sequence[Record], wanda: dict[tuple[str, int], Record]) -> list[tuple[Record, Record]]:
    """The runs, each with Wanda's of the same target and seed, where there is one."""
    return [(r, wanda[r["target"], r["seed"]]) for r in runs if (r["target"], r["seed"]) in wanda]


def _change(runs: Sequence[Record], wanda: dict[tuple[str, int], Record], name: str) -> str:
    """The mean relative change against Wanda of the same target and seed."""
    changes = [100 * (number(r[name]) / number(w[name]) - 1) for r, w in _pairs(runs, wanda)]
    if not changes or not all(map(math.isfinite, changes)):
        return "–"
    told = spread(changes, 1)
    return f"{'' if told.startswith('-') else '+'}{told} %"


def _closed(runs: Sequence[Record], wanda: dict[tuple[str, int], Record], dense: float | None) -> str:
    """The mean share of the gap in log-perplexity between Wanda and the dense model that a method closes."""
    gaps = [
        [math.log(number(x["perplexity"]) / (dense or math.nan)) for x in pair]
        for pair in _pairs(runs, wanda)
    ]
    shares = [100 * (1 - left / whole) for left, whole in gaps if whole > 0]
    if not shares or not all(map(math.isfinite, shares)):
        return "–"
    return f"{spread(shares, 1)} %"


def _failed(own: Sequence[Record]) -> list[str]:
    """A line for each method and target that gave no figures, with the reason."""
    reasons = {
        (r["target"], r["method"]): r.get("refused") or r.get("error") for r in own if "perplexity" not in r
    }
    return [f"{method} at {target}: {reason}" for (target, method), reason in reasons.items()]
