"""Every phase on another device than the CPU, which is emulated: tensors say that they are elsewhere and are
computed on the CPU, and an operation that mixes them with the CPU's own fails, as it does on CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from qubo_prune import prune
from qubo_prune.allocation import Observed, allocate
from qubo_prune.allocation_settings import Besa, Owl
from qubo_prune.block_calls import Call, hidden
from qubo_prune.errors import InputError
from qubo_prune.forward import forward_of
from qubo_prune.layers import prunable_layers
from qubo_prune.recipe import Recipe
from qubo_prune.testing import tiny_gpt2, tiny_llama, tiny_tokens

THERE = torch.device("meta")
"""The device's name: the only one besides the CPU that every build of torch has."""
ATEN = torch.ops.aten
BETWEEN = (ATEN.copy_.default, ATEN._to_copy.default)
"""What may mix devices; tensors without dimensions may as well, and indices may be the CPU's."""
INDEXED = (
    ATEN.index.Tensor,
    ATEN.index_put_.default,
    ATEN._index_put_impl_.default,
    ATEN._unsafe_index.Tensor,
)
MADE = ("arange", "zeros", "ones", "empty", "full", "tensor", "as_tensor", "randn", "rand", "randint", "eye",
        "linspace", "randperm", "scalar_tensor")  # fmt: skip


class Elsewhere(Tensor):
    """A tensor that says it is on THERE; its values are those of a CPU tensor, `held`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Elsewhere:
        found: Elsewhere = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, device=THERE, requires_grad=False,
        )  # fmt: skip
        found.held = held
        return found

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert a tensor of another device to numpy: use Tensor.cpu() first")

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _there(device: Any) -> bool:
    return device is not None and torch.device(device).type == THERE.type


def _held(x: Any) -> Any:
    return x.held if isinstance(x, Elsewhere) else x


def _refuse(tensors: list[Any], func: Any) -> None:
    if any(isinstance(x, Tensor) and not isinstance(x, Elsewhere) and x.dim() for x in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device: {func}")


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """An operation with at least one tensor from elsewhere."""
    tensors: list[Any] = []
    tree_map(lambda x: tensors.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
    if func not in BETWEEN:
        indexed = func in INDEXED and isinstance(args[0], Elsewhere)
        _refuse(list(args[2:]) if indexed else tensors, func)
    device = kwargs.get("device")
    there = isinstance(args[0], Elsewhere) if func is ATEN.copy_.default else device is None or _there(device)
    if device is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    known = {id(x.held): x for x in tensors if isinstance(x, Elsewhere)}
    out = func(*tree_map(_held, args), **tree_map(_held, kwargs))

    def back(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if id(x) in known:  # done in place
            return known[id(x)]
        return Elsewhere(x) if there else x

    return tree_map(back, out)


class _Up(torch.autograd.Function):
    """From the CPU to THERE."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return Elsewhere(x.detach().clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _held(gradients[0])


class _Python(TorchFunctionMode):
    """What torch would do in C++, where values of a meta tensor are lost."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, first = dict(kwargs or {}), args[0] if args else None
        inside = isinstance(first, Elsewhere)
        if func in (Tensor.__setitem__, Tensor.__getitem__) and inside and not first.requires_grad:
            _refuse(list(args[2:]), func)
            with torch._C.DisableTorchFunction():
                found = func(*tree_map(_held, args))
            return None if found is None else Elsewhere(found)
        if func is Tensor.new_tensor and inside:
            return Elsewhere(first.held.new_tensor(*args[1:], **kwargs))
        if func in (torch.where, Tensor.where) and any(isinstance(a, Elsewhere) for a in args):
            dtype = next((a.dtype for a in args[1:] if isinstance(a, Tensor)), None)
            args = [a if isinstance(a, Tensor) else Elsewhere(torch.tensor(a, dtype=dtype)) for a in args]
        if func is Tensor.to and not inside:
            places = [a for a in (*args[1:], kwargs.get("device")) if isinstance(a, str | torch.device)]
            like = [a for a in args[1:] if isinstance(a, Tensor)]
            if any(map(_there, places)) or any(isinstance(a, Elsewhere) for a in like):
                dtypes = [a for a in (*args[1:], kwargs.get("dtype")) if isinstance(a, torch.dtype)]
                moved = _Up.apply(first)  # type: ignore[no-untyped-call]
                dtype = next((x for x in (*dtypes, *(a.dtype for a in like))), None)
                return moved if dtype is None else moved.to(dtype)
        return func(*args, **kwargs)


class _Generator(torch.Generator):
    where: torch.device

    def __new__(cls, device: Any = "cpu") -> _Generator:
        found = super().__new__(cls, "cpu" if _there(device) else device)
        found.where = torch.device(device)
        return found

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.where


class _Autocast(torch.autocast):
    def __init__(self, device_type: str, *args: Any, **kwargs: Any) -> None:
        super().__init__("cpu" if _there(device_type) else device_type, *args, **kwargs)


def _making(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that makes tensors, on THERE too."""

    def make(*args: Any, **kwargs: Any) -> Tensor:
        if not _there(kwargs.get("device")):
            return function(*args, **kwargs)
        if args and isinstance(args[0], Elsewhere):
            return args[0]
        wanted = kwargs.pop("requires_grad", False)
        return Elsewhere(function(*args, **(kwargs | {"device": "cpu"}))).requires_grad_(wanted)

    return make


@contextmanager
def emulated() -> Iterator[None]:
    """While it lasts, THERE can be computed on."""
    with ExitStack() as stack:
        for name in MADE:
            stack.enter_context(mock.patch.object(torch, name, _making(getattr(torch, name))))
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(torch, "autocast", _Autocast))
        stack.enter_context(_Python())
        yield


def moved(model: nn.Module) -> nn.Module:
    """The model on THERE."""
    shared: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, p in [*module._parameters.items()]:
            if p is not None:
                there = Elsewhere(p.detach().clone())
                module._parameters[name] = shared.setdefault(id(p), nn.Parameter(there, p.requires_grad))
        for name, b in [*module._buffers.items()]:
            module._buffers[name] = None if b is None else Elsewhere(b.detach().clone())
    return model


def plain(make: Callable[[], Any]) -> Any:
    """A model whose attention is written out: the fused one has no values here."""
    model = make()
    model.config._attn_implementation = "eager"
    return model


def windows() -> Tensor:
    return tiny_tokens(8 * 16, vocabulary=12).reshape(8, 16)


REFINE: dict[str, Any] = {
    "steps": 2, "windows": 2, "batch": 2, "candidates": {"per_side": 20, "max_flip": 1.0},
    "trust": {"swaps": 8, "damping": 0.0},
}  # fmt: skip
GRIDS = {"bits": 3, "group": 8}
RECIPES: dict[str, dict[str, Any]] = {
    "icbs": {"refine": REFINE | {"budget": "global", "curvature": {"gram": True, "labels": 2}}},
    "besa": {"allocation": {"method": "besa", "steps": 4, "per": "row", "target": "dense_path",
                            "quantise": GRIDS}, "refine": None},
    "fisher": {"allocation": "fisher", "initial": {"method": "fisher"}, "refine": None, "quantise": GRIDS},
    "gradual": {"calibration": {"own": 1}, "initial": {"method": "gradual", "blend": 0.3},
                "refine": None, "refit": {"rank": 2, "own": 1}},
    "rows": {"include": ["*.0.self_attn.*"], "initial": {"method": "sparsegpt"},
             "rows": {"budget": "layer", "output_weights": 2}, "refine": None,
             "reconstruct": {"method": "admm"}, "refit": {}},
    "2:4": {"pattern": "2:4", "rows": {}, "refine": REFINE, "reconstruct": {}},
}  # fmt: skip


def test_mixing_devices_fails() -> None:
    here = torch.ones(2, 2)
    with emulated():
        there = here.to(THERE)
        assert torch.equal((there + 1).cpu(), here + 1)
        for mixed in (lambda: there + here, lambda: here @ there, lambda: there.numpy()):
            with pytest.raises((RuntimeError, TypeError), match=r"same device|to numpy"):
                mixed()


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_prune_elsewhere_as_here(name: str) -> None:
    recipe = Recipe.parse(RECIPES[name])
    here = prune(plain(tiny_llama), windows(), recipe)
    with emulated():
        model = moved(plain(tiny_llama))
        there = prune(model, windows(), recipe)
    assert {mask.device.type for mask in there.masks.values()} == {THERE.type}
    assert sum(int((~m).sum()) for m in there.masks.values()) == sum(
        int((~m).sum()) for m in here.masks.values()
    )
    assert there.figures["initial"] == pytest.approx(here.figures["initial"], rel=1e-3)
    for key, value in here.figures.items():  # the solvers of rows differ: compiled here, in torch there
        if value is not None:
            assert there.figures[key] == pytest.approx(value, rel=0.5)
    if name in ("besa", "fisher", "gradual"):
        assert all(torch.equal(mask, there.masks[key].cpu()) for key, mask in here.masks.items())


def test_allocations_elsewhere_as_here() -> None:
    for make in (tiny_llama, tiny_gpt2):
        found = []
        for there in (False, True):
            with ExitStack() as stack:
                model = plain(make)
                if there:
                    stack.enter_context(emulated())
                    model = moved(model)
                observed = Observed(model, forward_of(model), [windows()])
                found.append(allocate(prunable_layers(model), 0.5, Owl(), observed=observed).counts)
        assert found[0] == found[1]


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_besa_works_on_one_block_at_a_time_elsewhere(
    make: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"steps": 4, "per": "row", "quantise": GRIDS, "target": "dense_path"}
    model, seen = plain(make).eval(), []
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    observed, layers = Observed(model, forward_of(model), [*windows()[:, None]]), prunable_layers(model)
    here = allocate(layers, 0.5, Besa(**settings), observed=observed)
    run = Call.run

    def watched(call: Call, block: nn.Module, weights: Any = None) -> Any:
        out = run(call, block, weights)
        names = dict(block.named_parameters())
        assert all(
            isinstance(x, Elsewhere) for x in (weights.values() if names.keys() <= weights.keys() else [0])
        )
        seen.append(isinstance(hidden(out), Elsewhere))
        return out

    monkeypatch.setattr(Call, "run", watched)
    # THERE is called meta, which users are refused
    monkeypatch.setattr("qubo_prune.allocation.besa.usable_device", lambda device, *_: torch.device(device))
    with emulated():
        there = allocate(layers, 0.5, Besa(**settings, device=THERE.type), observed=observed)
    assert len(seen) > 8
    assert all(seen)
    assert there.counts == here.counts
    assert all(torch.equal(rows, there.rows[name]) for name, rows in here.rows.items())
    assert all(value.device.type == "cpu" for value in there.values.values())
    for name, value in here.values.items():
        torch.testing.assert_close(there.values[name], value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_besa_refuses_a_device_that_is_not_there() -> None:
    with pytest.raises(InputError, match=r"allocation.device='cuda:99' cannot be used"):
        prune(
            tiny_llama(),
            [*windows()[:, None]],
            Recipe.parse({"allocation": {"method": "besa", "device": "cuda:99"}}),
        )
