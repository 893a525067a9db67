"""Compiled random numbers; the state is an array of the caller's."""

from __future__ import annotations

import numpy as np

from qubo_solvers.kernels.jit import kernel
from qubo_solvers.kernels.model import Random


@kernel
def word(rng: Random) -> np.uint64:
    """The next 64 bits of xoroshiro128+ (Blackman and Vigna 2018, arXiv 1805.01407), state of two words."""
    a, b = rng[0], rng[1]
    total: np.uint64 = a + b
    b ^= a
    rng[0] = ((a << np.uint64(24)) | (a >> np.uint64(40))) ^ b ^ (b << np.uint64(16))
    rng[1] = (b << np.uint64(37)) | (b >> np.uint64(27))
    return total


@kernel
def below(rng: Random, m: int) -> int:
    """A random whole number in [0, m), m < 2^31; of the same state."""
    return int(np.int64(((word(rng) >> np.uint64(33)) * np.uint64(m)) >> np.uint64(31)))


@kernel
def uniform(rng: Random) -> float:
    """The next number in [0, 1) of xorshift64* (Vigna 2016, doi 10.1145/2845077), state of one word."""
    s = rng[0]
    s ^= s >> np.uint64(12)
    s ^= s << np.uint64(25)
    s ^= s >> np.uint64(27)
    rng[0] = s
    return float(((s * np.uint64(2685821657736338717)) >> np.uint64(11)) * (1.0 / 9007199254740992.0))
