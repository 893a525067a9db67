"""Recipes: every setting of a pruning run, validated, in and out of YAML."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from qubo_prune.allocation_settings import AllocationSettings, Besa, Quantise, Uniform, conflict
from qubo_prune.errors import InputError
from qubo_prune.icbs_settings import Icbs
from qubo_prune.icbs_settings import conflict as refine_conflict
from qubo_prune.patterns import Pattern
from qubo_prune.recipe_files import read_yaml, set_dotted
from qubo_prune.settings import Part


class Initial(Part):
    """The first mask."""

    method: Literal["magnitude", "wanda", "fisher", "gradient", "random", "sparsegpt", "gradual"] = Field(
        "wanda", description="sparsegpt and gradual also give the kept weights new values"
    )
    granularity: Literal["layer", "output", "input", "global"] | None = Field(
        None,
        description="what the budget is met over; None: the method's usual one (Wanda output, others layer)",
    )
    output_power: float = Field(
        0.7,
        ge=0,
        le=1,
        description="fisher, gradual: power of the outputs' gradient norms in the scores; 0: none",
    )
    damping: float | None = Field(
        None,
        ge=0,
        description="added to the Gram matrix, in means of its diagonal; None: sparsegpt 0.01, gradual 0.03",
    )
    stages: int = Field(10, ge=1, description="gradual: least squares after each")
    blend: float = Field(0.0, ge=0, le=1, description="gradual: as for reconstruct")
    values: Literal["new", "original"] = Field(
        "new",
        description="sparsegpt, gradual: of the kept weights; original: the masks alone are taken over",
    )
    output_weights: int | None = Field(None, ge=1, description="sparsegpt, gradual: as for rows")

    @property
    def by_layer(self) -> bool:
        """Whether the method walks from layer to layer and finds masks and values together."""
        return self.method in ("sparsegpt", "gradual")

    @property
    def moves_values(self) -> bool:
        """Whether kept weights have new values after the first mask."""
        return self.by_layer and self.values == "new"

    @property
    def by_output(self) -> bool:
        """Whether the method compares rows by the gradients at their outputs."""
        return self.method == "gradual" and self.output_power > 0 and self.granularity != "output"


class CalibrationRanges(Part):
    """Three disjoint token ranges. Windows are random and non-overlapping within their range."""

    windows: int = Field(64, ge=1, description="calibration windows for the statistics of the first mask")
    length: int = Field(128, ge=2, description="tokens a window")
    fisher_windows: int | None = Field(
        None, ge=1, description="of these windows, for the Fisher of the first mask; None: a quarter"
    )
    own: int = Field(
        0,
        ge=0,
        description="windows that the dense model writes itself, after prompts from the calibration windows, "
        "to fit on beside these (own_text.py)",
    )
    own_prompt: int | None = Field(
        None, ge=1, description="tokens of each prompt; None: an eighth of a window"
    )
    accept_windows: int = Field(16, ge=1)
    accept_length: int = Field(128, ge=2)
    report_windows: int = Field(32, ge=1)
    report_length: int = Field(128, ge=2)


class RowProblems(Part):
    """The first mask, moved layer by layer by the error of each layer's own outputs (refine/rows.py)."""

    method: Literal["descent", "tabu", "anneal"] = Field("descent", description="of solve_batch")
    options: dict[str, Any] = Field(default_factory=dict, description="the method's, as for solve_batch")
    budget: Literal["row", "layer"] = Field(
        "row", description="row: each output keeps its count; layer: weights also move between outputs"
    )
    blend: float = Field(0.0, ge=0, le=1, description="as for reconstruct")
    held_out: float = Field(
        0.25, ge=0, lt=1, description="share of the calibration batches to judge by; 0: those fitted on"
    )
    by_block: bool = Field(True, description="put a block back unless the held-out error of its output falls")
    output_weights: int | None = Field(
        None,
        ge=1,
        description="groups of a layer's outputs, each with a weight for every position: the loss's squared "
        "gradient by these outputs in the dense model; None: positions and outputs count alike",
    )


class Reconstruct(Part):
    """New values for the kept weights, layer by layer, after the refinement. A layer is changed only where
    its error on held-out calibration windows falls."""

    method: Literal["least_squares", "admm"] = Field(
        "least_squares", description="admm: the mask moves too, each layer's count stays"
    )
    blend: float = Field(
        0.0,
        ge=0,
        le=1,
        description="target: 0 the original weights at the layer's present inputs, 1 the dense outputs",
    )
    damping: list[Annotated[float, Field(ge=0)]] = Field(
        default_factory=lambda: [1.0, 0.1, 0.01],
        min_length=1,
        description="tried in turn, the best on held-out windows is taken; in means of the Gram's diagonal",
    )
    held_out: float = Field(0.25, gt=0, lt=1, description="share of the calibration batches to judge by")
    iterations: int | None = Field(
        None, ge=1, description="None: 50 of conjugate gradients at most, 20 of ADMM"
    )
    moves_mask: bool = Field(True, description="admm: False keeps the mask")
    granularity: Literal["layer", "output", "input"] = Field(
        "output", description="admm: what a layer's count holds over where the mask moves"
    )
    accept: Literal["if_better", "always"] = Field(
        "if_better", description="if_better: all is undone unless the accepting loss falls"
    )
    output_weights: int | None = Field(None, ge=1, description="as for rows")


class Refit(Part):
    """New values for the kept weights of all layers together, by the gradient of the loss on the calibration
    windows, at the end (refine/refit.py). Kept only where the accepting loss falls."""

    epochs: int = Field(1, ge=1, description="passes over the calibration windows")
    own: int = Field(
        0,
        ge=0,
        description="further windows that the dense model writes, as calibration.own has it, for this alone",
    )
    batch: int = Field(1, ge=1, description="windows a step of Adam")
    rank: int | None = Field(
        None,
        ge=1,
        description="a layer's values move by a product of this rank (learning rates about 3e-3 suit that); "
        "None: each for itself",
    )
    learning_rate: float = Field(2e-4, gt=0, description="of Adam, after a tenth of the steps")
    checks: int = Field(4, ge=1, description="accepting passes in each pass; the best values are taken")
    patience: int = Field(3, ge=1, description="checks without progress after which it ends")
    time_limit: float | None = Field(None, gt=0, description="seconds; the learning rate is 0 at the end")


class Recipe(Part):
    """A whole run: how much and where, the first mask, the calibration ranges, refinement, reconstruction."""

    sparsity: float = Field(
        0.5, gt=0, lt=1, description="share of the pruned layers' weights that become zero"
    )
    pattern: str | None = Field(
        None,
        description="N:M, as 2:4: N of each M consecutive inputs are kept; sparsity must be 1 - N/M",
    )
    seed: int = 0
    include: list[str] = Field(
        default_factory=list, description="layer name patterns; empty: all in the blocks"
    )
    exclude: list[str] = Field(default_factory=list)
    objective: Literal["kl", "cross_entropy"] = "kl"
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
        self._check_pattern()
        r = self.refine
        first = self.initial
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
        by_gain = r is None or not r.steps or r.candidates.criterion == "gain"
        if why := conflict(self.allocation, self.initial.granularity, by_gain):
            raise ValueError(why)
        if isinstance(self.allocation, Besa):
            self._check_learned(self.allocation)
        return self

    def _check_learned(self, besa: Besa) -> None:
        """ValueError where counts of rows or grids do not go with the other settings."""
        first = self.initial
        if first.by_layer and (besa.per == "row" or besa.quantise is not None):
            raise ValueError(
                f"{first.method} takes a count for each layer and finds values of its own: set "
                "allocation.per to layer, and leave allocation.quantise out"
            )
        if besa.quantise is not None and self.stages[2:]:
            part = {"reconstructed": "reconstruct", "quantised": "quantise"}.get(self.stages[2], "refit")
            raise ValueError(f"{part} would leave the grids of allocation.quantise: leave one of them out")

    def _check_pattern(self) -> None:
        """ValueError where a pattern does not go with the other settings."""
        if self.pattern is None:
            return
        pattern = Pattern.parse(self.pattern)
        pattern.check_sparsity(self.sparsity)
        if self.initial.granularity is not None:
            raise ValueError(f"pattern {pattern} says what is counted over: leave initial.granularity out")
        if self.allocation.method != "uniform":
            raise ValueError(f"pattern {pattern} is the same in each layer: leave allocation out")
        r = self.refine
        if r is not None and r.steps and r.candidates.criterion != "gain":
            criterion = r.candidates.criterion
            raise ValueError(
                f"candidates by {criterion} are not chosen within the groups of a pattern: set "
                "refine.candidates.criterion to gain, and refine.trust"
            )

    @classmethod
    def parse(cls, data: dict[str, Any], source: str = "recipe") -> Recipe:
        """Validate a nested dict; InputError lists every wrong field in one message."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            lines = [_line(_path(e["loc"]), e["msg"], e["input"]) for e in error.errors()]
            raise InputError(f"{source} is not a valid recipe:\n" + "\n".join(lines)) from None

    @classmethod
    def load(cls, name_or_path: str, overrides: dict[str, Any] | None = None) -> Recipe:
        """A built-in name (`recipe_files.builtin_recipes`) or a YAML file, with dotted overrides on top.

        Another `allocation.method` than the file's comes without the settings of that one.
        """
        data, overrides = read_yaml(name_or_path), dict(overrides or {})
        if isinstance(data.get("allocation"), str):
            data["allocation"] = {"method": data["allocation"]}
        rule = overrides.get("allocation.method")
        if rule is not None and isinstance(own := data.get("allocation"), dict) and own.get("method") != rule:
            data["allocation"] = {}
        for key, value in overrides.items():
            set_dotted(data, key, value)
        return cls.parse(data, f"recipe {name_or_path!r}")

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
    return f"  {'.'.join(map(str, location))}: {message} (got {found!r})"
