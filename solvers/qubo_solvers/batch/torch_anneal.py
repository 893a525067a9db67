"""Batched simulated annealing on tensors: every row looks at many Metropolis proposals at once.

Of the proposals of a row the first that is accepted is made and those after it are forgotten: as they were
drawn without regard to the state, that is the chain of one proposal after another (Metropolis et al. 1953,
doi 10.1063/1.1699114), with the rejected ones at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qubo_solvers.batch.settings import Clock, Settings
from qubo_solvers.batch.torch_descent import settle

if TYPE_CHECKING:
    from qubo_solvers.batch.torch_rows import State, TorchRows

STEPS = 16  # between two looks at the clock
REFRESH = 2_000  # steps after which fields are computed anew


def anneal(
    model: TorchRows, rows: State, settings: Settings, strength: Any, generator: Any, clock: Clock
) -> None:
    """`sweeps` times n proposals of every row while its temperature falls geometrically; then a descent.

    The best assignments seen are the state then. strength: (B,), the rows' unit of temperature.
    """
    best, least = rows.x.clone(), rows.gain.clone()
    n, number = model.batch.n, settings.proposals
    steps = -(-settings.sweeps * n // number)
    members, start, ones, group = _members(model, rows)
    last_first = model.group_of.new_tensor(range(number, 0, -1))
    for step in range(steps):
        if step % STEPS == 0 and clock.out():
            break
        if step and step % REFRESH == 0:
            model.refresh(rows)
        temperature = strength * settings.hot * (settings.cold / settings.hot) ** (step / max(1, steps - 1))
        draws = rows.fields.new_empty(4, len(ones), number).uniform_(generator=generator)
        g = group[(draws[0] * n).long().clamp(max=n - 1)]
        k, size = ones.gather(1, g), model.sizes[g]
        a = start[g] + _below(draws[1], k)
        b = start[g] + k + _below(draws[2], size - k)
        a, b = a.clamp(max=n - 1), b.clamp(max=n - 1)  # of proposals from groups without a one or a zero
        i, j = members.gather(1, a), members.gather(1, b)
        w = rows.weights.gather(1, i) * rows.weights.gather(1, j)
        change = rows.fields.gather(1, j) - rows.fields.gather(1, i) - w * model.gram[i, j]
        likely = (-change / temperature[:, None]).exp()
        accepted = ((change <= 0) | (draws[3] < likely)) & (k > 0) & (k < size) & (temperature > 0)[:, None]
        first = (accepted * last_first).argmax(1, keepdim=True)
        go = accepted.any(1)
        one, zero = i.gather(1, first)[:, 0], j.gather(1, first)[:, 0]
        model.swap(rows, change.gather(1, first)[:, 0], one, zero, go)
        a, b = a.gather(1, first), b.gather(1, first)
        in_a, in_b = members.gather(1, a), members.gather(1, b)
        members.scatter_(1, a, in_b.where(go[:, None], in_a))
        members.scatter_(1, b, in_a.where(go[:, None], in_b))
        better = rows.gain < least
        best = rows.x.where(better[:, None], best)
        least = rows.gain.where(better, least)
    settle(model, rows, clock)
    better = least < rows.gain
    rows.x = best.where(better[:, None], rows.x)
    rows.gain = least.where(better, rows.gain)


def _below(draw: Any, number: Any) -> Any:
    """A random whole number below `number` (0 for 0) from a uniform one in [0, 1]."""
    return (draw * number).long().minimum(number - 1).clamp(min=0)


def _members(model: TorchRows, rows: State) -> tuple[Any, Any, Any, Any]:
    """The columns by group, each group's ones before its zeros (B, n); where groups begin in it (m,); the
    ones of each group (B, m); the group of each place (n,)."""
    rank = 2 * model.group_of + (~rows.x).long()
    rank = rank.masked_fill(~model.valid, 2 * model.groups)
    members = rank.argsort(dim=1, stable=True)[:, : model.batch.n].contiguous()
    ones = rows.x.view(len(rank), model.groups, -1).sum(2)
    start = model.sizes.cumsum(0) - model.sizes
    group = model.group_of[model.valid]
    return members, start, ones, group
