"""A recipe as YAML with the meaning of each setting beside it, for a person to read and change."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

WIDTH = 110
"""Columns of a line at most, where a value leaves room."""


def described(part: BaseModel) -> str:
    """The settings, as `Recipe.to_yaml` has them, with comments."""
    return "\n".join(_lines(part, part.model_dump(mode="json"), "")) + "\n"


def _lines(part: BaseModel, values: dict[str, Any], indent: str) -> Iterator[str]:
    """A line for each setting of a group, and those of the groups below it; values: the group in JSON's
    types."""
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        told = " ".join((field.description or "").split())
        if isinstance(value, BaseModel):
            own = " ".join((type(value).__doc__ or "").split())
            yield from _with_comment(f"{indent}{name}:", told or own, indent)
            yield from _lines(value, values[name], indent + "  ")
        else:
            yield from _with_comment(f"{indent}{name}: {_flow(values[name])}", told, indent)


def _flow(value: Any) -> str:
    """A value on one line."""
    dumped = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return dumped.removesuffix("\n").removesuffix("...").removesuffix("\n")


def _with_comment(line: str, told: str, indent: str) -> Iterator[str]:
    """The line with a comment behind it, or above it where both are too long for one."""
    if not told:
        yield line
    elif len(line) + len(told) + 4 <= WIDTH:
        yield f"{line}  # {told}"
    else:
        yield from (f"{indent}# {part}" for part in textwrap.wrap(told, WIDTH - len(indent) - 2))
        yield line
