"""Zero-shot tasks: TASKS is the table, `run_tasks` the way to use it.

    results = run_tasks(["lambada", "piqa"], model, tokenizer, subset=Subset(200))
    results[0].figures["acc"].value

A task is named `lambada` or `piqa`, with a file of rows of the same form after a colon (`piqa:my.jsonl`,
`lambada:data:zeroshot/lambada_test.jsonl`), or `lm-eval:NAME` for any task of lm-eval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from qubo_prune.errors import InputError
from qubo_prune.zeroshot import harness, lambada, piqa
from qubo_prune.zeroshot.figures import Figure
from qubo_prune.zeroshot.rows import Subset
from qubo_prune.zeroshot.scoring import LogLikelihood, Request, log_likelihoods

__all__ = ["TASKS", "Figure", "Job", "Subset", "Task", "TaskResult", "prepare", "run_tasks"]


class Task(Protocol):
    """A module with a task: its usual data, its rows, the requests of a row, and the figures of all."""

    DATA: str

    def read(self, spec: str) -> list[dict[str, Any]]:
        """The rows of a file; InputError where they are not of the task's form."""

    def requests(self, tokenizer: Any, row: dict[str, Any]) -> list[Request]:
        """What is scored for a row."""

    def figures(
        self, rows: Sequence[dict[str, Any]], answers: Sequence[Sequence[LogLikelihood]]
    ) -> dict[str, Figure]:
        """The figures of rows and the scores of their requests."""


TASKS: dict[str, Task] = {"lambada": lambada, "piqa": piqa}
"""Every task of this package by name."""


@dataclass(frozen=True)
class TaskResult:
    """What a model made of a task.

    task: as it was named. data: where its rows are from. rows: how many were used; chosen: which, in words.
    figures: by name. seconds: of the scoring, tokenising included.
    """

    task: str
    data: str
    rows: int
    chosen: str
    figures: dict[str, Figure]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values: the fields, each figure as {value, stderr, low, high}."""
        return {
            "task": self.task,
            "data": self.data,
            "rows": self.rows,
            "chosen": self.chosen,
            "figures": {name: figure.to_dict() for name, figure in self.figures.items()},
            "seconds": self.seconds,
        }


@dataclass(frozen=True)
class Job:
    """A task that is ready to run: its rows are read and chosen (none for a task of lm-eval)."""

    task: str
    data: str
    subset: Subset
    total: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


def prepare(names: Sequence[str], subset: Subset | None = None) -> list[Job]:
    """The tasks' rows, before a model is loaded.

    InputError: an unknown task, data that are not there or not of the task's form, or a drawn subset of a
    task of lm-eval, which takes the first rows. MissingPackage: lm-eval is needed and not installed.
    """
    subset = subset or Subset()
    jobs = []
    for name in names:
        if name.startswith(harness.PREFIX):
            harness.check_installed(name)
            if subset.limit is not None and subset.seed is not None:
                raise InputError(f"task {name!r}: lm-eval takes the first rows; leave the seed out.")
            jobs.append(Job(name, "lm-eval", subset))
            continue
        kind, _, spec = name.partition(":")
        if kind not in TASKS:
            known = f"{', '.join(TASKS)}, or {harness.PREFIX}NAME for one of lm-eval"
            raise InputError(f"task {name!r} is unknown: use {known}.")
        data = spec or TASKS[kind].DATA
        rows = TASKS[kind].read(data)
        jobs.append(Job(name, data, subset, len(rows), subset.of(rows)))
    return jobs


def run_tasks(
    tasks: Sequence[str | Job],
    model: nn.Module,
    tokenizer: Any,
    *,
    subset: Subset | None = None,
    batch: int = 8,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[TaskResult]:
    """Score a causal model on tasks, by name or prepared; all data are read before the first is scored.

    subset: rows of the tasks given by name. batch: requests per forward pass; it changes speed and memory
    (batch * length * vocabulary logits), not the figures but for rounding. on_progress: told (task, requests
    done, all). InputError: as for `prepare`, and as for `scoring.encode` and `scoring.log_likelihoods`.
    """
    jobs = [job for task in tasks for job in (prepare([task], subset) if isinstance(task, str) else [task])]
    say = on_progress or (lambda task, done, total: None)
    return [_run(job, model, tokenizer, batch, say) for job in jobs]


def _run(
    job: Job, model: nn.Module, tokenizer: Any, batch: int, say: Callable[[str, int, int], None]
) -> TaskResult:
    """One task."""
    begun = time.perf_counter()
    say(job.task, 0, 0)
    if job.task.startswith(harness.PREFIX):
        name, limit = job.task.removeprefix(harness.PREFIX), job.subset.limit
        figures, rows = harness.run_task(name, model, tokenizer, batch=batch, limit=limit)
        chosen = "all rows" if limit is None else f"the first {rows} rows"
        return TaskResult(job.task, job.data, rows, chosen, figures, time.perf_counter() - begun)
    task = TASKS[job.task.partition(":")[0]]
    asked = [task.requests(tokenizer, row) for row in job.rows]
    flat = [request for requests in asked for request in requests]
    scores = iter(
        log_likelihoods(model, flat, batch=batch, on_progress=lambda done, total: say(job.task, done, total))
    )
    answers = [[next(scores) for _ in requests] for requests in asked]
    figures = task.figures(job.rows, answers)
    chosen = job.subset.described(job.total)
    return TaskResult(job.task, job.data, len(job.rows), chosen, figures, time.perf_counter() - begun)
