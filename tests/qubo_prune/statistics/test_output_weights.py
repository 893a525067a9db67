"""Output weights against gradients of explicit sums: order, scale, groups, prices, blocks, and refusals."""

import pytest
import torch
from torch import Tensor, nn

from qubo_prune.errors import InputError
from qubo_prune.layers import Layer, prunable_layers
from qubo_prune.objective import CrossEntropy, CustomLoss, KLToDense
from qubo_prune.statistics.output_weights import (
    LEAST_PRICE,
    OutputWeights,
    channel_slices,
    collect_output_weights,
)
from qubo_prune.testing import TINY_MODELS, tiny_llama, tiny_tokens

BATCHES = [tiny_tokens(2 * length, seed).reshape(2, length) for seed, length in enumerate((12, 20, 7))]


def gradients(model: nn.Module, layers: dict[str, Layer], batch: Tensor, g: torch.Generator) -> list[Tensor]:
    """(vectors, out) float64 gradients of each position's own loss by each layer's output."""
    outputs: dict[str, Tensor] = {}
    handles = [
        layer.module.register_forward_hook(lambda m, a, out, name=name: outputs.__setitem__(name, out))
        for name, layer in layers.items()
    ]
    signals = CrossEntropy().signals(model, batch, None, g)
    for handle in handles:
        handle.remove()
    assert signals.label is not None
    found = torch.autograd.grad(signals.output, list(outputs.values()), signals.label)
    by_name = dict(zip(outputs, found, strict=True))
    return [by_name[name].double().flatten(0, 1) * (batch.shape[1] - 1) for name in layers]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
@pytest.mark.parametrize("groups", [1, 3, 100])
def test_equal_explicit_sums_in_order(family: str, groups: int) -> None:
    model = TINY_MODELS[family]()
    layers = prunable_layers(model)
    weights = collect_output_weights(model, layers, BATCHES, KLToDense(), groups, seed=5)
    assert all(p.requires_grad for p in model.parameters())
    generator = torch.Generator().manual_seed(5)
    every = [gradients(model, layers, batch, generator) for batch in BATCHES]
    for at, (name, layer) in enumerate(layers.items()):
        slices = weights.groups(name)
        assert len(slices) == min(groups, layer.shape[0])
        assert [row for rows in slices for row in range(rows.start, rows.stop)] == list(range(layer.shape[0]))
        for i, grads in enumerate(every):
            g = grads[at]
            inputs = torch.zeros(*BATCHES[i].shape, layer.shape[1])
            (s,) = weights.of(name, i, [inputs])
            assert s.dtype == torch.float32
            for c, rows in enumerate(slices):
                expected = g[:, rows].square().mean(1)
                torch.testing.assert_close(s[c].double(), expected, rtol=1e-3, atol=1e-7)
            last = s.reshape(len(slices), *BATCHES[i].shape)[:, :, -1]
            assert not last.any()  # the last token predicts nothing that is there
        mean = torch.cat([grads[at] for grads in every]).square().mean(0)
        torch.testing.assert_close(weights.mean_squares[name].double(), mean, rtol=1e-3, atol=1e-7)
        torch.testing.assert_close(weights.prices(name).double(), mean / mean.mean(), rtol=1e-3, atol=2e-6)


def test_the_loss_it_samples_from_is_the_models_own() -> None:
    """Of a softmax of W x, E[g_o^2] over labels is the mean of p_o (1 - p_o)."""
    layer = nn.Linear(3, 4)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(6000, 3, generator=g)
    objective = CrossEntropy(labels=lambda batch: torch.zeros(len(batch), 1, dtype=torch.int64))
    weights = collect_output_weights(layer, prunable_layers(layer, ["*"]), [x], objective)
    p = layer(x).softmax(1)
    torch.testing.assert_close(weights.mean_squares[""], (p * (1 - p)).mean(0), rtol=0.05, atol=0.0)


def test_a_loss_that_cannot_be_sampled_gives_its_own_gradient() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    data = [torch.randn(5, 4, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    weights = collect_output_weights(
        model, prunable_layers(model), data, CustomLoss(lambda m, x: m(x).pow(3).sum(1)), 2
    )
    for i, x in enumerate(data):
        g = 3 * model(x).square()
        (s,) = weights.of("2", i, [torch.zeros(5, 6)])
        torch.testing.assert_close(s, g.square().t(), rtol=1e-4, atol=1e-6)


class Twice(nn.Module):
    """A layer that is called twice, and one of whose answers may not count; another may share its weight."""

    def __init__(self, both: bool = True, shared: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.both = nn.Linear(3, 3), nn.Linear(3, 3), both
        if shared:
            self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        one = self.a(x)
        two: Tensor = self.a(one.tanh()[:2] if self.both else x[:2])
        return one.sum(0) + self.b(two).tanh().sum(0) if self.both else self.b(one)


def test_calls_of_one_layer_are_in_their_order() -> None:
    model = Twice()
    loss = CustomLoss(lambda m, x: m(x).square().sum().reshape(1), tokens=7)
    x = torch.randn(4, 3)
    weights = collect_output_weights(model, prunable_layers(model), [x], loss)
    one = model.a(x)
    two = model.a(one.tanh()[:2])
    value = (one.sum(0) + model.b(two).tanh().sum(0)).square().sum()
    expected = [7 * g for g in torch.autograd.grad(value, [one, two])]
    found = weights.of("a", 0, [one, two])
    assert [s.shape for s in found] == [(1, 4), (1, 2)]
    for s, g in zip(found, expected, strict=True):
        torch.testing.assert_close(s[0], g.square().mean(1), rtol=1e-4, atol=1e-5)
    (first,) = weights.of("a", 0, [one])
    assert torch.equal(first, found[0])


def test_groups_and_rows_that_the_loss_does_not_depend_on() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1, bias=False))
    with torch.no_grad():
        model[1].weight[0, 2:] = 0.0  # the second group's channels
        model[1].weight[0, 1] = 0.0
    loss = CustomLoss(lambda m, x: m(x)[:, 0].square())
    weights = collect_output_weights(model, prunable_layers(model), [torch.randn(6, 3)], loss, 2)
    (s,) = weights.of("0", 0, [torch.zeros(6, 3)])
    assert torch.equal(s[1], torch.ones(6))
    assert (s[0] > 0).all()
    prices = weights.prices("0")
    torch.testing.assert_close(prices, torch.tensor([4.0, *[LEAST_PRICE] * 3]))
    flat = OutputWeights(weights.positions, weights.mean_squares, power=0.0)
    assert torch.equal(flat.prices("0"), torch.ones(4))
    nothing = OutputWeights({"a": [[torch.ones(1, 2)]]}, {"a": torch.zeros(3)})
    assert torch.equal(nothing.prices("a"), torch.ones(3))


def test_errors_of_blocks_are_weighted() -> None:
    model = tiny_llama()
    weights = collect_output_weights(model, prunable_layers(model), BATCHES, KLToDense(), 3)
    name = "model.layers.1"
    assert name in weights
    # the last block's output is the residual stream plus its down projection: one gradient
    for i in range(len(BATCHES)):
        shape = [torch.zeros(*BATCHES[i].shape, 16)]
        block, down = weights.of(name, i, shape), weights.of(f"{name}.mlp.down_proj", i, shape)
        torch.testing.assert_close(block[0], down[0], rtol=1e-4, atol=1e-9)
    every = torch.cat([call for calls in weights.positions[name] for call in calls], 1).double()
    gap = torch.randn(*BATCHES[1].shape, 16, generator=torch.Generator().manual_seed(0))
    (s,) = weights.of(name, 1, [gap])
    expected = 0.0
    for c, rows in enumerate(weights.groups(name)):
        for t, vector in enumerate(gap.reshape(-1, 16)):
            worth = vector[rows].square() * weights.prices(name)[rows]
            expected += float(worth.sum()) * float(s[c, t]) / float(every[c].mean())
    assert weights.square_error(name, 1, gap) == pytest.approx(expected, rel=1e-4)


def test_groups_are_as_equal_as_can_be() -> None:
    for channels, groups in ((10, 4), (7, 7), (3, 5), (16, 1)):
        slices = channel_slices(channels, groups)
        sizes = [rows.stop - rows.start for rows in slices]
        assert sum(sizes) == channels
        assert max(sizes) - min(sizes) <= 1
        assert len(slices) == min(channels, groups)


def test_refusals() -> None:
    model, x = Twice(both=False), torch.randn(4, 3)
    square = CustomLoss(lambda m, x: m(x).square().sum(1))
    with pytest.raises(InputError, match="at least one group"):
        collect_output_weights(model, prunable_layers(model), [x], square, 0)
    total = CustomLoss(lambda m, x: m(x).square().sum().reshape(1))
    with pytest.raises(InputError, match=r"'a': some of its calls .* set output_weights to null"):
        collect_output_weights(model, prunable_layers(model), [x], total)
    model = Twice(shared=True)
    with pytest.raises(InputError, match=r"'a': some of its calls do not reach the loss, or another module"):
        collect_output_weights(model, prunable_layers(model), [x], total)
    model = Twice()
    layers = prunable_layers(model)
    bad = CustomLoss(lambda m, x: (m(x).square().sum() * torch.inf).reshape(1))
    with pytest.raises(InputError, match="output gradients are NaN or infinite"):
        collect_output_weights(model, layers, [x], bad)
    weights = collect_output_weights(model, layers, [x], total)
    with pytest.raises(InputError, match="'b' sees other numbers of inputs in the dense model"):
        weights.of("b", 0, [torch.zeros(3, 3)])
    with pytest.raises(InputError, match="'c' was never called where output weights were collected"):
        weights.groups("c")
