"""Batched tabu search on tensors: each row's best swap a step that is not tabu, tenures a (rows, P) tensor.

Glover 1989 (doi 10.1287/ijoc.1.3.190); candidates are the best drops and adds of classes of columns, as in
the descent, instead of the whole neighbourhood.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qubo_solvers.batch.settings import Clock

if TYPE_CHECKING:
    from qubo_solvers.batch.torch_rows import State, TorchRows

JITTER = 10  # random steps added to a tenure, at most
STEPS = 16  # between two looks at the clock
REFRESH = 2_000  # steps after which fields are computed anew


def tabu(model: TorchRows, rows: State, steps: int, tenure: int, generator: Any, clock: Clock) -> None:
    """`steps` swaps of every row from the present assignments; the best ones are the state then.

    A swapped variable stays for the tenure and up to JITTER steps; a tabu one may move where that reaches a
    new best.
    """
    best, least = rows.x.clone(), rows.gain.clone()
    until = rows.x.int() * 0 - 1
    for now in range(steps):
        if now % STEPS == 0 and clock.out():
            break
        if now and now % REFRESH == 0:
            model.refresh(rows)
        free = (until < now) & model.valid
        change, one, zero = model.best(rows, rows.x & free, ~rows.x & free)
        any_change, any_one, any_zero = model.best(rows, rows.x, ~rows.x & model.valid)
        slack = model.tolerance(rows, any_one[:, None])[:, 0] + model.tolerance(rows, any_zero[:, None])[:, 0]
        aspired = rows.gain + any_change + slack < least
        change = any_change.where(aspired, change)
        one, zero = any_one.where(aspired, one), any_zero.where(aspired, zero)
        go = change.isfinite()
        model.swap(rows, change, one, zero, go)
        for moved in (one[:, None], zero[:, None]):
            last = now + tenure + (JITTER * _uniform(rows.gain, generator)).int()[:, None]
            until.scatter_(1, moved, last.where(go[:, None], until.gather(1, moved)))
        better = rows.gain < least
        best = rows.x.where(better[:, None], best)
        least = rows.gain.where(better, least)
    rows.x, rows.gain = best, least


def _uniform(like: Any, generator: Any) -> Any:
    """A random number in [0, 1) for each entry."""
    return like.new_empty(like.shape).uniform_(generator=generator)
