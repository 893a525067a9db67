"""Recipe files: the built-in ones, YAML in, dotted overrides."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from qubo_prune.allocation_file import header, is_stored
from qubo_prune.errors import InputError


def builtin_recipes() -> dict[str, Traversable]:
    """Name -> YAML file of the recipes that ship with the package, by name."""
    folder = resources.files("qubo_prune") / "recipes"
    found = {f.name.removesuffix(".yaml"): f for f in folder.iterdir() if f.name.endswith(".yaml")}
    return dict(sorted(found.items()))


def read_yaml(name_or_path: str) -> dict[str, Any]:
    """The settings of a built-in name or of a YAML file; InputError where there is none, or no mapping."""
    builtin = builtin_recipes()
    path = Path(name_or_path)
    if name_or_path in builtin:
        text = builtin[name_or_path].read_text()
    elif path.is_file():
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"recipe {name_or_path!r} cannot be read: {error}") from None
    else:
        near = get_close_matches(name_or_path, builtin, n=1)
        meant = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(
            f"no recipe {name_or_path!r}{meant}: give a YAML file or one of {', '.join(builtin)}"
        )
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"recipe {name_or_path!r} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"recipe {name_or_path!r} must be a mapping of settings, not {type(data).__name__}")
    return data


def sparsity_in(path: str) -> float | None:
    """The `sparsity` that a file of rates was made for, as `qubo-prune allocate` writes it; None: it says
    none, or cannot be read, which is refused where its rates are needed."""
    whole = is_stored(path)
    try:
        found = header(path)["more"] if whole else yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (InputError, OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    says = whole or (isinstance(found, dict) and "rates" in found)
    share = found.get("sparsity") if says else None
    return float(share) if isinstance(share, int | float) and not isinstance(share, bool) else None


def set_dotted(data: dict[str, Any], dotted: str, value: Any) -> None:
    """data["a"]["b"] = value for the name a.b, with the groups that are missing; a method's name that stands
    where its group of settings may is the first of them. InputError: a is no group."""
    *parents, last = dotted.split(".")
    for key in parents:
        child = data.get(key)
        if child is None:
            child = data[key] = {}
        elif isinstance(child, str) and key in ("allocation", "between"):
            child = data[key] = {"method": child}
        if not isinstance(child, dict):
            raise InputError(f"cannot set {dotted!r}: {key!r} is not a group of settings")
        data = child
    data[last] = value
