"""Quicker float32 products: the setting is put back, a caller's own is left alone, precision decides."""

from collections.abc import Iterator

import pytest
import torch

from qubo_prune import products
from qubo_prune.products import quick_products


@pytest.fixture(autouse=True)
def _anew() -> Iterator[None]:
    products._usable.cache_clear()
    yield
    products._usable.cache_clear()
    torch.set_float32_matmul_precision("highest")


def _usable(monkeypatch: pytest.MonkeyPatch, name: str = "AMD EPYC") -> None:
    monkeypatch.setattr(products, "processor", lambda: name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_products_within_have_the_precision_of_float32() -> None:
    a, b = torch.randn(300, 200), torch.randn(200, 100)
    with quick_products():
        found = a @ b
    exact = a.double() @ b.double()
    assert float((found.double() - exact).norm() / exact.norm()) < 1e-6


def test_the_setting_is_put_back_after_an_error_and_when_nested(monkeypatch: pytest.MonkeyPatch) -> None:
    _usable(monkeypatch)
    monkeypatch.setattr(products, "_ERROR", 1.0)

    @quick_products()
    def run() -> str:
        with quick_products():
            pass
        assert torch.get_float32_matmul_precision() == "medium"
        raise ValueError("in the middle")

    before = [getattr(b.matmul, "fp32_precision", None) for b in (torch.backends.mkldnn, torch.backends.cuda)]
    with pytest.raises(ValueError, match="in the middle"):
        run()
    assert torch.get_float32_matmul_precision() == "highest"
    after = [getattr(b.matmul, "fp32_precision", None) for b in (torch.backends.mkldnn, torch.backends.cuda)]
    assert after == before


@pytest.mark.parametrize(("name", "error"), [("Intel(R) Xeon(R)", 1.0), ("AMD EPYC", 0.0)])
def test_nothing_changes_on_another_processor_or_where_precision_is_lost(
    name: str, error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    _usable(monkeypatch, name)
    monkeypatch.setattr(products, "_ERROR", error)
    with quick_products():
        assert torch.get_float32_matmul_precision() == "highest"


def test_what_a_caller_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    _usable(monkeypatch)
    monkeypatch.setattr(products, "_ERROR", 1.0)
    torch.set_float32_matmul_precision("high")
    with quick_products():
        assert torch.get_float32_matmul_precision() == "high"
    assert torch.get_float32_matmul_precision() == "high"
