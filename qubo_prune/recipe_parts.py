"""The settings of a recipe's phases but allocation and refinement, which have files of their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

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

    @model_validator(mode="after")
    def _of_the_method(self) -> Initial:
        if self.damping is not None and not self.by_layer:
            raise ValueError(f"{self.method} has no Gram matrix to damp: leave damping out")
        if self.stages != type(self).model_fields["stages"].default and self.method != "gradual":
            raise ValueError(f"{self.method} prunes at once: stages are of gradual, leave them out")
        if self.output_power != type(self).model_fields["output_power"].default:
            if self.method not in ("fisher", "gradual"):
                raise ValueError(f"{self.method} has no gradients of outputs: leave output_power out")
            if self.method == "gradual" and self.granularity == "output":
                raise ValueError("within an output all weights share its gradient: leave output_power out")
        return self

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
    own_prompt: float = Field(
        0.125, gt=0, description="tokens of each prompt, a whole number; below 1: their share of a window"
    )
    accept_windows: int = Field(16, ge=1, description="what changes of masks and values are accepted by")
    accept_length: int = Field(128, ge=2, description="tokens a window")
    report_windows: int = Field(32, ge=1, description="what the reported KL is measured on, nothing else")
    report_length: int = Field(128, ge=2, description="tokens a window")

    @field_validator("own_prompt")
    @classmethod
    def _whole_prompts(cls, prompt: float) -> float:
        if prompt >= 1 and prompt % 1:
            raise ValueError(f"{prompt:g} tokens are no whole number")
        return prompt


class RowProblems(Part):
    """The first mask, moved layer by layer by the error of each layer's own outputs (refine/rows.py)."""

    method: Literal["descent", "tabu", "anneal"] = Field("descent", description="of solve_batch")
    options: dict[str, Any] = Field(
        default_factory=dict, description="tabu: steps, tenure, patience; anneal: sweeps, hot, cold"
    )
    time_limit: float | None = Field(
        None, gt=0, description="seconds of a layer's solve, and of moving weights between outputs"
    )
    budget: Literal["row", "layer"] = Field(
        "row",
        description="row: each output keeps its count; layer: weights also move between outputs, whatever an "
        "allocation gave each; an N:M pattern keeps its own counts",
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

    @model_validator(mode="after")
    def _options_of_the_method(self) -> RowProblems:
        from qubo_solvers.batch.settings import settings_of  # needs numpy

        settings_of(self.method, self.options)
        return self


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

    @model_validator(mode="after")
    def _of_the_method(self) -> Reconstruct:
        usual = type(self).model_fields
        for name in ("moves_mask", "granularity"):
            if self.method != "admm" and getattr(self, name) != usual[name].default:
                raise ValueError(f"{self.method} keeps the mask: {name} is of admm, leave it out")
        return self


class Refit(Part):
    """New values for the kept weights of all layers together, by the gradient of the loss on the calibration
    windows, at the end (refine/refit.py). Kept only where the accepting loss falls."""

    epochs: int = Field(1, ge=1, description="passes over the calibration windows")
    own: int = Field(
        0,
        ge=0,
        description="further windows that the dense model writes, as calibration.own has it, for this alone",
    )
    batch: int = Field(1, ge=1, description="windows, or parts of such, a step of Adam")
    length: int | None = Field(
        None,
        ge=2,
        description="windows of token ids are cut into parts of at most so many tokens, each read for "
        "itself: more steps from the same text; None: whole windows",
    )
    rank: int | None = Field(
        None,
        ge=1,
        description="a layer's values move by a product of this rank (learning rates about 3e-3 suit that); "
        "None: each for itself",
    )
    learning_rate: float = Field(2e-4, gt=0, description="of Adam, after a tenth of the steps")
    products: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="precision of a step's products in a float32 model; bfloat16 is quicker where the "
        "hardware has it. Values, Adam's moments and accepting losses stay float32",
    )
    checks: int = Field(4, ge=1, description="accepting passes in each pass; the best values are taken")
    patience: int = Field(3, ge=1, description="checks without progress after which it ends")
    time_limit: float | None = Field(None, gt=0, description="seconds; the learning rate is 0 at the end")
