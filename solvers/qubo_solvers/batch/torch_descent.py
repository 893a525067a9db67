"""Batched swap descent on tensors: the best listed swap of all rows at once, every pair tried at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qubo_solvers.batch.settings import Clock

if TYPE_CHECKING:
    from qubo_solvers.batch.torch_rows import State, TorchRows

PASSES = 20  # descents with fields computed anew between them, at most
STEPS = 16  # between two looks at the clock and at which rows are done
NUMBERS = {"cpu": 1 << 20}  # of a (rows, ones, columns) block of the check, by the device's type
OTHER_NUMBERS = 1 << 27
LEVELS = 32  # widths, each 1 / sqrt 2 of the one before
INF = float("inf")


def settle(model: TorchRows, rows: State, clock: Clock) -> Any:
    """Descend until no swap improves by fields computed anew; (B,) bool tensor: in which rows that is so."""
    verified = rows.swaps < 0  # nowhere yet
    live = (rows.swaps >= 0).nonzero()[:, 0]
    for _ in range(PASSES):
        part = rows.take(live)
        model.refresh(part)
        before = part.swaps.clone()
        done = descend(model, part, clock)
        if done:
            model.refresh(part)
            done = descend_thoroughly(model, part, clock)
        rows.put(live, part)
        if not done:
            break
        clean = part.swaps == before
        verified[live[clean]] = True
        live = live[~clean]
        if not len(live):
            break
    return verified


def descend(model: TorchRows, rows: State, clock: Clock) -> bool:
    """Make each row's best listed swap until none improves; False where time ended before."""
    live = (rows.swaps >= 0).nonzero()[:, 0]
    part = rows.take(live)
    while len(live):
        if clock.out():
            rows.put(live, part)
            return False
        for _ in range(STEPS):
            change, one, zero = model.best(part, part.x, ~part.x & model.valid)
            go = change < -(
                model.tolerance(part, one[:, None])[:, 0] + model.tolerance(part, zero[:, None])[:, 0]
            )
            model.swap(part, change, one, zero, go)
        if not bool(go.all()):
            rows.put(live, part)
            live = live[go]
            part = rows.take(live)
    return True


def descend_thoroughly(model: TorchRows, rows: State, clock: Clock) -> bool:
    """Descend; where no listed swap improves, make the best of all swaps and go on. False: out of time."""
    live = (rows.swaps >= 0).nonzero()[:, 0]
    while len(live):
        part = rows.take(live)
        done = descend(model, part, clock)
        found = None
        if done and model.depth > 1:  # else every pair is listed
            found = best_of_all(model, part, clock)
            if found is not None:
                change, one, zero = found
                model.swap(part, change, one, zero, change < 0)
        rows.put(live, part)
        if found is None:
            return done and model.depth == 1
        live = live[found[0] < 0]
    return True


def best_of_all(model: TorchRows, rows: State, clock: Clock) -> Any:
    """Each row's best improving swap of all pairs: (change, one, zero), change 0 where none improves.

    A one of width s = |w_i| reach_i can gain only where min_j f_j - s |w_j| reach_j over its group's zeros is
    below its field; that minimum is computed for LEVELS widths, and the next larger one decides. Ones are
    taken in order of what they could gain. None where time ended before.
    """
    number, columns = rows.fields.shape
    shape = (number, model.groups, -1)
    add = ~rows.x & model.valid
    zeros = rows.fields.masked_fill(~add, INF)
    widths = rows.weights.abs() * model.reach
    top = widths.masked_fill(~rows.x, 0.0).amax(1, keepdim=True)
    floors = rows.fields.new_empty(number, model.groups, LEVELS)
    for level in range(LEVELS):
        floors[:, :, level] = (zeros - top * 2.0 ** (-level / 2) * widths).view(shape).amin(2)
    levels = (2 * (top / widths).log2() - 1e-3).nan_to_num(0.0).clamp(0, LEVELS - 1).long()
    floor = floors.view(number, -1).gather(1, model.group_of * LEVELS + levels)
    promise = (rows.fields - floor).masked_fill(~rows.x, -INF)
    most = int((promise > 0).sum(1).max())
    promise, order = promise.topk(most, 1) if most else (promise[:, :0], promise[:, :0].long())
    base = rows.slack[:, None] * widths + 2.0**-22 * rows.fields.abs()
    blocked = zeros + base
    change, one, zero = rows.gain.float() * 0, rows.swaps * 0, rows.swaps * 0
    at_once = max(1, NUMBERS.get(model.device.type, OTHER_NUMBERS) // columns)
    taken = min(most, 8)
    step = max(1, at_once // max(1, taken))
    for first in range(0, most, taken or 1):
        # rows whose ones are all passed over drop out: the promise falls along a row
        wanted = (promise[:, first] > 0).nonzero()[:, 0]
        if not len(wanted):
            break
        for at in wanted.split(step):
            if clock.out():
                return None
            i = order[at, first : first + taken]
            values = blocked[at, None, :] - model.gram[i] * (
                rows.weights[at].gather(1, i)[:, :, None] * rows.weights[at, None, :]
            )
            if model.groups > 1:
                values.masked_fill_(model.group_of[i][:, :, None] != model.group_of, INF)
            least, j = values.min(2)
            gained = least - (rows.fields[at].gather(1, i) - base[at].gather(1, i))
            gained = gained.masked_fill(~(promise[at, first : first + taken] > 0), INF)
            value, which = gained.min(1)
            i, j = i.gather(1, which[:, None])[:, 0], j.gather(1, which[:, None])[:, 0]
            better = value < change[at]
            hit = at[better]
            change[hit], one[hit], zero[hit] = value[better], i[better], j[better]
    return _exact(model, rows, change, one, zero)


def _exact(model: TorchRows, rows: State, change: Any, one: Any, zero: Any) -> Any:
    """The changes without the tolerance that was added to them, 0 where no swap improves."""
    own = (model.tolerance(rows, one[:, None]) + model.tolerance(rows, zero[:, None]))[:, 0]
    return (change - own).masked_fill(change >= 0, 0.0), one, zero
