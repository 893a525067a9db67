"""The loss model and its problems: against its formula, the true loss and an explicit Gauss-Newton matrix."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from qubo_prune.errors import InputError
from qubo_prune.layers import Layer, prunable_layers
from qubo_prune.objective import CrossEntropy, CustomLoss, KLToDense, Objective
from qubo_prune.quadratic import BuiltBlock, Curvature, LossModel, Sparse, build
from qubo_prune.statistics.collect import collect, mean_value
from qubo_prune.statistics.fisher import FisherSamples
from qubo_prune.statistics.gradients import GradientMoments
from qubo_prune.statistics.hessian import exact_hessian
from qubo_prune.statistics.tape import frozen
from qubo_prune.testing import tiny_gpt2, tiny_llama, tiny_mlp, tiny_tokens
from qubo_solvers import Dense, LowRank, LowRankSparse, solve

KINDS = ("fisher", "mean_gradient", "matrix", "diagonal", "damped_fisher", "damped_matrix", "sparse")


def loss_model(n: int, seed: int, kind: str = "fisher", **changes: Any) -> LossModel:
    g = torch.Generator().manual_seed(seed)
    gradient = torch.randn(n, generator=g)
    samples = torch.randn(1 + seed % 7, n, generator=g)
    curvature = {
        "fisher": Curvature.fisher(samples, 3.0),
        "mean_gradient": Curvature.mean_gradient(gradient),
        "matrix": Curvature(matrix=(samples.T @ samples).double()),
        "diagonal": Curvature.fisher(samples).without_couplings(),
        "damped_fisher": Curvature.fisher(samples, 3.0).damped(samples[0].square()).plus(samples[:1], 2.0),
        "damped_matrix": Curvature(matrix=(samples.T @ samples).double()).damped(samples[0].square()),
        "sparse": Curvature.fisher(samples, 3.0).damped(samples[0].square()).coupled(sparse(n, g)),
    }[kind]
    parts: dict[str, Any] = {
        "kept_value": torch.randn(n, generator=g),
        "pruned": torch.rand(n, generator=g) < 0.5,
        "gradient": gradient,
        "curvature": curvature,
        "gamma": 0.75,
        "rho": 0.3,
    }
    return LossModel(**{**parts, **changes})


def sparse(n: int, g: torch.Generator) -> Sparse:
    """Half of the couplings within each four weights."""
    upper = torch.randn(n, n, generator=g).triu(1) * (torch.rand(n, n, generator=g) < 0.5)
    near = torch.arange(n)[:, None] // 4 == torch.arange(n) // 4
    matrix = (upper + upper.T) * near
    row, column = matrix.nonzero(as_tuple=True)
    return Sparse(row, column, matrix[row, column])


def one_group(model: LossModel, **options: Any) -> BuiltBlock:
    n = len(model.pruned)
    return build(model, torch.zeros(n, dtype=torch.int64), model.pruned.sum()[None], **options)


def numbers(x: Tensor) -> np.ndarray[Any, Any]:
    return x.to(torch.uint8).numpy()


@given(n=st.integers(1, 40), seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS), dense=st.booleans())
def test_energy_is_the_loss_model(n: int, seed: int, kind: str, dense: bool) -> None:
    """0 at the current mask; dL(x) at any other, written out here once more."""
    model = loss_model(n, seed, kind)
    problem = one_group(model, dense=dense).problem
    x = torch.rand(n, generator=torch.Generator().manual_seed(seed + 1)) < 0.5
    scale = max(1.0, abs(model.change(x)), abs(problem.offset))
    assert abs(problem.energy(numbers(model.pruned))) < 1e-12 * scale
    assert problem.energy(numbers(x)) == pytest.approx(model.change(x), abs=1e-5 * scale)
    w0, now = model.kept_value.double(), model.pruned.double()
    d = w0 * (1 - x.double()) - w0 * (1 - now)
    h = torch.stack([model.curvature.times(e) for e in torch.eye(n)])
    direct = 0.75 * model.gradient.double() @ d + 0.5 * d @ h @ d + 0.15 * d @ d
    assert model.change(x) == pytest.approx(float(direct), rel=1e-9, abs=1e-12)


@given(n=st.integers(1, 40), seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS))
def test_dense_and_low_rank_agree(n: int, seed: int, kind: str) -> None:
    model = loss_model(n, seed, kind)
    low, high = one_group(model).problem, one_group(model, dense=True).problem
    assert isinstance(high.quadratic, Dense)
    held = Dense if kind.endswith("matrix") else LowRankSparse if kind == "sparse" else LowRank
    assert isinstance(low.quadratic, held)
    q = high.quadratic.dense()
    assert np.abs(low.quadratic.dense() - q).max() <= 1e-6 * np.abs(q).max()
    assert np.allclose(low.linear, high.linear, rtol=1e-6)
    assert low.offset == pytest.approx(high.offset, rel=1e-6)


@given(n=st.integers(2, 10), seed=st.integers(0, 10**6), kind=st.sampled_from(KINDS))
def test_the_oracle_finds_the_best_move(n: int, seed: int, kind: str) -> None:
    """The least dL over every mask with the same counts in two groups, within a radius."""
    model = loss_model(n, seed, kind)
    groups = torch.arange(n) % 2
    counts = torch.zeros(2, dtype=torch.int64).index_add_(0, groups, model.pruned.long())
    built = build(model, groups, counts, reference=model.pruned, radius=4)
    masks = [torch.tensor([bool(m >> i & 1) for i in range(n)]) for m in range(1 << n)]
    allowed = [
        x
        for x in masks
        if int((x ^ model.pruned).sum()) <= 4
        and torch.equal(torch.zeros(2, dtype=torch.int64).index_add_(0, groups, x.long()), counts)
    ]
    least = min(model.change(x) for x in allowed)
    found = solve(built.problem, "exhaustive")
    assert found.energy == pytest.approx(least, rel=1e-5, abs=1e-5)
    assert least <= 0


def test_groups_counts_reference_and_radius_are_carried() -> None:
    model = loss_model(9, 1)
    groups = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    counts = torch.zeros(3, dtype=torch.int64).index_add_(0, groups, model.pruned.long())
    built = build(model, groups, counts, reference=model.pruned, radius=6, name="block")
    problem = built.problem
    assert problem.groups.tolist() == groups.tolist()
    assert problem.lower.tolist() == problem.upper.tolist() == counts.tolist()
    assert problem.reference is not None
    assert problem.reference.tolist() == numbers(model.pruned).tolist()
    assert (problem.radius, problem.name) == (6, "block")
    assert problem.is_feasible(problem.reference)
    assert built.build_seconds >= 0
    assert built.transfer_seconds >= 0


def test_ridge_is_the_papers() -> None:
    """The paper adds ridge * |d|^2, so rho is twice that: pruning one weight costs ridge * w0^2 more."""
    ridge = 0.25
    plain, ridged = (loss_model(6, 3, gamma=0.0, rho=rho) for rho in (0.0, 2 * ridge))
    x = torch.ones(6, dtype=torch.bool)
    moved = model_values = plain.kept_value[~plain.pruned].double()
    assert ridged.change(x) - plain.change(x) == pytest.approx(float(ridge * model_values.square().sum()))
    assert len(moved)


def test_curvatures() -> None:
    g = torch.randn(5, 4, dtype=torch.float64)
    assert torch.allclose(
        Curvature.fisher(g, 7.0).times(torch.ones(4).double()), (7 / 5 * g.T @ g).double().sum(1)
    )
    assert torch.allclose(Curvature.mean_gradient(g[0]).times(g[1]), (g[0] * (g[0] @ g[1])).double())
    damped = Curvature(matrix=g[:4].T @ g[:4]).damped(g[0].abs())
    for curvature in (Curvature.fisher(g), Curvature(matrix=g[:4].T @ g[:4]), damped):
        h = torch.stack([curvature.times(e) for e in torch.eye(4)])
        alone = torch.stack([curvature.without_couplings().times(e) for e in torch.eye(4)])
        assert torch.allclose(alone, h.diagonal().diag())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("field", ["kept_value", "gradient", "factor", "matrix", "diagonal"])
def test_what_is_not_finite_is_refused_by_name(field: str, bad: float) -> None:
    names = {"kept_value": "kept values", "gradient": "gradient"}
    change: dict[str, Any] = {}
    if field in names:
        change[field] = torch.tensor([0.0, bad, 1.0])
    else:
        shape = {"factor": (2, 3), "matrix": (3, 3), "diagonal": (3,)}[field]
        change["curvature"] = Curvature(**{field: torch.full(shape, bad)})
    with pytest.raises(InputError, match=names.get(field, "curvature")):
        loss_model(3, 0, **change)


def test_wrong_shapes_are_refused_by_name() -> None:
    one = torch.ones(1, dtype=torch.int64)
    wrong: list[tuple[str, dict[str, Any]]] = [
        ("gradient", {"gradient": torch.zeros(4)}),
        ("mask", {"pruned": torch.zeros(2, dtype=torch.bool)}),
        ("kept values", {"kept_value": torch.zeros(1, 3)}),
        ("curvature", {"curvature": Curvature(matrix=torch.zeros(2, 3))}),
        ("curvature", {"curvature": Curvature(factor=torch.zeros(3))}),
        ("a factor or a matrix", {"curvature": Curvature()}),
        ("a factor or a matrix", {"curvature": Curvature(torch.zeros(1, 3), torch.zeros(3, 3))}),
        ("sparse curvature", {"curvature": Curvature(torch.zeros(1, 3), sparse=Sparse(one, one, one[:0]))}),
        ("sparse curvature", {"curvature": Curvature(torch.zeros(1, 3), sparse=Sparse(one, one, one / 0))}),
        ("not to a matrix", {"curvature": Curvature(matrix=torch.zeros(3, 3), sparse=Sparse(one, one, one))}),
        ("gamma", {"gamma": math.nan}),
    ]
    for message, change in wrong:
        with pytest.raises(InputError, match=message):
            loss_model(3, 0, **change)


def test_bfloat16_blocks_are_built_in_float32() -> None:
    model = loss_model(8, 2)
    half = loss_model(
        8,
        2,
        kept_value=model.kept_value.bfloat16(),
        curvature=Curvature(factor=torch.randn(3, 8).bfloat16()),
        gradient=model.gradient.bfloat16(),
    )
    problem = one_group(half).problem
    x = ~model.pruned
    assert problem.energy(numbers(x)) == pytest.approx(half.change(x), rel=1e-5)


# -- the exact Hessian ---------------------------------------------------------------------------------


def some(layers: dict[str, Layer], each: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(0)
    return {n: torch.randperm(la.numel, generator=g)[:each].sort().values for n, la in layers.items()}


def shifted(layers: dict[str, Layer], indices: dict[str, Tensor], d: Tensor) -> None:
    """Add d to the chosen weights, in place."""
    for (name, index), part in zip(indices.items(), d.split([len(i) for i in indices.values()]), strict=True):
        rows, columns = index // layers[name].shape[1], index % layers[name].shape[1]
        layers[name].weight[rows, columns] += part


def cases() -> dict[str, tuple[nn.Module, Objective, Any, Tensor | None]]:
    """float64 models: Linear, Conv1D, attention; the three objectives."""
    tokens = tiny_tokens(2 * 10).reshape(2, 10)
    gpt2, llama = tiny_gpt2().double(), tiny_llama().double()
    dense = KLToDense().teacher(llama, tokens)
    for layer in prunable_layers(llama).values():
        layer.weight.mul_(0.8)
    mlp = tiny_mlp(sizes=(6, 5, 4)).double()
    mlp[1] = nn.Tanh()

    def custom(model: nn.Module, x: Tensor) -> Tensor:
        out: Tensor = model(x).square().sum(1).mean()
        return out

    return {
        "mlp": (mlp, CustomLoss(custom), torch.randn(5, 6, dtype=torch.float64), None),
        "gpt2": (gpt2, CrossEntropy(), tokens, None),
        "llama": (llama, KLToDense(), tokens, dense),
    }


@pytest.mark.parametrize("case", ["mlp", "gpt2", "llama"])
def test_exact_hessian_predicts_the_true_loss_to_second_order(case: str) -> None:
    """Along t d the error of gamma = 1, rho = 0 falls as t^3: by 8 for half the step."""
    torch.manual_seed(0)
    model, objective, batch, teacher = cases()[case]
    layers = prunable_layers(model)
    indices = some(layers, 4)
    pairs = [(batch, teacher), (batch[:1], None if teacher is None else teacher[:1])]
    h = exact_hessian(model, layers, indices, objective, pairs)
    moments = GradientMoments(layers)
    collect(model, layers, pairs, objective, moments)
    with frozen(model):  # float64 gradients: the moments are float32
        parameters = [layer.parameter.requires_grad_(True) for layer in layers.values()]
        total = torch.cat([objective.value(model, *pair) for pair in pairs]).mean()
        grads = torch.autograd.grad(total, parameters)
    g = torch.cat(
        [
            layer.oriented(grad).reshape(-1)[indices[n]]
            for (n, layer), grad in zip(layers.items(), grads, strict=True)
        ]
    )
    averaged = torch.cat([moments.mean(n).reshape(-1)[i] for n, i in indices.items()])
    assert torch.allclose(averaged.double(), g, atol=1e-6 + 1e-5 * float(g.abs().max()))
    kept = torch.cat([layer.weight.reshape(-1)[indices[n]] for n, layer in layers.items()])
    before = mean_value(model, pairs, objective)
    errors = []
    for t in (0.16, 0.08, 0.04):
        # the move d = -t w0 of every weight: kept values t w0, all kept now, all pruned then
        n = len(kept)
        now, then = torch.zeros(n, dtype=torch.bool), torch.ones(n, dtype=torch.bool)
        predicted = LossModel(t * kept, now, g, Curvature(matrix=h)).change(then)
        shifted(layers, indices, -t * kept)
        true = mean_value(model, pairs, objective) - before
        shifted(layers, indices, t * kept)
        errors.append(abs(true - predicted))
    assert errors[-1] < 0.1 * abs(true - float(-t * g @ kept))  # the Hessian explains the second order
    assert 6 < errors[0] / errors[1] < 10
    assert 6 < errors[1] / errors[2] < 10


def test_exact_hessian_against_torch() -> None:
    model = tiny_mlp(sizes=(4, 3, 2)).double()
    model[1] = nn.Tanh()
    layers = prunable_layers(model)
    x = torch.randn(6, 4, dtype=torch.float64)

    def loss(a: Tensor, b: Tensor) -> Tensor:
        out = torch.func.functional_call(
            model, {"0.weight": a.reshape(3, 4), "2.weight": b.reshape(2, 3)}, (x,)
        )
        return out.exp().sum(1).mean()

    parts = [layers[name].weight.reshape(-1) for name in layers]
    blocks = torch.autograd.functional.hessian(loss, tuple(parts))
    expected = torch.cat([torch.cat(list(row), 1) for row in blocks])
    indices = {name: torch.arange(layer.numel) for name, layer in layers.items()}
    found = exact_hessian(model, layers, indices, CustomLoss(lambda m, x: m(x).exp().sum(1)), [(x, None)])
    assert torch.allclose(found, expected)
    assert all(p.requires_grad for p in model.parameters())


def test_exact_hessian_refuses_large_blocks_and_losses_without_a_graph() -> None:
    model = tiny_mlp(sizes=(30, 30))
    layers = prunable_layers(model)
    with pytest.raises(InputError, match=r"600.*512 at most"):
        exact_hessian(model, layers, {"0": torch.arange(600)}, CrossEntropy(), [])
    detached = CustomLoss(lambda m, x: m(x).detach().sum(1))
    with pytest.raises(InputError, match="no graph"):
        exact_hessian(model, layers, {"0": torch.arange(3)}, detached, [(torch.randn(2, 30), None)])
    linear = CustomLoss(lambda m, x: m(x).sum(1))
    assert not exact_hessian(
        model, layers, {"0": torch.arange(3)}, linear, [(torch.randn(2, 30), None)]
    ).any()


# -- the Fisher is the Gauss-Newton matrix -------------------------------------------------------------


class Positions(nn.Module):
    """A softmax model applied to each position alone: (B, P, 4) -> logits (B, P, 3)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out


def gauss_newton(model: nn.Module, layers: dict[str, Layer], x: Tensor) -> Tensor:
    """Mean over positions of J'(diag(p) - p p')J."""
    parts = tuple(layer.weight.reshape(-1) for layer in layers.values())
    shapes = [layer.shape for layer in layers.values()]

    def logits(*flat: Tensor) -> Tensor:
        weights = {f"{n}.weight": f.reshape(s) for n, f, s in zip(layers, flat, shapes, strict=True)}
        return torch.func.functional_call(model, weights, (x,)).flatten(0, 1)

    jacobian = torch.cat(torch.autograd.functional.jacobian(logits, parts), -1)  # (BP, V, n)
    p = logits(*parts).softmax(-1)
    middle = torch.diag_embed(p) - p.unsqueeze(-1) * p.unsqueeze(-2)
    return torch.einsum("tvi,tvw,twj->ij", jacobian, middle, jacobian) / len(p)


def test_expected_fisher_is_gauss_newton() -> None:
    """Over every label with its probability; each label's gradient from the tape, one position a sample."""
    model = Positions()
    layers = prunable_layers(model)
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    everything = {name: torch.arange(layer.numel) for name, layer in layers.items()}
    positions = x.reshape(15, 1, 4)
    p = model(positions)[:, 0].softmax(-1).detach()
    expected = torch.zeros(21, 21, dtype=torch.float64)
    for label in range(3):
        fisher = FisherSamples(layers)
        labels = torch.full((15, 1), label)
        objective = CrossEntropy(labels=lambda batch, labels=labels: labels)
        collect(model, layers, [(positions, None)], objective, None, fisher)
        g = fisher.gather(everything).double()
        expected += (g * p[:, label, None]).T @ g / 15
    assert torch.allclose(expected, gauss_newton(model, layers, x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("chunk", [None, 2])
def test_token_scaled_sampled_fisher_converges_to_gauss_newton(chunk: int | None) -> None:
    """The error falls with the root of the number of samples, for whole windows and for pieces of them."""
    model = Positions()
    layers = prunable_layers(model)
    x = torch.randn(4, 5, 4, dtype=torch.float64)
    everything = {name: torch.arange(layer.numel) for name, layer in layers.items()}
    target = gauss_newton(model, layers, x).detach()
    with torch.no_grad():
        dense = KLToDense().teacher(model, x)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for repeats in (20, 2000):
        fisher = FisherSamples(layers)
        found = collect(
            model,
            layers,
            [(x.repeat(repeats, 1, 1), dense.repeat(repeats, 1, 1))],
            KLToDense(),
            None,
            fisher,
            sampled_labels=generator,
            fisher_chunk=chunk,
        )
        h = Curvature.fisher(fisher.gather(everything), found.fisher_tokens)
        full = torch.stack([h.times(e) for e in torch.eye(21)])
        errors.append(float((full - target).norm() / target.norm()))
    assert errors[1] < 0.03
    assert errors[1] < errors[0] / 4
