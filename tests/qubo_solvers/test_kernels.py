"""What kernels maintain equals what is recomputed, after any sequence of moves."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

from qubo_solvers.anneal import Anneal
from qubo_solvers.kernels import jit, list_tabu, moves
from qubo_solvers.kernels.model import model_of
from qubo_solvers.local_search import LocalSearch
from qubo_solvers.problem import CardinalityQubo
from qubo_solvers.quadratic_form import Dense
from qubo_solvers.solver import Recorder
from qubo_solvers.start import random_start

KINDS = ("cardinality", "groups", "interval", "free", "mixed", "radius", "radius_mixed")


def loaded(problem: CardinalityQubo, seed: int = 0) -> LocalSearch:
    local = LocalSearch(problem, Recorder(problem))
    x = random_start(problem, np.random.default_rng(seed))
    assert local.load(x, problem.energy(x))
    return local


def check(local: LocalSearch) -> None:
    problem, state = local.problem, local.state
    x = state.x
    assert problem.is_feasible(x)
    assert local.energy() == pytest.approx(problem.energy(x), rel=1e-9, abs=1e-9)
    if isinstance(problem.quadratic, Dense):
        np.testing.assert_allclose(state.fields, problem.fields(x), atol=1e-9)
    else:
        np.testing.assert_allclose(state.y, problem.quadratic.factor.T @ x.astype(float), atol=1e-9)
        fields = [moves.field_of(local.model, state, i) for i in range(problem.n)]
        np.testing.assert_allclose(fields, problem.fields(x), atol=1e-9)
        couplings = 2 * problem.quadratic.dense()
        pairs = [moves.pair_of(local.model, i, j) for i, j in permutations(range(6), 2)]
        np.testing.assert_allclose(pairs, [couplings[i, j] for i, j in permutations(range(6), 2)], atol=1e-9)
    if problem.radius is not None:
        assert state.distance[0] == problem.distance(x)
    model = local.model
    assert np.array_equal(state.members[state.place], np.arange(problem.n))
    for g in range(len(model.lower)):
        members = state.members[model.start[g] : model.start[g + 1]]
        assert (model.group[members] == g).all()
        expected = np.arange(len(members)) < state.ones[g]
        assert np.array_equal(x[members] == 1, expected)


@pytest.mark.parametrize("form", ["dense", "lowrank", "sparse"])
@pytest.mark.parametrize("kind", KINDS)
def test_maintained_equals_recomputed(small, kind, form):
    problem = small.problem(kind, form, 1, n=50)
    local = loaded(problem)
    check(local)
    rng = np.array([12345], np.uint64)
    list_tabu.shake(local.model, local.state, rng, 500)
    check(local)
    target = random_start(problem, np.random.default_rng(5))
    local.move_to(target)
    assert np.array_equal(local.state.x, target)
    check(local)
    assert local.descend()
    check(local)


@pytest.mark.parametrize("form", ["dense", "lowrank", "sparse"])
def test_fields_stay_exact_over_many_moves(small, form):
    local = loaded(small.problem("mixed", form, 2, n=40))
    list_tabu.shake(local.model, local.state, np.array([7], np.uint64), 200_000)
    check(local)


@pytest.mark.parametrize("form", ["dense", "lowrank", "sparse"])
def test_no_coupling_exceeds_its_bound(small, form):
    problem = small.problem("cardinality", form, 3, n=30)
    bound = loaded(problem).model.bound
    pairs = 2 * (problem.quadratic.dense() - np.diag(problem.quadratic.diagonal()))
    assert (pairs <= (bound[:, None] + bound[None, :]) / 2 + 1e-12).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.int32])
def test_the_rows_are_read_in_place(dtype):
    q = np.zeros((4, 4), dtype)
    model = model_of(CardinalityQubo.cardinality(Dense(q), np.zeros(4), 2))
    assert np.shares_memory(model.rows, q)
    assert not model.rows.flags.writeable


@pytest.mark.parametrize(
    ("dtype", "kept"), [(np.int8, np.int16), (np.uint8, np.int16), (np.int64, np.float64)]
)
def test_other_types_are_copied(dtype, kept):
    problem = CardinalityQubo.cardinality(Dense(np.ones((4, 4), dtype)), np.zeros(4), 2)
    assert model_of(problem).rows.dtype == kept


@pytest.mark.parametrize("dtype", [np.int16])
def test_integer_rows_are_searched_as_they_are(small, dtype):
    q = np.random.default_rng(3).integers(-30_000, 30_001, (40, 40))
    problem = replace(
        small.problem("radius_mixed", "dense", 1, n=40),
        quadratic=Dense((q + q.T).clip(-32768, 32767).astype(dtype)),
    )
    local = loaded(problem)
    list_tabu.shake(local.model, local.state, np.array([12345], np.uint64), 5_000)
    check(local)
    assert local.descend()
    check(local)
    as_floats = replace(problem, quadratic=Dense(problem.quadratic.dense()))
    answers = [Anneal(sweeps=30).solve(p, seed=1) for p in (problem, as_floats)]
    assert answers[0].energy == answers[1].energy


def test_unknown_forms_are_refused(small):
    class Other:
        n = 3

    problem = small.problem("cardinality", "dense")
    object.__setattr__(problem, "quadratic", Other())
    with pytest.raises(TypeError, match="to_dense"):
        model_of(problem)


def test_annealing_from_the_same_random_state_repeats(small):
    problem = small.problem("groups", "lowrank", 6, n=80)
    answers = {Anneal(sweeps=50).solve(problem, seed=s).work["accepted"] for s in (1, 1, 2)}
    assert len(answers) == 2


def test_a_change_in_any_file_that_a_kernel_calls_has_it_compiled_again(monkeypatch):
    """numba looks at the kernel's own file only, so the others are in the stamp of its cache."""
    others = jit.sources("qubo_solvers.kernels.list_tabu")
    assert {f"qubo_solvers.kernels.{name}" for name in ("candidates", "moves", "random", "model")} <= others
    stamp = list_tabu.tabu._cache._cache_file._source_stamp
    jit._stamp(list_tabu.tabu, list_tabu.tabu.py_func)
    assert list_tabu.tabu._cache._cache_file._source_stamp == (stamp, stamp[1])
    monkeypatch.setattr(Path, "read_bytes", lambda path: b"changed")
    jit._stamp(list_tabu.tabu, list_tabu.tabu.py_func)
    assert list_tabu.tabu._cache._cache_file._source_stamp[1] != stamp[1]
    list_tabu.tabu._cache._cache_file._source_stamp = stamp
