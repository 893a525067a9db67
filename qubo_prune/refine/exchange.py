"""Weights move between the rows of a layer, by exchange prices: the budget goes where it is worth most.

A row's price to prune one weight more is the least change of its energy by doing so, its gain by pruning one
fewer the largest fall. Where the cheapest rows' prices are below the others' gains, they trade: a round of
trades, each row in one of them at most, a descent of the rows with their new counts, and the round stands if
the sum of the energies fell; else the next one has half as many trades.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qubo_solvers.batch import RowBatch, solve_batch

ROUNDS = 60
"""Rounds at most."""

ENOUGH = 1e-4
"""A round that lowers the energy by less than this share of all that was gained ends the trading."""


@dataclass(frozen=True, eq=False)
class Exchanged:
    """pruned (R, n) bool; energy: the sum over rows; moved: weights that changed their row."""

    pruned: Tensor
    energy: float
    moved: int


@torch.no_grad()
def exchange(
    batches: Sequence[RowBatch],
    pruned: Tensor,
    energy: float,
    rounds: int = ROUNDS,
    time_limit: float | None = None,
) -> Exchanged:
    """Trade counts between all rows of batches whose energies compare, each of one group of variables, from
    `pruned` (R, n) bool, the rows of the batches one after another, with this energy in all.

    The number of pruned weights in all stays. The energy never rises. No round begins after `time_limit`
    seconds.
    """
    started, moved, first = time.perf_counter(), 0, energy
    sizes = [batch.n_rows for batch in batches]
    trades = max(1, sum(sizes) // 2)
    for _ in range(rounds):
        if time_limit is not None and time.perf_counter() - started >= time_limit:
            break
        found = [prices(batch, part) for batch, part in zip(batches, pruned.split(sizes), strict=True)]
        price, cheapest, gain, dearest = (torch.cat(parts) for parts in zip(*found, strict=True))
        givers, takers = _pairs(price, gain, trades)
        if not len(givers):
            break
        trial = pruned.clone()
        trial[givers, cheapest[givers]] = True
        trial[takers, dearest[takers]] = False
        solutions = [
            solve_batch(_counting(batch, part), "descent", initial=part)
            for batch, part in zip(batches, trial.split(sizes), strict=True)
        ]
        total = sum(float(solution.energies.sum()) for solution in solutions)
        if total < energy:
            small = energy - total < ENOUGH * max(first - total, 0.0)
            pruned = torch.cat([solution.assignments for solution in solutions])
            energy, moved = total, moved + len(givers)
            if small:
                break
        elif len(givers) == 1:
            break
        else:
            trades = len(givers) // 2
    return Exchanged(pruned, energy, moved)


def _counting(batch: RowBatch, pruned: Tensor) -> RowBatch:
    """The same rows with the counts of `pruned`."""
    counts = pruned.sum(1).cpu().numpy()
    return RowBatch.cardinality(batch.gram, batch.weights, counts, linear=batch.linear, offset=batch.offset)


def prices(batch: RowBatch, pruned: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(R,) each: least change of a row's energy by pruning one more, which; largest fall by one fewer, which.

    Rows that cannot have inf as their price, or -inf as their gain.
    """
    w, gram = batch.weights, batch.gram
    z = pruned.to(w.dtype)
    bend = w.square() * gram.diagonal()
    fields = 2 * (w * ((w * z) @ gram) - bend * z) + bend
    if batch.linear is not None:
        fields += batch.linear
    price, cheapest = fields.masked_fill(pruned, torch.inf).min(1)
    gain, dearest = fields.masked_fill(~pruned, -torch.inf).max(1)
    return price.double(), cheapest, gain.double(), dearest


def _pairs(price: Tensor, gain: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Rows that prune one more, and the rows that prune one fewer for it, in pairs that gain; a row is in one
    pair at most, on the side where it stands out."""
    p, g = price.cpu().numpy(), gain.cpu().numpy()
    giving, taking = np.argsort(p, kind="stable"), np.argsort(-g, kind="stable")
    used = np.zeros(len(p), bool)
    givers: list[int] = []
    takers: list[int] = []
    i = j = 0
    while len(givers) < most:
        while i < len(p) and used[giving[i]]:
            i += 1
        if i == len(p):
            break
        used[giving[i]] = True
        while j < len(p) and used[taking[j]]:
            j += 1
        if j == len(p) or not p[giving[i]] < g[taking[j]]:
            break
        used[taking[j]] = True
        givers.append(int(giving[i]))
        takers.append(int(taking[j]))
    where = price.device
    return torch.tensor(givers, dtype=torch.int64, device=where), torch.tensor(
        takers, dtype=torch.int64, device=where
    )
