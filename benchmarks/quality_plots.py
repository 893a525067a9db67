"""Plots of the quality bench: perplexity by sparsity and by seconds; the loss in the course of a run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from quality_cells import DENSE
from quality_figures import Record, groups, measures, number, sections, slug


def write_plots(records: Sequence[Record], folder: Path) -> list[list[Path]]:
    """For every section quality-MODEL-sparsity.svg, -time.svg and, where a run took steps, -course.svg; none
    without matplotlib."""
    try:
        import matplotlib
    except ImportError:
        return [[] for _ in sections(records)]
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "qubo-prune"  # the same records give the same file
    files: list[list[Path]] = []
    models: list[str] = []
    for model, _, own in sections(records):
        drawings: dict[str, Callable[[Any, Sequence[Record]], None]] = {
            "sparsity": _draw_sparsity,
            "time": _draw_time,
        }
        if any(course(r) for r in own):
            drawings["course"] = _draw_courses
        models.append(slug(model))
        again = f"-{models.count(models[-1])}" if models.count(models[-1]) > 1 else ""
        files.append([folder / f"quality-{models[-1]}-{name}{again}.svg" for name in drawings])
        for path, draw in zip(files[-1], drawings.values(), strict=True):
            _save(draw, own, path)
    return files


def _save(draw: Callable[[Any, Sequence[Record]], None], own: Sequence[Record], path: Path) -> None:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    draw(axes, own)
    axes.set(yscale="log")
    if handles := axes.get_legend_handles_labels()[0]:
        beside = {"loc": "upper left", "bbox_to_anchor": (1.01, 1.0), "ncols": math.ceil(len(handles) / 24)}
        axes.legend(fontsize=8, **(beside if len(handles) > 8 else {}))
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    pyplot.close(figure)


def _points(
    own: Sequence[Record], value: Callable[[Record], float]
) -> dict[tuple[str, str], tuple[float, float]]:
    """(target, method) -> mean and standard deviation of a finite figure; 0 of one seed."""
    found = {}
    for key, runs in groups(own).items():
        values = [value(r) for r in runs if math.isfinite(value(r))]
        if values:
            found[key] = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return found


def _colours(own: Sequence[Record]) -> dict[str, str]:
    """A colour a method, the dense model left out."""
    methods = dict.fromkeys(r["method"] for r in own if r["method"] != DENSE)
    if len(methods) <= 10:
        return {method: f"C{i}" for i, method in enumerate(methods)}
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    many = colormaps["nipy_spectral"](np.linspace(0.03, 0.93, len(methods)))
    return {method: to_hex(colour) for method, colour in zip(methods, many, strict=True)}


def _draw_sparsity(axes: Any, own: Sequence[Record]) -> None:
    """A line a method over the sparsities; patterns are marks without a line."""
    points = _points(own, lambda r: number(r["perplexity"]))
    share = {r["target"]: r["sparsity"] for r in own}
    for method, colour in _colours(own).items():
        mine = [(share[target], *point, target) for (target, m), point in points.items() if m == method]
        plain = sorted(p for p in mine if ":" not in p[3])
        label: str | None = method
        if plain:
            at, mean, deviation, _ = zip(*plain, strict=True)
            axes.errorbar(at, mean, yerr=deviation, marker="o", capsize=3, color=colour, label=label)
            label = None
        for at, mean, deviation, target in (p for p in mine if ":" in p[3]):
            axes.errorbar([at], [mean], yerr=[deviation], marker="s", capsize=3, color=colour, label=label)
            axes.annotate(target, (at, mean), textcoords="offset points", xytext=(6, 0), fontsize=7)
            label = None
    if (DENSE, DENSE) in points:
        axes.axhline(points[DENSE, DENSE][0], color="grey", linestyle=":", label=DENSE)
    axes.set(xlabel="sparsity (squares: N:M)", ylabel="perplexity")


def _draw_time(axes: Any, own: Sequence[Record]) -> None:
    """A colour a method and a mark a target, at the mean seconds of its pruning."""
    pruned = [r for r in own if "prune_seconds" in r]
    points = _points(pruned, lambda r: number(r["perplexity"]))
    seconds = _points(pruned, lambda r: r["prune_seconds"])
    targets = list(dict.fromkeys(r["target"] for r in pruned))
    marks = dict(zip(targets, itertools.cycle("osDv^<>pP*X"), strict=False))
    colours = _colours(pruned)
    for (target, method), (mean, deviation) in points.items():
        axes.errorbar(
            [seconds[target, method][0]], [mean], yerr=[deviation], color=colours[method], capsize=3,
            marker=marks[target], linestyle="",
        )  # fmt: skip
    for method, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=method)
    for target, mark in marks.items():
        axes.plot([], [], mark, color="none", markeredgecolor="black", label=target)
    axes.set(xscale="log", xlabel="seconds of pruning", ylabel="perplexity")


def course(record: Record) -> list[tuple[float, float]]:
    """(seconds of pruning, accepting loss): the first mask, the steps of its refinement that were kept, the
    checks of the refit; without the first where nothing measured it. Of a run in rounds the refits come last.
    """
    phases, figures = record.get("seconds_by_phase", {}), record.get("figures", {})
    later = [phases.get(name, 0.0) for name in ("refine", "reconstruct", "refit", "quantise")]
    start = sum(seconds for name, seconds in phases.items() if not measures(name)) - sum(later)
    points = [(start + seconds, loss) for seconds, loss in record.get("curve", ()) if loss is not None]
    again = start + later[0] + later[1]
    points += [(again + seconds, loss) for seconds, loss in record.get("refits", ()) if loss is not None]
    first = figures.get("accept_initial") or figures.get("accept_refined")
    return [(start, first), *points] if points and first is not None else points


def _draw_courses(axes: Any, own: Sequence[Record]) -> None:
    """A line a run of the first seed that took steps."""
    first = min(r["seed"] for r in own)
    runs = [r for r in own if r["seed"] == first and course(r)]
    colours = _colours(runs)
    styles = dict(
        zip(dict.fromkeys(r["target"] for r in runs), itertools.cycle(("-", "--", ":", "-.")), strict=False)
    )
    for r in runs:
        x, y = zip(*course(r), strict=True)
        axes.plot(
            x, y, color=colours[r["method"]], linestyle=styles[r["target"]], marker=".",
            label=f"{r['method']}, {r['target']}",
        )  # fmt: skip
    axes.set(xlabel="seconds of pruning", ylabel="accepting loss")
