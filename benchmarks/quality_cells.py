"""Cells of the quality bench: a model, a method, a sparsity and a calibration seed, under one setting."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, get_args

from qubo_prune.allocation_settings import Besa
from qubo_prune.cli.output import assignments
from qubo_prune.errors import InputError
from qubo_prune.patterns import Pattern
from qubo_prune.recipe import Recipe
from qubo_prune.recipe_files import builtin_recipes
from qubo_prune.recipe_parts import Initial

DENSE = "dense"
"""The label of the model as it came, and its target."""
WANDA = "wanda"
"""The label that the others are compared with."""


def first_masks() -> tuple[str, ...]:
    """The methods of first masks, each a method of the bench by its name."""
    return get_args(Initial.model_fields["method"].annotation)


@dataclass(frozen=True)
class Setting:
    """What all cells of a table share.

    calibration, windows, length      text, and how many windows of how many tokens the statistics may see
    accept_windows, report_windows    windows of the ranges that decisions and the KL are measured on
    text, eval_windows, eval_length   what the perplexity is measured on
    """

    calibration: str
    text: str
    windows: int = 256
    length: int = 128
    accept_windows: int = 16
    report_windows: int = 32
    eval_windows: int = 8
    eval_length: int = 1024
    dtype: str = "float32"
    device: str = "cpu"


@dataclass(frozen=True)
class ZeroShot:
    """Tasks after the other measurements: names, the first so many rows of each (None: all), texts a forward
    pass."""

    tasks: tuple[str, ...] = ()
    limit: int | None = None
    batch: int = 8

    def within(self, record: dict[str, Any]) -> bool:
        """Whether a record has figures of these tasks and rows."""
        had = record.get("zeroshot", {})
        return not self.tasks or (set(self.tasks) <= set(had.get("tasks", ())) and had["limit"] == self.limit)


@dataclass(frozen=True)
class Target:
    """How much to prune: a sparsity, by layer as the method likes it, or an N:M pattern."""

    sparsity: float
    pattern: str | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """`0.6`, or `2:4`. InputError: neither."""
        if ":" in text:
            pattern = Pattern.parse(text)
            return cls(pattern.sparsity, str(pattern))
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < 1:
            raise InputError(f"--sparsity {text!r}: write a share between 0 and 1, or a pattern, as 2:4")
        return cls(value)

    @property
    def label(self) -> str:
        return self.pattern or f"{100 * self.sparsity:g} %"


@dataclass(frozen=True)
class Method:
    """A recipe with settings of its own; source: a built-in recipe, a YAML file, or a method of first masks
    (then without refinement)."""

    label: str
    source: str
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Method:
        """`[LABEL=]SOURCE[:KEY=VALUE]...`. InputError: no such recipe, or no such setting."""
        head, *pairs = text.split(":")
        label, _, source = head.rpartition("=")
        if "pattern" in (key.partition("=")[0] for key in pairs):
            raise InputError(f"--method {text!r}: patterns are targets: write --sparsity 2:4, or another")
        settings = assignments(pairs)
        told = ", ".join(f"{key}={value}" for key, value in settings.items())
        method = cls(label or Path(source).stem + (f" ({told})" if told else ""), source, settings)
        method.recipe({})
        return method

    def recipe(self, overrides: dict[str, Any]) -> Recipe:
        """The recipe with the method's settings and these on top; of a built-in recipe its own version for a
        pattern, as best-2-4 for best, where there is one. InputError: as for `Recipe.load`."""
        pattern = str(overrides.get("pattern")).replace(":", "-")
        if (own := f"{self.source}-{pattern}") in builtin_recipes():
            return Recipe.load(own, self.settings | overrides)
        one_shot = self.source in first_masks() and self.source not in builtin_recipes()
        base = {"initial.method": self.source, "refine": None} if one_shot else {}
        return Recipe.load("default" if one_shot else self.source, base | self.settings | overrides)


@dataclass(frozen=True)
class Cell:
    """One run. method None: the dense model, which no seed and no target changes."""

    model: str
    setting: Setting
    method: Method | None = None
    target: Target | None = None
    seed: int = 0
    zeroshot: ZeroShot = ZeroShot()

    def recipe(self) -> Recipe:
        """The whole recipe. InputError: the method cannot do the target."""
        assert self.method is not None
        assert self.target is not None
        s = self.setting
        ranges = {
            "windows": s.windows, "length": s.length, "accept_windows": s.accept_windows,
            "accept_length": s.length, "report_windows": s.report_windows, "report_length": s.length,
        }  # fmt: skip
        overrides = {f"calibration.{key}": value for key, value in ranges.items()}
        what = {"sparsity": self.target.sparsity, "pattern": self.target.pattern, "seed": self.seed}
        return self.method.recipe(overrides | what)

    def described(self) -> dict[str, Any]:
        """What names the cell in a record; `recipe` has what is not at its default, None where refused."""
        found: dict[str, Any] = {
            "model": self.model,
            "method": DENSE if self.method is None else self.method.label,
            "target": DENSE if self.target is None else self.target.label,
            "sparsity": None if self.target is None else self.target.sparsity,
            "seed": self.seed,
            "setting": asdict(self.setting),
            "recipe": None,
        }
        if self.method is not None:
            try:
                found["recipe"] = _changed(self.recipe())
            except InputError:
                found["settings"] = {"source": self.method.source, **self.method.settings}
        return found

    @cached_property
    def key(self) -> str:
        """The same for the same cell in every run, whatever its tasks: what a bench is resumed by."""
        text = json.dumps(self.described(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _changed(recipe: Recipe) -> dict[str, Any]:
    """What is not at its default, with the names of the allocation and of the one between blocks: each has
    defaults of its own."""
    found = recipe.model_dump(mode="json", exclude_defaults=True)
    rule = recipe.allocation
    if "allocation" in found:
        found["allocation"]["method"] = rule.method
    if isinstance(rule, Besa) and "between" in found.get("allocation", {}):
        found["allocation"]["between"]["method"] = rule.between.method
    return found


def matrix(
    models: Sequence[str],
    methods: Sequence[Method],
    targets: Sequence[Target],
    seeds: Sequence[int],
    setting: Setting,
    zeroshot: ZeroShot = ZeroShot(),
) -> list[Cell]:
    """Every combination, the dense model of each first, then seed by seed; Wanda is always among the methods.

    InputError: two methods of one label, or no seed.
    """
    if not seeds:
        raise InputError("--seeds: write a number of at least 1")
    labels = [method.label for method in methods]
    if len(set(labels)) < len(labels) or DENSE in labels:
        raise InputError(f"methods {', '.join(labels)}: give each a label of its own (LABEL=RECIPE)")
    if WANDA not in labels:
        methods = [Method(WANDA, "wanda"), *methods]
    cells = []
    for model in models:
        cells.append(Cell(model, setting, zeroshot=zeroshot))
        for seed, target, method in product(seeds, targets, methods):
            cells.append(Cell(model, setting, method, target, seed, zeroshot))
    return cells
