"""One-flip search and path relinking: exact fields, budgets, every constraint, integers and floats."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qubo_solvers import CardinalityQubo, Dense, solve
from qubo_solvers.flip_search import FlipSearch, applies
from qubo_solvers.generate import KINDS, random_problem
from qubo_solvers.kernels import flips
from qubo_solvers.palubeckis import from_seed
from qubo_solvers.path_relinking import PathRelinking
from qubo_solvers.solver import Recorder

TYPES = {"int8": np.int16, "int16": np.int32, "float32": np.float32, "float64": np.float64}


def plain(n: int, seed: int, kind: str) -> CardinalityQubo:
    """A plain problem whose rows the search keeps as TYPES[kind]."""
    rng = np.random.default_rng(seed)
    if kind.startswith("int"):
        size = 100 if kind == "int8" else 30_000
        upper = np.triu(rng.integers(-size, size + 1, (n, n)))
        matrix, linear = (
            (upper + np.triu(upper, 1).T).astype(kind if kind == "int16" else np.int16),
            rng.integers(-9, 9, n),
        )
        if kind == "int16":
            matrix[0, -1] = matrix[-1, 0] = 30_000
    else:
        matrix, linear = Dense.symmetrised(rng.normal(size=(n, n))).matrix.astype(kind), rng.normal(size=n)
    return CardinalityQubo.unconstrained(Dense(matrix), linear, offset=0.5)


@given(n=st.integers(2, 40), seed=st.integers(0, 10**6), kind=st.sampled_from(sorted(TYPES)))
def test_gains_and_energy_stay_exact(n: int, seed: int, kind: str) -> None:
    problem = plain(n, seed, kind)
    search = FlipSearch(problem, Recorder(problem))
    assert search.state.rows.dtype == TYPES[kind]
    assert search.exact == kind.startswith("int")
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 2, n).astype(np.uint8) for _ in range(2))
    assert search.load(x, problem.energy(x))

    def check() -> np.ndarray:
        now = np.zeros(n, np.uint8)
        flips.read(search.state, now)
        energy = problem.energy(now)
        assert search.start_energy + float(search.state.energy[0]) == pytest.approx(
            energy, rel=1e-9, abs=1e-6
        )
        gains = problem.fields(now) * (1 - 2.0 * now)
        assert np.allclose(search.state.gains, gains, rtol=1e-9, atol=1e-6)
        assert search.state.lowest.min() == search.state.gains.min()
        return now

    check()
    random = np.array([seed + 1, 2], np.uint64)
    assert search.tabu(random, min(3, n // 2), 50, 10**6) == 50
    check()
    assert search.energy() == pytest.approx(problem.energy(search.best), rel=1e-9, abs=1e-6)
    flips.shake(search.state, random, 5)
    check()
    flips.walk(search.state, x)
    assert np.array_equal(check(), x)
    apart = int((x != y).sum())
    moved = flips.relink(search.state, y, np.zeros(n, np.int32), max(1, apart // 3))
    now = check()
    assert int((now != x).sum()) == moved
    assert int((now != y).sum()) == apart - moved
    assert moved == 0 or max(1, apart // 3) <= moved <= apart - max(1, apart // 3)
    search.best[:] = now
    assert search.settle()
    check()
    assert search.state.gains.min() >= -search.tolerance


def test_where_one_flip_search_applies() -> None:
    found = {kind: applies(random_problem(kind, 12)) for kind in KINDS}
    assert [kind for kind, yes in found.items() if yes] == ["plain"]
    loose = CardinalityQubo.grouped(np.eye(4), np.zeros(4), [0, 0, 1, -1], [0, 0], [2, 1])
    assert applies(loose)


def test_coefficients_that_int32_gains_cannot_hold_are_searched_in_floats() -> None:
    huge = np.full((3, 3), 2.0**30)
    problem = CardinalityQubo.unconstrained(huge, -np.ones(3))
    assert not FlipSearch(problem, Recorder(problem)).exact
    assert solve(problem, "tabu").energy == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_every_constraint_against_the_oracle(kind: str) -> None:
    problem = random_problem(kind, 14, seed=3)
    best = solve(problem, "exhaustive").energy
    found = solve(problem, "path_relinking", searches=12, elites=4, patience=200)
    assert found.energy == pytest.approx(best)
    assert found.work["verified"]


def test_finds_what_plain_tabu_misses() -> None:
    problem = from_seed(300, 100, 12_345)
    best = solve(problem, PathRelinking(searches=60)).energy
    assert best <= solve(problem, "tabu", iterations=20_000).energy
    again = solve(problem, PathRelinking(searches=60))
    assert again.energy == best


@pytest.mark.parametrize("option", ["searches", "elites", "patience"])
def test_options_are_checked(option: str) -> None:
    with pytest.raises(ValueError, match=option):
        PathRelinking(**{option: 0})
