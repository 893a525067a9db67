"""Recipes: every setting of a pruning run, validated, in and out of YAML."""

from __future__ import annotations

from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from qubo_prune.allocation_brings import Brings, brought, conflict
from qubo_prune.allocation_settings import AllocationSettings, Quantise, Uniform
from qubo_prune.errors import InputError
from qubo_prune.icbs_settings import Icbs
from qubo_prune.icbs_settings import conflict as refine_conflict
from qubo_prune.patterns import Pattern
from qubo_prune.recipe_files import read_yaml, set_dotted
from qubo_prune.recipe_parts import CalibrationRanges, Initial, Reconstruct, Refit, RowProblems
from qubo_prune.settings import Part, told

WRONG = 8
"""So many wrong settings are told of at once."""


class Recipe(Part):
    """A whole run: how much and where, the first mask, the calibration ranges, refinement, reconstruction."""

    sparsity: float = Field(
        0.5, gt=0, lt=1, description="share of the pruned layers' weights that become zero"
    )
    pattern: str | None = Field(
        None,
        description="N:M, as 2:4: N of each M consecutive inputs are kept; sparsity must be 1 - N/M",
    )
    seed: int = Field(0, ge=0, description="chooses windows, samples and the solver's path")
    include: list[str] = Field(
        default_factory=list, description="layer name patterns; empty: all in the blocks"
    )
    exclude: list[str] = Field(default_factory=list, description="patterns of layers to leave out")
    objective: Literal["kl", "cross_entropy"] = Field(
        "kl", description="kl: to the dense model's answers; cross_entropy: of the next token"
    )
    allocation: AllocationSettings = Field(default_factory=Uniform)
    initial: Initial = Field(default_factory=Initial)
    calibration: CalibrationRanges = Field(default_factory=CalibrationRanges)
    rows: RowProblems | None = None
    refine: Icbs | None = Field(default_factory=Icbs)
    reconstruct: Reconstruct | None = None
    refit: Refit | None = None
    rounds: int = Field(1, ge=1, description="how often refine, reconstruct and refit follow one another")
    quantise: Quantise | None = Field(
        None, description="round the kept weights to nearest on such grids, after all else; None: not"
    )

    @property
    def stages(self) -> list[str]:
        """What of the model `prune` reports in turn, row problems aside; the last one is the result."""
        after = {"reconstructed": self.reconstruct, "refit": self.refit, "quantised": self.quantise}
        return ["initial", "refined", *(name for name, part in after.items() if part is not None)]

    @field_validator("pattern", mode="before")
    @classmethod
    def _sexagesimal(cls, value: Any) -> Any:
        """YAML 1.1 reads an unquoted 2:4 as a number to base 60: 124."""
        return f"{value // 60}:{value % 60}" if type(value) is int else value

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        self._check()
        return self

    def _check(self) -> None:
        """ValueError where settings do not go together."""
        self._check_pattern()
        self._beside(brought(self.allocation))
        first, r = self.initial, self.refine
        if first.by_layer and first.granularity == "global":
            raise ValueError(
                f"{first.method} goes layer by layer: set initial.granularity to layer or output"
            )
        if first.method != "gradual" and first.blend:
            raise ValueError("only gradual pruning has targets to blend: leave initial.blend out")
        if not first.by_layer and first.values == "original":
            raise ValueError(f"{first.method} leaves the kept weights as they are: leave initial.values out")
        if not first.by_layer and first.output_weights is not None:
            raise ValueError(
                f"{first.method} has no errors of outputs to weight: set initial.method to sparsegpt or "
                "gradual, or leave initial.output_weights out"
            )
        if r is not None and (why := refine_conflict(r)):
            raise ValueError(why)
        if self.rounds > 1 and not (r is not None and r.steps) and not (self.reconstruct or self.refit):
            raise ValueError(
                "rounds repeat refine, reconstruct and refit, and there is none: leave rounds out"
            )

    def _beside(self, brings: Brings) -> None:
        """Keep to what an allocation brings: ValueError where another setting would undo it."""
        r = self.refine
        by_row = self.initial.granularity == "output" or brings.rows
        if r is not None and "budget" not in r.model_fields_set and by_row:
            # what the first mask meets in each row stays so where it can, unless another budget is said
            kept = r.model_copy(update={"budget": "row"})
            if refine_conflict(kept) is None:
                self.__dict__["refine"] = kept
        if why := conflict(brings, self):
            raise ValueError(why)

    def beside(self, brings: Brings) -> Recipe:
        """This recipe for an allocation found before, which brings this. InputError: they do not go
        together."""
        recipe = self.model_copy()
        try:
            recipe._beside(brings)
        except ValueError as error:
            raise InputError(str(error)) from None
        return recipe

    def checked(self) -> Recipe:
        """This recipe, if its settings still go together (those of a part may have been assigned one by one).
        InputError: they do not."""
        recipe = self.model_copy()
        try:
            recipe._check()
        except ValueError as error:
            raise InputError(str(error)) from None
        return recipe

    def _check_pattern(self) -> None:
        """ValueError where a pattern does not go with the other settings."""
        if self.pattern is None:
            return
        pattern = Pattern.parse(self.pattern)
        pattern.check_sparsity(self.sparsity)
        if self.initial.granularity is not None:
            raise ValueError(f"pattern {pattern} says what is counted over: leave initial.granularity out")
        if self.allocation.method != "uniform":
            raise ValueError(
                f"pattern {pattern} is the same in each layer: set allocation to uniform, or take a recipe "
                "whose name ends in -2-4"
            )
        r = self.refine
        if r is not None and r.steps and r.candidates.criterion != "gain":
            criterion = r.candidates.criterion
            raise ValueError(
                f"candidates by {criterion} are not chosen within the groups of a pattern: set "
                "refine.candidates.criterion to gain, and refine.trust"
            )

    @classmethod
    def parse(cls, data: dict[str, Any], source: str = "recipe") -> Recipe:
        """Validate a nested dict; InputError lists the wrong fields in one message."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            lines = [_line(e["loc"], told(cls, e["type"], e["loc"], e["msg"]), e["input"])
                     for e in error.errors()]  # fmt: skip
            if len(lines) > WRONG:
                lines[WRONG:] = [f"  and {len(lines) - WRONG} more"]
            raise InputError(f"{source} is not a valid recipe:\n" + "\n".join(lines)) from None

    @classmethod
    def load(cls, name_or_path: str, overrides: dict[str, Any] | None = None) -> Recipe:
        """A built-in name (`recipe_files.builtin_recipes`) or a YAML file, with dotted overrides on top.

        Another `allocation.method` than the file's comes without the settings of that one; a pattern on top
        brings its sparsity, unless there is one on top too.
        """
        data, overrides = read_yaml(name_or_path), dict(overrides or {})
        if isinstance(data.get("allocation"), str):
            data["allocation"] = {"method": data["allocation"]}
        if (pattern := overrides.get("pattern")) is not None and "sparsity" not in overrides:
            data["sparsity"] = Pattern.parse(str(cls._sexagesimal(pattern))).sparsity
        rule = overrides.get("allocation.method")
        if rule is not None and isinstance(own := data.get("allocation"), dict) and own.get("method") != rule:
            data["allocation"] = {}
        for key, value in sorted(overrides.items(), key=lambda pair: pair[0].count(".")):
            set_dotted(data, key, value)
        return cls.parse(data, f"recipe {name_or_path!r}{' with these settings' if overrides else ''}")

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _path(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A field's place in the recipe: pydantic puts the allocation's method into it, a file does not."""
    return location[:1] + location[2:] if location[:1] == ("allocation",) else location


def _line(location: tuple[int | str, ...], message: str, found: Any) -> str:
    """One wrong field, or what does not go together (then without the whole recipe)."""
    message = message.removeprefix("Value error, ")
    if not location:
        return f"  {message}"
    return f"  {'.'.join(map(str, _path(location)))}: {message} (got {found!r})"
