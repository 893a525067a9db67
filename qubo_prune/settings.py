"""What all groups of settings have in common, and what is said of one that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict


class Part(BaseModel):
    """A group of settings: unknown names are refused, and assignments are validated."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, allow_inf_nan=False)


def told(root: type[BaseModel], kind: str, location: Sequence[int | str], message: str) -> str:
    """What is wrong with the setting at a location of pydantic's, where its own words are not about settings.

    kind, message: of pydantic's error. Of an unknown name the nearest known ones, or all of its group.
    """
    if kind == "extra_forbidden":
        names = [name for group in _groups(root, location[:-1]) for name in group.model_fields]
        near = get_close_matches(str(location[-1]), names, n=3)
        others = _groups(root, location[:-2]) if len(location) > 2 else []
        if not near and (owners := [str(_tag(g)) for g in others if location[-1] in g.model_fields]):
            return f"there is no such setting; it is one of the method {' or '.join(owners)}: choose that too"
        return (
            f"there is no such setting; {'did you mean' if near else 'there are'} {', '.join(near or names)}"
        )
    if kind in ("model_type", "model_attributes_type"):
        groups = _groups(root, location)
        names = list(dict.fromkeys(name for group in groups for name in group.model_fields))
        none = " or null for none" if _may_be_none(root, location) else " or leave it out"
        return f"this is a group of settings: give some of {', '.join(names)} below it,{none}"
    if kind == "union_tag_invalid":
        names = [str(_tag(group)) for group in _groups(root, location)]
        return f"no such method: there are {', '.join(names)}"
    return message


def _groups(root: type[BaseModel], location: Sequence[int | str]) -> list[type[BaseModel]]:
    """The group of settings at a location, or those of which there is one, as the methods of an allocation;
    in a location the name of one may follow."""
    groups: list[type[BaseModel]] = [root]
    for key in location:
        chosen = [group for group in groups if _tag(group) == key]
        fields = [group.model_fields[str(key)].annotation for group in groups if key in group.model_fields]
        groups = chosen or [model for field in fields for model in _models(field)]
    return groups


def _may_be_none(root: type[BaseModel], location: Sequence[int | str]) -> bool:
    """Whether the field at a location may be null."""
    parents = _groups(root, location[:-1])
    name = str(location[-1]) if location else ""
    fields = [group.model_fields[name] for group in parents if name in group.model_fields]
    return any(type(None) in get_args(field.annotation) for field in fields)


def _tag(group: type[BaseModel]) -> str | None:
    """The method that a group of settings is of."""
    field = group.model_fields.get("method")
    return None if field is None else str(field.default)


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The groups of settings in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
