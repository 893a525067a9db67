"""Least squares on the support: torch.linalg.lstsq row by row, damping, and errors that never rise."""

from typing import Any

import pytest
import torch
from torch import Tensor

from qubo_prune.reconstruct import least_squares as module
from qubo_prune.reconstruct.least_squares import LeastSquares, least_squares
from qubo_prune.statistics.paths import PathEvidence, PathMoments


class Layer:
    """A small layer, its mask, and inputs on two paths."""

    def __init__(self, seed: int = 0, rows: int = 6, n: int = 12, tokens: int = 200) -> None:
        g = torch.Generator().manual_seed(seed)
        self.x = torch.randn(tokens, n, generator=g) @ torch.randn(n, n, generator=g)
        self.e = 0.3 * torch.randn(tokens, n, generator=g) + 0.1 * self.x
        self.original = torch.randn(rows, n, generator=g)
        self.mask = torch.rand(rows, n, generator=g) < 0.6
        self.mask[0] = False
        self.weight = self.original * self.mask

    def evidence(self, drift: bool, cut: int = 150) -> PathEvidence:
        fit, held = PathMoments(), PathMoments()
        fit.add(self.x[:cut], self.e[:cut] if drift else None)
        held.add(self.x[cut:], self.e[cut:] if drift else None)
        return PathEvidence(self.original, fit, held)

    def by_row(self, tokens: int, drift: bool, ridge: float = 0.0) -> Tensor:
        """Each row on its support alone, with the ridge towards the present values as further equations."""
        x = self.x[:tokens].double()
        target = (x + (self.e[:tokens].double() if drift else 0)) @ self.original.double().T
        answer = torch.zeros(self.mask.shape, dtype=torch.float64)
        for row, support in enumerate(self.mask):
            k = int(support.sum())
            a = torch.cat([x[:, support], (tokens * ridge) ** 0.5 * torch.eye(k, dtype=x.dtype)])
            y = torch.cat([target[:, row], (tokens * ridge) ** 0.5 * self.weight[row, support].double()])
            answer[row, support] = torch.linalg.lstsq(a, y[:, None]).solution[:, 0]
        return answer


@pytest.mark.parametrize("solver", ["auto", "conjugate_gradients", "cholesky"])
@pytest.mark.parametrize("drift", [False, True])
@pytest.mark.parametrize("damping", [0.0, 0.01, 1.0])
def test_equals_lstsq_of_each_row(solver: str, drift: bool, damping: float) -> None:
    for seed in range(3):
        layer = Layer(seed)
        evidence = layer.evidence(drift)
        gram = evidence.gram()
        z = least_squares(
            layer.weight, layer.mask, layer.original, gram, evidence.drift(), damping,
            solver=solver, iterations=300,  # type: ignore[arg-type]
        )  # fmt: skip
        expected = layer.by_row(150, drift, damping * float(gram.diagonal().mean()))
        torch.testing.assert_close((layer.weight + z).double(), expected, rtol=2e-3, atol=2e-3)
        assert not z[~layer.mask].any()


@pytest.mark.parametrize(
    ("rows", "n", "kept", "solver"), [(4, 64, 16, "cholesky"), (64, 64, 48, "conjugate")]
)
def test_factors_where_supports_are_few_and_small(
    rows: int, n: int, kept: int, solver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    for name in ("cholesky", "conjugate_gradients"):
        function = getattr(module, name)

        def spied(*arguments: Any, name: str = name, function: Any = function, **more: Any) -> Any:
            asked.append(name)
            return function(*arguments, **more)

        monkeypatch.setattr(module, name, spied)
    x = torch.randn(4 * n, n, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(rows, n, dtype=torch.bool)
    mask[:, :kept] = True
    least_squares(torch.zeros(rows, n), mask, torch.ones(rows, n), x.T @ x / len(x), damping=0.1)
    assert [name.startswith(solver) for name in asked] == [True]


def test_a_large_damping_leaves_all_as_it_is() -> None:
    layer = Layer()
    z = least_squares(layer.weight, layer.mask, layer.original, layer.evidence(False).gram(), damping=1e6)
    assert float(z.abs().max()) < 1e-4


def test_rows_that_cholesky_cannot_factor_are_solved_too() -> None:
    layer = Layer()
    layer.x[:, 2] = 0.0
    evidence = layer.evidence(False)
    for solver in ("cholesky", "conjugate_gradients"):
        z = least_squares(
            layer.weight, layer.mask, layer.original, evidence.gram(), solver=solver, iterations=300  # type: ignore[arg-type]
        )  # fmt: skip
        error = evidence.errors(layer.weight + z)
        assert not z[:, 2].any()
        assert (error[1:] < evidence.errors(layer.weight)[1:]).all()


@pytest.mark.parametrize("drift", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_method_takes_the_best_damping_and_never_makes_it_worse(drift: bool, dtype: torch.dtype) -> None:
    taken = []
    for seed in range(8):
        layer = Layer(seed, n=30)
        evidence = layer.evidence(drift, cut=20)  # fewer equations than unknowns: small dampings overfit
        weight = layer.weight.to(dtype)
        change = LeastSquares((10.0, 1.0, 0.1, 1e-4))("a", weight, layer.mask, evidence)
        assert change.mask is None
        before = evidence.error(weight)
        if change.values is None:
            assert change.details == {}
            continue
        assert change.values.dtype == dtype
        assert evidence.error(change.values) < before
        taken.append(change.details["damping"])
        each = [LeastSquares((d,)) for d in (10.0, 1.0, 0.1, 1e-4)]
        single = [method("a", weight, layer.mask, evidence).values for method in each]
        errors = [evidence.error(v) for v in single if v is not None]
        assert evidence.error(change.values) == pytest.approx(min(errors), rel=1e-2)
    assert taken
    assert max(taken) > 1e-4


def test_nothing_to_gain_changes_nothing() -> None:
    layer = Layer()
    evidence = layer.evidence(False)
    keep = torch.ones_like(layer.mask)
    assert LeastSquares()("a", layer.original, keep, evidence).values is None
    best = layer.weight + least_squares(
        layer.weight, layer.mask, layer.original, evidence.gram(), solver="cholesky"
    )
    held = PathEvidence(layer.original, evidence.fit)  # judged where it was fitted: it is the best already
    change = LeastSquares((0.1,))("a", best, layer.mask, held)
    assert change.values is None or held.error(change.values) < held.error(best)
