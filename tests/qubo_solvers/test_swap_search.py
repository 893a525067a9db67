"""Swap search in integers: exact fields and energies, best moves, counts and radius at every step."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qubo_solvers import CardinalityQubo, Dense, solve
from qubo_solvers.generate import KINDS, random_problem
from qubo_solvers.integer_rows import scaling
from qubo_solvers.kernels import swaps
from qubo_solvers.kernels.swaps import BLOCK, WIDTH
from qubo_solvers.solver import Recorder
from qubo_solvers.start import random_start
from qubo_solvers.swap_search import SHORT_STEP, STEP, SwapSearch, applies

TYPES = {"small": np.int16, "large": np.int32, "cents": np.int16, "real": np.int32, "float32": np.int32}


def counted(n: int, seed: int, kind: str, groups: int = 1, radius: int | None = None) -> CardinalityQubo:
    """A problem with exact counts whose rows the search keeps as TYPES[kind]."""
    rng = np.random.default_rng(seed)
    if kind in ("real", "float32"):
        matrix, linear = rng.normal(size=(n, n)), rng.normal(size=n)
    else:
        size = 30_000 if kind == "large" else 100
        matrix, linear = rng.integers(-size, size + 1, (n, n)).astype(float), rng.integers(-9, 9, n)
        matrix[0, 1] = matrix[1, 0] = 30_001.0 if kind == "large" else 1.0
    matrix = np.triu(matrix) + np.triu(matrix, 1).T
    matrix = matrix / 100 if kind == "cents" else matrix.astype(np.float32 if kind == "float32" else float)
    of = rng.integers(0, groups, n)
    reference = (rng.random(n) < rng.random()).astype(np.uint8)
    counts = np.bincount(of, weights=reference, minlength=groups).astype(int)
    problem = CardinalityQubo.grouped(Dense(matrix), linear, of, counts, offset=0.5)
    return problem if radius is None else replace(problem, reference=reference, radius=radius)


def loaded(problem: CardinalityQubo, seed: int = 0) -> tuple[SwapSearch, np.ndarray]:
    search = SwapSearch(problem, Recorder(problem))
    x = random_start(problem, np.random.default_rng(seed))
    assert search.load(x, problem.energy(x))
    return search, x


def check(search: SwapSearch) -> np.ndarray:
    """All that is maintained equals what is recomputed from the integers; returns the assignment."""
    problem, f = search.problem, search.state
    x = np.zeros(problem.n, np.uint8)
    swaps.read(f, x)
    assert problem.is_feasible(x)
    rows = f.rows[:, f.place].astype(np.int64)
    assert np.array_equal(rows, rows.T)
    fields = rows @ x + np.rint(
        (problem.linear + problem.quadratic.diagonal()) * search.scaling.scale
    ).astype(np.int64)
    level = f.level[np.where(f.until > 0, 1, 2 * f.x)]
    assert np.array_equal((f.keys - level)[f.place], fields)
    assert np.array_equal(np.flatnonzero(f.until > 0), np.sort(f.held[: f.total[0]]))
    pads = f.item < 0
    assert (f.keys[pads] == f.level[1]).all()
    assert (f.rows[:, pads] == 0).all()
    assert np.array_equal(f.ones, problem.counts(x))
    if problem.radius is not None:
        assert f.total[1] == problem.distance(x)
        assert np.array_equal(np.sort(f.item[f.moved[: f.total[1]]]), np.flatnonzero(x != problem.reference))
    energy = problem.energy(x)
    maintained = search.start_energy + float(f.energy[0]) / search.scaling.scale
    assert maintained == pytest.approx(energy, rel=1e-9, abs=1e-6 * np.abs(problem.quadratic.dense()).max())
    return x


@given(
    n=st.integers(2, 90),
    seed=st.integers(0, 10**6),
    kind=st.sampled_from(sorted(TYPES)),
    groups=st.integers(1, 4),
    radius=st.none() | st.integers(0, 12),
)
def test_what_is_maintained_stays_exact(
    n: int, seed: int, kind: str, groups: int, radius: int | None
) -> None:
    problem = counted(n, seed, kind, groups, radius)
    search, x = loaded(problem, seed)
    assert np.array_equal(check(search), x)
    random = np.array([seed + 1, 2], np.uint64)
    for _ in range(30):
        before = search.state.energy[0]
        search.tabu(random, 3, 1, 10**6)
        after = check(search)
        change = problem.energy(after) - problem.energy(x)
        predicted = float(search.state.energy[0] - before) / search.scaling.scale
        assert predicted == pytest.approx(change, rel=1e-6, abs=1e-6)
        assert np.count_nonzero(after != x) in (0, 2)
        x = after
    assert search.energy() == pytest.approx(problem.energy(search.best), rel=1e-9, abs=1e-6)
    target = random_start(problem, np.random.default_rng(seed + 1))
    search.walk(target)
    assert np.array_equal(check(search), target)
    swaps.shake(search.state, random, 5)
    check(search)


@pytest.mark.parametrize("kind", sorted(TYPES))
@pytest.mark.parametrize(("groups", "radius"), [(1, None), (3, None), (1, 20), (3, 30)])
def test_thousands_of_moves_change_nothing_in_that(kind: str, groups: int, radius: int | None) -> None:
    problem = counted(150, 4, kind, groups, radius)
    search, _ = loaded(problem)
    assert search.state.rows.dtype == TYPES[kind]
    assert search.tabu(np.array([3, 4], np.uint64), 4, 20_000, 10**6) == 20_000
    check(search)
    best, energy = search.best.copy(), search.energy()
    assert energy == pytest.approx(problem.energy(best), rel=1e-6)
    again, _ = loaded(problem)
    again.tabu(np.array([3, 4], np.uint64), 4, 20_000, 10**6)
    assert np.array_equal(again.best, best)
    assert again.energy() == energy


@given(seed=st.integers(0, 10**6), radius=st.none() | st.integers(0, 8), groups=st.integers(1, 3))
def test_the_first_move_is_the_best_where_all_are_candidates(
    seed: int, radius: int | None, groups: int
) -> None:
    problem = counted(2 * WIDTH, seed, "small", groups, radius)
    if (np.maximum(problem.lower, problem.group_sizes() - problem.lower) > WIDTH).any():
        return
    search, x = loaded(problem, seed)
    deltas = []
    for i in np.flatnonzero(x == 1):
        for j in np.flatnonzero(x == 0):
            y = x.copy()
            y[i], y[j] = 0, 1
            if problem.is_feasible(y):
                deltas.append(problem.energy(y) - problem.energy(x))
    search.tabu(np.array([5, 6], np.uint64), 2, 1, 10**6)
    assert float(search.state.energy[0]) == pytest.approx(min(deltas, default=0.0))


def test_where_swap_search_applies() -> None:
    found = {kind: applies(random_problem(kind, 40)) for kind in KINDS}
    assert [kind for kind, yes in found.items() if yes] == ["dense"]
    grouped = counted(8 * BLOCK, 0, "small", 4, 10)
    assert applies(grouped)
    assert not applies(CardinalityQubo.cardinality(np.zeros((0, 0)), [], 0))


@pytest.mark.parametrize("solver", ["tabu", "path_relinking"])
@pytest.mark.parametrize("kind", sorted(TYPES))
@pytest.mark.parametrize("radius", [None, 6])
def test_against_the_oracle(solver: str, kind: str, radius: int | None) -> None:
    problem = counted(18, 7, kind, 1, radius)
    assert applies(problem)
    best = solve(problem, "exhaustive")
    options = (
        {"iterations": 2_000, "patience": 200} if solver == "tabu" else {"searches": 12, "patience": 200}
    )
    found = solve(problem, solver, **options)
    assert found.energy == pytest.approx(best.energy, rel=1e-6)
    assert found.work["verified"]


@pytest.mark.parametrize("scale", [1e-150, 1e-30, 1.0, 1e30, 1e150])
def test_scale_changes_nothing(scale: float) -> None:
    plain = counted(60, 1, "real", 2)
    scaled = replace(
        plain, quadratic=Dense(scale * plain.quadratic.dense()), linear=scale * plain.linear, offset=0
    )
    expected = solve(replace(plain, offset=0.0), "path_relinking", searches=4).energy
    assert solve(scaled, "path_relinking", searches=4).energy == pytest.approx(scale * expected, rel=1e-9)


def test_scalings() -> None:
    def of(matrix: np.ndarray, linear: np.ndarray) -> tuple[float, bool, bool]:
        found = scaling(np.asarray(matrix), np.asarray(linear, float), SHORT_STEP / 2, STEP / 2)
        return found.scale, found.exact, found.short

    zero = np.zeros(2)
    pair = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert of(3 * pair, zero) == (1 / 6, True, True)
    assert of(0.25 * pair, [1.0, 0.0]) == (2.0, True, True)
    assert of(0.005 * pair, [0.07, 0.0]) == (100.0, True, True)
    assert of((40_001 * pair).astype(np.int32), [1.0, 0.0]) == (1.0, True, False)
    assert of(pair, [1.0, 2.0**28]) == (1.0, True, False)
    assert of(np.pi * pair, zero) == (2.0**27, False, False)
    assert of(np.pi * 1e-200 * pair, zero)[1:] == (False, False)
    assert of(np.pi * pair, [1e30, 0.0])[0] * 1e30 < STEP / 2
    assert of(0 * pair, zero)[1:] == (True, True)
    hidden = np.ones((2000, 2000))
    hidden[1, 2] = hidden[2, 1] = 0.3
    assert of(hidden, np.zeros(2000))[1] is False
