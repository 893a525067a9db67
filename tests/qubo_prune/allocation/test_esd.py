"""Eigenvalues of W'W against singular values, for matrices, convolutions, thin dtypes and zeros."""

import pytest
import torch

from qubo_prune.allocation.esd import eigenvalues, positions, positive
from qubo_prune.errors import InputError


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("shape", [(40, 40), (17, 60), (60, 17), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_squared_singular_values(shape: tuple[int, int], dtype: torch.dtype) -> None:
    weight = random(*shape, dtype=dtype)
    before = weight.clone()
    found = eigenvalues(weight)
    wanted = torch.linalg.svdvals(weight.double()).square().flip(0)
    assert found.dtype == torch.float64
    assert len(found) == min(shape)
    assert bool((found.diff() >= 0).all())
    assert float((found - wanted).abs().max()) <= 1e-13 * float(wanted[-1])
    assert torch.equal(eigenvalues(weight.t()), found) or torch.allclose(eigenvalues(weight.t()), found)
    assert torch.equal(weight, before)


def test_small_eigenvalues_are_relatively_accurate_down_to_1e_10() -> None:
    left, right = torch.linalg.qr(random(30, 30))[0], torch.linalg.qr(random(50, 30, seed=1))[0]
    wanted = torch.logspace(-10, 0, 30, dtype=torch.float64)
    found = eigenvalues(left @ torch.diag(wanted.sqrt()) @ right.t())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)


def test_published_eigenvalues_are_squared_float32_singular_values() -> None:
    weight = random(12, 20, dtype=torch.bfloat16)
    found = eigenvalues(weight, published=True)
    wanted = torch.linalg.svdvals(weight.float()).square().flip(0).double()
    assert torch.equal(found, wanted)
    torch.testing.assert_close(found, eigenvalues(weight), rtol=1e-4, atol=1e-4)


def test_chunks_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random(50, 7, dtype=torch.float32)
    whole = eigenvalues(weight)
    monkeypatch.setattr("qubo_prune.allocation.esd._CHUNK", 20)
    torch.testing.assert_close(eigenvalues(weight), whole, rtol=1e-12, atol=1e-12)


def test_a_convolution_is_a_matrix_for_each_position() -> None:
    weight = random(6, 4, 3, 2)
    assert positions(weight).shape == (6, 6, 4)
    wanted = torch.cat(
        [torch.linalg.svdvals(weight[:, :, i, j]).square() for i in range(3) for j in range(2)]
    )
    torch.testing.assert_close(eigenvalues(weight), 0.5 * wanted.sort().values)
    torch.testing.assert_close(eigenvalues(weight[..., :1, 0]), 0.5 * eigenvalues(weight[:, :, 0, 0]))
    depthwise = random(5, 1, 2, 2)
    torch.testing.assert_close(
        eigenvalues(depthwise), 0.5 * depthwise.square().sum((0, 1)).reshape(-1).sort().values
    )


def test_zeros_are_told_from_small_eigenvalues() -> None:
    low_rank = random(40, 3) @ random(3, 25, seed=1)
    found = eigenvalues(low_rank)
    assert bool((found >= 0).all())
    assert len(positive(found)) == 3
    assert len(positive(eigenvalues(torch.zeros(4, 6)))) == 0
    assert len(positive(eigenvalues(torch.eye(5)))) == 5
    assert len(positive(torch.empty(0, dtype=torch.float64))) == 0


def test_refusals() -> None:
    with pytest.raises(InputError, match=r"layer 'a': .* matrix or a convolution, not \(3,\)"):
        eigenvalues(torch.ones(3), name="layer 'a'")
    with pytest.raises(InputError, match="matrix or a convolution"):
        eigenvalues(torch.ones(3, 0))
    broken = torch.ones(3, 3)
    broken[0, 0] = torch.nan
    with pytest.raises(InputError, match="layer 'a': it has NaN"):
        eigenvalues(broken, name="layer 'a'")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_the_device_of_the_weight() -> None:
    weight = random(20, 30, dtype=torch.float32)
    found = eigenvalues(weight.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), eigenvalues(weight), rtol=1e-9, atol=1e-12)
