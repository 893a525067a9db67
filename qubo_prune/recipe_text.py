"""A recipe as YAML with the meaning of each setting beside it, for a person to read and change."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Any, get_args

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

WIDTH = 110
"""Columns of a line at most, where a value leaves room."""


def described(part: BaseModel) -> str:
    """The settings, as `Recipe.to_yaml` has them, with comments; groups that are left out as comments too."""
    return "\n".join(_lines(part, part.model_dump(mode="json"), "", WIDTH)) + "\n"


def _lines(part: BaseModel, values: dict[str, Any], indent: str, width: int) -> Iterator[str]:
    """A line for each setting of a group, and those of the groups below it; values: the group in JSON's
    types."""
    for name, field in type(part).model_fields.items():
        value, told = getattr(part, name), _told(field.description)
        if isinstance(value, BaseModel):
            own = _told(type(value).__doc__)
            yield from _with_comment(f"{indent}{name}:", told or own, indent, width)
            yield from _lines(value, values[name], indent + "  ", width)
            continue
        group = None if value is not None else _group(field)
        told = told or (_told(group.__doc__) if group else "")
        yield from _with_comment(f"{indent}{name}: {_flow(values[name])}", told, indent, width)
        if group is not None:
            usual = group()
            for line in _lines(usual, usual.model_dump(mode="json"), indent + "  ", width - 2):
                yield f"# {line}"


def _group(field: FieldInfo) -> type[BaseModel] | None:
    """The group of settings that may stand where null does."""
    found = [
        kind for kind in get_args(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)
    ]
    return found[0] if found else None


def _told(text: str | None) -> str:
    """A description on one line, in YAML's words and without names of the package's files."""
    words = re.sub(r"\s*\((\w+/)*\w+\.py\)", "", " ".join((text or "").split()))
    for ours, theirs in (("None", "null"), ("False", "false"), ("True", "true")):
        words = re.sub(rf"\b{ours}\b", theirs, words)
    return words


def _flow(value: Any) -> str:
    """A value on one line."""
    dumped = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return dumped.removesuffix("\n").removesuffix("...").removesuffix("\n")


def _with_comment(line: str, told: str, indent: str, width: int) -> Iterator[str]:
    """The line with a comment behind it, or above it where both are too long for one."""
    if not told:
        yield line
    elif len(line) + len(told) + 4 <= width:
        yield f"{line}  # {told}"
    else:
        yield from (f"{indent}# {part}" for part in textwrap.wrap(told, width - len(indent) - 2))
        yield line
