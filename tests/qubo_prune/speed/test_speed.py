"""Break-even by hand, products that are the dense ones, timings without warm-up, one layer a shape."""

import time

import pytest
import torch
from torch import nn

from qubo_prune.layers import prunable_layers
from qubo_prune.speed.break_even import break_even
from qubo_prune.speed.formats import FORMATS, Format, dense
from qubo_prune.speed.measure import measure
from qubo_prune.speed.timing import seconds_of
from qubo_prune.testing import tiny_mlp

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([4.0, 2.0, 0.5], 0.75),  # log ratio falls from log 2 to -log 2: half way
        ([4.0, 2.0, 1.0], 0.9),
        ([8.0, 2.0, 0.125], 0.6 + 0.3 * 0.25),
        ([0.5, 0.4, 0.3], 0.5),
        ([0.5, 2.0, 0.5], 0.75),  # where it stays below 1
        ([4.0, 2.0, 1.1], None),
        ([0.5, 0.5, 2.0], None),
        ([], None),
    ],
)
def test_break_even(ratios: list[float], expected: float | None) -> None:
    found = break_even([0.5, 0.6, 0.9], ratios)
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize("tokens", [1, 5])
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_products_are_the_dense_ones(name: str, tokens: int, device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    kind = torch.float16 if name == "2:4" else torch.float32
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=g)
    weight[:, [0, 1] if name == "2:4" else slice(0, 40)] = 0
    weight.view(64, 16, 4)[:, :, 1:3] = 0  # 2:4 whatever is chosen
    weight, x = weight.to(device, kind), torch.randn(tokens, 64, generator=g).to(device, kind)
    if FORMATS[name].refusal(weight) is not None:
        pytest.skip("not for this device")
    expected = dense(weight, x)()
    found = torch.as_tensor(FORMATS[name].prepare(weight, x)())
    found = found.reshape(1, -1) if found.ndim == 1 else found
    found = found if found.shape == (tokens, 64) and name == "2:4" else found.reshape(-1, tokens).t()
    torch.testing.assert_close(found.to(expected), expected, rtol=1e-3, atol=1e-3)


def test_warm_up_is_outside_the_clock() -> None:
    calls = []

    def call() -> None:
        calls.append(time.perf_counter())
        time.sleep(0.05 if len(calls) <= 2 else 0.002)

    assert 0.002 <= seconds_of(call, CPU, budget=0.0) < 0.045
    assert len(calls) == 2 + 1 + 5


def test_short_calls_are_timed_together() -> None:
    calls = []
    seconds_of(lambda: calls.append(0), CPU, budget=0.0)
    assert len(calls) > 100


def test_one_layer_of_each_shape_the_sparsest() -> None:
    model = tiny_mlp(sizes=(8, 8, 8, 4))
    layers = prunable_layers(model)
    with torch.no_grad():
        layers["2"].weight[:4] = 0
    before = {name: layer.weight.clone() for name, layer in layers.items()}
    told: list[tuple[int, int]] = []
    found = measure(layers, (1,), (0.5, 0.9), budget=0.0, on_shape=lambda *x: told.append(x))
    assert told == [(1, 2), (2, 2)]
    assert all(torch.equal(layer.weight, before[name]) for name, layer in layers.items())
    by = {(one.shape, one.format): one for one in found}
    assert by.keys() == {(shape, name) for shape in ((8, 8), (4, 8)) for name in FORMATS}
    csr = by[(8, 8), "torch_csr"]
    assert (csr.layers, csr.sparsity) == (2, 0.5)
    assert csr.pruned is not None
    assert csr.dense is not None
    assert csr.speedup == pytest.approx(csr.dense / csr.pruned)
    assert by[(4, 8), "torch_csr"].speedup is None
    assert by[(8, 8), "2:4"].refusal == "on CUDA only"
    assert by[(8, 8), "2:4"].to_dict()["curve"] == ()


def test_a_kernel_that_is_missing_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(weight: torch.Tensor, x: torch.Tensor) -> None:
        raise RuntimeError("no such kernel\nin this build")

    monkeypatch.setitem(FORMATS, "torch_csr", Format(missing, lambda weight: None))  # type: ignore[arg-type]
    found = measure(prunable_layers(tiny_mlp(sizes=(8, 4))), (1,), (0.5,), budget=0.0)
    assert {one.format: one.refusal for one in found}["torch_csr"] == "no such kernel"
    assert {one.format: one.refusal for one in found}["scipy_csr"] is None


@pytest.mark.parametrize("message", [(), ("",), (" \n",)])
def test_an_error_without_a_message_is_a_refusal_too(
    monkeypatch: pytest.MonkeyPatch, message: tuple[str, ...]
) -> None:
    def missing(weight: torch.Tensor, x: torch.Tensor) -> None:
        raise RuntimeError(*message)

    monkeypatch.setitem(FORMATS, "torch_csr", Format(missing, lambda weight: None))  # type: ignore[arg-type]
    found = measure(prunable_layers(tiny_mlp(sizes=(8, 4))), (1,), (0.5,), budget=0.0)
    assert {one.format: one.refusal for one in found}["torch_csr"] == "RuntimeError"


def test_refusals() -> None:
    half = nn.Linear(64, 64).half().weight.detach()
    assert FORMATS["scipy_csr"].refusal(half) == "float32 and float64 only"
    assert FORMATS["torch_csr"].refusal(half) == "float32 and float64 only on the CPU"
