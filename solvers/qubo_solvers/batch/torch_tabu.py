"""Batched tabu search on tensors: each row's best swap a step that is not tabu, tenures a (rows, P) tensor.

Glover 1989 (doi 10.1287/ijoc.1.3.190); candidates are the best drops and adds of classes of columns, as in
the descent, instead of the whole neighbourhood. Restarts as in Palubeckis 2006 (Informatica 17(2)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qubo_solvers.batch.settings import Clock

if TYPE_CHECKING:
    from qubo_solvers.batch.torch_rows import State, TorchRows

JITTER = 10  # random steps added to a tenure, at most
STEPS = 16  # between two looks at the clock
REFRESH = 2_000  # steps after which fields are computed anew


def tabu(
    model: TorchRows, rows: State, steps: int, tenure: int, patience: int, generator: Any, clock: Clock
) -> None:
    """`steps` swaps of every row from the present assignments; the best ones are the state then.

    A swapped variable stays for the tenure and up to JITTER steps; a tabu one may move where that reaches a
    new best. After `patience` steps without one, counted every STEPS steps, a row restarts.
    """
    best, least, since = rows.x.clone(), rows.gain.clone(), rows.swaps * 0
    until = rows.x.int() * 0 - 1
    for now in range(steps):
        if now % STEPS == 0:
            if clock.out():
                break
            stale = (now - since > patience).nonzero()[:, 0]
            if len(stale):
                _restart(model, rows, best, least, stale, now, generator)
                until[stale], since[stale] = -1, now
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
        since.masked_fill_(better, now)
    rows.x, rows.gain = best, least


def _restart(
    model: TorchRows, rows: State, best: Any, least: Any, stale: Any, now: int, generator: Any
) -> None:
    """Take the rows `stale` back to their best, and on by 2 to max(4, n / 20) random swaps, at most 50."""
    part = rows.take(stale)
    part.x, part.gain = best[stale], least[stale]
    model.refresh(part)
    for _ in range(2 + now // STEPS % (max(4, min(50, model.batch.n // 20)) - 1)):
        one = _uniform(part.fields, generator).masked_fill(~part.x, -1.0).argmax(1)
        same = model.group_of[one][:, None] == model.group_of
        chance, zero = (
            _uniform(part.fields, generator).masked_fill(part.x | ~(model.valid & same), -1.0).max(1)
        )
        w = part.weights.gather(1, one[:, None]) * part.weights.gather(1, zero[:, None])
        apart = part.fields.gather(1, zero[:, None]) - part.fields.gather(1, one[:, None])
        change = (apart - w * model.gram[one, zero][:, None])[:, 0]
        go = part.x.gather(1, one[:, None])[:, 0] & (chance >= 0)
        model.swap(part, change, one, zero, go)
    rows.put(stale, part)


def _uniform(like: Any, generator: Any) -> Any:
    """A random number in [0, 1) for each entry."""
    return like.new_empty(like.shape).uniform_(generator=generator)
