"""The job behind `qubo-prune prune`: refuse what cannot work, then load, measure, prune, save, measure."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from qubo_prune.api import check, check_solver, prune
from qubo_prune.calibration import Calibration, TextSource, split_ranges, tokenise
from qubo_prune.cli.live import Live
from qubo_prune.cli.output import write_json
from qubo_prune.errors import InputError
from qubo_prune.evaluate import DenseReference, kl_to_dense, perplexity
from qubo_prune.forward import forward_of
from qubo_prune.models import LoadedModel, load_model
from qubo_prune.overlap import refuse_overlap
from qubo_prune.progress import Progress
from qubo_prune.provenance import peak_memory_bytes
from qubo_prune.recipe import Recipe
from qubo_prune.saving import check_output, save_model
from qubo_prune.state import uninterrupted


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    model: str
    recipe: Recipe
    calibration: str
    evaluation: str
    eval_windows: int
    eval_length: int
    output: Path | None
    export_blocks: Path | None
    dtype: str
    device: str


def run(job: Job, live: Live) -> dict[str, Any]:
    """Do it; returns the report. Whatever is wrong with the job is raised before a weight changes."""
    begun = time.perf_counter()
    output = None if job.output is None else check_output(job.output)
    blocks = None if job.export_blocks is None else check_output(job.export_blocks)
    if output is not None and blocks is not None:
        one, other = output.resolve(), blocks.resolve()
        if one == other or one in other.parents or other in one.parents:
            raise InputError(
                f"--output {str(job.output)!r} and --export-blocks {str(job.export_blocks)!r} are in one "
                "another: name folders apart from each other"
            )
    check_solver(job.recipe)
    loaded, calibration, evaluation = _prepare(job, live)
    check(loaded.model, calibration, job.recipe, blocks)
    measure = _Measures(job, live, loaded.model, evaluation, calibration.report)
    measure.dense()
    last = job.recipe.stages[-1]
    report = prune(
        loaded.model,
        calibration,
        job.recipe,
        export_blocks=blocks,
        on_progress=_teller(live, job.recipe),
        on_masks=lambda name, model: measure.masks(name) if name != last else None,
    )
    try:
        if output is not None:  # before the last figures are taken, so that Ctrl-C in these loses nothing
            with uninterrupted():
                live.phase("save")
                save_model(loaded, None, report.masks, output)
                (output / "recipe.yaml").write_text(job.recipe.to_yaml(), encoding="utf-8")
        measure.masks(last)
    except KeyboardInterrupt:
        report.stopped = "interrupted"
    with suppress(KeyboardInterrupt), uninterrupted():  # what is left takes no time
        live.end()
        kl = report.figures if job.recipe.objective == "kl" else measure.kl
        report.extra |= {
            "model": job.model,
            "perplexity": measure.perplexity,
            "kl": {name: kl.get(name) for name in measure.perplexity if name != "dense"},
            "evaluation": {"text": job.evaluation, "windows": job.eval_windows, "length": job.eval_length},
            "calibration": {
                "text": job.calibration,
                "tokens": len(calibration.tokens),
                "windows": {n: len(getattr(calibration, n)) for n in calibration.ranges},
            },
            "output": None if output is None else str(output),
            "blocks": None if blocks is None else str(blocks),
            "seconds": time.perf_counter() - begun,
            "seconds_by_phase": live.seconds,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        if output is not None:
            write_json(report.to_dict(), output / "report.json")
    return report.to_dict()


def _prepare(job: Job, live: Live) -> tuple[LoadedModel, Calibration, Tensor | None]:
    """The model, its calibration windows and the tokens to evaluate on."""
    live.phase("read texts")
    text = TextSource(job.calibration).read()
    other = TextSource(job.evaluation).read() if job.eval_windows else None
    live.phase("load model")
    loaded = load_model(job.model, dtype=job.dtype, device=job.device)
    tokenizer = loaded.needed_tokenizer("prune it")
    lengths = job.recipe.calibration
    for setting in ("length", "accept_length", "report_length"):
        loaded.check_length(getattr(lengths, setting), f"calibration.{setting}")
    if job.eval_windows:
        loaded.check_length(job.eval_length, "--eval-length")
    live.phase("tokenise")
    tokens = tokenise(tokenizer, text)
    try:
        calibration = ranges(tokens, job.recipe)
    except InputError as error:
        raise InputError(
            f"calibration text {job.calibration!r}: {error} The settings (--set) are calibration.windows and "
            "length, accept_windows and accept_length, report_windows and report_length."
        ) from None
    evaluation = None if other is None else tokenise(tokenizer, other)
    if evaluation is not None:
        names = f"calibration text {job.calibration!r}", f"evaluation text {job.evaluation!r}"
        refuse_overlap(tokens, evaluation, calibration=names[0], evaluation=names[1])
    return loaded, calibration, evaluation


def ranges(tokens: Tensor, recipe: Recipe) -> Calibration:
    """The three ranges: windows for the statistics and every step of the refinement, as far as text goes."""
    c, refine = recipe.calibration, recipe.refine
    rest = len(tokens) - c.accept_windows * c.accept_length - c.report_windows * c.report_length
    wanted = c.windows + (0 if refine is None else refine.steps * refine.windows)
    return split_ranges(
        tokens,
        calibrate=(max(c.windows, min(wanted, rest // c.length)), c.length),
        accept=(c.accept_windows, c.accept_length),
        report=(c.report_windows, c.report_length),
        seed=recipe.seed,
    )


class _Measures:
    """Figures of the model as it stands: perplexity, and the KL where the objective is another."""

    def __init__(
        self, job: Job, live: Live, model: nn.Module, evaluation: Tensor | None, report: Tensor
    ) -> None:
        self.job, self.live, self.model, self.evaluation, self.report = job, live, model, evaluation, report
        self.perplexity: dict[str, float | None] = dict.fromkeys(["dense", *job.recipe.stages])
        self.kl: dict[str, float | None] = {}
        self._reference: DenseReference | None = None

    def dense(self) -> None:
        self._perplexity("dense")
        if self.job.recipe.objective != "kl":
            self.live.phase("dense answers on the report range")
            self._reference = DenseReference(self._forward(len(self.report)), self.report)

    def masks(self, name: str) -> None:
        self._perplexity(name)
        if self._reference is not None:
            self.live.phase(f"KL, {name}")
            self.kl[name] = kl_to_dense(self._forward(len(self.report)), self._reference)

    def _perplexity(self, name: str) -> None:
        if self.evaluation is None:
            return
        windows = self.job.eval_windows
        self.live.phase(f"perplexity, {name}", windows)
        try:
            found = perplexity(
                self._forward(windows), self.evaluation, length=self.job.eval_length, windows=windows
            )
        except InputError as error:
            given = f"--eval-windows {windows} and --eval-length {self.job.eval_length}"
            raise InputError(f"evaluation text {self.job.evaluation!r}, {given}: {error}") from None
        self.perplexity[name] = found.perplexity

    def _forward(self, total: int) -> Callable[[Any], Tensor]:
        return self.live.counting(forward_of(self.model), total)


def _teller(live: Live, recipe: Recipe) -> Callable[[Progress], None]:
    """Shows what `prune` says of its progress."""
    limit = None if recipe.refine is None else recipe.refine.time_limit

    def tell(progress: Progress) -> None:
        live.phase(progress.phase, progress.total or None, limit if progress.phase == "refine" else None)
        step, text = progress.step, ""
        if step is not None:
            loss = "" if step.loss is None else f"loss {step.loss:.4f}, "
            text = f"{loss}{step.swaps_kept:,} of {step.swaps_proposed:,} swaps kept"
            live.note(f"  step {progress.done} of {progress.total} at {step.seconds:.0f} s: {text}")
        live.done(progress.done, progress.total or None, text)

    return tell
