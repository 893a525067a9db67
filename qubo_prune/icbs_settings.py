"""The settings of iCBS refinement, and which of them do not go together."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from qubo_prune.settings import Part


class SolverChoice(Part):
    """Which solver of the registry, its options and its limit for one block."""

    name: str = "descent"
    options: dict[str, Any] = Field(default_factory=dict)
    time_limit: float | None = Field(
        None, gt=0, description="seconds a block; None: the solver's work budget"
    )


class Candidates(Part):
    """Which weights a block reconsiders."""

    criterion: Literal["gain", "gradient", "wanda", "random"] = Field(
        "gain", description="gain: predicted change of a single flip; gradient: |w g|; wanda: |w| |x|; random"
    )
    per_side: int = Field(500, ge=1, description="gain: weights per layer and side (to prune, to regrow)")
    concentrated: bool = Field(
        False,
        description="gain: swaps within few output rows, those whose best swaps promise most together",
    )
    correlated: bool = Field(
        False,
        description="gain, with curvature.gram: swaps within rows, paired by what both flips cost together, "
        "so that correlated inputs replace each other",
    )
    per_row: int = Field(
        64,
        ge=1,
        description="concentrated, correlated or a budget of rows: weights per row and side, the best first; "
        "correlated is much quicker with 16",
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


class Gradient(Part):
    """The linear term: averaged over steps, cleared of noise, multiplied by gamma."""

    gamma: float = Field(1.0, gt=0)
    discount: float = Field(
        0.95, ge=0, le=1, description="weight of what earlier steps saw; 0: this step only"
    )
    staleness: float = Field(
        5.0, ge=0, description="that weight falls by this many times the share of the loss a step took away"
    )
    reset: bool = Field(True, description="all_layers: weights that moved start anew, earlier steps left out")
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


class CurvatureChoice(Part):
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


class TrustRegion(Part):
    """How many swaps a step may take, by measured / predicted change, and how much H is damped."""

    swaps: int | None = Field(None, ge=1, description="swaps of the first step; None: 6e-6 of the weights")
    grow: float = Field(1.5, ge=1, description="factor of the swaps after a good step that used them up")
    shrink: float = Field(0.5, gt=0, lt=1, description="factor of the swaps after a refused step")
    damping: float = Field(
        6.0, ge=0, description="diag(H) times this is added to H (Levenberg-Marquardt, Marquardt's scaling)"
    )
    poor: float = Field(0.5, description="measured / predicted below which the swaps get fewer")
    good: float = Field(1.0, description="measured / predicted above which they grow")
    max_measurements: int = Field(4, ge=1, description="accepting passes a step may cost, bisection included")


class Icbs(Part):
    """Block coordinate descent (iCBS, arXiv 2411.17796)."""

    steps: int = Field(30, ge=0)
    time_limit: float | None = Field(None, gt=0, description="seconds for the refinement, to half a step")
    patience: int | None = Field(
        8, ge=1, description="all_layers: steps in a row that change nothing after which it ends; None: never"
    )
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


def conflict(r: Icbs) -> str | None:
    """Why settings of a refinement do not go together; None where they do."""
    criterion, by_gain = r.candidates.criterion, r.candidates.criterion == "gain"
    if r.curvature.kind == "mean_gradient" and r.curvature.scale_by_tokens:
        return "mean_gradient has no samples to scale: set refine.curvature.scale_by_tokens to false"
    if r.curvature.labels > 1 and r.curvature.kind != "sampled_fisher":
        return f"{r.curvature.kind} samples no labels: leave refine.curvature.labels out"
    if r.curvature.kind == "exact_hessian":
        name = "max_variables" if by_gain else "block_size"
        if (getattr(r.candidates, name) or 1 << 62) > 512:
            return f"exact_hessian takes at most 512 variables: set refine.candidates.{name}"
    if r.scope == "all_layers" and not by_gain:
        return f"candidates by {criterion} are of one layer: set refine.scope to one_layer"
    if r.scope == "one_layer" and by_gain and r.trust is None:
        return "candidates by gain need a trust region: set refine.trust"
    if r.budget == "global" and r.scope != "all_layers":
        return "a global budget exchanges weights between layers: set refine.scope to all_layers"
    if r.budget == "row" and not by_gain:
        return (
            f"candidates by {criterion} are not chosen within rows: set refine.candidates.criterion to gain, "
            "and refine.trust"
        )
    if r.candidates.concentrated and not by_gain:
        return f"candidates by {criterion} cannot be concentrated: set refine.candidates.criterion to gain"
    if r.candidates.correlated and not (by_gain and r.curvature.gram):
        return (
            "correlated candidates go by gain and by Gram blocks: set refine.candidates.criterion to gain, "
            "and refine.curvature.gram to true"
        )
    if r.curvature.gram and not r.curvature.couplings:
        return "refine.curvature.gram adds couplings: set it to false, or couplings to true"
    if r.curvature.gram and r.curvature.kind == "exact_hessian":
        return "an exact Hessian has its rows' curvature: set refine.curvature.gram to false"
    return None
