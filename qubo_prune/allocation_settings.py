"""The settings of how much to prune in each layer: one part a method, told apart by `method`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from qubo_prune.errors import InputError
from qubo_prune.settings import Part

MetricName = Literal["alpha", "alpha_hat", "stable_rank", "entropy", "spectral_norm", "frobenius_norm"]
"""A number that is taken from a spectrum; see `allocation.metrics`."""
Tail = Literal["peak", "mid"]
"""Where a spectrum's tail begins: see `allocation.hill`."""
Per = Literal["block", "matrix", "mixed"]
"""What a rate is for: a block (mean metric), a matrix, or a block first and its matrices within it."""


class Uniform(Part):
    """The recipe's sparsity in every layer."""

    method: Literal["uniform"] = "uniform"


class AlphaPruning(Part):
    """Less where the weights' spectrum has a heavy tail (AlphaPruning, arXiv 2410.10912)."""

    method: Literal["alphapruning"] = "alphapruning"
    metric: MetricName = Field(
        "alpha", description="what tells how much a layer can lose; the larger, the more is pruned"
    )
    tail: Tail = Field(
        "peak", description="peak: the closest fit near the histogram's peak; mid: from the median on"
    )
    published_peak: bool = Field(
        False, description="float32 and the tail as in the published code, see hill.py"
    )
    epsilon: float = Field(
        0.3, ge=0, le=1, description="the paper's tau: rates from 1 - epsilon to 1 + epsilon, times a factor"
    )
    search: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=list,
        description="values of epsilon to try; that of the first mask with the least accepting loss is taken",
    )
    per: Per = Field(
        "block", description="a rate for each block, each matrix, or for blocks and then matrices within them"
    )
    epsilon_within: float | None = Field(
        None, ge=0, le=1, description="mixed: epsilon within a block; None: epsilon"
    )
    floor: float = Field(0.0, ge=0, lt=1, description="least share of a layer to prune")
    ceiling: float = Field(0.99, gt=0, lt=1, description="largest share of a layer to prune")
    group: int | None = Field(
        None, ge=2, description="M: each layer keeps an N of its own of each M inputs; None: no pattern"
    )

    @model_validator(mode="after")
    def _consistent(self) -> AlphaPruning:
        if self.floor > self.ceiling:
            raise ValueError(f"floor {self.floor} is above ceiling {self.ceiling}")
        if self.epsilon_within is not None and self.per != "mixed":
            raise ValueError("epsilon_within is of per: mixed")
        if self.published_peak and self.tail != "peak":
            raise ValueError("published_peak is of tail: peak")
        return self


class Given(Part):
    """Rates of one's own, by layer name pattern."""

    method: Literal["given"] = "given"
    rates: dict[str, float] | None = Field(
        None, description="pattern -> sparsity, the first that matches; other layers share what is left"
    )
    file: str | None = Field(
        None,
        description="a YAML or JSON file with such a mapping, or a whole allocation (.safetensors) that "
        "`qubo-prune allocate` wrote",
    )
    group: int | None = Field(
        None,
        ge=2,
        description="M: layers keep N of each M inputs, rates are (M - N) / M; None: what the file says, if "
        "anything",
    )
    rescale: bool = Field(False, description="scale the rates to the recipe's sparsity")

    @model_validator(mode="after")
    def _one_source(self) -> Given:
        if bool(self.rates) == (self.file is not None):
            raise ValueError("given rates come from either rates or file: name one of them")
        if self.rescale and self.group is not None:
            raise ValueError("rescale would leave the multiples of 1 / group: leave one of them out")
        return self


class Owl(Part):
    """Less where the weights' Wanda scores have more outliers (OWL, arXiv 2310.05175)."""

    method: Literal["owl"] = "owl"
    outlier: float = Field(
        5.0, gt=0, description="the paper's M: a score above this many times the mean is an outlier"
    )
    spread: float = Field(
        0.08, ge=0, le=0.5, description="the paper's lambda: rates differ by twice this at most"
    )
    search: list[Annotated[float, Field(ge=0, le=0.5)]] = Field(
        default_factory=list,
        description="values of spread to try; that of the first mask with the least accepting loss is taken",
    )
    per: Literal["block", "matrix"] = Field("block", description="what outliers are counted over")
    floor: float = Field(0.0, ge=0, lt=1, description="least share of a layer to prune")
    ceiling: float = Field(0.99, gt=0, le=1, description="largest share of a layer to prune")

    @model_validator(mode="after")
    def _consistent(self) -> Owl:
        _check_bounds(self.floor, self.ceiling)
        return self


class Fisher(Part):
    """Less where pruning costs more by the Fisher of the loss: one threshold over all layers, tempered."""

    method: Literal["fisher"] = "fisher"
    strength: float = Field(
        0.7, ge=0, le=1, description="0: the same rate everywhere; 1: one threshold over all layers' scores"
    )
    search: list[Annotated[float, Field(ge=0, le=1)]] = Field(
        default_factory=list,
        description="strengths to try; that of the first mask with the least accepting loss is taken",
    )
    floor: float = Field(0.0, ge=0, lt=1, description="least share of a layer to prune")
    ceiling: float = Field(0.99, gt=0, le=1, description="largest share of a layer to prune")

    @model_validator(mode="after")
    def _consistent(self) -> Fisher:
        _check_bounds(self.floor, self.ceiling)
        return self


class Quantise(Part):
    """Grids of weights, learned together with the rates."""

    bits: int = Field(4, ge=2, le=8)
    group: int | None = Field(
        None, ge=2, description="consecutive inputs of a row that share a grid; None: the row"
    )


def _check_bounds(floor: float, ceiling: float) -> None:
    """ValueError: a floor above the ceiling."""
    if floor > ceiling:
        raise ValueError(f"floor {floor} is above ceiling {ceiling}")


def _named(value: Any) -> Any:
    """A method's name alone is that method with its usual settings; no method named is uniform."""
    if isinstance(value, str):
        return {"method": value}
    if isinstance(value, dict) and "method" not in value:
        return {"method": "uniform", **value}
    return value


Between = Annotated[
    Annotated[Uniform | AlphaPruning | Owl | Fisher, Field(discriminator="method")], BeforeValidator(_named)
]
"""What shares out the budget between blocks."""
OptimiserName = Literal["adamw", "prodigy"]
"""See `allocation.optimisers`."""


class Besa(Part):
    """Rates learned from what each block answers (BESA, arXiv 2402.16880)."""

    method: Literal["besa"] = "besa"
    per: Literal["layer", "row"] = Field("layer", description="what has a rate of its own")
    between: Between = Field(
        default_factory=Uniform,
        description="shares out the budget between blocks: uniform, alphapruning, owl, fisher",
    )
    importance: Literal["wanda", "magnitude"] = Field("wanda", description="orders the weights of a row")
    target: Literal["pruned_path", "dense_path"] = Field(
        "pruned_path",
        description="what a block is to answer: its dense weights to its inputs behind pruned blocks, or the "
        "dense model's own answers",
    )
    candidates: int = Field(100, ge=2, le=1000, description="candidate rates: 0, 1 / candidates, ..., 1")
    steps: int = Field(100, ge=0, description="gradient steps a block, over the batches in turn")
    checks: int = Field(
        4, ge=1, description="how often a block's rates are judged at the exact budget; the best are taken"
    )
    optimiser: OptimiserName = "adamw"
    learning_rate: float | None = Field(None, gt=0, description="None: 0.05 for adamw, 1 for prodigy")
    penalty: float = Field(
        30.0, ge=0, description="times ((rate - target) / target)^2, beside the error relative to the start"
    )
    quantise: Quantise | None = Field(None, description="bits and group of grids learned too; None: not")
    device: str | None = Field(
        None, description="where one block and one batch at a time are worked on; None: where the model is"
    )
    floor: float = Field(0.0, ge=0, lt=1, description="least share of a layer (or row) to prune")
    ceiling: float = Field(0.99, gt=0, le=1, description="largest share of a layer (or row) to prune")

    @model_validator(mode="after")
    def _consistent(self) -> Besa:
        if isinstance(self.between, AlphaPruning) and self.between.group is not None:
            raise ValueError("between blocks there is no N:M pattern: leave between.group out")
        if not isinstance(self.between, Uniform) and self.between.search:
            raise ValueError("between.search: a first mask is only there once besa is done: leave it out")
        _check_bounds(self.floor, self.ceiling)
        return self


AllocationSettings = Annotated[
    Annotated[Uniform | AlphaPruning | Owl | Fisher | Besa | Given, Field(discriminator="method")],
    BeforeValidator(_named),
]
"""The recipe's `allocation`: {method: uniform | alphapruning | owl | fisher | besa | given, ...}, or a name
alone."""
RULES = ("uniform", "alphapruning", "owl", "fisher", "besa")
"""Methods that need no rates of the user's."""


def named_rule(name: str, option: str) -> dict[str, str]:
    """The `allocation` that a command's option names: a method, or a file of rates (./besa is one even beside
    the method of that name). InputError: neither."""
    if name in (*RULES, "given"):
        return {"method": name}
    if not Path(name).is_file():
        raise InputError(f"{option} {name!r}: no such file, and none of {', '.join(RULES)}")
    return {"method": "given", "file": name}
