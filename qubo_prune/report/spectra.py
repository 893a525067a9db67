"""A picture of spectra: the eigenvalues' densities, and alpha and sparsity by depth; needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qubo_prune.errors import InputError, MissingPackage

if TYPE_CHECKING:
    from qubo_prune.allocation import Allocation
    from qubo_prune.allocation.alphapruning import Spectrum

SUFFIXES = (".png", ".svg", ".pdf")
_BINS = 60


def check_plot(path: Path) -> None:
    """Refuse, before any work, what `draw` cannot write.

    InputError: another ending than `SUFFIXES`. MissingPackage: no matplotlib.
    """
    if path.suffix not in SUFFIXES:
        raise InputError(f"plot {str(path)!r}: the name must end in {', '.join(SUFFIXES)}.")
    if find_spec("matplotlib") is None:
        raise MissingPackage("plots need matplotlib: pip install 'qubo-prune[plot]'.")


def draw(spectra: Mapping[str, Spectrum], allocation: Allocation, path: Path) -> None:
    """Write the picture, colours dark to light by depth. Left: the density of log10 eigenvalues, a line for
    each block; the share of eigenvalues above a value, a line for each matrix and a dot where its tail begins
    (a power law is straight, of slope 1 - alpha). Right: alpha and sparsity, a point for each matrix, a line
    for the means of blocks.

    Errors: as for `check_plot`.
    """
    check_plot(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    (density, alpha), (above, sparsity) = figure.subplots(2, 2, sharex="col")
    _densities(density, spectra)
    _shares_above(above, spectra)
    _by_depth(alpha, {name: spectrum.law.alpha for name, spectrum in spectra.items()}, "alpha")
    _by_depth(sparsity, allocation.rates, "sparsity")
    sparsity.set(xlabel="block", ylim=(0.0, 1.0))
    figure.savefig(path)


def _densities(axes: Any, spectra: Mapping[str, Spectrum]) -> None:
    """The empirical spectral density of each block, all its matrices together."""
    from qubo_prune.allocation.mapping import blocks_of

    blocks = blocks_of(list(spectra))
    for shade, names in zip(_shades(len(blocks)), blocks.values(), strict=True):
        values = np.concatenate([spectra[name].eigenvalues for name in names])
        if len(values) > 1:
            heights, edges = np.histogram(np.log10(values), bins=_BINS, density=True)
            axes.stairs(heights, 10.0**edges, color=shade, linewidth=0.8)
    axes.set(xscale="log", ylabel="density of log10 eigenvalues")


def _shares_above(axes: Any, spectra: Mapping[str, Spectrum]) -> None:
    """The share of eigenvalues at or above each one of them, for each matrix."""
    for shade, spectrum in zip(_shades(len(spectra)), spectra.values(), strict=True):
        n = len(spectrum.eigenvalues)
        if n:
            axes.plot(spectrum.eigenvalues, np.arange(n, 0, -1) / n, color=shade, linewidth=0.5)
            axes.plot(spectrum.law.minimum, spectrum.law.tail / n, ".", color=shade, markersize=5)
    axes.set(xscale="log", yscale="log", xlabel="eigenvalue of W'W", ylabel="share at or above")


def _shades(n: int) -> Any:
    """n colours, dark to light."""
    from matplotlib import colormaps

    return colormaps["viridis"](np.linspace(0.0, 0.95, n))


def _by_depth(axes: Any, values: Mapping[str, float], label: str) -> None:
    """A point for each matrix, and a line through the means of the blocks."""
    from qubo_prune.allocation.mapping import blocks_of

    blocks = blocks_of(list(values))
    means = []
    for depth, names in enumerate(blocks.values()):
        own = np.array([values[name] for name in names])
        own = own[np.isfinite(own)]
        axes.plot(np.full(len(own), depth), own, ".", color="tab:grey", markersize=4)
        means.append(own.mean() if len(own) else np.nan)
    axes.plot(range(len(blocks)), means, "-o", color="tab:blue", markersize=3)
    axes.set(ylabel=label)
