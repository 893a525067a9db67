"""Refit: the kept weights of all layers together, by the gradient of the whole model's loss.

    refit(state, objective, batches, pairs, Refit())

Least squares knows what a layer should answer; this knows what the model should. Masks stay, the data are
the calibration windows, the teacher is the dense model: no labels, no other text.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from qubo_prune.objective import Batch, Objective
from qubo_prune.rebatch import rebatched, shortened
from qubo_prune.recipe_parts import Refit
from qubo_prune.refine.evidence import Pair, teach
from qubo_prune.refine.moves import Free, LowRank, Moves
from qubo_prune.state import PruneState, uninterrupted
from qubo_prune.statistics.collect import mean_value
from qubo_prune.statistics.tape import Tape, frozen

BETAS = (0.9, 0.95)
"""Of Adam: a pass has tens of steps, so the second moment must not remember hundreds."""

ANSWER_BYTES = 2 << 30
"""The dense model's answers are kept over passes as far as they fit here; the others are computed again."""

AHEAD_BYTES = 1 << 28
"""As much of the dense model's answers is computed at a time: its weights then come once in several steps."""


@dataclass(frozen=True)
class RefitRecord:
    """One check: steps and seconds so far, the mean loss of the steps since the last one, accepting loss."""

    step: int
    seconds: float
    loss: float
    accept: float | None


@dataclass
class Refitted:
    """The checks; accepting losses before and after (None: not measured); stopped: why it ended."""

    records: list[RefitRecord] = field(default_factory=list)
    loss_before: float | None = None
    loss_after: float | None = None
    stopped: str = "steps"


def refit(
    state: PruneState,
    objective: Objective,
    batches: Sequence[Batch],
    accept: Sequence[Pair],
    recipe: Refit,
    *,
    seed: int = 0,
    on_step: Callable[[int, int], None] | None = None,
) -> Refitted:
    """Change the kept values of every layer by `recipe.epochs` passes of Adam over the batches.

    The learning rate rises over a tenth of the steps and then falls linearly to 0 at the last one (or at the
    time limit). At `recipe.checks` points a pass and at the end the accepting loss is measured; the values of
    the lowest one are taken, and the passes end early where it has not fallen for `recipe.patience` checks.
    With accepting pairs nothing changes unless it falls below what it was; without them the last values are
    taken whose losses were finite. With `recipe.rank` the values of a layer move by a product of that rank,
    see `moves.LowRank`.

    on_step is told (done, of). Memory: five float32 numbers a weight (value, gradient, two moments, best
    value; with a rank two), and answers of the dense model, up to AHEAD_BYTES, over several passes up to
    ANSWER_BYTES. On Ctrl-C the best values so far are taken and `stopped` is "interrupted"; on an error the
    values are those before.
    """
    parts = list(rebatched(shortened(batches, recipe.length), recipe.batch))
    order = list(_order(len(parts), recipe.epochs, seed))
    teacher = _Teacher(state, objective, parts, order)
    steps = len(order)
    every = max(1, len(parts) // recipe.checks)
    found = Refitted()
    fit = _Fit(state, recipe.rank, seed, torch.bfloat16 if recipe.products == "bfloat16" else None)
    started = time.perf_counter()
    losses: list[float] = []
    best = math.inf

    def check(step: int) -> bool:
        """Whether the values of this step are the best so far, which are remembered."""
        nonlocal best
        loss = mean_value(state.model, accept, objective) if accept else None
        seconds, fitted = time.perf_counter() - started, sum(losses) / len(losses)
        found.records.append(RefitRecord(step, seconds, fitted, loss))
        losses.clear()
        if loss is None and not math.isfinite(fitted):
            return False
        if loss is not None:
            if not loss < best:
                return False
            best = found.loss_after = loss
        fit.remember()
        return True

    try:
        if accept:
            before = found.loss_before = found.loss_after = mean_value(state.model, accept, objective)
            best = before if math.isfinite(before) else math.inf  # any finite loss is below one that is NaN
        idle = 0
        for step, index in enumerate(order):
            elapsed = time.perf_counter() - started
            share = max(step / steps, elapsed / (recipe.time_limit or math.inf))
            if share >= 1:
                found.stopped = "time limit"
                if losses:
                    check(step)
                break
            answer = teacher(step, fit)
            losses.append(fit.step(objective, parts[index], answer, recipe.learning_rate * _schedule(share)))
            if on_step is not None:
                on_step(step + 1, steps)
            if (step + 1) % every and step + 1 < steps:
                continue
            idle = 0 if check(step + 1) else idle + 1
            if idle == recipe.patience or not math.isfinite(found.records[-1].accept or 0.0):
                found.stopped = "no progress"
                break
    except KeyboardInterrupt:
        found.stopped = "interrupted"
    except BaseException:
        state.write()
        raise
    fit.commit()
    return found


class _Fit:
    """The values on their way, in float32: Adam moves them, and they are written to the model each time.

    products: dtype of the matrix products of a step (mixed precision); None: that of the model. bfloat16
    takes 2.9 instead of 4.4 CPU seconds for a step of 512 tokens (SmolLM2-135M, one thread of Zen 5); the
    gradient's cosine with that of float32 is 0.9998 on average over the layers, 0.9994 at least.
    """

    def __init__(
        self, state: PruneState, rank: int | None, seed: int, products: torch.dtype | None = None
    ) -> None:
        self._state, self._products = state, products
        values = {name: layer.weight.detach().float().clone() for name, layer in state.layers.items()}
        self._moves: Moves = Free(values) if rank is None else LowRank(values, state.masks, rank, seed)
        self._optimiser = torch.optim.Adam(self._moves.parameters, lr=0.0, betas=BETAS, eps=1e-12)
        self._best: dict[str, Tensor] = {}

    def step(self, objective: Objective, batch: Batch, teacher: Tensor | None, rate: float) -> float:
        """One step of Adam on a batch; returns its mean loss. A loss that is not finite changes nothing."""
        state, products = self._state, self._products or torch.float32
        kind = next(iter(state.layers.values())).weight.device.type
        mixed = torch.autocast(kind, dtype=self._products, enabled=self._products is not None)
        with frozen(state.model), mixed, Tape(state.model, state.layers) as tape:
            with torch.enable_grad():
                signals = objective.signals(state.model, batch, teacher, None)
            samples = len(signals.value)
            loss = float(signals.value.mean())
            if not math.isfinite(loss):
                return loss

            def take(name: str, inputs: list[Tensor], grads: list[Tensor]) -> None:
                with torch.autocast(kind, enabled=False):
                    total = _product(inputs[0], grads[0], products)
                    for x, g in zip(inputs[1:], grads[1:], strict=True):
                        total += _product(x, g, products)
                    self._moves.take(name, total.float().mul_(state.masks[name]).div_(samples))

            tape.backward(signals.output, signals.loss, take, samples)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self.write()
        return loss

    @torch.no_grad()
    def write(self) -> None:
        """The values as they are now into the model."""
        for name, layer in self._state.layers.items():
            self._moves.write(name, layer.weight)

    def remember(self) -> None:
        """These are the best so far; all or nothing on Ctrl-C."""
        with uninterrupted():
            for name in self._state.layers:
                held, value = self._best.get(name), self._moves.value(name)
                self._best[name] = value.clone() if held is None else held.copy_(value)

    def commit(self) -> None:
        """The best values become the state's; what was before stays where there are none. All or nothing on
        Ctrl-C."""
        with uninterrupted():
            for name, value in self._best.items():
                self._state.refit(name, value)
            if not self._best:
                self._state.write()


class _Teacher:
    """The dense model's answers, computed some steps ahead and kept for later passes as far as they fit."""

    def __init__(
        self, state: PruneState, objective: Objective, parts: Sequence[Batch], order: Sequence[int]
    ) -> None:
        self._state, self._objective, self._parts, self._order = state, objective, parts, order
        self._known: dict[int, Tensor | None] = {}
        self._size = AHEAD_BYTES  # of an answer: the first call says it

    def __call__(self, step: int, fit: _Fit) -> Tensor | None:
        """The answer to a step's part, None where there is no teacher; the values of `fit` stay in place."""
        index = self._order[step]
        if index not in self._known:
            ahead = self._ahead(step)
            pairs = teach(self._state, self._objective, [self._parts[i] for i in ahead])
            self._known |= {i: answer for i, (_, answer) in zip(ahead, pairs, strict=True)}
            if self._objective.needs_teacher:
                fit.write()  # the state put the values before back
        answer = self._known[index]
        self._size = 0 if answer is None else answer.numel() * answer.element_size()
        again = index in self._order[step + 1 :]
        if not again or len(self._known) * self._size > ANSWER_BYTES:
            del self._known[index]
        return answer

    def _ahead(self, step: int) -> list[int]:
        """The parts of this step and of those that follow at once, none that is known, as many as fit."""
        most = max(1, AHEAD_BYTES // max(1, self._size))
        found: list[int] = []
        for index in self._order[step : step + most]:
            if index in self._known or index in found:
                break
            found.append(index)
        return found


def _product(x: Tensor, g: Tensor, dtype: torch.dtype) -> Tensor:
    """(out, in) sum over samples and positions of g x', in this dtype."""
    return g.flatten(0, 1).to(dtype).t() @ x.flatten(0, 1).to(dtype)


def _schedule(share: float) -> float:
    """Factor of the learning rate after this share of the passes."""
    return min(1.0, (share + 0.01) / 0.1) * (1 - share)


def _order(parts: int, epochs: int, seed: int) -> Iterator[int]:
    """Every part once a pass, in random order."""
    rng = random.Random(seed)
    for _ in range(epochs):
        order = list(range(parts))
        rng.shuffle(order)
        yield from order
