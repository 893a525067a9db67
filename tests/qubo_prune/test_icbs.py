"""The loop: budgets to the weight, records that add up, trust region, tabu, determinism, Ctrl-C anywhere."""

import itertools
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qubo_prune.refine.icbs as icbs
import qubo_solvers.formats
from qubo_prune.icbs_settings import Icbs
from qubo_prune.initial import initial_masks
from qubo_prune.layers import prunable_layers
from qubo_prune.masks import verify
from qubo_prune.objective import CrossEntropy, CustomLoss, KLToDense, Objective
from qubo_prune.recipe import Recipe
from qubo_prune.refine.evidence import teach
from qubo_prune.refine.icbs import IcbsLoop
from qubo_prune.refine.records import RefineResult, StepRecord
from qubo_prune.state import PruneState
from qubo_prune.statistics.collect import mean_value
from qubo_prune.testing import TINY_MODELS, tiny_mlp, tiny_tokens
from qubo_solvers import CardinalityQubo

SMALL: dict[str, Any] = {
    "steps": 4,
    "windows": 4,
    "chunk": 8,
    "candidates": {"per_side": 20, "max_flip": 1.0, "fixed_pruned": 0.1, "fixed_kept": 0.1},
    "gradient": {"estimate": "shrunk", "shrink": 0.5, "reliability": False, "clip": None},
    "curvature": {"chunk": 4},
    "trust": {"swaps": 12, "damping": 0.0},
}
ONE_LAYER: dict[str, Any] = {
    "scope": "one_layer",
    "accept": "always",
    "trust": None,
    "tabu_fraction": 0.4,
    "candidates": {"criterion": "gradient", "block_size": 40},
}


def merged(*parts: dict[str, Any]) -> Icbs:
    data: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, dict) and isinstance(data.get(key), dict)
            data[key] = {**data[key], **value} if both else value
    refine = Recipe.parse({"refine": data}).refine
    assert refine is not None
    return refine


class Run:
    """A tiny model with half of its weights pruned, and a loop over it."""

    def __init__(
        self, recipe: Icbs, family: str = "llama", objective: Objective | None = None, **kw: Any
    ) -> None:
        self.model = TINY_MODELS[family]()
        self.layers = prunable_layers(self.model)
        self.state = PruneState(self.model, self.layers, initial_masks("magnitude", self.layers, 0.5))
        self.start = {name: mask.clone() for name, mask in self.state.masks.items()}
        self.counts = self.state.pruned_counts()
        self.objective = objective or KLToDense()
        batches = [tiny_tokens(16, seed).reshape(1, 16) for seed in range(12)]
        self.loop = IcbsLoop(
            self.state,
            self.objective,
            itertools.cycle(batches[:8]),
            teach(self.state, self.objective, batches[8:]),
            recipe,
            self.importance,
            **kw,
        )

    def importance(self, name: str) -> Tensor:
        return self.state.kept_values[name].float().abs()

    def run(self) -> RefineResult:
        result = self.loop.run()
        self.check()
        return result

    def check(self) -> None:
        """Budgets kept to the weight in each layer, weights that are what the masks say, to the bit."""
        assert self.state.pruned_counts() == self.counts
        verify(self.layers, self.state.masks, self.state.kept_values)

    def moved(self) -> dict[str, int]:
        return {n: int((self.state.masks[n] ^ self.start[n]).sum()) // 2 for n in self.layers}


# -- the default way -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_all_layers(family: str) -> None:
    run = Run(merged(SMALL), family)
    result = run.run()
    assert result.stopped == "steps"
    assert len(result.curve) == 4
    assert result.swaps > 0
    assert result.accept_before is not None
    assert result.accept_after is not None
    assert result.accept_after < result.accept_before
    assert result.accept_after == pytest.approx(run.loop._measure())
    loss = result.accept_before
    for i, record in enumerate(result.curve):
        assert record.step == i
        assert record.swaps_kept <= record.swaps_proposed <= (record.radius or 0)
        assert record.accepted == (record.swaps_kept > 0)
        assert record.predicted_change <= 0
        assert record.loss is not None
        assert record.loss <= loss
        loss = record.loss
    assert result.swaps_by_layer == run.moved()  # recently moved weights are tabu, so none moves back
    assert sum(result.swaps_by_layer.values()) == result.swaps


def test_more_windows_where_steps_gain_little() -> None:
    """A step that lowers the loss by little doubles the windows of the next, up to the most."""
    run = Run(merged(SMALL, {"windows": 1, "max_windows": 4}))
    collected = [
        run.loop.evidence.collect(tuple(run.layers), progress) for progress in (0.0, 0.5, 0.0, 0.0, 0.0)
    ]
    assert collected == [1, 1, 2, 4, 4]
    fixed = Run(merged(SMALL, {"windows": 3, "max_windows": None}))
    assert [fixed.loop.evidence.collect(tuple(run.layers), 0.0) for _ in range(3)] == [3, 3, 3]


def test_what_was_seen_ages_by_the_share_of_the_loss_that_a_step_took_away() -> None:
    run = Run(merged(SMALL, {"chunk": None, "gradient": {"discount": 0.9, "staleness": 5.0}}))
    evidence, name = run.loop.evidence, next(iter(run.layers))
    windows: list[float] = []
    for progress in (0.0, 0.04, 1.0):
        before = evidence.moments._weight[name]
        samples = evidence.collect(tuple(run.layers), progress)
        windows.append((evidence.moments._weight[name] - samples) / before if before else 0.0)
    assert windows == pytest.approx([0.0, 0.9 * (1 - 5 * 0.04), 0.0])


@pytest.mark.parametrize("shift", [0.0, -5.0])
def test_a_loss_of_ones_own_may_be_negative(shift: float) -> None:
    """Evidence never gains weight by age, whatever the sign of the loss."""

    class Shifted(KLToDense):
        def value(self, model: nn.Module, batch: Any, teacher: Tensor | None) -> Tensor:
            return super().value(model, batch, teacher) + shift

    run = Run(merged(SMALL), objective=Shifted())
    told: list[float] = []
    collect = run.loop.evidence.collect

    def spied(names: tuple[str, ...], progress: float) -> int:
        told.append(progress)
        return collect(names, progress)

    run.loop.evidence.collect = spied  # type: ignore[method-assign]
    assert run.run().swaps > 0
    assert all(0 <= progress <= 1 for progress in told)
    assert max(told) > 0


def test_the_blocks_gradient_is_the_estimate_at_its_candidates() -> None:
    run = Run(merged(SMALL, {"gradient": {"estimate": "posterior", "reliability": True, "clip": 1.0}}))
    evidence, names = run.loop.evidence, tuple(run.layers)
    for step in range(3):  # from the second on, what earlier estimates kept is known
        evidence.collect(names, 0.0)
        block = run.loop.choice.choose(step, names, evidence)
        expected = torch.cat([evidence.estimate(n).reshape(-1)[i] for n, i in block.indices.items()])
        assert block.size
        assert torch.equal(evidence.gradient(block), expected)
        run.state.flip({n: i[:1] for n, i in block.indices.items()})


@pytest.mark.parametrize("criterion", ["gradient", "wanda", "random"])
def test_one_layer_a_step(criterion: str) -> None:
    run = Run(
        merged(SMALL, ONE_LAYER, {"steps": 16, "candidates": {"criterion": criterion}}),
        objective=CrossEntropy(),
    )
    result = run.run()
    assert result.accept_before is result.accept_after is None
    assert {record.layers for record in result.curve} == set(run.layers)
    assert all(r.variables <= 40 and r.measured_change is None for r in result.curve)
    assert all(r.accepted == (r.swaps_proposed > 0) == (r.swaps_kept > 0) for r in result.curve)
    assert sum(result.swaps_by_layer.values()) == result.swaps > 0


def test_one_layer_a_step_by_gain() -> None:
    result = Run(merged(SMALL, {"scope": "one_layer", "steps": 16})).run()
    assert len({record.layers for record in result.curve}) > 1
    assert result.swaps > 0


@pytest.mark.parametrize("kind", ["sampled_fisher", "empirical_fisher", "mean_gradient", "exact_hessian"])
@pytest.mark.parametrize("couplings", [True, False])
def test_every_curvature(kind: str, couplings: bool, solved: list[tuple[CardinalityQubo, Any]]) -> None:
    changes = {
        "steps": 2,
        "candidates": {"max_variables": 12 if kind == "exact_hessian" else 40},
        "curvature": {"kind": kind, "couplings": couplings, "scale_by_tokens": kind != "mean_gradient"},
    }
    run = Run(merged(SMALL, changes))
    result = run.run()
    assert all(0 < r.variables <= 40 for r in result.curve)
    for problem, _ in solved:
        assert abs(problem.energy(problem.reference)) < 1e-9
        q = problem.quadratic.dense()
        coupled = abs(q - problem.quadratic.diagonal() * torch.eye(problem.n).numpy()).max()
        assert (coupled > 0) == couplings


def test_exact_hessian_predicts_small_steps() -> None:
    """On the calibrating batches themselves, one swap's change comes out as predicted, sign and size."""
    recipe = merged(
        SMALL,
        {
            "steps": 1,
            "trust": {"swaps": 1},
            "windows": 4,
            "chunk": None,
            "gradient": {"shrink": 0.0},
            "candidates": {"max_variables": 30, "max_flip": 0.02},
            "curvature": {"kind": "exact_hessian"},
        },
    )
    run = Run(recipe)
    batches = [tiny_tokens(16, seed).reshape(1, 16) for seed in range(4)]
    with run.state.dense():
        run.loop.accept_pairs = [(b, run.objective.teacher(run.model, b)) for b in batches]
    (record,) = run.run().curve
    assert record.swaps_proposed == 1
    assert record.measured_change == pytest.approx(record.predicted_change, rel=0.25)


@pytest.mark.parametrize("solver", ["anneal", "exhaustive", "neal"])
def test_solvers_of_every_kind(solver: str) -> None:
    able, reason = qubo_solvers.availability(solver)
    if not able:
        pytest.skip(reason)
    size = 12 if solver == "exhaustive" else 60
    run = Run(
        merged(
            SMALL,
            {
                "steps": 2,
                "candidates": {"max_variables": size},
                "solver": {"name": solver},
            },
        )
    )
    assert all(0 < record.variables <= size for record in run.run().curve)


def test_same_seed_same_masks() -> None:
    runs = [Run(merged(SMALL), seed=seed) for seed in (0, 0, 1)]
    curves = [[(r.swaps_kept, r.predicted_change, r.loss) for r in run.run().curve] for run in runs]
    assert curves[0] == curves[1] != curves[2]
    assert all(torch.equal(runs[0].state.masks[n], runs[1].state.masks[n]) for n in runs[0].layers)
    random = {"steps": 3, "candidates": {"criterion": "random"}}
    runs = [Run(merged(SMALL, ONE_LAYER, random), seed=seed) for seed in (5, 5)]
    assert [r.predicted_change for r in runs[0].run().curve] == [
        r.predicted_change for r in runs[1].run().curve
    ]


def test_blocks_are_exported(tmp_path: Path) -> None:
    result = Run(merged(SMALL, {"steps": 2}), export=tmp_path / "blocks").run()
    files = sorted((tmp_path / "blocks").glob("*.npz"))
    assert [f.stem for f in files] == ["step0000", "step0001"]
    for file, record in zip(files, result.curve, strict=True):
        problem = qubo_solvers.formats.read(file)
        assert (problem.n, problem.radius) == (record.variables, 2 * (record.radius or 0))


def test_nothing_to_improve_ends_early() -> None:
    run = Run(merged(SMALL, {"steps": 50, "candidates": {"max_flip": 1e-30}}))
    result = run.run()
    assert (result.stopped, len(result.curve), result.swaps) == ("no improving candidates", icbs.PATIENCE, 0)
    assert result.accept_after == result.accept_before


def test_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = itertools.count(0.0, 0.01)  # each look at the clock takes 10 ms
    monkeypatch.setattr("time.perf_counter", lambda: next(now))
    result = Run(merged(SMALL, {"steps": 10_000, "time_limit": 0.5})).run()
    assert result.stopped == "time limit"
    assert 0 < len(result.curve) < 20


def test_moved_weights_are_tabu_and_harmful_ones_banned() -> None:
    run = Run(merged(SMALL, {"steps": 3, "tabu_steps": 100}))
    moved: set[tuple[str, int]] = set()
    for _ in range(3):
        before = {n: m.clone() for n, m in run.state.masks.items()}
        run.loop.recipe.steps = 1
        run.loop.run()
        now = {
            (n, int(i))
            for n in run.layers
            for i in (run.state.masks[n] ^ before[n]).reshape(-1).nonzero().reshape(-1)
        }
        assert not now & moved
        moved |= now
    assert moved
    for name, index in moved:
        assert not run.loop.choice.free(name).reshape(-1)[index]


def test_swaps_never_tried_alone_are_not_banned_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(merged(SMALL, {"steps": 1, "tabu_steps": 5, "trust": {"swaps": 4, "max_measurements": 1}}))
    monkeypatch.setattr(run.loop, "_measure", lambda: 1e9)
    (record,) = run.loop.run().curve
    assert record.harmful == record.swaps_proposed > 1
    until = [when for entries in run.loop.choice.tabu._entries.values() for when, _ in entries]
    assert until
    assert all(u == 5 for u in until)


@pytest.mark.parametrize("patience", [2, None])
def test_steps_that_change_nothing_end_it(patience: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(merged(SMALL, {"steps": 5, "patience": patience, "tabu_steps": 0}))
    monkeypatch.setattr(run.loop, "_measure", lambda: 1.0)
    result = run.run()
    assert result.swaps == 0
    told = (result.stopped, len(result.curve))
    assert told == (("no progress", 2) if patience else ("steps", 5))


def test_what_was_seen_of_moved_weights_is_forgotten() -> None:
    for reset in (True, False):
        run = Run(merged(SMALL, {"steps": 1, "gradient": {"reset": reset}}))
        assert run.run().swaps
        for name, start in run.start.items():
            moved = run.state.masks[name] ^ start
            seen = run.loop.evidence.moments.first[name]
            assert bool(seen[moved].any()) != reset or not moved.any()
            assert bool(seen[~moved].any())


# -- Ctrl-C and errors ---------------------------------------------------------------------------------


def interrupted(run: Run) -> RefineResult:
    """Run to the interrupt; then what is recorded is what the model holds."""
    result = run.run()
    assert result.stopped == "interrupted"
    assert sum(result.swaps_by_layer.values()) == result.swaps
    assert run.moved() == result.swaps_by_layer
    if result.accept_after is not None:
        assert result.accept_after == pytest.approx(run.loop._measure())
    return result


def test_interrupt_from_on_step() -> None:
    def on_step(record: StepRecord) -> None:
        if record.step == 1:
            raise KeyboardInterrupt

    assert len(interrupted(Run(merged(SMALL), on_step=on_step)).curve) == 2


class Interrupting(KLToDense):
    """Raises at the nth call of one method."""

    def __init__(self, method: str, at: int) -> None:
        super().__init__()
        self.method, self.left = method, at

    def _count(self, method: str) -> None:
        self.left -= self.method == method
        if self.left == 0 and self.method == method:
            self.left = -1
            raise KeyboardInterrupt

    def teacher(self, model: nn.Module, batch: Any) -> Tensor:
        self._count("teacher")
        return super().teacher(model, batch)

    def value(self, model: nn.Module, batch: Any, teacher: Tensor | None) -> Tensor:
        self._count("value")
        return super().value(model, batch, teacher)

    def signals(self, *args: Any) -> Any:
        self._count("signals")
        return super().signals(*args)


@pytest.mark.parametrize("method", ["value", "teacher", "signals"])
@pytest.mark.parametrize("at", [5, 6, 13])
def test_interrupt_inside_the_objective(method: str, at: int) -> None:
    """While accepting (four batches a measurement), while the dense model answers, in the forward pass."""
    interrupted(Run(merged(SMALL), objective=Interrupting(method, at)))


@pytest.mark.parametrize("at", [1, 3, 4])
@pytest.mark.parametrize("recipe", [merged(SMALL), merged(SMALL, ONE_LAYER, {"steps": 8})])
def test_interrupt_inside_a_flip(at: int, recipe: Icbs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal while masks are written: held back until they are whole, then the step is put back."""
    recorded: list[dict[str, Tensor]] = []
    run = Run(recipe, on_step=lambda _: recorded.append({n: m.clone() for n, m in run.state.masks.items()}))
    calls = 0
    where = torch.where

    def signalled(*args: Any) -> Any:
        nonlocal calls
        if isinstance(args[2], Tensor) and args[1].dim() == 1:  # the write of a flip
            calls += 1
            if calls == at:
                signal.raise_signal(signal.SIGINT)
        return where(*args)

    monkeypatch.setattr(torch, "where", signalled)
    result = run.run()
    assert result.stopped == "interrupted"
    assert sum(result.swaps_by_layer.values()) == result.swaps
    last = recorded[-1] if recorded else run.start
    assert all(torch.equal(run.state.masks[n], last[n]) for n in run.layers)
    assert len(recorded) == len(result.curve)


def test_interrupt_inside_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    solve, calls = icbs.solve_problem, itertools.count()

    def stop(*args: Any, **kw: Any) -> Any:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return solve(*args, **kw)

    monkeypatch.setattr(icbs, "solve_problem", stop)
    assert len(interrupted(Run(merged(SMALL))).curve) == 2


def test_errors_are_raised() -> None:
    class Broken(KLToDense):
        def signals(self, *args: Any) -> Any:
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        Run(merged(SMALL), objective=Broken()).loop.run()


def test_a_classifier_with_its_own_loss() -> None:
    """Tuples of inputs and labels, batches of different sizes, the default chunks."""
    model = tiny_mlp(sizes=(6, 16, 16, 4))
    layers = prunable_layers(model)
    state = PruneState(model, layers, initial_masks("magnitude", layers, 0.5))
    objective = CustomLoss(lambda m, batch: nn.functional.cross_entropy(m(batch[0]), batch[1]))
    g = torch.Generator().manual_seed(0)
    data = [(torch.randn(n, 6, generator=g), torch.randint(4, (n,), generator=g)) for n in (30, 20, 30, 7)]
    recipe = merged(SMALL, {"chunk": 128, "curvature": {"chunk": 16}, "windows": 3})
    loop = IcbsLoop(
        state,
        objective,
        itertools.cycle(data[:3]),
        teach(state, objective, data),
        recipe,
        lambda n: state.kept_values[n].abs(),
    )
    before = mean_value(model, [(b, None) for b in data], objective)
    result = loop.run()
    verify(layers, state.masks, state.kept_values)
    assert result.accept_before == before
    assert result.accept_after is not None
    assert result.accept_after < before


def test_one_layer_a_step_by_gain_without_measuring() -> None:
    """What one step watched is of its own layers."""
    run = Run(merged(SMALL, {"scope": "one_layer", "accept": "always", "steps": 5}))
    assert len(run.run().curve) == 5
