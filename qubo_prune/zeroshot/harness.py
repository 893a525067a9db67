"""Tasks of EleutherAI's lm-eval, where that package and its data are installed."""

from __future__ import annotations

import importlib
import math
from importlib.util import find_spec
from typing import Any

from torch import nn

from qubo_prune.errors import InputError, MissingPackage
from qubo_prune.zeroshot.figures import Z_95, Figure

PREFIX = "lm-eval:"
"""`lm-eval:arc_easy` is the task arc_easy of lm-eval."""


def check_installed(task: str) -> None:
    """MissingPackage, with the command that installs it, where lm-eval is not there."""
    if find_spec("lm_eval") is None:
        raise MissingPackage(
            f"task {task!r}: the package lm-eval is not installed. Install it with: "
            "pip install 'qubo-prune[eval]'; lambada and piqa need no package."
        )


def run_task(
    name: str, model: nn.Module, tokenizer: Any, *, batch: int, limit: int | None
) -> tuple[dict[str, Figure], int]:
    """lm-eval's own figures of one of its tasks, without examples in the prompt, and how many rows were used.

    A figure is named as there ("acc", "acc_norm", ...; "NAME@FILTER" for another filter than "none"); its
    95 % interval is value +- 1.96 standard errors, without bounds where lm-eval gives none. limit: the first
    rows. InputError: lm-eval cannot run the task (its message is kept).
    """
    check_installed(name)
    harness = importlib.import_module("lm_eval")
    wrapper = importlib.import_module("lm_eval.models.huggingface").HFLM
    try:
        language_model = wrapper(pretrained=model, tokenizer=tokenizer, batch_size=batch)
        found = harness.simple_evaluate(
            model=language_model, tasks=[name], num_fewshot=0, limit=limit, log_samples=False
        )
    except Exception as error:  # of its task index, of data sets and of the network: of a dozen classes
        raise InputError(f"task {PREFIX}{name}: lm-eval cannot run it: {error}.") from error
    scores = found["results"].get(name, {})
    figures = {}
    for key, value in scores.items():
        metric, _, chosen = key.partition(",")
        if metric.endswith("_stderr") or not chosen or not isinstance(value, int | float):
            continue
        told = scores.get(f"{metric}_stderr,{chosen}")
        stderr = float(told) if isinstance(told, int | float) and math.isfinite(told) else None
        half = math.inf if stderr is None else Z_95 * stderr
        label = metric if chosen == "none" else f"{metric}@{chosen}"
        figures[label] = Figure(float(value), stderr, float(value) - half, float(value) + half)
    rows = found.get("n-samples", {}).get(name, {})
    return figures, int(rows.get("effective", 0))
