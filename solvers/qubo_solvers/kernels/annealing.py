"""Compiled annealing at one temperature: the variables worth proposing, and Metropolis swaps and flips."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qubo_solvers.kernels.jit import kernel
from qubo_solvers.kernels.model import Floats, Ids, Ints, Model, Random, State
from qubo_solvers.kernels.moves import beside_of, field_of, flip, pair_of, swap, toward
from qubo_solvers.kernels.random import uniform

LEVELS = 8  # temperatures' worth of cost that annealing still proposes, and sorts its pool by


class Pool(NamedTuple):
    """The variables that may move at this temperature, by group at model.start[g]: ones, then zeros.

    Each half has its most movable variables in front. keys: scratch (n,); fill: scratch (LEVELS,).
    """

    item: Ids
    ones: Ints
    size: Ints
    keys: Floats
    fill: Ints


@kernel
def _pool_half(
    state: State, pool: Pool, first: int, last: int, sign: float, partner: float, width: float, at: int
) -> int:
    """Write the members first..last whose key is within LEVELS widths of the partner's best, by level.

    Returns how many they are.
    """
    pool.fill[:] = 0
    for s in range(first, last):
        cost = max(0.0, sign * (partner - pool.keys[s]))
        if cost < LEVELS * width:
            pool.fill[int(cost / width)] += 1
    total = 0
    for level in range(LEVELS):
        total += pool.fill[level]
        pool.fill[level] = total - pool.fill[level]
    for s in range(first, last):
        cost = max(0.0, sign * (partner - pool.keys[s]))
        if cost < LEVELS * width:
            level = int(cost / width)
            pool.item[at + pool.fill[level]] = state.members[s]
            pool.fill[level] += 1
    return total


@kernel
def pool_groups(
    model: Model,
    state: State,
    pool: Pool,
    temperature: float,
    price: float,
    share: float,
    first: int,
    work: int,
) -> int:
    """Pool the variables, of the groups from `first` on, that may take part in a move worth proposing.

    `price` is added per unit of distance; `share` of the bound is what a coupling is counted on to gain.
    Until `work` fields are spent; returns the next group.
    """
    g = first
    while g < len(model.lower) and work > 0:
        begin, end = model.start[g], model.start[g + 1]
        varies = model.lower[g] < model.upper[g]
        lowest, highest = np.inf, -np.inf
        for s in range(begin, end):
            i = state.members[s]
            sign = 1.0 if state.x[i] == 1 else -1.0
            key = field_of(model, state, i) - sign * price * toward(model, state, i)
            key += 0.5 * share * sign * model.bound[i]
            pool.keys[s] = key
            if sign > 0:
                highest = max(highest, key)
            else:
                lowest = min(lowest, key)
        if varies:  # a flip needs no partner
            lowest, highest = min(lowest, 0.0), max(highest, 0.0)
        middle = begin + state.ones[g]
        ones = _pool_half(state, pool, begin, middle, 1.0, lowest, temperature, begin)
        pool.ones[g] = ones
        pool.size[g] = ones + _pool_half(state, pool, middle, end, -1.0, highest, temperature, begin + ones)
        work -= int(end - begin)
        g += 1
    return g


@kernel
def anneal(
    model: Model,
    state: State,
    pool: Pool,
    temperature: float,
    price: float,
    rng: Random,
    g: int,
    slot: int,
    work: int,
) -> tuple[int, int, int]:
    """One proposal for each pooled variable from (group, slot) on, accepted by Metropolis within the radius.

    A partner is a random pooled variable of the other value, more often one in front (the squared uniform);
    slots keep their chances, so a swap is as likely to be proposed back. Returns (group, slot, accepted).
    """
    accepted = 0
    limit = 16.0 * temperature
    step = 1 if model.low_rank else model.rows.shape[0] // 8
    while g < len(model.lower) and work > 0:
        begin = model.start[g]
        varies = model.lower[g] < model.upper[g]
        while slot < pool.size[g] and work > 0:
            work -= 1
            ones, size = pool.ones[g], pool.size[g]
            if varies and (ones == 0 or ones == size or uniform(rng) < 0.5):
                i = pool.item[begin + slot]
                one = state.x[i] == 1
                away = toward(model, state, i)
                room = state.ones[g] > model.lower[g] if one else state.ones[g] < model.upper[g]
                if room and state.distance[0] + away <= model.radius:
                    field = field_of(model, state, i)
                    delta = -field if one else field
                    cost = delta + price * away
                    if cost <= 0.0 or (cost < limit and uniform(rng) < np.exp(-cost / temperature)):
                        flip(model, state, i, delta)
                        edge = begin + (ones - 1 if one else ones)
                        pool.item[begin + slot] = pool.item[edge]
                        pool.item[edge] = i
                        pool.ones[g] += -1 if one else 1
                        accepted += 1
                        work -= step
                slot += 1
                continue
            if ones == 0 or ones == size:
                slot = size
                break
            if slot < ones:
                a = begin + slot
                b = begin + ones + int(uniform(rng) ** 2 * (size - ones))
            else:
                a = begin + int(uniform(rng) ** 2 * ones)
                b = begin + slot
            slot += 1
            i, j = pool.item[a], pool.item[b]
            away = toward(model, state, i) + toward(model, state, j)
            if state.distance[0] + away > model.radius:
                continue
            if model.low_rank:
                delta = model.linear[j] - model.linear[i]
                for r in range(model.rows.shape[1]):
                    apart = np.float64(model.rows[j, r]) - np.float64(model.rows[i, r])
                    delta += apart * (state.y[r] + 0.5 * apart)
                if model.sparse:
                    delta += state.fields[j] - state.fields[i] - beside_of(model, i, j)
            else:
                delta = state.fields[j] - state.fields[i]
                if delta - model.bound[i] + price * away >= limit:
                    continue
                delta -= pair_of(model, i, j)
            cost = delta + price * away
            if cost <= 0.0 or (cost < limit and uniform(rng) < np.exp(-cost / temperature)):
                swap(model, state, i, j, delta)
                pool.item[a], pool.item[b] = j, i
                accepted += 1
                work -= step
        if slot >= pool.size[g]:
            g += 1
            slot = 0
    return g, slot, accepted
