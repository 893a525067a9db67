"""AlphaPruning (arXiv 2410.10912): sparsity by layer from the heavy tails of the weights' spectra.

Eigenvalues of W'W -> exponent of their tail (or another metric) -> a linear map around the sparsity -> rates
that meet the budget to the weight. A layer with a small exponent has a heavy tail, is held to have learned
more, and is pruned less. No data is needed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from qubo_prune.allocation.esd import eigenvalues, positive
from qubo_prune.allocation.hill import FloatArray, PowerLaw, fit
from qubo_prune.allocation.mapping import fill, rates_mixed, rates_per_block, rates_per_matrix
from qubo_prune.allocation.metrics import METRICS
from qubo_prune.allocation.mixed_nm import mixed_nm, pruned_of_group
from qubo_prune.allocation.result import Allocation
from qubo_prune.allocation_settings import AlphaPruning, MetricName, Tail
from qubo_prune.budgets import exact_counts
from qubo_prune.layers import Layer, check_group
from qubo_prune.selection import prune_count

_SLACK = 1e-12
"""Added to bounds that are met exactly: size * (p / M) in floats may miss the whole number."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """What is known of one layer: its eigenvalues, the power law of their tail, and every metric."""

    eigenvalues: FloatArray
    """float64 (n,) ascending, the positive ones."""
    zeros: int
    shape: tuple[int, int]
    """(out, in) of the layer."""
    law: PowerLaw
    metrics: dict[MetricName, float]

    @property
    def figures(self) -> dict[str, float]:
        """Name -> figure, for reports."""
        law = self.law
        fitted = {"tail_minimum": law.minimum, "tail": float(law.tail), "ks_distance": law.distance}
        return {
            **{str(key): value for key, value in self.metrics.items()},
            **fitted,
            "zeros": float(self.zeros),
        }


def spectra(
    layers: Mapping[str, Layer],
    *,
    tail: Tail = "peak",
    published_peak: bool = False,
    on_layer: Callable[[int, int], None] | None = None,
) -> dict[str, Spectrum]:
    """The spectrum of every layer, computed on its device. Weights are not changed.

    tail: see `hill.fit`. published_peak: eigenvalues and tail as in the published code, see `eigenvalues` and
    `hill.fit_peak`. on_layer: told (done, of) after each layer.
    InputError: weights that are not finite (the layer is named).
    """
    found = {}
    for done, (name, layer) in enumerate(layers.items()):
        every = eigenvalues(layer.parameter, published=published_peak, name=f"layer {name!r}")
        values = positive(every).cpu().numpy()
        law = fit(values, tail, published=published_peak)
        metrics = {key: metric.value(values, law) for key, metric in METRICS.items()}
        found[name] = Spectrum(values, len(every) - len(values), layer.shape, law, metrics)
        if on_layer is not None:
            on_layer(done + 1, len(layers))
    return found


def allocate(
    layers: Mapping[str, Layer],
    sparsity: float,
    settings: AlphaPruning | None = None,
    found: Mapping[str, Spectrum] | None = None,
) -> Allocation:
    """How many weights to prune in each layer; the total is `prune_count` of all weights together.

    settings: None: the usual ones. Rates lie from 1 - epsilon to 1 + epsilon times a common factor, the more
    for a larger metric, held between floor and ceiling (see `mapping.fill`). "block" is the published
    default; blocks are told by `mapping.block_of`. With a group M, layers keep N of M inputs, floor and
    ceiling hold for N:M too, and the total is as near as these and `mixed_nm` come. found: from `spectra`, or
    None to compute them.

    InputError: a sparsity outside [0, 1] or out of the bounds' reach, a group that does not divide a layer's
    inputs or has no whole number between the bounds; weights that are not finite.
    """
    settings = settings or AlphaPruning()
    check(layers, sparsity, settings)
    if found is None:
        found = spectra(layers, tail=settings.tail, published_peak=settings.published_peak)
    sizes = {name: layer.numel for name, layer in layers.items()}
    total = prune_count(sum(sizes.values()), sparsity)
    values = {name: found[name].metrics[settings.metric] for name in layers}
    seen = {name: found[name].figures for name in layers}
    group = settings.group
    if group is None:
        rates = _rates(sizes, values, settings, total, settings.floor, settings.ceiling)
        return Allocation("alphapruning", exact_counts(sizes, rates, total), sizes, None, seen)
    least, most = pruned_of_group(group, settings.floor, settings.ceiling)
    groups = sum(sizes.values()) // group
    total = min(max(total, groups * least), groups * most)  # what whole numbers between the bounds reach
    rates = _rates(sizes, values, settings, total, least / group - _SLACK, most / group + _SLACK)
    kept = mixed_nm(list(sizes.values()), list(rates.values()), group, total, least=least, most=most)
    counts = {name: sizes[name] // group * (group - n) for name, n in zip(sizes, kept, strict=True)}
    return Allocation("alphapruning", counts, sizes, group, seen)


def _rates(
    sizes: Mapping[str, int],
    values: Mapping[str, float],
    settings: AlphaPruning,
    total: int,
    floor: float,
    ceiling: float,
) -> dict[str, float]:
    """Layer -> the fraction to prune, by the metric's values."""
    epsilon = settings.epsilon
    if settings.per == "matrix":
        return rates_per_matrix(sizes, values, epsilon, total, floor=floor, ceiling=ceiling)
    if settings.per == "block":
        return rates_per_block(sizes, values, epsilon, total, floor=floor, ceiling=ceiling)
    within = epsilon if settings.epsilon_within is None else settings.epsilon_within
    return rates_mixed(sizes, values, epsilon, within, total, floor=floor, ceiling=ceiling)


def check(layers: Mapping[str, Layer], sparsity: float, settings: AlphaPruning) -> None:
    """What `allocate` refuses whatever the spectra are. InputError: as there."""
    sizes = [layer.numel for layer in layers.values()]
    total = prune_count(sum(sizes), sparsity)
    group, ceiling = settings.group, settings.ceiling
    if group is not None:
        pruned_of_group(group, settings.floor, ceiling)
        ceiling = min(ceiling, 1.0 - 1.0 / group)  # of a group one weight is kept at least
    fill(sizes, [1.0] * len(sizes), total, floor=settings.floor, ceiling=ceiling)
    check_group(layers, group, "allocation.group")
