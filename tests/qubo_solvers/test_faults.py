"""Every available solver on degenerate, extreme and malformed problems: feasible answers, honest claims."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qubo_solvers import (
    CardinalityQubo,
    Dense,
    LowRank,
    LowRankSparse,
    Solution,
    Status,
    availability,
    capabilities,
    lower_bound,
    names,
    random_start,
    solve,
)
from qubo_solvers.generate import KINDS, degenerate_problems, random_problem

pytestmark = [pytest.mark.filterwarnings("error::RuntimeWarning"), pytest.mark.slow]

AVAILABLE = [name for name in names() if availability(name)[0]]
BUDGETS = {  # work small enough for tests; a time limit ends what is not listed
    "cpsat": {"deterministic_time": 0.1},
    "neal": {"num_reads": 2, "num_sweeps": 20},
    "tabu": {"iterations": 200},
    "path_relinking": {"searches": 2},
    "dwave_tabu": {"num_reads": 4, "moves_per_variable": 50},
    "dwave_descent": {"num_reads": 50},
    "openjij": {"num_reads": 4, "num_sweeps": 100},
    "simulated_bifurcation": {"runs": 2, "agents": 8, "max_steps": 100},
}
N = 7
RNG = np.random.default_rng(0)
MATRIX = Dense.symmetrised(RNG.normal(size=(N, N))).matrix
LINEAR = RNG.normal(size=N)
FACTOR = RNG.normal(size=(N, 3))


def judged(problem: CardinalityQubo, solution: Solution) -> None:
    """Feasible, its energy true and finite, its trace falling, its bound and its optimality right."""
    if solution.status is Status.UNAVAILABLE:
        assert solution.message, problem.name
        return
    x = solution.assignment
    assert x is not None, f"{problem.name}: {solution.status}: {solution.message}"
    assert problem.is_feasible(x), problem.name
    assert solution.energy == problem.energy(x)
    assert math.isfinite(solution.energy)
    energies = [point.energy for point in solution.trace]
    assert energies == sorted(energies, reverse=True)
    every = (np.array(bits) for bits in product((0, 1), repeat=problem.n))
    optimum = min(problem.energy(v) for v in every if problem.is_feasible(v))
    rounding = 1e-10 * magnitude(problem)
    if solution.bound is not None:
        assert solution.bound <= optimum + rounding, f"{problem.name}: a bound above the optimum"
        assert solution.gap is not None
        assert solution.gap >= 0
    if solution.status is Status.OPTIMAL:
        assert solution.energy <= optimum + rounding, f"{problem.name}: not optimal"


def magnitude(problem: CardinalityQubo) -> float:
    """The sum of all coefficients' sizes."""
    form = problem.quadratic
    if isinstance(form, LowRank):
        columns = np.abs(form.factor).sum(axis=0, dtype=np.float64)
        couplings = 0.5 * float(columns @ columns) + float(np.abs(form.extra_diagonal).sum())
    else:
        couplings = float(np.abs(form.dense()).sum())
    return couplings + float(np.abs(problem.linear).sum()) + abs(problem.offset)


def constrained(
    name: str, form: object, linear: np.ndarray, offset: float = 0.0
) -> Iterator[CardinalityQubo]:
    """The coefficients under every kind of constraint."""
    groups = np.array([0, 0, 0, 1, 1, -1, -1])
    start = np.array([1, 0, 0, 1, 0, 0, 1], np.uint8)
    plain = CardinalityQubo.unconstrained(form, linear, offset=offset, name=f"{name}, plain")
    yield plain
    yield CardinalityQubo.cardinality(form, linear, 3, offset=offset, name=f"{name}, 3 of 7")
    mixed = CardinalityQubo.grouped(
        form, linear, groups, [1, 0], [1, 2], offset=offset, name=f"{name}, mixed"
    )
    yield replace(mixed, reference=start, radius=3)


def scaled(scale: float) -> Iterator[CardinalityQubo]:
    if scale < 1e-300:  # in whole denormals: a product of them would vanish
        yield from constrained(f"{scale:g}", np.sign(MATRIX) * scale, np.sign(LINEAR) * scale)
        factor, extra = FACTOR * math.sqrt(scale), np.full(N, scale)
    else:
        yield from constrained(f"{scale:g}", MATRIX * scale, LINEAR * scale)
        factor, extra = FACTOR * math.sqrt(scale), np.abs(LINEAR) * scale
    yield from constrained(f"{scale:g}, low rank", LowRank(factor, extra), LINEAR * scale)


def whole(largest: int) -> Iterator[CardinalityQubo]:
    """At and beyond the limits of an integer type, as integers and as floats."""
    signs = np.where(MATRIX > 0, 1, -1)
    linear = np.full(N, float(largest))
    yield from constrained(f"int {largest}", signs * np.int64(largest), linear)
    yield from constrained(f"float {largest}", signs * float(largest), linear)


def ranges() -> Iterator[CardinalityQubo]:
    """Magnitudes from 1e-150 to 1e150 in one problem, offsets that swallow everything, small dtypes."""
    spread = np.triu(10.0 ** RNG.uniform(-150, 150, (N, N)))
    wide = MATRIX * (spread + np.triu(spread, 1).T)
    yield from constrained("wide", wide, LINEAR * 10.0 ** RNG.uniform(-150, 150, N))
    rows = LowRank(FACTOR * 10.0 ** RNG.uniform(-70, 70, (N, 1)), np.full(N, 1e-100))
    yield from constrained("wide low rank", rows, LINEAR)
    yield from constrained("one large", np.diag([1e200] + [0.0] * (N - 1)) + MATRIX, LINEAR)
    yield from constrained("far offset", MATRIX, LINEAR, 1e16)
    yield from constrained("huge offset, tiny rest", MATRIX * 1e-310, LINEAR * 1e-310, -1e300)
    yield from constrained("float32", (MATRIX * 1e37).astype(np.float32), LINEAR)
    yield from constrained("float32 denormals", (np.sign(MATRIX) * 1e-44).astype(np.float32), LINEAR * 1e-44)
    yield from constrained("float16", MATRIX.astype(np.float16), LINEAR)
    yield from constrained("int8", np.full((N, N), -128, np.int8), LINEAR)
    yield from constrained("uint64", np.full((N, N), 2**64 - 1, np.uint64), -LINEAR)


def equal() -> Iterator[CardinalityQubo]:
    for value in (0.0, 1.0, -1.0, 0.1):
        yield from constrained(f"all {value}", np.full((N, N), value), np.full(N, value))
        yield from constrained(
            f"all {value}, low rank", LowRank(np.full((N, 2), value), np.zeros(N)), np.zeros(N)
        )
    yield from constrained("rank 0", LowRank(np.zeros((N, 0)), np.zeros(N)), LINEAR)
    for k in (0, N):
        yield CardinalityQubo.cardinality(MATRIX, LINEAR, k, name=f"k = {k}")
    for n in (1, 2):
        for linear in (-1.0, 0.0, 1.0):
            form = np.full((n, n), 0.5)
            yield CardinalityQubo.unconstrained(form, np.full(n, linear), name=f"n = {n}")
            yield CardinalityQubo.cardinality(form, np.full(n, linear), n - 1, name=f"n - 1 of {n}")
    empty = np.array([0, 0, 3, 3, 3, -1, 3])
    yield CardinalityQubo.grouped(MATRIX, LINEAR, empty, [1, 0, 0, 2], [1, 0, 0, 3], name="empty groups")
    reference = np.array([1, 0, 1, 0, 1, 0, 0], np.uint8)
    tight = CardinalityQubo.cardinality(MATRIX, LINEAR, 3)
    for radius in (0, 1):
        yield replace(tight, reference=reference, radius=radius, name=f"radius {radius}")


FAULTS = {
    "equal": equal,
    "ranges": ranges,
    **{f"scale {s:g}": (lambda s=s: scaled(s)) for s in (1e-30, 1e30, 1e-150, 1e150, 1e300)},
    **{f"denormal {s:g}": (lambda s=s: scaled(s)) for s in (5e-324, 1e-310)},
    **{f"2^{b}": (lambda b=b: whole(2**b - 1)) for b in (15, 31, 63)},
    "2^15 + 1": lambda: whole(2**15 + 1),
    "degenerate": degenerate_problems,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", AVAILABLE)
def test_faults(name, fault):
    for problem in FAULTS[fault]():
        judged(problem, solve(problem, name, time_limit=2.0, **BUDGETS.get(name, {})))


@pytest.mark.parametrize("fault", FAULTS)
def test_bounds_of_faults(fault):
    for problem in FAULTS[fault]():
        if problem.n:
            best = solve(problem, "exhaustive")
            assert lower_bound(problem).value <= best.energy, problem.name


@settings(max_examples=150)
@given(
    st.sampled_from(AVAILABLE), st.sampled_from(KINDS), st.integers(1, 8), st.integers(0, 10**6),
    st.sampled_from([1e-305, 1e-12, 1.0, 1e12, 1e290]), st.booleans(),
)  # fmt: skip
def test_random_problems(name, kind, n, seed, scale, tied):
    problem = random_problem(kind, n, seed)
    form = problem.quadratic
    if isinstance(form, LowRank | LowRankSparse):
        factor = (np.rint(form.factor) if tied else form.factor).astype(np.float64)
        scaled = factor * math.sqrt(scale), form.extra_diagonal.astype(np.float64) * scale
        if isinstance(form, LowRankSparse):
            value = (np.rint(form.value) if tied else form.value).astype(np.float64) * scale
            form = LowRankSparse(*scaled, form.start, form.column, value)
        else:
            form = LowRank(*scaled)
    else:
        form = Dense((np.rint(form.matrix) if tied else form.matrix) * scale)
    problem = replace(problem, quadratic=form, linear=problem.linear * scale, offset=scale)
    initial = random_start(problem, np.random.default_rng(seed)) if seed % 2 else None
    solution = solve(
        problem, name, seed=seed, time_limit=2.0, initial=initial, bound=True, **BUDGETS.get(name, {})
    )
    judged(problem, solution)
    if initial is not None and solution.assignment is not None:
        assert solution.energy <= problem.energy(initial) + 1e-9 * magnitude(problem)


@pytest.mark.parametrize("scale", [2.0**-1060, 2.0**-600, 2.0**600, 2.0**990])
@pytest.mark.parametrize("name", AVAILABLE)
def test_a_power_of_two_changes_nothing(name, scale):
    """The same answer, and energies, trace and bound in the units that were given."""
    whole = np.rint(4 * MATRIX)
    base = CardinalityQubo.cardinality(whole, np.rint(4 * LINEAR), 3)
    far = CardinalityQubo.cardinality(whole * scale, np.rint(4 * LINEAR) * scale, 3)
    seen: list[float] = []
    first, second = (
        solve(p, name, seed=1, on_incumbent=lambda found: seen.append(found.energy), **BUDGETS.get(name, {}))
        for p in (base, far)
    )
    assert second.energy == first.energy * scale
    assert seen[-1] == second.trace[-1].energy == second.energy
    if capabilities(name).exact:
        assert second.status is first.status is Status.OPTIMAL
        assert second.bound == pytest.approx(second.energy, rel=1e-6)  # a MILP solver works to tolerances


# -- what is refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad):
    spoilt, line = np.eye(3), np.array([0.0, bad, 0.0])
    spoilt[1, 2] = spoilt[2, 1] = bad
    for make in (
        lambda: Dense(spoilt), lambda: Dense.symmetrised(np.triu(spoilt)),
        lambda: LowRank(spoilt, np.zeros(3)), lambda: LowRank(np.eye(3), line),
        lambda: CardinalityQubo.cardinality(np.eye(3), line, 1),
        lambda: CardinalityQubo.unconstrained(np.eye(3), np.zeros(3), offset=bad),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="NaN or infinite"):
            make()
    opposite = np.array([[0, bad], [-bad, 0]])
    with pytest.raises(ValueError, match="NaN or infinite"):
        Dense.symmetrised(opposite)
    problem = CardinalityQubo.cardinality(np.eye(3), np.zeros(3), 1)
    with pytest.raises(ValueError, match="only zeros and ones"):
        solve(problem, initial=line)


def test_what_is_not_symmetric_is_refused_with_the_remedy():
    skew = np.array([[0.0, 2.0], [1.0, 0.0]])
    with pytest.raises(ValueError, match=r"not symmetric .* use Dense\.symmetrised"):
        CardinalityQubo.unconstrained(skew, np.zeros(2))
    x = np.array([1, 1])
    assert Dense.symmetrised(skew).product(x) @ x == x @ skew @ x
    large = Dense.symmetrised(np.array([[0.0, 1.7e308], [1.7e308, 0.0]]))
    assert large.matrix[0, 1] == 1.7e308
    for big in (np.array([[0.0, 1.7e308], [-1.7e308, 0.0]]), np.array([[0, 127], [-128, 0]], np.int8)):
        with pytest.raises(ValueError, match="not symmetric"):
            Dense(big)


@pytest.mark.parametrize("name", AVAILABLE)
def test_energies_beyond_float64_are_refused(name):
    for problem in (
        CardinalityQubo.cardinality(np.full((N, N), 1.7e308), LINEAR, 3),
        CardinalityQubo.cardinality(LowRank(np.full((N, 2), 1e200), np.zeros(N)), LINEAR, 3),
        CardinalityQubo.cardinality(MATRIX, LINEAR, 3, offset=1.5e308),
    ):
        with pytest.raises(ValueError, match="divide all of them by a power of two"):
            solve(problem, name)
