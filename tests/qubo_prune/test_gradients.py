"""Gradients from the tape against torch.autograd.grad, the moments over samples, and what is left behind."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from qubo_prune.errors import InputError
from qubo_prune.layers import Layer, prunable_layers
from qubo_prune.objective import CrossEntropy, CustomLoss, KLToDense, Objective
from qubo_prune.statistics import fisher as fisher_module
from qubo_prune.statistics import gradients as gradients_module
from qubo_prune.statistics.collect import collect, mean_value
from qubo_prune.statistics.fisher import CoherentFisher, FisherSamples, KroneckerDiagonal
from qubo_prune.statistics.gradients import GradientMoments
from qubo_prune.statistics.tape import Tape, frozen
from qubo_prune.testing import TINY_MODELS, tiny_gpt2, tiny_llama, tiny_mlp, tiny_tokens

Batches = list[tuple[Tensor, Tensor | None]]


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return tiny_tokens(batch * length, seed).reshape(batch, length)


def per_sample(
    model: nn.Module, layers: dict[str, Layer], loss: Callable[[nn.Module, Tensor], Tensor], x: Tensor
) -> dict[str, Tensor]:
    """(B, out, in) gradients of each sample's own loss, by autograd, a sample at a time."""
    found: dict[str, list[Tensor]] = {name: [] for name in layers}
    parameters = [layer.parameter for layer in layers.values()]
    for i in range(len(x)):
        grads = torch.autograd.grad(loss(model, x[i : i + 1]).sum(), parameters, allow_unused=True)
        for (name, layer), grad in zip(layers.items(), grads, strict=True):
            found[name].append(layer.oriented(torch.zeros_like(layer.parameter) if grad is None else grad))
    return {name: torch.stack(parts) for name, parts in found.items()}


def language_loss(model: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x).logits[:, :-1].flatten(0, 1).float(), x[:, 1:].flatten())


def worst(found: Tensor, expected: Tensor) -> float:
    """Largest difference over the largest entry."""
    return float((found.double() - expected.double()).abs().max() / expected.abs().max())


def every_weight(layers: dict[str, Layer]) -> dict[str, Tensor]:
    return {name: torch.arange(layer.numel) for name, layer in layers.items()}


def check_against_autograd(
    model: nn.Module,
    layers: dict[str, Layer],
    objective: Objective,
    loss: Callable[[nn.Module, Tensor], Tensor],
    batches: list[Tensor],
    tolerance: float = 1e-5,
) -> None:
    moments, fisher = GradientMoments(layers), FisherSamples(layers)
    collect(model, layers, [(x, None) for x in batches], objective, moments, fisher)
    expected = {
        name: torch.cat(parts)
        for name, parts in zip(
            layers,
            zip(*(per_sample(model, layers, loss, x).values() for x in batches), strict=True),
            strict=True,
        )
    }
    gathered = fisher.gather(every_weight(layers)).split([layer.numel for layer in layers.values()], 1)
    for (name, g), rows in zip(expected.items(), gathered, strict=True):
        assert worst(rows, g.flatten(1)) < tolerance, name
        assert worst(moments.mean(name), g.mean(0)) < tolerance, name
        error = g.double().std(0) / math.sqrt(len(g))
        assert worst(moments.standard_error(name), error) < 10 * tolerance, name


@pytest.mark.parametrize("family", TINY_MODELS)
def test_language_models_match_autograd(family: str) -> None:
    """Linear and Conv1D, with and without bias, shared inputs, batches; OPT flattens (B * T, features)."""
    model = TINY_MODELS[family]()
    batches = [tokens(3, 12, 0), tokens(2, 12, 1)]
    check_against_autograd(model, prunable_layers(model), CrossEntropy(), language_loss, batches)


def test_model_with_its_head() -> None:
    model = tiny_llama()
    layers = prunable_layers(model, ["*"])
    assert "lm_head" in layers
    check_against_autograd(model, layers, CrossEntropy(), language_loss, [tokens(2, 9)])


@pytest.mark.parametrize("bias", [True, False])
def test_classifier_with_an_in_place_activation(bias: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 8, bias=bias),
        nn.ReLU(inplace=True),
        nn.Linear(8, 8, bias=bias),
        nn.Tanh(),
        nn.Linear(8, 3),
    )

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).square().sum(1)

    batches = [torch.randn(5, 6), torch.randn(2, 6)]
    check_against_autograd(model, prunable_layers(model), CustomLoss(loss), loss, batches)


def test_scalar_losses_of_batches_of_different_sizes() -> None:
    """A scalar is the mean over its batch: every sample counts once, whatever batch it came in."""
    model = tiny_mlp()

    def scalar(model: nn.Module, x: Tensor) -> Tensor:
        return model(x).square().sum(1).mean()

    batches = [torch.randn(5, 6), torch.randn(1, 6), torch.randn(2, 6)]
    check_against_autograd(model, prunable_layers(model), CustomLoss(scalar), scalar, batches)
    pairs: Batches = [(x, None) for x in batches]
    each = torch.cat([model(x).square().sum(1) for x in batches]).detach().double().mean()
    assert mean_value(model, pairs, CustomLoss(scalar)) == pytest.approx(float(each))
    found = collect(model, prunable_layers(model), pairs, CustomLoss(scalar), None)
    assert found.value == pytest.approx(float(each))
    assert found.samples == 8


class Twice(nn.Module):
    """One module called twice, and a second module that shares its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).tanh()
        x = self.first(x).tanh()
        return self.out(self.second(x).tanh())


def squares(model: nn.Module, x: Tensor) -> Tensor:
    return model(x).square().flatten(1).sum(1)


def test_weight_used_three_times() -> None:
    torch.manual_seed(0)
    model = Twice()
    layers = prunable_layers(model)
    assert list(layers) == ["first", "out"]
    check_against_autograd(model, layers, CustomLoss(squares), squares, [torch.randn(4, 5)])
    check_against_autograd(model, layers, CustomLoss(squares), squares, [torch.randn(4, 3, 5)])


class Forks(nn.Module):
    """`unused` is called and its output dropped, `never` is not called, `sometimes` for positive x only."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused, self.never, self.sometimes = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        self.unused(x)
        y = self.used(x)
        return y + self.sometimes(x) if bool((x > 0).all()) else y


def test_layers_the_loss_never_touches_count_as_zero() -> None:
    torch.manual_seed(0)
    model = Forks()
    layers = prunable_layers(model)
    batches = [torch.rand(2, 4), -torch.rand(3, 4), torch.rand(1, 4)]
    moments, fisher, diagonal = GradientMoments(layers), FisherSamples(layers), KroneckerDiagonal(layers)
    collect(model, layers, [(x, None) for x in batches], CustomLoss(squares), moments, fisher, diagonal)
    gathered = dict(zip(layers, fisher.gather(every_weight(layers)).split(16, 1), strict=True))
    for name in ("unused", "never"):
        assert not moments.mean(name).any()
        assert not moments.shrunk(name, 2.0).any()
        assert not gathered[name].any()
        assert not diagonal.diagonal(name).any()
    g = torch.cat([per_sample(model, layers, squares, x)["sometimes"] for x in batches])
    assert not g[2:5].any()
    assert worst(gathered["sometimes"], g.flatten(1)) < 1e-5
    assert worst(moments.mean("sometimes"), g.mean(0)) < 1e-5
    assert moments.samples("sometimes") == 6


def test_a_layer_without_samples() -> None:
    moments = GradientMoments(prunable_layers(tiny_mlp()))
    assert moments.samples("0") == 0
    assert not moments.mean("0").any()
    assert moments.standard_error("0").isinf().all()
    assert not moments.shrunk("0", 2.0).any()
    assert not KroneckerDiagonal(prunable_layers(tiny_mlp())).diagonal("0").any()
    assert FisherSamples(prunable_layers(tiny_mlp())).gather({"0": torch.arange(3)}).shape == (0, 3)


def test_one_sample_has_no_error_bar() -> None:
    model = tiny_mlp()
    layers = prunable_layers(model)
    moments = GradientMoments(layers)
    collect(model, layers, [(torch.randn(1, 6), None)], CustomLoss(squares), moments)
    assert moments.mean("0").any()
    assert not moments.shrunk("0", 1.0).any()
    assert torch.equal(moments.shrunk("0", 0.0), moments.mean("0"))


def test_bfloat16_within_its_precision() -> None:
    model = tiny_gpt2().to(torch.bfloat16)
    layers = prunable_layers(model)
    check_against_autograd(model, layers, CrossEntropy(), language_loss, [tokens(4, 16)], tolerance=0.03)


def test_groups_of_samples_and_of_indices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transient memory is bounded by the stated sizes, and cutting the work changes nothing."""
    model = tiny_mlp(sizes=(32, 48, 16))
    layers = prunable_layers(model)
    x = torch.randn(40, 32)
    plain, whole = GradientMoments(layers), FisherSamples(layers)
    collect(model, layers, [(x, None)], CustomLoss(squares), plain, whole)
    limit = 4 * 3 * 48 * 32
    monkeypatch.setattr(gradients_module, "BMM_BYTES", limit)
    monkeypatch.setattr(fisher_module, "GATHER_BYTES", limit)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else [out]:
                largest = max(largest, 4 * t.numel() if isinstance(t, Tensor) else 0)
            return out

    moments, fisher = GradientMoments(layers), FisherSamples(layers)
    with Watch():
        collect(model, layers, [(x, None)], CustomLoss(squares), moments, fisher)
    assert largest <= limit  # 40 samples would be 13 times as much
    index = torch.arange(0, 1536, 3)
    with Watch():
        rows = fisher.gather({"0": index})
    assert largest <= max(limit, 4 * rows.numel())
    assert torch.allclose(rows, whole.gather({"0": index}))
    for name in layers:
        assert torch.allclose(moments.mean(name), plain.mean(name), atol=1e-6)
        assert torch.allclose(moments.standard_error(name), plain.standard_error(name), rtol=1e-4)


# -- chunks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "chunk", "pieces"), [(17, 4, 4), (16, 4, 4), (16, None, 1), (12, 64, 1), (14, 4, 4)]
)
def test_chunks_keep_the_mean_and_split_the_rest(length: int, chunk: int | None, pieces: int) -> None:
    model = tiny_llama()
    layers = prunable_layers(model)
    pairs: Batches = [(tokens(3, length), None)]
    plain, cut, fisher = GradientMoments(layers), GradientMoments(layers), FisherSamples(layers)
    collect(model, layers, pairs, CrossEntropy(), plain)
    found = collect(model, layers, pairs, CrossEntropy(), cut, fisher, chunk=chunk, fisher_chunk=chunk)
    assert found.samples == 3
    assert found.fisher_tokens == pytest.approx((length - 1) / pieces)
    assert fisher.samples == 3 * pieces
    g = fisher.gather(every_weight(layers))
    for (name, layer), rows in zip(
        layers.items(), g.split([la.numel for la in layers.values()], 1), strict=True
    ):
        assert cut.samples(name) == 3 * pieces
        assert worst(cut.mean(name), plain.mean(name)) < 1e-5
        assert worst(rows.mean(0).reshape(layer.shape), plain.mean(name)) < 1e-5


def test_losses_that_are_no_means_are_not_split() -> None:
    """An MLP, or any loss without positions, under the default recipe's chunks."""
    model = tiny_mlp()
    layers = prunable_layers(model)
    fisher = FisherSamples(layers)
    found = collect(
        model,
        layers,
        [(torch.randn(5, 6), None)],
        CustomLoss(squares),
        None,
        fisher,
        chunk=128,
        fisher_chunk=16,
    )
    assert (fisher.samples, found.fisher_tokens) == (5, 1.0)


def test_custom_loss_over_positions_is_split_by_them() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    layers = prunable_layers(model)
    objective = CustomLoss(lambda model, x: model(x).square().sum(2).mean(1), tokens=8)
    fisher, x = FisherSamples(layers), torch.randn(2, 8, 4)
    found = collect(model, layers, [(x, None)], objective, None, fisher, fisher_chunk=2)
    assert (fisher.samples, found.fisher_tokens) == (8, 2.0)
    parts = x.reshape(8, 2, 4)  # each piece's gradient is that of its own mean
    expected = per_sample(model, layers, lambda model, x: model(x).square().sum(2).mean(1), parts)["0"]
    assert worst(fisher.gather({"0": torch.arange(12)}), expected.flatten(1)) < 1e-5


def test_kronecker_diagonal_is_the_per_position_fisher_of_rank_one_layers() -> None:
    """Exact where inputs or gradients have one size; chunks do not change it, repeated calls are summed."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    layers = prunable_layers(model)
    x = torch.randn(4, 6, 3).sign()  # every squared input is 1
    objective = CustomLoss(lambda model, x: model(x).square().sum(2).mean(1), tokens=6)
    diagonal = KroneckerDiagonal(layers)
    collect(model, layers, [(x, None)], objective, None, None, diagonal, fisher_chunk=3)
    g = 2 * model(x).detach()  # per position
    expected = g.square().mean((0, 1))[:, None].expand(2, 3)
    assert worst(diagonal.diagonal("0"), expected) < 1e-5
    diagonal.age(0.5)
    collect(model, layers, [(x, None)], objective, None, None, diagonal)
    assert worst(diagonal.diagonal("0"), expected) < 1e-5

    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(3, 3, bias=False)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.lin(x) - self.lin(y)

    again = Again()
    layers = prunable_layers(again)
    y = torch.randn(4, 3).sign()
    objective = CustomLoss(lambda model, x: (model(x, y) * torch.tensor([1.0, 2.0, 3.0])).sum(1))
    diagonal = KroneckerDiagonal(layers)
    collect(again, layers, [(x[:, 0], None)], objective, None, None, diagonal)
    expected = 2 * torch.tensor([1.0, 4.0, 9.0])[:, None].expand(3, 3)  # the two calls' squares add up
    assert worst(diagonal.diagonal("lin"), expected) < 1e-5


# -- averaging over steps ------------------------------------------------------------------------------


def fill(moments: GradientMoments, values: Tensor) -> None:
    """Samples of a (1, 1) layer with these gradients."""
    moments.add("0", [torch.ones(len(values), 1, 1)], [values.reshape(-1, 1, 1)])


def test_discounted_mean_and_standard_error() -> None:
    moments = GradientMoments(prunable_layers(nn.Sequential(nn.Linear(1, 1))))
    torch.manual_seed(0)
    steps = [torch.randn(n) + 1 for n in (7, 3, 5)]
    weights = torch.cat([torch.full((len(v),), 0.8 ** (2 - i)) for i, v in enumerate(steps)]).double()
    for values in steps:
        moments.age(0.8)
        fill(moments, values)
    g = torch.cat(steps).double()
    mean = (weights * g).sum() / weights.sum()
    n = weights.sum() ** 2 / weights.square().sum()
    variance = (weights * (g - mean) ** 2).sum() / weights.sum() * n / (n - 1)
    assert moments.samples("0") == pytest.approx(float(n))
    assert float(moments.mean("0")) == pytest.approx(float(mean), rel=1e-5)
    assert float(moments.standard_error("0")) == pytest.approx(float((variance / n).sqrt()), rel=1e-4)
    moments.age(1.0)
    assert moments.samples("0") == pytest.approx(float(n))
    moments.age(0.0)
    fill(moments, steps[1])
    assert float(moments.mean("0")) == pytest.approx(float(steps[1].mean()), rel=1e-5)
    assert float(moments.standard_error("0")) == pytest.approx(float(steps[1].std() / 3**0.5), rel=1e-4)


def test_standard_error_of_a_weighted_mean_is_calibrated() -> None:
    """Over many repetitions the mean's spread is what the standard error says."""
    torch.manual_seed(0)
    layers = prunable_layers(nn.Sequential(nn.Linear(1, 4000)))
    moments = GradientMoments(layers)
    for _ in range(6):
        moments.age(0.7)
        moments.add("0", [torch.ones(4, 1, 1)], [torch.randn(4, 1, 4000)])
    spread = float(moments.mean("0").std())
    assert float(moments.standard_error("0").square().mean().sqrt()) == pytest.approx(spread, rel=0.05)


def test_shrunk_takes_the_error_off_towards_zero() -> None:
    moments = GradientMoments(prunable_layers(nn.Sequential(nn.Linear(1, 1))))
    fill(moments, torch.tensor([-5.0, -4.0, -6.0]))
    error = float(moments.standard_error("0"))
    assert float(moments.shrunk("0", 2.0)) == pytest.approx(-5 + 2 * error)
    assert float(moments.shrunk("0", 100.0)) == 0


# -- leaving no trace ----------------------------------------------------------------------------------


def test_everything_is_put_back_also_after_an_error() -> None:
    model = tiny_llama().train()
    model.get_submodule("model.norm").eval()
    layers = prunable_layers(model)
    next(iter(layers.values())).parameter.requires_grad_(False)
    before = [(m.training, len(m._forward_hooks)) for m in model.modules()]
    needed = [p.requires_grad for p in model.parameters()]

    def failing(model: nn.Module, x: Tensor) -> Tensor:
        assert not model.training
        assert not any(p.requires_grad for p in model.parameters())
        model(x)
        raise KeyboardInterrupt

    def bad_consumer(name: str, x: list[Tensor], g: list[Tensor]) -> None:
        raise RuntimeError("in the backward pass")

    with pytest.raises(KeyboardInterrupt):
        collect(model, layers, [(tokens(1, 8), None)], CustomLoss(failing), GradientMoments(layers))
    with frozen(model), Tape(model, layers) as tape:
        out = model(tokens(1, 8)).logits.sum()
        with pytest.raises(RuntimeError, match="in the backward pass"):
            tape.backward(out, torch.ones(()), bad_consumer, 1)
    collect(model, layers, [(tokens(1, 8), None)], CrossEntropy(), GradientMoments(layers))
    assert [(m.training, len(m._forward_hooks)) for m in model.modules()] == before
    assert [p.requires_grad for p in model.parameters()] == needed
    assert all(p.grad is None for p in model.parameters())


def test_detached_loss_and_unknown_sample_layouts_are_refused() -> None:
    model = tiny_mlp()
    layers = prunable_layers(model)
    detached = CustomLoss(lambda model, x: model(x).detach().square().sum(1))
    with pytest.raises(InputError, match="depends on no pruned layer"):
        collect(model, layers, [(torch.randn(3, 6), None)], detached, GradientMoments(layers))
    time_first = CustomLoss(lambda model, x: model(x.transpose(0, 1)).square().sum((0, 2)))
    with pytest.raises(InputError, match="batch_first"):
        collect(model, layers, [(torch.randn(3, 7, 6), None)], time_first, GradientMoments(layers))
    collect(model, layers, [(torch.randn(1, 7, 6), None)], time_first, GradientMoments(layers))


def test_inputs_written_into_are_refused() -> None:
    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lin = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.clone()
            y = self.lin(x)
            x.zero_()
            return y + x

    model = Writes()
    layers = prunable_layers(model)
    with pytest.raises(InputError, match="'lin'"):
        collect(model, layers, [(torch.randn(2, 3), None)], CustomLoss(squares), GradientMoments(layers))


def test_overflowing_gradients_are_refused() -> None:
    model = tiny_mlp()
    layers = prunable_layers(model)
    overflow = CustomLoss(lambda model, x: model(x).sum(1) * torch.tensor(float("inf")))
    with pytest.raises(InputError, match="NaN or infinite"):
        collect(model, layers, [(torch.randn(2, 6), None)], overflow, GradientMoments(layers))


def test_two_pulls_of_one_forward_pass() -> None:
    """The loss and the sampled labels come from one forward pass; KL to the dense model for the loss."""
    model = tiny_gpt2()
    layers = prunable_layers(model)
    x = tokens(3, 10)
    dense = KLToDense().teacher(model, x)
    with torch.no_grad():
        for layer in layers.values():
            layer.weight.mul_(0.7)
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    handle = model.register_forward_pre_hook(count)
    moments, fisher = GradientMoments(layers), FisherSamples(layers)
    generator = torch.Generator().manual_seed(0)
    collect(model, layers, [(x, dense)], KLToDense(), moments, fisher, sampled_labels=generator)
    handle.remove()
    assert calls == 1

    def kl(model: nn.Module, sample: Tensor) -> Tensor:
        row = next(i for i in range(3) if torch.equal(x[i], sample[0]))
        log_q = model(sample).logits[:, :-1].log_softmax(-1)
        log_p = dense[row : row + 1].float().log_softmax(-1)
        return (log_p.exp() * (log_p - log_q)).sum(-1).mean()

    expected = per_sample(model, layers, kl, x)
    for name in layers:
        assert worst(moments.mean(name), expected[name].mean(0)) < 1e-5
    labels = fisher.gather(every_weight(layers))
    slopes = torch.cat([expected[name].flatten(1) for name in layers], 1)
    assert worst(labels, slopes) > 0.1


def test_clipped_to_median_lengths() -> None:
    """Lengths of earlier samples count too; ten times the median is cut to `clip` times it."""
    layers = prunable_layers(tiny_mlp())
    name, layer = next(iter(layers.items()))
    g = torch.Generator().manual_seed(0)
    x, d = torch.rand(9, 1, layer.shape[1], generator=g), torch.rand(9, 1, layer.shape[0], generator=g)
    d[7:] *= 100
    plain, clipped = GradientMoments(layers), GradientMoments(layers, clip=1.5)
    every = torch.bmm(d.transpose(1, 2), x)
    norms = every.flatten(1).norm(dim=1)
    for lo, hi in ((0, 5), (5, 8), (8, 9)):
        plain.add(name, [x[lo:hi]], [d[lo:hi]])
        clipped.add(name, [x[lo:hi]], [d[lo:hi]])
    assert torch.allclose(plain.mean(name), every.mean(0), rtol=1e-5)
    scale = [
        min(1.0, 1.5 * float(norms[:seen].quantile(0.5)) / float(norms[i]))
        for i, seen in enumerate([5] * 5 + [8] * 3 + [9])
    ]
    expected = (torch.tensor(scale)[:, None, None] * every).mean(0)
    assert torch.allclose(clipped.mean(name), expected, rtol=1e-5)
    assert scale[7] < 0.1


def test_samples_without_a_gradient_do_not_clip_the_others() -> None:
    layers = prunable_layers(tiny_mlp())
    name, layer = next(iter(layers.items()))
    g = torch.Generator().manual_seed(0)
    x, d = torch.rand(9, 1, layer.shape[1], generator=g), torch.rand(9, 1, layer.shape[0], generator=g)
    d[:6] = 0
    few, all_of_them = GradientMoments(layers, clip=1.0), GradientMoments(layers, clip=1.0)
    few.add(name, [x[6:]], [d[6:]])
    all_of_them.add(name, [x], [d])
    assert float(few.mean(name).abs().max()) > 0
    assert torch.allclose(all_of_them.mean(name), few.mean(name) * 3 / 9)


def test_the_coherent_part_of_the_newest_samples() -> None:
    """Rank one a sample and call: the sum of the gradients times the mean of the inputs."""
    layers = prunable_layers(tiny_mlp())
    name, layer = next(iter(layers.items()))
    g = torch.Generator().manual_seed(0)
    coherent, expected = CoherentFisher(layers, 4), list[Tensor]()
    for batch in (3, 2):
        xs = [torch.randn(batch, positions, layer.shape[1], generator=g) for positions in (3, 5)]
        ds = [torch.randn(batch, positions, layer.shape[0], generator=g) for positions in (3, 5)]
        coherent.add(name, xs, ds)
        for b in range(batch):
            parts = [torch.outer(d[b].sum(0), x[b].mean(0)) for x, d in zip(xs, ds, strict=True)]
            expected.append(torch.stack(parts).sum(0).reshape(-1))
    index = torch.tensor([0, 3, layer.numel - 1])
    assert coherent.samples == 4
    found = coherent.gather({name: index})
    torch.testing.assert_close(found, torch.stack(expected[1:])[:, index])


@pytest.mark.parametrize("labels", [True, False])
def test_curvature_from_every_other_batch(labels: bool) -> None:
    """The gradient sees all batches, the Fisher and its diagonal only those they are asked for."""
    model = tiny_gpt2()
    layers = prunable_layers(model)
    batches = [(tokens(2, 9 + i), None) for i in range(4)]

    def seen(chosen: list[tuple[Tensor, None]], every: int) -> tuple[GradientMoments, FisherSamples]:
        moments, fisher, diagonal = GradientMoments(layers), FisherSamples(layers), KroneckerDiagonal(layers)
        found = collect(
            model, layers, chosen, CrossEntropy(), moments, fisher, diagonal, label_every=every,
            sampled_labels=torch.Generator().manual_seed(1) if labels else None,
        )  # fmt: skip
        assert found.samples == 2 * len(chosen)
        positions = [b.shape[1] - 1 for b, _ in chosen[::every]]
        assert found.fisher_tokens == pytest.approx(sum(positions) / len(positions))
        return moments, fisher

    every_weight_of = every_weight(layers)
    moments, fisher = seen(batches, 2)
    all_moments, _ = seen(batches, 1)
    _, half = seen(batches[::2], 1)
    assert fisher.samples == 4
    assert torch.equal(fisher.gather(every_weight_of), half.gather(every_weight_of))
    for name in layers:
        assert torch.equal(moments.mean(name), all_moments.mean(name))


def test_posterior_is_nearer_to_the_true_gradient_than_mean_or_shrunk() -> None:
    """Many weak signals in much noise of very different size: the case late in a refinement."""
    g = torch.Generator().manual_seed(0)
    layer = Layer("a", torch.nn.Linear(40, 30, bias=False))
    size = torch.outer(torch.rand(30, generator=g) + 0.1, torch.rand(40, generator=g) + 0.1)
    truth = 0.3 * size * torch.randn(30, 40, generator=g)
    moments = GradientMoments({"a": layer})
    draws = truth + size * torch.randn(12, 30, 40, generator=g)
    moments.first["a"].copy_(draws.sum(0))
    moments.second["a"].copy_(draws.square().sum(0))
    moments._weight["a"] = moments._weight2["a"] = 12.0
    error = {
        "mean": (moments.mean("a") - truth).square().sum(),
        "shrunk": (moments.shrunk("a", 2.0) - truth).square().sum(),
        "posterior": (moments.posterior("a") - truth).square().sum(),
    }
    assert error["posterior"] < min(error["mean"], error["shrunk"])


def test_posterior_without_noise_to_judge_by_is_the_mean() -> None:
    layer = Layer("a", torch.nn.Linear(3, 2, bias=False))
    moments = GradientMoments({"a": layer})
    moments.first["a"].copy_(torch.arange(6.0).reshape(2, 3))
    moments._weight["a"] = moments._weight2["a"] = 1.0
    assert torch.equal(moments.posterior("a"), moments.mean("a"))
    assert torch.isfinite(GradientMoments({"a": layer}).posterior("a")).all()


def test_several_labels_a_position() -> None:
    """Each draw is a set of Fisher samples of its own; the gradient and the scale do not change."""
    model = tiny_gpt2()
    layers = prunable_layers(model)
    batches = [(tokens(2, 9), None), (tokens(2, 9), None)]

    def seen(labels: int) -> tuple[GradientMoments, FisherSamples, Tensor, float]:
        moments, fisher, diagonal = GradientMoments(layers), FisherSamples(layers), KroneckerDiagonal(layers)
        found = collect(
            model, layers, batches, CrossEntropy(), moments, fisher, diagonal, labels=labels,
            sampled_labels=torch.Generator().manual_seed(1), fisher_chunk=4,
        )  # fmt: skip
        return moments, fisher, diagonal.diagonal(next(iter(layers))), found.fisher_tokens

    one, many = seen(1), seen(16)
    assert many[1].samples == 16 * one[1].samples
    assert many[3] == one[3]
    name = next(iter(layers))
    assert torch.equal(one[0].mean(name), many[0].mean(name))
    torch.testing.assert_close(one[2].sum(), many[2].sum(), rtol=0.3, atol=0.0)
    samples = many[1].gather({name: torch.arange(3)}).reshape(2, 16, -1, 3)
    assert not torch.equal(samples[:, 0], samples[:, 1])  # no draw is like another


def test_forgotten_weights_start_anew() -> None:
    layers = prunable_layers(tiny_mlp(sizes=(4, 3, 2)))
    generator = torch.Generator().manual_seed(0)

    def seen(moments: GradientMoments, times: int) -> None:
        for _ in range(times):
            x, g = (torch.randn(2, 1, n, generator=generator) for n in (4, 3))
            moments.add("0", [x], [g])

    index = torch.tensor([1, 5, 11])
    moments = GradientMoments(layers)
    seen(moments, 3)
    before = moments.mean("0")
    moments.forget("0", index)
    assert not moments.mean("0").reshape(-1)[index].any()
    others = torch.ones(12, dtype=torch.bool).index_fill_(0, index, False)
    assert torch.equal(moments.mean("0").reshape(-1)[others], before.reshape(-1)[others])
    state = generator.get_state()
    moments.age(0.7)
    seen(moments, 2)
    moments.age(0.5)
    seen(moments, 1)
    generator.set_state(state)
    fresh = GradientMoments(layers)
    seen(fresh, 2)
    fresh.age(0.5)
    seen(fresh, 1)
    torch.testing.assert_close(moments.mean("0").reshape(-1)[index], fresh.mean("0").reshape(-1)[index])
    assert bool(moments.standard_error("0").isfinite().all())
    moments.forget("0", index[:2])  # again, and the third stays as it was
    third = moments.mean("0").reshape(-1)[11]
    torch.testing.assert_close(third, fresh.mean("0").reshape(-1)[11])
    assert not moments.mean("0").reshape(-1)[index[:2]].any()
    moments.age(0)
    seen(moments, 1)
    assert bool(moments.mean("0").isfinite().all())
