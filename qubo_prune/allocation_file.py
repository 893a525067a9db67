"""Whole allocations in a file: counts of layers and rows, values, and what the rule saw (safetensors)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from qubo_prune.errors import InputError
from qubo_prune.whole_file import replacing

if TYPE_CHECKING:
    from qubo_prune.allocation.result import Allocation

SUFFIX = ".safetensors"
_KEY = "qubo_prune.allocation"
_PARTS = ("rows", "values")


def is_stored(path: str | Path) -> bool:
    """Whether a file of rates is one of these, by its name."""
    return Path(path).suffix == SUFFIX


def write(path: str | Path, found: Allocation, **more: Any) -> None:
    """Write an allocation, the whole file or none; `more` are JSON values beside it."""
    from safetensors.torch import save_file

    plain = ("method", "counts", "sizes", "group", "seen", "norms", "details")
    told = {"allocation": {name: getattr(found, name) for name in plain}, "more": more}
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part in _PARTS
        for name, tensor in getattr(found, part).items()
    }
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replacing(path) as half:
            save_file(tensors, half, metadata={_KEY: json.dumps(told)})
    except SafetensorError as error:
        raise OSError(f"{str(path)!r} cannot be written: {error}") from None


def read(path: str | Path) -> Allocation:
    """The allocation of a file. InputError: as for `header`."""
    from qubo_prune.allocation.result import Allocation

    told = header(path)
    with safe_open(path, framework="pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118

    def part(name: str) -> dict[str, Any]:
        return {key.removeprefix(name): t for key, t in tensors.items() if key.startswith(name)}

    try:
        return Allocation(**told["allocation"], rows=part("rows."), values=part("values."))
    except TypeError as error:
        raise _no_allocation(path, str(error)) from None


def header(path: str | Path) -> dict[str, Any]:
    """What a file says beside its tensors: `allocation`, `more` (what was written beside it), and `parts`,
    those of "rows" and "values" that it has. InputError: no such file, or no allocation in it."""
    try:
        with safe_open(path, framework="np") as opened:
            text = (opened.metadata() or {}).get(_KEY)
            keys = list(opened.keys())
    except (OSError, SafetensorError) as error:
        raise InputError(f"allocation.file {str(path)!r} cannot be read: {error}") from None
    try:
        told: dict[str, Any] = json.loads(text or "")
        whole = isinstance(told["allocation"], dict) and isinstance(told["more"], dict)
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise _no_allocation(path, f"its metadata have no {_KEY}")
    parts = {key.partition(".")[0] for key in keys}
    return told | {"parts": sorted(parts.intersection(_PARTS))}


def found_in(path: str | Path) -> tuple[list[str], int | None]:
    """The `parts` and the group of a file; none of them where `header` would refuse it."""
    try:
        told = header(path)
    except InputError:
        return [], None
    return list(told["parts"]), told["allocation"].get("group")


def _no_allocation(path: str | Path, why: str) -> InputError:
    return InputError(
        f"allocation.file {str(path)!r} is no allocation: {why}. Write one by "
        "`qubo-prune allocate MODEL --output rates.safetensors`."
    )
