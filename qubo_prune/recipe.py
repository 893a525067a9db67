"""Recipes: every setting of a pruning run, validated, in and out of YAML."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from qubo_prune.allocation_settings import AllocationSettings, Besa, Uniform, conflict
from qubo_prune.errors import InputError
from qubo_prune.patterns import Pattern


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True)


class Initial(_Part):
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


class CalibrationRanges(_Part):
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


class SolverChoice(_Part):
    """Which solver of the registry, its options and its limit for one block."""

    name: str = "descent"
    options: dict[str, Any] = Field(default_factory=dict)
    time_limit: float | None = Field(
        None, gt=0, description="seconds a block; None: the solver's work budget"
    )


class Candidates(_Part):
    """Which weights a block reconsiders."""

    criterion: Literal["gain", "gradient", "wanda", "random"] = Field(
        "gain", description="gain: predicted change of a single flip; gradient: |w g|; wanda: |w| |x|; random"
    )
    per_side: int = Field(500, ge=1, description="gain: weights per layer and side (to prune, to regrow)")
    concentrated: bool = Field(
        False,
        description="gain: swaps within few output rows, those whose best swaps promise most together",
    )
    per_row: int = Field(
        64, ge=1, description="concentrated, or a budget of rows: weights per row and side, best pairs first"
    )
    max_variables: int | None = Field(
        40_000, ge=2, description="gain: variables of a block, the best pairs first; None: all"
    )
    block_size: int = Field(4096, ge=2, description="the other criteria: n, variables of a one-layer block")
    block_pruned: float = Field(
        0.5, gt=0, lt=1, description="the other criteria: k / n, share pruned in the block"
    )
    fixed_pruned: float = Field(0.42, ge=0, lt=1, description="share of the pruned weights that stay pruned")
    fixed_kept: float = Field(0.35, ge=0, lt=1, description="share of the kept weights that stay kept")
    max_flip: float = Field(
        2e-4,
        gt=0,
        description="gain: largest predicted |change| of the loss by any single flip, in its units",
    )


class Gradient(_Part):
    """The linear term: averaged over steps, cleared of noise, multiplied by gamma."""

    gamma: float = Field(1.0, gt=0)
    discount: float = Field(
        0.95, ge=0, le=1, description="weight of what earlier steps saw; 0: this step only"
    )
    staleness: float = Field(
        5.0, ge=0, description="that weight falls by this many times the share of the loss a step took away"
    )
    estimate: Literal["posterior", "shrunk"] = Field(
        "posterior", description="posterior: mean under a prior of the layer; shrunk: by standard errors"
    )
    clip: float | None = Field(
        1.0, gt=0, description="a window's gradient of a layer is cut to this many median lengths; None: not"
    )
    reliability: bool = Field(
        True, description="all_layers: multiply by how much of earlier estimates came true on fresh batches"
    )
    shrink: float = Field(2.0, ge=0, description="shrunk: standard errors taken off |g|; 0: the raw mean")


class CurvatureChoice(_Part):
    """H of a block. The ridge is the paper's: ridge * |d|^2, so rho = 2 * ridge."""

    kind: Literal["sampled_fisher", "empirical_fisher", "mean_gradient", "exact_hessian"] = Field(
        "sampled_fisher", description="exact_hessian: for study, blocks of at most 512 variables"
    )
    scale_by_tokens: bool = True
    chunk: int | None = Field(
        16, ge=1, description="positions a Fisher sample is taken over; None: the window"
    )
    ridge: float = Field(0.0, ge=0)
    coherent: int = Field(
        128, ge=0, description="windows, of many steps, whose coherent part is added to the Fisher; 0: none"
    )
    every: int = Field(2, ge=1, description="Fisher samples come from every so manieth batch of a step")
    labels: int = Field(
        1, ge=1, description="sampled_fisher: labels drawn for each position of such a batch, a pass each"
    )
    couplings: bool = Field(True, description="False: diagonal only, the ablation")
    gram: bool = Field(
        False,
        description="add the Kronecker-factored Fisher of each output row, E[g^2] E[x x'], to H; of "
        "trust.damping its diagonal takes the place of 1",
    )


class TrustRegion(_Part):
    """How many swaps a step may take, by measured / predicted change, and how much H is damped."""

    swaps: int | None = Field(None, ge=1, description="swaps of the first step; None: 6e-6 of the weights")
    grow: float = Field(1.5, ge=1, description="factor of the swaps after a good step that used them up")
    shrink: float = Field(0.5, gt=0, lt=1, description="factor of the swaps after a refused step")
    damping: float = Field(
        6.0, ge=0, description="diag(H) times this is added to H (Levenberg-Marquardt, Marquardt's scaling)"
    )
    poor: float = Field(0.5, description="measured / predicted below which the swaps get fewer")
    good: float = Field(1.0, description="measured / predicted above which they grow; see refine/trust.py")
    max_measurements: int = Field(4, ge=1, description="accepting passes a step may cost, bisection included")


class Icbs(_Part):
    """Block coordinate descent (iCBS, arXiv 2411.17796)."""

    steps: int = Field(30, ge=0)
    time_limit: float | None = Field(None, gt=0, description="seconds for the refinement, to half a step")
    scope: Literal["all_layers", "one_layer"] = "all_layers"
    budget: Literal["row", "layer", "global"] = Field(
        "layer",
        description="what keeps its count: each output row, each layer, or all layers together, which then "
        "exchange weights; an N:M pattern keeps its own counts",
    )
    windows: int = Field(8, ge=1, description="calibration windows of the first step")
    max_windows: int | None = Field(
        32, ge=1, description="they double where a step lowers the loss by little, up to this; None: never"
    )
    batch: int = Field(4, ge=1, description="windows per forward pass")
    chunk: int | None = Field(
        None, ge=1, description="positions that count as one sample, about; None: the whole window"
    )
    accept: Literal["if_better", "always"] = "if_better"
    tabu_steps: int = Field(12, ge=0, description="steps a moved weight stays tabu")
    tabu_fraction: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="one_layer: weights of recent blocks stay tabu up to this share of the layer",
    )
    candidates: Candidates = Field(default_factory=Candidates)
    gradient: Gradient = Field(default_factory=Gradient)
    curvature: CurvatureChoice = Field(default_factory=CurvatureChoice)
    trust: TrustRegion | None = Field(default_factory=TrustRegion)
    solver: SolverChoice = Field(default_factory=SolverChoice)


class RowProblems(_Part):
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


class Reconstruct(_Part):
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


class Refit(_Part):
    """New values for the kept weights of all layers together, by the gradient of the loss on the calibration
    windows, at the end (refine/refit.py). Kept only where the accepting loss falls."""

    epochs: int = Field(1, ge=1, description="passes over the calibration windows")
    own: int = Field(
        0,
        ge=0,
        description="further windows that the dense model writes, as calibration.own has it, for this alone",
    )
    batch: int = Field(1, ge=1, description="windows a step of Adam")
    learning_rate: float = Field(2e-4, gt=0, description="of Adam, after a tenth of the steps")
    checks: int = Field(4, ge=1, description="accepting passes in each pass; the best values are taken")
    patience: int = Field(3, ge=1, description="checks without progress after which it ends")
    time_limit: float | None = Field(None, gt=0, description="seconds; the learning rate is 0 at the end")


class Recipe(_Part):
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
        if r is not None and r.curvature.kind == "mean_gradient" and r.curvature.scale_by_tokens:
            raise ValueError(
                "mean_gradient has no samples to scale: set refine.curvature.scale_by_tokens to false"
            )
        if r is not None and r.curvature.kind == "exact_hessian":
            gain = r.candidates.criterion == "gain"
            name = "max_variables" if gain else "block_size"
            if (getattr(r.candidates, name) or 1 << 62) > 512:
                raise ValueError(f"exact_hessian takes at most 512 variables: set refine.candidates.{name}")
        if r is not None and r.scope == "all_layers" and r.candidates.criterion != "gain":
            criterion = r.candidates.criterion
            raise ValueError(f"candidates by {criterion} are of one layer: set refine.scope to one_layer")
        if r is not None and r.scope == "one_layer" and r.candidates.criterion == "gain" and r.trust is None:
            raise ValueError("candidates by gain need a trust region: set refine.trust")
        if r is not None:
            _check_budget(r)
            _check_gram(r.curvature)
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
        if besa.quantise is not None and (self.reconstruct is not None or self.refit is not None):
            name = "reconstruct" if self.reconstruct is not None else "refit"
            raise ValueError(f"{name} would leave the grids of allocation.quantise: leave one of them out")

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
        """A built-in name (see `builtin_recipes`) or a YAML file, with dotted overrides on top."""
        data = _read_yaml(name_or_path)
        for key, value in (overrides or {}).items():
            _set(data, key, value)
        return cls.parse(data, f"recipe {name_or_path!r}")

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def _check_budget(r: Icbs) -> None:
    """ValueError where the budget of a refinement does not go with how its candidates are chosen."""
    if r.budget == "global" and r.scope != "all_layers":
        raise ValueError("a global budget exchanges weights between layers: set refine.scope to all_layers")
    criterion = r.candidates.criterion
    if r.budget == "row" and criterion != "gain":
        raise ValueError(
            f"candidates by {criterion} are not chosen within rows: set refine.candidates.criterion to gain, "
            "and refine.trust"
        )
    if r.candidates.concentrated and criterion != "gain":
        raise ValueError(
            f"candidates by {criterion} cannot be concentrated: set refine.candidates.criterion to gain"
        )


def _check_gram(c: CurvatureChoice) -> None:
    """ValueError where Gram blocks do not go with the rest of the curvature."""
    if c.gram and not c.couplings:
        raise ValueError("refine.curvature.gram adds couplings: set it to false, or couplings to true")
    if c.gram and c.kind == "exact_hessian":
        raise ValueError("an exact Hessian has its rows' curvature: set refine.curvature.gram to false")


def builtin_recipes() -> dict[str, str]:
    """Name -> YAML text of the recipes that ship with the package."""
    folder = resources.files("qubo_prune") / "recipes"
    found = {f.name.removesuffix(".yaml"): f for f in folder.iterdir() if f.name.endswith(".yaml")}
    return {name: found[name].read_text() for name in sorted(found)}


def _path(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """A field's place in the recipe: pydantic puts the allocation's method into it, a file does not."""
    return location[:1] + location[2:] if location[:1] == ("allocation",) else location


def _line(location: tuple[int | str, ...], message: str, found: Any) -> str:
    """One wrong field, or what does not go together (then without the whole recipe)."""
    message = message.removeprefix("Value error, ")
    if not location:
        return f"  {message}"
    return f"  {'.'.join(map(str, location))}: {message} (got {found!r})"


def _read_yaml(name_or_path: str) -> dict[str, Any]:
    builtin = builtin_recipes()
    path = Path(name_or_path)
    if name_or_path in builtin:
        text = builtin[name_or_path]
    elif path.is_file():
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"recipe {name_or_path!r} cannot be read: {error}") from None
    else:
        raise InputError(f"no recipe {name_or_path!r}: give a YAML file or one of {', '.join(builtin)}")
    try:
        data = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise InputError(f"recipe {name_or_path!r} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise InputError(f"recipe {name_or_path!r} must be a mapping of settings, not {type(data).__name__}")
    return data


def _set(data: dict[str, Any], dotted: str, value: Any) -> None:
    *parents, last = dotted.split(".")
    for key in parents:
        child = data.get(key)
        if child is None:
            child = data[key] = {}
        if not isinstance(child, dict):
            raise InputError(f"cannot set {dotted!r}: {key!r} is not a group of settings")
        data = child
    data[last] = value
